/* dev/cpu/cuda_cpu.h: CUDA C++ on the CPU, to test, debug and train without a GPU.

   dev/cpu/cucc preprocesses a .cu file with this header in front, rewrites launches, dynamic shared memory and NULL
   (cuda.sed), and compiles. Blocks are spread over threads; the threads of a block are fibers of one OS thread,
   and a kernel that never waits is a plain loop over threadIdx.x, which the compiler vectorises.

   Environment (README.md explains each):
     CUDA_CPU_THREADS=n  OS threads, the caller included       CUDA_CPU_CHECK=1  find what a GPU would not tell
     CUDA_CPU_SMS=n      multiProcessorCount to report         CUDA_CPU_RACE=1   run every kernel in two thread orders
     CUDA_CPU_PROF=1     time per kernel at exit
   What our sources use beyond CUDA: cuda_cpu::opt, parallel_for, warp_sum, warp_max, collective, need_whole_warp. */
#pragma once
#include "options.h"      // fatal, opt, Timer
#include "language.h"     // __global__, dim3, threadIdx, float4
#include "pool.h"         // parallel_for
#include "fibers.h"       // the threads of one block
#include "warp.h"         // __syncthreads, shuffles, votes, warp_sum
#include "intrinsics.h"   // atomics, loads, arithmetic
#include "float16.h"      // __nv_bfloat16, __half
#include "tensor_core.h"  // mma, ldmatrix, cp_async
#include "memory.h"       // cudaMalloc and the checks of memory
#include "launch.h"       // kernel<<<grid, block>>>(...), streams, captured graphs
#include "runtime.h"      // the rest of the runtime API
