/* tests/gemm.h: the matrix multiplication behind cublasLtMatmul against three loops in double.

   Everything goes through cublasLt with device memory. Where cuBLAS promises less than dev/cpu/gemm.h does
   (the same bits whatever the shape), the test is for the CPU only.   Include <cublasLt.h> before it. */
#pragma once
#include "../rwkv/cuda.h"
#include "test.h"
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace gemm_tests {

typedef std::vector<double> Numbers;
static int size_of(cudaDataType_t t) { return t == CUDA_R_64F ? 8 : t == CUDA_R_32F ? 4 : 2; }
static const char *name_of(cudaDataType_t t) { return t == CUDA_R_64F ? "fp64" : t == CUDA_R_32F ? "fp32" : t == CUDA_R_16BF ? "bf16" : "fp16"; }
static double unit_roundoff(cudaDataType_t t) { return ldexp(1, t == CUDA_R_64F ? -53 : t == CUDA_R_32F ? -24 : t == CUDA_R_16BF ? -8 : -11); }

// Device memory that holds numbers as type t
struct Matrix {
    cudaDataType_t type;
    size_t n;
    void *p = nullptr;
    Matrix(cudaDataType_t type, const Numbers &v) : type(type), n(v.size()) {
        std::vector<char> bytes(n * size_of(type));
        for (size_t i = 0; i < n; i++) {
            if (type == CUDA_R_64F) ((double *)bytes.data())[i] = v[i];
            else if (type == CUDA_R_32F) ((float *)bytes.data())[i] = v[i];
            else if (type == CUDA_R_16BF) ((__nv_bfloat16 *)bytes.data())[i] = __float2bfloat16(v[i]);
            else ((__half *)bytes.data())[i] = __float2half(v[i]);
        }
        CHECK(cudaMalloc(&p, bytes.size() + 16) == cudaSuccess, "no device memory");
        CHECK(cudaMemcpy(p, bytes.data(), bytes.size(), cudaMemcpyHostToDevice) == cudaSuccess, "copying");
    }
    Matrix(const Matrix &) = delete;
    ~Matrix() { cudaFree(p); }
    std::vector<char> bytes() const {
        std::vector<char> b(n * size_of(type));
        CHECK(cudaMemcpy(b.data(), p, b.size(), cudaMemcpyDeviceToHost) == cudaSuccess, "copying back");
        return b;
    }
    Numbers numbers() const {
        std::vector<char> b = bytes();
        Numbers v(n);
        for (size_t i = 0; i < n; i++)
            v[i] = type == CUDA_R_64F ? ((double *)b.data())[i] : type == CUDA_R_32F ? ((float *)b.data())[i]
                 : type == CUDA_R_16BF ? __bfloat162float(((__nv_bfloat16 *)b.data())[i]) : __half2float(((__half *)b.data())[i]);
        return v;
    }
};

struct Random {  // numbers from -1 to 1
    uint64_t s;
    uint32_t next() { return (s = s * 6364136223846793005u + 1442695040888963407u) >> 33; }
    Numbers operator()(size_t n) {
        Numbers v(n);
        for (double &x : v) x = next() / 1073741824. - 1;
        return v;
    }
    template<class T, size_t N> T pick(const T (&list)[N]) { return list[next() % N]; }
};

struct Case {
    bool ta = false, tb = false;
    int m = 1, n = 1, k = 1, batches = 1, pad = 0;  // pad: of every leading dimension, and between batches
    cudaDataType_t type = CUDA_R_32F, out = CUDA_R_32F;
    double alpha = 1, beta = 0;
    void *bias = nullptr;

    int lda() const { return (ta ? k : m) + pad; }
    int ldb() const { return (tb ? n : k) + pad; }
    int ldd() const { return m + pad; }
    int64_t sa() const { return (int64_t)lda() * (ta ? m : k) + pad; }
    int64_t sb() const { return (int64_t)ldb() * (tb ? k : n) + pad; }
    int64_t sd() const { return (int64_t)ldd() * n + pad; }
    std::string text() const {
        return format("%c%c m=%d n=%d k=%d batches=%d pad=%d %s->%s alpha=%g beta=%g%s", "NT"[ta], "NT"[tb], m, n, k, batches, pad, name_of(type), name_of(out), alpha, beta, bias ? " bias" : "");
    }
};
static cublasStatus_t run(const Case &c, const void *a, const void *b, const void *in, void *d) {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t la, lb, lc, ld;
    const bool is64 = c.type == CUDA_R_64F;
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&desc, is64 ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F, is64 ? CUDA_R_64F : CUDA_R_32F);
    cublasOperation_t ta = c.ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb = c.tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta);
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb);
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    if (c.bias) {
        cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
        cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &c.bias, sizeof c.bias);
    }
    auto layout = [&](cublasLtMatrixLayout_t *l, cudaDataType_t t, int rows, int cols, int ld, int64_t stride) {
        cublasStatus_t s = cublasLtMatrixLayoutCreate(l, t, rows, cols, ld);
        int32_t batches = c.batches;
        CHECK(s == CUBLAS_STATUS_SUCCESS, "layout %d x %d, ld %d", rows, cols, ld);
        cublasLtMatrixLayoutSetAttribute(*l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batches, sizeof batches);
        cublasLtMatrixLayoutSetAttribute(*l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride);
    };
    layout(&la, c.type, c.ta ? c.k : c.m, c.ta ? c.m : c.k, c.lda(), c.sa());
    layout(&lb, c.type, c.tb ? c.n : c.k, c.tb ? c.k : c.n, c.ldb(), c.sb());
    layout(&lc, c.out, c.m, c.n, c.ldd(), c.sd());
    layout(&ld, c.out, c.m, c.n, c.ldd(), c.sd());
    const float alpha = c.alpha, beta = c.beta;
    cublasStatus_t s = cublasLtMatmul(handle, desc, is64 ? (const void *)&c.alpha : &alpha, a, la, b, lb, is64 ? (const void *)&c.beta : &beta, in, lc, d, ld, nullptr, nullptr, 0, nullptr);
    cudaDeviceSynchronize();
    for (cublasLtMatrixLayout_t l : {la, lb, lc, ld}) cublasLtMatrixLayoutDestroy(l);
    cublasLtMatmulDescDestroy(desc);
    cublasLtDestroy(handle);
    return s;
}

// D by definition. scale: for each element the sum of the magnitudes that were added, which rounding is relative to.
static Numbers naive(const Case &c, const Numbers &a, const Numbers &b, const Numbers &in, Numbers &scale) {
    Numbers d = in;
    scale.assign(in.size(), 0);
    for (int p = 0; p < c.batches; p++) for (int j = 0; j < c.n; j++) for (int i = 0; i < c.m; i++) {
        const double *x = &a[p * c.sa()] + (int64_t)i * (c.ta ? c.lda() : 1), *y = &b[p * c.sb()] + (int64_t)j * (c.tb ? 1 : c.ldb());
        const int64_t dx = c.ta ? 1 : c.lda(), dy = c.tb ? c.ldb() : 1, at = p * c.sd() + (int64_t)j * c.ldd() + i;
        double sum = 0, size = 0;
        for (int k = 0; k < c.k; k++) sum += x[k * dx] * y[k * dy], size += fabs(x[k * dx] * y[k * dy]);
        d[at] = c.alpha * sum + (c.beta != 0 ? c.beta * in[at] : 0);
        scale[at] = fabs(c.alpha) * size + (c.beta != 0 ? fabs(c.beta * in[at]) : 0);
    }
    return d;
}
// Each of k products and sums rounds once, relative to a partial sum that is at most `scale`: (k + 4) u scale.
// Then the result is rounded to its own type, fp16 at 2^-25 below its normal range. Padding must not change at all.
static void check_close(const Case &c, const Numbers &got, const Numbers &expected, const Numbers &scale) {
    for (size_t i = 0; i < got.size(); i++) {
        double tol = (c.k + 4) * unit_roundoff(c.type == CUDA_R_64F ? CUDA_R_64F : CUDA_R_32F) * scale[i] + unit_roundoff(c.out) * fabs(expected[i]) + (c.out == CUDA_R_16F ? ldexp(1, -25) : 0);
        bool padding = scale[i] == 0 && c.k;
        if (!(padding ? got[i] == expected[i] : fabs(got[i] - expected[i]) <= tol))
            CHECK(false, "%s: element %zu is %.9g, not %.9g +- %.2g", c.text().c_str(), i, got[i], expected[i], tol);
    }
}
static void check_case(const Case &c, Random &random) {
    Matrix a(c.type, random(c.sa() * c.batches)), b(c.type, random(c.sb() * c.batches)), in(c.out, random(c.sd() * c.batches));
    Numbers scale, expected = naive(c, a.numbers(), b.numbers(), in.numbers(), scale);
    Matrix d(c.out, in.numbers());
    cublasStatus_t s = run(c, a.p, b.p, in.p, d.p);
    CHECK(s == CUBLAS_STATUS_SUCCESS, "%s: status %d", c.text().c_str(), s);
    check_close(c, d.numbers(), expected, scale);
    s = run(c, a.p, b.p, in.p, in.p);  // D = C in place
    CHECK(s == CUBLAS_STATUS_SUCCESS && in.bytes() == d.bytes(), "%s: in place is different", c.text().c_str());
}

static const int sizes[] = {1, 2, 3, 5, 15, 16, 17, 31, 33, 63, 65, 80, 96, 127, 128, 257};
struct Types { cudaDataType_t in, out; };
static std::vector<Types> types() {  // that this device multiplies
    std::vector<Types> all = {{CUDA_R_32F, CUDA_R_32F}, {CUDA_R_64F, CUDA_R_64F}, {CUDA_R_16F, CUDA_R_16F}, {CUDA_R_16F, CUDA_R_32F}};
    if (device().major >= 8) all.push_back({CUDA_R_16BF, CUDA_R_16BF}), all.push_back({CUDA_R_16BF, CUDA_R_32F});
    return all;
}

TEST("gemm: all transposes, types, odd sizes, batches, strides, alpha and beta = three loops") {
    Random random{1};
    for (int transposes = 0; transposes < 4; transposes++) for (auto t : types()) for (int i = 0; i < 14; i++) {
        Case c;
        c.ta = transposes & 1, c.tb = transposes & 2, c.type = t.in, c.out = t.out;
        c.m = random.pick(sizes), c.n = random.pick(sizes), c.k = random.pick(sizes), c.batches = random.pick({1, 1, 2, 3}), c.pad = random.pick({0, 0, 1, 3, 7});
        if (i % 4 == 3) c.n = 1 + i / 4;  // one to three columns: matrix times vector
        c.alpha = random.pick({1., 1., -0.5, 0.}), c.beta = random.pick({0., 1., 0.25});
        check_case(c, random);
    }
}
TEST("gemm: sums over several blocks of k, and parts of a large D") {
    Random random{2};
    for (int transposes = 0; transposes < 4; transposes++) for (auto t : types()) {
        Case c;
        c.ta = transposes & 1, c.tb = transposes & 2, c.type = t.in, c.out = t.out, c.beta = 1;
        c.m = 33, c.n = 98, c.k = 1031, check_case(c, random);
        c.m = 129, c.n = 4, c.k = 2048, check_case(c, random);
        c.m = 17, c.n = 17, c.k = 3, c.batches = 70, check_case(c, random);
    }
    Case large;
    large.ta = true, large.m = 300, large.n = 5, large.k = 16500, check_case(large, random);
    large.n = 300, large.m = 5, check_case(large, random);
}
#ifdef CUDA_CPU
TEST("gemm: k = 0 scales C, m = 0 or n = 0 does nothing") {
    Case c;
    c.m = c.n = 5, c.k = 0, c.beta = 0.5;
    Matrix a(c.type, {1}), d(c.type, Numbers(25, 3));
    CHECK(run(c, a.p, a.p, d.p, d.p) == CUBLAS_STATUS_SUCCESS && d.numbers() == Numbers(25, 1.5), "D[0] is %g", d.numbers()[0]);
    c.m = 0, c.k = 1;
    CHECK(run(c, a.p, a.p, d.p, d.p) == CUBLAS_STATUS_SUCCESS && d.numbers() == Numbers(25, 1.5), "D[0] is %g", d.numbers()[0]);
}
#endif
TEST("gemm: beta = 0 does not read C, alpha = 0 not A and B; any other NaN arrives") {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    Random random{3};
    for (auto t : types()) for (int n : {1, 40}) {
        Case c;
        c.ta = true, c.m = 37, c.n = n, c.k = 50, c.type = t.in, c.out = t.out;
        Numbers x = random(37 * 50), y = random(50 * n);
        Matrix b(t.in, y), bad(t.out, Numbers(37 * n, nan)), d(t.out, Numbers(37 * n, nan));
        {
            Matrix a(t.in, x);
            run(c, a.p, b.p, bad.p, d.p);
            for (double v : d.numbers()) CHECK(std::isfinite(v), "%s: NaN came from C", c.text().c_str());
            c.beta = 1;
            run(c, a.p, b.p, bad.p, d.p);
            for (double v : d.numbers()) CHECK(std::isnan(v), "%s: NaN of C got lost", c.text().c_str());
        }
        x[20 * 50 + 49] = nan, c.beta = 0;
        Matrix a(t.in, x);
        run(c, a.p, b.p, bad.p, d.p);
        Numbers v = d.numbers();
        for (int i = 0; i < 37 * n; i++) CHECK(std::isnan(v[i]) == (i % 37 == 20), "%s: row %d is %g", c.text().c_str(), i % 37, v[i]);
        c.alpha = 0, c.beta = 2;
        Matrix ones(t.out, Numbers(37 * n, 1));
        run(c, a.p, b.p, ones.p, d.p);
        CHECK(d.numbers() == Numbers(37 * n, 2), "%s: D[0] is %g", c.text().c_str(), d.numbers()[0]);
    }
}

#ifdef CUDA_CPU
TEST("gemm: every element is its own sum in the order of k, in blocks of 256, bit for bit; so threads and shape do not matter") {
    Random random{4};
    for (int transposes = 0; transposes < 4; transposes++) for (int n : {1, 2, 3, 4, 5, 95, 97, 200}) {
        Case c;
        c.ta = transposes & 1, c.tb = transposes & 2, c.m = 147, c.n = n, c.k = 700, c.batches = 2;
        Matrix a(c.type, random(c.sa() * 2)), b(c.type, random(c.sb() * 2)), d(c.type, Numbers(c.sd() * 2));
        run(c, a.p, b.p, d.p, d.p);
        Numbers x = a.numbers(), y = b.numbers(), got = d.numbers();
        bool fused = true, separate = true;  // as the compiler was told; all elements alike
        size_t at = 0;
        for (int p = 0; p < 2; p++) for (int j = 0; j < n; j++) for (int i = 0; i < c.m; i++, at++) {
            float total[2] = {};
            for (int k0 = 0; k0 < c.k; k0 += 256) {
                float f = 0, s = 0;
                for (int k = k0; k < c.k && k < k0 + 256; k++) {
                    float u = x[p * c.sa() + (c.ta ? i * c.k + k : k * c.m + i)], v = y[p * c.sb() + (c.tb ? k * n + j : j * c.k + k)];
                    volatile float product = u * v;
                    f = fmaf(u, v, f), s = s + product;
                }
                total[0] += f, total[1] += s;
            }
            fused = fused && got[at] == total[0], separate = separate && got[at] == total[1];
            CHECK(fused || separate, "%s: element %zu is %.9g, not %.9g (fused) or %.9g", c.text().c_str(), at, got[at], total[0], total[1]);
        }
    }
}
TEST("gemm: a row has the same bits alone, in a few, in many; a batch alone and among others") {
    Random random{5};
    for (auto t : types()) for (int transposes = 0; transposes < 4; transposes++) {
        Case c;
        c.ta = transposes & 1, c.tb = transposes & 2, c.type = t.in, c.out = t.out, c.m = 131, c.k = 530, c.n = 230;
        Matrix a(t.in, random(c.sa())), b(t.in, random(c.sb())), d(t.out, Numbers(c.sd()));
        run(c, a.p, b.p, d.p, d.p);
        const int es = size_of(t.in), eo = size_of(t.out);
        std::vector<char> whole = d.bytes();
        for (int n : {1, 2, 3, 4, 5, 7, 64, 100}) for (int m : {1, 8, 17, 131}) {
            Case s = c;
            const int j0 = 230 - n, i0 = 131 - m;
            // a part of B^T has the leading dimension of the whole, so copy the parts out
            Numbers x = a.numbers(), y = b.numbers(), xs, ys;
            s.m = m, s.n = n;
            if (c.ta) xs.assign(x.begin() + i0 * c.k, x.end());
            else for (int k = 0; k < c.k; k++) for (int i = 0; i < m; i++) xs.push_back(x[k * c.m + i0 + i]);
            if (!c.tb) ys.assign(y.begin() + j0 * c.k, y.end());
            else for (int k = 0; k < c.k; k++) for (int j = 0; j < n; j++) ys.push_back(y[k * c.n + j0 + j]);
            Matrix as(t.in, xs), bs(t.in, ys), ds(t.out, Numbers(m * n));
            run(s, as.p, bs.p, ds.p, ds.p);
            std::vector<char> part = ds.bytes();
            for (int j = 0; j < n; j++)
                CHECK(!memcmp(&part[j * m * eo], &whole[((j0 + j) * c.m + i0) * eo], m * eo), "%s: column %d differs from the one among 131 x 230 (%d)", s.text().c_str(), j, es);
        }
    }
}
TEST("gemm: a D whose A and B are packed in parts has the bits of its corners computed alone") {
    Random random{7};
    Case c;
    c.ta = true, c.m = 257, c.n = 290, c.k = 16500;  // parts of 256 x 192
    Numbers x = random(c.sa()), y = random(c.sb());
    Matrix a(c.type, x), b(c.type, y), d(c.type, Numbers(c.sd()));
    run(c, a.p, b.p, d.p, d.p);
    Numbers whole = d.numbers();
    for (int i : {0, 255, 256}) for (int j : {0, 191, 192, 289}) {
        Case s;
        s.ta = true, s.k = c.k;
        Matrix row(c.type, Numbers(x.begin() + i * c.k, x.begin() + (i + 1) * c.k)), column(c.type, Numbers(y.begin() + j * c.k, y.begin() + (j + 1) * c.k)), one(c.type, {0});
        run(s, row.p, column.p, one.p, one.p);
        CHECK(one.numbers()[0] == whole[j * c.m + i], "element (%d, %d) is %.9g, not %.9g", i, j, whole[j * c.m + i], one.numbers()[0]);
    }
}
TEST("gemm: all 65536 numbers of bf16 and fp16 widen exactly and round to nearest even") {
    for (cudaDataType_t t : {CUDA_R_16BF, CUDA_R_16F}) for (double factor : {1., 1.0078125, 0.50390625}) for (bool ta : {false, true}) {
        Case c;
        c.ta = ta, c.m = 65536, c.type = t;
        std::vector<uint16_t> all(65536);
        for (int i = 0; i < 65536; i++) all[i] = i;
        Matrix a(t, Numbers(65536)), b(t, {factor}), d(t, Numbers(65536)), wide(CUDA_R_32F, Numbers(65536));
        cudaMemcpy(a.p, all.data(), 2 * 65536, cudaMemcpyHostToDevice);
        c.out = CUDA_R_32F, run(c, a.p, b.p, wide.p, wide.p);
        c.out = t, run(c, a.p, b.p, d.p, d.p);
        Numbers x = a.numbers(), w = wide.numbers(), got = d.numbers();
        const float one = b.numbers()[0];
        Matrix rounded(t, w);
        Numbers expected = rounded.numbers();
        for (int i = 0; i < 65536; i++) {
            CHECK(std::isnan(x[i]) ? std::isnan(w[i]) : w[i] == float(x[i] * one), "%s %04x times %g is %.9g", name_of(t), i, factor, w[i]);
            CHECK(std::isnan(w[i]) ? std::isnan(got[i]) : got[i] == expected[i], "%s %04x times %g rounds to %.9g, not %.9g", name_of(t), i, factor, got[i], expected[i]);
        }
    }
}
// on a GPU the models' tests cover what the programs ask of it; the library need not know every shape
TEST("gemm: a bias is added to every column") {
    Random random{6};
    for (auto t : types()) for (int n : {1, 33, 130}) for (bool tb : {false, true}) {
        Case c;
        c.ta = true, c.tb = tb, c.m = 139, c.n = n, c.k = 40, c.type = t.in, c.out = t.out, c.alpha = -0.5, c.beta = 1;
        Matrix a(t.in, random(c.sa())), b(t.in, random(c.sb())), in(t.out, random(c.sd())), d(t.out, Numbers(c.sd())), bias(t.out, random(c.m));
        c.bias = bias.p;
        Numbers added = bias.numbers(), scale, expected = naive(c, a.numbers(), b.numbers(), in.numbers(), scale);
        cublasStatus_t s = run(c, a.p, b.p, in.p, d.p);
        CHECK(s == CUBLAS_STATUS_SUCCESS, "%s: status %d", c.text().c_str(), s);
        for (int at = 0; at < c.m * n; at++) expected[at] += added[at % c.m], scale[at] += fabs(added[at % c.m]);
        check_close(c, d.numbers(), expected, scale);
        CHECK(bias.numbers() == added, "%s: bias was written", c.text().c_str());
    }
}
#endif
TEST("gemm: what cuBLASLt would refuse is refused") {
    cublasLtMatrixLayout_t l;
    CHECK(cublasLtMatrixLayoutCreate(&l, CUDA_R_32F, 8, 4, 8) == CUBLAS_STATUS_SUCCESS, "8 x 4");
    cublasLtMatmulDesc_t o;
    CHECK(cublasLtMatmulDescCreate(&o, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS, "descriptor");
    cublasLtHandle_t h;
    cublasLtCreate(&h);
    Matrix x(CUDA_R_32F, Numbers(64));
    float one = 1;
    auto status = [&](cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t d, void *p) { return cublasLtMatmul(h, o, &one, x.p, a, x.p, b, &one, p, d, p, d, nullptr, nullptr, 0, nullptr); };
    cublasLtMatrixLayout_t square, half;
    cublasLtMatrixLayoutCreate(&square, CUDA_R_32F, 4, 4, 4), cublasLtMatrixLayoutCreate(&half, CUDA_R_16F, 4, 4, 4);
    CHECK(status(l, square, l, x.p) == CUBLAS_STATUS_SUCCESS, "8 x 4 times 4 x 4");
    CHECK(status(square, l, l, x.p) == CUBLAS_STATUS_INVALID_VALUE, "4 x 4 times 8 x 4 is not 8 x 4");
    CHECK(status(l, l, l, x.p) == CUBLAS_STATUS_INVALID_VALUE, "8 x 4 times 8 x 4");
    CHECK(status(l, square, l, nullptr) == CUBLAS_STATUS_INVALID_VALUE, "D is missing");
    CHECK(status(l, half, l, x.p) != CUBLAS_STATUS_SUCCESS, "fp32 times fp16");
    const cublasLtEpilogue_t bias = CUBLASLT_EPILOGUE_BIAS;
    CHECK(cublasLtMatmulDescSetAttribute(o, CUBLASLT_MATMUL_DESC_EPILOGUE, &bias, 1) == CUBLAS_STATUS_INVALID_VALUE, "an attribute of 1 byte");
#ifdef CUDA_CPU
    cublasLtMatmulDescSetAttribute(o, CUBLASLT_MATMUL_DESC_EPILOGUE, &bias, sizeof bias);
    CHECK(status(l, square, l, x.p) == CUBLAS_STATUS_INVALID_VALUE, "BIAS without a bias");
    cublasLtMatmulPreference_t p;
    cublasLtMatmulHeuristicResult_t r;
    int found = -1;
    cublasLtMatmulPreferenceCreate(&p);
    CHECK(cublasLtMatmulAlgoGetHeuristic(h, o, l, square, l, l, p, 1, &r, &found) != CUBLAS_STATUS_SUCCESS && found == 0, "found %d", found);
    const cublasLtEpilogue_t plain = CUBLASLT_EPILOGUE_DEFAULT;
    cublasLtMatmulDescSetAttribute(o, CUBLASLT_MATMUL_DESC_EPILOGUE, &plain, sizeof plain);
    CHECK(cublasLtMatmulAlgoGetHeuristic(h, o, l, square, l, l, p, 1, &r, &found) == CUBLAS_STATUS_SUCCESS && found == 1, "found %d", found);
    Matrix big(CUDA_R_32F, Numbers(256));
    float *at = (float *)(((uintptr_t)big.p + 255) / 256 * 256);  // with guard pages, big.p itself is less aligned
    auto shifted = [&](uint32_t aligned) {  // A 16 bytes on, when so much is promised
        cublasLtMatmulPreferenceSetAttribute(p, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &aligned, sizeof aligned);
        cublasLtMatmulAlgoGetHeuristic(h, o, square, square, square, square, p, 1, &r, &found);
        return cublasLtMatmul(h, o, &one, at + 4, square, at, square, &one, at + 64, square, at + 64, square, &r.algo, nullptr, 0, nullptr);
    };
    CHECK(shifted(16) == CUBLAS_STATUS_SUCCESS && shifted(32) == CUBLAS_STATUS_INVALID_VALUE, "a matrix less aligned than was promised");
    CHECK(cublasLtMatrixLayoutCreate(&l, CUDA_R_32F, 8, 4, 7) == CUBLAS_STATUS_INVALID_VALUE, "ld 7 of 8 rows");
    cublasLtMatmulPreferenceDestroy(p);
#endif
    for (cublasLtMatrixLayout_t y : {l, square, half}) cublasLtMatrixLayoutDestroy(y);
    cublasLtMatmulDescDestroy(o), cublasLtDestroy(h);
}
}  // namespace gemm_tests
