#!/usr/bin/env python3
"""Training speed of nanoGPT's GPT-2 in PyTorch, compiled, in bf16.

    python3 dev/bench/peer_nanogpt.py .peers/nanoGPT [NAME ...]

Their model file is imported from the clone as it is and trained in its own way: fp32 parameters under autocast to bf16, flash
attention, torch.compile, its fused AdamW, gradient norm clipped to 1. Biases and a vocabulary padded to 50304 as its
train.py has for GPT-2.
"""
import sys
import peer

SIZES = {  # name: layers, dim, vocabulary, ctx, batch
    "GPT-2-124M": (12, 768, 50304, 1024, 16),
    "GPT-2-350M": (24, 1024, 50304, 1024, 8),
}


def main():
    clone = peer.clone(".peers/nanoGPT", "model.py")
    torch = peer.torch_on_gpu()
    sys.path.insert(0, clone)
    torch.backends.cuda.matmul.allow_tf32 = True
    with peer.QuietBuild():
        from model import GPT, GPTConfig

    def make_step(L, C, V, T, B):
        gpt = GPT(GPTConfig(block_size=T, vocab_size=V, n_layer=L, n_head=C // 64, n_embd=C, dropout=0.0, bias=True)).cuda()
        optimizer = gpt.configure_optimizers(weight_decay=0.1, learning_rate=6e-4, betas=(0.9, 0.95), device_type="cuda")
        model = torch.compile(gpt)

        def step(x, y):
            with torch.autocast("cuda", torch.bfloat16):
                _, loss = model(x, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss.detach()
        return step

    peer.table(torch, make_step, sys.argv[2:], SIZES)


if __name__ == "__main__":
    main()
