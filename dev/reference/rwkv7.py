#!/usr/bin/python3
"""dev/reference/rwkv7.py: RWKV-7 "Goose" (x070, arXiv 2503.14456) in plain PyTorch, float64, autograd. It writes
the numbers that the C++ tests compare against; nothing needs it to build or run.

    python3 dev/reference/rwkv7.py            writes tests/data/rwkv7_{a,b,init}.safetensors
    python3 dev/reference/rwkv7.py --init     prints the official initial values, writes only rwkv7_init
    python3 dev/reference/rwkv7.py --verify   checks autograd by finite differences, writes nothing

All inputs (parameters, tokens, states, incoming gradients) are float32 numbers, so that a float32 program
starts from exactly the same values; all results are float64. dev/reference/README.md lists the contents."""
import math, random, sys
import torch
from torch.nn.functional import cross_entropy, layer_norm
from rwkv4 import Numbers, worst_difference, write_safetensors

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)  # the order of a sum must not depend on the machine's cores
LR, BETA1, BETA2, EPS, DECAY, CLIP, STEPS = 1e-3, 0.9, 0.99, 1e-18, 0.1, 1.0, 3
STATE = ("att_x", "ffn_x", "S")
MIXES = "rwkvag"

# ---------------------------------------------------------------------------------------------- the model
def tensors(L, C, N, F, V, lora):
    """name -> shape: the tensors of a checkpoint under their official names. X.weight is a matrix [out, in]; the
    LoRAs (w1, w2, a1, ...) are [in, out]. Layer 0 has no v0, v1, v2, as in published files."""
    t = {"emb.weight": (V, C), "blocks.0.ln0.weight": (C,), "blocks.0.ln0.bias": (C,)}
    for l in range(L):
        b, names = f"blocks.{l}.", "wag" if l == 0 else "wavg"
        t.update({b + f"{ln}.{p}": (C,) for ln in ("ln1", "ln2", "att.ln_x") for p in ("weight", "bias")})
        t.update({b + f"att.x_{n}": (1, 1, C) for n in MIXES})
        t.update({b + f"att.{n}": (1, 1, C) for n in ["k_k", "k_a"] + [n + "0" for n in names if n != "g"]})
        for n in names:
            t.update({b + f"att.{n}1": (C, lora[n]), b + f"att.{n}2": (lora[n], C)})
        t[b + "att.r_k"] = (C // N, N)
        t.update({b + f"att.{n}.weight": (C, C) for n in ("receptance", "key", "value", "output")})
        t.update({b + "ffn.x_k": (1, 1, C), b + "ffn.key.weight": (F, C), b + "ffn.value.weight": (C, F)})
    t.update({"ln_out.weight": (C,), "ln_out.bias": (C,), "head.weight": (V, C)})
    return t

def wkv(r, w, k, v, a, b, S):
    """Everything [B,T,H,N], S [B,H,N,N] = [value, key]. S <- S diag(w) + (S a) b^T + v k^T,  y = S r."""
    ys = []
    for t in range(r.shape[1]):
        sa = torch.einsum("bhij,bhj->bhi", S, a[:, t])
        S = S * w[:, t, :, None] + sa[..., None] * b[:, t, :, None] + v[:, t, :, :, None] * k[:, t, :, None]
        ys.append(torch.einsum("bhij,bhj->bhi", S, r[:, t]))
    return torch.stack(ys, 1), S

def forward(p, tokens, state):
    """tokens [B,T] -> logits [B,T,V] and the state after the last token. state: one dict a layer; att_x and ffn_x
    [B,C] are the previous token's ln1(x) and ln2(x), S [B,H,N,N]."""
    C = p["emb.weight"].shape[1]
    H, N = p["blocks.0.att.r_k"].shape
    ln = lambda x, n: layer_norm(x, (C,), p[n + ".weight"], p[n + ".bias"], 1e-5)
    heads = lambda x: x.reshape(x.shape[0], x.shape[1], H, N)
    def shifted(x, last):  # each token sees the one before it
        return torch.cat([last[:, None], x[:, :-1]], 1) - x
    x, out, v_first = ln(p["emb.weight"][tokens], "blocks.0.ln0"), [], None
    for l, s in enumerate(state):
        q = lambda n: p[f"blocks.{l}.att.{n}"]
        h = ln(x, f"blocks.{l}.ln1")
        xx = shifted(h, s["att_x"])
        m = {n: h + xx * q("x_" + n) for n in MIXES}
        lora = lambda n, f: f(m[n] @ q(n + "1")) @ q(n + "2")
        same = lambda z: z
        r, k, v = m["r"] @ q("receptance.weight").T, m["k"] @ q("key.weight").T, m["v"] @ q("value.weight").T
        w = torch.exp(-math.exp(-0.5) * torch.sigmoid(q("w0") + lora("w", torch.tanh)))
        a, g = torch.sigmoid(q("a0") + lora("a", same)), lora("g", torch.sigmoid)
        if l == 0: v_first = v
        else: v = v + (v_first - v) * torch.sigmoid(q("v0") + lora("v", same))
        kk = heads(k * q("k_k"))
        kk = kk / torch.clamp(kk.norm(dim=-1, keepdim=True), min=1e-12)
        k = k * (1 + (a - 1) * q("k_a"))
        r, w, k, v, a = (heads(z) for z in (r, w, k, v, a))
        y, S = wkv(r, w, k, v, -kk, kk * a, s["S"])
        mean, var = y.mean(-1, keepdim=True), y.var(-1, unbiased=False, keepdim=True)
        y = ((y - mean) / torch.sqrt(var + 64e-5)).flatten(2) * q("ln_x.weight") + q("ln_x.bias")
        y = y + ((r * k * q("r_k")).sum(-1, keepdim=True) * v).flatten(2)
        x = x + (y * g) @ q("output.weight").T
        f = ln(x, f"blocks.{l}.ln2")
        fk = f + shifted(f, s["ffn_x"]) * p[f"blocks.{l}.ffn.x_k"]
        x = x + torch.relu(fk @ p[f"blocks.{l}.ffn.key.weight"].T) ** 2 @ p[f"blocks.{l}.ffn.value.weight"].T
        out.append({"att_x": h[:, -1], "ffn_x": f[:, -1], "S": S})
    return ln(x, "ln_out") @ p["head.weight"].T, out

def empty_state(L, B, C, N):
    return [{"att_x": torch.zeros(B, C), "ffn_x": torch.zeros(B, C), "S": torch.zeros(B, C // N, N, N)} for _ in range(L)]

def objective(p, tokens, state, dstate=None):
    """What the gradients are gradients of: cross-entropy + L2Wrap, 0.5e-4 mean_rows(max_j logit^2), and, with
    dstate, the sum of dstate * final state. -> objective, the loss to report (cross-entropy alone), logits, final state"""
    logits, out = forward(p, tokens[:, :-1], state)
    loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    total = loss + 0.5e-4 * (logits.max(-1).values ** 2).mean()
    for s, d in zip(out, dstate or []):
        total = total + sum((d[n] * s[n]).sum() for n in d)
    return total, loss, logits, out

def gradients(p, tokens, state, dstate=None):
    """-> loss, logits, final state, {name: gradient}, [{name: gradient of the initial state}]"""
    p = {n: x.clone().requires_grad_() for n, x in p.items()}
    state = [{n: x.clone().requires_grad_() for n, x in s.items()} for s in state]
    total, loss, logits, out = objective(p, tokens, state, dstate)
    total.backward()
    return (loss.detach(), logits.detach(), [{n: x.detach() for n, x in s.items()} for s in out],
            {n: x.grad for n, x in p.items()}, [{n: x.grad for n, x in s.items()} for s in state])

def adamw(p, tokens, state):
    """STEPS steps on the same batch -> the parameters after them, the gradient norm before clipping at each."""
    p = {n: x.clone() for n, x in p.items()}
    m, v, norms = {n: 0 for n in p}, {n: 0 for n in p}, []
    for step in range(1, STEPS + 1):
        grad = gradients(p, tokens, state)[3]
        norms.append(math.sqrt(sum((g ** 2).sum().item() for g in grad.values())))
        clip = max(1.0, (norms[-1] + 1e-6) / CLIP)
        for n, g in grad.items():
            g = g / clip
            m[n], v[n] = BETA1 * m[n] + (1 - BETA1) * g, BETA2 * v[n] + (1 - BETA2) * g * g
            update = m[n] / (1 - BETA1 ** step) / (torch.sqrt(v[n] / (1 - BETA2 ** step)) + EPS)
            lr = LR * (2 if n.endswith("att.w0") else 1)
            decay = DECAY if n.endswith(".weight") and p[n].dim() == 2 else 0.0
            p[n] = p[n] - lr * (update + decay * p[n])
    return p, norms

# --------------------------------------------------------------------------------------------- the inputs
def strong(rng, name, shape):
    """Weights far from the initial ones: nothing is zero, every gate works away from its symmetric point."""
    part = name.split(".")[-1]
    if part in RANGES:                  return rng.uniform(shape, *RANGES[part])
    if part.startswith("x_"):           return rng.uniform(shape, -0.2, 1.2)
    if name.startswith("emb"):          return rng.uniform(shape, -1, 1)
    if ".ln" in name or "ln_" in name:  return rng.uniform(shape, *((0.5, 1.5) if part == "weight" else (-0.3, 0.3)))
    lora = part[-1] in "12"             # [in, out]; a matrix .weight is [out, in]
    gain = 3.0 if "head" in name else 0.6 if "ffn.value" in name else 1.2
    a = gain * math.sqrt(3 / shape[0 if lora else 1])  # U(-a,a) has standard deviation a / sqrt(3)
    return rng.uniform(shape, -a, a)
RANGES = {"w0": (-8, 4),                # from a memory of thousands of tokens to the strongest decay
          "a0": (-2, 2), "v0": (-1, 1), "k_k": (-1.5, 1.5), "k_a": (0.2, 1.6), "r_k": (-0.6, 0.6)}

SHAPE = dict(L=2, C=32, N=16, F=12, V=13)
LORA = dict(w=3, a=2, v=4, g=5)
SEED = 7001

def model_inputs(B, T, with_state):
    """-> parameters (the same for every B, T), tokens [B,T+1], initial state, gradient of the final state or None"""
    L, C, N, V = SHAPE["L"], SHAPE["C"], SHAPE["N"], SHAPE["V"]
    rng = Numbers(SEED)
    p = {n: strong(rng, n, shape) for n, shape in tensors(lora=LORA, **SHAPE).items()}
    rng = Numbers(SEED + B * T)
    tokens = rng.integers((B, T + 1), V)
    if not with_state:
        return p, tokens, empty_state(L, B, C, N), None
    shapes = {"att_x": (B, C), "ffn_x": (B, C), "S": (B, C // N, N, N)}
    state = [{n: rng.uniform(shapes[n], -1, 1) for n in STATE} for _ in range(L)]
    dstate = [{n: rng.uniform(shapes[n], -0.01, 0.01) for n in STATE} for _ in range(L)]
    return p, tokens, state, dstate

MODELS = {"a": dict(B=3, T=35, with_state=False), "b": dict(B=2, T=19, with_state=True)}

# ------------------------------------------------------------------------------------- the official init
def official_init(L, C, N):
    """The vectors: they depend on layer and channel alone. r01 runs from 0 in the first layer to 1 in the last."""
    p = {"blocks.0.ln0.weight": torch.ones(C), "blocks.0.ln0.bias": torch.zeros(C)}
    for l in range(L):
        r01, r1, b = l / max(L - 1, 1), 1 - l / L, f"blocks.{l}."
        half = (N - 1) / 2
        zig = [((i % N) - half) / half * abs(((i % N) - half) / half) for i in range(C)]
        lin = [i / (C - 1) - 0.5 for i in range(C)]
        at = lambda f: torch.tensor([float(f(i)) for i in range(C)]).reshape(1, 1, C)
        p.update({b + f"{ln}.{n}": torch.full((C,), float(n == "weight")) for ln in ("ln1", "ln2") for n in ("weight", "bias")})
        for names, power in (("rg", 0.2 * r1), ("wa", 0.9 * r1), ("kv", 0.7 * r1)):
            p.update({b + "att.x_" + n: at(lambda i: 1 - (i / C) ** power) for n in names})
        p[b + "ffn.x_k"] = at(lambda i: 1 - (i / C) ** (r1 ** 4))
        p[b + "att.w0"] = at(lambda i: -6 + 6 * (i / (C - 1)) ** (1 + r01 ** 0.3) + 0.5 + 2.5 * zig[i])
        p[b + "att.a0"] = at(lambda i: -0.19 + 0.3 * zig[i] + 0.4 * lin[i])
        if l: p[b + "att.v0"] = at(lambda i: 0.73 - 0.4 * lin[i])
        p[b + "att.k_k"] = at(lambda i: 0.71 - 0.1 * lin[i])
        p[b + "att.k_a"] = at(lambda i: 1.02)
        p[b + "att.r_k"] = torch.full((C // N, N), -0.04)
        p[b + "att.ln_x.weight"], p[b + "att.ln_x.bias"] = torch.full((C,), ((1 + l) / L) ** 0.7), torch.zeros(C)
    p.update({"ln_out.weight": torch.ones(C), "ln_out.bias": torch.zeros(C)})
    return p

# The matrices are random: an orthogonal matrix has all its singular values equal to its gain.
MATRICES = {"emb.weight": "uniform(-1e-4, 1e-4)", "blocks.*.att.{w,a,v,g}1": "zero",
            "blocks.*.att.{w,a,v,g}2": "orthogonal, gain 0.1 sqrt(rows/cols), 0.1 if rows <= cols, as [in, out]",
            "blocks.*.att.receptance.weight": "orthogonal, gain 1", "blocks.*.att.key.weight": "orthogonal, gain 0.1",
            "blocks.*.att.value.weight": "orthogonal, gain 1", "blocks.*.att.output.weight": "zero",
            "blocks.*.ffn.key.weight": "orthogonal, gain 1", "blocks.*.ffn.value.weight": "zero",
            "head.weight": "orthogonal, gain 0.5 sqrt(V/C), 0.5 if V <= C"}

# ------------------------------------------------------------------------------------------------ output
def about(which):
    return dict(made_by="python3 dev/reference/rwkv7.py", torch=torch.__version__, seed=SEED, **SHAPE, **MODELS[which],
                **{"lora-" + n: d for n, d in LORA.items()},
                adamw=f"lr {LR} (2x att.w0), betas {BETA1} {BETA2}, eps {EPS}, decay {DECAY} on X.weight matrices, "
                      f"clip {CLIP}, {STEPS} steps on the same batch")

def write_model(which):
    p, tokens, state, dstate = model_inputs(**MODELS[which])
    loss, logits, out, grad, dstate_in = gradients(p, tokens, state, dstate)
    content = {"tokens": tokens.int(), "logits": logits, "loss": loss.reshape(1)}
    content.update({f"state_out/{l}/{n}": x for l, s in enumerate(out) for n, x in s.items()})
    if not dstate:
        after, norms = adamw(p, tokens, state)
        content.update({f"param/{n}": x.float() for n, x in p.items()})
        content.update({f"adam3/{n}": x for n, x in after.items()})
        content.update({f"norm/step_{i + 1}": torch.tensor([x]) for i, x in enumerate(norms)})
    else:
        content.update({f"grad/{n}": x for n, x in grad.items()})
        content.update({f"state_in/{l}/{n}": x.float() for l, s in enumerate(state) for n, x in s.items()})
        content.update({f"dstate_out/{l}/{n}": x.float() for l, s in enumerate(dstate) for n, x in s.items()})
        content.update({f"dstate_in/{l}/{n}": x for l, s in enumerate(dstate_in) for n, x in s.items()})
    top2 = logits.topk(2).values
    print(f"  loss {loss:.6f}, gradient norm {math.sqrt(sum((g ** 2).sum().item() for g in grad.values())):.4f}, largest state "
          f"{max(s['S'].abs().max().item() for s in out):.2f}, largest logit of a row {top2[..., 0].min():.2f} to "
          f"{top2[..., 0].max():.2f}, the next one at least {(top2[..., 0] - top2[..., 1]).min():.1e} below")
    write_safetensors(f"rwkv7_{which}.safetensors", content, about(which))

def write_init(L=3, C=32, N=16):
    write_safetensors("rwkv7_init.safetensors", {f"param/{n}": x for n, x in official_init(L, C, N).items()},
                      dict(made_by="python3 dev/reference/rwkv7.py", L=L, C=C, N=N, **MATRICES))

def print_init(L=3, C=32, N=16):
    for n, x in official_init(L, C, N).items():
        if "att." in n or "ffn." in n:
            x = x.flatten().tolist()
            print(f"{n:28s}" + " ".join(f"{x[i]:9.6f}" for i in (0, 1, 2, 3, C // 2, C - 2, C - 1)) + f"   channels 0 1 2 3 {C//2} {C-2} {C-1}")
    for n, text in MATRICES.items():
        print(f"{n:32s}{text}")

# ---------------------------------------------------------------------------------------------- the check
def verify():
    worst, entries = 0.0, random.Random(1)
    for which, shape in MODELS.items():
        p, tokens, state, dstate = model_inputs(**shape)
        _, _, _, grad, dstate_in = gradients(p, tokens, state, dstate)
        loss_at = lambda: objective(p, tokens, state, dstate)[0].item()
        with torch.no_grad():
            for n in p:
                worst = max(worst, worst_difference(f"{which} {n}", loss_at, p[n], grad[n], entries))
            for l in range(SHAPE["L"] if dstate else 0):
                for n in dstate_in[l]:
                    worst = max(worst, worst_difference(f"{which} state_in/{l}/{n}", loss_at, state[l][n], dstate_in[l][n], entries))
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
        write_init()
    else:
        sys.exit("usage: python3 dev/reference/rwkv7.py [--init | --verify]")
