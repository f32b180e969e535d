/* dev/kernels/wkv7/ladder.cu: the recurrence of RWKV-7, forward and backward, from its definition to the shipped kernels. Heads of 64.

       make DEVICE=cpu build/cpu-fp32/ladder_wkv7          (a GPU: build/gpu-bf16/ladder_wkv7)
       build/cpu-fp32/ladder_wkv7                          all rungs: checked, then timed
       build/cpu-fp32/ladder_wkv7 check|time [RUNG]        a part of it

   1  literal      a thread per row of the state, two barriers a step; every state is written down for the backward (N numbers
                   a channel and step), which takes columns and rows of dL/dS in turn
   2  rows         CPU: a state kept every 16 steps, its 16 successors made again four rows at a time (fp64: two) in the first-level
                   cache. Shipped on the CPU. (A GPU thread has no room for 16 states.)
   3  chunks       16 steps as matrix products of fp32 precision: on tensor cores from three tf32 products, on sm_75 with shuffles
   4  tf32         the same with operands rounded to tf32. Shipped on the GPU: 4 for 16-bit floatX, 3 for fp32
   5  chunks of 32: half of the kept states and of the barriers, 1.3 times the multiplications
   6  chunks of 64: a quarter of the kept states, twice the multiplications. CPU, to be checked: what a warp has of 64 steps
                   (P, U, V) exceeds its registers

   7  fused        the chunks of 3 or 4 with what surrounds them in a layer inside: gates, kk, GroupNorm, bonus, output gate.
                   Held against, and timed beside, what ships: kernels of their own before and behind the recurrence

   2 to 6 are the kernels of rwkv/wkv7.h, 7 adds fused.h to them. Each rung is first held against reference.h in fp64. Times are medians, over buffers
   that together exceed the L2 cache; GB/s counts the bytes that the operation cannot avoid (forward r w k v a b -> y,
   backward those and dy -> dr dw dk dv da db), so that all rungs compare.
   defines: main */
#define TESTING                              // without main: prepare and out, which surround the recurrence
#include "train_rwkv7.cu"
#include "dev/kernels/wkv7/gated.h"
#include <algorithm>
#include <array>
#include <memory>

constexpr int N = 64;

// ------------------------------------------------------------------------------------------------
// 1: the definition.   doc/wkv7.md (1)-(9)

// all (B,H,T+1,N,N): the state before every step, and the last one; u (B,T,H,N)
__global__ void __launch_bounds__(N) wkv7_forward_kernel1(Wkv7Args f, real *all, real *us) {
    __shared__ real w[N], a[N], b[N], k[N], r[N];
    const int h = blockIdx.x, seq = blockIdx.y, i = threadIdx.x;
    real S[N], *to = all + ((int64_t)seq * f.H + h) * (f.T + 1) * N * N + i * N;
#pragma unroll
    for (int j = 0; j < N; j++) S[j] = f.state_in ? f.state_in[f.state(seq, h) + i * N + j] : real(0);
    for (int t = 0; t < f.T; t++, to += N * N) {
        const int64_t at = f.at(seq, t, h) + i;
        w[i] = exp(-WKV7_DECAY / (1 + exp(-(real)f.w[at]))), a[i] = f.a[at], b[i] = f.b[at], k[i] = f.k[at], r[i] = f.r[at];
        __syncthreads();  // the inputs of the step are complete
        if (f.first(seq, t))
#pragma unroll
            for (int j = 0; j < N; j++) S[j] = 0;
        real v = f.v[at], u = 0, y = 0;
#pragma unroll
        for (int j = 0; j < N; j++) to[j] = S[j], u += S[j] * a[j];
#pragma unroll
        for (int j = 0; j < N; j++) S[j] = S[j] * w[j] + u * b[j] + v * k[j], y += S[j] * r[j];
        f.y[at] = (floatX)y, us[at] = u;
        __syncthreads();  // nobody reads them any more
    }
#pragma unroll
    for (int j = 0; j < N; j++) {
        to[j] = S[j];
        if (f.state_out) f.state_out[f.state(seq, h) + i * N + j] = S[j];
    }
}
__global__ void __launch_bounds__(N) wkv7_backward_kernel1(Wkv7BackwardArgs g, const real *all, const real *us) {
    __shared__ real D[N][N + 1], dy[N], v[N], k[N], b[N], u[N], du[N];
    const Wkv7Args &f = g.f;
    const int h = blockIdx.x, seq = blockIdx.y, j = threadIdx.x;  // a column, and where a row is meant a row
    for (int i = 0; i < N; i++) D[i][j] = g.dstate_out ? g.dstate_out[f.state(seq, h) + i * N + j] : real(0);
    const real *S = all + (((int64_t)seq * f.H + h) * (f.T + 1) + f.T) * N * N + j;
    for (int t = f.T - 1; t >= 0; t--) {
        const int64_t at = f.at(seq, t, h) + j;
        const real x = f.w[at], w = exp(-WKV7_DECAY / (1 + exp(-x))), r = f.r[at], a = f.a[at];
        const real *before = S - N * N;
        bool first = f.first(seq, t);
        dy[j] = g.dy[at], v[j] = f.v[at], k[j] = f.k[at], b[j] = f.b[at], u[j] = us[at];
        __syncthreads();  // the inputs of the step are complete
        real dr = 0, dw = 0, dk = 0, db = 0, da = 0, dv = 0, dui = 0;
        for (int i = 0; i < N; i++) {
            real d = D[i][j] += dy[i] * r, s = before[i * N];
            dr += (s * w + u[i] * b[j] + v[i] * k[j]) * dy[i], dw += d * s, dk += d * v[i], db += d * u[i];
        }
        __syncthreads();  // D has what y_t gives
        for (int c = 0; c < N; c++) dv += D[j][c] * k[c], dui += D[j][c] * b[c];
        du[j] = dui, g.dv[at] = (floatX)dv;
        __syncthreads();  // du is complete
        for (int i = 0; i < N; i++) da += before[i * N] * du[i], D[i][j] = first ? real(0) : D[i][j] * w + du[i] * a;
        g.dr[at] = (floatX)dr, g.dk[at] = (floatX)dk, g.db[at] = (floatX)db, g.da[at] = (floatX)da;
        g.dw[at] = (floatX)(dw * w * -WKV7_DECAY / ((1 + exp(x)) * (1 + exp(-x))));
        S = before;
    }
    if (g.dstate_in) for (int i = 0; i < N; i++) g.dstate_in[f.state(seq, h) + i * N + j] = D[i][j];
}

// ------------------------------------------------------------------------------------------------
// The rungs

constexpr int RUNGS = 6;
static const char *rung_name[RUNGS + 1] = {"", "1 literal", "2 rows", "3 chunks", "4 tf32", "5 chunks of 32", "6 chunks of 64"};
constexpr Wkv7Mode PRECISE = sizeof(real) == 8 ? WKV7_EXACT : WKV7_SPLIT, ROUNDED = sizeof(real) == 8 ? WKV7_EXACT : WKV7_TF32;
static bool exists(int rung) {
#ifdef CUDA_CPU
    return rung < 6 || sizeof(real) == 4;    // fp64 chunks of 64 do not fit a block's shared memory
#else
    return rung != 2 && rung != 6 && (rung != 5 || device().sharedMemPerBlockOptin >= Wkv7Backward<64, 32, 32>::bytes);
#endif
}
struct Scratch { real *all, *u; };           // of rung 1
static void forward(int rung, const Wkv7Args &f, const Scratch &s) {
    if (rung == 1) wkv7_forward_kernel1<<<dim3(f.H, f.B), N>>>(f, s.all, s.u);
    if (rung == 3) wkv7_chunk_forward<PRECISE, N, 16>(f, 1, 0);
    if (rung == 4) wkv7_chunk_forward<ROUNDED, N, 16>(f, 1, 0);
    if (rung == 5) wkv7_chunk_forward<WKV7_MODE, N, 32>(f, 1, 0);
#ifdef CUDA_CPU
    if (rung == 6) wkv7_chunk_forward<WKV7_MODE, N, 64>(f, 1, 0);
    if (rung == 2) wkv7_forward(f, 0);
#endif
    launchCheck();
}
static void backward(int rung, const Wkv7BackwardArgs &g, const Scratch &s) {
    if (rung == 1) wkv7_backward_kernel1<<<dim3(g.f.H, g.f.B), N>>>(g, s.all, s.u);
    if (rung == 3) wkv7_chunk_backward<PRECISE, N, 16, N>(g, 0);
    if (rung == 4) wkv7_chunk_backward<ROUNDED, N, 16, N>(g, 0);
    if (rung == 5) wkv7_chunk_backward<WKV7_MODE, N, 32, N / 2>(g, 0);
#ifdef CUDA_CPU
    if (rung == 6) wkv7_chunk_backward<WKV7_MODE, N, 64, N / 2>(g, 0);
    if (rung == 2) wkv7_backward(g, 0);
#endif
    launchCheck();
}

// ------------------------------------------------------------------------------------------------
// A problem with random inputs, and what it should give

constexpr int PARTS = 9;
static const char *part_name[PARTS] = {"y", "state", "dr", "dw", "dk", "dv", "da", "db", "dstate"};
typedef std::array<std::vector<double>, PARTS> Results;
enum { R, W, K, V, A, Bv, DY, Y, DR, DW, DK, DV, DA, DB, TENSORS };  // (B,T,H,N) each; the first seven are inputs

struct Problem : DeviceBuffers {
    Wkv7Case<double> c;
    std::vector<double> dy, dstate_out;
    Wkv7BackwardArgs g = {};
    Scratch s = {};
    floatX *tensor[TENSORS];
    real *din;

    Problem(int B, int T, int H, double decay, bool literal, uint64_t seed) : c{B, T, H, N, {}, {}, {}, {}, {}, {}, {}, {}} {
        Rng rng{seed, 0, 0};
        const int64_t n = (int64_t)B * T * H * N, states = wkv7_state_count(B, H, N);
        std::vector<double> *in[7] = {&c.r, &c.w, &c.k, &c.v, &c.a, &c.b, &dy};
        for (auto *x : in) *x = random_numbers(n, [&] { return rng.normal(); });
        for (double &e : c.w) e = decay + e;
        for (int64_t at = 0; at < n; at += N) {  // a = minus a direction, b = that direction times a gate
            double size = 0;
            for (int j = 0; j < N; j++) size += c.a[at + j] * c.a[at + j];
            for (int j = 0; j < N; j++) c.a[at + j] /= -sqrt(size), c.b[at + j] = -c.a[at + j] / (1 + exp(-c.b[at + j]));
        }
        for (auto *x : {&c.state_in, &dstate_out}) *x = random_numbers(states, [&] { return rng.normal(); });
        for (int i = 0; i < TENSORS; i++) tensor[i] = i < 7 ? upload<floatX>(*in[i]) : room<floatX>(n);
        g.f = {tensor[Y], tensor[R], tensor[W], tensor[K], tensor[V], tensor[A], tensor[Bv], room<real>(wkv7_kept_count(B, T, H, N)),
               room<real>(std::max((int64_t)2 * 5 * n, wkv7_scratch_count(B, T, H, N))), upload<real>(c.state_in), room<real>(states), nullptr, B, T, H, N};
        g.dy = tensor[DY], g.dr = tensor[DR], g.dw = tensor[DW], g.dk = tensor[DK], g.dv = tensor[DV], g.da = tensor[DA], g.db = tensor[DB];
        g.dstate_out = upload<real>(dstate_out), g.dstate_in = din = room<real>(states);
        if (literal) s = {room<real>((int64_t)(T + 1) * states), room<real>(n)};
    }
    Results expected() const {
        Results r;
        Wkv7Gradients<double> d;
        wkv7_forward_reference(r[0], r[1], c), wkv7_backward_reference(d, dy, dstate_out, c);
        r[2] = d.dr, r[3] = d.dw, r[4] = d.dk, r[5] = d.dv, r[6] = d.da, r[7] = d.db, r[8] = d.dstate_in;
        return r;
    }
    Results run(int rung) const {
        const int64_t n = (int64_t)c.B * c.T * c.H * N, states = wkv7_state_count(c.B, c.H, N);
        for (int i = Y; i < TENSORS; i++) cudaCheck(cudaMemset(tensor[i], 0xff, n * sizeof(floatX)));
        forward(rung, g.f, s), backward(rung, g, s);
        return {get(tensor[Y], n), get(g.f.state_out, states), get(g.dr, n), get(g.dw, n), get(g.dk, n), get(g.dv, n), get(g.da, n), get(g.db, n), get(din, states)};
    }
};

// Limits: rounding of the results to floatX, or of operands to tf32 (2^-12, about 1.4 times for a product); dw is a difference of sums
static bool check(int rung) {
#ifdef CUDA_CPU
    constexpr double fp32 = 2e-6;
#else
    constexpr double fp32 = 5e-6;  // tensor cores cut the last bits of a sum off
#endif
    constexpr double rounding = sizeof(floatX) == 8 ? 1e-12 : sizeof(floatX) == 4 ? fp32 : std::is_same<floatX, __half>::value ? 1e-3 : 5e-3;
    bool good = true;
    for (double decay : {-20., -3., 20.}) {
        double most[PARTS] = {}, limit = rung == 4 ? std::max(rounding, 1e-3 * (sizeof(real) == 4)) : rounding;
        for (int T : {1, 2, 15, 16, 17, 63, 65, 257}) {
            if (T > 65 && decay != -3) continue;
            Problem p(T > 65 ? 1 : 2, T, 1, decay, rung == 1, 1000 * T);
            Results want = p.expected(), got = p.run(rung);
            for (int i = 0; i < PARTS; i++) {
                double e = relative_error(got[i], want[i]);
                most[i] = e <= most[i] ? most[i] : e;
                if (e <= limit) continue;
                printf("FAIL  rung %d, T %d, w around %g: %s has relative error %.2e, limit %.1e\n", rung, T, decay, part_name[i], e, limit);
                good = false;
            }
        }
        printf("| %s | %s |", rung_name[rung], decay < -10 ? "none" : decay > 10 ? "strongest" : "usual");
        for (double e : most) printf(" %.1e |", e);
        printf("\n");
    }
    return good;
}

// ------------------------------------------------------------------------------------------------
// Times

static void time_shape(int B, int T, int H, int only) {
    const int64_t n = (int64_t)B * T * H * N;
    const bool literal = n * N * sizeof(real) < (int64_t)8 << 30;
    int sets = std::min<int64_t>(4, 1 + 2 * (int64_t)device().l2CacheSize / (14 * n * sizeof(floatX)));
    std::vector<std::unique_ptr<Problem>> problems;
    for (int i = 0; i < sets; i++) problems.emplace_back(new Problem(B, T, H, -3, literal, i));
    for (int rung = only ? only : 1; rung <= (only ? only : RUNGS); rung++) {
        if (!exists(rung) || (rung == 1 && !literal)) continue;
#ifdef CUDA_CPU
        if (rung > 2) continue;              // there a product is a meeting of 32 fibers: to be checked, not to be fast
#endif
        double us[2] = {median_us([&](int i) { Problem &p = *problems[i % sets]; forward(rung, p.g.f, p.s); }, 100),
                        median_us([&](int i) { Problem &p = *problems[i % sets]; backward(rung, p.g, p.s); }, 100)};
        printf("| %d,%d,%d | %s |", B, T, H, rung_name[rung]);
        for (int d = 0; d < 2; d++) printf(" %.0f | %.1f |", us[d], (d ? 13 : 7) * sizeof(floatX) * n / us[d] / 1000);
        printf("\n");
        fflush(stdout);
    }
}

// ------------------------------------------------------------------------------------------------
// 7: with what surrounds it. Bytes that cannot be avoided: r k v wl al vl v_first g -> out, y; those without y, dout, y ->
// dr dk dv dwl dal dvl dg and dv_first in fp32

constexpr int FUSED = 7;
static const char *surrounded_name[] = {"the shipped rung, kernels around it", "7 fused"};
static const char *input_name[GATED_INPUTS] = {"dr", "dk", "dv", "dwl", "dal", "dvl", "dv_first", "dg"};
static bool check_fused() {
    constexpr double limit = sizeof(floatX) == 8 ? 1e-11 : sizeof(floatX) == 4 ? 8e-6 : 2e-2;
    bool good = true;
    printf("| | out | state |");
    for (const char *name : input_name) printf(" %s |", name);
    printf(" of vectors |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (bool fused : {false, true}) {
        std::vector<double> most(GATED_INPUTS + 3);
        for (int T : {1, 17, 65}) {
            GatedProblem p(1, T, 1, N, false, T);
            GatedResults want = gated_reference(p.c), got = p.run(fused);
            std::vector<double> e = {relative_error(got.out, want.out), relative_error(got.state_out, want.state_out)};
            for (int i = 0; i < GATED_INPUTS; i++) e.push_back(relative_error(got.din[i], want.din[i]));
            double vectors = 0;
            for (int i = 0; i < GATED_VECTORS; i++) { double x = relative_error(got.dvector[i], want.dvector[i]); vectors = x <= vectors ? vectors : x; }
            e.push_back(vectors);
            for (size_t i = 0; i < e.size(); i++) most[i] = e[i] <= most[i] ? most[i] : e[i], good = good && e[i] <= limit;
        }
        printf("| %s |", surrounded_name[fused]);
        for (double e : most) printf(" %.1e |", e);
        printf("\n");
    }
    if (!good) printf("FAIL  an error above %.1e\n", limit);
    return good;
}
[[maybe_unused]] static void time_fused(int B, int T, int H) {
    const int64_t n = (int64_t)B * T * H * N;
    int sets = std::min<int64_t>(3, 1 + 2 * (int64_t)device().l2CacheSize / (20 * n * sizeof(floatX)));
    std::vector<std::unique_ptr<GatedProblem>> problems;
    for (int i = 0; i < sets; i++) problems.emplace_back(new GatedProblem(B, T, H, N, false, i));
    for (bool fused : {false, true}) {
        double us[2] = {median_us([&](int i) { problems[i % sets]->forward(fused); }, 100), median_us([&](int i) { problems[i % sets]->backward(fused); }, 100)};
        printf("| %d,%d,%d | %s |", B, T, H, surrounded_name[fused]);
        for (int d = 0; d < 2; d++) printf(" %.0f | %.1f |", us[d], n * (d ? 17 * sizeof(floatX) + sizeof(real) : 10 * sizeof(floatX)) / us[d] / 1000);
        printf("\n");
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    return run_main([&] {
        const auto [checked, timed, only] = ladder_arguments(argc, argv, "ladder_wkv7", FUSED);
        if (only && (only == FUSED ? !wkv7_fused_fits(N) : !exists(only))) fail("rung %d does not exist on this device in " PRECISION_NAME, only);
        bool good = true, bare = only != FUSED, fused = wkv7_fused_fits(N) && (!only || only == FUSED);
        if (checked) {
            printf("Relative L2 error against fp64, " PRECISION_NAME " on %s: the worst over T of 1 to 65 (usual decays: 257)\n\n", device().name);
            if (bare) {
                printf("| rung | decay |");
                for (const char *name : part_name) printf(" %s |", name);
                printf("\n|---|---|---|---|---|---|---|---|---|---|---|\n");
                for (int rung = only ? only : 1; rung <= (only ? only : RUNGS); rung++) if (exists(rung)) good = check(rung) && good;
                printf("\n");
            }
            if (fused) good = check_fused() && good, printf("\n");
        }
        if (timed && good) {
            printf(PRECISION_NAME " on %s\n\n| B,T,H | rung | forward us | GB/s | backward us | GB/s |\n|---|---|---|---|---|---|\n", device().name);
#ifdef CUDA_CPU
            if (bare) time_shape(4, 64, 4, only);  // products are slow there: nothing of 7 is to be learnt
#else
            for (auto [B, T, H] : {std::array<int, 3>{16, 512, 12}, {8, 1024, 12}, {8, 1024, 32}, {8, 4096, 64}}) {
                size_t free, total;
                cudaCheck(cudaMemGetInfo(&free, &total));
                if (free < 45 * sizeof(floatX) * B * T * H * N) { printf("| %d,%d,%d | does not fit %s | | | | |\n", B, T, H, device().name); continue; }
                if (bare) time_shape(B, T, H, only);
                if (fused) time_fused(B, T, H);
            }
#endif
        }
        return good ? 0 : 1;
    });
}
