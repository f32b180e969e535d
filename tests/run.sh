#!/bin/bash
# run.sh: what `make test` runs. Every part prints ok / FAIL lines and its count; the last line is the sum.
# The models are tested in every precision, with the kernels of the CPU and those of the GPU; the CPU backend with its
# checks on; on a machine with a GPU there too.
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
# On the CPU: build | what it is | programs. 16 bits are 16 bits, so the kernels of the GPU are rehearsed in bf16 only
builds="cpu-fp32|PRECISION=fp32|$tests
cpu-fp64|PRECISION=fp64|$tests
cpu-fp16|PRECISION=fp16|test_rwkv test_gpt2
cpu-bf16-rehearsal|PRECISION=bf16 REHEARSE=1|$tests"
# -O3 is what ships, in fp32; the others are about the numbers, and -O1 compiles in half the time
build DEVICE=cpu PRECISION=fp32 all build/cpu-fp32/test_rwkv build/tools/test_host
while IFS='|' read -r where what programs; do build DEVICE=cpu $what OPT=-O1 $(printf "build/$where/%s " $programs); done <<<"$builds"
part "tokenizers, files, data, sampling, logs" build/tools/test_host
while IFS='|' read -r where what programs; do
    sms=4 && [[ $what != *REHEARSE* ]] || sms=132
    for t in $programs; do part "$t: models and kernels, $what on the CPU" env CUDA_CPU_SMS=$sms build/$where/$t; done
done <<<"$builds"
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
    for precision in bf16 fp32 fp16; do
        why=$(dev/gpu_flags.sh nvcc "$precision" "" 2>&1)
        if [[ $why == *"bf16 needs"* ]]; then  # as on a T4
            echo "skip  bf16 on the GPU (${why#error: })"
            skipped=$((skipped + 1))
            continue
        fi
        build DEVICE=gpu PRECISION=$precision $(printf "build/gpu-$precision/%s " $tests)
        for t in $tests; do part "$t: models and kernels, $precision on the GPU" build/gpu-$precision/$t; done
    done
fi
echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
