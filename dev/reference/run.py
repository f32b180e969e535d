#!/usr/bin/python3
"""dev/reference/run.py: the five versions that run_rwkv runs, RWKV-4, 5.1, 5.2, 6 and 7, one token at a time in plain
PyTorch (float64), on small random models. It writes the numbers that tests/run_models.h compares with.

    python3 dev/reference/run.py          writes tests/data/run_{4,51,52,6}.safetensors, run_7.pth (the models, as a user
                                          has them) and run_expected.safetensors (what they must give)
    python3 dev/reference/run.py --terms  how much each term of the equations moves the logits: none may hide

The weights are strong on purpose, and rounded to the type they are stored in before anything is computed, so that a
float32 program starts from the same values. dev/reference/README.md lists the contents."""
import json, math, os, random, struct, sys
import torch

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "data")
T, MIDDLE = 33, 16  # tokens; the state after MIDDLE of them is written too
OFF = set()         # terms left out, for --terms
on = lambda term: term not in OFF

# ---------------------------------------------------------------------------------------------- the pieces
def normed(x, w, b, eps, groups=1):  # LayerNorm; GroupNorm over groups of consecutive channels
    x = x.reshape(groups, -1)
    x = (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, unbiased=False, keepdim=True) + eps)
    return x.reshape(-1) * w + b

def ln(x, p, name):
    return normed(x, p[name + ".weight"], p[name + ".bias"], 1e-5 if on("ln eps") else 0)

def group_norm(y, p, H):  # the trainer of version 5 has 1e-5 on y / 8: the same function
    groups, eps = H if on("per head") else 1, 64e-5 if on("group norm eps") else 1e-5
    return normed(y, p["ln_x.weight"], p["ln_x.bias"], eps, groups)

silu = lambda x: x * torch.sigmoid(x)
tanh = lambda x: torch.tanh(x) if on("tanh") else x

# ------------------------------------------------------------------------------------- time mixing, by version
# x (C): ln1's output; s: the layer's state, changed in place; p: the tensors of att without their prefix
def att4(x, s, p, _):
    mix = lambda n: x * p["time_mix_" + n] + s["att_x"] * (1 - p["time_mix_" + n])
    r, k, v = (p[n + ".weight"] @ mix(n[0]) for n in ("receptance", "key", "value"))
    w, u = -torch.exp(p["time_decay"]), p["time_first"] if on("bonus") else 0
    # y = (a + e^(u+k) v) / (b + e^(u+k)), then a, b = e^w a + e^k v, e^w b + e^k;  a = aa e^pp, b = bb e^pp
    aa, bb, pp = s["aa"], s["bb"], s["pp"]
    q = torch.maximum(pp, u + k)
    y = (torch.exp(pp - q) * aa + torch.exp(u + k - q) * v) / (torch.exp(pp - q) * bb + torch.exp(u + k - q))
    q = torch.maximum(pp + w, k)
    s["aa"], s["bb"], s["pp"] = torch.exp(pp + w - q) * aa + torch.exp(k - q) * v, torch.exp(pp + w - q) * bb + torch.exp(k - q), q
    return p["output.weight"] @ (torch.sigmoid(r) * y)

def heads(s, r, k, v, w, u):  # y_j = sum_i r_i (S_ij + u_i k_i v_j), then S_ij = w_i S_ij + k_i v_j; i: key, j: value
    H, N, _ = s["S"].shape
    r, k, v, w, u = (z.reshape(H, N) for z in (r, k, v, w, u))
    kv = k[:, :, None] * v[:, None, :]
    y = torch.einsum("hi,hij->hj", r, s["S"] + (u[:, :, None] * kv if on("bonus") else 0))
    s["S"] = w[:, :, None] * s["S"] + kv
    return y.reshape(-1)

def att5(x, s, p, _):  # 5.1: one decay and one bonus a head; 5.2: one a channel
    H, N, _ = s["S"].shape
    mix = lambda n: x * p["time_mix_" + n] + s["att_x"] * (1 - p["time_mix_" + n])
    r, k, v, g = (p[n + ".weight"] @ mix(n[0]) for n in ("receptance", "key", "value", "gate"))
    each = lambda z: z.reshape(H, -1).expand(H, N)
    y = heads(s, r, k, v, torch.exp(-torch.exp(each(p["time_decay"]))), each(p["time_faaaa"]))
    return p["output.weight"] @ (group_norm(y, p, H) * (silu(g) if on("gate") else 1))

def att6(x, s, p, _):
    xx, H = s["att_x"] - x, s["S"].shape[0]
    h = tanh((x + xx * p["time_maa_x"]) @ p["time_maa_w1"]).reshape(5, -1)
    xw, xk, xv, xr, xg = (x + xx * (p["time_maa_" + n] + (h[i] @ p["time_maa_w2"][i] if on("ddlerp") else 0)) for i, n in enumerate("wkvrg"))
    r, k, v, g = (p[n + ".weight"] @ z for n, z in (("receptance", xr), ("key", xk), ("value", xv), ("gate", xg)))
    d = p["time_decay"] + (tanh(xw @ p["time_decay_w1"]) @ p["time_decay_w2"] if on("decay lora") else 0)
    y = heads(s, r, k, v, torch.exp(-torch.exp(d)), p["time_faaaa"])
    return p["output.weight"] @ (group_norm(y, p, H) * (silu(g) if on("gate") else 1))

def att7(x, s, p, first):  # first: the layer's number, and v of layer 0
    H, N, _ = s["S"].shape
    xx = s["att_x"] - x
    xr, xw, xk, xv, xa, xg = (x + xx * p["x_" + n] for n in "rwkvag")
    r, k, v = p["receptance.weight"] @ xr, p["key.weight"] @ xk, p["value.weight"] @ xv
    w = torch.exp(-math.exp(-0.5) * torch.sigmoid(p["w0"] + tanh(xw @ p["w1"]) @ p["w2"]))
    a = torch.sigmoid(p["a0"] + xa @ p["a1"] @ p["a2"])
    g = torch.sigmoid(xg @ p["g1"]) @ p["g2"]
    if first["layer"] == 0: first["v"] = v
    elif on("value residual"): v = v + (first["v"] - v) * torch.sigmoid(p["v0"] + xv @ p["v1"] @ p["v2"])
    kk = (k * (p["k_k"] if on("k_k") else 1)).reshape(H if on("kk per head") else 1, -1)
    kk = (kk / torch.clamp(torch.sqrt((kk * kk).sum(1, keepdim=True)), min=1e-12)).reshape(H, N)
    k = k * (1 + (a - 1) * p["k_a"]) if on("k_a") else k
    rh, kh, vh, wh, ah = (z.reshape(H, N) for z in (r, k, v, w, a))
    S = s["S"]                                                   # S_ij, i: value, j: key; read after the update
    remove = torch.einsum("hij,hj->hi", S, kk)
    S = s["S"] = S * wh[:, None, :] - remove[:, :, None] * (kk * ah)[:, None, :] + vh[:, :, None] * kh[:, None, :]
    y = group_norm(torch.einsum("hij,hj->hi", S, rh).reshape(-1), p, H)
    bonus = (rh * kh * p["r_k"]).sum(1, keepdim=True) * vh       # after the norm
    return p["output.weight"] @ ((y + (bonus.reshape(-1) if on("bonus") else 0)) * (g if on("gate") else 1))

# --------------------------------------------------------------------------------- channel mixing, the whole model
def ffn(x, s, p, version):
    if version in ("4", "51", "52"): mix = lambda n: x * p["time_mix_" + n] + s["ffn_x"] * (1 - p["time_mix_" + n])
    else: mix = lambda n: x + (s["ffn_x"] - x) * p[("x_" if version == "7" else "time_maa_") + n]
    y = p["value.weight"] @ torch.relu(p["key.weight"] @ mix("k")) ** 2
    return y if version == "7" else torch.sigmoid(p["receptance.weight"] @ mix("r")) * y

ATT = {"4": att4, "51": att5, "52": att5, "6": att6, "7": att7}

def below(p, prefix):  # the tensors with this prefix, without it; [1,1,C] as [C]
    return {n[len(prefix):]: (x.reshape(-1) if x.shape[:2] == (1, 1) else x) for n, x in p.items() if n.startswith(prefix)}

def step(p, version, token, state):
    """-> logits; changes the state: one dict a layer"""
    x, first = ln(p["emb.weight"][token], p, "blocks.0.ln0"), {}
    for l, s in enumerate(state):
        b = f"blocks.{l}."
        first["layer"] = l
        h = ln(x, p, b + "ln1")
        x = x + ATT[version](h, s, below(p, b + "att."), first)
        s["att_x"] = h
        h = ln(x, p, b + "ln2")
        x = x + ffn(h, s, below(p, b + "ffn."), version)
        s["ffn_x"] = h
    return p["head.weight"] @ ln(x, p, "ln_out")

def empty_state(version, L, H, N):
    zero = lambda: torch.zeros(H * N)
    if version == "4": return [dict(att_x=zero(), ffn_x=zero(), aa=zero(), bb=zero(), pp=zero() - 1e38) for _ in range(L)]
    return [dict(att_x=zero(), ffn_x=zero(), S=torch.zeros(H, N, N)) for _ in range(L)]

def run(p, version, tokens, state):
    rows, middle = [], None
    for t, token in enumerate(tokens):
        if t == MIDDLE: middle = [dict(s) for s in state]
        rows.append(step(p, version, token, state))
    return torch.stack(rows), middle, state

# --------------------------------------------------------------------------------------------- the models
# heads x head size, LoRA widths and vocabulary are odd; the types are those that real files mix
MODELS = {
    "4":  dict(seed=1, L=2, H=1, N=24, F=96, V=37, lora={}, dtype=torch.float32),
    "51": dict(seed=2, L=2, H=3, N=8, F=64, V=37, lora={}, dtype=torch.bfloat16),
    "52": dict(seed=3, L=3, H=3, N=8, F=64, V=41, lora={}, dtype=torch.float16),
    "6":  dict(seed=4, L=2, H=5, N=8, F=96, V=37, lora=dict(m=5, d=7), dtype=torch.bfloat16),
    "7":  dict(seed=5, L=3, H=3, N=8, F=96, V=37, lora=dict(w=5, a=3, v=7, g=11), dtype=torch.bfloat16),
}

def tensors(version, L, H, N, F, V, lora, **_):
    """name -> shape, in the order of an official file"""
    C, one = H * N, (1, 1, H * N)
    t = {"emb.weight": (V, C)}
    for l in range(L):
        b, a, f = f"blocks.{l}.", f"blocks.{l}.att.", f"blocks.{l}.ffn."
        t.update({b + f"{n}.{p}": (C,) for n in ("ln1", "ln2") + (("ln0",) if l == 0 else ()) for p in ("weight", "bias")})
        square = ["receptance", "key", "value", "output"]
        if version == "4":
            t.update({a + "time_decay": (C,), a + "time_first": (C,)})
            t.update({a + "time_mix_" + n: one for n in "kvr"})
        elif version in ("51", "52"):
            t.update({a + "time_mix_" + n: one for n in "kvrg"})
            t.update({a + n: (H,) if version == "51" else (H, N) for n in ("time_decay", "time_faaaa")})
            square.append("gate")
        elif version == "6":
            t.update({a + "time_maa_" + n: one for n in "xwkvrg"})
            t.update({a + "time_maa_w1": (C, 5 * lora["m"]), a + "time_maa_w2": (5, lora["m"], C), a + "time_decay": one,
                      a + "time_decay_w1": (C, lora["d"]), a + "time_decay_w2": (lora["d"], C), a + "time_faaaa": (H, N)})
            square.append("gate")
        else:
            t.update({a + "x_" + n: one for n in "rwkvag"})
            t.update({a + n: one for n in ("w0", "a0", "v0", "k_k", "k_a")})
            t[a + "r_k"] = (H, N)
            for n, D in lora.items(): t.update({a + n + "1": (C, D), a + n + "2": (D, C)})
        t.update({a + n + ".weight": (C, C) for n in square})
        if version != "4": t.update({a + "ln_x.weight": (C,), a + "ln_x.bias": (C,)})
        t.update({f + {"6": "time_maa_", "7": "x_"}.get(version, "time_mix_") + n: one for n in ("k" if version == "7" else "kr")})
        t.update({f + "key.weight": (F, C), f + "value.weight": (C, F)})
        if version != "7": t[f + "receptance.weight"] = (C, C)
    t.update({"ln_out.weight": (C,), "ln_out.bias": (C,), "head.weight": (V, C)})
    return t

# end of the name     range, or gain of a matrix: the standard deviation of W x for x of standard deviation 1
STRONG = [("time_decay", -4, 1.5), ("time_first", -1, 1), ("time_faaaa", -1.5, 1.5), ("decay_w1", 1.5), ("decay_w2", 1.0), ("maa_w1", 1.5), ("maa_w2", 0.5),
          ("time_mix_*", -0.2, 1.2), ("time_maa_*", -0.2, 1.2), ("x_*", -0.2, 1.2), ("w0", -4, 3), ("a0", -1, 1), ("v0", -1, 1), ("k_k", 0.3, 1.5), ("k_a", -0.5, 1.5),
          ("r_k", -0.6, 0.6), ("w1", 1.5), ("w2", 1.5), ("a1", 1.5), ("a2", 1.5), ("v1", 1.5), ("v2", 1.5), ("g1", 1.5), ("g2", 1.5),
          ("emb.weight", -0.01, 0.01),                       # so small that the eps of ln0 counts
          ("blocks.1.att.value.weight", 0.05),               # so small that the eps of the group norm counts
          ("head.weight", 2.0), ("ffn.value.weight", 0.4), ("bias", -0.3, 0.3)]

def strong(name, shape, rng):
    for end, *how in STRONG:
        if name.endswith(end) or (end[-1] == "*" and name[:-1].endswith("." + end[:-1])): break
    else: how = [0.5, 1.5] if len(shape) == 1 else [1.2]    # norms; matrices
    if len(how) == 1:                                        # LoRA matrices are [in, out], the others [out, in]
        a = how[0] * math.sqrt(3 / (shape[-1] if name.endswith(".weight") else shape[-2]))
        how = [-a, a]
    return torch.tensor([rng.uniform(*how) for _ in range(math.prod(shape))]).reshape(shape)

def model(version):
    """-> tensors in the type of the file, tokens"""
    m, rng = MODELS[version], random.Random(7000 + MODELS[version]["seed"])
    p = {n: strong(n, shape, rng).to(m["dtype"]) for n, shape in tensors(version, **m).items()}
    if version == "6": p = {n: x.float() if x.dim() == 1 or "faaaa" in n else x for n, x in p.items()}  # types may be mixed
    if version == "7":  # unused in layer 0: trainers write them, published files do not have them
        p = {n: x * 100 if n in ("blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2") else x for n, x in p.items()}
    return p, [int(rng.random() * m["V"]) for _ in range(T)]

def expected(version, p, tokens):
    m = MODELS[version]
    return run({n: x.double() for n, x in p.items()}, version, tokens, empty_state(version, m["L"], m["H"], m["N"]))

# ------------------------------------------------------------------------------------------------ output
def write_safetensors(name, content):
    kinds = {torch.float64: "F64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16", torch.float16: "F16"}
    header, data = {}, b""
    for n, x in sorted(content.items(), key=lambda item: -item[1].element_size()):
        x = x.contiguous()
        raw = (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy().tobytes()
        header[n] = {"dtype": kinds[x.dtype], "shape": list(x.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(DATA, name), "wb") as f: f.write(struct.pack("<Q", len(text)) + text + data)
    print(f"{name}: {len(header)} tensors, {8 + len(text) + len(data)} bytes")

def write_all():
    out = {}
    for version in MODELS:
        p, tokens = model(version)
        logits, middle, end = expected(version, p, tokens)
        out[f"{version}/tokens"], out[f"{version}/logits"] = torch.tensor(tokens).int(), logits.float()
        for t, state in ((MIDDLE, middle), (T, end)):
            out.update({f"{version}/state{t}/{l}/{n}": x.float() for l, s in enumerate(state) for n, x in s.items()})
        if version != "7": write_safetensors(f"run_{version}.safetensors", p)
        else:
            torch.save(p, os.path.join(DATA, "run_7.pth"))
            print(f"run_7.pth: {len(p)} tensors, {os.path.getsize(os.path.join(DATA, 'run_7.pth'))} bytes")
    write_safetensors("run_expected.safetensors", out)

def terms():
    for version in MODELS:
        p, tokens = model(version)
        whole = expected(version, p, tokens)[0]
        print(f"RWKV-{version}: logits from {whole.min():.2f} to {whole.max():.2f}")
        for term in ("ln eps", "group norm eps", "per head", "tanh", "bonus", "gate", "ddlerp", "decay lora", "value residual", "k_k", "kk per head", "k_a"):
            OFF.add(term)
            moved = (expected(version, p, tokens)[0] - whole).abs().max()
            OFF.clear()
            if moved > 0: print(f"  without {term:16s} a logit moves by {moved:.3g}")

if __name__ == "__main__":
    if sys.argv[1:] == ["--terms"]: terms()
    elif not sys.argv[1:]: write_all()
    else: sys.exit("usage: python3 dev/reference/run.py [--terms]")
