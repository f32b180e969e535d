#!/bin/bash
# dev/bench/run_all.sh: everything that is worth knowing about this machine, in one command and within nine minutes.
#
#     dev/bench/run_all.sh            writes dev/bench/results/DATE-DEVICE.md
#
# On a GPU: builds for it, all tests in bf16, fp16 and fp32, the WKV ladder, training speed, rivals, GEMM, compute-sanitizer.
# Without one: the CPU's tests, ladder, training speed and GEMM. The most important comes first; every part has its own time
# limit and all have one together, so that a slow part costs itself and the last ones, never the report.
#
# Rivals are put by hand into .peers/, which git ignores:   git clone https://github.com/BlinkDL/RWKV-LM .peers/RWKV-LM
# Their code is run, by dev/bench/peer_rwkv4.py in a python3 with torch; none of it is here.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
BUDGET=${BUDGET:-530}

cores=$(nproc)
if dev/gpu_flags.sh --visible "${NVCC:-nvcc}"; then
    device=gpu main=bf16
    name=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)
    about=$(nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,compute_cap --format=csv,noheader | head -1)
    about="GPU (name, driver, memory, highest SM clock, compute capability): $about; $("${NVCC:-nvcc}" --version | grep release)"
else
    device=cpu main=fp32
    name=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -1)
    name=${name:-$(uname -m)}
    about="CPU: $name, $cores threads; ${CXX:-g++}: $("${CXX:-g++}" --version | head -1)"
    echo "No GPU is visible: only the CPU is measured."
fi
[ "$main" = bf16 ] && [ "$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)" -lt 80 ] && main=fp16  # no bf16 on sm_75
mkdir -p dev/bench/results
slug=$(tr -cs 'A-Za-z0-9' '-' <<<"$name" | sed 's/^-*//; s/-*$//')
report=dev/bench/results/$(date +%F)-$slug.md
log=$(mktemp)
trap 'rm -f "$log"' EXIT

left() { echo $((BUDGET - SECONDS)); }
# part LIMIT HEADING COMMAND...: the output goes into the report under the heading, as it is (our programs print Markdown) or,
# for the headings that start with "=", as text.
part() {
    local limit=$1 heading=$2 start=$SECONDS rc=0
    shift 2
    [ "$(left)" -lt "$limit" ] && limit=$(left)
    local text=${heading#=}
    printf '\n## %s\n\n' "$text" >>"$report"
    if [ "$limit" -lt 5 ]; then
        printf 'Not run: no time left.\n' >>"$report"
        echo "not run   $text"
        return 1
    fi
    # shellcheck disable=SC2016
    timeout --kill-after=5 "$limit" bash -c '"$@"' part "$@" >"$log" 2>&1 || rc=$?  # bash: the command may be a function
    [ "$heading" = "$text" ] || printf '```\n' >>"$report"
    tail -c 20000 "$log" >>"$report"
    [ "$heading" = "$text" ] || printf '```\n' >>"$report"
    local result=ok
    case $rc in
        0) ;;
        124 | 137) result=stopped && printf '\nStopped after %d s.\n' "$limit" >>"$report" ;;
        *) result=FAILED && printf '\nFailed: exit code %d.\n' "$rc" >>"$report" ;;
    esac
    printf '%-9s %3d s   %s\n' $result $((SECONDS - start)) "$text"
    return $rc
}
built() { echo "build/$device-$1/$2"; }
build() { make --no-print-directory -j"$cores" DEVICE="$device" PRECISION="$1" "${@:2}"; }
build_main() {  # warnings and errors only
    build "$main" "$(built "$main" test_rwkv)" "$(built "$main" ladder_wkv4)" "$(built "$main" train_rwkv)" "$(built "$main" bench_gemm)" 2>&1 | grep -iE 'error|warning'
    [ "${PIPESTATUS[0]}" = 0 ] && ls "build/$device-$main"
}
build_test() { timeout 300 make --no-print-directory DEVICE="$device" PRECISION="$1" "$(built "$1" test_rwkv)" >/dev/null 2>&1; }
last_line() {  # of a test program, and what failed
    "$@" >"$log.all" 2>&1
    local rc=$?
    grep -A1 '^FAIL' "$log.all" | head -40
    tail -1 "$log.all"
    rm -f "$log.all"
    return $rc
}
sanitizer() {  # TOOL WORDS
    compute-sanitizer --tool "$1" --error-exitcode 9 "$(built "$main" test_rwkv)" "$2" 2>&1 | grep -E 'passed|SUMMARY|Error:|hazard|at .*kernel' | tail -8
    return "${PIPESTATUS[0]}"
}
export -f built build build_main last_line sanitizer
export device main cores log

{
    echo "# $name, $(date +%F)"
    echo
    echo "- $about"
    echo "- commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)$([ -z "$(git status --porcelain --untracked-files=no 2>/dev/null)" ] || echo ' with changes'), $(date -u '+%F %H:%M') UTC"
    echo "- command: dev/bench/run_all.sh"
} >"$report"

if [ $device = gpu ]; then
    others=(bf16 fp16 fp32)
    [ $main = bf16 ] || others=(fp16 fp32)
    for p in "${others[@]}"; do [ "$p" = $main ] || build_test "$p" & done  # beside the next part
    part 180 "=Build, $main" build_main
    part 60 "=Tests, $main" last_line "$(built $main test_rwkv)"
    part 60 "WKV: error and speed of every rung" "$(built $main ladder_wkv4)"
    printf '\nRegisters: dev/kernels/wkv4/registers.sh\n' >>"$report"
    part 110 "Training, $main" env STEPS=30 SECONDS_EACH=30 dev/bench/step.sh "$(built $main train_rwkv)"
    if [ -d .peers/RWKV-LM ] && python3 -c 'import torch' 2>/dev/null; then
        part 100 "Training: the official v4neo model of .peers/RWKV-LM in PyTorch, same shapes, bf16" python3 dev/bench/peer_rwkv4.py .peers/RWKV-LM
    fi
    wait
    for p in "${others[@]}"; do [ "$p" = $main ] || part 45 "=Tests, $p" last_line "$(built "$p" test_rwkv)"; done
    part 40 "=GEMM" "$(built $main bench_gemm)"
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck; do
            for words in "wkv: document resets" "rwkv4: recompute" "cross-entropy"; do part 30 "=compute-sanitizer $tool: $words" sanitizer $tool "$words"; done
        done
    else
        printf '\ncompute-sanitizer was not found.\n' >>"$report"
    fi
else
    part 240 "=Build" build_main
    part 60 "=Tests" last_line "$(built fp32 test_rwkv)"
    part 100 "Training, fp32" env STEPS=100 SECONDS_EACH=40 dev/bench/step.sh "$(built fp32 train_rwkv)" demo L6-C256
    part 60 "WKV: error and speed of every rung" "$(built fp32 ladder_wkv4)"
    part 60 "=GEMM" "$(built fp32 bench_gemm)"
fi
printf '\nAll of it took %d s.\n' $SECONDS >>"$report"
echo "wrote $report"
