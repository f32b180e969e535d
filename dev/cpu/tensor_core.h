/* dev/cpu/tensor_core.h: tensor-core instructions as meetings of a warp, one function for each. A source that uses
   them defines functions of the same names with inline PTX for nvcc. Fragments as in the PTX manual, "mma.m16n8k16".
   defines: mma_m16n8k16_bf16, mma_m16n8k16_f16, mma_m16n8k8_f16, ldmatrix, cp_async, cp_async_commit, cp_async_wait */
#pragma once

namespace cuda_cpu {

inline void need_whole_warp(const char *what, unsigned mask) {
    if (mask != ~0u) fatal("kernel %s: %s needs all 32 lanes of a warp", block->k.name, what);
}
// D (16x8) = A (16xK) B (Kx8) + C, fp32 accumulation. A register holds two neighbours of a row of A, or of a column of B.
template<class T, int K> inline void mma(const char *what, float (&d)[4], const uint32_t (&a)[K / 4], const uint32_t (&b)[K / 8], const float (&c)[4],
                                         const char *file, int line) {
    struct Lane { const char *what; const uint32_t *a, *b; float d[4]; } x{what, a, b, {c[0], c[1], c[2], c[3]}};
    collective(what, ~0u, &x, [](void **lanes, unsigned mask) {
        auto lane = [&](int i) -> Lane & { return *(Lane *)lanes[i]; };
        need_whole_warp(lane(lowest(mask)).what, mask);
        float A[16][K], B[K][8], D[16][8] = {};
        auto half_of = [](uint32_t v, int h) { return (float)bits<T>((uint16_t)(v >> 16 * h)); };
        for (int i = 0; i < 32; i++)
            for (int h = 0; h < 2; h++) {
                for (int r = 0; r < K / 4; r++) A[i / 4 + r % 2 * 8][i % 4 * 2 + h + r / 2 * 8] = half_of(lane(i).a[r], h);
                for (int r = 0; r < K / 8; r++) B[i % 4 * 2 + h + r * 8][i / 4] = half_of(lane(i).b[r], h);
            }
        for (int m = 0; m < 16; m++)
            for (int k = 0; k < K; k++)
                for (int n = 0; n < 8; n++) D[m][n] += A[m][k] * B[k][n];
        for (int i = 0; i < 32; i++)
            for (int r = 0; r < 4; r++) lane(i).d[r] += D[i / 4 + r / 2 * 8][i % 4 * 2 + r % 2];
    }, file, line);
    memcpy(d, x.d, sizeof d);
}

// cp.async: the copy is made as late as allowed, so that a missing wait shows.
struct Copies {
    struct Copy { void *to; const void *from; int group, bytes; } queue[64];
    int n, group;
    long block;  // the copies of this block
};
inline Copies &copies() {  // of the running thread
    Block &b = *block;
    if (!b.copies) b.copies = (Copies *)map_memory(MAX_THREADS * sizeof(Copies));
    Copies &c = b.copies[linear_id()];
    if (c.block != b.number) c.n = c.group = 0, c.block = b.number;
    return c;
}

}  // namespace cuda_cpu

inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4], CUDA_CPU_HERE) {
    cuda_cpu::mma<__nv_bfloat16, 16>("mma_m16n8k16_bf16", d, a, b, c, file, line);
}
inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4], CUDA_CPU_HERE) {
    cuda_cpu::mma<__half, 16>("mma_m16n8k16_f16", d, a, b, c, file, line);
}
inline void mma_m16n8k8_f16(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1], const float (&c)[4], CUDA_CPU_HERE) {
    cuda_cpu::mma<__half, 8>("mma_m16n8k8_f16", d, a, b, c, file, line);
}
// N matrices of 8x8 16-bit values; lane m * 8 + i brings the address of row i of matrix m.
template<int N, bool trans = false> inline void ldmatrix(uint32_t (&r)[N], const void *row, CUDA_CPU_HERE) {
    struct Lane { const void *row; uint32_t *r; } x{row, r};
    cuda_cpu::collective("ldmatrix", ~0u, &x, [](void **lanes, unsigned mask) {
        cuda_cpu::need_whole_warp("ldmatrix", mask);
        uint16_t v[N][8][8];
        for (int i = 0; i < N * 8; i++) {
            const void *p = ((Lane *)lanes[i])->row;
            if ((uintptr_t)p % 16) cuda_cpu::fatal("kernel %s: ldmatrix: the row of lane %d is not aligned to 16 bytes", cuda_cpu::block->k.name, i);
            memcpy(v[i / 8][i % 8], p, 16);
        }
        for (int i = 0; i < 32; i++)
            for (int m = 0; m < N; m++) {
                int a = i / 4, b = i % 4 * 2;
                ((Lane *)lanes[i])->r[m] = trans ? v[m][b][a] | (uint32_t)v[m][b + 1][a] << 16 : v[m][a][b] | (uint32_t)v[m][a][b + 1] << 16;
            }
    }, file, line);
}
template<int N = 16> inline void cp_async(void *smem, const void *global) {
    auto &c = cuda_cpu::copies();
    if (c.n == 64) cuda_cpu::fatal("kernel %s: more than 64 cp_async in flight in one thread", cuda_cpu::block->k.name);
    if (((uintptr_t)smem | (uintptr_t)global) % N) cuda_cpu::fatal("kernel %s: cp_async of %d bytes from or to an address that is not aligned to them", cuda_cpu::block->k.name, N);
    c.queue[c.n++] = {smem, global, c.group, N};
}
inline void cp_async_commit() { cuda_cpu::copies().group++; }
template<int N = 0> inline void cp_async_wait() {  // until at most N committed groups are in flight
    auto &c = cuda_cpu::copies();
    int done = 0;
    for (; done < c.n && c.queue[done].group < c.group - N; done++) memcpy(c.queue[done].to, c.queue[done].from, c.queue[done].bytes);
    c.n -= done;
    memmove(c.queue, c.queue + done, c.n * sizeof c.queue[0]);
}
