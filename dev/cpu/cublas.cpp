/* dev/cpu/cublas.cpp: cublasLtMatmul on top of gemm.h. A file of its own, as the library is on a GPU: it is compiled once
   for all programs and tests, which saves each of them five seconds, and what the tests multiply with is what ships. */
#include "cublas.h"
#include "gemm.h"

namespace cuda_cpu {

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
    if (o.epilogue != CUBLASLT_EPILOGUE_BIAS || d.batches > 1) return CUBLAS_STATUS_NOT_SUPPORTED;  // batches of biases: nobody needs them
    return o.bias ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
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
    auto number = [o](const void *p) { return o->scale == CUDA_R_64F ? *(const double *)p : *(const float *)p; };
    g.alpha = number(alpha), g.beta = number(beta);
    g.bias = o->epilogue == CUBLASLT_EPILOGUE_BIAS ? o->bias : nullptr;
    if (g.m && g.n && (!d || (g.k && (!a || !b)) || (g.beta != 0 && !c))) return CUBLAS_STATUS_INVALID_VALUE;
    if (g.c == g.d && g.beta != 0 && (g.ldc != g.ldd || g.sc != g.sd)) return CUBLAS_STATUS_INVALID_VALUE;  // in place, in another shape
    const void *matrix[] = {a, b, g.beta != 0 ? c : nullptr, d};
    const cuda_cpu_layout *layout[] = {al, bl, cl, dl};
    if (algo) for (int i = 0; i < 4; i++) {
        const int64_t bytes = layout[i]->batches > 1 ? layout[i]->stride * (layout[i]->type == CUDA_R_64F ? 8 : layout[i]->type == CUDA_R_32F ? 4 : 2) : 0;
        if (matrix[i] && ((uintptr_t)matrix[i] | bytes) % algo->needs.aligned[i]) return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (opt.check) for (const void *p : {a, b, (const void *)d, g.beta != 0 ? c : d, g.bias})
        if (p && !known(p)) fatal("cublasLtMatmul: %p is not in device memory", p);
    cudaError_t error = enqueue("cublasLtMatmul", stream, [g] { gemm(g); });
    return error ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}
