/* tests/attention.h: rwkv/attention.h against the definition in fp64, and what must hold by itself: causality, batch rows,
   cache = no cache, the same bits twice, dropout that forward and backward agree on. */
#pragma once
#include "model.h"
#include "../dev/kernels/attention/reference.h"

// Relative to the largest element. fp32: sums of up to 257 products and exponentials of 2 ulp. 16 bit: p and ds are rounded
// before the second product (eps 4e-3, 5e-4), as is the result; errors of ds grow by what cancels in dp - D.
constexpr double ATTENTION_TOLERANCE = sizeof(floatX) == 8 ? 1e-12 : sizeof(floatX) == 4 ? 1e-5 : std::is_same<floatX, __half>::value ? 3e-3 : 2e-2;

#if defined(CPU_SHAPES) && (defined(PRECISION_BF16) || defined(PRECISION_FP16))
#define TEST_TENSOR                           // the CPU has two sets of kernels for 16-bit types
static const std::vector<bool> attention_paths = {false, true};
#else
static const std::vector<bool> attention_paths = {false};
#endif

static std::vector<floatX> attention_random(int64_t n, uint64_t seed, double size = 1) {
    Rng rng{seed, 77, 0};
    std::vector<floatX> v(n);
    for (floatX &e : v) e = (floatX)(real)(size * rng.normal());
    return v;
}
template<class T> static std::vector<double> attention_wide(const std::vector<T> &v) {
    std::vector<double> w;
    for (T e : v) w.push_back((double)(real)e);
    return w;
}

// Buffers of a case, filled with NaN where the kernels should write
struct AttentionRig {
    AttentionCase c;
    DeviceArray<floatX> qkv, out, dout, dqkv;
    DeviceArray<real> lse, scratch;
    DeviceArray<uint64_t> draw;
    AttentionArgs a;

    explicit AttentionRig(const AttentionCase &c, double size = 1) : c(c), qkv(attention_random(3 * c.B * c.T * c.C(), 1, size)), out(c.B * c.T * c.C()), dout(attention_random(c.B * c.T * c.C(), 2)),
        dqkv(3 * c.B * c.T * c.C()), lse((int64_t)c.B * c.H * c.T), scratch(attention_scratch(c.B, c.T, c.H)), draw(std::vector<uint64_t>{5}) {
        a = {qkv.p, qkv.p + c.at(1, 0, 0, 0, 0), qkv.p + c.at(2, 0, 0, 0, 0), c.row(), out.p, lse.p, c.B, c.T, c.H, c.D, real(1 / sqrt((double)c.D))};
        a.dropout = c.dropout, a.draw = draw.p, a.layer = 3;
        for (auto *x : {&out, &dqkv}) cudaCheck(cudaMemset(x->p, 0xff, x->n * sizeof(floatX)));
    }
    floatX *grad(int which) { return dqkv.p + c.at(which, 0, 0, 0, 0); }
    // tensor: on the CPU too, with the kernels that 16-bit types use on a GPU
    void run(bool tensor) {
#ifdef TEST_TENSOR
        AttentionBackwardArgs g = {a, dout.p, scratch.p, grad(0), grad(1), grad(2)};
        if (tensor) return attention_forward_tensor(a, 0), attention_delta(g, 0), attention_backward_tensor(g, 0);
#endif
        (void)tensor, forward(), backward();
    }
    void forward() { attention_forward(a, 0); }
    void backward() { attention_backward(a, dout.p, grad(0), grad(1), grad(2), scratch.p, 0); }
    AttentionResult want(const std::vector<uint8_t> &kept = {}) { return attention_reference(c, attention_wide(qkv.get()), attention_wide(dout.get()), kept); }
};
static void attention_check_part(const AttentionCase &c, const char *what, const std::vector<double> &got, const std::vector<double> &want, double tolerance) {
    int64_t at = 0;
    double error = worst(got.data(), want.data(), got.size(), &at);
    CHECK(error <= tolerance, "%s at B %d T %d H %d D %d %s: error %.2e, limit %.2e; worst at element %lld: expected %.8g, got %.8g", what, c.B, c.T, c.H, c.D,
          c.packed ? "packed" : "apart", error, tolerance, (long long)at, want[at], got[at]);
}
static void attention_compare(AttentionRig &rig, const AttentionResult &want) {
    const AttentionCase &c = rig.c;
    attention_check_part(c, "out", attention_wide(rig.out.get()), want.out, ATTENTION_TOLERANCE);
    attention_check_part(c, "lse", attention_wide(rig.lse.get()), want.lse, sizeof(real) == 8 ? 1e-12 : 1e-5);
    attention_check_part(c, "dq, dk, dv", attention_wide(rig.dqkv.get()), want.dqkv, 2 * ATTENTION_TOLERANCE);
}
static void attention_compare(const AttentionCase &c, bool tensor) {
    AttentionRig rig(c);
    rig.run(tensor);
    attention_compare(rig, rig.want());
}

TEST("attention: forward and backward as defined, any T") {
    for (int T : {1, 2, 15, 16, 17, 63, 65, 257})
        for (int D : {12, 64}) for (bool tensor : attention_paths) attention_compare({2, T, 2, D, T % 2 == 0}, tensor);
}
TEST("attention: forward and backward as defined, any head size") {
    for (int D : {2, 12, 14, 16, 24, 32, 48, 64, 80, 96, 128})
        for (int T : {17, 66}) for (bool tensor : attention_paths) attention_compare({1, T, 2, D, D % 4 == 0}, tensor);
}

TEST("attention: a far key with a large score takes it all, and nothing overflows") {
    AttentionRig rig({1, 130, 1, 16, false}, 20);  // scores of hundreds
    rig.forward(), rig.backward();
    AttentionResult want = rig.want();
    attention_check_part(rig.c, "out", attention_wide(rig.out.get()), want.out, 20 * ATTENTION_TOLERANCE);
    attention_check_part(rig.c, "dq, dk, dv", attention_wide(rig.dqkv.get()), want.dqkv, 50 * ATTENTION_TOLERANCE);
}
static bool same_bits(const floatX *a, const floatX *b, int64_t n) { return !memcmp(a, b, n * sizeof(floatX)); }

TEST("attention: causal: what comes later changes no bit") {
    for (bool tensor : attention_paths) {
        AttentionCase c = {1, 150, 2, 24, true};
        AttentionRig rig(c), other(c);
        std::vector<floatX> x = rig.qkv.get();
        int cut = 70;  // tokens from here on are others
        std::vector<floatX> noise = attention_random(x.size(), 9, 3);
        std::copy(noise.begin() + cut * c.row(), noise.end(), x.begin() + cut * c.row());
        other.qkv.set(x);
        rig.run(tensor), other.run(tensor);
        CHECK(same_bits(rig.out.get().data(), other.out.get().data(), cut * c.C()), "outputs before token %d differ", cut);
        CHECK(!same_bits(rig.out.get().data(), other.out.get().data(), (cut + 1) * c.C()), "token %d makes no difference", cut);
        std::vector<floatX> d = rig.dout.get();  // no gradient from token cut on: none arrives there
        std::fill(d.begin() + cut * c.C(), d.end(), (floatX)(real)0);
        rig.dout.set(d), rig.run(tensor);
        std::vector<floatX> g = rig.dqkv.get();
        for (int64_t i = cut * c.row(); i < (int64_t)g.size(); i++) CHECK((real)g[i] == 0, "element %lld is %g", (long long)i, (double)(real)g[i]);
    }
}
TEST("attention: a sequence does not see its neighbours in the batch") {
    for (bool tensor : attention_paths) {
        AttentionCase one = {1, 67, 3, 16, true}, two = {2, 67, 3, 16, true};
        AttentionRig a(two), b(one);
        int64_t n = 67 * one.C();
        std::vector<floatX> x = a.qkv.get(), d = a.dout.get();
        b.qkv.set({x.begin() + 3 * n, x.end()}), b.dout.set({d.begin() + n, d.end()});
        a.run(tensor), b.run(tensor);
        CHECK(same_bits(a.out.get().data() + n, b.out.get().data(), n), "out differs");
        CHECK(same_bits(a.dqkv.get().data() + 3 * n, b.dqkv.get().data(), 3 * n), "gradients differ");
    }
}
TEST("attention: twice the same bits") {
    for (bool tensor : attention_paths) {
        AttentionCase c = {2, 133, 2, 32, false, 0.3};
        AttentionRig a(c), b(c);
        a.run(tensor), b.run(tensor);
        CHECK(same_bits(a.out.get().data(), b.out.get().data(), a.out.n) && same_bits(a.dqkv.get().data(), b.dqkv.get().data(), a.dqkv.n), "two runs differ");
    }
}

// ------------------------------------------------------------------------------------------------
// Dropout

// The mask, seen from outside: with k = 0 every p is 1/(i+1), and with v_j the j-th unit vector out_i shows row i of it.
// 128 keys at a time, which is the largest head.
static std::vector<uint8_t> mask_seen(const AttentionCase &c, uint64_t draw, int layer, bool tensor = false) {
    std::vector<uint8_t> kept((size_t)c.B * c.H * c.T * c.T);
    AttentionCase wide = c;
    wide.D = 128, wide.packed = false;
    AttentionRig rig(wide);
    rig.draw.set({draw}), rig.a.layer = layer;
    for (int j0 = 0; j0 < c.T; j0 += 128) {
        std::vector<floatX> x(3 * wide.B * wide.T * wide.C(), (floatX)(real)0);
        for (int b = 0; b < c.B; b++) for (int h = 0; h < c.H; h++) for (int j = j0; j < std::min(c.T, j0 + 128); j++) x[wide.at(2, b, j, h, j - j0)] = (floatX)(real)1;
        rig.qkv.set(x);
#ifdef TEST_TENSOR
        if (tensor) attention_forward_tensor(rig.a, 0);
        else
#endif
        (void)tensor, rig.forward();
        std::vector<floatX> out = rig.out.get();
        for (int b = 0; b < c.B; b++) for (int h = 0; h < c.H; h++) for (int i = 0; i < c.T; i++) for (int j = j0; j < std::min(c.T, j0 + 128); j++) {
            double o = (real)out[((int64_t)b * c.T + i) * wide.C() + h * 128 + j - j0] * (i + 1) * (1 - c.dropout);
            CHECK(o == 0 || fabs(o - 1) < 0.01, "row %d, key %d: weighs %g of what it should", i, j, o);
            kept[(((size_t)b * c.H + h) * c.T + i) * c.T + j] = o != 0;
        }
    }
    return kept;
}
TEST("attention: dropout keeps its share, anew for every draw, layer, sequence and head") {
    AttentionCase c = {2, 200, 2, 128, false, 0.2};
    std::vector<uint8_t> a = mask_seen(c, 1, 0), again = mask_seen(c, 1, 0), draw = mask_seen(c, 2, 0), layer = mask_seen(c, 1, 1);
    CHECK(a == again, "the same draw gives another mask");
    size_t one = (size_t)c.T * c.T;
    auto agreement = [&](const uint8_t *x, const uint8_t *y, int dj) {  // share of (i,j) where both say the same
        double same = 0, n = 0;
        for (int i = 0; i < c.T; i++) for (int j = 0; j + dj <= i; j++) same += x[i * c.T + j] == y[i * c.T + j + dj], n++;
        return same / n;
    };
    double kept = 0, n = 0;
    for (int m = 0; m < 4; m++) for (int i = 0; i < c.T; i++) for (int j = 0; j <= i; j++) kept += a[m * one + i * c.T + j], n++;
    CHECK(fabs(kept / n - 0.8) < 5 * sqrt(0.16 / n), "kept %g of %g", kept, n);
    double chance = 0.8 * 0.8 + 0.2 * 0.2, limit = 5 * sqrt(chance * (1 - chance) / 20000);
    const uint8_t *base = a.data(), *others[] = {draw.data(), layer.data(), base + one, base + 2 * one};
    const char *names[] = {"draw", "layer", "head", "sequence"};
    for (int k = 0; k < 4; k++) CHECK(fabs(agreement(base, others[k], 0) - chance) < limit, "masks of another %s agree in %g", names[k], agreement(base, others[k], 0));
    for (int dj : {1, 8, 16}) CHECK(fabs(agreement(base, base, dj) - chance) < 1.5 * limit, "keys %d apart agree in %g", dj, agreement(base, base, dj));
}
static void attention_compare_dropout(const AttentionCase &c, bool tensor) {
    std::vector<uint8_t> kept = mask_seen(c, 5, 3, false);
    CHECK(!tensor || kept == mask_seen(c, 5, 3, true), "the tensor-core kernel has another mask");
    AttentionRig rig(c);
    rig.run(tensor);
    attention_compare(rig, rig.want(kept));
}
TEST("attention: dropout: backward has the mask of forward") {
    for (int D : {16, 64, 96}) for (bool tensor : attention_paths) attention_compare_dropout({2, 83, 2, D, true, 0.4}, tensor);
}
#ifdef PRECISION_FP64
TEST("attention: gradients are finite differences, with dropout") {
    AttentionRig rig({1, 37, 2, 12, true, 0.25});
    rig.forward(), rig.backward();
    std::vector<double> x = rig.qkv.get(), g = rig.dqkv.get(), d = rig.dout.get();
    auto loss = [&] {
        rig.qkv.set(x), rig.forward();
        std::vector<double> out = rig.out.get();
        double sum = 0;
        for (size_t i = 0; i < out.size(); i++) sum += out[i] * d[i];
        return sum;
    };
    for (size_t i = 0; i < x.size(); i += 17) {
        double keep = x[i], step = 1e-5, up, down;
        x[i] = keep + step, up = loss(), x[i] = keep - step, down = loss(), x[i] = keep;
        double slope = (up - down) / (2 * step);
        CHECK(fabs(slope - g[i]) <= 1e-7 * (1 + fabs(slope)), "element %zu: slope %.10g, gradient %.10g", i, slope, g[i]);
    }
}
#endif

// ------------------------------------------------------------------------------------------------
// The cache

TEST("attention: cached, a few or many tokens at a time = uncached") {
    for (int D : {12, 64, 128}) {
        AttentionCase c = {2, 600, 2, D, true};       // three chunks of keys
        AttentionRig rig(c);
        rig.forward();
        std::vector<floatX> want = rig.out.get(), got(want.size()), all = rig.qkv.get();
        int room = c.T + 5, turn = 0;
        DeviceArray<real> k(c.B * room * c.C()), v(c.B * room * c.C()), scratch(attention_cached_scratch(c.B, 40, c.H, c.D, room));
        for (auto *x : {&k, &v}) cudaCheck(cudaMemset(x->p, 0xff, x->n * sizeof(real)));  // NaN where no token is yet
        DeviceArray<int> past(1);
        for (int at = 0, n; at < c.T; at += n) {
            const int sizes[] = {1, 40, 3, CACHE_QUERIES, CACHE_QUERIES + 1};
            n = std::min(sizes[turn++ % 5], c.T - at);
            std::vector<floatX> x;
            for (int b = 0; b < c.B; b++) x.insert(x.end(), all.begin() + (b * c.T + at) * c.row(), all.begin() + (b * c.T + at + n) * c.row());
            DeviceArray<floatX> part(x), out(c.B * n * c.C());
            past.set({at});
            AttentionArgs a = rig.a;
            a.q = part.p, a.k = part.p + c.C(), a.v = part.p + 2 * c.C(), a.out = out.p, a.lse = nullptr, a.T = n;
            attention_cached(a, {k.p, v.p, room, past.p}, scratch.p, 0);
            std::vector<floatX> o = out.get();
            for (int b = 0; b < c.B; b++) std::copy(o.begin() + b * n * c.C(), o.begin() + (b + 1) * n * c.C(), got.begin() + (b * c.T + at) * c.C());
        }
        attention_check_part(c, "cached out", attention_wide(got), attention_wide(want), ATTENTION_TOLERANCE);
    }
}
TEST("attention: a head size that it cannot do is one sentence") {
    AttentionRig rig({1, 2, 1, 12, false});
    for (int D : {0, 7, 130}) {
        rig.a.D = D;
        CHECK_ERROR(attention_forward(rig.a, 0), "even size from 2 to 128");
    }
}
