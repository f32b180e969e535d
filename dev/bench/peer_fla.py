#!/usr/bin/env python3
"""Training speed of the RWKV-7 of flash-linear-attention (Triton kernels), at the sizes of dev/bench/step.sh, in bf16.

    python3 dev/bench/peer_fla.py .peers/flash-linear-attention [NAME ...]

Their model is imported from the clone as it is, with heads of 64, LoRAs of the official widths, fused norms, fused
cross-entropy and L2Wrap; it needs torch with triton, transformers and einops. The loop and its conditions are
dev/bench/peer.py's.
"""
import sys
import peer


def main():
    clone = peer.clone(".peers/flash-linear-attention", "fla/models/rwkv7")
    torch = peer.torch_on_gpu()
    sys.path.insert(0, clone)
    try:
        with peer.QuietBuild():
            from fla.models import RWKV7Config, RWKV7ForCausalLM
    except ImportError as e:
        sys.exit(f"error: fla cannot be imported ({e}): it needs triton, transformers and einops beside torch")

    def make_step(L, C, V, T, B):
        w, a, v, g = peer.lora_widths(C)
        model = RWKV7ForCausalLM(RWKV7Config(
            hidden_size=C, num_hidden_layers=L, head_dim=64, hidden_ratio=4, vocab_size=V, max_position_embeddings=T, decay_low_rank_dim=w,
            a_low_rank_dim=a, v_low_rank_dim=v, gate_low_rank_dim=g, use_cache=False, use_l2warp=True)).cuda().bfloat16().train()

        def group(name, p):
            return (1.0, 0.001 if p.squeeze().dim() >= 2 else 0.0)
        # shift_labels: targets that are shifted already, so that every position counts
        return peer.Trained(torch, model, lambda x, y: model(input_ids=x, shift_labels=y, use_cache=False).loss, 6e-4, (0.9, 0.99), 1e-18, group).step

    peer.table(torch, make_step, sys.argv[2:])


if __name__ == "__main__":
    main()
