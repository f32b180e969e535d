/* dev/cpu/cublas.h: the part of cuBLASLt that the programs use. The multiplication itself is in cublas.cpp, which every
   such program is linked with.

   Descriptors are plain structs. What the real library would refuse is refused here with the same status, so that
   a wrong leading dimension or type is found on a machine without a GPU; with CUDA_CPU_CHECK=1 matrices must be in
   device memory. fp32 is always computed in fp32: CUBLAS_COMPUTE_32F_FAST_TF32 is accepted and means the same.
   Epilogues: none, or BIAS: a number for each row, of the type of D.
   defines: cublasLt..., the types and enumerations they take */
#pragma once
#include "cuda_cpu.h"

enum cublasStatus_t {
    CUBLAS_STATUS_SUCCESS = 0, CUBLAS_STATUS_INVALID_VALUE = 7, CUBLAS_STATUS_EXECUTION_FAILED = 13, CUBLAS_STATUS_NOT_SUPPORTED = 15
};
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cudaDataType_t { CUDA_R_32F = 0, CUDA_R_64F = 1, CUDA_R_16F = 2, CUDA_R_16BF = 14 };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F = 68, CUBLAS_COMPUTE_64F = 70, CUBLAS_COMPUTE_32F_FAST_TF32 = 77 };
enum cublasLtEpilogue_t { CUBLASLT_EPILOGUE_DEFAULT = 1, CUBLASLT_EPILOGUE_BIAS = 4 };
enum cublasLtMatmulDescAttributes_t {
    CUBLASLT_MATMUL_DESC_TRANSA = 3, CUBLASLT_MATMUL_DESC_TRANSB = 4, CUBLASLT_MATMUL_DESC_EPILOGUE = 7,
    CUBLASLT_MATMUL_DESC_BIAS_POINTER = 8
};
enum cublasLtMatrixLayoutAttribute_t { CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT = 5, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET = 6 };
enum cublasLtMatmulPreferenceAttributes_t {
    CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK = 3, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES = 5, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES = 6,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES = 7, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES = 8
};

enum cublasLtReductionScheme_t { CUBLASLT_REDUCTION_SCHEME_NONE = 0, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE = 2 };

struct cuda_cpu_matmul {
    cublasComputeType_t compute;
    cudaDataType_t scale;
    int32_t ta = CUBLAS_OP_N, tb = CUBLAS_OP_N;
    uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    void *bias = nullptr;
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

inline const char *cublasLtGetStatusString(cublasStatus_t s) {
    switch (s) {
        case CUBLAS_STATUS_SUCCESS: return "success";
        case CUBLAS_STATUS_INVALID_VALUE: return "an unsupported value or parameter was passed to the function";
        case CUBLAS_STATUS_EXECUTION_FAILED: return "the function failed to launch";
        case CUBLAS_STATUS_NOT_SUPPORTED: return "the functionality requested is not supported";
    }
    return "unknown status";
}

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
    if (a == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) return size == sizeof(uint32_t) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;  // sums are never rounded here
    return cuda_cpu::set_attribute(p->aligned[a - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, size);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t o, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
    cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t p, int wanted, cublasLtMatmulHeuristicResult_t *results, int *found);
cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t o, const void *alpha, const void *a, cublasLtMatrixLayout_t al, const void *b, cublasLtMatrixLayout_t bl,
    const void *beta, const void *c, cublasLtMatrixLayout_t cl, void *d, cublasLtMatrixLayout_t dl, const cublasLtMatmulAlgo_t *algo, void *workspace, size_t bytes, cudaStream_t stream);
