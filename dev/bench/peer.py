"""What the peer_*.py scripts share: sizes, mixed precision as train_rwkv7 and train_gpt2 have it, timing, the table.

A peer is imported from a clone that the user has put under .peers/, as it is; nothing of it is here. Conditions: random
tokens, bf16 parameters with fp32 master weights unless the peer does it in its own way, fused AdamW, gradient norm clipped
to 1, 10 steps of warm-up, median of 30 steps by CUDA events.
"""
import os
import sys
import types

WARMUP, STEPS = 10, 30
SIZES = {  # name: layers, dim, vocabulary, ctx, batch; as in step.sh
    "0.1B": (12, 768, 65536, 1024, 32),
    "0.1B-ctx512": (12, 768, 65536, 512, 16),
    "0.4B": (24, 1024, 65536, 1024, 16),
    "1.5B": (24, 2048, 65536, 1024, 8),
}


def lora_widths(dim):
    """Widths of the LoRAs for decay, in-context rate, value and gate: the formulas of the official train_temp."""
    return [max(32, round(factor * dim ** 0.5 / 32) * 32) for factor in (2.5, 2.5, 1.7, 5)]


class Empty:
    def __init__(self, *args, **kwargs):
        pass


def stand_in(name, **contents):
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    sys.modules[name] = module


def lightning_stand_ins(torch):
    """pytorch-lightning and deepspeed, empty, where they are not installed: nothing of them runs here."""
    def quiet(*args, **kwargs):
        pass
    try:
        import pytorch_lightning  # noqa: F401
    except ImportError:
        stand_in("pytorch_lightning", LightningModule=torch.nn.Module)
        stand_in("pytorch_lightning.utilities", rank_zero_info=quiet, rank_zero_only=lambda f: f)
        stand_in("pytorch_lightning.strategies", DeepSpeedStrategy=Empty)
    try:
        import deepspeed  # noqa: F401
    except ImportError:
        stand_in("deepspeed", checkpointing=Empty())
        stand_in("deepspeed.ops")
        stand_in("deepspeed.ops.adam", DeepSpeedCPUAdam=Empty, FusedAdam=Empty)


class Trained:
    """A bf16 model with fp32 master weights. group(name, parameter) gives (lr factor, weight decay) of a tensor."""

    def __init__(self, torch, model, loss, lr, betas, eps, group):
        self.torch, self.loss, self.named = torch, loss, list(model.named_parameters())
        self.master = [p.detach().float().clone() for _, p in self.named]
        for m in self.master:
            m.grad = torch.zeros_like(m)
        groups = {}
        for (name, p), m in zip(self.named, self.master):
            groups.setdefault(group(name, p), []).append(m)
        self.optimizer = torch.optim.AdamW([{"params": ms, "lr": lr * factor, "weight_decay": decay} for (factor, decay), ms in groups.items()],
                                           betas=betas, eps=eps, fused=True)

    def step(self, x, y):
        torch, params = self.torch, [p for _, p in self.named]
        loss = self.loss(x, y)
        loss.backward()
        used = [(m.grad, p.grad) for m, p in zip(self.master, params) if p.grad is not None]  # v0, v1, v2 of layer 0 have none
        torch._foreach_copy_([m for m, _ in used], [p for _, p in used])
        torch.nn.utils.clip_grad_norm_(self.master, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(params, self.master)
        for p in params:
            p.grad = None
        return loss.detach()


def clone(example, inside):
    """The clone named on the command line; `inside` is a path that it must have."""
    if len(sys.argv) < 2 or not os.path.exists(os.path.join(sys.argv[1], inside)):
        sys.exit(f"error: name a clone that has {inside}, for example: {os.path.basename(sys.argv[0])} {example}")
    return os.path.abspath(sys.argv[1])


def torch_on_gpu():
    try:
        import torch
    except ImportError:
        sys.exit("error: this python3 has no torch; run the script with one that has")
    if not torch.cuda.is_available():
        sys.exit("error: torch sees no GPU")
    return torch


class QuietBuild:
    """What the build of a peer's kernels prints is not part of the table."""

    def __enter__(self):
        sys.stdout.flush()
        self.out = os.dup(1)
        os.dup2(2, 1)

    def __exit__(self, *error):
        sys.stdout.flush()
        os.dup2(self.out, 1)
        os.close(self.out)


def measure(torch, step, vocab, ctx, batch):
    tokens = torch.randint(vocab, (batch, ctx + 1), device="cuda")
    x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    for _ in range(WARMUP):
        loss = step(x, y)
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(STEPS):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        step(x, y)
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop))
    if not torch.isfinite(loss):
        raise RuntimeError("the loss is not finite")
    return sorted(times)[STEPS // 2], torch.cuda.max_memory_allocated() / 1e9


def table(torch, make_step, names, sizes=SIZES):
    """Prints a row per size; make_step(L, C, V, T, B) returns step(x, y)."""
    wrong = [n for n in names if n not in sizes]
    if wrong:
        sys.exit(f"error: there is no size {wrong[0]}; there are {', '.join(sizes)}")
    print("| size | shape L,C,V,T,B | ms/step (median) | tokens/s | steps | memory |\n|---|---|---|---|---|---|")
    for name in names or sizes:
        L, C, V, T, B = sizes[name]
        step = None
        try:
            torch.manual_seed(1)
            with QuietBuild():
                step = make_step(L, C, V, T, B)
                ms, gigabytes = measure(torch, step, V, T, B)
            print(f"| {name} | {L},{C},{V},{T},{B} | {ms:.2f} | {B * T / ms * 1000:.0f} | {STEPS} | {gigabytes:.2f} GB |", flush=True)
        except Exception as e:  # one size that does not fit must not cost the others
            print(f"| {name} | {L},{C},{V},{T},{B} | failed: {(str(e) or repr(e)).splitlines()[0][:120]} | | | |", flush=True)
        del step
        torch.cuda.empty_cache()
