/* dev/kernels/wkv4/ladder.cu: y = sigmoid(r) wkv(k, v) and its backward, from the official formulation to the shipped kernel.

       make DEVICE=cpu build/cpu-fp32/ladder_wkv4          (a GPU: build/gpu-bf16/ladder_wkv4)
       build/cpu-fp32/ladder_wkv4                          all rungs: checked, then timed
       build/cpu-fp32/ladder_wkv4 check|time [RUNG]        a part of it

   1  official   a thread per (b,c); log-sum-exp: 4 exponentials and a division a step, most of them in the chain from step
                 to step. Backward: forward again for q and m of every step (scratch of two (B,T,C) fp32), then backward.
                 The gate is a kernel of its own, which reads and writes wkv once more.
   2  one exp    of e^(a-m), e^(b-m), m = max(a,b), one is always 1: the other is e^-|a-b|. 2 exponentials a step.
   3  linear     A, B relative to a reference that moves only when they leave [2^-40, 2^40]: one exponential, off the chain.
                 Backward: A, B, o of every step in scratch (three fp32), then backward by doc/wkv.md (16)-(19).
   4  chunks     a state kept every 16 steps, which backward runs again in registers: r, k, v, dy are read once, nothing else of
                 size T exists; all loads of 16 steps are under way at once; the gate and its backward are part of the kernels.
   5  warps      16-step chunks are dealt to the warps of a block, which scan over shared memory: more loads under way without
                 a byte more of traffic. Shipped.

   4 and 5 are the kernels of train_rwkv.cu with 1 and with wkv_warps() warps a block. Each rung is first held against
   reference.h in fp64. Times are medians, over buffers that together exceed the L2 cache; GB/s counts the bytes that
   the operation cannot avoid (forward r k v -> y, backward r k v dy -> dr dk dv), so that all rungs compare.
   defines: main */
#define TESTING
#include "train_rwkv.cu"
#include "dev/kernels/wkv4/reference.h"
#include "dev/kernels/ladder.h"
#include <array>

struct Buffers {                       // one problem on the device
    floatX *y, *k, *v, *r, *dy, *dk, *dv, *dr, *wkv, *gy;  // (B,T,C); wkv, gy: rungs 1 to 3 only
    real *decay, *first, *ddecay, *dfirst;                 // (C)
    real *states, *partial, *scratch;                      // (B,chunks,3,C); (B warps,2,C); (3,B,T,C): rungs 1 to 3
    int B, T, C;
    __host__ __device__ int64_t N() const { return (int64_t)B * T * C; }
};
constexpr int THREADS = 64;
inline dim3 channel_grid(const Buffers &x) { return dim3(ceil_div(x.C, THREADS), x.B); }

// ------------------------------------------------------------------------------------------------
// The gate as kernels of their own

__global__ void gate_forward_kernel(floatX *y, const floatX *r, const floatX *wkv, int64_t n) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) store<1>(y + i, sigmoid(load<1>(r + i)) * load<1>(wkv + i));
}
__global__ void gate_backward_kernel1(floatX *dr, floatX *gy, const floatX *dy, const floatX *r, const floatX *wkv, int64_t n) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    Vec<1> gate = sigmoid(load<1>(r + i)), d = load<1>(dy + i) * gate;
    store(gy + i, d), store(dr + i, d * load<1>(wkv + i) * (real(1) - gate));
}

// ------------------------------------------------------------------------------------------------
// 1 and 2: log-sum-exp.   doc/wkv.md (5), (22), (23)

struct Pair { real m, a, b; };         // m = max(x, y), a = e^(x - m), b = e^(y - m)
template<int RUNG> __device__ inline Pair exponentials(real x, real y) {
    real m = fmax(x, y);
    if (RUNG == 1) return {m, exp(x - m), exp(y - m)};
    real e = exp(-fabs(x - y));
    return {m, x < y ? e : real(1), x < y ? real(1) : e};
}
struct LogState { real a, b, p; };     // sums a e^p, b e^p
template<int RUNG> __global__ void wkv_forward_kernel1(Buffers x) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, b = blockIdx.y;
    if (c >= x.C) return;
    real w = -exp(x.decay[c]), u = x.first[c];
    LogState z = {0, 0, -1e38f};
    for (int t = 0; t < x.T; t++) {
        int64_t i = ((int64_t)b * x.T + t) * x.C + c;
        real k = x.k[i], v = x.v[i];
        Pair e = exponentials<RUNG>(z.p, u + k);
        x.wkv[i] = (floatX)((e.a * z.a + e.b * v) / (e.a * z.b + e.b));
        e = exponentials<RUNG>(z.p + w, k);
        z = {e.a * z.a + e.b * v, e.a * z.b + e.b, e.m};
    }
}
// q_t = gy / denominator, relative to e^-m_t, both kept; then P, Q: the adjoints of a and -b, relative to e^n.
template<int RUNG> __global__ void wkv_backward_kernel1(Buffers x) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, b = blockIdx.y;
    if (c >= x.C) return;
    real w = -exp(x.decay[c]), u = x.first[c], gw = 0, gu = 0, *q = x.scratch, *m = x.scratch + x.N();
    LogState z = {0, 0, -1e38f};
    real za = 0, zb = 0;               // derivatives of the sums with respect to w
    for (int t = 0; t < x.T; t++) {
        int64_t i = ((int64_t)b * x.T + t) * x.C + c;
        real k = x.k[i], v = x.v[i];
        Pair e = exponentials<RUNG>(z.p, u + k);
        real denominator = e.a * z.b + e.b, y = (e.a * z.a + e.b * v) / denominator;
        q[i] = (real)x.gy[i] / denominator, m[i] = e.m;
        gw += q[i] * e.a * (za - y * zb), gu += q[i] * e.b * (v - y);
        e = exponentials<RUNG>(z.p + w, k);
        za = e.a * (za + z.a), zb = e.a * (zb + z.b);
        z = {e.a * z.a + e.b * v, e.a * z.b + e.b, e.m};
    }
    real P = 0, Q = 0, n = -1e38f;
    for (int t = x.T - 1; t >= 0; t--) {
        int64_t i = ((int64_t)b * x.T + t) * x.C + c;
        real k = x.k[i], v = x.v[i], y = x.wkv[i], now = q[i] * exp(u + k - m[i]), later = exp(k + n);
        x.dk[i] = (floatX)(now * (v - y) + later * (P * v - Q)), x.dv[i] = (floatX)(now + later * P);
        Pair e = exponentials<RUNG>(n + w, -m[i]);
        P = e.a * P + e.b * q[i], Q = e.a * Q + e.b * q[i] * y, n = e.m;
    }
    x.partial[(int64_t)b * 2 * x.C + c] = gw * w, x.partial[((int64_t)b * 2 + 1) * x.C + c] = gu;
}

// ------------------------------------------------------------------------------------------------
// 3: linear, with the step of the shipped kernel

__global__ void wkv_forward_kernel3(Buffers x) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, b = blockIdx.y;
    if (c >= x.C) return;
    WkvChannel<1> p = wkv_channel<1>(x.decay, x.first, c);
    WkvState<1> z = {0, 0, 0};
    for (int t = 0; t < x.T; t++) {
        int64_t i = ((int64_t)b * x.T + t) * x.C + c;
        Vec<1> v = load<1>(x.v + i);
        WkvStep<1> s = wkv_step(z, load<1>(x.k + i) * LOG2E, p);
        store(x.wkv + i, (s.c1 * z.A + s.c2 * v) * reciprocal(s.c1 * z.B + s.c2));
        wkv_advance(z, s, v);
    }
}
__global__ void wkv_backward_kernel3(Buffers x) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, b = blockIdx.y;
    if (c >= x.C) return;
    WkvChannel<1> p = wkv_channel<1>(x.decay, x.first, c);
    WkvState<1> z = {0, 0, 0};
    for (int t = 0; t < x.T; t++) {
        int64_t i = ((int64_t)b * x.T + t) * x.C + c;
        store_state(x.scratch + i, x.N(), z);
        wkv_advance(z, wkv_step(z, load<1>(x.k + i) * LOG2E, p), load<1>(x.v + i));
    }
    Vec<1> al = 0, be = 0, dw = 0, du = 0;
    for (int t = x.T - 1; t >= 0; t--) {
        int64_t i = ((int64_t)b * x.T + t) * x.C + c;
        z = load_state<1>(x.scratch + i, x.N());
        Vec<1> v = load<1>(x.v + i);
        WkvStep<1> s = wkv_step(z, load<1>(x.k + i) * LOG2E, p);
        Vec<1> inverse = reciprocal(s.c1 * z.B + s.c2), y = (s.c1 * z.A + s.c2 * v) * inverse, q = load<1>(x.gy + i) * inverse, e = s.c2 * q * (v - y);
        store(x.dv + i, s.c2 * q + s.d2 * al), store(x.dk + i, e + s.d2 * (al * v + be));
        du += e, dw += s.d1 * (al * z.A + be * z.B);
        al = s.d1 * al + s.c1 * q, be = s.d1 * be - s.c1 * q * y;
    }
    real *partial = x.partial + (int64_t)b * 2 * x.C + c;
    store(partial, dw * p.w2 * LN2), store(partial + x.C, du);
}

// ------------------------------------------------------------------------------------------------
// The rungs

constexpr int RUNGS = 5;
static const char *rung_name[RUNGS + 1] = {"", "1 official", "2 one exp", "3 linear", "4 chunks", "5 warps"};
static int rung_warps(int rung, const Buffers &x) {  // on the CPU the model has no use for warps; here they are checked
#ifdef CUDA_CPU
    return rung < 5 ? 1 : std::min(WKV_WARPS, ceil_div(x.T, WKV_CHUNK));
#else
    return rung < 5 ? 1 : wkv_warps(x.B, x.T, x.C);
#endif
}
static WkvArgs shipped(int rung, const Buffers &x) {
    return {x.y, x.k, x.v, x.r, x.decay, x.first, x.states, nullptr, nullptr, nullptr, x.B, x.T, x.C, rung_warps(rung, x)};
}
static void forward(int rung, const Buffers &x) {
    if (rung >= 4) return wkv_forward(shipped(rung, x), 0);
    if (rung == 1) wkv_forward_kernel1<1><<<channel_grid(x), THREADS>>>(x);
    if (rung == 2) wkv_forward_kernel1<2><<<channel_grid(x), THREADS>>>(x);
    if (rung == 3) wkv_forward_kernel3<<<channel_grid(x), THREADS>>>(x);
    gate_forward_kernel<<<ceil_div(x.N(), 256), 256>>>(x.y, x.r, x.wkv, x.N());
    launchCheck();
}
static void backward(int rung, const Buffers &x) {
    if (rung >= 4) return wkv_backward({shipped(rung, x), x.dk, x.dv, x.dr, x.dy, nullptr, nullptr, x.partial}, x.ddecay, x.dfirst, 0);
    gate_backward_kernel1<<<ceil_div(x.N(), 256), 256>>>(x.dr, x.gy, x.dy, x.r, x.wkv, x.N());
    if (rung == 1) wkv_backward_kernel1<1><<<channel_grid(x), THREADS>>>(x);
    if (rung == 2) wkv_backward_kernel1<2><<<channel_grid(x), THREADS>>>(x);
    if (rung == 3) wkv_backward_kernel3<<<channel_grid(x), THREADS>>>(x);
    launchCheck();
    column_sums({{x.ddecay, x.dfirst}}, x.partial, x.B, 2, x.C, 0);
}

// ------------------------------------------------------------------------------------------------
// A problem with random inputs, and what it should give

struct Problem : DeviceBuffers {
    Buffers x;
    std::vector<double> k, v, r, dy, decay, first;  // as the kernels see them, after rounding

    template<class R> std::vector<double> fill(R **p, int64_t n, double low, double high, Rng &rng) {
        std::vector<double> x = random_numbers(n, [&] { return low + (high - low) * rng.uniform(); });
        *p = upload<R>(x);
        return x;
    }
    Problem(int B, int T, int C, double k_size, double u_size, uint64_t seed) {
        Rng rng{seed, 0, 0};
        x.B = B, x.T = T, x.C = C;
        int64_t n = x.N();
        k = fill(&x.k, n, -k_size, k_size, rng), v = fill(&x.v, n, -1, 1, rng), r = fill(&x.r, n, -2, 2, rng), dy = fill(&x.dy, n, -1, 1, rng);
        decay = fill(&x.decay, C, -6, 2, rng), first = fill(&x.first, C, -u_size, u_size, rng);
        for (floatX **p : {&x.y, &x.dk, &x.dv, &x.dr, &x.wkv, &x.gy}) *p = room<floatX>(n);
        x.ddecay = room<real>(C), x.dfirst = room<real>(C), x.states = room<real>((int64_t)B * ceil_div(T, WKV_CHUNK) * 3 * C);
        x.partial = room<real>((int64_t)B * WKV_WARPS * 2 * C), x.scratch = room<real>(3 * n);
    }
};

constexpr int PARTS = 6;
static const char *part_name[PARTS] = {"y", "dr", "dk", "dv", "time_decay", "time_first"};
struct Results { std::vector<double> part[PARTS]; };

static Results reference(const Problem &p) {
    const Buffers &x = p.x;
    int64_t n = x.N();
    std::vector<double> w(x.C), y(n), gy(n), gw(x.C), gu(x.C), dk(n), dv(n), dr(n);
    for (int c = 0; c < x.C; c++) w[c] = -exp(p.decay[c]);
    Wkv4Case<double> c = {x.B, x.T, x.C, p.k.data(), p.v.data(), w.data(), p.first.data(), nullptr, nullptr, nullptr, nullptr};
    wkv4_forward_reference<double>(y.data(), nullptr, nullptr, nullptr, c);
    for (int64_t i = 0; i < n; i++) {
        double gate = 1 / (1 + exp(-p.r[i]));
        gy[i] = p.dy[i] * gate, dr[i] = gy[i] * y[i] * (1 - gate), y[i] *= gate;
    }
    wkv4_backward_reference<double>(dk.data(), dv.data(), gw.data(), gu.data(), nullptr, nullptr, gy.data(), nullptr, nullptr, c);
    for (int i = 0; i < x.C; i++) gw[i] *= w[i];
    return {{y, dr, dk, dv, gw, gu}};
}
static Results run(int rung, const Problem &p) {
    const Buffers &x = p.x;
    cudaCheck(cudaMemset(x.ddecay, 0, x.C * sizeof(real))), cudaCheck(cudaMemset(x.dfirst, 0, x.C * sizeof(real)));
    for (floatX *out : {x.y, x.dk, x.dv, x.dr, x.wkv, x.gy}) cudaCheck(cudaMemset(out, 0xff, x.N() * sizeof(floatX)));
    forward(rung, x), backward(rung, x);
    int64_t n = x.N();
    return {{Problem::get(x.y, n), Problem::get(x.dr, n), Problem::get(x.dk, n), Problem::get(x.dv, n), Problem::get(x.ddecay, x.C), Problem::get(x.dfirst, x.C)}};
}

// Limits: rounding of the results to floatX, or of exponents in fp32: log-sum-exp rounds a key of size k by k eps, and e^k
// with it, at every step. The two vectors are sums over B and T, which with few channels may cancel.
static bool check(int rung) {
    constexpr double rounding = sizeof(floatX) == 8 ? 1e-12 : sizeof(floatX) == 4 ? 1e-5 : std::is_same<floatX, __half>::value ? 2e-3 : 1.5e-2;
    constexpr double exponents = sizeof(floatX) == 8 ? 1e-11 : std::max(rounding, 1e-3);
    double most[2][PARTS] = {};
    bool good = true;
    auto compare = [&](int B, int T, int C, double k_size, double u_size, bool large) {
        Problem p(B, T, C, k_size, u_size, 1000 * T + C);
        Results want = reference(p), got = run(rung, p);
        for (int i = 0; i < PARTS; i++) {
            double e = relative_error(got.part[i], want.part[i]);
            most[large][i] = e <= most[large][i] ? most[large][i] : e;
            double limit = large ? exponents : i < 4 ? rounding : std::max(rounding, 20 * 1e-5 * (sizeof(floatX) < 8));
            if (e <= limit) continue;
            printf("FAIL  rung %d, B %d T %d C %d, k in +-%g, u in +-%g: %s has relative error %.2e, limit %.1e\n", rung, B, T, C, k_size, u_size, part_name[i], e, limit);
            good = false;
        }
    };
    for (int T : {1, 2, 15, 16, 17, 63, 65, 257})
        for (int C : {1, 7, 33, 64, 96}) compare(2, T, C, 3, 2, false);
    compare(1, 4096, 48, 200, 2, true), compare(2, 257, 48, 5, 80, true);
    for (int large = 0; large < 2; large++) {
        printf("| %s | %s |", rung_name[rung], large ? "large" : "+-3");
        for (double e : most[large]) printf(" %.1e |", e);
        printf("\n");
    }
    return good;
}

// ------------------------------------------------------------------------------------------------
// Times

static double copy_bandwidth() {  // GB/s, read + written
    size_t bytes = std::max<size_t>(64 << 20, 8 * (size_t)device().l2CacheSize);
    char *a, *b;
    cudaCheck(cudaMalloc((void **)&a, bytes)), cudaCheck(cudaMalloc((void **)&b, bytes));
    cudaCheck(cudaMemset(a, 1, bytes));
    double us = median_us([&](int) { cudaCheck(cudaMemcpyAsync(b, a, bytes, cudaMemcpyDeviceToDevice, 0)); }, 50);
    cudaFree(a), cudaFree(b);
    return 2 * bytes / us / 1000;
}
static void time_shape(int B, int T, int C, int only, double copy) {
    constexpr double ms = 100;
    int64_t n = (int64_t)B * T * C;
    int sets = std::min<int64_t>(8, 2 + 2 * (int64_t)device().l2CacheSize / (8 * n * sizeof(floatX)));
    std::vector<std::unique_ptr<Problem>> problems;
    for (int i = 0; i < sets; i++) problems.emplace_back(new Problem(B, T, C, 2, 1, i));
    for (int rung = only ? only : 1; rung <= (only ? only : RUNGS); rung++) {
        double us[2] = {median_us([&](int i) { forward(rung, problems[i % sets]->x); }, ms), median_us([&](int i) { backward(rung, problems[i % sets]->x); }, ms)};
        printf("| %d,%d,%d | %s |", B, T, C, rung_name[rung]);
        for (int d = 0; d < 2; d++) {
            double rate = (d ? 7 : 4) * sizeof(floatX) * n / us[d] / 1000;
            printf(" %.0f | %.1f | %.0f%% |", us[d], rate, 100 * rate / copy);
        }
        printf("\n");
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    return run_main([&] {
        const auto [checked, timed, only] = ladder_arguments(argc, argv, "ladder_wkv4", RUNGS);
        device_init();
        bool good = true;
        if (checked) {
            printf("Relative L2 error against fp64, " PRECISION_NAME " on %s: the worst over\nT of 1 to 257 with k in +-3, u in +-2; large: T = 4096 with k in +-200, and T = 257 with u in +-80\n\n| rung | k, u |", device().name);
            for (const char *name : part_name) printf(" %s |", name);
            printf("\n|---|---|---|---|---|---|---|---|\n");
            for (int rung = only ? only : 1; rung <= (only ? only : RUNGS); rung++) good = check(rung) && good;
            printf("\n");
        }
        if (timed && good) {
            double copy = copy_bandwidth();
            printf(PRECISION_NAME " on %s; device copy: %.0f GB/s\n\n| B,T,C | rung | forward us | GB/s | of copy | backward us | GB/s | of copy |\n|---|---|---|---|---|---|---|---|\n", device().name, copy);
#ifdef CUDA_CPU
            for (auto [B, T, C] : {std::array<int, 3>{4, 256, 768}, {1, 1024, 512}}) time_shape(B, T, C, only, copy);
#else
            for (auto [B, T, C] : {std::array<int, 3>{8, 1024, 768}, {32, 1024, 768}, {8, 4096, 2048}, {16, 4096, 1024}}) time_shape(B, T, C, only, copy);
#endif
        }
        return good ? 0 : 1;
    });
}
