#!/bin/sh
# dev/bench/gemm_openblas.sh [words]: our GEMM on the CPU beside OpenBLAS (apt-get install libopenblas-dev), on THREADS threads.
set -e
cd "$(dirname "$0")/../.."
program=$(mktemp)
trap 'rm -f "$program"' EXIT
make -s DEVICE=cpu build/cpu/cublas.o
dev/cpu/cucc -O3 -march=native -DUSE_OPENBLAS dev/bench/gemm.cu build/cpu/cublas.o -o "$program" -lopenblas
export CUDA_CPU_THREADS="${THREADS:-1}" OPENBLAS_NUM_THREADS="${THREADS:-1}"
echo "$CUDA_CPU_THREADS threads, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)"
"$program" "$@"
