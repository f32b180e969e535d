#!/bin/bash
# run.sh: what `make test` runs. Every part prints ok / FAIL lines and its count; the last line is the sum.
# The model is tested in every precision, the CPU backend with its checks on; on a machine with a GPU there too.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

passed=0 failed=0 skipped=0
log=$(mktemp) && trap 'rm -f "$log"' EXIT
part() {  # part NAME COMMAND...: adds the "N passed, N failed" that the command ends with
    echo "== $1"
    shift
    "$@" 2>&1 | tee "$log"
    local rc=${PIPESTATUS[0]} counts
    counts=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -1)
    [ -n "$counts" ] || { echo "FAIL  it ended without a count (exit code $rc)"; failed=$((failed + 1)); return; }
    read -r p _ f _ s _ <<<"${counts//,/}"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + ${s:-0}))
    [ "$rc" -eq 0 ] || [ "$f" -gt 0 ] || { echo "FAIL  exit code $rc"; failed=$((failed + 1)); }
}
build() { env -u MAKEFLAGS -u MAKELEVEL make --no-print-directory "$@" 2>&1 | grep -vE '^(CXX=|g\+\+|clang|\+ )' || true; }

tests="test_rwkv test_rwkv7 test_gpt2 test_run"
of() { [ "$1" = fp16 ] && [ -z "${gpu-}" ] && echo "test_rwkv test_gpt2" || echo "$tests"; }  # 16 bits are 16 bits: bf16 tests the rest on the CPU
with() { for t in $(of "${1#*-}"); do echo "build/$1/$t"; done; }
# -O3 is what ships, in fp32; the others are about the numbers, and -O1 compiles in half the time
build DEVICE=cpu PRECISION=fp32 all build/cpu-fp32/test_rwkv build/tools/test_host
build DEVICE=cpu PRECISION=fp32 OPT=-O1 $(with cpu-fp32)
for precision in fp64 bf16 fp16; do build DEVICE=cpu PRECISION=$precision OPT=-O1 $(with cpu-$precision); done
part "tokenizers, files, data, sampling, logs" build/tools/test_host
for precision in fp32 fp64 bf16 fp16; do
    for t in $(of $precision); do part "$t: models and kernels, $precision on the CPU" build/cpu-$precision/$t; done
done
while IFS='|' read -r t words; do  # every kernel once; all tests would take many minutes
    part "$t $words: with guard pages, poisoned memory and the race check" env CUDA_CPU_CHECK=1 CUDA_CPU_RACE=1 build/cpu-fp32/$t "$words"
done <<END
test_rwkv|
test_rwkv7|rwkv7: recompute
test_rwkv7|wkv7: with resets
test_rwkv7|wkv7: gates
test_gpt2|gpt2: recompute
test_gpt2|attention: cached
test_run|= PyTorch
test_run|sample:
END
part "the CPU backend" tests/backend.sh
part "the trainers" tests/cli.sh
part "run_rwkv" tests/run_cli.sh
if dev/gpu_flags.sh --visible nvcc; then
    gpu=yes
    for precision in bf16 fp32 fp16; do
        why=$(dev/gpu_flags.sh nvcc "$precision" "" 2>&1)
        if [[ $why == *"bf16 needs"* ]]; then  # as on a T4
            echo "skip  bf16 on the GPU (${why#error: })"
            skipped=$((skipped + 1))
            continue
        fi
        build DEVICE=gpu PRECISION=$precision $(with gpu-$precision)
        for t in $tests; do part "$t: models and kernels, $precision on the GPU" build/gpu-$precision/$t; done
    done
fi
echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
