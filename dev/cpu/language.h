/* dev/cpu/language.h: the words that CUDA adds to C++.
   defines: __global__ ... __shared__, dim3, threadIdx ... gridDim, float4 ... make_float4 */
#pragma once

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#if CUDA_CPU_ASAN
#define __shared__ static  // blocks run on one OS thread then; plain statics have red zones, thread locals do not
#else
#define __shared__ static thread_local
#endif

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
// Two things let compilers vectorise kernels: these are static and nobody takes their address, so no store of a
// kernel can change them; and they are int, so i + 1 does not wrap around. (On a GPU they are unsigned.)
struct cuda_cpu_index {
    int x, y, z;
    operator dim3() const { return {(unsigned)x, (unsigned)y, (unsigned)z}; }
};
static thread_local cuda_cpu_index threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

// float2 is aligned like one load of 8 bytes, float4 like one of 16. may_alias: kernels read arrays of other types through them.
#define CUDA_CPU_VECTOR(T, name)                                                                        \
    struct __attribute__((may_alias)) name##1 { T x; };                                                 \
    struct __attribute__((may_alias, aligned(2 * sizeof(T)))) name##2 { T x, y; };                       \
    struct __attribute__((may_alias)) name##3 { T x, y, z; };                                           \
    struct __attribute__((may_alias, aligned(sizeof(T) < 4 ? 4 * sizeof(T) : 16))) name##4 { T x, y, z, w; }; \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                          \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                                  \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CUDA_CPU_VECTOR(signed char, char) CUDA_CPU_VECTOR(unsigned char, uchar) CUDA_CPU_VECTOR(short, short) CUDA_CPU_VECTOR(unsigned short, ushort)
CUDA_CPU_VECTOR(int, int) CUDA_CPU_VECTOR(unsigned, uint) CUDA_CPU_VECTOR(float, float) CUDA_CPU_VECTOR(double, double)
CUDA_CPU_VECTOR(long long, longlong) CUDA_CPU_VECTOR(unsigned long long, ulonglong)
