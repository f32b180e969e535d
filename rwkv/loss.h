/* rwkv/loss.h: cross-entropy and L2Wrap, with the gradient written over the logits.

       loss[row] = log sum_j e^z_j - z_target
       dz_j = scale * (softmax_j - [j = target] + [j = argmax z] l2wrap max z)

   L2Wrap, the last term, is the gradient of l2wrap/2 mean_rows (max_j z_j)^2, l2wrap = 1e-4 (spec of RWKV-4 and
   later): it keeps the largest logit small, and is not part of the reported loss. scale = loss scale / (tokens of the
   whole optimizer step), for both terms alike, so that gradient accumulation equals the big batch.
   Logits are rows of `stride` elements, of which the first V count; the padding gets a zero gradient.
   defines: cross_entropy, Head, loss_sum */
#pragma once
#include <cfloat>
#include "matmul.h"
#include "norm.h"
#include "tensors.h"

// Columns [j, j + W) of a row, the padding as -inf
template<int W> __device__ inline Vec<W> load_logits(const floatX *z, int j, int V) {
    Vec<W> x = load<W>(z + j);
    return j + W <= V ? x : each<W>([&](int i) { return j + i < V ? x[i] : real(-INFINITY); });
}
// One block per row; the row is read twice, from cache after the first: every thread sums e^(z_j - max) of its columns with
// the maximum so far, and what it has is made smaller when that grows. `scale` lies on the device.
// grad = false leaves the logits as they are. A NaN logit makes the loss NaN: its exponential is.
template<int W> __global__ void cross_entropy_kernel(floatX *logits, real *losses, const int *targets, const real *scale, real l2wrap, int V, int stride, bool grad) {
    __shared__ BlockRoom room;
    int target = targets[blockIdx.x], turn = 0;
    floatX *z = logits + (int64_t)blockIdx.x * stride;
    real own = -real(FLT_MAX), max[1], at[1] = {-(real)V}, s[1] = {0};  // not -inf: inf - inf would be NaN
    for (int j = threadIdx.x * W; j < stride; j += blockDim.x * W) {
        Vec<W> x = load_logits<W>(z, j, V);
        real most = largest(x);
        if (most > own) {
            s[0] *= exp2((own - most) * LOG2E), own = most;
            for (int i = W - 1; i >= 0; i--) if (x[i] == most) at[0] = -(real)(j + i);
        }
        s[0] += sum(exp2v((x - own) * LOG2E));
    }
    max[0] = own;
    block_max(max, room, turn);
    s[0] *= exp2((own - max[0]) * LOG2E);
    block_sum(s, room, turn);
    if (own != max[0]) at[0] = -(real)V;
    block_max(at, room, turn);  // the lowest index of the maximum, as a negative number
    if (threadIdx.x == 0) losses[blockIdx.x] = log(s[0]) + max[0] - (real)z[target];
    if (!grad) return;
    __syncthreads();  // z[target] is read before anyone overwrites it
    real inverse = *scale / s[0];
    int argmax = -(int)at[0];
    for (int j = threadIdx.x * W; j < stride; j += blockDim.x * W) {
        Vec<W> d = exp2v((load_logits<W>(z, j, V) - max[0]) * LOG2E) * inverse;
        if ((target >= j && target < j + W) || (argmax >= j && argmax < j + W))  // each: no run-time index into registers
            d = each<W>([&](int i) { return d[i] - (j + i == target ? *scale : real(0)) + (j + i == argmax ? *scale * l2wrap * max[0] : real(0)); });
        store(z + j, d);
    }
}
inline void cross_entropy(floatX *logits, real *losses, const int *targets, const real *scale, real l2wrap, int rows, int V, int stride, bool grad, cudaStream_t stream) {
    int width = channel_width(stride), threads = loop_threads(stride / width);
    dispatch_width(width, [&](auto W) {
        cross_entropy_kernel<W.value><<<rows, threads, 0, stream>>>(logits, losses, targets, scale, l2wrap, V, stride, grad);
    });
    launchCheck();
}

// ------------------------------------------------------------------------------------------------
// The head: logits = x W^T (+ bias) and their loss, ROWS rows at a time, so that the logits of a batch (the largest
// buffer of a small model with a large vocabulary) never exist at once. Forward and backward are one pass.
struct Head {
    static constexpr int64_t MOST = 1ll << 28;   // elements of logits alive: 512 MB of bf16
    int rows = 0, V, C, stride;                  // rows alive; stride: V padded to 16
    floatX *logits;
    real *losses;                                // (B T)
    const floatX *bias = nullptr;                // (stride), set by a model that has one, with its gradient
    real *dbias = nullptr, *partial;

    void plan(Arena &arena, int64_t BT, int vocab, int channels, bool has_bias = false) {
        V = vocab, C = channels, stride = padded_vocab(V);
        int64_t parts = ceil_div(BT, std::max<int64_t>(1, MOST / stride));
        rows = std::min<int64_t>(BT, (ceil_div(BT, parts) + 127) / 128 * 128);  // equal parts: a short last one leaves most of a GPU idle
        arena.plan("logits", &logits, (int64_t)rows * stride);
        arena.plan("logits", &losses, BT);
        if (has_bias) arena.plan("backward", &partial, (int64_t)bias_parts(rows, stride) * stride);
    }
    // logits of up to `rows` rows of x, for sampling
    void forward(const floatX *x, const floatX *weight, int n, cudaStream_t stream) { matmul_forward(logits, x, weight, nullptr, n, stride, C, stream, {}, bias); }
    // losses of n rows; with dx also dx (n,C) and dweight +=
    void loss(const floatX *x, const floatX *weight, const int *targets, const real *scale, real l2wrap, int n, floatX *dx, real *dweight, cudaStream_t stream) {
        for (int i = 0; i < n; i += rows) {
            int m = std::min(rows, n - i);
            const floatX *xi = x + (int64_t)i * C;
            forward(xi, weight, m, stream);
            cross_entropy(logits, losses + i, targets + i, scale, l2wrap, m, V, stride, dx != nullptr, stream);
            if (!dx) continue;
            if (dbias) bias_backward(dbias, partial, logits, m, stride, stream);
            matmul_backward_weight(dweight, logits, xi, m, stride, C, stream);
            matmul_backward_input(dx + (int64_t)i * C, logits, weight, m, stride, C, stream);
        }
    }
};
// *total += sum of losses: one block, fixed order
__global__ void loss_sum_kernel(real *total, const real *losses, int n) {
    __shared__ BlockRoom room;
    int turn = 0;
    real s[1] = {0};
    for (int i = threadIdx.x; i < n; i += blockDim.x) s[0] += losses[i];
    block_sum(s, room, turn);
    if (threadIdx.x == 0) *total += s[0];
}
inline void loss_sum(real *total, const real *losses, int n, cudaStream_t stream) {
    loss_sum_kernel<<<1, loop_threads(n), 0, stream>>>(total, losses, n);
    launchCheck();
}
