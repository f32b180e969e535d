#!/usr/bin/env python3
"""Training speed of the official RWKV-4 (v4neo) in PyTorch, at the sizes of dev/bench/step.sh, in bf16.

    python3 dev/bench/peer_rwkv4.py .peers/RWKV-LM [NAME ...]

Their model file and CUDA kernel are imported from the clone as they are; only the loop is ours (dev/bench/peer.py), with the
official learning-rate factors, and L2Wrap as their trainer has it.
"""
import os
import sys
import types
import peer

SIZES = {  # name: layers, dim, vocabulary, ctx, batch; as in step.sh
    "169M": (12, 768, 50277, 1024, 64),
    "169M-ctx512": (12, 768, 50277, 512, 16),
    "430M": (24, 1024, 50277, 1024, 32),
    "90M-char": (12, 768, 56, 256, 8),
}


def trained(torch, model_file, L, C, V, T):
    args = types.SimpleNamespace(
        n_layer=L, n_embd=C, vocab_size=V, ctx_len=T, my_testing="", my_pos_emb=0, pre_ffn=0, tiny_att_dim=0,
        tiny_att_layer=-999, head_qk=0, grad_cp=0, layerwise_lr=1, my_pile_stage=0, dim_att=C, dim_ffn=4 * C, dropout=0,
        weight_decay=0, weight_decay_final=-1, my_qa_mask=0, lr_init=6e-4, lr_final=1e-5, betas=(0.9, 0.99), adam_eps=1e-8)
    model = model_file.RWKV(args).cuda().bfloat16()

    def loss(x, y):
        logits = model(x)
        return model_file.L2Wrap.apply(torch.nn.functional.cross_entropy(logits.view(-1, V), y.view(-1)), logits)

    def group(name, p):
        return (2.0 if "time_decay" in name else 3.0 if "time_first" in name else 1.0), 0.0
    return peer.Trained(torch, model, loss, 6e-4, (0.9, 0.99), 1e-8, group)


def main():
    clone = peer.clone(".peers/RWKV-LM", "RWKV-v4neo/src/model.py")
    torch = peer.torch_on_gpu()
    longest = max(s[3] for s in SIZES.values())
    os.environ.update(RWKV_JIT_ON="1", RWKV_T_MAX=str(longest), RWKV_FLOAT_MODE="bf16", RWKV_MY_TESTING="")
    os.chdir(os.path.join(clone, "RWKV-v4neo"))  # their kernel is named relative to it
    sys.path.insert(0, os.getcwd())
    peer.lightning_stand_ins(torch)
    with peer.QuietBuild():
        from src import model as model_file
    peer.table(torch, lambda L, C, V, T, B: trained(torch, model_file, L, C, V, T).step, sys.argv[2:], SIZES)


if __name__ == "__main__":
    main()
