#!/bin/bash
# run.sh: what `make test` runs. Every part prints ok / FAIL lines and its count; the last line is the sum.
# The model is tested in every precision, the CPU backend with its checks on; on a machine with a GPU there too.
set -uo pipefail
cd "$(dirname "$0")/.."

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

build DEVICE=cpu PRECISION=fp32 all build/cpu-fp32/test_rwkv build/tools/test_host
# -O3 is what ships, in fp32; the others are about the numbers, and -O1 compiles in half the time
build DEVICE=cpu PRECISION=fp64 OPT=-O1 build/cpu-fp64/test_rwkv &
build DEVICE=cpu PRECISION=bf16 OPT=-O1 build/cpu-bf16/test_rwkv
build DEVICE=cpu PRECISION=fp16 OPT=-O1 build/cpu-fp16/test_rwkv
wait
part "tokenizers, files, data, sampling, logs" build/tools/test_host
for precision in fp32 fp64 bf16 fp16; do part "model and kernels, $precision on the CPU" build/cpu-$precision/test_rwkv; done
part "the same with guard pages, poisoned memory and the race check" env CUDA_CPU_CHECK=1 CUDA_CPU_RACE=1 build/cpu-fp32/test_rwkv
part "the CPU backend" tests/backend.sh
part "the programs" tests/cli.sh
if dev/gpu_flags.sh --visible nvcc; then
    for precision in bf16 fp32 fp16; do
        build DEVICE=gpu PRECISION=$precision build/gpu-$precision/test_rwkv
        part "model and kernels, $precision on the GPU" build/gpu-$precision/test_rwkv
    done
fi
echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
