/* tests/rwkv4.h: RWKV-4 against PyTorch (tests/data, written by dev/reference/rwkv4.py), against finite differences
   in fp64, and against itself: chunked = whole, GPT mode = RNN mode, accumulation = big batch, causality, ... */
#pragma once
#include <functional>
#include "test.h"

// Relative to the largest element of a tensor. Why these: a sum of n rounded products errs by about sqrt(n) eps;
// with n <= 1000 and three layers of growth that is some 1e-5 in fp32 (eps 6e-8). The 16-bit types round every
// activation (eps 4e-3 and 5e-4) and the residual stream itself.
constexpr double TOLERANCE = sizeof(floatX) == 8 ? 1e-9 : sizeof(floatX) == 4 ? 3e-5 : std::is_same<floatX, __half>::value ? 2e-2 : 1.2e-1;
constexpr double LOSS_TOLERANCE = sizeof(floatX) == 8 ? 1e-10 : sizeof(floatX) == 4 ? 2e-6 : 2e-2;

template<class T> struct DeviceArray {
    T *p = nullptr;
    int64_t n;
    explicit DeviceArray(int64_t n) : n(n) { cudaCheck(cudaMalloc((void **)&p, std::max<int64_t>(n, 1) * sizeof(T))); }
    explicit DeviceArray(const std::vector<T> &v) : DeviceArray((int64_t)v.size()) { set(v); }
    DeviceArray(const DeviceArray &) = delete;
    ~DeviceArray() { cudaFree(p); }
    void set(const std::vector<T> &v) { if (!v.empty()) cudaCheck(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice)); }
    void zero() { cudaCheck(cudaMemset(p, 0, n * sizeof(T))); }
    std::vector<T> get() const {
        std::vector<T> v(n);
        cudaCheck(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
        return v;
    }
};

// max |a - b| / max |b|; NaN and infinity count as infinitely wrong
template<class A, class B> double worst(const A *a, const B *b, int64_t n, int64_t *where = nullptr) {
    double most = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= 1e300)) d = INFINITY;
        if (d > most) { most = d; if (where) *where = i; }
        size = std::max(size, fabs((double)b[i]));
    }
    return size > 0 ? most / size : most;
}

// A model with its buffers, ready for one batch shape.
struct Rig {
    Parameters p;
    Arena arena;
    std::unique_ptr<RWKV4> model;
    int B, T;
    DeviceArray<int> tokens, targets, index;
    DeviceArray<real> scale, total;

    Rig(Shape s, int B, int T, int recompute = 0) : B(B), T(T), tokens(B * T), targets(B * T), index(TokenIndex::ints(B * T)), scale(1), total(1) {
        p.table = TensorTable(rwkv4_rows, s);
        model.reset(new RWKV4(p, B, T, recompute));
        p.plan(arena, true), model->plan(arena);
        arena.allocate();
        p.link(), model->link();
        matmul_init(false);
    }
    void set(const std::vector<real> &host) {
        p.set(host, p.master);
        round_params(p.params, p.master, p.table.total, 0);
    }
    RWKV4::Input input(const std::vector<int> &x, const std::vector<int> &y, int b, int t, const real *in = nullptr, real *out = nullptr, const uint8_t *reset = nullptr) {
        tokens.set(x), targets.set(y);
        std::vector<int> host(TokenIndex::ints(B * T)), start;
        TokenIndex(host.data(), B * T).fill(x.data(), b * t, p.table.s.V, start);
        index.set(host);
        return {tokens.p, b, t, in, out, reset};
    }
    void forward(const RWKV4::Input &in) { model->forward(in); }
    // mean loss; gradients of the mean over `count` positions are added
    double backward(const RWKV4::Input &in, int64_t count, const real *dout = nullptr, real *din = nullptr, double l2wrap = 1e-4) {
        scale.set({real(1.0 / count)}), total.zero();
        model->loss(in, targets.p, scale.p, l2wrap, true);
        loss_sum(total.p, model->head.losses, in.N(), 0);
        model->backward(in, TokenIndex(index.p, B * T), dout, din);
        return total.get()[0] / count;
    }
    double loss(const RWKV4::Input &in) {
        model->forward(in);
        total.zero(), scale.set({1});
        model->loss(in, targets.p, scale.p, 0, false);
        loss_sum(total.p, model->head.losses, in.N(), 0);
        return total.get()[0] / in.N();
    }
    std::vector<double> logits(const RWKV4::Input &in) {  // (B,T,V)
        int V = p.table.s.V, stride = padded_vocab(V);
        std::vector<floatX> all(in.N() * stride);
        model->head.forward(model->x_out, model->weight(model->head_w), in.N(), 0);
        cudaCheck(cudaMemcpy(all.data(), model->head.logits, all.size() * sizeof(floatX), cudaMemcpyDeviceToHost));
        std::vector<double> z;
        for (int64_t i = 0; i < in.N(); i++) for (int v = 0; v < V; v++) z.push_back((double)all[i * stride + v]);
        return z;
    }
    void zero_grads() { cudaCheck(cudaMemset(p.grads, 0, p.table.total * sizeof(real))); }
};

// A reference file: parameters, tokens and what PyTorch says about them.
struct Reference {
    TensorFile file;
    Shape s;
    int B, T;
    std::vector<int> x, y;
    explicit Reference(const char *name) : file(std::string("tests/data/") + name) {
        auto n = [&](const char *key) { return atoi(file.metadata.at(key).c_str()); };
        s = {n("V"), n("C"), n("F"), n("L")}, B = n("B"), T = n("T");
        std::vector<int> t((int64_t)B * (T + 1));
        file.read("tokens", {B, T + 1}, t.data());
        for (int b = 0; b < B; b++) for (int i = 0; i < T; i++) x.push_back(t[b * (T + 1) + i]), y.push_back(t[b * (T + 1) + i + 1]);
    }
    std::vector<double> get(const std::string &name) const {
        const TensorView &t = file.get(name);
        std::vector<double> v(t.count());
        read_tensor(t, v.data());
        return v;
    }
    // the state (L,5,B,C) in our layout: pp is a natural exponent there, base 2 here
    std::vector<real> state(const std::string &prefix) const {
        std::vector<real> all;
        for (int l = 0; l < s.L; l++)
            for (const char *part : {"att_x", "ffn_x", "aa", "bb", "pp"}) {
                std::string name = prefix + "/" + std::to_string(l) + "/" + part;
                std::vector<double> v = file.find(name) ? get(name) : std::vector<double>((size_t)B * s.C);
                for (double d : v) all.push_back(part[0] == 'p' ? d / log(2.0) : d);
            }
        return all;
    }
};

static void check_gradients(const Reference &ref, const Rig &rig, const char *prefix, const std::vector<real> &ours, double tolerance) {
    for (const Tensor &t : rig.p.table.tensors) {
        std::vector<double> want = ref.get(prefix + t.name);
        int64_t at = 0;
        double error = worst(ours.data() + t.offset, want.data(), t.count, &at);
        CHECK(error <= tolerance, "%s%s: error %.2e, limit %.2e; worst at element %lld: expected %.8g, got %.8g", prefix, t.name.c_str(), error, tolerance, (long long)at, want[at], (double)ours[t.offset + at]);
    }
}
static void check_states(const Reference &ref, const char *name, const std::vector<real> &ours, bool gradient) {
    std::vector<real> want = ref.state(name);
    int64_t n = (int64_t)ref.B * ref.s.C;
    for (int i = 0; i < ref.s.L * 5; i++) {
        const real *a = ours.data() + i * n, *w = want.data() + i * n;
        if (i % 5 == 4) continue;  // the reference exponent is free
        std::vector<real> scaled(a, a + n);  // A relative to the exponent of the reference's pp; gradients inversely
        const real *o = ours.data() + (i / 5 * 5 + 4) * n, *pp = want.data() + (i / 5 * 5 + 4) * n;
        for (int64_t j = 0; !gradient && i % 5 >= 2 && j < n; j++) scaled[j] *= exp2((double)o[j] - pp[j]);
        double error = worst(scaled.data(), w, n);
        CHECK(error <= TOLERANCE, "%s, layer %d, part %d: error %.2e", name, i / 5, i % 5, error);
    }
}
static void test_against(const char *name, bool with_state, int recompute) {
    Reference ref(name);
    Rig rig(ref.s, ref.B, ref.T, recompute);
    rig.set(rig.p.read(ref.file, "param/"));
    rig.zero_grads();
    int64_t n = rig.model->state_count(ref.B);
    DeviceArray<real> in(n), out(n), dout(n), din(n);
    if (with_state) in.set(ref.state("state_in")), dout.set(ref.state("dstate_out"));
    RWKV4::Input input = rig.input(ref.x, ref.y, ref.B, ref.T, with_state ? in.p : nullptr, out.p);
    rig.forward(input);
    std::vector<double> z = rig.logits(input), want = ref.get("logits");
    double error = worst(z.data(), want.data(), z.size());
    CHECK(error <= TOLERANCE, "logits: error %.2e", error);
    check_states(ref, "state_out", out.get(), false);
    if (with_state) {  // the reference's gradients are relative to its own exponents: move them to ours
        std::vector<real> d = ref.state("dstate_out"), o = out.get(), r = ref.state("state_out");
        int64_t m = (int64_t)ref.B * ref.s.C;
        for (int l = 0; l < ref.s.L; l++)
            for (int part : {2, 3}) for (int64_t j = 0; j < m; j++) d[(l * 5 + part) * m + j] *= exp2((double)o[(l * 5 + 4) * m + j] - r[(l * 5 + 4) * m + j]);
        dout.set(d);
    }
    double loss = rig.backward(input, ref.B * ref.T, with_state ? dout.p : nullptr, with_state ? din.p : nullptr), expected = ref.get("loss")[0];
    CHECK(fabs(loss - expected) <= LOSS_TOLERANCE * expected, "loss %.8f, expected %.8f", loss, expected);
    check_gradients(ref, rig, "grad/", rig.p.get(rig.p.grads), TOLERANCE);
    if (with_state) check_states(ref, "dstate_in", din.get(), true);
}
TEST("rwkv4: logits, loss, final state and every gradient = PyTorch") { test_against("rwkv4_a.safetensors", false, 0); }
TEST("rwkv4: with an initial state and a gradient into the final state = PyTorch") { test_against("rwkv4_b.safetensors", true, 0); }

// ------------------------------------------------------------------------------------------------
// training steps

TEST("rwkv4: parameters after three AdamW steps with clipping and decay = PyTorch") {
    if (has_master) SKIP("compared in fp32 and fp64");
    Reference ref("rwkv4_a.safetensors");
    Rig rig(ref.s, ref.B, ref.T);
    Parameters &p = rig.p;
    p.set(p.read(ref.file, "param/"), p.master);
    Groups groups;
    DeviceArray<uint8_t> group(groups.assign(p.table, 0.1));
    DeviceArray<real> norm(1), partial(busy_blocks());
    DeviceArray<StepNumbers> numbers(1);
    RWKV4::Input in = rig.input(ref.x, ref.y, ref.B, ref.T);
    for (int t = 1; t <= 3; t++) {
        numbers.set({{real(1e-3), real(1 - pow(0.9, t)), real(1 - pow(0.99, t)), 0, 1}});
        rig.zero_grads(), rig.forward(in), rig.backward(in, in.N());
        gradient_norm(norm.p, partial.p, p.grads, p.table.total, numbers.p, 0);
        double expected = ref.get(format("norm/step_%d", t))[0], got = norm.get()[0];
        CHECK(fabs(got / expected - 1) <= 10 * TOLERANCE, "norm of step %d: %.8g, expected %.8g", t, got, expected);
        adamw(p.master, p.params, p.grads, p.m, p.v, group.p, groups, {real(0.9), real(0.99), real(1e-8), 1}, norm.p, numbers.p, p.table.total, 0);
    }
    // a gradient near zero may have the other sign in fp32: Adam then moves by up to lr the other way
    check_gradients(ref, rig, "adam3/", p.get(p.master), sizeof(real) == 8 ? 1e-8 : 1e-4);
}
TEST("adamw: a gradient norm that is not finite leaves everything as it was") {
    Rig rig({11, 8, 32, 1}, 1, 3);
    Parameters &p = rig.p;
    std::vector<real> w = p.initial(1, 1e-3), g(p.table.total, 1), before;
    rig.set(w);
    g[5] = NAN;
    p.set(g, p.grads);
    Groups groups;
    DeviceArray<uint8_t> group(groups.assign(p.table, 0.1));
    DeviceArray<real> norm(1), partial(busy_blocks());
    DeviceArray<StepNumbers> numbers(std::vector<StepNumbers>{{real(1e-3), real(.1), real(.01), 0, 1}});
    gradient_norm(norm.p, partial.p, p.grads, p.table.total, numbers.p, 0);
    adamw(p.master, p.params, p.grads, p.m, p.v, group.p, groups, {real(0.9), real(0.99), real(1e-8), 1}, norm.p, numbers.p, p.table.total, 0);
    CHECK(p.get(p.master) == w && p.get(p.m) == std::vector<real>(p.table.total, 0), "something was changed");
}

// A random model with strong weights, so that every path matters, and a random batch.
struct Random : Rig {
    std::vector<int> x, y;
    std::vector<real> host;
    Random(Shape s, int B, int T, int recompute = 0, uint64_t seed = 7) : Rig(s, B, T, recompute), x(B * T), y(B * T), host(p.table.total) {
        Rng rng{seed, 0, 0};
        for (const Tensor &t : p.table.tensors) {
            bool mix = t.name.find("time_mix") != std::string::npos, norm = t.name.find(".ln") != std::string::npos || t.name.find("ln_out") == 0;
            for (int64_t i = 0; i < t.count; i++)
                host[t.offset + i] = t.matrix() ? rng.normal() / sqrt((double)t.shape[1]) : mix ? rng.uniform() * 1.2 - 0.1 : norm && t.name.find("weight") != std::string::npos ? 0.5 + rng.uniform() : rng.normal();
        }
        for (int &v : x) v = rng.next() % s.V;
        for (int &v : y) v = rng.next() % s.V;
        set(host);
    }
    RWKV4::Input all(const real *in = nullptr, real *out = nullptr, const uint8_t *reset = nullptr) { return input(x, y, B, T, in, out, reset); }
    std::vector<real> gradients(const RWKV4::Input &in, int64_t count) {
        zero_grads(), forward(in), backward(in, count);
        return p.get(p.grads);
    }
    // columns [from, to) of a (B,T) batch
    std::vector<int> columns(const std::vector<int> &v, int from, int to) {
        std::vector<int> part;
        for (int b = 0; b < B; b++) part.insert(part.end(), v.begin() + b * T + from, v.begin() + b * T + to);
        return part;
    }
    void check_same(const std::vector<real> &a, const std::vector<real> &b, double tolerance, const char *what) {
        for (const Tensor &t : p.table.tensors) {
            double e = worst(a.data() + t.offset, b.data() + t.offset, t.count);
            CHECK(e <= tolerance, "%s: %s differs by %.2e, limit %.2e", what, t.name.c_str(), e, tolerance);
        }
    }
};

#ifdef PRECISION_FP64
TEST("rwkv4: every parameter's gradient = finite differences, at odd shapes") {
    struct { Shape s; int B, T; } cases[] = {{{7, 6, 10, 2}, 2, 5}, {{5, 3, 7, 3}, 1, 18}, {{5, 8, 16, 1}, 3, 1}};
    for (auto &c : cases) {
        Random rig(c.s, c.B, c.T);
        RWKV4::Input in = rig.all();
        std::vector<real> g = rig.gradients(in, in.N()), w = rig.host;
        auto loss = [&] {  // with L2Wrap, whose gradient is that of 0.5e-4 mean (max z)^2
            rig.p.set(w, rig.p.master);
            double l = rig.loss(in);
            std::vector<double> z = rig.logits(in);
            for (int64_t i = 0; i < in.N(); i++) l += 0.5e-4 / in.N() * pow(*std::max_element(z.begin() + i * c.s.V, z.begin() + (i + 1) * c.s.V), 2);
            return l;
        };
        for (const Tensor &t : rig.p.table.tensors)
            for (int64_t i = t.offset; i < t.offset + t.count; i++) {
                double h = 1e-5, keep = w[i];
                w[i] = keep + h;
                double up = loss();
                w[i] = keep - h;
                double d = (up - loss()) / (2 * h);
                w[i] = keep;
                // relu^2 has a kink in its second derivative only; errors are h^2 of the third one, about 1e-8
                CHECK(fabs(d - g[i]) <= 2e-7 * (1 + fabs(d)), "%s[%lld]: gradient %.10g, difference quotient %.10g", t.name.c_str(), (long long)(i - t.offset), (double)g[i], d);
            }
    }
}
#endif

// ------------------------------------------------------------------------------------------------
// properties of the model

TEST("rwkv4: causal: a token changes no logit before it, not by one bit") {
    Random rig({19, 24, 40, 2}, 2, 33);
    RWKV4::Input in = rig.all();
    rig.forward(in);
    std::vector<double> a = rig.logits(in);
    int t = 20;
    rig.x[t] = (rig.x[t] + 1) % 19;
    in = rig.all();
    rig.forward(in);
    std::vector<double> b = rig.logits(in);
    int V = 19;
    CHECK(std::equal(a.begin(), a.begin() + t * V, b.begin()), "an earlier position of the sequence changed");
    CHECK(std::equal(a.begin() + 33 * V, a.end(), b.begin() + 33 * V), "another sequence changed");
    CHECK(!std::equal(a.begin() + t * V, a.begin() + (t + 1) * V, b.begin() + t * V), "its own position did not change");
    CHECK(!std::equal(a.begin() + (t + 5) * V, a.begin() + (t + 6) * V, b.begin() + (t + 5) * V), "later positions did not change");
}
TEST("rwkv4: a sequence does not depend on the others of its batch") {
    Random rig({19, 24, 40, 2}, 3, 17);
    RWKV4::Input in = rig.all();
    rig.forward(in);
    std::vector<double> all = rig.logits(in);
    for (int b = 0; b < 3; b++) {
        RWKV4::Input one = rig.input({rig.x.begin() + b * 17, rig.x.begin() + (b + 1) * 17}, {rig.y.begin() + b * 17, rig.y.begin() + (b + 1) * 17}, 1, 17);
        rig.forward(one);
        std::vector<double> z = rig.logits(one);
        double e = worst(z.data(), all.data() + b * 17 * 19, z.size());  // cuBLAS may choose another kernel for another shape
        CHECK(e <= TOLERANCE / 10, "sequence %d alone differs by %.2e", b, e);
    }
}
TEST("rwkv4: GPT mode = RNN mode: parallel logits and state are those of one token at a time") {
    Random rig({19, 24, 40, 3}, 2, 37);
    int64_t n = rig.model->state_count(2);
    DeviceArray<real> whole(n), s0(n), s1(n);
    RWKV4::Input in = rig.all(nullptr, whole.p);
    rig.forward(in);
    std::vector<double> z = rig.logits(in);
    for (int t = 0; t < 37; t++) {
        RWKV4::Input step = rig.input(rig.columns(rig.x, t, t + 1), rig.columns(rig.y, t, t + 1), 2, 1, t ? (t % 2 ? s1.p : s0.p) : nullptr, t % 2 ? s0.p : s1.p);
        rig.forward(step);
        std::vector<double> one = rig.logits(step);
        for (int b = 0; b < 2; b++) {
            double e = worst(one.data() + b * 19, z.data() + (b * 37 + t) * 19, 19);
            CHECK(e <= TOLERANCE, "logits at t = %d differ by %.2e", t, e);
        }
    }
    double e = worst(s1.get().data(), whole.get().data(), n);  // T is odd: the last state went to s1
    CHECK(e <= TOLERANCE, "final states differ by %.2e", e);
}
TEST("rwkv4: two chunks with the state and its gradient carried = the whole sequence") {
    for (int cut : {1, 15, 16, 20}) {
        int T = 33, B = 2;
        Random rig({19, 24, 40, 2}, B, T);
        RWKV4::Input in = rig.all();
        rig.zero_grads(), rig.forward(in);
        double loss = rig.backward(in, in.N());
        std::vector<real> whole = rig.p.get(rig.p.grads);
        int64_t n = rig.model->state_count(B);
        DeviceArray<real> mid(n), end(n), dmid(n);
        auto part = [&](int from, int to, const real *a, real *b) { return rig.input(rig.columns(rig.x, from, to), rig.columns(rig.y, from, to), B, to - from, a, b); };
        rig.zero_grads();
        rig.forward(part(0, cut, nullptr, mid.p));
        RWKV4::Input second = part(cut, T, mid.p, end.p);
        rig.forward(second);
        double l = rig.backward(second, B * T, nullptr, dmid.p);
        RWKV4::Input first = part(0, cut, nullptr, mid.p);
        rig.forward(first);
        l += rig.backward(first, B * T, dmid.p, nullptr);
        CHECK(fabs(l - loss) <= LOSS_TOLERANCE * loss, "loss %.8f in chunks, %.8f whole", l, loss);
        rig.check_same(rig.p.get(rig.p.grads), whole, TOLERANCE, format("cut at %d", cut).c_str());
    }
}
TEST("rwkv4: gradients of two half batches add up to those of the whole batch, L2Wrap included") {
    int B = 4, T = 9;
    Random rig({19, 24, 40, 2}, B, T);
    std::vector<real> whole = rig.gradients(rig.all(), B * T);
    rig.zero_grads();
    for (int h = 0; h < 2; h++) {
        int half = B / 2 * T;
        RWKV4::Input in = rig.input({rig.x.begin() + h * half, rig.x.begin() + (h + 1) * half}, {rig.y.begin() + h * half, rig.y.begin() + (h + 1) * half}, B / 2, T);
        rig.forward(in), rig.backward(in, B * T);
    }
    rig.check_same(rig.p.get(rig.p.grads), whole, TOLERANCE, "accumulated");
}
TEST("rwkv4: recompute changes the memory, not one bit of the gradients") {
    std::vector<real> g[3];
    size_t bytes[3];
    for (int level = 0; level < 3; level++) {
        Random rig({19, 32, 128, 4}, 2, 33, level);
        for (auto &[name, n] : rig.arena.groups()) if (name == "activations") bytes[level] = n;
        g[level] = rig.gradients(rig.all(), 66);
    }
    CHECK(g[0] == g[1] && g[0] == g[2], "the gradients differ");
    CHECK(bytes[1] < 0.85 * bytes[0] && bytes[2] < 0.55 * bytes[0], "activations %zu, %zu, %zu", bytes[0], bytes[1], bytes[2]);
}
TEST("rwkv4: with resets, packed documents = each document alone, loss and gradients") {
    int lengths[] = {7, 1, 16, 13}, T = 37;
    Random rig({19, 24, 40, 2}, 1, T);
    std::vector<uint8_t> mask(T);
    std::vector<real> sum(rig.p.table.total);
    double losses = 0;
    rig.zero_grads();
    for (int i = 0, at = 0; i < 4; at += lengths[i++]) {
        mask[at] = at > 0;
        RWKV4::Input in = rig.input(rig.columns(rig.x, at, at + lengths[i]), rig.columns(rig.y, at, at + lengths[i]), 1, lengths[i]);
        rig.forward(in);
        losses += rig.backward(in, T);
    }
    std::vector<real> alone = rig.p.get(rig.p.grads);
    DeviceArray<uint8_t> reset(mask);
    RWKV4::Input in = rig.all(nullptr, nullptr, reset.p);
    rig.zero_grads(), rig.forward(in);
    double packed = rig.backward(in, T);
    CHECK(fabs(packed - losses) <= LOSS_TOLERANCE * losses, "loss %.8f packed, %.8f alone", packed, losses);
    rig.check_same(rig.p.get(rig.p.grads), alone, TOLERANCE, "packed");
}
TEST("rwkv4: the padding of the vocabulary stays zero, in weights and gradients") {
    Random rig({19, 24, 40, 1}, 2, 5);
    std::vector<real> g = rig.gradients(rig.all(), 10);
    for (const char *name : {"emb.weight", "head.weight"}) {
        const Tensor *t = rig.p.table.find(name);
        for (int64_t i = t->count; i < 32 * 24; i++) CHECK(g[t->offset + i] == 0, "%s row %lld has a gradient", name, (long long)(i / 24));
    }
}
TEST("rwkv4: the initialisation is the official one: vectors exactly, matrices by gain and zeros") {
    TensorFile file("tests/data/rwkv4_init.safetensors");
    Parameters p;
    p.table = TensorTable(rwkv4_rows, {65, 32, 128, 3});
    std::vector<real> host = p.initial(3, 1e-4);
    CHECK(host == p.initial(3, 1e-4) && host != p.initial(4, 1e-4), "the seed does not decide");
    for (const Tensor &t : p.table.tensors) {
        const real *w = host.data() + t.offset;
        if (!t.matrix()) {
            std::vector<double> want(t.count);
            file.read("param/" + t.name, t.shape, want.data());
            CHECK(worst(w, want.data(), t.count) <= 1e-6, "%s", t.name.c_str());
            continue;
        }
        bool zero = t.row->init == init_zeros;
        double gain = t.name == "head.weight" ? 0.5 * sqrt(65 / 32.) : t.name.find("ffn.key") != std::string::npos ? 2 : 1;
        for (int64_t a = 0; a < t.shape[1] && t.name != "emb.weight"; a++)  // columns are orthogonal, of length gain
            for (int64_t b = 0; b <= a; b++) {
                double dot = 0;
                for (int64_t r = 0; r < t.shape[0]; r++) dot += (double)w[r * t.shape[1] + a] * w[r * t.shape[1] + b];
                CHECK(fabs(dot - (zero || a != b ? 0 : gain * gain)) < 1e-5, "%s: columns %lld and %lld have product %g", t.name.c_str(), (long long)a, (long long)b, dot);
            }
        if (t.name == "emb.weight") {
            real most = *std::max_element(w, w + t.count), least = *std::min_element(w, w + t.count);
            CHECK(most <= 1e-4 && most > 0.98e-4 && least >= -1e-4 && least < -0.98e-4, "emb.weight is in [%g, %g]", (double)least, (double)most);
        }
    }
    CHECK((TensorTable(rwkv4_rows, {50277, 768, 3072, 12}).count == 169342464), "169M has %lld parameters", (long long)TensorTable(rwkv4_rows, {50277, 768, 3072, 12}).count);
}

// ------------------------------------------------------------------------------------------------
// wkv alone

#include "../dev/kernels/wkv4/reference.h"

struct WkvRun { std::vector<double> y, dk, dv, dr, ddecay, dfirst, state, dstate_in; };
struct WkvProblem {
    int B, T, C;
    std::vector<floatX> k, v, r, dy;
    std::vector<real> decay, first, state, dstate;  // state (3,B,C), dstate (2,B,C), or empty
    std::vector<uint8_t> reset;
    WkvProblem(int B, int T, int C, double k_size, bool with_state, uint64_t seed) : B(B), T(T), C(C), decay(C), first(C) {
        Rng rng{seed, 0, 0};
        auto fill = [&](std::vector<floatX> &x, double size) { x.resize((size_t)B * T * C); for (auto &e : x) e = (floatX)(float)(size * (2 * rng.uniform() - 1)); };
        fill(k, k_size), fill(v, 1), fill(r, 2), fill(dy, 1);
        for (auto &d : decay) d = -6 + 8 * rng.uniform();
        for (auto &u : first) u = 4 * rng.uniform() - 2;
        if (with_state) {
            state.resize(3 * B * C), dstate.resize(2 * B * C);
            for (int i = 0; i < B * C; i++) state[i] = rng.normal(), state[B * C + i] = 0.1 + rng.uniform(), state[2 * B * C + i] = rng.normal();
            for (auto &d : dstate) d = rng.normal();
        }
    }
    WkvRun run(int warps) {
        int64_t n = (int64_t)B * T * C;
        DeviceArray<floatX> K(k), V(v), R(r), DY(dy), Y(n), DK(n), DV(n), DR(n);
        DeviceArray<real> D(decay), U(first), chunks((int64_t)B * ceil_div(T, WKV_CHUNK) * 3 * C), out(3 * B * C), din(2 * B * C),
            partial((int64_t)B * warps * 2 * C), dD(C), dU(C), in(state), dout(dstate);
        DeviceArray<uint8_t> mask(reset);
        dD.zero(), dU.zero();
        WkvArgs f = {Y.p, K.p, V.p, R.p, D.p, U.p, chunks.p, state.empty() ? nullptr : in.p, out.p, reset.empty() ? nullptr : mask.p, B, T, C, warps};
        wkv_forward(f, 0);
        WkvBackwardArgs a = {f, DK.p, DV.p, DR.p, DY.p, dstate.empty() ? nullptr : dout.p, din.p, partial.p};
        wkv_backward(a, dD.p, dU.p, 0);
        auto wide = [](auto v) { return std::vector<double>(v.begin(), v.end()); };
        auto widen = [](const std::vector<floatX> &v) { std::vector<double> w; for (auto e : v) w.push_back((double)(float)e); return w; };
        if constexpr (sizeof(floatX) == 8) return {wide(Y.get()), wide(DK.get()), wide(DV.get()), wide(DR.get()), wide(dD.get()), wide(dU.get()), wide(out.get()), wide(din.get())};
        else return {widen(Y.get()), widen(DK.get()), widen(DV.get()), widen(DR.get()), wide(dD.get()), wide(dU.get()), wide(out.get()), wide(din.get())};
    }
    // The same in fp64 by the plain reference; the gate is applied around it.
    WkvRun reference(const WkvRun &ours) {
        int64_t n = (int64_t)B * T * C, m = (int64_t)B * C;
        auto wide = [](const std::vector<floatX> &v) { std::vector<double> w; for (auto e : v) w.push_back((double)(sizeof(floatX) == 8 ? *(const double *)&e : (double)(float)e)); return w; };
        std::vector<double> K = wide(k), V = wide(v), R = wide(r), DY = wide(dy), w(C), u(first.begin(), first.end()), y(n), gy(n), aa, bb, pp, aa2(m), bb2(m), pp2(m), ga, gb, gw(C), gu(C), gai(m), gbi(m);
        for (int c = 0; c < C; c++) w[c] = -exp((double)decay[c]);
        if (!state.empty()) aa.assign(state.begin(), state.begin() + m), bb.assign(state.begin() + m, state.begin() + 2 * m);
        for (int64_t i = 0; i < m && !state.empty(); i++) pp.push_back(state[2 * m + i] * log(2.0));
        Wkv4Case<double> x = {B, T, C, K.data(), V.data(), w.data(), u.data(), aa.empty() ? nullptr : aa.data(), aa.empty() ? nullptr : bb.data(), aa.empty() ? nullptr : pp.data(), reset.empty() ? nullptr : reset.data()};
        wkv4_forward_reference(y.data(), aa2.data(), bb2.data(), pp2.data(), x);
        WkvRun want{y, std::vector<double>(n), std::vector<double>(n), std::vector<double>(n), {}, {}, {}, {}};
        for (int64_t i = 0; i < n; i++) {
            double s = 1 / (1 + exp(-R[i]));
            want.y[i] = s * y[i], gy[i] = DY[i] * s, want.dr[i] = DY[i] * y[i] * s * (1 - s);
        }
        for (int64_t i = 0; i < m && !dstate.empty(); i++) {  // ours are relative to our exponent o, the reference's to its pp
            double f = exp2(ours.state[2 * m + i] - pp2[i] / log(2.0));
            ga.push_back(dstate[i] / f), gb.push_back(dstate[m + i] / f);
        }
        wkv4_backward_reference(want.dk.data(), want.dv.data(), gw.data(), gu.data(), gai.data(), gbi.data(), gy.data(), ga.empty() ? nullptr : ga.data(), ga.empty() ? nullptr : gb.data(), x);
        for (int c = 0; c < C; c++) want.ddecay.push_back(gw[c] * w[c]), want.dfirst.push_back(gu[c]);
        for (int64_t i = 0; i < 3 * m; i++) {
            double f = exp2(pp2[i % m] / log(2.0) - ours.state[2 * m + i % m]);
            want.state.push_back(i < m ? aa2[i] * f : i < 2 * m ? bb2[i - m] * f : ours.state[i]);
        }
        want.dstate_in = gai;
        want.dstate_in.insert(want.dstate_in.end(), gbi.begin(), gbi.end());
        return want;
    }
    void check(const WkvRun &got, const WkvRun &want, double tolerance, const char *what) {
        struct { const char *name; const std::vector<double> &a, &b; } parts[] = {{"y", got.y, want.y}, {"dk", got.dk, want.dk}, {"dv", got.dv, want.dv}, {"dr", got.dr, want.dr},
            {"d time_decay", got.ddecay, want.ddecay}, {"d time_first", got.dfirst, want.dfirst}, {"final state", got.state, want.state}, {"d initial state", got.dstate_in, want.dstate_in}};
        for (auto &p : parts) {
            if (!strcmp(p.name, "d initial state") && state.empty()) continue;
            double e = worst(p.a.data(), p.b.data(), p.a.size());
            CHECK(e <= tolerance, "%s: B %d T %d C %d: %s differs by %.2e, limit %.2e", what, B, T, C, p.name, e, tolerance);
        }
    }
};
// rounding of outputs to floatX, or of the sums in fp32 over up to 257 steps
constexpr double WKV_TOLERANCE = sizeof(floatX) == 8 ? 1e-11 : sizeof(floatX) == 4 ? 2e-5 : 8e-3;

TEST("wkv: forward, backward and states = the fp64 reference, for odd T and C") {
    for (int T : {1, 2, 15, 16, 17, 63, 65, 257})
        for (int C : {1, 6, 20, 32})
            for (bool with_state : {false, true}) {
                WkvProblem p(2, T, C, 3, with_state, T * 100 + C);
                WkvRun got = p.run(1);
                p.check(got, p.reference(got), WKV_TOLERANCE, with_state ? "with state" : "from empty");
            }
}
TEST("wkv: document resets cut the state and its gradient, as in the reference") {
    WkvProblem p(2, 70, 20, 3, true, 5);
    p.reset.assign(140, 0);
    for (int i : {0, 16, 17, 40, 70 + 69, 70 + 31}) p.reset[i] = 1;
    for (int warps : {1, 3}) {
        WkvRun got = p.run(warps);
        p.check(got, p.reference(got), WKV_TOLERANCE, "resets");
    }
}
TEST("wkv: T split over warps = in one piece") {
    for (int warps = 2; warps <= WKV_WARPS; warps++) {
        WkvProblem p(2, 137, 20, 5, true, warps);
        WkvRun whole = p.run(1), split = p.run(warps);
        p.check(split, p.reference(split), WKV_TOLERANCE, "split");
        CHECK(worst(split.y.data(), whole.y.data(), whole.y.size()) <= WKV_TOLERANCE, "y differs from the unsplit one");
        WkvProblem q(1, 100, 16, 5, false, warps);
        WkvRun empty = q.run(warps);
        q.check(empty, q.reference(empty), WKV_TOLERANCE, "split, from empty");
    }
}
TEST("wkv: k in +-200 over 4096 steps is finite and right") {
    WkvProblem p(1, 4096, 20, 200, false, 9);
    for (int warps : {1, WKV_WARPS}) {
        WkvRun got = p.run(warps);
        p.check(got, p.reference(got), 10 * WKV_TOLERANCE, "k in +-200");  // k itself carries an error of 200 eps into e^k
    }
}
TEST("wkv: a bonus of +-60 is finite and right") {
    WkvProblem p(1, 100, 24, 3, true, 11);
    for (int c = 0; c < 24; c++) p.first[c] = c % 3 * 60 - 60;
    for (int warps : {1, WKV_WARPS}) {
        WkvRun got = p.run(warps);
        p.check(got, p.reference(got), 10 * WKV_TOLERANCE, "u in +-60");
    }
}
TEST("wkv: gradients = autograd of the closed form in float64 (tests/data/rwkv4_wkv)") {
    TensorFile file("tests/data/rwkv4_wkv.safetensors");
    for (const char *name : {"normal", "one", "strong", "decays", "first"}) {
        auto get = [&](const char *part) { const TensorView &t = file.get(format("%s/%s", name, part)); std::vector<double> v(t.count()); read_tensor(t, v.data()); return v; };
        const TensorView &shape = file.get(format("%s/k", name));
        WkvProblem p(shape.shape[0], shape.shape[1], shape.shape[2], 1, false, 1);
        std::vector<double> k = get("k"), v = get("v"), gy = get("gy"), w = get("w"), u = get("u");
        for (size_t i = 0; i < k.size(); i++) p.k[i] = (floatX)(real)k[i], p.v[i] = (floatX)(real)v[i], p.dy[i] = (floatX)(real)(gy[i] * 2), p.r[i] = (floatX)0.f;  // sigmoid(0) = 1/2
        for (int c = 0; c < p.C; c++) p.decay[c] = log(-w[c]), p.first[c] = u[c];
        if (has_master) SKIP("the inputs are not exact in 16 bits");
        WkvRun got = p.run(1), want = got;
        want.y = get("y"), want.dk = get("gk"), want.dv = get("gv"), want.dfirst = get("gu"), want.ddecay = get("gw");
        for (double &y : want.y) y /= 2;
        for (int c = 0; c < p.C; c++) want.ddecay[c] *= w[c];
        p.check(got, want, sizeof(floatX) == 8 ? 1e-10 : 1e-4, name);
    }
}

// ------------------------------------------------------------------------------------------------
// cross-entropy

TEST("cross-entropy: loss and gradient by hand, ties of L2Wrap to the lowest index, NaN stays NaN") {
    int V = 21, stride = 32;
    for (int variant = 0; variant < 3; variant++) {
        std::vector<floatX> z(3 * stride, (floatX)(variant == 2 ? 0.f : 7.f));  // the padding must not matter
        Rng rng{3, 0, 0};
        for (int r = 0; r < 3; r++) for (int j = 0; j < V; j++) z[r * stride + j] = (floatX)(float)(rng.normal() * 3);
        if (variant == 1) z[4] = z[9] = z[15] = (floatX)20.f;
        if (variant == 2) z[stride + 3] = (floatX)(float)NAN;
        DeviceArray<floatX> Z(z);
        DeviceArray<real> losses(3), scale(std::vector<real>{real(0.5)});
        DeviceArray<int> targets(std::vector<int>{4, 0, 20});
        cross_entropy(Z.p, losses.p, targets.p, scale.p, real(0.1), 3, V, stride, true, 0);
        std::vector<floatX> g = Z.get();
        std::vector<real> l = losses.get();
        int target[] = {4, 0, 20};
        for (int r = 0; r < 3; r++) {
            if (variant == 2 && r == 1) { CHECK(std::isnan((float)l[r]), "a NaN logit gave the loss %g", (double)l[r]); continue; }
            double max = -1e30, s = 0;
            int at = 0;
            for (int j = 0; j < V; j++) if ((double)(real)z[r * stride + j] > max) max = (double)(real)z[r * stride + j], at = j;
            for (int j = 0; j < V; j++) s += exp((double)(real)z[r * stride + j] - max);
            double want = log(s) + max - (double)(real)z[r * stride + target[r]];
            CHECK(fabs(l[r] - want) <= 1e-5 * (1 + want), "row %d: loss %g, expected %g", r, (double)l[r], want);
            for (int j = 0; j < stride; j++) {
                double d = j >= V ? 0 : 0.5 * (exp((double)(real)z[r * stride + j] - max) / s - (j == target[r]) + (j == at) * 0.1 * max);
                CHECK(fabs((double)(real)g[r * stride + j] - d) <= (has_master ? 4e-3 : 1e-5) * (fabs(d) + 1e-3), "row %d, column %d: gradient %g, expected %g", r, j, (double)(real)g[r * stride + j], d);
            }
        }
    }
}

// ------------------------------------------------------------------------------------------------
// a published model, where ../shared is beside the project

TEST("rwkv4: logits of a published checkpoint, .pth and .safetensors, also from a state") {
    const char *dir = "../shared/oracle/";
    struct stat st;
    if (stat(dir, &st)) SKIP("no ../shared/oracle");
    for (const char *model : {"tiny-rwkv-4v0-660K.fp32.pth", "tiny-rwkv-4v0-660K.bf16.safetensors"}) {
        TensorFile file(std::string(dir) + model);
        Rig rig(RWKV4::shape_of(file), 1, 64);
        rig.set(rig.p.read(file));
        bool fp32 = strstr(model, "fp32");
        auto read = [&](const std::string &name, size_t n) {
            std::vector<float> v(n);
            FILE *f = fopen((std::string(dir) + "ref/" + name).c_str(), "rb");
            CHECK(f && fread(v.data(), 4, n, f) == n, "cannot read %s", name.c_str());
            fclose(f);
            return v;
        };
        std::vector<int> ids(64);
        std::vector<float> raw = read("tokens.text64.u32.bin", 64);
        memcpy(ids.data(), raw.data(), 256);
        std::vector<float> want = read(fp32 ? "tiny-rwkv-4v0-660K.fp32.text64.logits.f32.bin" : "tiny-rwkv-4v0-660K.bf16.text64.logits.f32.bin", 64 * 256);
        RWKV4::Input in = rig.input(ids, ids, 1, 64);
        rig.forward(in);
        std::vector<double> z = rig.logits(in);
        double most = 0, limit = has_master ? 0.3 : 1e-4;
        for (size_t i = 0; i < z.size(); i++) most = std::max(most, std::isfinite(z[i]) ? fabs(z[i] - want[i]) : INFINITY);
        CHECK(most <= limit, "%s: a logit differs by %g, limit %g", model, most, limit);
        if (!fp32) continue;
        // state_after32: per layer ffn_x, att_x, aa, bb, pp; then tokens 32..63
        int L = rig.p.table.s.L, C = rig.p.table.s.C, order[] = {1, 0, 2, 3, 4};
        std::vector<float> s = read("tiny-rwkv-4v0-660K.fp32.text64.state_after32.f32.bin", L * 5 * C);
        std::vector<real> mine(s.size());
        for (int l = 0; l < L; l++) for (int i = 0; i < 5; i++) for (int c = 0; c < C; c++) mine[(l * 5 + i) * C + c] = s[(l * 5 + order[i]) * C + c] * (i == 4 ? 1 / log(2.0) : 1);
        DeviceArray<real> state(mine);
        in = rig.input({ids.begin() + 32, ids.end()}, {ids.begin() + 32, ids.end()}, 1, 32, state.p);
        rig.forward(in);
        z = rig.logits(in), most = 0;
        for (size_t i = 0; i < z.size(); i++) most = std::max(most, fabs(z[i] - want[32 * 256 + i]));
        CHECK(most <= limit, "%s: from the state after 32 tokens a logit differs by %g", model, most);
    }
}
