/* rwkv/norm.h: LayerNorm over the C channels of a row, as device functions that fused kernels use.

       mu = mean(x)   rstd = 1/sqrt(mean((x - mu)^2) + 1e-5)   xh = (x - mu) rstd   y = xh w + b
       dw += dy xh    db += dy    g = dy w    dx = rstd (g - mean(g) - xh mean(g xh))

   One block walks over rows; thread i holds channels [i W, i W + W) of each; threads past C hold zeros.
   Gradients of vectors (w, b, mixes) are sums over all rows: every block sums its rows in registers, writes
   one partial row, and column_sums adds the partial rows in a fixed order: deterministic, no atomics.
   defines: Stats, row_stats, norm_backward_row, column_sums, bias_backward */
#pragma once
#include "cuda.h"

constexpr real NORM_EPS = real(1e-5);
struct Stats { real mean, rstd; };

// Two passes over registers: the variance of large means would cancel in one.
template<int W> __device__ inline Stats row_stats(Vec<W> x, bool inside, int C, BlockRoom &room, int &turn) {
    real s[1] = {inside ? sum(x) : real(0)};
    block_sum(s, room, turn);
    real mean = s[0] / C;
    Vec<W> d = x - mean;
    real v[1] = {inside ? sum(d * d) : real(0)};
    block_sum(v, room, turn);
    return {mean, real(1) / real(sqrt(v[0] / C + NORM_EPS))};
}
// dx of one row from g = dy w and xh.
template<int W> __device__ inline Vec<W> norm_backward_row(Vec<W> g, Vec<W> xh, real rstd, bool inside, int C, BlockRoom &room, int &turn) {
    real s[2] = {inside ? sum(g) : real(0), inside ? sum(g * xh) : real(0)};
    block_sum(s, room, turn);
    return rstd * (g - s[0] / C - xh * (s[1] / C));
}

// out[k][c] += sum over p of partial[p][k][c]: K vectors of C, given by their addresses; null: not wanted.
constexpr int MAX_SUMS = 8;
#ifdef CPU_SHAPES
constexpr int SUM_ROWS = 8;
#else
constexpr int SUM_ROWS = 32;  // 120 blocks at C = 768: eight rows left every thread with 128 loads one after the other
#endif
struct SumTargets { real *out[MAX_SUMS]; };
__global__ void column_sums_kernel(const __grid_constant__ SumTargets to, const real *partial, int P, int K, int C) {
    __shared__ real part[SUM_ROWS][33];
    int c = blockIdx.x * 32 + threadIdx.x, k = blockIdx.y;
    real s = 0, *out = to.out[k];
    if (c < C) for (int p = threadIdx.y; p < P; p += SUM_ROWS) s += partial[((int64_t)p * K + k) * C + c];
    part[threadIdx.y][threadIdx.x] = s;
    __syncthreads();  // the partial sums of each column are there
    if (threadIdx.y || c >= C || !out) return;
    for (int y = 1; y < SUM_ROWS; y++) s += part[y][threadIdx.x];
    out[c] += s;
}
__global__ void column_sums_serial_kernel(const __grid_constant__ SumTargets to, const real *partial, int P, int K, int C) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, k = blockIdx.y;
    real s = 0, *out = to.out[k];
    if (c >= C || !out) return;
    for (int p = 0; p < P; p++) s += partial[((int64_t)p * K + k) * C + c];
    out[c] += s;
}
inline void column_sums(const SumTargets &to, const real *partial, int P, int K, int C, cudaStream_t stream) {
    if (P >= 64) column_sums_kernel<<<dim3(ceil_div(C, 32), K), dim3(32, SUM_ROWS), 0, stream>>>(to, partial, P, K, C);
    else column_sums_serial_kernel<<<dim3(ceil_div(C, 64), K), 64, 0, stream>>>(to, partial, P, K, C);
    launchCheck();
}

// db[c] += sum over rows of dy[row][c], the gradient of a linear layer's bias. partial: bias_parts() rows of C.
template<int W> __global__ void bias_backward_kernel(real *partial, const floatX *dy, int rows, int C) {
    int c = (blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (c >= C) return;
    Vec<W> s = 0;
    int64_t from = (int64_t)rows * blockIdx.y / gridDim.y, to = (int64_t)rows * (blockIdx.y + 1) / gridDim.y;
    for (int64_t row = from; row < to; row++) s += load<W>(dy + row * C + c);
    store(partial + (int64_t)blockIdx.y * C + c, s);
}
inline int bias_parts(int64_t rows, int64_t C) { return (int)std::min<int64_t>(ceil_div(rows, 32), std::max(1, 4 * busy_blocks() / ceil_div(C, 1024))); }
inline void bias_backward(real *db, real *partial, const floatX *dy, int rows, int C, cudaStream_t stream) {
    int width = channel_width(C), threads = std::min(128, C / width), parts = bias_parts(rows, C);
    dispatch_width(width, [&](auto W) {
        bias_backward_kernel<W.value><<<dim3(ceil_div(C, (int64_t)threads * width), parts), threads, 0, stream>>>(partial, dy, rows, C);
    });
    launchCheck();
    column_sums({{db}}, partial, parts, 1, C, stream);
}
