#!/usr/bin/env python3
"""Training speed of the official RWKV-4 (v4neo) in PyTorch, at the sizes of dev/bench/step.sh, in bf16.

    python3 dev/bench/peer_rwkv4.py .peers/RWKV-LM [NAME ...]

Their model file and CUDA kernel are imported from the clone as they are; only this loop is ours. The conditions are those
of train_rwkv: bf16 parameters with fp32 master weights, fused AdamW with the official learning-rate factors, gradient norm
clipped to 1, L2Wrap, random tokens, 10 steps of warm-up, median of 30 steps by CUDA events. pytorch-lightning and deepspeed
are replaced by empty stand-ins when they are not installed: nothing of them runs here. Prints rows like those of step.sh.
"""
import os
import sys
import types

SIZES = {  # name: layers, dim, vocabulary, ctx, batch; as in step.sh
    "169M": (12, 768, 50277, 1024, 64),
    "169M-ctx512": (12, 768, 50277, 512, 16),
    "430M": (24, 1024, 50277, 1024, 32),
    "90M-char": (12, 768, 56, 256, 8),
}
WARMUP, STEPS = 10, 30


class Empty:
    def __init__(self, *args, **kwargs):
        pass


def stand_in(name, **contents):
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    sys.modules[name] = module
    return module


def stand_ins(torch):
    try:
        import pytorch_lightning  # noqa: F401
    except ImportError:
        def quiet(*args, **kwargs):
            pass
        stand_in("pytorch_lightning", LightningModule=torch.nn.Module)
        stand_in("pytorch_lightning.utilities", rank_zero_info=quiet, rank_zero_only=lambda f: f)
        stand_in("pytorch_lightning.strategies", DeepSpeedStrategy=Empty)
    try:
        import deepspeed  # noqa: F401
    except ImportError:
        stand_in("deepspeed", checkpointing=Empty())
        stand_in("deepspeed.ops")
        stand_in("deepspeed.ops.adam", DeepSpeedCPUAdam=Empty, FusedAdam=Empty)


def factor(name):
    return 2.0 if "time_decay" in name else 3.0 if "time_first" in name else 1.0


def measure(torch, model_file, layers, dim, vocab, ctx, batch):
    functional = torch.nn.functional
    torch.manual_seed(1)
    args = types.SimpleNamespace(
        n_layer=layers, n_embd=dim, vocab_size=vocab, ctx_len=ctx, my_testing="", my_pos_emb=0, pre_ffn=0, tiny_att_dim=0,
        tiny_att_layer=-999, head_qk=0, grad_cp=0, layerwise_lr=1, my_pile_stage=0, dim_att=dim, dim_ffn=4 * dim, dropout=0,
        weight_decay=0, weight_decay_final=-1, my_qa_mask=0, lr_init=6e-4, lr_final=1e-5, betas=(0.9, 0.99), adam_eps=1e-8)
    model = model_file.RWKV(args).cuda().bfloat16()
    named = list(model.named_parameters())
    params = [p for _, p in named]
    master = [p.detach().float().clone() for p in params]
    for m in master:
        m.grad = torch.zeros_like(m)
    groups = [{"params": [m for (n, _), m in zip(named, master) if factor(n) == f], "lr": 6e-4 * f} for f in (1.0, 2.0, 3.0)]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-8, weight_decay=0, fused=True)
    tokens = torch.randint(vocab, (batch, ctx + 1), device="cuda")
    x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step():
        logits = model(x)
        loss = functional.cross_entropy(logits.view(-1, vocab), y.view(-1))
        model_file.L2Wrap.apply(loss, logits).backward()
        torch._foreach_copy_([m.grad for m in master], [p.grad for p in params])
        torch.nn.utils.clip_grad_norm_(master, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(params, master)
        for p in params:
            p.grad = None
        return loss

    for _ in range(WARMUP):
        first = step()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(STEPS):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        step()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop))
    if not torch.isfinite(first):
        raise RuntimeError("the loss is not finite")
    return sorted(times)[STEPS // 2], torch.cuda.max_memory_allocated() / 1e9


def main():
    if len(sys.argv) < 2 or not os.path.isdir(os.path.join(sys.argv[1], "RWKV-v4neo", "src")):
        sys.exit("error: name a clone of RWKV-LM that has RWKV-v4neo/src, for example: peer_rwkv4.py .peers/RWKV-LM")
    import torch
    if not torch.cuda.is_available():
        sys.exit("error: torch sees no GPU")
    names = sys.argv[2:] or list(SIZES)
    longest = max(SIZES[n][3] for n in names)
    os.environ.update(RWKV_JIT_ON="1", RWKV_T_MAX=str(longest), RWKV_FLOAT_MODE="bf16", RWKV_MY_TESTING="")
    os.chdir(os.path.join(sys.argv[1], "RWKV-v4neo"))  # their kernel is named relative to it
    sys.path.insert(0, os.getcwd())
    stand_ins(torch)
    out = os.dup(1)
    os.dup2(2, 1)  # what the build of the kernel prints is not part of the table
    from src import model as model_file
    sys.stdout.flush()
    os.dup2(out, 1)
    print("| size | shape L,C,V,T,B | ms/step (median) | tokens/s | steps | memory |\n|---|---|---|---|---|---|")
    for name in names:
        L, C, V, T, B = SIZES[name]
        try:
            ms, gigabytes = measure(torch, model_file, L, C, V, T, B)
            print(f"| {name} | {L},{C},{V},{T},{B} | {ms:.2f} | {B * T / ms * 1000:.0f} | {STEPS} | {gigabytes:.2f} GB |", flush=True)
        except Exception as e:  # one size that does not fit must not cost the others
            print(f"| {name} | {L},{C},{V},{T},{B} | failed: {str(e).splitlines()[0][:120]} | | | |", flush=True)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
