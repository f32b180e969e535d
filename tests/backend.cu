/* tests/backend.cu: the CPU backend (dev/cpu): the CUDA it understands, and the bugs it must catch.
   backend           runs the tests of correct code
   backend NAME      runs the planted bug NAME and must not get to the end (tests/backend.sh knows the message)
   backend digest    prints results that must not depend on the number of threads
   backend speed     prints what a launch and a switch of fibers cost */
#include <cuda_runtime.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include "test.h"
#include <cmath>
#include <vector>

static void check_cuda(cudaError_t e, int line) { if (e) fail("line %d: %s", line, cudaGetErrorString(e)); }
#define CUDA(call) check_cuda((call), __LINE__)

template<class T> struct Array {  // device memory with a copy on the host
    std::vector<T> host;
    T *device = nullptr;
    explicit Array(size_t n) : host(n) { CUDA(cudaMalloc(&device, n * sizeof(T))); upload(); }
    template<class F> Array(size_t n, F f) : host(n) {
        for (size_t i = 0; i < n; i++) host[i] = f((int)i);
        CUDA(cudaMalloc(&device, n * sizeof(T))), upload();
    }
    Array(const Array &) = delete;
    ~Array() { cudaFree(device); }
    void upload() { CUDA(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice)); }
    const std::vector<T> &download() {
        CUDA(cudaGetLastError());
        CUDA(cudaMemcpy(host.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost));
        return host;
    }
};
static float noise(int i) { return (float)((unsigned)i * 2654435761u >> 8) / (1 << 24) - 0.5f; }

// ------------------------------------------------------------------------------------------------
// correct kernels

__global__ void saxpy(float *y, const float *x, float a, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
template<typename T, int W> __global__ void __launch_bounds__(256) indices(T *out) {
    int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] = T(block * 1000 + thread + W);
}
__constant__ float table[4];
__device__ float twice(float x) { return 2 * x; }
__global__ void reverse(float *x, int n) {  // through static and dynamic shared memory
    extern __shared__ __align__(16) float dynamic[];
    __shared__ float fixed[64];
    int t = threadIdx.x;
    fixed[t] = dynamic[t] = x[blockIdx.x * n + t];
    __syncthreads();  // all are written
    x[blockIdx.x * n + t] = twice(dynamic[n - 1 - t]) + fixed[(t + 1) % n] + table[t % 4];
}
template<class T> __global__ void block_sum(T *out, const T *in, int n) {  // tree in shared memory
    extern __shared__ unsigned char raw[];
    T *s = (T *)raw;
    T sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += in[(size_t)blockIdx.x * n + i];
    s[threadIdx.x] = sum;
    __syncthreads();
    for (int k = blockDim.x / 2; k; k /= 2) {
        if (threadIdx.x < k) s[threadIdx.x] += s[threadIdx.x + k];
        __syncthreads();
    }
    if (threadIdx.x == 0) out[blockIdx.x] = s[0];
}
template<class T> __global__ void warp_sums(T *sums, T *largest, T *steps, const T *in) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    sums[i] = cuda_cpu::warp_sum(in[i]), largest[i] = cuda_cpu::warp_max(in[i]);
    T v = in[i];
    if (blockDim.x % 32 == 0) for (int o = 16; o; o /= 2) v += __shfl_xor_sync(~0u, v, o);
    steps[i] = v;
}
__global__ void shuffles(int *out) {
    int t = threadIdx.x, *o = out + t * 8;
    o[0] = __shfl_sync(~0u, t, 3);
    o[1] = __shfl_up_sync(~0u, t, 1);
    o[2] = __shfl_down_sync(~0u, t, 2, 8);
    o[3] = __shfl_xor_sync(~0u, t, 1, 4);
    o[4] = (int)__ballot_sync(~0u, t % 3 == 0);
    o[5] = __any_sync(~0u, t == 70) + 2 * __all_sync(~0u, t < 64);
    o[6] = __syncthreads_count(t % 2) + 1000 * __syncthreads_or(t == 5) + 2000 * __syncthreads_and(t != 5);
    if (t % 32 >= 16) o[7] = __shfl_sync(0xffff0000, t, 20);  // half a warp
    else o[7] = -1;
    __syncwarp();
}
__global__ void early_exit(float *out, int n) {  // threads that have left are not waited for
    int t = threadIdx.x;
    if (t >= n) return;
    float s = cuda_cpu::warp_sum(1.0f);
    __syncthreads();
    out[t] = s;
}
__global__ void atomics(int *i, float *f, double *d, unsigned *u, __nv_bfloat162 *b) {
    atomicAdd(i, 1), atomicMax(i + 1, (int)threadIdx.x), atomicMin(i + 2, -(int)blockIdx.x), atomicOr(i + 3, 1 << threadIdx.x % 31), atomicSub(i + 4, 2);
    atomicAdd(f, 1.0f), atomicAdd(d, 0.5), atomicInc(u, 9u), atomicAdd(b, __floats2bfloat162_rn(0.f, 1.f));
    for (int old = i[5], seen; (seen = atomicCAS(i + 5, old, old + 1)) != old;) old = seen;
}
__global__ void vectors(float4 *out, const float4 *in, uint4 *bits, const __nv_bfloat16 *b) {
    float4 v = __ldg(in + threadIdx.x);
    float2 w = make_float2(v.y, v.x);
    __stcs(out + threadIdx.x, make_float4(w.x, w.y, v.w, v.z));
    bits[threadIdx.x] = *(const uint4 *)(b + threadIdx.x * 8);
}
__global__ void exps(float *out, const float *x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = __expf(x[i]);
}
__global__ void mma16(float *d, const __nv_bfloat16 *a, const __nv_bfloat16 *b) {  // D = A (16x16) B (16x8), b is B transposed
    __shared__ __align__(16) __nv_bfloat16 sa[16][24], sb[8][24];
    int lane = threadIdx.x;
    cp_async<16>(&sa[lane / 2][lane % 2 * 8], a + lane * 8);
    if (lane < 16) cp_async<16>(&sb[lane / 2][lane % 2 * 8], b + lane * 8);
    cp_async_commit(), cp_async_wait<0>();
    __syncthreads();
    uint32_t ra[4], rb[2];
    ldmatrix(ra, &sa[lane % 16][lane / 16 * 8]);
    ldmatrix(rb, &sb[lane % 8][lane / 8 % 2 * 8]);
    float c[4] = {1, 1, 1, 1};
    mma_m16n8k16_bf16(c, ra, rb, c);
    for (int r = 0; r < 4; r++) d[(lane / 4 + r / 2 * 8) * 8 + lane % 4 * 2 + r % 2] = c[r];
}
__global__ void mma8(float *d, const __half *a, const __half *b) {  // the Turing shape: D = A (16x8) B (8x8)
    int lane = threadIdx.x, g = lane / 4, t = lane % 4 * 2;
    uint32_t ra[2] = {*(const uint32_t *)(a + g * 8 + t), *(const uint32_t *)(a + (g + 8) * 8 + t)}, rb[1] = {*(const uint32_t *)(b + g * 8 + t)};
    float c[4] = {};
    mma_m16n8k8_f16(c, ra, rb, c);
    for (int r = 0; r < 4; r++) d[(g + r / 2 * 8) * 8 + t + r % 2] = c[r];
}

TEST("backend: grid, block and template arguments reach the kernel") {
    Array<int> a(2 * 3 * 2 * 24);
    indices<int, 7><<<dim3(2, 3, 2),
                      dim3(4, 3, 2)>>>(a.device);
    a.download();
    for (int i = 0; i < (int)a.host.size(); i++) CHECK(a.host[i] == i / 24 * 1000 + i % 24 + 7, "element %d is %d", i, a.host[i]);
}
TEST("backend: a loop kernel is right at a size that is no multiple of the block") {
    for (int n : {1, 255, 257, 1000}) {
        Array<float> x(n, noise), y(n, [](int i) { return noise(i + 7); });
        std::vector<float> old = y.host;
        saxpy<<<(n + 255) / 256, 256>>>(y.device, x.device, 3.f, n);
        y.download();
        for (int i = 0; i < n; i++) CHECK(fabsf(y.host[i] - (3 * x.host[i] + old[i])) < 1e-6f, "n = %d, element %d is %g", n, i, y.host[i]);
    }
}
TEST("backend: static and dynamic shared memory, barrier, constant memory") {
    float four[4] = {1, 2, 3, 4};
    CUDA(cudaMemcpyToSymbol(table, four, sizeof four));
    for (int n : {1, 2, 31, 32, 33, 64}) {
        Array<float> x(5 * n, noise);
        std::vector<float> in = x.host;
        reverse<<<5, n, n * sizeof(float)>>>(x.device, n);
        x.download();
        for (int i = 0; i < 5 * n; i++) {
            int b = i / n * n, t = i % n;
            CHECK(x.host[i] == 2 * in[b + n - 1 - t] + in[b + (t + 1) % n] + four[t % 4], "n = %d, element %d is %g", n, i, x.host[i]);
        }
    }
}
TEST("backend: reduction in shared memory, float and double") {
    Array<float> in(3 * 1000, [](int i) { return (float)(i % 7); }), out(3);
    Array<double> in2(3 * 1000, [](int i) { return i % 7; }), out2(3);
    block_sum<float><<<3, 256, 256 * sizeof(float)>>>(out.device, in.device, 1000);
    block_sum<<<3, 1024, 1024 * sizeof(double)>>>(out2.device, in2.device, 1000);  // T deduced
    out.download(), out2.download();
    for (int b = 0; b < 3; b++) {
        double sum = 0;
        for (int i = 0; i < 1000; i++) sum += (b * 1000 + i) % 7;
        CHECK(out.host[b] == sum && out2.host[b] == sum, "block %d: %g, %g, expected %g", b, out.host[b], out2.host[b], sum);
    }
}
template<class T> static void check_warp_sums(int threads) {
    Array<T> in(3 * threads, [](int i) { return (T)noise(i) / 3; }), sums(3 * threads), largest(3 * threads), steps(3 * threads);
    warp_sums<T><<<3, threads>>>(sums.device, largest.device, steps.device, in.device);
    sums.download(), largest.download(), steps.download();
    for (int i = 0; i < 3 * threads; i++) {
        int first = i / threads * threads + i % threads / 32 * 32, lanes = std::min(32, i / threads * threads + threads - first);
        T v[32] = {}, most = -INFINITY;
        for (int l = 0; l < lanes; l++) v[l] = in.host[first + l], most = std::max(most, v[l]);
        for (int o = 16; o; o /= 2) for (int l = 0; l < o; l++) v[l] += v[l + o];  // absent lanes are 0
        CHECK(sums.host[i] == v[0], "%d threads, thread %d: %.9g, expected %.9g", threads, i, (double)sums.host[i], (double)v[0]);
        CHECK(largest.host[i] == most, "%d threads, thread %d: max %.9g, expected %.9g", threads, i, (double)largest.host[i], (double)most);
        if (threads % 32 == 0) CHECK(steps.host[i] == v[0], "five shuffles give other bits than warp_sum: %.9g", (double)steps.host[i]);
    }
}
TEST("backend: warp_sum and warp_max in full and partial warps have the bits of five shuffles") {
    for (int n : {1, 2, 3, 8, 17, 31, 32, 33, 40, 64, 96})
        if (n == 1 || n % 32 == 0 || !cuda_cpu::opt.check) check_warp_sums<float>(n), check_warp_sums<double>(n);
}
TEST("backend: shuffles, votes and counting barriers") {
    Array<int> a(64 * 8);
    shuffles<<<1, 64>>>(a.device);
    a.download();
    for (int t = 0; t < 64; t++) {
        const int *o = &a.host[t * 8], w = t & ~31;
        unsigned votes = 0;
        for (int l = 0; l < 32; l++) votes |= (unsigned)((w + l) % 3 == 0) << l;
        int expected[8] = {w + 3, t % 32 ? t - 1 : t, t % 8 < 6 ? t + 2 : t, t ^ 1, (int)votes, 2, 32 + 1000, t % 32 >= 16 ? w + 20 : -1};
        for (int k = 0; k < 8; k++) CHECK(o[k] == expected[k], "thread %d, value %d is %d, expected %d", t, k, o[k], expected[k]);
    }
}
TEST("backend: threads that have returned are not waited for") {
    Array<float> a(40);
    early_exit<<<1, 64>>>(a.device, 40);
    a.download();
    for (int t = 0; t < 40; t++) CHECK(a.host[t] == (t < 32 ? 32 : 8), "thread %d: %g", t, a.host[t]);
}
TEST("backend: atomics of int, float, double, pairs") {
    Array<int> i(6);
    Array<float> f(1);
    Array<double> d(1);
    Array<unsigned> u(1);
    Array<__nv_bfloat162> b(1, [](int) { return __floats2bfloat162_rn(2.f, 0.f); });
    atomics<<<20, 8>>>(i.device, f.device, d.device, u.device, b.device);
    i.download(), f.download(), d.download(), u.download(), b.download();
    const int expected[6] = {160, 7, -19, 255, -320, 160};
    for (int k = 0; k < 6; k++) CHECK(i.host[k] == expected[k], "int %d is %d, expected %d", k, i.host[k], expected[k]);
    CHECK(f.host[0] == 160 && d.host[0] == 80 && u.host[0] == 0, "float %g, double %g, unsigned %u", f.host[0], d.host[0], u.host[0]);
    CHECK((float)b.host[0].x == 2 && (float)b.host[0].y == 160, "pair %g %g", (float)b.host[0].x, (float)b.host[0].y);
}
TEST("backend: vector types, and reading bytes through another type") {
    Array<float4> in(8, [](int i) { return make_float4(i, i + .25f, i + .5f, i + .75f); }), out(8);
    Array<__nv_bfloat16> b(64, [](int i) { return __float2bfloat16((float)i); });
    Array<uint4> bits(8);
    vectors<<<1, 8>>>(out.device, in.device, bits.device, b.device);
    out.download(), bits.download();
    for (int i = 0; i < 8; i++) {
        float4 o = out.host[i], v = in.host[i];
        CHECK(o.x == v.y && o.y == v.x && o.z == v.w && o.w == v.z, "element %d", i);
        CHECK(bits.host[i].x == ((unsigned)b.host[i * 8 + 1].x << 16 | b.host[i * 8].x), "element %d", i);
    }
}
TEST("backend: bf16 and fp16 round to nearest even, and keep every value") {
    for (unsigned u = 0; u < 65536; u++) {  // there and back
        __nv_bfloat16 b = __ushort_as_bfloat16(u);
        __half h = __ushort_as_half(u);
        if ((float)b == (float)b) CHECK(__float2bfloat16(b).x == u, "bf16 %04x became %04x", u, __float2bfloat16(b).x);
        else CHECK(std::isnan(__bfloat162float(__float2bfloat16(b))), "bf16 NaN %04x", u);
        if ((float)h == (float)h) CHECK(__float2half(h).x == u, "fp16 %04x became %04x", u, __float2half(h).x);
        else CHECK(std::isnan(__half2float(__float2half(h))), "fp16 NaN %04x", u);
    }
    const struct { float f; unsigned b, h; } cases[] = {
        {1.00390625f, 0x3f80, 0x3c04}, {1.01171875f, 0x3f82, 0x3c0c}, {65504, 0x4780, 0x7bff}, {65519.9f, 0x4780, 0x7bff}, {65520, 0x4780, 0x7c00},
        {-1e-8f, 0xb22c, 0x8000}, {2.9802322e-8f, 0x3300, 0}, {3e-8f, 0x3301, 1}, {1.00048828125f, 0x3f80, 0x3c00}, {1.00146484375f, 0x3f80, 0x3c02},
        {3.4e38f, 0x7f80, 0x7c00}, {INFINITY, 0x7f80, 0x7c00}};
    for (auto &c : cases)
        CHECK(__float2bfloat16(c.f).x == c.b && __float2half(c.f).x == c.h, "%.9g: bf16 %04x, fp16 %04x", c.f, __float2bfloat16(c.f).x, __float2half(c.f).x);
}
TEST("backend: __expf is within 2 ulp and right at the ends") {
    const int n = 20001;
    Array<float> x(n, [](int i) { return -100 + i * 0.01f; }), y(n);
    x.host[0] = -INFINITY, x.host[1] = INFINITY, x.host[2] = NAN, x.upload();
    exps<<<(n + 127) / 128, 128>>>(y.device, x.device, n);
    y.download();
    CHECK(y.host[0] == 0 && y.host[1] == INFINITY && y.host[2] != y.host[2], "%g %g %g", y.host[0], y.host[1], y.host[2]);
    for (int i = 3; i < n; i++) {
        double e = exp((double)x.host[i]), tolerance = 2.4e-7 * e + 1.5e-45;  // and a denormal step
        CHECK(fabs(y.host[i] - e) <= tolerance || (e > 3.4e38 && y.host[i] == INFINITY), "exp(%.9g) = %.9g, not %.9g", x.host[i], e, y.host[i]);
    }
}
TEST("backend: tensor-core tiles of both shapes, ldmatrix and cp.async") {
    auto value = [](int i) { return (float)(i * 7 % 13 - 6); };
    Array<__nv_bfloat16> a(16 * 16, value), b(8 * 16, value);
    Array<__half> a8(16 * 8, value), b8(8 * 8, value);
    Array<float> d(16 * 8), d8(16 * 8);
    mma16<<<1, 32>>>(d.device, a.device, b.device);
    mma8<<<1, 32>>>(d8.device, a8.device, b8.device);
    d.download(), d8.download();
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 8; n++) {
            float s = 1, s8 = 0;
            for (int k = 0; k < 16; k++) s += value(m * 16 + k) * value(n * 16 + k);
            for (int k = 0; k < 8; k++) s8 += value(m * 8 + k) * value(n * 8 + k);
            CHECK(d.host[m * 8 + n] == s && d8.host[m * 8 + n] == s8, "(%d,%d): %g, %g, expected %g, %g", m, n, d.host[m * 8 + n], d8.host[m * 8 + n], s, s8);
        }
}
TEST("backend: a captured graph runs nothing when captured and everything when replayed") {
    const int n = 100;
    Array<float> x(n, noise), y(n);
    cudaStream_t s, other;
    cudaEvent_t forked, joined;
    CUDA(cudaStreamCreate(&s)), CUDA(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    CUDA(cudaEventCreate(&forked)), CUDA(cudaEventCreate(&joined));
    CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    for (int i = 0; i < 3; i++) saxpy<<<1, 128, 0, s>>>(y.device, x.device, 1.f, n);
    CUDA(cudaEventRecord(forked, s)), CUDA(cudaStreamWaitEvent(other, forked));
    saxpy<<<1, 128, 0, other>>>(y.device, x.device, 1.f, n);
    CUDA(cudaEventRecord(joined, other)), CUDA(cudaStreamWaitEvent(s, joined));
    CUDA(cudaMemsetAsync(x.device, 0, 4, s));
    float *never;
    CHECK(cudaMalloc(&never, 4) == cudaErrorStreamCaptureUnsupported && cudaGetLastError(), "cudaMalloc in a capture");
    CHECK(cudaStreamSynchronize(s) == cudaErrorStreamCaptureUnsupported && cudaGetLastError(), "synchronize in a capture");
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA(cudaStreamEndCapture(s, &graph)), CUDA(cudaGraphInstantiate(&exec, graph, 0)), CUDA(cudaGraphDestroy(graph));
    y.download();
    CHECK(y.host[5] == 0, "y = %g before the first replay", y.host[5]);
    CUDA(cudaGraphLaunch(exec, s)), CUDA(cudaGraphLaunch(exec, s)), CUDA(cudaStreamSynchronize(s));
    y.download();
    CHECK(fabsf(y.host[5] - 8 * x.host[5]) < 1e-5f && fabsf(y.host[0] - 4 * x.host[0]) < 1e-5f, "after two replays y = %g, x = %g", y.host[5], x.host[5]);
    CUDA(cudaGraphExecDestroy(exec)), CUDA(cudaStreamDestroy(s)), CUDA(cudaStreamDestroy(other)), CUDA(cudaEventDestroy(forked)), CUDA(cudaEventDestroy(joined));
}
TEST("backend: wrong launches and sizes are errors that one can read") {
    Array<float> x(4);
    saxpy<<<1, 2048>>>(x.device, x.device, 1.f, 0);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration && cudaGetLastError() == cudaSuccess, "2048 threads");
    reverse<<<1, 4, 60000>>>(x.device, 4);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration, "more than 48 KB without asking");
    CUDA(cudaFuncSetAttribute(reverse, cudaFuncAttributeMaxDynamicSharedMemorySize, 60000));
    reverse<<<1, 4, 60000>>>(x.device, 4);
    CUDA(cudaGetLastError());
    CHECK(cudaFuncSetAttribute(reverse, cudaFuncAttributeMaxDynamicSharedMemorySize, 1 << 20) == cudaErrorInvalidValue && cudaGetLastError(), "1 MB");
    float *p;
    CHECK(cudaMalloc(&p, (size_t)1 << 50) == cudaErrorMemoryAllocation && !p && cudaGetLastError(), "a petabyte");
    cudaDeviceProp prop;
    size_t available, total;
    CUDA(cudaGetDeviceProperties(&prop, 0)), CUDA(cudaMemGetInfo(&available, &total));
    CHECK(prop.warpSize == 32 && strlen(prop.name) && available > 0 && available <= total, "%s: %zu of %zu", prop.name, available, total);
}
TEST("backend: events measure, pinned memory is for both sides") {
    cudaEvent_t a, b;
    CUDA(cudaEventCreate(&a)), CUDA(cudaEventCreate(&b));
    Array<float> out(100);
    float *pinned, ms = -1;
    CUDA(cudaMallocHost(&pinned, 400));
    for (int i = 0; i < 100; i++) pinned[i] = 1;
    CUDA(cudaEventRecord(a));
    saxpy<<<1, 128>>>(out.device, pinned, 2.f, 100);
    exps<<<1, 128>>>(pinned, out.device, 100);
    CUDA(cudaEventRecord(b)), CUDA(cudaEventSynchronize(b)), CUDA(cudaEventElapsedTime(&ms, a, b));
    CHECK(ms > 0 && ms < 10000 && fabsf(pinned[99] - 7.389056f) < 1e-5f, "%g ms, %g", ms, pinned[99]);
    CUDA(cudaFreeHost(pinned)), CUDA(cudaEventDestroy(a)), CUDA(cudaEventDestroy(b));
}
TEST("backend: parallel_for runs every index once, also from inside itself") {
    std::vector<int> hits(1000);
    cuda_cpu::parallel_for(10, [&](long i) { cuda_cpu::parallel_for(100, [&](long j) { hits[i * 100 + j]++; }); });
    for (int round = 0; round < 2000; round++) cuda_cpu::parallel_for(7, [&](long i) { __atomic_fetch_add(&hits[i], 1, __ATOMIC_RELAXED); });
    for (int i = 0; i < 1000; i++) CHECK(hits[i] == (i < 7 ? 2001 : 1), "index %d ran %d times", i, hits[i]);
}

// ------------------------------------------------------------------------------------------------
// planted bugs

__global__ void overrun(float *x, int n) { if (threadIdx.x <= n) x[threadIdx.x] = 2; }
__global__ void underrun(float *x) { x[(int)threadIdx.x - 1] = 2; }
__global__ void read_before(float *x, int n) { x[0] = x[-n]; }
__global__ void overrun_dynamic(float *x) {
    extern __shared__ float s[];
    s[threadIdx.x + 1] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = s[threadIdx.x];
}
__global__ void overrun_static(float *x, int k) {
    __shared__ float s[32];
    s[threadIdx.x + k] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = s[threadIdx.x];
}
__global__ void divergent(float *x) {
    if (threadIdx.x < 16) __syncthreads();
    else x[threadIdx.x] = __shfl_xor_sync(~0u, 1.f, 1);
}
__global__ void two_barriers() {
    if (threadIdx.x < 16) __syncthreads();
    else __syncthreads();
}
__global__ void partial_warp(float *x) { x[threadIdx.x] = __shfl_xor_sync(~0u, x[threadIdx.x], 1); }
__global__ void wrong_mask(float *x) { if (threadIdx.x < 16) x[threadIdx.x] = __shfl_sync(0xffff0000, 1.f, 20); }
__global__ void different_masks(float *x) { x[threadIdx.x] = threadIdx.x < 16 ? __shfl_sync(~0u, 1.f, 0) : __shfl_sync(0xffffff00, 1.f, 8); }
__global__ void uninitialised_static(float *x) { __shared__ float s[32]; x[threadIdx.x] = s[threadIdx.x]; s[threadIdx.x] = 1; }
__global__ void uninitialised_dynamic(float *x) { extern __shared__ float s[]; x[threadIdx.x] = s[threadIdx.x]; }
__global__ void misaligned(float *x) { x[threadIdx.x] = ((float4 *)(x + 1))[threadIdx.x].x; }
__global__ void deep(float *x, int n) {
    float big[1000];
    for (int i = 0; i < 1000; i++) big[i] = x[i % 4] + i;
    __syncwarp();
    if (n) deep(x, n - 1);
    x[threadIdx.x % 4] = big[n % 1000];
}
__global__ void missing_sync(float *out, const float *in) {
    __shared__ float s[64];
    s[threadIdx.x] = in[threadIdx.x];
    out[blockIdx.x * blockDim.x + threadIdx.x] = s[63 - threadIdx.x];
}
__global__ void late_sync(float *out, const float *in) {  // the next round overwrites what others still read
    __shared__ float s[64];
    for (int i = 0; i < 3; i++) {
        s[threadIdx.x] = in[threadIdx.x] + i;
        __syncthreads();
        out[threadIdx.x] += s[63 - threadIdx.x];
    }
}
__global__ void not_atomic(float *sum, const float *in) { *sum = *sum * 0.5f + in[threadIdx.x]; }
__global__ void between_blocks(float *x) { x[blockIdx.x] = blockIdx.x ? x[blockIdx.x - 1] + 1 : 5; }

static int planted(const std::string &bug) {
    const int n = 100;
    Array<float> array(n, [](int i) { return i + 1.f; });
    float *x = array.device, host[n] = {};
    if (bug == "overrun") overrun<<<1, 128>>>(x, n);
    if (bug == "overrun-in-slack") { float *odd; CUDA(cudaMalloc(&odd, 4 * (n + 1))); overrun<<<1, 128>>>(odd, n + 1); }
    if (bug == "underrun") underrun<<<1, 32>>>(x);
    if (bug == "read-before") read_before<<<1, 1>>>(x, 1);
    if (bug == "overrun-dynamic") overrun_dynamic<<<1, 32, 128>>>(x);
    if (bug == "overrun-static") overrun_static<<<1, 32>>>(x, 1);
    if (bug == "divergent") divergent<<<1, 32>>>(x);
    if (bug == "two-barriers") two_barriers<<<1, 32>>>();
    if (bug == "partial-warp") partial_warp<<<1, 42>>>(x);
    if (bug == "wrong-mask") wrong_mask<<<1, 32>>>(x);
    if (bug == "different-masks") different_masks<<<1, 32>>>(x);
    if (bug == "host-pointer") overrun<<<1, 32>>>(host, n);
    if (bug == "host-read") printf("%f\n", x[3]);
    if (bug == "direction") cudaMemcpy(host, x, 4, cudaMemcpyHostToDevice);
    if (bug == "copy-too-much") cudaMemcpy(host, x + 1, n * 4, cudaMemcpyDeviceToHost);
    if (bug == "use-after-free") { float *y; CUDA(cudaMalloc(&y, 400)), CUDA(cudaFree(y)); overrun<<<1, 32>>>(y, 10); }
    if (bug == "double-free") { float *y; CUDA(cudaMalloc(&y, 400)), CUDA(cudaFree(y)); cudaFree(y); }
    if (bug == "misaligned") misaligned<<<1, 8>>>(x);
    if (bug == "stack") deep<<<1, 32>>>(x, 40);
    if (bug == "wrong-stream") {
        cudaStream_t s;
        CUDA(cudaStreamCreate(&s)), CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
        overrun<<<1, 32>>>(x, n - 1);
    }
    if (bug.compare(0, 13, "uninitialised") == 0) {
        float *y;
        CUDA(cudaMalloc(&y, 128));
        if (bug == "uninitialised-static") uninitialised_static<<<3, 32>>>(x);
        else if (bug == "uninitialised-dynamic") uninitialised_dynamic<<<1, 32, 128>>>(x);
        else x = y;
        CUDA(cudaMemcpy(host, x, 128, cudaMemcpyDeviceToHost));
        for (int i = 0; i < 32; i++) if (host[i] == host[i]) return printf("value %d is %g, not NaN\n", i, host[i]), 0;
        printf("all of them are NaN\n");
        return 1;
    }
    Array<float> out(256);
    if (bug == "missing-sync") missing_sync<<<4, 64>>>(out.device, x);
    if (bug == "late-sync") late_sync<<<1, 64>>>(out.device, x);
    if (bug == "not-atomic") not_atomic<<<1, 64>>>(out.device, x);
    if (bug == "between-blocks") between_blocks<<<4, 1>>>(x);
    if (bug == "race-in-graph") {
        cudaStream_t s;
        cudaGraph_t graph;
        cudaGraphExec_t exec;
        CUDA(cudaStreamCreate(&s)), CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
        missing_sync<<<4, 64, 0, s>>>(out.device, x);
        CUDA(cudaStreamEndCapture(s, &graph)), CUDA(cudaGraphInstantiate(&exec, graph, 0));
        printf("captured\n");
        CUDA(cudaGraphLaunch(exec, s));
    }
    printf("%s was not caught\n", bug.c_str());
    return 0;
}

// ------------------------------------------------------------------------------------------------

static void digest() {
    const int n = 5000;
    Array<float> x(n * 8, noise), y(n * 8), sums(n), largest(n), steps(n);
    for (int i = 0; i < 20; i++) {
        saxpy<<<(n * 8 + 63) / 64, 64>>>(y.device, x.device, 1.1f, n * 8);
        block_sum<float><<<n, 8, 32>>>(sums.device, y.device, 8);
        warp_sums<float><<<n / 40, 40>>>(x.device, largest.device, steps.device, sums.device);
    }
    uint64_t hash = 0;
    for (auto *a : {&x, &y, &sums, &largest, &steps})
        for (float f : a->download()) hash = (hash ^ __float_as_uint(f)) * 0x100000001b3;
    printf("%016llx\n", (unsigned long long)hash);
}
__global__ void empty() {}
__global__ void barriers(int n) { for (int i = 0; i < n; i++) __syncthreads(); }
__global__ void sums(float *y, int n) { for (int i = 0; i < n; i++) y[threadIdx.x] = cuda_cpu::warp_sum(y[threadIdx.x]) * 0.1f; }
template<class F> static void measure(const char *what, int times, double per, F f) {
    double best = 1e9;
    for (int r = 0; r < 6; r++) {
        timespec a, b;  // processor time: the machine may be busy
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
        for (int i = 0; i < times; i++) f();
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
        best = std::min(best, (b.tv_sec - a.tv_sec) + 1e-9 * (b.tv_nsec - a.tv_nsec));
    }
    printf("%-36s %8.1f ns\n", what, best / times / per * 1e9);
}
static void speed() {
    Array<float> y(1024);
    measure("empty launch, one block", 10000, 1, [] { empty<<<1, 32>>>(); });
    measure("empty launch, 64 blocks of 256", 1000, 1, [] { empty<<<64, 256>>>(); });
    measure("parallel_for(2)", 5000, 1, [] { cuda_cpu::parallel_for(2, [](long) {}); });
    measure("__syncthreads of 32, per thread", 2, 32 * 1000, [] { barriers<<<1, 32>>>(1000); });
    measure("__syncthreads of 256, per thread", 2, 256 * 1000, [] { barriers<<<1, 256>>>(1000); });
    measure("warp_sum of 32, per lane", 2, 32 * 1000, [&] { sums<<<1, 32>>>(y.device, 1000); });
    measure("warp_sum of 8, per lane", 2, 8 * 1000, [&] { sums<<<1, 8>>>(y.device, 1000); });
    measure("a thread that waits once, of 32", 200, 32, [] { barriers<<<1, 32>>>(1); });
}

int main(int argc, char **argv) {
    if (argc < 2) return run_tests();
    std::string what = argv[1];
    if (what == "digest") return digest(), 0;
    if (what == "speed") return speed(), 0;
    return run_main([&] { return planted(what); });
}
