/* rwkv/mma.h: one function for each tensor-core instruction that kernels use, and the fragments of a warp.

   mma: D (16x8) += A (16x16) B (16x8), fp32 sums. Of lane l, with g = l / 4 and t = 2 (l % 4):
       D[0,1]: row g, columns t, t + 1    D[2,3]: row g + 8
       A[0]: row g, columns t, t + 1      A[1]: row g + 8      A[2], A[3]: the same, columns + 8
       B[0]: rows t, t + 1, column g      B[1]: rows + 8
   So two D side by side, rounded, are an A: a product feeds the next one without leaving its registers.

   bf16 needs sm_80. fp16 runs on sm_75 too: its mma takes half of the columns of A at a time, and its cp_async is a plain copy.
   On the CPU the same names come from dev/cpu/tensor_core.h.
   defines: ldmatrix, cp_async, cp_async_commit, cp_async_wait, mma, pack_pair, load_a, load_b, load_b_transposed */
#pragma once
#include "cuda.h"

#ifndef CUDA_CPU
__device__ inline unsigned shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }

__device__ inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
#else
    __trap();  // dev/gpu_flags.sh refuses bf16 on sm_75
#endif
}
__device__ inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
#else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(b[0]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[2]), "r"(a[3]), "r"(b[1]));
#endif
}
// N matrices of 8x8; lane m * 8 + i brings the address of row i of matrix m, aligned to 16 bytes. Lane l gets elements t, t + 1 of
// row g of each matrix, transposed: of column g.
template<int N, bool transposed = false> __device__ inline void ldmatrix(uint32_t (&r)[N], const void *row) {
    static_assert(N == 4, "the kernels load four at a time");
    unsigned p = shared_address(row);
    if (transposed) asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(p) : "memory");
    else asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(p) : "memory");
}
template<int N = 16> __device__ inline void cp_async(void *shared, const void *global) {  // not through L1
    static_assert(N == 16, "cg copies 16 bytes");
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
#else
    *(float4 *)shared = *(const float4 *)global;
#endif
}
__device__ inline void cp_async_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template<int N = 0> __device__ inline void cp_async_wait() {  // until at most N committed groups are in flight
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}
#endif

__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t *b, __nv_bfloat16) { mma_m16n8k16_bf16(d, a, *(const uint32_t(*)[2])b, d); }
__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t *b, __half) { mma_m16n8k16_f16(d, a, *(const uint32_t(*)[2])b, d); }

__device__ inline uint32_t pair_bits(__nv_bfloat162 x) { uint32_t u; memcpy(&u, &x, 4); return u; }
__device__ inline uint32_t pair_bits(__half2 x) { uint32_t u; memcpy(&u, &x, 4); return u; }
__device__ inline uint32_t pack_pair(float low, float high, __nv_bfloat16) { return pair_bits(__floats2bfloat162_rn(low, high)); }
__device__ inline uint32_t pack_pair(float low, float high, __half) { return pair_bits(__floats2half2_rn(low, high)); }

// Fragments from shared memory, x row-major with `stride` elements a row; an odd multiple of 8 elements meets no bank twice.
// A: rows 0..15, columns 0..15 of x. B: 16 columns of B at once, [0,1] the first eight and [2,3] the rest; a column of B is a row
// of x, columns 0..15, or transposed a column of x, rows 0..15.
template<class X> __device__ inline void load_a(uint32_t (&a)[4], const X *x, int stride) {
    int l = threadIdx.x % 32;
    ldmatrix<4>(a, x + l % 16 * stride + l / 16 * 8);
}
template<class X> __device__ inline void load_b(uint32_t (&b)[4], const X *x, int stride) {
    int l = threadIdx.x % 32;
    ldmatrix<4>(b, x + (l % 8 + l / 16 * 8) * stride + l / 8 % 2 * 8);
}
template<class X> __device__ inline void load_b_transposed(uint32_t (&b)[4], const X *x, int stride) {
    int l = threadIdx.x % 32;
    ldmatrix<4, true>(b, x + l % 16 * stride + l / 16 * 8);
}
