#!/bin/bash
# tests/backend.sh: the CPU backend (dev/cpu): correct kernels pass in every mode, planted bugs are caught with their
# message, the compiler driver fails cleanly.   [CXX=clang++] tests/backend.sh     about 40 s on two cores
set -uo pipefail
cd "$(dirname "$0")/.."
export CXX=${CXX:-g++}
B=build/tests
mkdir -p $B
passed=0 failed=0
case $(uname -m) in x86_64) native=-march=native;; *) native=-mcpu=native;; esac

ok() { echo "ok    backend: $1"; passed=$((passed + 1)); }
bad() { echo "FAIL  backend: $1"; sed 's/^/      /' $B/log | tail -n 12; failed=$((failed + 1)); }
# check NAME TEXT COMMAND...: the command must fail and say TEXT;  TEXT = "": it must succeed
check() {
    local name=$1 text=$2
    shift 2
    if "$@" > $B/log 2>&1; then [[ -z $text ]] && ok "$name" || bad "$name: nothing was noticed"
    elif [[ -z $text ]]; then bad "$name"
    elif grep -qF -e "$text" $B/log; then ok "$name"
    else bad "$name: it should say: $text"; fi
} 2> /dev/null  # "Aborted"

ulimit -c 0
dev/cpu/cucc -O2 $native -Wall -Wextra -Werror tests/backend.cu -o $B/backend > $B/log.plain 2>&1 & plain=$!
dev/cpu/cucc -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all tests/backend.cu -o $B/backend-asan > $B/log.asan 2>&1 & asan=$!
wait $plain; r=$?; mv $B/log.plain $B/log; [[ $r = 0 ]] && ok "compiles without a warning" || { bad "compiles without a warning"; wait; exit 1; }

# correct code
$B/backend 2> $B/errors | tee $B/out | grep -v ' passed, '
passed=$((passed + $(grep -c '^ok ' $B/out))) failed=$((failed + $(grep -c '^FAIL' $B/out)))
grep -q ' passed, ' $B/out || { cp $B/errors $B/log; bad "the tests of correct code end"; }
for mode in CHECK=1 CHECK=2 RACE=1 THREADS=1 THREADS=7; do check "correct code passes with CUDA_CPU_$mode" "" env CUDA_CPU_$mode $B/backend; done
for t in 1 2 3 8; do CUDA_CPU_THREADS=$t $B/backend digest; done > $B/log
[[ $(sort -u $B/log | wc -l) = 1 && $(wc -l < $B/log) = 4 ]] && ok "results do not depend on the number of threads" || bad "results do not depend on the number of threads"
$B/backend speed > $B/log && ok "speed" || bad "speed"; sed 's/^/      /' $B/log

# planted bugs
while IFS='|' read -r bug mode text; do check "caught: $bug" "$text" env CUDA_CPU_$mode $B/backend "$bug"; done <<'END'
overrun|CHECK=1|kernel overrun, block (0,0,0), thread (100,0,0): access to address
overrun-in-slack|CHECK=1|kernel overrun wrote 0 bytes after the end of the allocation of 404 bytes
underrun|CHECK=1|kernel underrun wrote 4 bytes before the allocation of 400 bytes
read-before|CHECK=2|4 bytes before the allocation of 400 bytes
overrun-dynamic|CHECK=1|thread (31,0,0): access to dynamic shared memory 128 bytes after its beginning
divergent|CHECK=0|16 threads wait in __syncthreads at tests/backend.cu:
two-barriers|CHECK=1|threads of a block meet in different barriers
partial-warp|CHECK=1|waits for lanes 10 to 31 of a warp, and the block has only 42 threads
wrong-mask|CHECK=0|lane 0 of warp 0 is not in the mask ffff0000 of __shfl_sync
different-masks|CHECK=0|lanes meet in different calls
uninitialised|CHECK=1|all of them are NaN
uninitialised-static|CHECK=1|all of them are NaN
uninitialised-dynamic|CHECK=1|all of them are NaN
host-pointer|CHECK=1|kernel overrun: argument 0
host-read|CHECK=1|host code: access to address
direction|CHECK=1|are not in one piece of device memory
copy-too-much|CHECK=1|400 bytes at
use-after-free|CHECK=1|points to memory that has been freed
double-free|CHECK=1|which is freed already
stack|CHECK=1|stack overflow
wrong-stream|CHECK=1|work in another stream than the one being captured
missing-sync|RACE=1|race in kernel missing_sync
late-sync|RACE=1|race in kernel late_sync
not-atomic|RACE=1|race in kernel not_atomic: byte 0 of the allocation of 1024 bytes
between-blocks|RACE=1|race in kernel between_blocks: byte 4
race-in-graph|RACE=1|race in kernel missing_sync
END

check "the profile names kernels" "" bash -c "CUDA_CPU_PROF=1 $B/backend digest 2>&1 | grep -q saxpy"

# sanitizers and gdb
wait $asan; r=$?; mv $B/log.asan $B/log; [[ $r = 0 ]] && ok "compiles with ASan and UBSan" || bad "compiles with ASan and UBSan"
check "correct code passes with ASan and UBSan" "" env ASAN_OPTIONS=allocator_may_return_null=1 $B/backend-asan
while IFS='|' read -r bug text; do check "caught by a sanitizer: $bug" "$text" $B/backend-asan "$bug"; done <<'END'
overrun|AddressSanitizer: heap-buffer-overflow
underrun|AddressSanitizer: heap-buffer-overflow
overrun-static|index 32 out of bounds for type
overrun-dynamic|in overrun_dynamic(float*)
misaligned|misaligned address
END
if command -v gdb > /dev/null; then
    gdb -batch -ex 'break late_sync' -ex 'run late-sync' -ex 'p threadIdx.x' -ex 'bt 1' -ex 'up 0' $B/backend-asan > $B/log 2>&1
    grep -q 'Breakpoint 1, .*late_sync.*tests/backend.cu:' $B/log && grep -q '^\$1 = 0' $B/log && ok "gdb stops in a kernel" || bad "gdb stops in a kernel"
fi

# the compiler's view
cat > $B/saxpy.cu <<'END'
#include <cuda_runtime.h>
__global__ void saxpy(float *y, const float *x, float a, int n) { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) y[i] = a * x[i] + y[i]; }
int main() { float *x; cudaMalloc(&x, 4000); cudaMemset(x, 0, 4000); saxpy<<<4, 256>>>(x, x, 2.f, 1000); }
END
if check "saxpy compiles" "" dev/cpu/cucc -O3 $native $B/saxpy.cu -o $B/saxpy && command -v objdump > /dev/null; then
    objdump -d --no-show-raw-insn -C $B/saxpy | awk '/^[0-9a-f]+ <.*rows</, /^$/' > $B/log
    grep -qE 'fmadd[0-9]*ps|mulps|fmla.*\.4s' $B/log && ok "a loop kernel is vectorised" || bad "a loop kernel is vectorised"
fi

# cucc: exit codes, nothing left behind, dependencies
compile_error() {  # NAME TEXT SOURCE
    printf '%s\n' "$3" > $B/wrong.cu
    rm -f $B/wrong $B/wrong.d
    check "$1" "$2" dev/cpu/cucc -O0 -MMD -MF $B/wrong.d $B/wrong.cu -o $B/wrong
    ls $B | grep -q '^wrong[^.]*$\|tmp\|^wrong\.d$' && { ls $B > $B/log; bad "$1: it leaves files behind"; }
}
compile_error "cucc fails when the preprocessor does" "wrong.cu:2" $'\n#include "not-there.h"'
compile_error "cucc fails when the compiler does, with file and line" "wrong.cu:3" $'__global__ void k(int *p) { p[threadIdx.x] = 0; }\n\nint main() { k<<<1, 2>>>(no_such_variable); }'
compile_error "cucc fails when the linker does" "undefined" $'void elsewhere();\nint main() { elsewhere(); }'
check "cucc without a source" "no .cu file" dev/cpu/cucc -o $B/wrong
mkdir -p "$B/a folder"
cat > "$B/a folder/x y.cu" <<'END'
#include <cstdio>
#include "value.h"
template<class T, int N> __global__ void fill(T *p, T v) { for (int i = 0; i < N; i++) p[i] = v; }
int main() {
    const char *text = "a << <b, a <<<1, 2>>> b";
    float *p = NULL, h[3];
    cudaMalloc(&p, 12);
    fill<float, 3><<<dim3(1),
                     (8 >> 3)>>>  // a launch over several lines
        (p, VALUE);
    cudaMemcpy(h, p, 12, cudaMemcpyDeviceToHost);
    return !(h[2] == VALUE && text[15] == ',');
}
END
echo '#define VALUE (FIRST + SECOND)' > "$B/a folder/value.h"
check "cucc: blanks in names, several -D and -I" "" dev/cpu/cucc -DFIRST=1 -D SECOND=2 -I. -I "$B/a folder" -O1 -Wall -MMD -MP -MF "$B/a folder/x.d" -o "$B/a folder/program" "$B/a folder/x y.cu"
check "cucc: launches over several lines, strings are left alone" "" "$B/a folder/program"
cp "$B/a folder/x.d" $B/log
grep -q 'value.h' $B/log && grep -q 'dev/cpu/fibers.h' $B/log && grep -q 'program:' $B/log && ok "cucc lists the headers for make" || bad "cucc lists the headers for make"

echo "$passed passed, $failed failed"
[[ $failed = 0 ]]
