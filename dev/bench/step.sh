#!/bin/bash
# dev/bench/step.sh: training speed of a trainer at named sizes, as rows of a Markdown table.
#
#     dev/bench/step.sh [PROGRAM [NAME ...]]       default: ./train_rwkv and every name of the table below
#     STEPS=30 SECONDS_EACH=60 dev/bench/step.sh build/gpu-bf16/train_rwkv7 7-0.1B
#
# Trains on random tokens (a shard made here), all options of training at their defaults, no evaluation, no checkpoint. The median
# is over the steps of --log without the first fifth (at least two), which plan, tune and capture. A size that takes longer
# than SECONDS_EACH, counted from its first step, is stopped and reported from the steps it did. Memory is what the program
# plans and then allocates. GEMM: share of matrix products in all the time spent in kernels and library calls; the CPU
# backend's profile says it. The exit code is 1 when a size failed.
set -euo pipefail
cd "$(dirname "$0")/../.."

# name       layers dim  vocab ctx  batch
sizes="
demo         4      128  65    64   16
L6-C256      6      256  256   256  8
90M-char     12     768  56    256  8
169M-ctx512  12     768  50277 512  16
169M         12     768  50277 1024 64
430M         24     1024 50277 1024 32
GPT-2-124M   12     768  50257 1024 32
demo-4x64    4      128  65    64   4
L6-C256-4x64 6      256  256   64   4
124M-4x64    12     768  50257 64   4
7-0.1B       12     768  65536 1024 32
7-0.4B       24     1024 65536 1024 16
7-1.5B       24     2048 65536 1024 8
"
program=${1:-./train_rwkv}
shift || true
STEPS=${STEPS:-30} SECONDS_EACH=${SECONDS_EACH:-60}
[ -x "$program" ] || { echo "error: $program is not there; run make, or name another program" >&2; exit 1; }
case $program in */*) ;; *) program=./$program ;; esac
tmp=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$tmp"' EXIT  # true: it may be gone, and set -e holds here too

int32() { printf '%b' "$(printf '\\x%02x\\x%02x\\x%02x\\x%02x' $(($1 & 255)) $(($1 >> 8 & 255)) $(($1 >> 16 & 255)) $(($1 >> 24 & 255)))"; }
shard() {  # shard VOCAB FILE: 262,144 random tokens; the format is that of rwkv/data.h
    { int32 20240520; int32 1; int32 262144; int32 0; int32 0; int32 "$1"; head -c 1000 /dev/zero; } >"$2"
    awk -v V="$1" 'BEGIN { srand(1); for (i = 0; i < 512; i++) { s = ""; for (j = 0; j < 512; j++) { t = int(rand() * V); s = s sprintf("\\x%02x\\x%02x", t % 256, int(t / 256)) } print s } }' |
        while read -r line; do printf "%b" "$line"; done >>"$2"
}
median() { sort -g | awk '{ v[NR] = $1 } END { if (NR) print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'; }
field() { sed -n "s/.*\"$1\":\\([0-9.e+-]*\\).*/\\1/p" "$2"; }

echo "| size | shape L,C,V,T,B | ms/step (median) | tokens/s | steps | memory | GEMM |"
echo "|---|---|---|---|---|---|---|"
failed=0
while read -r name L C V T B; do
    [ -n "$name" ] || continue
    (($# == 0)) || [[ " $* " == *" $name "* ]] || continue
    [ -f "$tmp/$V.bin" ] || shard "$V" "$tmp/$V.bin"
    CUDA_CPU_PROF=1 "$program" --train "$tmp/$V.bin" --layers "$L" --dim "$C" --ctx "$T" --batch "$B" \
        --steps "$STEPS" --sample-tokens 0 --log "$tmp/$name.jsonl" >"$tmp/out" 2>"$tmp/err" &
    pid=$! rc=0 training='' signal=TERM limit=$((SECONDS + SECONDS_EACH + 30))
    {
        while kill -0 "$pid"; do
            sleep 0.2
            if [ -z "$training" ] && grep -q '"ms":' "$tmp/$name.jsonl"; then
                training=yes limit=$((SECONDS + SECONDS_EACH))  # what comes before, such as the weights of a large model, is no training
            elif [ "$SECONDS" -ge "$limit" ]; then
                kill -$signal "$pid" || true
                signal=KILL limit=$((SECONDS + 20))
            fi
        done
        wait "$pid" || rc=$?
    } 2>/dev/null  # the shell's own words about a process that was killed
    pid=
    done_steps=$(field ms "$tmp/$name.jsonl" 2>/dev/null | wc -l || true)
    if [ "$rc" -ne 0 ] && [ $signal = TERM ] || [ "$done_steps" -lt 3 ]; then
        failed=1
        why=$(grep -m1 '^error' "$tmp/err" || true)
        echo "| $name | $L,$C,$V,$T,$B | failed: ${why:-$done_steps steps, exit code $rc$([ $signal = TERM ] || echo ", stopped")} | | | | |"
        continue
    fi
    skip=$((done_steps / 5 > 2 ? done_steps / 5 : 2))
    ms=$(field ms "$tmp/$name.jsonl" | tail -n +$((skip + 1)) | median)
    memory=$(sed -n 's/^memory: .*; \(.*\) in all.*/\1/p' "$tmp/out")
    gemm=$(awk '/%.*[Mm]atmul/ { s += $1 } END { if (s) printf "%.0f%%", s }' "$tmp/err")
    awk -v n="$name" -v s="$L,$C,$V,$T,$B" -v ms="$ms" -v tokens=$((B * T)) -v d="$done_steps" -v m="$memory" -v g="$gemm" \
        'BEGIN { printf "| %s | %s | %.2f | %.0f | %d | %s | %s |\n", n, s, ms, tokens / ms * 1000, d, m, g }'
done <<<"$sizes"
exit $failed
