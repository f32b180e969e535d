/* dev/kernels/attention/ladder.cu: causal self-attention and its backward, from three matrices of T x T to the shipped kernels.

       make DEVICE=cpu build/cpu-fp32/ladder_attention          (a GPU: build/gpu-bf16/ladder_attention)
       build/cpu-fp32/ladder_attention                          all rungs: checked, then timed
       build/cpu-fp32/ladder_attention check|time [RUNG]        a part of it

   1  naive    scores, softmax and output are kernels of their own, p and ds are (B,H,T,T) in memory; a thread makes one number
   2  flash    p is made in tiles, with a running maximum, and made again in backward: rwkv/attention.h, exact path. A block is a
               row of vector lanes (the CPU: one thread). Shipped for fp32, fp64, and for all types on the CPU.
   3  tensor   the same in mma.sync: p and ds never leave the registers between two products. Shipped for bf16 and fp16; a 32-bit
               build has no such rung.

   Each rung is first held against reference.h in fp64. Times are medians; GFLOP/s counts 2 products forward and 5 backward
   of the lower triangle alone, whatever a rung does.
   defines: main */
#include "rwkv/attention.h"
#include "dev/kernels/attention/reference.h"
#include "dev/kernels/ladder.h"
#include <array>
#include <memory>
#include <string>

struct Problem : DeviceBuffers {       // one problem on the device
    AttentionCase c;
    std::vector<double> qkv, dout;     // as the kernels see them, after rounding
    AttentionArgs a;
    AttentionBackwardArgs g;
    real *p = nullptr, *ds = nullptr;  // (B,H,T,T), rung 1

    floatX *fill(int64_t n, std::vector<double> &x, Rng rng) {
        x = random_numbers(n, [&] { return rng.normal(); });
        return upload<floatX>(x);
    }
    Problem(const AttentionCase &c, bool naive) : c(c) {
        int64_t n = c.B * c.T * c.C(), C = c.C();
        floatX *x = fill(3 * n, qkv, {1, 0, 0}), *dy = fill(n, dout, {2, 0, 0}), *dx = room<floatX>(3 * n);
        a = {x, x + C, x + 2 * C, 3 * C, room<floatX>(n), room<real>((int64_t)c.B * c.H * c.T), c.B, c.T, c.H, c.D, real(1 / sqrt((double)c.D))};
        g = {a, dy, room<real>(attention_scratch(c.B, c.T, c.H)), dx, dx + C, dx + 2 * C};
        if (naive) p = room<real>((int64_t)c.B * c.H * c.T * c.T), ds = room<real>((int64_t)c.B * c.H * c.T * c.T);
    }
};

// ------------------------------------------------------------------------------------------------
// 1: naive. A thread has the number x of the row y of the head z.

struct Place {
    int x, y, T;
    int64_t token, out;                // of the first token, in q, k, v and in out
    int64_t square;                    // of row y, in p and ds
    __device__ Place(const AttentionArgs &a) : x(blockIdx.x * blockDim.x + threadIdx.x), y(blockIdx.y), T(a.T) {
        int b = blockIdx.z / a.H, h = blockIdx.z % a.H;
        token = (int64_t)b * T * a.row + h * a.D, out = ((int64_t)b * T * a.H + h) * a.D, square = ((int64_t)blockIdx.z * T + y) * T;
    }
};
__global__ void scores_kernel1(real *p, AttentionArgs a) {
    Place i(a);
    if (i.x > i.y) return;
    real s = 0;
    for (int d = 0; d < a.D; d++) s += (real)a.q[i.token + i.y * a.row + d] * (real)a.k[i.token + i.x * a.row + d];
    p[i.square + i.x] = s * a.scale;
}
__global__ void softmax_kernel1(real *p, AttentionArgs a) {  // a thread a row
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= a.B * a.H * a.T) return;
    real *row = p + (int64_t)i * a.T, most = -INFINITY, total = 0;
    for (int j = 0; j <= i % a.T; j++) most = fmax(most, row[j]);
    for (int j = 0; j <= i % a.T; j++) total += row[j] = exp(row[j] - most);
    for (int j = 0; j <= i % a.T; j++) row[j] /= total;
}
__global__ void out_kernel1(const real *p, AttentionArgs a) {
    Place i(a);
    if (i.x >= a.D) return;
    real s = 0;
    for (int j = 0; j <= i.y; j++) s += p[i.square + j] * (real)a.v[i.token + j * a.row + i.x];
    a.out[i.out + (int64_t)i.y * a.H * a.D + i.x] = (floatX)s;
}
__global__ void ds_kernel1(real *ds, const real *p, AttentionBackwardArgs g) {
    const AttentionArgs &a = g.f;
    Place i(a);
    if (i.x > i.y) return;
    real s = 0;
    for (int d = 0; d < a.D; d++) s += (real)g.dout[i.out + (int64_t)i.y * a.H * a.D + d] * (real)a.v[i.token + i.x * a.row + d];
    ds[i.square + i.x] = p[i.square + i.x] * (s - g.D[(int64_t)blockIdx.z * a.T + i.y]) * a.scale;
}
__global__ void dqkv_kernel1(const real *ds, const real *p, AttentionBackwardArgs g) {
    const AttentionArgs &a = g.f;
    Place i(a);
    if (i.x >= a.D) return;
    real dq = 0, dk = 0, dv = 0;
    for (int j = 0; j <= i.y; j++) dq += ds[i.square + j] * (real)a.k[i.token + j * a.row + i.x];
    for (int j = i.y; j < a.T; j++) {
        int64_t at = i.square + (int64_t)(j - i.y) * a.T + i.y;
        dk += ds[at] * (real)a.q[i.token + j * a.row + i.x], dv += p[at] * (real)g.dout[i.out + (int64_t)j * a.H * a.D + i.x];
    }
    int64_t to = i.token + i.y * a.row + i.x;
    g.dq[to] = (floatX)dq, g.dk[to] = (floatX)dk, g.dv[to] = (floatX)dv;
}

// ------------------------------------------------------------------------------------------------
// The rungs

#if defined(PRECISION_BF16) || defined(PRECISION_FP16)
constexpr int RUNGS = 3;
#else
constexpr int RUNGS = 2;
#endif
static const char *rung_name[] = {"", "1 naive", "2 flash", "3 tensor"};

inline dim3 naive_grid(const AttentionArgs &a, int across) { return dim3(ceil_div(across, 64), a.T, a.B * a.H); }
static void forward(int rung, const Problem &x) {
    const AttentionArgs &a = x.a;
    if (rung == 1) {
        scores_kernel1<<<naive_grid(a, a.T), 64>>>(x.p, a);
        softmax_kernel1<<<ceil_div(a.B * a.H * a.T, 64), 64>>>(x.p, a);
        out_kernel1<<<naive_grid(a, a.D), 64>>>(x.p, a);
    } else if (rung == 2) attention_forward_exact(a, AttentionKeys<floatX>{a.k, a.v, a.row, a.T * a.row, nullptr}, 0);
#if defined(PRECISION_BF16) || defined(PRECISION_FP16)
    else attention_forward_tensor(a, 0);
#endif
    launchCheck();
}
static void backward(int rung, const Problem &x) {
    const AttentionArgs &a = x.a;
    attention_delta(x.g, 0);
    if (rung == 1) {
        ds_kernel1<<<naive_grid(a, a.T), 64>>>(x.ds, x.p, x.g);
        dqkv_kernel1<<<naive_grid(a, a.D), 64>>>(x.ds, x.p, x.g);
    } else if (rung == 2) attention_backward_exact(x.g, 0);
#if defined(PRECISION_BF16) || defined(PRECISION_FP16)
    else attention_backward_tensor(x.g, 0);
#endif
    launchCheck();
}

// ------------------------------------------------------------------------------------------------
// Checks

// Limits: rounding of results, and of p and ds before the second product in rung 3
static bool check(int rung) {
    constexpr double limit = sizeof(floatX) == 8 ? 1e-13 : sizeof(floatX) == 4 ? 2e-6 : std::is_same<floatX, __half>::value ? 1e-3 : 8e-3;
    double most[2] = {};
    bool good = true;
    for (int T : {1, 2, 15, 16, 17, 63, 65, 257})
        for (int D : {12, 16, 24, 32, 48, 64, 80, 96, 128}) {
            if (T == 257 && D % 32) continue;
            Problem x({1, T, 2, D, true}, rung == 1);
            AttentionResult want = attention_reference(x.c, x.qkv, x.dout);
            forward(rung, x), backward(rung, x);
            int64_t n = T * x.c.C();
            double e[2] = {relative_error(x.get(x.a.out, n), want.out), relative_error(x.get(x.g.dq, 3 * n), want.dqkv)};
            for (int i = 0; i < 2; i++) {
                most[i] = e[i] <= most[i] ? most[i] : e[i];
                if (e[i] <= limit) continue;
                printf("FAIL  rung %d, T %d D %d: %s has relative error %.2e, limit %.1e\n", rung, T, D, i ? "dq, dk, dv" : "out", e[i], limit);
                good = false;
            }
        }
    printf("| %s | %.1e | %.1e |\n", rung_name[rung], most[0], most[1]);
    return good;
}

// ------------------------------------------------------------------------------------------------
// Times

static void time_shape(int B, int T, int H, int D, int only) {
    double product = (double)B * H * D * T * (T + 1);  // flops: 2 for each of T (T + 1) / 2
    for (int rung = only ? only : 1; rung <= (only ? only : RUNGS); rung++) {
        bool fits = rung > 1 || 2e-9 * sizeof(real) * B * H * T * T < 8;  // GB
        printf("| %d,%d,%d,%d | %s |", B, T, H, D, rung_name[rung]);
        if (!fits) { printf(" T x T does not fit | | | | |\n"); continue; }
        Problem x({B, T, H, D, true}, rung == 1);
        double f = median_us([&](int) { forward(rung, x); }, 100), b = median_us([&](int) { backward(rung, x); }, 100);
        printf(" %.0f | %.1f | %.0f | %.1f | %.1f |\n", f, 2e-3 * product / f, b, 5e-3 * product / b, 7e-3 * product / (f + b));
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    return run_main([&] {
        const auto [checked, timed, only] = ladder_arguments(argc, argv, "ladder_attention", RUNGS);
        bool good = true;
        if (checked) {
            printf("Relative L2 error against fp64, " PRECISION_NAME " on %s: the worst over T of 1 to 257, D of 12 to 128\n\n| rung | out | dq, dk, dv |\n|---|---|---|\n", device().name);
            for (int rung = only ? only : 1; rung <= (only ? only : RUNGS); rung++) good = check(rung) && good;
            printf("\n");
        }
        if (timed && good) {
            printf(PRECISION_NAME " on %s\n\n| B,T,H,D | rung | forward us | GFLOP/s | backward us | GFLOP/s | both GFLOP/s |\n|---|---|---|---|---|---|---|\n", device().name);
#ifdef CUDA_CPU
            for (auto [B, T, H, D] : {std::array<int, 4>{4, 256, 12, 64}, {1, 1024, 8, 64}, {1, 512, 4, 128}}) time_shape(B, T, H, D, only);
#else
            for (auto [B, T, H, D] : {std::array<int, 4>{64, 1024, 12, 64}, {8, 1024, 12, 64}, {8, 4096, 16, 64}, {16, 2048, 16, 128}}) time_shape(B, T, H, D, only);
#endif
        }
        return good ? 0 : 1;
    });
}
