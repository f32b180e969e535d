/* rwkv/adamw.h: global gradient norm, clipping and AdamW over the flat parameter buffer.

       g  = g * clip / loss_scale            clip = min(1, max_norm / (norm + 1e-6)), norm over all parameters
       m  = b1 m + (1 - b1) g                v  = b2 v + (1 - b2) g^2
       p -= lr f (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + wd d p)

   f and d, the learning-rate factor and the weight decay switch of each tensor, come from the tensor table
   as a group number for every 64 elements of the buffer. One launch updates everything, also the floatX
   copy of 16-bit parameters. What changes from step to step lies on the device (StepNumbers), so that a
   captured graph can be replayed. Nothing is updated when the norm is not finite: the step is left as it was.
   defines: StepNumbers, Groups, gradient_norm, adamw */
#pragma once
#include <cmath>
#include "tensors.h"

struct StepNumbers {       // host writes, one copy to the device per step
    real lr, correction1, correction2;  // 1 - b1^t, 1 - b2^t
    real dloss;            // loss scale / tokens of the optimizer step: what the gradient of a loss row starts with
    real inverse_scale;    // 1 / loss scale
};
struct Groups {            // distinct (factor, decay) pairs of the tensor table
    static constexpr int MOST = 16;
    real factor[MOST], decay[MOST];
    int n = 0;
    // One byte per 64 elements of the buffer
    std::vector<uint8_t> assign(const TensorTable &table, double weight_decay) {
        std::vector<uint8_t> of(table.total / 64);
        for (size_t i = 0; i < table.tensors.size(); i++) {
            const Tensor &t = table.tensors[i];
            real f = t.row->lr, d = t.row->decay ? weight_decay : 0;
            int g = 0;
            while (g < n && (factor[g] != f || decay[g] != d)) g++;
            if (g == n) {
                if (n == MOST) fail("the tensor table has more than %d kinds of tensors", MOST);
                factor[n] = f, decay[n++] = d;
            }
            int64_t end = i + 1 < table.tensors.size() ? table.tensors[i + 1].offset : table.total;
            for (int64_t k = t.offset / 64; k < end / 64; k++) of[k] = g;
        }
        return of;
    }
};

// partial[block] = sum of squares of its share. Two launches, fixed order: deterministic.
__global__ void square_sum_kernel(real *partial, const real *x, int64_t n) {
    __shared__ BlockRoom room;
    int turn = 0;
    constexpr int W = 4;  // 16 bytes
    Vec<W> s = 0;
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W; i < n; i += (int64_t)gridDim.x * blockDim.x * W) {
        Vec<W> v = load<W>(x + i);
        s += v * v;
    }
    real r[1] = {sum(s)};
    block_sum(r, room, turn);
    if (threadIdx.x == 0) partial[blockIdx.x] = r[0];
}
__global__ void norm_kernel(real *norm, const real *partial, int n, const StepNumbers *step) {
    __shared__ BlockRoom room;
    int turn = 0;
    real r[1] = {0};
    for (int i = threadIdx.x; i < n; i += blockDim.x) r[0] += partial[i];
    block_sum(r, room, turn);
    if (threadIdx.x == 0) *norm = sqrt(r[0]) * step->inverse_scale;
}
// norm (device) of the unscaled gradient; partial: room for busy_blocks() numbers
inline void gradient_norm(real *norm, real *partial, const real *grads, int64_t n, const StepNumbers *step, cudaStream_t stream) {
    int blocks = busy_blocks();
    square_sum_kernel<<<blocks, loop_threads(512), 0, stream>>>(partial, grads, n);
    norm_kernel<<<1, loop_threads(256), 0, stream>>>(norm, partial, blocks, step);
    launchCheck();
}

struct AdamW { real beta1, beta2, eps, max_norm; };
template<int W> __global__ void adamw_kernel(real *master, floatX *params, const real *grads, real *m, real *v, const uint8_t *group, Groups groups, AdamW a, const real *norm, const StepNumbers *step, int64_t n) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    real scale = step->inverse_scale * (a.max_norm > 0 && *norm + real(1e-6) > a.max_norm ? a.max_norm / (*norm + real(1e-6)) : real(1));
    if (i >= n || !(*norm < real(INFINITY))) return;
    int g = group[i / 64];
    real lr = step->lr * groups.factor[g], c1 = 1 / step->correction1, c2 = 1 / step->correction2;
    Vec<W> grad = load<W>(grads + i) * scale, p = load<W>(master + i);
    Vec<W> m1 = load<W>(m + i) * a.beta1 + grad * (1 - a.beta1), v1 = load<W>(v + i) * a.beta2 + grad * grad * (1 - a.beta2);
    p = p - (m1 * c1 / (sqrtv(v1 * c2) + a.eps) + p * groups.decay[g]) * lr;
    store(m + i, m1), store(v + i, v1), store(master + i, p);
    if constexpr (has_master) store(params + i, p);
}
inline void adamw(real *master, floatX *params, const real *grads, real *m, real *v, const uint8_t *group, const Groups &groups, const AdamW &a, const real *norm, const StepNumbers *step, int64_t n, cudaStream_t stream) {
    constexpr int W = ELEMENT_WIDTH;
    adamw_kernel<W><<<ceil_div(n, 256 * W), 256, 0, stream>>>(master, params, grads, m, v, group, groups, a, norm, step, n);
    launchCheck();
}
// the floatX copy of freshly set master weights
template<int W> __global__ void round_params_kernel(floatX *params, const real *master, int64_t n) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i < n) store(params + i, load<W>(master + i));
}
inline void round_params(floatX *params, const real *master, int64_t n, cudaStream_t stream) {
    if (!has_master) return;
    round_params_kernel<ELEMENT_WIDTH><<<ceil_div(n, 256 * ELEMENT_WIDTH), 256, 0, stream>>>(params, master, n);
    launchCheck();
}
