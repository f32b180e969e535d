/* dev/bench/gemm.cu: speed of cublasLtMatmul at the shapes of the trainers: the CPU backend's own GEMM, or cuBLASLt on a GPU.

       make DEVICE=cpu build/cpu-fp32/bench_gemm                                  CUDA_CPU_THREADS=1 build/cpu-fp32/bench_gemm [words]
       dev/bench/gemm_openblas.sh [words]                                         OpenBLAS beside it, on as many threads
       nvcc -O3 -std=c++17 dev/bench/gemm.cu -o bench_gemm -lcublasLt             on a GPU

   Row major, as the trainers see it: forward Y (M,N) = X (M,K) W (N,K)^T, dX (M,K) = dY (M,N) W, dW (N,K) = dY^T X.
   Medians of rounds of 20 ms or more, both libraries by turns in every round. `words`: only rows that contain them.
   One-token rows are limited by memory: GB/s is the weights' bytes over the time. */
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>
#ifdef USE_OPENBLAS
#include <cblas.h>
#endif

#define check(call) do { int status_ = (int)(call); if (status_) { fprintf(stderr, "error: %s:%d: %s: status %d\n", __FILE__, __LINE__, #call, status_); exit(1); } } while (0)
static double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
template<class Body> double time_of(int repeats, Body body) {
    double start = seconds();
    for (int i = 0; i < repeats; i++) body();
    check(cudaDeviceSynchronize());
    return (seconds() - start) / repeats;
}
static double median(std::vector<double> v) { return std::sort(v.begin(), v.end()), v[v.size() / 2]; }

// column major D (m,n) = op(A) op(B)
struct Shape { const char *name; bool ta, tb; int m, n, k, batches; };
static const Shape shapes[] = {
    // char model: B T = 1024, C = 128, F = 512, V = 80
    {"forward C", 1, 0, 128, 1024, 128, 1}, {"forward r,k,v", 1, 0, 128, 1024, 128, 3}, {"forward C to F", 1, 0, 512, 1024, 128, 1},
    {"forward F to C", 1, 0, 128, 1024, 512, 1}, {"forward C to V", 1, 0, 80, 1024, 128, 1},
    {"dX C", 0, 0, 128, 1024, 128, 1}, {"dX r,k,v", 0, 0, 128, 1024, 128, 3}, {"dX C to F", 0, 0, 128, 1024, 512, 1},
    {"dX F to C", 0, 0, 512, 1024, 128, 1}, {"dX C to V", 0, 0, 128, 1024, 80, 1},
    {"dW C", 0, 1, 128, 128, 1024, 1}, {"dW r,k,v", 0, 1, 128, 128, 1024, 3}, {"dW C to F", 0, 1, 128, 512, 1024, 1},
    {"dW F to C", 0, 1, 512, 128, 1024, 1}, {"dW C to V", 0, 1, 128, 80, 1024, 1},
    // 169M: B T = 4096, C = 768, F = 3072
    {"forward C", 1, 0, 768, 4096, 768, 1}, {"forward C to F", 1, 0, 3072, 4096, 768, 1}, {"forward F to C", 1, 0, 768, 4096, 3072, 1},
    {"dX C", 0, 0, 768, 4096, 768, 1}, {"dX C to F", 0, 0, 768, 4096, 3072, 1}, {"dX F to C", 0, 0, 3072, 4096, 768, 1},
    {"dW C", 0, 1, 768, 768, 4096, 1}, {"dW C to F", 0, 1, 768, 3072, 4096, 1}, {"dW F to C", 0, 1, 3072, 768, 4096, 1},
    // one token, or a few, at a time
    {"1 token C", 1, 0, 768, 1, 768, 1}, {"1 token", 1, 0, 3072, 1, 3072, 1}, {"2 tokens", 1, 0, 3072, 2, 3072, 1},
    {"4 tokens", 1, 0, 3072, 4, 3072, 1}, {"8 tokens", 1, 0, 3072, 8, 3072, 1}, {"32 tokens", 1, 0, 3072, 32, 3072, 1},
};

struct Matmul {  // a planned cublasLtMatmul
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulHeuristicResult_t plan;
    void *workspace;
    static constexpr size_t WORKSPACE = 32 << 20;

    Matmul(const Shape &s, cudaDataType_t type) {
        check(cublasLtCreate(&handle));
        check(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
        cublasOperation_t ta = s.ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb = s.tb ? CUBLAS_OP_T : CUBLAS_OP_N;
        check(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta));
        check(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb));
        layout(&a, type, s.ta ? s.k : s.m, s.ta ? s.m : s.k, s.batches);
        layout(&b, type, s.tb ? s.n : s.k, s.tb ? s.k : s.n, s.batches);
        layout(&d, type, s.m, s.n, s.batches);
        cublasLtMatmulPreference_t preference;
        size_t size = WORKSPACE;
        int found = 0;
        check(cublasLtMatmulPreferenceCreate(&preference));
        check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &size, sizeof size));
        check(cublasLtMatmulAlgoGetHeuristic(handle, desc, a, b, d, d, preference, 1, &plan, &found));
        check(cublasLtMatmulPreferenceDestroy(preference));
        check(cudaMalloc(&workspace, size));
    }
    ~Matmul() {
        for (cublasLtMatrixLayout_t l : {a, b, d}) cublasLtMatrixLayoutDestroy(l);
        cublasLtMatmulDescDestroy(desc), cublasLtDestroy(handle), cudaFree(workspace);
    }
    static void layout(cublasLtMatrixLayout_t *l, cudaDataType_t type, int rows, int cols, int batches) {
        int64_t stride = (int64_t)rows * cols;
        check(cublasLtMatrixLayoutCreate(l, type, rows, cols, rows));
        check(cublasLtMatrixLayoutSetAttribute(*l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batches, sizeof batches));
        check(cublasLtMatrixLayoutSetAttribute(*l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride));
    }
    void operator()(const void *x, const void *y, void *out) {
        const float one = 1, zero = 0;
        check(cublasLtMatmul(handle, desc, &one, x, a, y, b, &zero, out, d, out, d, &plan.algo, workspace, WORKSPACE, nullptr));
    }
};

template<class T> struct Array {  // of n random numbers from -1 to 1, in device memory
    T *p;
    explicit Array(size_t n) {
        std::vector<T> v(n);
        for (T &x : v) x = T(rand() % 2001 / 1000.f - 1);
        check(cudaMalloc(&p, n * sizeof(T)));
        check(cudaMemcpy(p, v.data(), n * sizeof(T), cudaMemcpyHostToDevice));
    }
    ~Array() { cudaFree(p); }
};

int main(int argc, char **argv) {
    printf("%-15s %2s %5s %5s %5s %2s  %14s %7s %14s %7s", "GFLOP/s", "", "m", "n", "k", "", "fp32", "GB/s", "bf16", "GB/s");
#ifdef USE_OPENBLAS
    printf("  %9s %11s", "OpenBLAS", "fp32 ours/");
#endif
    printf("\n");
    for (const Shape &s : shapes) {
        if (argc > 1 && !strstr(s.name, argv[1])) continue;
        const size_t na = (size_t)s.m * s.k, nb = (size_t)s.k * s.n, nd = (size_t)s.m * s.n;
        Array<float> a(na * s.batches), b(nb * s.batches), d(nd * s.batches);
        Array<__nv_bfloat16> a16(na * s.batches), b16(nb * s.batches), d16(nd * s.batches);
        Matmul fp32(s, CUDA_R_32F), bf16(s, CUDA_R_16BF);
        const double work = 2e-9 * s.m * s.n * s.k * s.batches;
        auto ours = [&] { fp32(a.p, b.p, d.p); };
        auto half = [&] { bf16(a16.p, b16.p, d16.p); };
        time_of(1, ours), time_of(1, half);
        const int repeats = std::max(1., 0.02 / time_of(1, ours)), rounds = work > 3 ? 5 : 11;
        std::vector<double> t32, t16, other;
        for (int r = 0; r < rounds; r++) {
            t32.push_back(time_of(repeats, ours));
#ifdef USE_OPENBLAS
            other.push_back(time_of(repeats, [&] {
                for (int p = 0; p < s.batches; p++)
                    if (s.n == 1) cblas_sgemv(CblasColMajor, CblasTrans, s.k, s.m, 1, a.p, s.k, b.p, 1, 0, d.p, 1);
                    else cblas_sgemm(CblasColMajor, s.ta ? CblasTrans : CblasNoTrans, s.tb ? CblasTrans : CblasNoTrans, s.m, s.n, s.k, 1,
                                     a.p + p * na, s.ta ? s.k : s.m, b.p + p * nb, s.tb ? s.n : s.k, 0, d.p + p * nd, s.m);
            }));
#endif
            t16.push_back(time_of(repeats, half));
        }
        const double x = median(t32), y = median(t16);
        printf("%-15s %c%c %5d %5d %5d x%d  %14.1f %7.1f %14.1f %7.1f", s.name, "NT"[s.ta], "NT"[s.tb], s.m, s.n, s.k, s.batches, work / x, 4e-9 * na * s.batches / x, work / y, 2e-9 * na * s.batches / y);
#ifdef USE_OPENBLAS
        printf("  %9.1f %11.2f", work / median(other), median(other) / x);
#endif
        printf("\n");
        fflush(stdout);
    }
}
