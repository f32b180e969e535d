/* tests/wkv7.h: the recurrence of RWKV-7 (rwkv/wkv7.h) against the plain statement in fp64
   (dev/kernels/wkv7/reference.h), against finite differences, and against itself. */
#pragma once
#include "test.h"
#include "../rwkv/wkv7.h"
#include "../rwkv/rng.h"
#include "../dev/kernels/wkv7/gated.h"

constexpr int WKV7_PARTS = 9;
static const char *wkv7_part[WKV7_PARTS] = {"y", "state_out", "dr", "dw", "dk", "dv", "da", "db", "dstate_in"};
typedef std::vector<double> Wkv7Results[WKV7_PARTS];

// A problem as a model makes it: a is minus a direction, b that direction times a gate. decay: what w is around;
// large: none (-20: 1 - e^l < 2^-24), strongest (+20), NAN: anything between.
struct Wkv7Problem : Wkv7Case<double> {
    std::vector<double> dy, dstate_out;
    Wkv7Problem(int B, int T, int H, int N, double decay = NAN, bool state = true, bool resets = false, uint64_t seed = 5) : Wkv7Case<double>{B, T, H, N, {}, {}, {}, {}, {}, {}, {}, {}} {
        Rng rng{seed, 0, 0};
        size_t n = (size_t)B * T * H * N;
        for (std::vector<double> *x : {&r, &w, &k, &v, &a, &b, &dy}) { x->resize(n); for (double &e : *x) e = rng.normal(); }
        for (double &e : w) e = decay == decay ? decay + 0.5 * e : -3 + 4 * e;
        for (size_t at = 0; at < n; at += N) {
            double size = 0;
            for (int j = 0; j < N; j++) size += a[at + j] * a[at + j];
            for (int j = 0; j < N; j++) a[at + j] /= -sqrt(size), b[at + j] = -a[at + j] / (1 + exp(-b[at + j]));
        }
        if (state) for (std::vector<double> *x : {&state_in, &dstate_out}) { x->resize((size_t)B * H * N * N); for (double &e : *x) e = (double)(float)rng.normal(); }
        if (resets) { reset.resize((size_t)B * T); for (uint8_t &e : reset) e = rng.uniform() < 0.15; reset[0] = 1; }
    }
    // what a kernel sees: inputs rounded to floatX
    void round() { for (std::vector<double> *x : {&r, &w, &k, &v, &a, &b, &dy}) for (double &e : *x) e = (double)(real)(floatX)(float)e; }
    void reference(Wkv7Results out) const {
        Wkv7Gradients<double> g;
        wkv7_forward_reference(out[0], out[1], *this);
        wkv7_backward_reference(g, dy, dstate_out, *this);
        out[2] = g.dr, out[3] = g.dw, out[4] = g.dk, out[5] = g.dv, out[6] = g.da, out[7] = g.db, out[8] = g.dstate_in;
    }
};

// Runs forward and backward on the device; outputs start as NaN, so that what a kernel does not write is seen.
template<class T> static std::vector<T> wkv7_rounded(const std::vector<double> &x) {
    std::vector<T> y(x.size());
    for (size_t i = 0; i < x.size(); i++) y[i] = sizeof(T) == 8 ? (T)x[i] : (T)(float)x[i];
    return y;
}
template<class T> static std::vector<double> wkv7_wide(const DeviceArray<T> &x) {
    std::vector<double> y;
    for (T e : x.get()) y.push_back((double)(real)e);
    return y;
}
// What ships, and the chunks of the GPU on any device. V: value channels of a block in backward; slices: blocks of a head in forward
struct Wkv7Kernel {
    void (*forward)(const Wkv7Args &);
    void (*backward)(const Wkv7BackwardArgs &);
    int64_t (*scratch)(const Wkv7Args &);
};
static const Wkv7Kernel wkv7_shipped = {[](const Wkv7Args &f) { wkv7_forward(f, 0); }, [](const Wkv7BackwardArgs &g) { wkv7_backward(g, 0); },
                                        [](const Wkv7Args &f) { return wkv7_scratch_count(f.B, f.T, f.H, f.N); }};
template<Wkv7Mode MODE, int N, int L, int V = N, int SLICES = 1> static constexpr Wkv7Kernel wkv7_chunks = {
    [](const Wkv7Args &f) { wkv7_chunk_forward<MODE, N, L>(f, SLICES, 0); }, [](const Wkv7BackwardArgs &g) { wkv7_chunk_backward<MODE, N, L, V>(g, 0); },
    [](const Wkv7Args &f) { return wkv7_slice_count(f.B, f.T, f.H, f.N, V); }};
struct Wkv7Run {
    DeviceArray<floatX> r, w, k, v, a, b, dy, y, dr, dw, dk, dv, da, db;
    DeviceArray<real> state_in, state_out, dstate_out, dstate_in;
    DeviceArray<uint8_t> reset;
    Wkv7BackwardArgs x;
    explicit Wkv7Run(const Wkv7Problem &p) : r(wkv7_rounded<floatX>(p.r)), w(wkv7_rounded<floatX>(p.w)), k(wkv7_rounded<floatX>(p.k)), v(wkv7_rounded<floatX>(p.v)),
            a(wkv7_rounded<floatX>(p.a)), b(wkv7_rounded<floatX>(p.b)), dy(wkv7_rounded<floatX>(p.dy)), y(r.n), dr(r.n), dw(r.n), dk(r.n), dv(r.n), da(r.n), db(r.n),
            state_in(wkv7_rounded<real>(p.state_in)),
            state_out(wkv7_state_count(p.B, p.H, p.N)), dstate_out(wkv7_rounded<real>(p.dstate_out)), dstate_in(state_out.n), reset(p.reset) {
        Wkv7Args f = {y.p, r.p, w.p, k.p, v.p, a.p, b.p, nullptr, nullptr, p.state_in.empty() ? nullptr : state_in.p, state_out.p,
                      p.reset.empty() ? nullptr : reset.p, p.B, p.T, p.H, p.N};
        x = {f, dy.p, dr.p, dw.p, dk.p, dv.p, da.p, db.p, p.dstate_out.empty() ? nullptr : dstate_out.p, dstate_in.p};
    }
    void run(Wkv7Results out, const Wkv7Kernel &kernel) {
        int64_t n = wkv7_kept_count(x.f.B, x.f.T, x.f.H, x.f.N);  // enough for longer chunks too
        DeviceArray<real> states(n), scratch(kernel.scratch(x.f));
        x.f.states = states.p, x.f.scratch = scratch.p;
        for (DeviceArray<floatX> *a : {&y, &dr, &dw, &dk, &dv, &da, &db}) cudaCheck(cudaMemset(a->p, 0xff, a->n * sizeof(floatX)));
        for (DeviceArray<real> *a : {&states, &scratch, &state_out, &dstate_in}) cudaCheck(cudaMemset(a->p, 0xff, a->n * sizeof(real)));
        kernel.forward(x.f), kernel.backward(x);
        int i = 0;
        out[i++] = wkv7_wide(y), out[i++] = wkv7_wide(state_out);
        for (DeviceArray<floatX> *a : {&dr, &dw, &dk, &dv, &da, &db}) out[i++] = wkv7_wide(*a);
        out[i++] = wkv7_wide(dstate_in);
    }
};
// In fp32 2e-6 on the CPU; tensor cores cut the last bits of a sum off, where others round it: 2.6e-6 in an emulation
constexpr double WKV7_TOLERANCE = sizeof(floatX) == 8 ? 1e-12 : sizeof(floatX) == 4 ? (ON_GPU ? 5e-6 : 2e-6) : std::is_same<floatX, __half>::value ? 1e-3 : 5e-3;

static void wkv7_check(const Wkv7Problem &p, const char *what, const Wkv7Kernel &kernel = wkv7_shipped) {
    constexpr double underflow = std::is_same<floatX, __half>::value ? 3e-8 : 0;  // dw of a channel that does not decay is 1e-9
    Wkv7Results got, want;
    p.reference(want);
    try { Wkv7Run(p).run(got, kernel); }
    catch (const Error &e) {  // large heads and chunks on a small GPU, as a user would meet it
        if (ON_GPU && strstr(e.what(), "bytes of shared memory")) return (void)printf("note: %s: %s\n", what, e.what());
        throw;
    }
    for (int i = 0; i < WKV7_PARTS; i++) {
        double e = relative_error(got[i], want[i]);
        double size = 0;
        for (double x : want[i]) size += x * x;
        if (size > 0) e -= underflow * sqrt(want[i].size() / size);
        CHECK(e <= WKV7_TOLERANCE, "%s, B %d T %d H %d N %d: %s has relative error %.2e, limit %.1e", what, p.B, p.T, p.H, p.N, wkv7_part[i], e, WKV7_TOLERANCE);
    }
}
TEST("wkv7: result, state and all gradients = the recurrence in fp64, at odd lengths and head sizes") {
    for (int T : {1, 2, 15, 16, 17, 63, 65, 257})
        for (int N : {16, 32, 64, 96, 128}) {
            if (T > 65 && N > 64) continue;
            Wkv7Problem p(T < 20 ? 2 : 1, T, N < 64 ? 2 : 1, N);
            p.round();
            wkv7_check(p, "usual decays");
        }
}
TEST("wkv7: with decays from none to the strongest, resets, without a state: all gradients = fp64") {
    for (double decay : {-20., 0., 20.})
        for (int N : {16, 64})
            for (bool state : {false, true}) {
                Wkv7Problem p(2, 53, 2, N, decay, state, !state);
                p.round();
                wkv7_check(p, format("w around %g, %s", decay, state ? "a state" : "resets").c_str());
            }
    for (double decay : {-INFINITY, INFINITY}) {  // sigmoid 0 and 1: finite, and no gradient
        Wkv7Problem p(1, 33, 1, 32, 0);
        p.w.assign(p.w.size(), decay), p.round();
        wkv7_check(p, "infinite w");
    }
}

// The kernels of the GPU, which the CPU runs with the arithmetic of tf32 when floatX has 16 bits
TEST("wkv7: chunks of 16, at odd lengths, head sizes, slices of value channels: all gradients = fp64") {
    for (int T : {1, 2, 15, 16, 17, 63, 65}) {
        Wkv7Problem p(2, T, 2, 16), q(1, T, 1, 64, NAN, true, T > 60);
        p.round(), q.round();
        wkv7_check(p, "half of 32", wkv7_chunks<WKV7_MODE, 32, 16>), wkv7_check(q, "chunks", wkv7_chunks<WKV7_MODE, 64, 16>);
    }
    Wkv7Problem p(1, 257, 1, 32), q(2, 37, 1, 64, NAN, true, true), r(1, 33, 1, 48), s(1, 33, 1, 112), t(1, 33, 1, 128);
    for (Wkv7Problem *x : {&p, &q, &r, &s, &t}) x->round();
    wkv7_check(p, "chunks", wkv7_chunks<WKV7_MODE, 32, 16>);
    wkv7_check(q, "two slices", wkv7_chunks<WKV7_MODE, 64, 16, 32, 2>);
    wkv7_check(r, "two slices, padded", wkv7_chunks<WKV7_MODE, 64, 16, 32, 4>);
    if (sizeof(real) == 8) return;  // heads of 128 do not fit shared memory
    wkv7_check(s, "four slices, padded", wkv7_chunks<WKV7_MODE, 128, 16, 32, 4>);
    wkv7_check(t, "four slices", wkv7_chunks<WKV7_MODE, 128, 16, 32>);
}
TEST("wkv7: chunks of 32 and 64 = fp64, with decays from none to the strongest") {
    for (double decay : {-20., -3., 20.})
        for (bool state : {false, true}) {
            Wkv7Problem p(1, 77, 1, 64, decay, state, !state), q(1, 140, 2, 16, decay, state, !state);
            p.round(), q.round();
            wkv7_check(p, "16", wkv7_chunks<WKV7_MODE, 64, 16>);
            if (sizeof(real) == 8) continue;
            wkv7_check(p, "32", wkv7_chunks<WKV7_MODE, 64, 32, 32>), wkv7_check(q, "64", wkv7_chunks<WKV7_MODE, 32, 64>);
        }
}
TEST("wkv7: 16-bit kernels err at most twice as much as rounding the inputs does, for every gradient") {
    if (!has_master) SKIP("for bf16 and fp16");
    for (double decay : {-6., -2., 3.}) {  // memories of 660, 14 and 1.7 steps
        Wkv7Problem exact(1, 130, 1, 64, decay), p = exact;
        p.round();
        Wkv7Results truth, rounded, got;
        exact.reference(truth), p.reference(rounded);
        const Wkv7Kernel *kernels[] = {&wkv7_shipped, &wkv7_chunks<WKV7_MODE, 64, 16>};
        for (int k = 0; k < 2; k++) {
            Wkv7Run(p).run(got, *kernels[k]);
            for (int i = 0; i < WKV7_PARTS; i++) {
                double ours = relative_error(got[i], truth[i]), inputs = relative_error(rounded[i], truth[i]);
                CHECK(ours <= 2 * inputs, "kernel %d, w around %g, %s: error %.2e, of rounding the inputs %.2e", k, decay, wkv7_part[i], ours, inputs);
            }
        }
    }
}
static void wkv7_same(const Wkv7Results a, const Wkv7Results b, const char *what) {
    for (int i = 0; i < WKV7_PARTS; i++) {
        double e = relative_error(a[i], b[i]);
        CHECK(e <= WKV7_TOLERANCE, "%s: %s differs by %.2e, limit %.1e", what, wkv7_part[i], e, WKV7_TOLERANCE);
    }
}
// Steps from .. to of x, and what the whole run says of them
static std::vector<double> wkv7_steps(const Wkv7Problem &p, const std::vector<double> &x, int from, int to) {
    std::vector<double> y;
    for (int s = 0; s < p.B; s++) y.insert(y.end(), x.begin() + p.at(s, from, 0), x.begin() + p.at(s, from, 0) + (size_t)(to - from) * p.H * p.N);
    return y;
}
static Wkv7Problem wkv7_piece(const Wkv7Problem &p, int from, int to) {
    Wkv7Problem q = p;
    q.T = to - from;
    for (auto x : {&Wkv7Problem::r, &Wkv7Problem::w, &Wkv7Problem::k, &Wkv7Problem::v, &Wkv7Problem::a, &Wkv7Problem::b}) q.*x = wkv7_steps(p, p.*x, from, to);
    q.dy = wkv7_steps(p, p.dy, from, to);
    if (!p.reset.empty()) {
        q.reset.clear();
        for (int s = 0; s < p.B; s++) q.reset.insert(q.reset.end(), p.reset.begin() + s * p.T + from, p.reset.begin() + s * p.T + to);
    }
    return q;
}
static void wkv7_two_pieces(const Wkv7Kernel &kernel, int cut) {
    const int T = 45;
    Wkv7Problem p(2, T, 2, 16, NAN, true, true);
    p.round();
    Wkv7Results whole, one, two, joined;
    Wkv7Run(p).run(whole, kernel);
    Wkv7Problem first = wkv7_piece(p, 0, cut), second = wkv7_piece(p, cut, T);
    Wkv7Run(first).run(one, kernel);
    second.state_in = one[1];
    Wkv7Run(second).run(two, kernel);
    first.dstate_out = two[8];
    Wkv7Run(first).run(one, kernel);
    for (int i = 0; i < WKV7_PARTS; i++) {
        if (i == 1 || i == 8) { joined[i] = i == 1 ? two[i] : one[i]; continue; }
        for (int s = 0; s < 2; s++) {
            size_t n = (size_t)cut * 32, m = (size_t)(T - cut) * 32;
            joined[i].insert(joined[i].end(), one[i].begin() + s * n, one[i].begin() + (s + 1) * n);
            joined[i].insert(joined[i].end(), two[i].begin() + s * m, two[i].begin() + (s + 1) * m);
        }
    }
    wkv7_same(joined, whole, format("cut at %d", cut).c_str());
}
TEST("wkv7: in two pieces with the state and its gradient carried = in one piece") {
    for (int cut : {1, 16, 21, 44}) wkv7_two_pieces(wkv7_shipped, cut);
    wkv7_two_pieces(wkv7_chunks<WKV7_MODE, 32, 16>, 21);
}
TEST("wkv7: with resets, packed documents = each document alone") {
    Wkv7Problem p(1, 50, 2, 16, NAN, true);
    p.round();
    p.reset.assign(50, 0);
    int starts[] = {0, 7, 8, 24, 41, 50};
    for (int i = 1; i < 5; i++) p.reset[starts[i]] = 1;
    for (const Wkv7Kernel *kernel : {&wkv7_shipped, &wkv7_chunks<WKV7_MODE, 32, 16>}) {
        Wkv7Results packed, alone;
        Wkv7Run(p).run(packed, *kernel);
        for (int d = 0; d < 5; d++) {
            Wkv7Problem q = wkv7_piece(p, starts[d], starts[d + 1]);
            q.reset.clear();
            if (d) q.state_in.clear();
            if (d < 4) q.dstate_out.clear();
            Wkv7Run(q).run(alone, *kernel);
            for (int i = 0; i < WKV7_PARTS; i++) {
                std::vector<double> want = i == 1 || i == 8 ? packed[i] : wkv7_steps(p, packed[i], starts[d], starts[d + 1]);
                if ((i == 1 && d < 4) || (i == 8 && d)) continue;  // the state after the last, the gradient before the first
                double e = relative_error(alone[i], want);
                CHECK(e <= WKV7_TOLERANCE, "document %d: %s differs by %.2e", d, wkv7_part[i], e);
            }
        }
    }
}
TEST("wkv7: the same inputs give the same bits") {
    Wkv7Problem p(2, 53, 2, 64, NAN, true, true);
    for (const Wkv7Kernel *kernel : {&wkv7_shipped, &wkv7_chunks<WKV7_MODE, 64, 16, 32, 2>}) {
        Wkv7Results a, b;
        Wkv7Run(p).run(a, *kernel), Wkv7Run(p).run(b, *kernel);
        for (int i = 0; i < WKV7_PARTS; i++) CHECK(a[i] == b[i], "%s", wkv7_part[i]);
    }
}
TEST("wkv7: 2000 steps of any decay and of large keys stay finite and right") {
    for (double decay : {-30., 0., 30.}) {
        Wkv7Problem p(1, 2000, 1, 16, decay);
        const double large = std::is_same<floatX, __half>::value ? 3 : 100;  // y grows with its square, and fp16 ends at 65504
        for (double &e : p.k) e *= large;
        for (double &e : p.v) e *= large;
        p.round();
        wkv7_check(p, "long");
    }
}
// ------------------------------------------------------------------------------------------------
// with gates, norm and bonus

static void gated_check(const GatedResults &got, const GatedResults &want, const char *what, double limit) {
    auto one = [&](const std::vector<double> &a, const std::vector<double> &b, const char *name, int i) {
        double e = relative_error(a, b);
        CHECK(e <= limit, "%s: %s %d has relative error %.2e, limit %.1e", what, name, i, e, limit);
    };
    one(got.out, want.out, "out", 0), one(got.state_out, want.state_out, "state", 0), one(got.dstate_in, want.dstate_in, "dstate", 0);
    for (int i = 0; i < GATED_INPUTS; i++) one(got.din[i], want.din[i], "gradient of input", i);
    for (int i = 0; i < GATED_VECTORS; i++) one(got.dvector[i], want.dvector[i], "gradient of vector", i);
}
TEST("wkv7: gates, norm and bonus, in kernels of their own and inside: all gradients = fp64") {
    for (int T : {1, 15, 16, 17, 37})
        for (int N : {16, 32, 48, 64})
            for (bool first_layer : {false, true}) {
                if (first_layer && T != 17) continue;
                GatedProblem p(2, T, N < 48 ? 2 : 1, N, first_layer, T + N);
                GatedResults want = gated_reference(p.c);
                for (bool fused : {false, true})
                    if (!fused || wkv7_fused_fits(N)) gated_check(p.run(fused), want, format("%s, T %d N %d%s", fused ? "inside" : "around", T, N, first_layer ? ", first layer" : "").c_str(), 4 * WKV7_TOLERANCE);
            }
}
#ifdef PRECISION_FP64
static void wkv7_finite_differences(const Wkv7Kernel &kernel) {
    Wkv7Problem p(1, 19, 1, 16, NAN, true);
    p.reset.assign(19, 0), p.reset[11] = 1;
    auto loss = [&] {
        Wkv7Results out;
        Wkv7Run(p).run(out, kernel);
        double l = 0;
        for (size_t i = 0; i < p.dy.size(); i++) l += out[0][i] * p.dy[i];
        for (size_t i = 0; i < p.dstate_out.size(); i++) l += out[1][i] * p.dstate_out[i];
        return l;
    };
    Wkv7Results g;
    Wkv7Run(p).run(g, kernel);
    struct { std::vector<double> *x; int part; } inputs[] = {{&p.r, 2}, {&p.w, 3}, {&p.k, 4}, {&p.v, 5}, {&p.a, 6}, {&p.b, 7}, {&p.state_in, 8}};
    for (auto &in : inputs)
        for (size_t i = 0; i < in.x->size(); i += 7) {  // 7 and 16 have no common factor: every channel
            double &x = (*in.x)[i], keep = x, h = 1e-4;
            x = keep + h;
            double up = loss();
            x = keep - h;
            double d = (up - loss()) / (2 * h);
            x = keep;
            CHECK(fabs(d - g[in.part][i]) <= 1e-6 * (1 + fabs(d)), "%s[%zu]: gradient %.10g, difference quotient %.10g", wkv7_part[in.part], i, g[in.part][i], d);
        }
}
TEST("wkv7: every gradient = finite differences") {
    wkv7_finite_differences(wkv7_shipped);
    wkv7_finite_differences(wkv7_chunks<WKV7_EXACT, 32, 16>);
}
#endif
