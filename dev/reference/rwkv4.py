#!/usr/bin/python3
"""dev/reference/rwkv4.py: RWKV-4 (arXiv 2305.13048) in plain PyTorch, float64, autograd. It writes the
numbers that the C++ tests compare against; nothing needs it to build or run.

    python3 dev/reference/rwkv4.py            writes tests/data/rwkv4_{a,b,wkv,init}.safetensors
    python3 dev/reference/rwkv4.py --init     prints the official initial values, writes only rwkv4_init
    python3 dev/reference/rwkv4.py --verify   checks autograd by finite differences, writes nothing

All inputs (parameters, tokens, states, incoming gradients) are float32 numbers, so that a float32 program
starts from exactly the same values; all results are float64. dev/reference/README.md lists the contents."""
import json, math, os, random, struct, sys
import torch
from torch.nn.functional import cross_entropy, layer_norm

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)  # the order of a sum must not depend on the machine's cores
DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "data")
EMPTY = -1e38             # pp of a state that has seen nothing: e^pp = 0, and w + pp stays finite in float32
LR, BETA1, BETA2, EPS, DECAY, CLIP, STEPS = 1e-3, 0.9, 0.99, 1e-8, 0.1, 1.0, 3
STATE = ("att_x", "ffn_x", "aa", "bb", "pp")

# ---------------------------------------------------------------------------------------------- the model
def tensors(L, C, F, V):
    """name -> shape: the tensors of a checkpoint under their official names. A matrix is [out, in]."""
    t = {"emb.weight": (V, C), "blocks.0.ln0.weight": (C,), "blocks.0.ln0.bias": (C,)}
    for l in range(L):
        b = f"blocks.{l}."
        t.update({b + f"{ln}.{p}": (C,) for ln in ("ln1", "ln2") for p in ("weight", "bias")})
        t.update({b + f"att.{n}": (C,) for n in ("time_decay", "time_first")})
        t.update({b + f"{n}": (1, 1, C) for n in ("att.time_mix_k", "att.time_mix_v", "att.time_mix_r",
                                                  "ffn.time_mix_k", "ffn.time_mix_r")})
        t.update({b + f"att.{n}.weight": (C, C) for n in ("key", "value", "receptance", "output")})
        t.update({b + "ffn.key.weight": (F, C), b + "ffn.receptance.weight": (C, C), b + "ffn.value.weight": (C, F)})
    t.update({"ln_out.weight": (C,), "ln_out.bias": (C,), "head.weight": (V, C)})
    return t

def wkv(k, v, w, u, aa, bb, pp):
    """y_t = (a_t + e^(u+k_t) v_t) / (b_t + e^(u+k_t)),  a_{t+1} = e^w a_t + e^k_t v_t,  b_{t+1} = e^w b_t + e^k_t.
    a = aa e^pp and b = bb e^pp are never formed. The references pp and q cancel in y, so they are constants
    to autograd; a gradient of aa or bb is therefore the gradient at a fixed pp."""
    ys = []
    for t in range(k.shape[1]):
        kt, vt = k[:, t], v[:, t]
        q = torch.maximum(pp, u + kt).detach()
        e1, e2 = torch.exp(pp - q), torch.exp(u + kt - q)
        ys.append((e1 * aa + e2 * vt) / (e1 * bb + e2))
        q = torch.maximum(pp + w, kt).detach()
        e1, e2 = torch.exp(pp + w - q), torch.exp(kt - q)
        aa, bb, pp = e1 * aa + e2 * vt, e1 * bb + e2, q
    return torch.stack(ys, 1), aa, bb, pp

def forward(p, tokens, state):
    """tokens [B,T] -> logits [B,T,V] and the state after the last token. state: one dict a layer, each [B,C];
    att_x and ffn_x are the previous token's ln1(x) and ln2(x)."""
    C = p["emb.weight"].shape[1]
    ln = lambda x, n: layer_norm(x, (C,), p[n + ".weight"], p[n + ".bias"], 1e-5)
    def mixes(x, last, prefix, names):
        xs = torch.cat([last[:, None], x[:, :-1]], 1)  # each token sees the one before it
        return [x * p[prefix + n] + xs * (1 - p[prefix + n]) for n in names]
    x, out = ln(p["emb.weight"][tokens], "blocks.0.ln0"), []
    for l, s in enumerate(state):
        att, ffn = f"blocks.{l}.att.", f"blocks.{l}.ffn."
        h = ln(x, f"blocks.{l}.ln1")
        xk, xv, xr = mixes(h, s["att_x"], att, ("time_mix_k", "time_mix_v", "time_mix_r"))
        k, v, r = xk @ p[att + "key.weight"].T, xv @ p[att + "value.weight"].T, xr @ p[att + "receptance.weight"].T
        y, aa, bb, pp = wkv(k, v, -torch.exp(p[att + "time_decay"]), p[att + "time_first"], s["aa"], s["bb"], s["pp"])
        x = x + (torch.sigmoid(r) * y) @ p[att + "output.weight"].T
        g = ln(x, f"blocks.{l}.ln2")
        xk, xr = mixes(g, s["ffn_x"], ffn, ("time_mix_k", "time_mix_r"))
        k, r = xk @ p[ffn + "key.weight"].T, xr @ p[ffn + "receptance.weight"].T
        x = x + torch.sigmoid(r) * (torch.relu(k) ** 2 @ p[ffn + "value.weight"].T)
        out.append({"att_x": h[:, -1], "ffn_x": g[:, -1], "aa": aa, "bb": bb, "pp": pp})
    return ln(x, "ln_out") @ p["head.weight"].T, out

def empty_state(L, B, C):
    return [{n: torch.full((B, C), EMPTY if n == "pp" else 0.0) for n in STATE} for _ in range(L)]

def objective(p, tokens, state, dstate=None, pp=None):
    """What the gradients are gradients of: cross-entropy + L2Wrap, 0.5e-4 mean_rows(max_j logit^2), and, with
    dstate, the sum of dstate * final state. aa and bb of the final state are taken at the exponents `pp` (one
    a layer; default: their own), because only aa e^pp and bb e^pp mean something.
    Returns the objective, the loss to report (cross-entropy alone), logits, final state."""
    logits, out = forward(p, tokens[:, :-1], state)
    loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    total = loss + 0.5e-4 * (logits.max(-1).values ** 2).mean()
    for l, d in enumerate(dstate or []):
        scale = torch.exp(out[l]["pp"] - pp[l]) if pp else 1.0
        total = total + sum((d[n] * out[l][n] * (scale if n in ("aa", "bb") else 1)).sum() for n in d)
    return total, loss, logits, out

def gradients(p, tokens, state, dstate=None):
    """-> loss, logits, final state, {name: gradient}, [{name: gradient of the initial state}] (all but pp's)"""
    p = {n: x.clone().requires_grad_() for n, x in p.items()}
    state = [{n: x.clone().requires_grad_(n != "pp") for n, x in s.items()} for s in state]
    total, loss, logits, out = objective(p, tokens, state, dstate)
    total.backward()
    detach = lambda d: {n: x.detach() for n, x in d.items()}
    return (loss.detach(), logits.detach(), [detach(s) for s in out], {n: x.grad for n, x in p.items()},
            [{n: x.grad for n, x in s.items() if n != "pp"} for s in state])

def adamw(p, tokens, state, dstate):
    """STEPS steps on the same batch -> the parameters after them, the gradient norm before clipping at each."""
    p = {n: x.clone() for n, x in p.items()}
    m, v, norms = {n: 0 for n in p}, {n: 0 for n in p}, []
    for step in range(1, STEPS + 1):
        grad = gradients(p, tokens, state, dstate)[3]
        norms.append(math.sqrt(sum((g ** 2).sum().item() for g in grad.values())))
        clip = max(1.0, (norms[-1] + 1e-6) / CLIP)
        for n, g in grad.items():
            g = g / clip
            m[n], v[n] = BETA1 * m[n] + (1 - BETA1) * g, BETA2 * v[n] + (1 - BETA2) * g * g
            update = m[n] / (1 - BETA1 ** step) / (torch.sqrt(v[n] / (1 - BETA2 ** step)) + EPS)
            lr = LR * (2 if n.endswith("time_decay") else 3 if n.endswith("time_first") else 1)
            decay = DECAY if n.endswith(".weight") and p[n].dim() == 2 else 0.0
            p[n] = p[n] - lr * (update + decay * p[n])
    return p, norms

# --------------------------------------------------------------------------------------------- the inputs
class Numbers:
    """Float32 numbers that depend on the seed alone (Python's generator; torch's changes between releases)."""
    def __init__(self, seed):
        self.random = random.Random(seed)
    def uniform(self, shape, lo, hi):
        x = [self.random.uniform(lo, hi) for _ in range(math.prod(shape))]
        return torch.tensor(x).reshape(shape).float().double()
    def integers(self, shape, n):
        return torch.tensor([int(self.random.random() * n) for _ in range(math.prod(shape))]).reshape(shape)

def strong(rng, name, shape):
    """Weights far from the initial ones: nothing is zero, every gate works away from its symmetric point."""
    if name.endswith("time_decay"):  # from a memory of e^5 = 148 tokens to one that is gone after one token
        at = [-5 + 7 * i / (shape[0] - 1) for i in range(shape[0])]
        rng.random.shuffle(at)
        return torch.tensor(at).float().double()
    if name.endswith("time_first"):    return rng.uniform(shape, -1, 1)
    if "time_mix" in name:             return rng.uniform(shape, -0.2, 1.2)
    if name.startswith("emb"):         return rng.uniform(shape, -1, 1)
    if ".ln" in name or "ln_" in name: return rng.uniform(shape, *((0.5, 1.5) if name.endswith("weight") else (-0.3, 0.3)))
    gain = 3.0 if "att.key" in name or "head" in name else 0.6 if "ffn.value" in name else 1.5
    a = gain * math.sqrt(3 / shape[1])  # U(-a,a) has standard deviation a / sqrt(3)
    return rng.uniform(shape, -a, a)

def model_inputs(seed, L, C, F, V, B, T, with_state):
    """-> parameters, tokens [B,T+1], initial state, gradient of the final state (None without)"""
    rng = Numbers(seed)
    p = {n: strong(rng, n, shape) for n, shape in tensors(L, C, F, V).items()}
    tokens = rng.integers((B, T + 1), V)
    if not with_state:
        return p, tokens, empty_state(L, B, C), None
    ranges = {"att_x": (-2, 2), "ffn_x": (-2, 2), "aa": (-2, 2), "bb": (0.5, 2), "pp": (-3, 3)}
    state = [{n: rng.uniform((B, C), *ranges[n]) for n in STATE} for _ in range(L)]
    dstate = [{n: rng.uniform((B, C), -0.01, 0.01) for n in STATE if n != "pp"} for _ in range(L)]
    return p, tokens, state, dstate

MODELS = {"a": dict(seed=4001, L=2, C=24, F=96, V=37, B=3, T=17, with_state=False),
          "b": dict(seed=4002, L=3, C=32, F=128, V=65, B=2, T=33, with_state=True)}

# ------------------------------------------------------------------------------------- the operator alone
# case       B  T    C   k     u   time_decay   then: initial state, documents that start inside
OPERATOR = {
    "normal": (2, 33,  7,    1,  1, (-5, 2),  0, 0),
    "one":    (3, 1,   5,    3,  2, (-5, 2),  0, 0),    # T = 1: y = v
    "strong": (1, 65,  6,   20,  1, (-5, 2),  0, 0),
    "huge":   (1, 257, 4,  200,  5, (-5, 2),  0, 0),    # e^200 is no float32, e^400 no sum of squares
    "decays": (1, 257, 14,   3,  1, (-8, 5),  0, 0),    # channel i: time_decay = i - 8
    "first":  (2, 65,  6,    3,  5, (-5, 2),  0, 0),
    "state":  (2, 63,  5,    5,  2, (-5, 2),  1, 0),
    "resets": (2, 65,  5,    5,  2, (-5, 2),  1, 1),
}

def operator_closed_form(k, v, w, u, gy, aa, bb, pp, gaa, gbb, reset):
    """WKV and its gradients without a recurrence: y_t is a softmax average of the v_i, with the score
    (t-1-i)w + k_i for i < t, u + k_t for i = t, tw + pp for the initial state (weight bb, value aa/bb).
    A document that starts between i and t makes the score -inf. Every gradient follows from the one of
    the softmax, dscore = gy p (value - y)."""
    B, T, C = k.shape
    t, i = torch.arange(T)[:, None], torch.arange(-1, T)[None, :]      # column -1: the initial state
    age = (t - 1 - i).clamp(min=0)                                     # how often e^w was applied
    document = reset.cumsum(1)                                         # [B,T], number of the document
    document = torch.cat([torch.zeros(B, 1, dtype=torch.long), document], 1)
    seen = (i <= t)[None] & (document[:, 1:, None] == document[:, None, :])
    s = age[None, :, :, None] * w + torch.cat([(pp + torch.log(bb))[:, None], k], 1)[:, None]
    s = torch.where((i == t)[None, :, :, None], (u + k)[:, :, None], s).masked_fill(~seen[..., None], -math.inf)
    p = torch.softmax(s, 2)                                            # [B,T,1+T,C]
    value = torch.cat([torch.where(bb > 0, aa / bb, bb)[:, None], v], 1)
    y = (p * value[:, None]).sum(2)
    ds, dvalue = gy[:, :, None] * p * (value[:, None] - y[:, :, None]), (gy[:, :, None] * p).sum(1)
    gu, gw = (ds * (i == t)[None, :, :, None]).sum((0, 1, 2)), (ds * age[None, :, :, None]).sum((0, 1, 2))
    dk = ds.sum(1)
    # the final state: aa = sum of weight e^(score - pp) value over the last document, pp = the largest score
    last = ((T - 1 - i)[..., None] * w + torch.cat([pp[:, None], k], 1)).masked_fill(
        (document != document[:, -1:])[..., None], -math.inf)
    ppT = last.max(1).values
    share = torch.cat([bb[:, None], torch.ones_like(k)], 1) * torch.exp(last - ppT[:, None])
    aaT, bbT = (share * value).sum(1), share.sum(1)
    dlast = share * (gaa[:, None] * value + gbb[:, None])
    dk, dvalue = dk + dlast, dvalue + share * gaa[:, None]
    gw = gw + (dlast * (T - 1 - i)[..., None]).sum((0, 1))
    # the initial state enters by log bb (score) and aa / bb (value)
    inv = torch.where(bb > 0, 1 / bb, bb)
    return dict(y=y, gk=dk[:, 1:], gv=dvalue[:, 1:], gw=gw, gu=gu, aa_out=aaT, bb_out=bbT, pp_out=ppT,
                gaa_in=dvalue[:, 0] * inv, gbb_in=(dk[:, 0] - dvalue[:, 0] * value[:, 0]) * inv)

def operator_cases():
    out = {}
    for number, (name, (B, T, C, kmax, umax, decay, with_state, with_resets)) in enumerate(OPERATOR.items()):
        rng = Numbers(4100 + number)
        k, v, gy = rng.uniform((B, T, C), -kmax, kmax), rng.uniform((B, T, C), -2, 2), rng.uniform((B, T, C), -1, 1)
        time_decay = torch.tensor([decay[0] + (decay[1] - decay[0]) * c / (C - 1) for c in range(C)])
        case = dict(k=k, v=v, w=(-torch.exp(time_decay)).float().double(), u=rng.uniform((C,), -umax, umax), gy=gy)
        state = dict(aa=rng.uniform((B, C), -2, 2), bb=rng.uniform((B, C), 0.5, 2), pp=rng.uniform((B, C), -12, 12),
                     gaa=rng.uniform((B, C), -1, 1), gbb=rng.uniform((B, C), -1, 1))
        reset = torch.zeros((B, T), dtype=torch.long)
        if with_resets:  # row 0: in the middle, twice in a row; row 1: at the very first and the very last step
            for b, t in ((0, 20), (0, 21), (0, 50), (1, 0), (1, T - 1)): reset[b, t] = 1
            case["reset"] = reset
        if with_state:
            case.update({n + ("_in" if len(n) == 2 else "_out"): x for n, x in state.items()})
        else:
            state = dict(aa=torch.zeros(B, C), bb=torch.zeros(B, C), pp=torch.full((B, C), EMPTY),
                         gaa=torch.zeros(B, C), gbb=torch.zeros(B, C))
        result = operator_closed_form(**{n: x for n, x in case.items() if n in ("k", "v", "w", "u", "gy")}, **state, reset=reset)
        case.update({n: x for n, x in result.items() if with_state or not n.endswith("_in")})
        out.update({f"{name}/{n}": x for n, x in case.items()})
    return out

# ------------------------------------------------------------------------------------- the official init
def official_init(L, C):
    """The vectors: they depend on layer and channel alone. r01 runs from 0 in the first layer to 1 in the last."""
    p = {"blocks.0.ln0.weight": torch.ones(C), "blocks.0.ln0.bias": torch.zeros(C)}
    for l in range(L):
        r01, r1, b = l / max(L - 1, 1), 1 - l / L, f"blocks.{l}."
        at = lambda f, *shape: torch.tensor([f(i) for i in range(C)]).reshape(*shape, C)
        p.update({b + f"{ln}.{n}": torch.full((C,), float(n == "weight")) for ln in ("ln1", "ln2") for n in ("weight", "bias")})
        p[b + "att.time_decay"] = at(lambda i: -5 + 8 * (i / (C - 1)) ** (0.7 + 1.3 * r01))
        p[b + "att.time_first"] = at(lambda i: math.log(0.3) + 0.5 * ((i + 1) % 3 - 1))
        p[b + "att.time_mix_k"] = at(lambda i: (i / C) ** r1, 1, 1)
        p[b + "att.time_mix_v"] = at(lambda i: (i / C) ** r1 + 0.3 * r01, 1, 1)
        p[b + "att.time_mix_r"] = at(lambda i: (i / C) ** (0.5 * r1), 1, 1)
        p[b + "ffn.time_mix_k"] = at(lambda i: (i / C) ** r1, 1, 1)
        p[b + "ffn.time_mix_r"] = at(lambda i: (i / C) ** r1, 1, 1)
    p.update({"ln_out.weight": torch.ones(C), "ln_out.bias": torch.zeros(C)})
    return p

# The matrices are random: an orthogonal matrix [out, in] has all min(out, in) singular values equal to its gain.
MATRICES = {"emb.weight": "uniform(-lr, lr), lr = 1e-4 recommended",
            "blocks.*.att.key.weight": "zero", "blocks.*.att.value.weight": "orthogonal, gain 1",
            "blocks.*.att.receptance.weight": "zero", "blocks.*.att.output.weight": "zero",
            "blocks.*.ffn.key.weight": "orthogonal, gain sqrt(F/C)", "blocks.*.ffn.receptance.weight": "zero",
            "blocks.*.ffn.value.weight": "zero", "head.weight": "orthogonal, gain 0.5 sqrt(V/C), 0.5 if V <= C"}

# ------------------------------------------------------------------------------------------------ output
def write_safetensors(name, content, metadata):
    """[8 bytes: n] [n bytes: JSON, name -> dtype, shape, byte range] [data]. 8-byte types first: all stay aligned."""
    kinds = {torch.float64: "F64", torch.float32: "F32", torch.int32: "I32"}
    header, data = {"__metadata__": {n: str(x) for n, x in metadata.items()}}, b""
    for n, x in sorted(content.items(), key=lambda item: (item[1].dtype != torch.float64, item[0])):
        raw = x.contiguous().numpy().tobytes()
        header[n] = {"dtype": kinds[x.dtype], "shape": list(x.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    os.makedirs(DATA, exist_ok=True)
    with open(os.path.join(DATA, name), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)
    print(f"{name}: {len(header) - 1} tensors, {8 + len(text) + len(data)} bytes")

def write_model(which):
    shape = MODELS[which]
    p, tokens, state, dstate = model_inputs(**shape)
    loss, logits, out, grad, dstate_in = gradients(p, tokens, state, dstate)
    after, norms = adamw(p, tokens, state, dstate)
    content = {"tokens": tokens.int(), "logits": logits, "loss": loss.reshape(1)}
    content.update({f"param/{n}": x.float() for n, x in p.items()})
    content.update({f"grad/{n}": x for n, x in grad.items()})
    content.update({f"adam3/{n}": x for n, x in after.items()})
    content.update({f"norm/step_{i + 1}": torch.tensor([x]) for i, x in enumerate(norms)})
    content.update({f"state_out/{l}/{n}": x for l, s in enumerate(out) for n, x in s.items()})
    if dstate:
        content.update({f"state_in/{l}/{n}": x.float() for l, s in enumerate(state) for n, x in s.items()})
        content.update({f"dstate_out/{l}/{n}": x.float() for l, s in enumerate(dstate) for n, x in s.items()})
        content.update({f"dstate_in/{l}/{n}": x for l, s in enumerate(dstate_in) for n, x in s.items()})
    top2 = logits.topk(2).values
    print(f"  loss {loss:.6f}, norms {[round(x, 4) for x in norms]}, largest logit of a row {top2[..., 0].min():.2f} to "
          f"{top2[..., 0].max():.2f}, the next one at least {(top2[..., 0] - top2[..., 1]).min():.1e} below")
    write_safetensors(f"rwkv4_{which}.safetensors", content, dict(
        made_by="python3 dev/reference/rwkv4.py", torch=torch.__version__, **shape,
        adamw=f"lr {LR} (2x time_decay, 3x time_first), betas {BETA1} {BETA2}, eps {EPS}, decay {DECAY} on matrices, "
              f"clip {CLIP}, {STEPS} steps on the same batch"))

def write_operator():
    write_safetensors("rwkv4_wkv.safetensors", {n: x.int() if x.dtype == torch.long else x for n, x in operator_cases().items()},
                      dict(made_by="python3 dev/reference/rwkv4.py", torch=torch.__version__, cases=" ".join(OPERATOR)))

def write_init(L=3, C=32):
    write_safetensors("rwkv4_init.safetensors", {f"param/{n}": x for n, x in official_init(L, C).items()},
                      dict(made_by="python3 dev/reference/rwkv4.py", L=L, C=C, **MATRICES))

def print_init(L=3, C=32):
    for n, x in official_init(L, C).items():
        if "time_" in n:
            x = x.flatten().tolist()
            print(f"{n:28s}" + " ".join(f"{x[i]:9.6f}" for i in (0, 1, 2, 3, C // 2, C - 2, C - 1)) + f"   channels 0 1 2 3 {C//2} {C-2} {C-1}")
    for n, text in MATRICES.items():
        print(f"{n:32s}{text}")

# ---------------------------------------------------------------------------------------------- the check
def worst_difference(name, loss_at, x, grad, entries, h=1e-5):
    """Largest |central difference - gradient| over some entries, relative to the tensor's largest gradient."""
    worst, flat, g = 0.0, x.view(-1), grad.reshape(-1)
    for i in sorted(entries.sample(range(len(flat)), min(6, len(flat)))):
        keep, step = flat[i].item(), h * max(1.0, abs(flat[i].item()))
        values = []
        for sign in (1, -1):
            flat[i] = keep + sign * step
            values.append(loss_at())
        flat[i] = keep
        worst = max(worst, abs((values[0] - values[1]) / (2 * step) - g[i].item()) / max(1e-3, g.abs().max().item()))
    print(f"  {name:36s} {worst:.1e}")
    return worst

def verify():
    worst, entries = 0.0, random.Random(1)
    for which, shape in MODELS.items():
        p, tokens, state, dstate = model_inputs(**shape)
        _, _, out, grad, dstate_in = gradients(p, tokens, state, dstate)
        loss_at = lambda: objective(p, tokens, state, dstate, [s["pp"] for s in out])[0].item()
        with torch.no_grad():
            for n in p:
                worst = max(worst, worst_difference(f"{which} {n}", loss_at, p[n], grad[n], entries))
            for l in range(shape["L"] if dstate else 0):
                for n in dstate_in[l]:
                    worst = max(worst, worst_difference(f"{which} state_in/{l}/{n}", loss_at, state[l][n], dstate_in[l][n], entries))
    cases = operator_cases()   # the closed form against autograd through the recurrence (which knows no documents)
    for name in (n for n in OPERATOR if n != "resets"):
        get = lambda n, default: cases.get(f"{name}/{n}", default).clone()
        k = get("k", None)
        B, T, C = k.shape
        zero = torch.zeros(B, C)
        x = {n: get(n, zero).requires_grad_() for n in ("k", "v", "w", "u", "aa_in", "bb_in")}
        y, aa, bb, pp = wkv(x["k"], x["v"], x["w"], x["u"], x["aa_in"], x["bb_in"], get("pp_in", torch.full((B, C), EMPTY)))
        ((y * get("gy", None)).sum() + (aa * get("gaa_out", zero)).sum() + (bb * get("gbb_out", zero)).sum()).backward()
        pairs = {"y": y, "aa_out": aa, "bb_out": bb, **{"g" + n: v.grad for n, v in x.items()}}
        for n, value in pairs.items():
            if f"{name}/{n}" in cases:
                want = cases[f"{name}/{n}"]
                difference = ((value - want).abs().max() / max(1e-3, want.abs().max())).item()
                worst = max(worst, difference)
                print(f"  operator {name}/{n:20s} {difference:.1e}")
    print(f"worst relative difference {worst:.1e}")
    if not worst <= 1e-6:
        sys.exit("error: a gradient differs from its finite difference by more than 1e-6")

if __name__ == "__main__":
    if sys.argv[1:] == ["--init"]:
        print_init()
        write_init()
    elif sys.argv[1:] == ["--verify"]:
        verify()
    elif not sys.argv[1:]:
        write_model("a")
        write_model("b")
        write_operator()
        write_init()
    else:
        sys.exit("usage: python3 dev/reference/rwkv4.py [--init | --verify]")
