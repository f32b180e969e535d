#!/usr/bin/env python3
"""The official RWKV-7 trainer (train_temp of RWKV-LM) in PyTorch: its speed at the sizes of dev/bench/step.sh, and its losses.

    python3 dev/bench/peer_rwkv7.py .peers/RWKV-LM [NAME ...]
    python3 dev/bench/peer_rwkv7.py .peers/RWKV-LM losses WEIGHTS.pth DATA.bin CTX BATCH STEPS

Their model file and CUDA kernels (@rwkv3, no recomputation, no chunked head) are imported from the clone as they are; only
the loop is ours (dev/bench/peer.py): learning rate 6e-4, twice that for att.w0, weight decay 0.001 on the large matrices, Adam eps 1e-18.
`losses` starts from the weights and takes the samples of a .bin/.idx pair (uint16) in the official order, with the learning
rate constant at 6e-4, and prints a loss a step. The same of ours:
    ./train_rwkv7 --load WEIGHTS.pth --train DATA.bin --order official --ctx CTX --batch BATCH --steps STEPS --schedule constant \\
        --lr 6e-4 --weight-decay 0.001 --log run.jsonl
"""
import math
import mmap
import os
import sys
import types
import peer


def trained(torch, model_file, L, C, V, T, weights=None):
    args = types.SimpleNamespace(n_layer=L, n_embd=C, dim_att=C, dim_ffn=4 * C, vocab_size=V, ctx_len=T, head_size=64, my_testing="x070",
                                 grad_cp=0, weight_decay=0.001, lr_init=6e-4, betas=(0.9, 0.99), adam_eps=1e-18)
    model = model_file.RWKV(args)
    if weights:
        missing = model.load_state_dict(weights, strict=False).missing_keys
        if any(not n.startswith("blocks.0.att.v") for n in missing):  # those of layer 0 are not used
            sys.exit(f"error: the weights have no {missing[0]}")
    model = model.cuda().bfloat16()

    def group(name, p):
        return (2.0, 0.0) if "att.w0" in name else (1.0, 0.001 if p.squeeze().dim() >= 2 and ".weight" in name else 0.0)
    return peer.Trained(torch, model, lambda x, y: model.training_step((x, y), 0), 6e-4, (0.9, 0.99), 1e-18, group)


def losses(torch, model_file, weights_file, data, ctx, batch, steps):
    weights = torch.load(weights_file, map_location="cpu", weights_only=True)
    with open(data, "rb") as f:
        tokens = memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)).cast("H")
    prime = len(tokens) // ctx - 1
    while not (prime % 3 == 2 and all(prime % i for i in range(2, math.isqrt(prime) + 1))):
        prime -= 1
    factor = int(prime * ((math.sqrt(5) - 1) / 2))
    C, V = weights["emb.weight"].shape[1], weights["emb.weight"].shape[0]
    L = 1 + max(int(n.split(".")[1]) for n in weights if n.startswith("blocks."))
    with peer.QuietBuild():
        model = trained(torch, model_file, L, C, V, ctx, weights)
    for s in range(steps):
        starts = [factor * i ** 3 % prime * ctx for i in range(1 + s * batch, 1 + (s + 1) * batch)]
        block = torch.tensor([tokens[a:a + ctx + 1].tolist() for a in starts]).cuda()
        loss = model.step(block[:, :-1].contiguous(), block[:, 1:].contiguous())
        print(f'{{"step":{s + 1},"loss":{loss.item():.6f}}}', flush=True)


def main():
    clone = peer.clone(".peers/RWKV-LM", "RWKV-v7/train_temp/src/model.py")
    run_losses = sys.argv[2:3] == ["losses"]
    if run_losses and (len(sys.argv) != 8 or not all(a.isdigit() for a in sys.argv[5:])):
        sys.exit("error: losses needs WEIGHTS.pth DATA.bin CTX BATCH STEPS")
    files = [os.path.abspath(a) for a in sys.argv[3:5]] if run_losses else []
    for f in files:
        if not os.path.isfile(f):
            sys.exit(f"error: there is no file {f}")
    torch = peer.torch_on_gpu()
    ctx = int(sys.argv[5]) if run_losses else max(s[3] for s in peer.SIZES.values())
    os.environ.update(RWKV_JIT_ON="1", RWKV_FLOAT_MODE="bf16", RWKV_MY_TESTING="x070", RWKV_KERNEL="@rwkv3", RWKV_HEAD_SIZE="64",
                      RWKV_CTXLEN=str(ctx), RWKV_HEAD_L2WRAP_CE_CHUNK="0")
    os.chdir(os.path.join(clone, "RWKV-v7", "train_temp"))  # their kernels are named relative to it
    sys.path.insert(0, os.getcwd())
    peer.lightning_stand_ins(torch)
    with peer.QuietBuild():
        from src import model as model_file
    if run_losses:
        losses(torch, model_file, *files, ctx, int(sys.argv[6]), int(sys.argv[7]))
    else:
        peer.table(torch, lambda L, C, V, T, B: trained(torch, model_file, L, C, V, T).step, sys.argv[2:])


if __name__ == "__main__":
    main()
