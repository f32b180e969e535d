#!/bin/bash
# dev/kernels/registers.sh: registers, stack and spills of every kernel of a ladder, as a Markdown table. Needs nvcc, no GPU.
#
#     dev/kernels/registers.sh wkv4|wkv7|attention [ARCH ...]          default: 75 80 89 90
#
# 16 bit is bf16, and fp16 on sm_75. A cell is the registers of a thread, and where there are any the bytes of stack and
# of spills (stores + loads). What is in <>:
#     wkv4       the rung of kernels 1, the channels of a thread in the others
#     wkv7       tf32 or not, channels of a head up to, steps of a chunk, value channels of a block, full: whole chunks, no padding, no resets, fused: gates and norm inside
#     attention  exact <F, S, ..>: lanes, rows; mma <P, [KEYS,] DROPOUT>: padded head size
set -euo pipefail
cd "$(dirname "$0")/../.."
NVCC=${NVCC:-nvcc}
command -v "$NVCC" >/dev/null || { echo "error: $NVCC was not found; pass NVCC=/path/to/nvcc" >&2; exit 1; }
ladder=dev/kernels/${1:?wkv4, wkv7 or attention}/ladder.cu prefix=${1%[47]}
shift
archs=("$@")
((${#archs[@]})) || archs=(75 80 89 90)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

for bits in 16 32; do
    for arch in "${archs[@]}"; do
        precision=FP32
        [ $bits = 32 ] || { precision=BF16; [ "$arch" -ge 80 ] || precision=FP16; }
        "$NVCC" -std=c++17 -O3 -I. -DPRECISION_$precision -arch="sm_$arch" -Xptxas -v -cubin -o "$tmp/x" "$ladder" >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; exit 1; }
        grep -i warning "$tmp/log" >&2 || true
        c++filt <"$tmp/log" | awk -v b=$bits -v a="$arch" -v prefix="^$prefix" '
            /Compiling entry/ { match($0, /\x27.*\x27/); name = substr($0, RSTART + 1, RLENGTH - 2); sub(/^void /, "", name)
                                gsub(/\(Wkv7Mode\)0/, "tf32", name); gsub(/\(Wkv7Mode\)1/, "fp32", name); if (name ~ /^wkv7/) { gsub(/, (\(bool\)0|false)/, "", name); gsub(/\(bool\)1|true/, "full", name) }
                                gsub(/\((int|bool)\)/, "", name); sub(/, Wkv7Bare/, "", name); sub(/Wkv7Gates(Backward)?/, "fused", name); sub(/\(.*/, "", name)
                                gsub(/__nv_bfloat16|__half/, "floatX", name); if (b == 32) sub(/, float>/, ">", name) }
            /stack frame/     { stack = $1; spills = $5 + $9 }
            / Used /          { for (i = 1; i < NF; i++) if ($i == "Used") used = $(i + 1)
                                if (name ~ prefix) print b "\t" name "\t" a "\t" used (stack + spills ? " + stack " stack ", spills " spills : "") }' >>"$tmp/rows"
    done
done
printf '| bits | kernel |'
printf ' sm_%s |' "${archs[@]}"
printf '\n|---|---|'
printf -- '---|%.0s' "${archs[@]}"
printf '\n'
cut -f1,2 "$tmp/rows" | sort -u | while IFS=$'\t' read -r bits kernel; do
    printf '| %s | %s |' "$bits" "$kernel"
    for arch in "${archs[@]}"; do
        printf ' %s |' "$(awk -F'\t' -v b="$bits" -v k="$kernel" -v a="$arch" '$1 == b && $2 == k && $3 == a { print $4 }' "$tmp/rows")"
    done
    printf '\n'
done
