#!/bin/bash
# dev/bench/run_all.sh: everything that is worth knowing about this machine, in one command and within nine minutes.
#
#     dev/bench/run_all.sh            writes dev/bench/results/DATE-DEVICE.md, and a copy into $OUT if that names a folder
#
# On a GPU: builds for it, all tests in bf16, fp16 and fp32, compute-sanitizer, the ladders, training and inference speed, GEMM,
# rivals. Without one, or with DEVICE=cpu: the CPU's tests, ladders, speeds and GEMM. The most important comes first; every part
# has its own time limit and all have one together (BUDGET=530, in seconds), so that a slow part costs itself and the last ones,
# never the report. The exit code is 1 when a part failed, was stopped, or was not run for want of time.
#
# Rivals are put by hand into .peers/, which git ignores: RWKV-LM, flash-linear-attention, nanoGPT, and llm.c with what its
# Makefile built. Their code is run, by dev/bench/peer_* in a python3 with torch; none of it is here.
# shellcheck disable=SC2317  # called by trap, or by part
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
BUDGET=${BUDGET:-530}
PATH=$PATH:/usr/local/cuda/bin  # where the toolkit's installer puts nvcc and compute-sanitizer, and not every shell looks
nvcc=${NVCC:-nvcc}
tmp=$(mktemp -d)
parts=0 bad=() report=''

die() { echo "error: $*" >&2; exit 1; }
left() { echo $((BUDGET - SECONDS)); }
copy() { [ ! -d "${OUT:-}" ] || cp "$report" "$OUT"; }
stop() {  # GROUP...: ends process groups, after three seconds by force
    kill -TERM -- "${@/#/-}" || return 0
    for _ in {1..30}; do kill -0 -- "${@/#/-}" || return 0; sleep 0.1; done
    kill -KILL -- "${@/#/-}"
    sleep 0.2
} 2>/dev/null
quit() {  # however it ends, nothing runs on and the report has an end
    trap '' INT TERM HUP
    # shellcheck disable=SC2046  # words
    [ -z "$(jobs -rp)" ] || stop $(jobs -rp)
    if [ -n "$report" ]; then
        local sum="${#bad[@]} of $parts parts are not ok"
        {
            printf '\n## Sum\n\nAll of it took %d s; %s.\n' "$SECONDS" "$sum"
            [ ${#bad[@]} = 0 ] || { echo && printf -- '- %s\n' "${bad[@]}"; }
        } >>"$report"
        copy
        echo "wrote $report: $sum"
    fi
    rm -rf "$tmp"
}
trap quit EXIT
trap 'bad+=("interrupted"); exit 1' INT TERM HUP

cores=$(nproc)
if [ "${DEVICE:-}" != cpu ] && timeout 30 nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then
    device=gpu main=bf16
    command -v "$nvcc" >/dev/null || die "nvidia-smi lists a GPU, but $nvcc was not found: add its folder to PATH, pass NVCC=/path/to/nvcc, or measure the CPU with DEVICE=cpu"
    # sm_75 has no bf16
    flags=$(dev/gpu_flags.sh "$nvcc" bf16 "${GPU_ARCH:-}" 2>/dev/null) || { main=fp16 && flags=$(dev/gpu_flags.sh "$nvcc" fp16 "${GPU_ARCH:-}"); } || exit 1
    # What every program needs beside nvcc, tried before minutes are spent on building: cuBLASLt's header, library and loader path
    cat >"$tmp/probe.cu" <<-'END'
		#include <cublasLt.h>
		#include <cstdio>
		cublasLtHandle_t handle;
		int main() { cudaError_t e = cudaFree(0); return e ? printf("%s\n", cudaGetErrorString(e)) : (int)cublasLtCreate(&handle); }
	END
    # shellcheck disable=SC2086  # words
    said=$(timeout 60 "$nvcc" $flags "$tmp/probe.cu" -o "$tmp/probe" -lcublasLt 2>&1) ||
        die "four lines that use cuBLASLt do not build (exit code $?); is the toolkit complete? $(grep -m1 -E 'error|cannot find' <<<"$said" || echo "$said")"
    said=$(timeout 60 "$tmp/probe" 2>&1) ||
        die "four lines that use cuBLASLt build but do not run (exit code $?)$([[ $said == *"shared librar"* ]] && echo "; add the library's folder to LD_LIBRARY_PATH"): $said"
    name=$(timeout 30 nvidia-smi --query-gpu=name --format=csv,noheader | head -1)
    about=$(timeout 30 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,compute_cap --format=csv,noheader | head -1)
    about="GPU (name, driver, memory, highest SM clock, compute capability): $about; $("$nvcc" --version | grep release)"
else
    device=cpu main=fp32
    name=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -1)
    name=${name:-$(uname -m)}
    about="CPU: $name, $cores threads; ${CXX:-g++}: $("${CXX:-g++}" --version | head -1)"
    echo "Only the CPU is measured."
fi

# part LIMIT HEADING COMMAND...: the output goes into the report under the heading, as it is (our programs print Markdown) or,
# for the headings that start with "=", as text. show=FUNCTION part ...: what that function prints of it.
part() {
    local limit=$1 heading=$2 text=${2#=} start=$SECONDS rc=0 result=ok pid
    shift 2
    parts=$((parts + 1))
    [ "$(left)" -ge "$limit" ] || limit=$(left)
    printf '\n## %s\n\n' "$text" >>"$report"
    if [ "$limit" -lt 5 ]; then
        result="not run" && echo "Not run: no time left." >>"$report"
    elif [[ $1 == build/* && ! -x $1 ]]; then
        result=FAILED rc=127 && echo "Not built." >>"$report"
    else
        # -m: a process group of its own, all of which is stopped when the time is over. This shell looks at the clock itself and
        # does not wait for a process: one that hangs in the driver may be impossible to kill.
        set -m
        "$@" >"$tmp/log" 2>&1 </dev/null &
        pid=$!
        set +m
        {
            while kill -0 $pid && [ $((SECONDS - start)) -lt "$limit" ]; do sleep 0.1; done
            if kill -0 $pid; then
                result=stopped && stop $pid
            else
                wait $pid
                rc=$?
                [ $rc = 0 ] || result=FAILED
            fi
        } 2>/dev/null  # the shell's own words about a process that was killed
        {
            [ "$heading" = "$text" ] || echo '```'
            "${show:-whole}"
            [ "$heading" = "$text" ] || echo '```'
            case $result in
                stopped) printf '\nStopped after %d s.\n' "$limit" ;;
                FAILED) printf '\nFailed: exit code %d.\n' $rc ;;
            esac
        } >>"$report"
    fi
    printf '%-9s %3d s   %s\n' "$result" $((SECONDS - start)) "$text"
    [ "$result" = ok ] || bad+=("$result: $text")
    copy  # now: who ends this by force shall have what was done
    [ "$result" = ok ]
}
whole() { tail -c 20000 "$tmp/log"; }
problems() { grep -iE 'error|warning' "$tmp/log" | head -40 || [ "$result" != ok ] || echo "No warnings."; }
failures() {  # of a test program: what failed and its count; of one without a count the last lines, where it hung or crashed
    grep -A1 '^FAIL' "$tmp/log" | head -40
    if tail -1 "$tmp/log" | grep -E '^[0-9]+ passed'; then return; fi
    tail -8 "$tmp/log"
    echo "... and no more: the test after the last \"ok\" did not come to its end."
}
findings() {  # of compute-sanitizer: the first ones; without any its count
    grep -E 'passed|SUMMARY|Error|Invalid|hazard| at ' "$tmp/log" | head -20
    [ "$result" = ok ] || tail -3 "$tmp/log"
}

tests="test_rwkv test_rwkv7 test_gpt2 test_run"
programs="train_rwkv train_rwkv7 train_gpt2 run_rwkv ladder_wkv4 ladder_wkv7 ladder_attention bench_gemm"
declare -A builder
built() { echo "build/$device-$1/$2"; }
build() {  # PRECISION NAME...: -k, since a program that does not build is no reason not to run the others
    local p make=(make --no-print-directory DEVICE="$device" PRECISION="$1")
    local files=("${@:2}")
    files=("${files[@]/#/build/$device-$1/}")
    for p in "${files[@]}"; do "${make[@]}" -q "$p" || rm -f "$p"; done >/dev/null 2>&1  # nothing old is taken for what does not build
    "${make[@]}" -k -j"$cores" "${files[@]}"
}
build_beside() {  # PRECISION: its tests, on the cores that nothing else needs
    set -m
    # shellcheck disable=SC2086  # words
    { renice -n 19 -p "$BASHPID" >/dev/null; build "$1" $tests; echo $? >"$tmp/built-$1"; } >"$tmp/build-$1" 2>&1 </dev/null &
    builder[$1]=$!
    set +m
}
wait_for_build() {  # PRECISION
    tail -n +1 -f --pid="${builder[$1]}" "$tmp/build-$1"
    return "$(cat "$tmp/built-$1")"
}
run_tests() {  # LIMIT PRECISION: a part for every program, so that one that hangs costs itself
    local t
    for t in $tests; do show=failures part "$1" "=Tests, $2: $t" "$(built "$2" "$t")"; done
}
train() {  # HEADING PROGRAM SIZE...: for every size SECONDS_EACH of steps, and 10 s to start and stop
    local heading=$1 program=$2
    shift 2
    part $(($# * (SECONDS_EACH + 10) + 5)) "$heading, $main" dev/bench/step.sh "$(built $main "$program")" "$@"
}
sanitize() {  # lines of PROGRAM|WORDS: the tests with these words in their names
    local tool program words
    command -v compute-sanitizer >/dev/null || return
    while IFS='|' read -r program words; do
        for tool in memcheck racecheck; do
            show=findings part 30 "=compute-sanitizer $tool: $words" compute-sanitizer --tool $tool --error-exitcode 9 "$(built $main "$program")" "$words"
        done
    done
}

commit="$(git rev-parse --short HEAD 2>/dev/null || echo unknown)$([ -z "$(git status --porcelain --untracked-files=no 2>/dev/null)" ] || echo ' with changes')"
mkdir -p dev/bench/results
report=dev/bench/results/$(date +%F)-$(tr -cs 'A-Za-z0-9' '-' <<<"$name" | sed 's/^-*//; s/-*$//').md
{
    echo "# $name, $(date +%F)"
    echo
    echo "- $about"
    echo "- commit $commit, $(date -u '+%F %H:%M') UTC"
    echo "- command: dev/bench/run_all.sh"
    [ $device = cpu ] || command -v compute-sanitizer >/dev/null || echo "- compute-sanitizer was not found"
} >"$report" || exit 1

if [ $device = gpu ]; then
    export STEPS=30 SECONDS_EACH=15
    others=(fp16 fp32)
    [ $main = bf16 ] || others=(fp32)
    for p in "${others[@]}"; do build_beside "$p"; done
    # nvcc takes about 1600 s of one core for these and those beside, the longest program 120 s, so that 16 cores need 100 to 150 s
    # shellcheck disable=SC2086  # words
    show=problems part 300 "=Build, $main" build $main $tests $programs
    run_tests 60 $main
    sanitize <<-END
		test_rwkv7|wkv7: gates
		test_run|sample:
		test_rwkv|rwkv4: recompute
		test_gpt2|attention: cached
	END
    part 30 "WKV-4: error and speed of every rung" "$(built $main ladder_wkv4)"
    part 45 "WKV-7: error and speed of every rung" "$(built $main ladder_wkv7)"
    part 30 "Attention: error and speed of every rung" "$(built $main ladder_attention)"
    train "Training RWKV-4" train_rwkv demo 90M-char 169M 430M
    train "Training RWKV-7" train_rwkv7 7-0.1B 7-0.4B 7-1.5B
    train "Training GPT-2" train_gpt2 GPT-2-124M
    for size in 4:0.4B 7:0.1B 7:1.5B; do part 30 "=run_rwkv bench, random weights, $size" "$(built $main run_rwkv)" bench --random $size; done
    part 30 "=GEMM" "$(built $main bench_gemm)"
    for p in "${others[@]}"; do
        show=problems part 200 "=Build, $p" wait_for_build "$p"
        run_tests 45 "$p"
    done
    if [ -d .peers/RWKV-LM ] || [ -d .peers/flash-linear-attention ] || [ -d .peers/nanoGPT ]; then
        part 60 "=Rivals: python3 with torch" python3 -c 'import torch; print(torch.__version__)' && while IFS='|' read -r clone script about; do
            [ -d ".peers/$clone" ] && part 60 "Rival: $about" "dev/bench/$script" ".peers/$clone"
        done <<-END
			RWKV-LM|peer_rwkv4.py|the official v4neo model in PyTorch, same shapes, bf16
			RWKV-LM|peer_rwkv7.py|the official RWKV-7 trainer, same shapes, bf16
			flash-linear-attention|peer_fla.py|RWKV-7 of flash-linear-attention, same shapes, bf16
			nanoGPT|peer_nanogpt.py|nanoGPT, compiled, same shapes, bf16
		END
    fi
    [ ! -d .peers/llm.c ] || part 110 "Rival: llm.c" dev/bench/peer_llmc.sh .peers/llm.c  # five sizes of 20 s, and their weights
    sanitize <<-END
		test_rwkv7|wkv7: in two pieces
		test_rwkv7|rwkv7: recompute
		test_gpt2|gpt2: recompute
		test_rwkv|wkv: document resets
		test_run|RNN
	END
else
    export STEPS=100 SECONDS_EACH=30
    # shellcheck disable=SC2086  # words
    show=problems part 400 "=Build" build $main $tests $programs
    run_tests 100 $main
    train "Training RWKV-4" train_rwkv demo L6-C256
    train "Training RWKV-7" train_rwkv7 demo
    train "Training GPT-2" train_gpt2 demo
    if [ -x .peers/llm.c/train_gpt2 ]; then
        export SECONDS_EACH=12
        part 60 "Rival: llm.c, GPT-2, fp32" dev/bench/peer_llmc.sh .peers/llm.c
        train "Ours at the same shapes" train_gpt2 demo-4x64 L6-C256-4x64
    fi
    part 40 "WKV-4: error and speed of every rung" "$(built $main ladder_wkv4)"
    part 40 "WKV-7: error and speed of every rung" "$(built $main ladder_wkv7)"
    part 40 "Attention: error and speed of every rung" "$(built $main ladder_attention)"
    part 60 "=run_rwkv bench, random weights, 4:0.1B" "$(built $main run_rwkv)" bench --random 4:0.1B
    part 60 "=GEMM" "$(built $main bench_gemm)"
fi
exit $((${#bad[@]} > 0))
