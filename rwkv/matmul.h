/* rwkv/matmul.h: the three products of a linear layer Y = X W^T, all row-major, through cuBLASLt.

       matmul_forward         Y[M,N]  = X[M,K] W[N,K]^T (+ bias[N]) (+ residual[M,N])
       matmul_backward_input  dX[M,K] = dY[M,N] W[N,K]
       matmul_backward_weight dW[N,K] += dY[M,N]^T X[M,K]      (fp32, or fp64: gradients accumulate)

   `batch` layers of the same shape are one call (receptance, key and value of RWKV): X, Y and W then have
   a stride of elements from one to the next. cuBLAS is column-major, so every matrix is seen transposed:
   Y^T[N,M] = W[N,K] X^T[K,M].  Sums are fp32 for 16-bit types.

   A plan (descriptors and the fastest algorithm) is made at the first use of a shape and kept. The algorithm
   is found by timing the heuristic's candidates once, into scratch memory; the choice, a number per shape, is
   kept in the checkpoint (matmul_choices), because another algorithm sums in another order and a resumed
   run must give the same bits.   defines: matmul_init, matmul_forward, ..., matmul_choices */
#pragma once
#include <cublasLt.h>
#include <cstring>
#include <map>
#include <string>
#include <tuple>
#include "cuda.h"

#define cublasCheck(call) do { cublasStatus_t s_ = (call); if (s_ != CUBLAS_STATUS_SUCCESS) fail("cuBLAS error at %s:%d: %s: %s", __FILE__, __LINE__, #call, cublasLtGetStatusString(s_)); } while (0)

template<class T> constexpr cudaDataType_t data_type() {
    return std::is_same<T, double>::value ? CUDA_R_64F : std::is_same<T, float>::value ? CUDA_R_32F : std::is_same<T, __half>::value ? CUDA_R_16F : CUDA_R_16BF;
}

// One product in cuBLAS terms: D[m,n] = op(A) op(B) + beta C, column-major.
struct MatmulShape {
    int m, n, k, batch;
    bool ta, tb;
    int64_t sa, sb, sd;  // strides between the matrices of a batch
    bool beta;           // add C
    cudaDataType_t dtype;
    bool bias = false;   // add a vector of m to every column
    int aligned = 256;   // bytes that divide every matrix' address
    std::string key() const { return format("%d,%d,%d,%d,%d%d,%d,%d%s,%d", m, n, k, batch, ta, tb, beta, (int)dtype, bias ? ",b" : "", aligned); }
    bool operator<(const MatmulShape &o) const {
        auto all = [](const MatmulShape &s) { return std::make_tuple(s.m, s.n, s.k, s.batch, s.ta, s.tb, s.sa, s.sb, s.sd, s.beta, (int)s.dtype, s.bias, s.aligned); };
        return all(*this) < all(o);
    }
};
struct MatmulPlan {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algo;
};
struct Matmul {
    cublasLtHandle_t handle = nullptr;
    void *workspace = nullptr;
    size_t workspace_bytes = 0;
    bool tune = false;                                // time the candidates (trainers); otherwise take the first
    std::map<MatmulShape, MatmulPlan> plans;
    std::map<std::string, int> choices;               // shape -> index of the candidate
};
inline Matmul &matmul_context() { static Matmul *m = new Matmul; return *m; }  // lives as long as the program

inline void matmul_init(bool tune) {
    Matmul &ctx = matmul_context();
    ctx.tune = tune;
    if (ctx.handle) return;
    cublasCheck(cublasLtCreate(&ctx.handle));
#ifndef CUDA_CPU
    ctx.workspace_bytes = 32 << 20;  // what Hopper's split-K kernels want; smaller ones lose up to 10 %
    cudaCheck(cudaMalloc(&ctx.workspace, ctx.workspace_bytes));
#endif
}
// "shape:choice;..." to write into a checkpoint, and back
inline std::string matmul_choices() {
    std::string s;
    for (auto &[key, i] : matmul_context().choices) s += key + ":" + std::to_string(i) + ";";
    return s;
}
inline void matmul_restore_choices(const std::string &s) {
    for (size_t i = 0, j; (j = s.find(';', i)) != std::string::npos; i = j + 1) {
        size_t colon = s.find(':', i);
        if (colon < j) matmul_context().choices[s.substr(i, colon - i)] = atoi(s.c_str() + colon + 1);
    }
}

constexpr cublasComputeType_t MATMUL_COMPUTE = sizeof(real) == 8 ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F;

inline cublasStatus_t matmul_run(const MatmulPlan &p, const cublasLtMatmulAlgo_t &algo, const void *a, const void *b, const void *c, void *d, bool beta, cudaStream_t stream) {
    Matmul &ctx = matmul_context();
    real one = 1, zero = 0;
    return cublasLtMatmul(ctx.handle, p.desc, &one, a, p.a, b, p.b, beta ? &one : &zero, c, p.d, d, p.d, &algo, ctx.workspace, ctx.workspace_bytes, stream);
}
// The fastest of the candidates, by the minimum of 5 runs into scratch memory.
inline int matmul_tune(const MatmulShape &s, const MatmulPlan &p, const cublasLtMatmulHeuristicResult_t *found, int n, const void *a, const void *b, cudaStream_t stream) {
    void *scratch;
    size_t bytes = ((size_t)s.m * s.n + (s.batch - 1) * s.sd) * (s.dtype == data_type<real>() ? sizeof(real) : sizeof(floatX));
    if (cudaMalloc(&scratch, bytes) != cudaSuccess) { cudaGetLastError(); return 0; }
    cudaCheck(cudaMemset(scratch, 0, bytes));
    cudaEvent_t start, stop;
    cudaCheck(cudaEventCreate(&start)), cudaCheck(cudaEventCreate(&stop));
    int best = 0;
    float best_ms = 1e30f;
    for (int i = 0; i < n; i++)
        for (int run = 0; run < 6; run++) {
            cudaCheck(cudaEventRecord(start, stream));
            if (matmul_run(p, found[i].algo, a, b, scratch, scratch, s.beta, stream) != CUBLAS_STATUS_SUCCESS) break;
            cudaCheck(cudaEventRecord(stop, stream)), cudaCheck(cudaEventSynchronize(stop));
            float ms;
            cudaCheck(cudaEventElapsedTime(&ms, start, stop));
            if (run && ms < best_ms * 0.98f) best_ms = ms, best = i;  // the first run warms up; 2 % is noise
            if (run && ms > best_ms * 1.5f) break;
        }
    cudaCheck(cudaEventDestroy(start)), cudaCheck(cudaEventDestroy(stop)), cudaCheck(cudaFree(scratch));
    return best;
}
inline void matmul_set_bias(const MatmulPlan &p, const void *bias) {  // read when a product is launched: each layer's own
    cublasCheck(cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
}
inline const MatmulPlan &matmul_plan(const MatmulShape &s, const void *a, const void *b, const void *bias, cudaStream_t stream) {
    Matmul &ctx = matmul_context();
    auto known = ctx.plans.find(s);
    if (known != ctx.plans.end()) return known->second;
    MatmulPlan p;
    cublasCheck(cublasLtMatmulDescCreate(&p.desc, MATMUL_COMPUTE, data_type<real>()));
    cublasOperation_t ta = s.ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb = s.tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasCheck(cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta));
    cublasCheck(cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb));
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    if (s.bias) {
        cublasCheck(cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
        matmul_set_bias(p, bias);
    }
    auto layout = [&](cublasLtMatrixLayout_t *l, cudaDataType_t type, int rows, int cols, int64_t stride) {
        cublasCheck(cublasLtMatrixLayoutCreate(l, type, rows, cols, rows));
        cublasCheck(cublasLtMatrixLayoutSetAttribute(*l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &s.batch, sizeof s.batch));
        cublasCheck(cublasLtMatrixLayoutSetAttribute(*l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride));
    };
    cudaDataType_t in = data_type<floatX>();
    layout(&p.a, in, s.ta ? s.k : s.m, s.ta ? s.m : s.k, s.sa);
    layout(&p.b, in, s.tb ? s.n : s.k, s.tb ? s.k : s.n, s.sb);
    layout(&p.d, s.dtype, s.m, s.n, s.sd);
    constexpr int CANDIDATES = 32;  // the gradients of small weights need one that splits the sum, which is not among the first
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    cublasLtMatmulPreference_t preference;
    cublasCheck(cublasLtMatmulPreferenceCreate(&preference));
    cublasCheck(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &ctx.workspace_bytes, sizeof ctx.workspace_bytes));
    if (s.dtype != data_type<real>()) {  // parts of a sum are not to be rounded to 16 bits, which is allowed unless one says so
        uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
        cublasCheck(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction, sizeof reduction));
    }
    for (auto a : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
        uint32_t bytes = s.aligned;  // left alone, cuBLAS takes 256 for granted
        cublasCheck(cublasLtMatmulPreferenceSetAttribute(preference, a, &bytes, sizeof bytes));
    }
    int n = 0;
    cublasCheck(cublasLtMatmulAlgoGetHeuristic(ctx.handle, p.desc, p.a, p.b, p.d, p.d, preference, CANDIDATES, found, &n));
    cublasCheck(cublasLtMatmulPreferenceDestroy(preference));
    if (!n) fail("cuBLASLt has no algorithm for the product %s in " PRECISION_NAME, s.key().c_str());
    auto choice = ctx.choices.find(s.key());
    int i = choice != ctx.choices.end() ? choice->second : ctx.tune && n > 1 ? matmul_tune(s, p, found, n, a, b, stream) : 0;
    if (ctx.tune && n > 1) ctx.choices[s.key()] = i;
    p.algo = found[i < n ? i : 0].algo;
    return ctx.plans.emplace(s, p).first->second;
}
inline void matmul(MatmulShape s, const void *a, const void *b, const void *c, void *d, cudaStream_t stream, const void *bias = nullptr) {
    if (!s.m || !s.n) return;
    size_t in = sizeof(floatX), out = s.dtype == data_type<real>() ? sizeof(real) : in, bits = 256 | (size_t)a | (size_t)b | (size_t)d | (s.beta ? (size_t)c : 0);
    if (s.batch > 1) bits |= s.sa * in | s.sb * in | s.sd * out;
    s.aligned = (int)(bits & -bits);  // the lowest bit
    const MatmulPlan &p = matmul_plan(s, a, b, bias, stream);
    if (s.bias) matmul_set_bias(p, bias);
    cublasCheck(matmul_run(p, p.algo, a, b, s.beta ? c : d, d, s.beta, stream));
}

struct Batched { int batch = 1; int64_t x = 0, y = 0, w = 0; };  // strides of X, Y, W in elements

inline void matmul_forward(floatX *y, const floatX *x, const floatX *w, const floatX *residual, int M, int N, int K, cudaStream_t stream, Batched g = {}, const floatX *bias = nullptr) {
    matmul({N, M, K, g.batch, true, false, g.w, g.x, g.y, residual != nullptr, data_type<floatX>(), bias != nullptr}, w, x, residual, y, stream, bias);
}
inline void matmul_backward_input(floatX *dx, const floatX *dy, const floatX *w, int M, int N, int K, cudaStream_t stream, Batched g = {}) {
    matmul({K, M, N, g.batch, false, false, g.w, g.y, g.x, false, data_type<floatX>()}, w, dy, nullptr, dx, stream);
}
inline void matmul_backward_weight(real *dw, const floatX *dy, const floatX *x, int M, int N, int K, cudaStream_t stream, Batched g = {}) {
    matmul({K, N, M, g.batch, false, true, g.x, g.y, g.w, true, data_type<real>()}, x, dy, dw, dw, stream);
}
