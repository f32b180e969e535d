#!/usr/bin/python3
"""dev/reference/gpt2.py: GPT-2 and its variants in plain PyTorch, float64, autograd. It writes the numbers that the
C++ tests compare against; nothing needs it to build or run.

    python3 dev/reference/gpt2.py             writes tests/data/gpt2_{a,b,c,hf}.safetensors and gpt2_hf.pth
    python3 dev/reference/gpt2.py --verify    checks autograd by finite differences, writes nothing

Parameters and gradients lie in the files as Hugging Face's GPT-2 has them: matrices of linear layers are [in, out],
except lm_head.weight [V, C]. Inputs are float32 numbers, results float64."""
import collections, math, random, sys
import torch
from torch.nn.functional import cross_entropy, gelu, layer_norm
from rwkv4 import BETA1, CLIP, DATA, DECAY, LR, STEPS, Numbers, worst_difference, write_safetensors

BETA2 = 0.95
EPS = 1e-5  # the bias of k has no gradient but rounding, which a smaller one would turn into a step

# a: OpenAI's.  b: the seeds' baseline (ReLU, no bias in q k v, untied head with bias, head size 12).
# c: rotary positions and GeGLU without any bias, untied head, and RWKV-v1's factor per position.
MODELS = {
    "a": dict(seed=2001, L=2, C=16, H=2, V=29, P=17, B=2, T=17, activation="gelu", bias="on", head="tied"),
    "b": dict(seed=2002, L=1, C=24, H=2, V=21, P=11, B=2, T=11, activation="relu", bias="not-qkv", head="untied-bias"),
    "c": dict(seed=2003, L=2, C=16, H=2, V=23, P=19, B=2, T=19, activation="geglu", bias="off", head="untied", rotary=True, time_out=True),
}

# ---------------------------------------------------------------------------------------------- the model
def tensors(L, C, V, P, activation, bias, head, rotary=False, time_out=False, **_):
    """name -> shape, as in a file"""
    F = 3 * C if activation == "geglu" else 4 * C
    t = {"wte.weight": (V, C)}
    if not rotary:
        t["wpe.weight"] = (P, C)
    for l in range(L):
        b = f"h.{l}."
        t[b + "ln_1.weight"] = t[b + "ln_2.weight"] = (C,)
        t[b + "attn.c_attn.weight"] = (C, 3 * C)
        t[b + "attn.c_proj.weight"] = (C, C)
        t[b + "mlp.c_fc.weight"] = (C, 2 * F if activation == "geglu" else F)
        t[b + "mlp.c_proj.weight"] = (F, C)
        if bias != "off":
            for n in ("attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
                t[b + n + ".bias"] = t[b + n + ".weight"][1:]
            t[b + "ln_1.bias"] = t[b + "ln_2.bias"] = (C,)
        if bias == "on":
            t[b + "attn.c_attn.bias"] = (3 * C,)
    t["ln_f.weight"] = (C,)
    if bias != "off":
        t["ln_f.bias"] = (C,)
    if time_out:
        t["time_out"] = (P,)
    if head != "tied":
        t["lm_head.weight"] = (V, C)
    if head == "untied-bias":
        t["lm_head.bias"] = (V,)
    return t

def rotate(x):
    """x [B,H,T,N]: the first 2n channels of a head are n pairs (i, n + i), turned by t 10000^(-i/n), n = N/4."""
    T, N = x.shape[-2:]
    n = N // 4
    angle = torch.arange(T)[:, None] * 10000.0 ** (-torch.arange(n) / n)
    a, b, rest = x[..., :n], x[..., n:2 * n], x[..., 2 * n:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin(), rest], -1)

def forward(p, tokens, L, C, H, activation, rotary=False, time_out=False, **_):
    """tokens [B,T] -> logits [B,T,V]"""
    B, T = tokens.shape
    ln = lambda x, n: layer_norm(x, (C,), p[n + ".weight"], p.get(n + ".bias"), 1e-5)
    linear = lambda x, n: x @ p[n + ".weight"] + p.get(n + ".bias", 0)
    x = p["wte.weight"][tokens]
    if not rotary:
        x = x + p["wpe.weight"][:T]
    future = torch.ones(T, T).triu(1).bool()
    for l in range(L):
        b = f"h.{l}."
        q, k, v = (s.view(B, T, H, C // H).transpose(1, 2) for s in linear(ln(x, b + "ln_1"), b + "attn.c_attn").split(C, -1))
        if rotary:
            q, k = rotate(q), rotate(k)
        score = (q @ k.transpose(-1, -2) / math.sqrt(C // H)).masked_fill(future, -math.inf)
        y = (score.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C)
        x = x + linear(y, b + "attn.c_proj")
        h = linear(ln(x, b + "ln_2"), b + "mlp.c_fc")
        if activation == "geglu":
            gate, value = h.chunk(2, -1)
            h = gelu(gate, approximate="tanh") * value
        else:
            h = torch.relu(h) if activation == "relu" else gelu(h, approximate="tanh")
        x = x + linear(h, b + "mlp.c_proj")
    x = ln(x, "ln_f")
    if time_out:
        x = x * p["time_out"][:T, None]
    return x @ p.get("lm_head.weight", p["wte.weight"]).T + p.get("lm_head.bias", 0)

def gradients(p, tokens, model):
    """-> loss, logits, {name: gradient}"""
    p = {n: x.clone().requires_grad_() for n, x in p.items()}
    logits = forward(p, tokens[:, :-1], **model)
    loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    return loss.detach(), logits.detach(), {n: x.grad for n, x in p.items()}

def adamw(p, tokens, model):
    """STEPS steps on the same batch -> the parameters after them, the gradient norm before clipping at each."""
    p = {n: x.clone() for n, x in p.items()}
    m, v, norms = {n: 0 for n in p}, {n: 0 for n in p}, []
    for step in range(1, STEPS + 1):
        grad = gradients(p, tokens, model)[2]
        norms.append(math.sqrt(sum((g ** 2).sum().item() for g in grad.values())))
        clip = max(1.0, (norms[-1] + 1e-6) / CLIP)
        for n, g in grad.items():
            g = g / clip
            m[n], v[n] = BETA1 * m[n] + (1 - BETA1) * g, BETA2 * v[n] + (1 - BETA2) * g * g
            update = m[n] / (1 - BETA1 ** step) / (torch.sqrt(v[n] / (1 - BETA2 ** step)) + EPS)
            p[n] = p[n] - LR * (update + (DECAY if p[n].dim() == 2 else 0.0) * p[n])
    return p, norms

# --------------------------------------------------------------------------------------------- the inputs
def strong(rng, name, shape):
    """Weights far from the initial ones, so that no term hides behind another: softmaxes are far from uniform."""
    if name == "time_out" or name.endswith(".weight") and len(shape) == 1:
        return rng.uniform(shape, 0.5, 1.5)
    if len(shape) == 1:
        return rng.uniform(shape, -0.3, 0.3)
    if name in ("wte.weight", "wpe.weight"):
        return rng.uniform(shape, -1, 1)
    inputs = shape[1] if name == "lm_head.weight" else shape[0]
    a = 1.25 * math.sqrt(3 / inputs)  # U(-a,a) has standard deviation a / sqrt(3)
    return rng.uniform(shape, -a, a)

def model_inputs(model):
    rng = Numbers(model["seed"])
    p = {n: strong(rng, n, shape) for n, shape in tensors(**model).items()}
    return p, rng.integers((model["B"], model["T"] + 1), model["V"])

# ------------------------------------------------------------------------------------------------ output
def write_model(which):
    model = MODELS[which]
    p, tokens = model_inputs(model)
    loss, logits, grad = gradients(p, tokens, model)
    after, norms = adamw(p, tokens, model)
    content = {"tokens": tokens.int(), "logits": logits, "loss": loss.reshape(1)}
    content.update({f"param/{n}": x.float() for n, x in p.items()})
    content.update({f"grad/{n}": x for n, x in grad.items()})
    content.update({f"adam3/{n}": x for n, x in after.items()})
    content.update({f"norm/step_{i + 1}": torch.tensor([x]) for i, x in enumerate(norms)})
    print(f"  loss {loss:.6f}, norms {[round(x, 4) for x in norms]}")
    about = {k: int(x) if isinstance(x, bool) else x for k, x in model.items()}
    about["F"] = p["h.0.mlp.c_proj.weight"].shape[0]
    write_safetensors(f"gpt2_{which}.safetensors", content, dict(
        made_by="python3 dev/reference/gpt2.py", torch=torch.__version__, **about,
        adamw=f"lr {LR}, betas {BETA1} {BETA2}, eps {EPS}, decay {DECAY} on matrices, clip {CLIP}, {STEPS} steps on the same batch"))

def write_hugging_face():
    """The same weights as OpenAI's file on the hub (no prefix) and as torch.save(model.state_dict()) writes them: prefix,
    tied head, the buffers of old versions."""
    model = dict(seed=2004, L=2, C=8, H=2, V=13, P=9, B=1, T=9, activation="gelu", bias="on", head="tied")
    p, tokens = model_inputs(model)
    logits = forward(p, tokens[:, :-1], **model)
    p = {n: x.float() for n, x in p.items()}
    mask = torch.ones(9, 9).tril().view(1, 1, 9, 9)
    write_safetensors("gpt2_hf.safetensors", {**p, "expected.logits": logits, "expected.tokens": tokens[:, :-1].int(),
                                              **{f"h.{l}.attn.bias": mask.float() for l in range(2)}}, dict(format="pt"))
    state = collections.OrderedDict()
    for n, x in p.items():
        if n.endswith("attn.c_attn.weight"):
            state["transformer." + n.replace("c_attn.weight", "bias")] = mask.byte()
            state["transformer." + n.replace("c_attn.weight", "masked_bias")] = torch.tensor(-1e4).float()
        state["transformer." + n] = x
    state["lm_head.weight"] = p["wte.weight"]
    torch.save(state, f"{DATA}/gpt2_hf.pth")

# ---------------------------------------------------------------------------------------------- the check
def verify():
    worst, entries = 0.0, random.Random(1)
    for which, model in MODELS.items():
        p, tokens = model_inputs(model)
        grad = gradients(p, tokens, model)[2]
        loss_at = lambda: cross_entropy(forward(p, tokens[:, :-1], **model).flatten(0, 1), tokens[:, 1:].flatten()).item()
        with torch.no_grad():
            for n in p:
                worst = max(worst, worst_difference(f"{which} {n}", loss_at, p[n], grad[n], entries))
    print(f"worst relative difference {worst:.1e}")
    if not worst <= 1e-6:
        sys.exit("error: a gradient differs from its finite difference by more than 1e-6")

if __name__ == "__main__":
    if sys.argv[1:] == ["--verify"]:
        verify()
    elif not sys.argv[1:]:
        for which in MODELS:
            write_model(which)
        write_hugging_face()
    else:
        sys.exit("usage: python3 dev/reference/gpt2.py [--verify]")
