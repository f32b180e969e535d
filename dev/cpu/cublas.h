/* dev/cpu/cublas.h: the part of cuBLASLt that the programs use, on top of gemm.h.

   Descriptors are plain structs. What the real library would refuse is refused here with the same status, so that
   a wrong leading dimension or type is found on a machine without a GPU; with CUDA_CPU_CHECK=1 matrices must be in
   device memory. fp32 is always computed in fp32: CUBLAS_COMPUTE_32F_FAST_TF32 is accepted and means the same.
   Epilogues: BIAS, RELU, GELU (the tanh form), their sums, GELU_AUX (keeps the input of GELU), DGELU, BGRADB.
   defines: cublasLt..., cublasGetStatusString, the types and enumerations they take */
#pragma once
#include "cuda_cpu.h"
#include "gemm.h"

enum cublasStatus_t {
    CUBLAS_STATUS_SUCCESS = 0, CUBLAS_STATUS_NOT_INITIALIZED = 1, CUBLAS_STATUS_ALLOC_FAILED = 3,
    CUBLAS_STATUS_INVALID_VALUE = 7, CUBLAS_STATUS_EXECUTION_FAILED = 13, CUBLAS_STATUS_NOT_SUPPORTED = 15
};
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cudaDataType_t { CUDA_R_32F = 0, CUDA_R_64F = 1, CUDA_R_16F = 2, CUDA_R_16BF = 14 };
typedef cudaDataType_t cudaDataType;
enum cublasComputeType_t { CUBLAS_COMPUTE_32F = 68, CUBLAS_COMPUTE_64F = 70, CUBLAS_COMPUTE_32F_FAST_TF32 = 77 };
enum cublasLtEpilogue_t {
    CUBLASLT_EPILOGUE_DEFAULT = 1, CUBLASLT_EPILOGUE_RELU = 2, CUBLASLT_EPILOGUE_BIAS = 4, CUBLASLT_EPILOGUE_RELU_BIAS = 6,
    CUBLASLT_EPILOGUE_GELU = 32, CUBLASLT_EPILOGUE_GELU_BIAS = 36, CUBLASLT_EPILOGUE_GELU_AUX = 160,
    CUBLASLT_EPILOGUE_GELU_AUX_BIAS = 164, CUBLASLT_EPILOGUE_DGELU = 192, CUBLASLT_EPILOGUE_BGRADB = 512
};
enum cublasLtMatmulDescAttributes_t {
    CUBLASLT_MATMUL_DESC_TRANSA = 3, CUBLASLT_MATMUL_DESC_TRANSB = 4, CUBLASLT_MATMUL_DESC_EPILOGUE = 7,
    CUBLASLT_MATMUL_DESC_BIAS_POINTER = 8, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER = 11,
    CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD = 12, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE = 26
};
enum cublasLtMatrixLayoutAttribute_t { CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT = 5, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET = 6 };
enum cublasLtMatmulPreferenceAttributes_t {
    CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES = 5, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES = 6,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES = 7, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES = 8
};

struct cuda_cpu_matmul {
    cublasComputeType_t compute;
    cudaDataType_t scale;
    int32_t bias_type = -1;  // -1: that of D
    int32_t ta = CUBLAS_OP_N, tb = CUBLAS_OP_N;
    uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    void *bias = nullptr, *aux = nullptr;
    int64_t aux_ld = 0;
};
struct cuda_cpu_layout {
    cudaDataType_t type;
    int64_t rows, cols, ld;
    int32_t batches = 1;
    int64_t stride = 0;
};
struct cuda_cpu_preference { uint32_t aligned[4] = {256, 256, 256, 256}; };  // A B C D: the library's default
struct cublasLtMatmulAlgo_t { cuda_cpu_preference needs; };
struct cublasLtMatmulHeuristicResult_t { cublasLtMatmulAlgo_t algo; size_t workspaceSize; cublasStatus_t state; float wavesCount; int reserved[4]; };
typedef struct cuda_cpu_blas *cublasLtHandle_t;
typedef cuda_cpu_matmul *cublasLtMatmulDesc_t;
typedef cuda_cpu_layout *cublasLtMatrixLayout_t;
typedef cuda_cpu_preference *cublasLtMatmulPreference_t;

namespace cuda_cpu {
inline const struct Status { cublasStatus_t code; const char *name, *text; } statuses[] = {
    {CUBLAS_STATUS_SUCCESS, "CUBLAS_STATUS_SUCCESS", "success"},
    {CUBLAS_STATUS_NOT_INITIALIZED, "CUBLAS_STATUS_NOT_INITIALIZED", "the library was not initialized"},
    {CUBLAS_STATUS_ALLOC_FAILED, "CUBLAS_STATUS_ALLOC_FAILED", "the resource allocation failed"},
    {CUBLAS_STATUS_INVALID_VALUE, "CUBLAS_STATUS_INVALID_VALUE", "an unsupported value or parameter was passed to the function"},
    {CUBLAS_STATUS_EXECUTION_FAILED, "CUBLAS_STATUS_EXECUTION_FAILED", "the function failed to launch"},
    {CUBLAS_STATUS_NOT_SUPPORTED, "CUBLAS_STATUS_NOT_SUPPORTED", "the functionality requested is not supported"},
};
inline const Status &status(cublasStatus_t code) {
    for (const Status &s : statuses) if (s.code == code) return s;
    static const Status unknown{code, "unknown", "unknown status"};
    return unknown;
}
}
inline const char *cublasGetStatusName(cublasStatus_t s) { return cuda_cpu::status(s).name; }
inline const char *cublasGetStatusString(cublasStatus_t s) { return cuda_cpu::status(s).text; }
inline const char *cublasLtGetStatusName(cublasStatus_t s) { return cublasGetStatusName(s); }
inline const char *cublasLtGetStatusString(cublasStatus_t s) { return cublasGetStatusString(s); }

// ------------------------------------------------------------------------------------------------
// descriptors

inline cublasStatus_t cublasLtCreate(cublasLtHandle_t *h) { return h ? *h = (cublasLtHandle_t)h, CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE; }
inline cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t compute, cudaDataType_t scale) {
    if (!d || (compute == CUBLAS_COMPUTE_64F) != (scale == CUDA_R_64F)) return CUBLAS_STATUS_INVALID_VALUE;
    if (scale != CUDA_R_32F && scale != CUDA_R_64F) return CUBLAS_STATUS_NOT_SUPPORTED;
    *d = new cuda_cpu_matmul;
    return (*d)->compute = compute, (*d)->scale = scale, CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) { return delete d, CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType_t type, uint64_t rows, uint64_t cols, int64_t ld) {
    if (!l || ld < (int64_t)rows) return CUBLAS_STATUS_INVALID_VALUE;
    return *l = new cuda_cpu_layout{type, (int64_t)rows, (int64_t)cols, ld}, CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) { return delete l, CUBLAS_STATUS_SUCCESS; }

namespace cuda_cpu {
// to = *value, if the caller's idea of its size is ours
template<class T> cublasStatus_t set_attribute(T &to, const void *value, size_t size) {
    if (!value || size != sizeof to) return CUBLAS_STATUS_INVALID_VALUE;
    return memcpy(&to, value, size), CUBLAS_STATUS_SUCCESS;
}
}
inline cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t a, const void *value, size_t size) {
    if (d) switch (a) {
        case CUBLASLT_MATMUL_DESC_TRANSA: return cuda_cpu::set_attribute(d->ta, value, size);
        case CUBLASLT_MATMUL_DESC_TRANSB: return cuda_cpu::set_attribute(d->tb, value, size);
        case CUBLASLT_MATMUL_DESC_EPILOGUE: return cuda_cpu::set_attribute(d->epilogue, value, size);
        case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return cuda_cpu::set_attribute(d->bias, value, size);
        case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return cuda_cpu::set_attribute(d->bias_type, value, size);
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: return cuda_cpu::set_attribute(d->aux, value, size);
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: return cuda_cpu::set_attribute(d->aux_ld, value, size);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}
inline cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t a, const void *value, size_t size) {
    if (l) switch (a) {
        case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return cuda_cpu::set_attribute(l->batches, value, size);
        case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: return cuda_cpu::set_attribute(l->stride, value, size);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}
// There is one algorithm and it needs no workspace; as on a GPU it takes only matrices as aligned as was promised for it.
inline cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p) { return p ? *p = new cuda_cpu_preference, CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE; }
inline cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) { return delete p, CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t a, const void *value, size_t size) {
    if (!p || !value) return CUBLAS_STATUS_INVALID_VALUE;
    if (a == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) return size == sizeof(size_t) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
    return cuda_cpu::set_attribute(p->aligned[a - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, size);
}

// ------------------------------------------------------------------------------------------------
// matmul

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
inline cublasStatus_t validate(const cuda_cpu_matmul &o, const cuda_cpu_layout &a, const cuda_cpu_layout &b, const cuda_cpu_layout &c, const cuda_cpu_layout &d) {
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

inline cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t o, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
        cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t p, int wanted, cublasLtMatmulHeuristicResult_t *results, int *found) {
    if (!h || !o || !a || !b || !c || !d || !p || wanted < 1 || !results || !found) return CUBLAS_STATUS_INVALID_VALUE;
    *results = {}, *found = 0;
    cublasStatus_t s = results->state = cuda_cpu::validate(*o, *a, *b, *c, *d);
    results->algo.needs = *p;
    return *found = s == CUBLAS_STATUS_SUCCESS, s;
}
inline cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t o, const void *alpha, const void *a, cublasLtMatrixLayout_t al, const void *b, cublasLtMatrixLayout_t bl,
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
