/* dev/cpu/cublas.cpp: cublasLtMatmul on top of gemm.h. A file of its own, as the library is on a GPU: it is compiled once
   for all programs and tests, which saves each of them five seconds, and what the tests multiply with is what ships. */
#include "cublas.h"
#include "gemm.h"

namespace cuda_cpu {

template<class F> F get(const void *p, cudaDataType_t t, long i) {
    return t == CUDA_R_64F ? F(((const double *)p)[i]) : t == CUDA_R_32F ? F(((const float *)p)[i])
         : t == CUDA_R_16BF ? F((float)((const __nv_bfloat16 *)p)[i]) : F((float)((const __half *)p)[i]);
}
template<class F> void put(void *p, cudaDataType_t t, long i, F v) {
    if (t == CUDA_R_64F) ((double *)p)[i] = v;
    else if (t == CUDA_R_32F) ((float *)p)[i] = v;
    else if (t == CUDA_R_16BF) ((__nv_bfloat16 *)p)[i] = __float2bfloat16(v);
    else ((__half *)p)[i] = __float2half(v);
}
// gelu(x) = x/2 (1 + t), t = tanh(z), z = c (x + a x^3)      gelu'(x) = (1 + t)/2 + x/2 (1 - t^2) c (1 + 3 a x^2)
template<class F> F gelu(F x, bool derivative) {
    const F c = F(0.7978845608028654), a = F(0.044715), t = std::tanh(c * (x + a * x * x * x));
    return derivative ? (1 + t) / 2 + x / 2 * (1 - t * t) * c * (1 + 3 * a * x * x) : x / 2 * (1 + t);
}
struct Epilogue { uint32_t kind; void *bias, *aux; cudaDataType_t bias_type, aux_type; long aux_ld; };
enum { RELU = 2, BIAS = 4, GELU = 32, DGELU = 64, AUX = 128, BGRADB = 512 };  // bits of cublasLtEpilogue_t

template<class F> void apply(const void *closure, void *column, long i, long j, long count) {
    const Epilogue &e = *(const Epilogue *)closure;
    for (long r = 0; r < count; r++) {
        F &v = ((F *)column)[r];
        const long at = j * e.aux_ld + i + r;
        if (e.kind & BIAS) v += get<F>(e.bias, e.bias_type, i + r);
        if (e.kind & DGELU) v *= gelu(get<F>(e.aux, e.aux_type, at), true);
        else if (e.kind & AUX) put(e.aux, e.aux_type, at, v);
        if (e.kind & GELU) v = gelu(v, false);
        if (e.kind & RELU) v = v < 0 ? 0 : v;  // NaN stays
    }
}
// bias[j] = sum over k of op(B)[k][j], in the order of k; a work item is a few columns, as k is the slow index of B^T
template<class F> void bias_gradient(const Gemm &g, const Epilogue &e, cudaDataType_t type) {
    constexpr long COLUMNS = 64;
    parallel_for(ceil_div(g.n, COLUMNS), [&](long t) {
        F sum[COLUMNS] = {};
        const long j0 = t * COLUMNS, columns = least(COLUMNS, g.n - j0);
        if (g.tb) for (long k = 0; k < g.k; k++) for (long j = 0; j < columns; j++) sum[j] += get<F>(g.b, type, k * g.ldb + j0 + j);
        else for (long j = 0; j < columns; j++) for (long k = 0; k < g.k; k++) sum[j] += get<F>(g.b, type, (j0 + j) * g.ldb + k);
        for (long j = 0; j < columns; j++) put(e.bias, e.bias_type, j0 + j, sum[j]);
    });
}

// Is it a matmul that cuBLASLt accepts?
static cublasStatus_t validate(const cuda_cpu_matmul &o, const cuda_cpu_layout &a, const cuda_cpu_layout &b, const cuda_cpu_layout &c, const cuda_cpu_layout &d) {
    const int64_t k = o.ta ? a.rows : a.cols;
    if ((o.ta ? a.cols : a.rows) != d.rows || (o.tb ? b.rows : b.cols) != d.cols || (o.tb ? b.cols : b.rows) != k) return CUBLAS_STATUS_INVALID_VALUE;
    if (c.rows != d.rows || c.cols != d.cols) return CUBLAS_STATUS_INVALID_VALUE;
    for (const cuda_cpu_layout *l : {&a, &b, &c, &d})
        if (l->batches < 1 || l->batches != d.batches || l->ld < l->rows) return CUBLAS_STATUS_INVALID_VALUE;
    if (o.ta < 0 || o.ta > 1 || o.tb < 0 || o.tb > 1) return CUBLAS_STATUS_INVALID_VALUE;
    const bool is16 = a.type == CUDA_R_16BF || a.type == CUDA_R_16F;
    if (a.type != b.type || c.type != d.type || (d.type != a.type && !(is16 && d.type == CUDA_R_32F))) return CUBLAS_STATUS_NOT_SUPPORTED;
    if ((a.type == CUDA_R_64F) != (o.compute == CUBLAS_COMPUTE_64F)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (o.epilogue == CUBLASLT_EPILOGUE_DEFAULT) return CUBLAS_STATUS_SUCCESS;
    if (d.batches > 1) return CUBLAS_STATUS_NOT_SUPPORTED;  // batches of biases: nobody needs them
    switch (o.epilogue) {
        case RELU: case GELU: case RELU | BIAS: case GELU | BIAS: case BIAS: case BGRADB: break;
        case GELU | AUX: case GELU | AUX | BIAS: case DGELU | AUX:
            if (!o.aux || o.aux_ld < d.rows || o.aux_ld % 8) return CUBLAS_STATUS_INVALID_VALUE;
            break;
        default: return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (o.epilogue & (BIAS | BGRADB)) {
        if (!o.bias) return CUBLAS_STATUS_INVALID_VALUE;
        if (o.bias_type != -1 && o.bias_type != d.type && o.bias_type != a.type && !(is16 && o.bias_type == CUDA_R_32F)) return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    return CUBLAS_STATUS_SUCCESS;
}
}  // namespace cuda_cpu

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t o, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
        cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t p, int wanted, cublasLtMatmulHeuristicResult_t *results, int *found) {
    if (!h || !o || !a || !b || !c || !d || !p || wanted < 1 || !results || !found) return CUBLAS_STATUS_INVALID_VALUE;
    *results = {}, *found = 0;
    cublasStatus_t s = results->state = cuda_cpu::validate(*o, *a, *b, *c, *d);
    results->algo.needs = *p;
    return *found = s == CUBLAS_STATUS_SUCCESS, s;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t o, const void *alpha, const void *a, cublasLtMatrixLayout_t al, const void *b, cublasLtMatrixLayout_t bl,
        const void *beta, const void *c, cublasLtMatrixLayout_t cl, void *d, cublasLtMatrixLayout_t dl, const cublasLtMatmulAlgo_t *algo, void *, size_t, cudaStream_t stream) {
    using namespace cuda_cpu;
    if (!h || !o || !alpha || !beta || !al || !bl || !cl || !dl) return CUBLAS_STATUS_INVALID_VALUE;
    if (cublasStatus_t s = validate(*o, *al, *bl, *cl, *dl)) return s;
    auto type = [](cudaDataType_t t) { return t == CUDA_R_32F ? F32 : t == CUDA_R_64F ? F64 : t == CUDA_R_16BF ? BF16 : F16; };
    Gemm g{};
    g.ta = o->ta, g.tb = o->tb, g.m = dl->rows, g.n = dl->cols, g.k = o->ta ? al->rows : al->cols, g.batches = dl->batches;
    g.type = type(al->type), g.out = type(dl->type);
    g.a = a, g.b = b, g.c = c, g.d = d;
    g.lda = al->ld, g.ldb = bl->ld, g.ldc = cl->ld, g.ldd = dl->ld;
    g.sa = al->stride, g.sb = bl->stride, g.sc = cl->stride, g.sd = dl->stride;
    g.alpha = get<double>(alpha, o->scale, 0), g.beta = get<double>(beta, o->scale, 0);
    if (g.m && g.n && (!d || (g.k && (!a || !b)) || (g.beta != 0 && !c))) return CUBLAS_STATUS_INVALID_VALUE;
    if (g.c == g.d && g.beta != 0 && (g.ldc != g.ldd || g.sc != g.sd)) return CUBLAS_STATUS_INVALID_VALUE;  // in place, in another shape
    const void *matrix[] = {a, b, g.beta != 0 ? c : nullptr, d};
    const cuda_cpu_layout *layout[] = {al, bl, cl, dl};
    if (algo) for (int i = 0; i < 4; i++) {
        const int64_t bytes = layout[i]->batches > 1 ? layout[i]->stride * (layout[i]->type == CUDA_R_64F ? 8 : layout[i]->type == CUDA_R_32F ? 4 : 2) : 0;
        if (matrix[i] && ((uintptr_t)matrix[i] | bytes) % algo->needs.aligned[i]) return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (opt.check) for (const void *p : {a, b, (const void *)d, g.beta != 0 ? c : d, (const void *)o->bias, (const void *)o->aux})
        if (p && !known(p)) fatal("cublasLtMatmul: %p is not in device memory", p);
    const Epilogue e{o->epilogue, o->bias, o->aux, o->bias_type == -1 ? dl->type : cudaDataType_t(o->bias_type), dl->type, (long)o->aux_ld};
    const cudaDataType_t b_type = bl->type;
    cudaError_t error = enqueue("cublasLtMatmul", stream, [g, e, b_type] {
        Gemm with = g;
        with.closure = &e;
        if (e.kind & (BIAS | RELU | GELU | DGELU)) with.epilogue = g.type == F64 ? apply<double> : apply<float>;
        gemm(with);
        if (e.kind & BGRADB) g.type == F64 ? bias_gradient<double>(g, e, b_type) : bias_gradient<float>(g, e, b_type);
    });
    return error ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}
