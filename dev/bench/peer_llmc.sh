#!/bin/bash
# dev/bench/peer_llmc.sh: training speed of llm.c's GPT-2, as rows of a Markdown table.
#
#     dev/bench/peer_llmc.sh [.peers/llm.c]
#
# Runs what has been built there with its own Makefile: train_gpt2cu (make train_gpt2cu; bf16, on a GPU, at the shapes of
# train_gpt2.cu) and train_gpt2 (make train_gpt2; fp32, on the CPU with OpenMP). Models and tokens are made here in a scratch
# folder: the CPU program reads its shape from a weight file, all weights 0.01, and always trains 4 sequences of 64 tokens.
# Ours at the same: dev/bench/step.sh ./train_gpt2 demo-4x64 L6-C256-4x64 124M-4x64
# Median over the steps without the first three. STEPS=30 SECONDS_EACH=60 OMP_NUM_THREADS=...
set -euo pipefail
clone=$(cd "${1:-.peers/llm.c}" 2>/dev/null && pwd) || { echo "error: ${1:-.peers/llm.c} is not there: put a clone of llm.c there and build it, or name one" >&2; exit 1; }
STEPS=${STEPS:-30} SECONDS_EACH=${SECONDS_EACH:-60}
if ! [ -x "$clone/train_gpt2cu" ] && ! [ -x "$clone/train_gpt2" ]; then
    echo "error: $clone has neither train_gpt2cu nor train_gpt2: run make train_gpt2cu or make train_gpt2 in it" >&2
    exit 1
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

int32() { for n; do printf '%b' "$(printf '\\x%02x\\x%02x\\x%02x\\x%02x' $((n & 255)) $((n >> 8 & 255)) $((n >> 16 & 255)) $((n >> 24 & 255)))"; done; }
shard() {  # VOCAB FILE: 1,048,576 tokens in a row, 0 1 2 ... VOCAB-1 0 1 ...
    { int32 20240520 1 1048576; head -c 1012 /dev/zero; } >"$2"
    awk -v V="$1" 'BEGIN { for (i = 0; i < V; i++) printf "\\x%02x\\x%02x\n", i % 256, int(i / 256) }' | while read -r t; do printf '%b' "$t"; done >"$tmp/count"
    for ((n = $1; n < 1048576; n *= 2)); do cat "$tmp/count" "$tmp/count" >"$tmp/twice" && mv "$tmp/twice" "$tmp/count"; done
    head -c 2097152 "$tmp/count" >>"$2"
}
weights() {  # LAYERS DIM HEADS VOCAB FILE
    local L=$1 C=$2 V=$4 P=$((($4 + 127) / 128 * 128))
    local count=$((P * C + 1024 * C + L * (12 * C * C + 13 * C) + 2 * C))
    { int32 20240326 3 1024 "$V" "$L" "$3" "$C" "$P"; head -c 992 /dev/zero; } >"$5"
    { yes $'\x0b\xd7\x23\x3c' || true; } 2>/dev/null | tr -d '\n' | head -c $((4 * count)) >>"$5" || true
}
row() { # NAME SHAPE TOKENS: milliseconds of the steps on standard input
    tail -n +4 | sort -g | awk -v n="$1" -v s="$2" -v tokens="$3" '{ v[NR] = $1 }
        END { if (!NR) { printf "| %s | %s | failed: no more than 3 steps | | |\n", n, s; exit } ms = (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2
              printf "| %s | %s | %.2f | %.0f | %d |\n", n, s, ms, tokens / ms * 1000, NR }'
}

echo "| size | shape L,C,V,T,B | ms/step (median) | tokens/s | steps |"
echo "|---|---|---|---|---|"
# --foreground: in the process group of this script, so that who stops the script stops the trainer too
if [ -x "$clone/train_gpt2cu" ]; then
    shard 50257 "$tmp/gpt2.bin"
    while read -r name L C T B; do
        [ -n "$name" ] || continue
        (cd "$tmp" && timeout --foreground "$SECONDS_EACH" "$clone/train_gpt2cu" -i gpt2.bin -j gpt2.bin -e "d$L" -b "$B" -t "$T" -x $((STEPS + 3)) -v 100000 -m 1 -s 0 -r 0 >"$tmp/out" 2>&1) || true
        sed -n 's/^step .*| \([0-9.]*\) ms |.*/\1/p' "$tmp/out" | row "$name (GPU)" "$L,$C,50257,$T,$B" $((B * T))
    done <<<"
GPT-2-124M 12 768 1024 16
GPT-2-350M 24 1024 1024 8"
fi
if [ -x "$clone/train_gpt2" ]; then
    mkdir -p "$tmp/dev/data/tinyshakespeare"
    while read -r name L C H V; do
        [ -n "$name" ] || continue
        weights "$L" "$C" "$H" "$V" "$tmp/gpt2_124M.bin"
        shard "$V" "$tmp/dev/data/tinyshakespeare/tiny_shakespeare_train.bin"
        cp "$tmp"/dev/data/tinyshakespeare/tiny_shakespeare_{train,val}.bin
        { (cd "$tmp" && timeout --foreground "$SECONDS_EACH" stdbuf -oL "$clone/train_gpt2" >"$tmp/out" 2>&1) || true; } 2>/dev/null  # it aborts when it wants to sample
        sed -n 's/^step .* (took \([0-9.]*\) ms)/\1/p' "$tmp/out" | row "$name (CPU, ${OMP_NUM_THREADS:-$(nproc)} threads)" "$L,$C,$V,64,4" 256
    done <<<"
demo 4 128 2 65
L6-C256 6 256 4 256
GPT-2-124M 12 768 12 50257"
fi
