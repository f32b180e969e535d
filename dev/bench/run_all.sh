#!/bin/bash
# dev/bench/run_all.sh: everything that is worth knowing about this machine, in one command and within nine minutes.
#
#     dev/bench/run_all.sh            writes dev/bench/results/DATE-DEVICE.md
#
# On a GPU: builds for it, all tests in bf16, fp16 and fp32, the ladders, training and inference speed, rivals, GEMM,
# compute-sanitizer. Without one: the CPU's tests, ladders, speeds and GEMM. The most important comes first; every part has its own time
# limit and all have one together, so that a slow part costs itself and the last ones, never the report.
#
# Rivals are put by hand into .peers/, which git ignores: RWKV-LM, flash-linear-attention, nanoGPT, and llm.c with what its
# Makefile built. Their code is run, by dev/bench/peer_* in a python3 with torch; none of it is here.
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
    # shellcheck disable=SC2086,SC2046  # words
    build "$main" $(for p in $tests $programs; do built "$main" $p; done) 2>&1 | grep -iE 'error|warning'
    [ "${PIPESTATUS[0]}" = 0 ] && ls "build/$device-$main"
}
# shellcheck disable=SC2046
build_tests() { timeout 300 make --no-print-directory DEVICE="$device" PRECISION="$1" $(for t in $tests; do built "$1" "$t"; done) >/dev/null 2>&1; }
run_tests() {  # of a precision: the last line of each, and what failed
    local t rc=0
    for t in $tests; do
        "$(built "$1" "$t")" >"$log.all" 2>&1 || rc=1
        grep -A1 '^FAIL' "$log.all" | head -20
        echo "$t: $(tail -1 "$log.all")"
    done
    rm -f "$log.all"
    return $rc
}
sanitizer() {  # TOOL PROGRAM WORDS
    compute-sanitizer --tool "$1" --error-exitcode 9 "$(built "$main" "$2")" "$3" 2>&1 | grep -E 'passed|SUMMARY|Error:|hazard|at .*kernel' | tail -8
    return "${PIPESTATUS[0]}"
}
tests="test_rwkv test_rwkv7 test_gpt2 test_run"
programs="train_rwkv train_rwkv7 train_gpt2 run_rwkv ladder_wkv4 ladder_wkv7 ladder_attention bench_gemm"
export -f built build build_main run_tests sanitizer
export device main cores log tests programs

commit="$(git rev-parse --short HEAD 2>/dev/null || echo unknown)$([ -z "$(git status --porcelain --untracked-files=no 2>/dev/null)" ] || echo ' with changes')"
{
    echo "# $name, $(date +%F)"
    echo
    echo "- $about"
    echo "- commit $commit, $(date -u '+%F %H:%M') UTC"
    echo "- command: dev/bench/run_all.sh"
} >"$report"

if [ $device = gpu ]; then
    others=(bf16 fp16 fp32)
    [ $main = bf16 ] || others=(fp16 fp32)
    for p in "${others[@]}"; do [ "$p" = $main ] || build_tests "$p" & done  # beside the next part
    part 200 "=Build, $main" build_main
    part 70 "=Tests, $main" run_tests $main
    part 30 "WKV-4: error and speed of every rung" "$(built $main ladder_wkv4)"
    part 45 "WKV-7: error and speed of every rung" "$(built $main ladder_wkv7)"
    part 30 "Attention: error and speed of every rung" "$(built $main ladder_attention)"
    part 60 "Training RWKV-4, $main" env STEPS=30 SECONDS_EACH=15 dev/bench/step.sh "$(built $main train_rwkv)" demo 90M-char 169M 430M
    part 50 "Training RWKV-7, $main" env STEPS=30 SECONDS_EACH=15 dev/bench/step.sh "$(built $main train_rwkv7)" 7-0.1B 7-0.4B 7-1.5B
    part 20 "Training GPT-2, $main" env STEPS=30 SECONDS_EACH=15 dev/bench/step.sh "$(built $main train_gpt2)" GPT-2-124M
    for size in 4:0.4B 7:0.1B 7:1.5B; do part 20 "=run_rwkv bench, random weights, $size" "$(built $main run_rwkv)" bench --random $size; done
    if python3 -c 'import torch' 2>/dev/null; then  # name of the clone | script
        while IFS='|' read -r clone script about; do
            [ -d ".peers/$clone" ] && part 60 "Rival: $about" "dev/bench/$script" ".peers/$clone"
        done <<-END
			RWKV-LM|peer_rwkv4.py|the official v4neo model in PyTorch, same shapes, bf16
			RWKV-LM|peer_rwkv7.py|the official RWKV-7 trainer, same shapes, bf16
			flash-linear-attention|peer_fla.py|RWKV-7 of flash-linear-attention, same shapes, bf16
			nanoGPT|peer_nanogpt.py|nanoGPT, compiled, same shapes, bf16
		END
    fi
    [ -d .peers/llm.c ] && part 40 "Rival: llm.c" dev/bench/peer_llmc.sh .peers/llm.c
    wait
    for p in "${others[@]}"; do [ "$p" = $main ] || part 45 "=Tests, $p" run_tests "$p"; done
    part 30 "=GEMM" "$(built $main bench_gemm)"
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck; do
            while IFS='|' read -r program words; do part 30 "=compute-sanitizer $tool: $words" sanitizer $tool "$program" "$words"; done <<-END
				test_rwkv|wkv: document resets
				test_rwkv|rwkv4: recompute
				test_rwkv7|rwkv7: recompute
				test_rwkv7|wkv7: in two pieces
				test_rwkv7|wkv7: gates
				test_gpt2|gpt2: recompute
				test_gpt2|attention: cached
				test_run|RNN
				test_run|sample:
			END
        done
    else
        printf '\ncompute-sanitizer was not found.\n' >>"$report"
    fi
else
    part 400 "=Build" build_main
    part 100 "=Tests" run_tests fp32
    part 60 "Training RWKV-4, fp32" env STEPS=100 SECONDS_EACH=30 dev/bench/step.sh "$(built fp32 train_rwkv)" demo L6-C256
    part 40 "Training RWKV-7, fp32" env STEPS=100 SECONDS_EACH=30 dev/bench/step.sh "$(built fp32 train_rwkv7)" demo
    part 40 "Training GPT-2, fp32" env STEPS=100 SECONDS_EACH=30 dev/bench/step.sh "$(built fp32 train_gpt2)" demo
    if [ -x .peers/llm.c/train_gpt2 ]; then
        part 40 "Rival: llm.c, GPT-2, fp32" env SECONDS_EACH=12 dev/bench/peer_llmc.sh .peers/llm.c
        part 40 "Ours at the same shapes" env STEPS=100 SECONDS_EACH=12 dev/bench/step.sh "$(built fp32 train_gpt2)" demo-4x64 L6-C256-4x64
    fi
    part 40 "WKV-4: error and speed of every rung" "$(built fp32 ladder_wkv4)"
    part 40 "WKV-7: error and speed of every rung" "$(built fp32 ladder_wkv7)"
    part 40 "Attention: error and speed of every rung" "$(built fp32 ladder_attention)"
    part 60 "=run_rwkv bench, random weights, 4:0.1B" "$(built fp32 run_rwkv)" bench --random 4:0.1B
    part 60 "=GEMM" "$(built fp32 bench_gemm)"
fi
printf '\nAll of it took %d s.\n' $SECONDS >>"$report"
echo "wrote $report"
