/* rwkv/finetune.h: training something smaller than the weights of a loaded model (--tune).

   lora   every large matrix W (rows, cols) of the blocks is W0 + (alpha / rank) B A with W0 frozen; A (rank, cols) and
          B (rows, rank) are trained (arXiv 2106.09685), A from U(-1/sqrt(cols), 1/sqrt(cols)), B from zero. No model
          knows of it: W itself is kept in the parameter buffer ("merged") and made again after each step, and its
          gradient, which every model makes, gives    dA = s B^T dW    dB = s dW A^T    s = alpha / rank.
          So a checkpoint is an ordinary model; A, B and their Adam moments lie beside it.
   state  only the state that a sequence begins with is trained, one for all sequences: the "time_state" of the
          official state tuning, (H,N,N) per layer, [key][value]: every reader of such files transposes it into its
          own S, [value][key], and so do we. The checkpoint's model file holds just that.

   A state of B sequences is, per layer, `before` * B numbers, then (B, count) of what is tuned, matrices of (N,N), then
   the rest up to `all` * B.   defines: TunedState, Adapters, spread_state, gather_state */
#pragma once
#include <deque>
#include "tensors.h"

// ------------------------------------------------------------------------------------------------
// initial state

struct TunedState {
    int64_t before, count, all;
    int N;
    __device__ int64_t transposed(int64_t i) const { return i / (N * N) * (N * N) + i % N * N + i / N % N; }  // its own inverse
};

// state (L, all B): zero but for its tuned part, which is `tuned` (L, count), transposed, for every sequence
__global__ void spread_state_kernel(real *state, const real *tuned, TunedState t, int B, int64_t n) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int64_t layer = i / (t.all * B), at = i % (t.all * B) - t.before * B;
    state[i] = at >= 0 && at < t.count * B ? tuned[layer * t.count + t.transposed(at % t.count)] : real(0);
}
// dtuned (L, count) += the sum over sequences of dstate's tuned part, transposed
__global__ void gather_state_kernel(real *dtuned, const real *dstate, TunedState t, int B, int64_t n) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const real *d = dstate + i / t.count * t.all * B + t.before * B + t.transposed(i % t.count);
    real sum = 0;
    for (int b = 0; b < B; b++) sum += d[b * t.count];
    dtuned[i] += sum;
}
inline void spread_state(real *state, const real *tuned, const TunedState &t, int L, int B, cudaStream_t stream) {
    int64_t n = L * t.all * B;
    spread_state_kernel<<<ceil_div(n, 256), 256, 0, stream>>>(state, tuned, t, B, n);
    launchCheck();
}
inline void gather_state(real *dtuned, const real *dstate, const TunedState &t, int L, int B, cudaStream_t stream) {
    int64_t n = L * t.count;
    gather_state_kernel<<<ceil_div(n, 256), 256, 0, stream>>>(dtuned, dstate, t, B, n);
    launchCheck();
}

// ------------------------------------------------------------------------------------------------
// LoRA. The products are small, 2 rank / (tokens of a step) of the model's, so plain loops do.

struct AdapterMatrix { real *w; floatX *params; const real *w0, *dw, *a, *b; real *da, *db; int rows, cols, rank; real scale; };

// W = W0 + scale B A, and its rounded copy
template<int W> __global__ void lora_merge_kernel(AdapterMatrix m) {
    int col = (blockIdx.x * blockDim.x + threadIdx.x) * W, row = blockIdx.y;
    if (col >= m.cols) return;
    Vec<W> sum = 0;
    for (int r = 0; r < m.rank; r++) sum += load<W>(m.a + (int64_t)r * m.cols + col) * m.b[row * m.rank + r];
    int64_t i = (int64_t)row * m.cols + col;
    sum = load<W>(m.w0 + i) + sum * m.scale;
    store(m.w + i, sum);
    if constexpr (has_master) store(m.params + i, sum);
}
// dA = scale B^T dW: a thread has one row of A and W columns
template<int W> __global__ void lora_a_kernel(AdapterMatrix m) {
    int col = (blockIdx.x * blockDim.x + threadIdx.x) * W, r = blockIdx.y;
    if (col >= m.cols) return;
    Vec<W> sum = 0;
    for (int row = 0; row < m.rows; row++) sum += load<W>(m.dw + (int64_t)row * m.cols + col) * m.b[row * m.rank + r];
    store(m.da + (int64_t)r * m.cols + col, sum * m.scale);
}
// dB = scale dW A^T: a thread has one element of B; neighbours share the row of dW
template<int W> __global__ void lora_b_kernel(AdapterMatrix m) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (int64_t)m.rows * m.rank) return;
    const real *dw = m.dw + i / m.rank * m.cols, *a = m.a + i % m.rank * m.cols;
    Vec<W> s = 0;
    for (int col = 0; col < m.cols; col += W) s += load<W>(dw + col) * load<W>(a + col);
    m.db[i] = sum(s) * m.scale;
}

struct Adapters {  // LoRA
    real *base = nullptr;              // the frozen weights, laid out like the model's
    std::vector<AdapterMatrix> matrices;

    static void init_a(double *w, const InitContext &c) { for (int64_t i = 0; i < c.rows * c.cols; i++) w[i] = (2 * c.rng.uniform() - 1) / sqrt((double)c.cols); }
    // The table of A and B for a model: for its matrices with weight decay in the blocks
    TensorTable table(const TensorTable &model, int rank) {
        std::vector<TensorRow> rows;
        for (const Tensor &t : model.tensors) {
            const TensorRow &r = *t.row;
            bool listed = std::any_of(rows.begin(), rows.end(), [&](const TensorRow &x) { return !strncmp(x.name, r.name, strlen(r.name)); });
            if (listed || !r.decay || !t.matrix() || t.layer < 0) continue;
            names.push_back(r.name + std::string(".lora_A")), rows.push_back({names.back().c_str(), {'r', r.shape[1]}, init_a, 1, false});
            names.push_back(r.name + std::string(".lora_B")), rows.push_back({names.back().c_str(), {r.shape[0], 'r'}, init_zeros, 1, false});
        }
        Shape s = model.s;
        s['r'] = rank;
        return TensorTable(rows, s);
    }
    void link(const Parameters &model, const Parameters &p, double alpha) {  // after the arena is allocated; p: A and B
        for (const Tensor &t : model.table.tensors) {
            const Tensor *a = p.table.find(t.name + ".lora_A"), *b = p.table.find(t.name + ".lora_B");
            if (!a) continue;
            int rank = a->shape[0];
            matrices.push_back({model.master + t.offset, model.params + t.offset, base + t.offset, model.grads + t.offset, p.master + a->offset, p.master + b->offset,
                                p.grads + a->offset, p.grads + b->offset, (int)t.shape[0], (int)t.shape[1], rank, (real)(alpha / rank)});
        }
    }
    void merge(cudaStream_t stream) const {
        for (const AdapterMatrix &m : matrices) {
            int width = channel_width(m.cols, ELEMENT_WIDTH);
            dispatch_width<ELEMENT_WIDTH>(width, [&](auto W) { lora_merge_kernel<W.value><<<dim3(ceil_div(m.cols, 128 * width), m.rows), 128, 0, stream>>>(m); });
        }
        launchCheck();
    }
    void gradients(cudaStream_t stream) const {  // of A and B from those of W
        for (const AdapterMatrix &m : matrices) {
            int width = channel_width(m.cols, ELEMENT_WIDTH);
            dispatch_width<ELEMENT_WIDTH>(width, [&](auto W) {
                lora_a_kernel<W.value><<<dim3(ceil_div(m.cols, 128 * width), m.rank), 128, 0, stream>>>(m);
                lora_b_kernel<W.value><<<ceil_div((int64_t)m.rows * m.rank, 128), 128, 0, stream>>>(m);
            });
        }
        launchCheck();
    }

private:
    std::deque<std::string> names;  // that the rows point to
};
