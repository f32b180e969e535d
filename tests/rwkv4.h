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
    void set(const std::vector<T> &v) { cudaCheck(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice)); }
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
