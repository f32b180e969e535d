#!/bin/bash
# dev/compare/compare-inference.sh: what the first and what the 16,384th generated token cost, RWKV-4 beside GPT-2 of the
# same size: time per token, time in all, memory. What `make compare-inference` runs.
#
#     make compare-inference                    0.8 million parameters: minutes on a CPU
#     make compare-inference SIZE=169m          on a GPU; or SIZE=1.5b
#
# Random weights: the time does not depend on them. RWKV-4 must be flat, or this fails: over the whole range the
# least-squares line of its latency may rise or fall by less than 5 % of the mean, and its memory by no byte.
# Writes OUT/inference.md, latency.svg, total.svg, memory.svg and the logs.
# TOKENS=16384, PASSES=N (15 of RWKV-4, 3 s each, as machines get slower and faster; 1 of GPT-2, which takes minutes on a CPU), OUT=runs/compare-inference-SIZE, BIN=FOLDER of latency_rwkv4 and latency_gpt2, PLOT=./plot
set -euo pipefail
cd "$(dirname "$0")/../.."
SIZE=${SIZE:-cpu} TOKENS=${TOKENS:-16384} OUT=${OUT:-runs/compare-inference-$SIZE} PLOT=${PLOT:-./plot}
BIN=${BIN:-$(dirname "$(readlink -f train_rwkv)")}

stop() { echo "error: $*" >&2; exit 1; }
case $SIZE in
cpu)  # rotary positions: learned ones for 16,384 tokens would be more parameters than the rest
    rwkv4="--layers 4 --dim 128 --ffn 448 --vocab 256" gpt2="--layers 4 --dim 128 --heads 4 --vocab 256 --positions rotary" ;;
169m) rwkv4="--layers 12 --dim 768 --vocab 50277" gpt2="--layers 12 --dim 768 --vocab 50277 --head untied" ;;
1.5b) rwkv4="--layers 24 --dim 2048 --vocab 50277" gpt2="--layers 24 --dim 2048 --vocab 50277 --head untied" ;;
*) stop "SIZE=$SIZE is not one of cpu, 169m, 1.5b" ;;
esac
for p in "$BIN/latency_rwkv4" "$BIN/latency_gpt2" "$PLOT"; do [ -x "$p" ] || stop "$p is not there; run make compare-inference"; done
mkdir -p "$OUT"
rm -f "$OUT"/*.jsonl "$OUT"/*.out "$OUT"/*.svg "$OUT"/inference.md

declare -A parameters
for model in rwkv4 gpt2; do
    # shellcheck disable=SC2086  # lists of options
    "$BIN/latency_$model" ${!model} --tokens "$TOKENS" --passes "${PASSES:-$([ $model = rwkv4 ] && echo 15 || echo 1)}" --log "$OUT/$model.jsonl" | tee "$OUT/$model.out" || stop "latency_$model failed, see above"
    parameters[$model]=$(sed -n 's/.* \([0-9,]*\) parameters.*/\1/p' "$OUT/$model.out" | tr -d ,)
    device=$(sed -n 's/.* parameters, \(.* on .*\)/\1/p' "$OUT/$model.out")
done
awk "BEGIN { r = ${parameters[gpt2]} / ${parameters[rwkv4]}; exit !(r > 0.95 && r < 1.05) }" ||
    stop "GPT-2 has ${parameters[gpt2]} parameters and RWKV-4 ${parameters[rwkv4]}, more than 5 % apart: change the shapes in this script"

# flat LOG: the change of the least-squares line of latency from the first to the last token, in percent of the mean, and
# how many bytes the memory changes
flat() {
    sed -n 's/^{"tokens":\([0-9]*\),"latency_ms":\([0-9.e+-]*\),.*"memory":\([0-9]*\)}$/\1 \2 \3/p' "$1" |
        awk '{ n++; x += $1; y += $2; xx += $1 * $1; xy += $1 * $2; if (n == 1) { first = $1; low = high = $3 } last = $1; if ($3 < low) low = $3; if ($3 > high) high = $3 }
             END { d = n * xx - x * x; slope = d > 0 ? (n * xy - x * y) / d : 0; printf "%.2f %d\n", (y > 0 ? 100 * slope * (last - first) / (y / n) : 999), high - low }'
}
at() { awk -F'[:,}]' -v t="$2" '$2 == t { printf "%.4g ms, %.4g s, %.2f MB", $4, $6, $8 / 1e6 }' "$OUT/$1.jsonl"; }  # LOG TOKENS
read -r change bytes < <(flat "$OUT/rwkv4.jsonl")
read -r change_gpt2 bytes_gpt2 < <(flat "$OUT/gpt2.jsonl")

curves=(RWKV-4: "$OUT/rwkv4.jsonl" GPT-2: "$OUT/gpt2.jsonl")
about="RWKV-4 and GPT-2, ${SIZE/cpu/0.8m}"
"$PLOT" "${curves[@]}" --x tokens --y latency_ms --zero --title "Time per generated token: $about" --out "$OUT/latency.svg"
"$PLOT" "${curves[@]}" --x tokens --y total_s --zero --title "Time since the first token: $about" --out "$OUT/total.svg" >/dev/null
"$PLOT" "${curves[@]}" --x tokens --y memory --zero --title "Memory while generating: $about" --out "$OUT/memory.svg" >/dev/null
{
    echo "# Generating $TOKENS tokens: $about"
    # shellcheck disable=SC2016
    printf '\n%s, %s, commit %s. Made by `make compare-inference SIZE=%s TOKENS=%s`; how and why: dev/compare/README.md.\n\n' "$(date +%F)" "$device" "$(git describe --always --dirty 2>/dev/null)" "$SIZE" "$TOKENS"
    echo "| token | RWKV-4 (${parameters[rwkv4]} parameters): time for it, for all so far, memory | GPT-2 (${parameters[gpt2]}) |"
    echo "|---:|---:|---:|"
    for t in 256 1024 4096 16384 65536; do [ -z "$(at rwkv4 $t)" ] || echo "| $t | $(at rwkv4 $t) | $(at gpt2 $t) |"; done
    printf '\nFrom the first to the last token, on the least-squares line: RWKV-4 %s %% and %s bytes, GPT-2 %s %% and %s bytes.\n' "$change" "$bytes" "$change_gpt2" "$bytes_gpt2"
    printf '\n![latency](latency.svg)\n![time in all](total.svg)\n![memory](memory.svg)\n'
} >"$OUT/inference.md"
printf '\nFrom the first to the last of %s tokens, on the least-squares line:\n  RWKV-4  latency %+7.2f %% of its mean, memory %+d bytes\n  GPT-2   latency %+7.2f %% of its mean, memory %+d bytes\n' "$TOKENS" "$change" "$bytes" "$change_gpt2" "$bytes_gpt2"
echo "wrote $OUT/inference.md, latency.svg, total.svg, memory.svg"
awk "BEGIN { exit !($change < 5 && $change > -5 && $bytes == 0) }" || stop "RWKV-4 is not flat: latency $change % (5 allowed), memory $bytes bytes (0 allowed); is something else running on this machine?"
