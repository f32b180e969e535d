/* tests/model.h: what is tested of every model alike, as functions templated on the Model: against PyTorch (a file that
   dev/reference/ wrote), against finite differences in fp64, and against itself: causality, batch rows, GPT mode = RNN
   mode, chunked = whole, accumulation = big batch, recompute, resets, padding. A model's own file turns them into TESTs:

       TEST("rwkv4: causal: ...") { test_causal<RWKV4>({19, 24, 40, 2}); }

   defines: TOLERANCE, LOSS_TOLERANCE, DeviceArray, worst, Rig, Reference, Random, check_tensors, adam_steps, test_... */
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

// A model with its buffers, ready for batches of up to B x T.
template<class M> struct Rig {
    typedef typename M::Config Config;
    Parameters p;
    Arena arena;
    Config config;
    std::unique_ptr<M> model;
    int B, T;
    DeviceArray<int> tokens, targets, index;
    DeviceArray<real> scale, total;
    DeviceArray<uint64_t> draw;

    Rig(Shape s, int B, int T, int recompute = 0, Config c = Config()) : config(c), B(B), T(T), tokens(B * T), targets(B * T), index(TokenIndex::ints(B * T)), scale(1), total(1), draw(1) {
        M::complete(s, config, T);
        p.table = TensorTable(M::rows(config), s);
        model.reset(new M(p, config, B, T, recompute));
        p.plan(arena, true), model->plan(arena);
        arena.allocate();
        p.link(), model->link();
        matmul_init(false);
        draw.zero();
    }
    void set(const std::vector<real> &host) {
        p.set(host, p.master);
        round_params(p.params, p.master, p.table.total, 0);
    }
    ModelInput input(const std::vector<int> &x, const std::vector<int> &y, int b, int t, const real *in = nullptr, real *out = nullptr, const uint8_t *reset = nullptr, int past = 0) {
        tokens.set(x), targets.set(y);
        std::vector<int> host(TokenIndex::ints(B * T)), start;
        TokenIndex(host.data(), B * T).fill(x.data(), b * t, p.table.s.V, start);
        index.set(host);
        return {tokens.p, b, t, in, out, reset, past};
    }
    void forward(const ModelInput &in) { model->forward(in); }
    // mean loss; gradients of the mean over `count` positions are added
    double backward(const ModelInput &in, int64_t count, const real *dout = nullptr, real *din = nullptr, double l2wrap = 1e-4) {
        scale.set({real(1.0 / count)}), total.zero();
        model->loss(in, targets.p, scale.p, l2wrap, true);
        loss_sum(total.p, model->head.losses, in.BT(), 0);
        model->backward(in, TokenIndex(index.p, B * T), dout, din);
        return total.get()[0] / count;
    }
    double loss(const ModelInput &in) {
        model->forward(in);
        total.zero(), scale.set({1});
        model->loss(in, targets.p, scale.p, 0, false);
        loss_sum(total.p, model->head.losses, in.BT(), 0);
        return total.get()[0] / in.BT();
    }
    std::vector<double> logits(const ModelInput &in) {  // (B,T,V)
        int V = p.table.s.V, stride = padded_vocab(V);
        std::vector<floatX> all(in.BT() * stride);
        model->head.forward(model->x_out, model->weight(model->head_w), in.BT(), 0);
        cudaCheck(cudaMemcpy(all.data(), model->head.logits, all.size() * sizeof(floatX), cudaMemcpyDeviceToHost));
        std::vector<double> z;
        for (int64_t i = 0; i < in.BT(); i++) for (int v = 0; v < V; v++) z.push_back((double)all[i * stride + v]);
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
};

// Every tensor of `ours` (laid out like the parameters) = what the file has under prefix + name
inline void check_tensors(const Reference &ref, const Parameters &p, const char *prefix, const std::vector<real> &ours, double tolerance) {
    std::vector<real> want = p.read(ref.file, prefix);
    for (const Tensor &t : p.table.tensors) {
        int64_t at = 0;
        double error = worst(ours.data() + t.offset, want.data() + t.offset, t.count, &at);
        CHECK(error <= tolerance, "%s%s: error %.2e, limit %.2e; worst at element %lld: expected %.8g, got %.8g", prefix, t.name.c_str(), error, tolerance,
              (long long)at, (double)want[t.offset + at], (double)ours[t.offset + at]);
    }
}
// Logits, loss and every gradient = the reference's
template<class M> void test_against_reference(const char *name, typename M::Config config = {}, int recompute = 0, double l2wrap = 1e-4) {
    Reference ref(name);
    Rig<M> rig(ref.s, ref.B, ref.T, recompute, config);
    rig.set(rig.p.read(ref.file, "param/"));
    rig.zero_grads();
    ModelInput in = rig.input(ref.x, ref.y, ref.B, ref.T);
    rig.forward(in);
    std::vector<double> z = rig.logits(in), want = ref.get("logits");
    double error = worst(z.data(), want.data(), z.size());
    CHECK(error <= TOLERANCE, "logits: error %.2e", error);
    double loss = rig.backward(in, ref.B * ref.T, nullptr, nullptr, l2wrap), expected = ref.get("loss")[0];
    CHECK(fabs(loss - expected) <= LOSS_TOLERANCE * expected, "loss %.8f, expected %.8f", loss, expected);
    check_tensors(ref, rig.p, "grad/", rig.p.get(rig.p.grads), TOLERANCE);
}
// Three AdamW steps with clipping at 1 and decay 0.1 on one batch: norms (norm/step_1..3) and parameters (adam3/)
template<class M> void test_adam_steps(const char *name, typename M::Config config = {}, double lr = 1e-3, double beta2 = 0.99, double eps = 1e-8, double l2wrap = 1e-4) {
    if (has_master) SKIP("compared in fp32 and fp64");
    Reference ref(name);
    Rig<M> rig(ref.s, ref.B, ref.T, 0, config);
    Parameters &p = rig.p;
    p.set(p.read(ref.file, "param/"), p.master);
    Groups groups;
    DeviceArray<uint8_t> group(groups.assign(p.table, 0.1));
    DeviceArray<real> norm(1), partial(busy_blocks());
    DeviceArray<StepNumbers> numbers(1);
    ModelInput in = rig.input(ref.x, ref.y, ref.B, ref.T);
    for (int t = 1; t <= 3; t++) {
        numbers.set({{real(lr), real(1 - pow(0.9, t)), real(1 - pow(beta2, t)), 0, 1}});
        rig.zero_grads(), rig.forward(in), rig.backward(in, in.BT(), nullptr, nullptr, l2wrap);
        gradient_norm(norm.p, partial.p, p.grads, p.table.total, numbers.p, 0);
        double expected = ref.get(format("norm/step_%d", t))[0], got = norm.get()[0];
        CHECK(fabs(got / expected - 1) <= 10 * TOLERANCE, "norm of step %d: %.8g, expected %.8g", t, got, expected);
        adamw(p.master, p.params, p.grads, p.m, p.v, group.p, groups, {real(0.9), real(beta2), real(eps), 1}, norm.p, numbers.p, p.table.total, 0);
    }
    // a gradient near zero may have the other sign in fp32: Adam then moves by up to lr the other way
    check_tensors(ref, p, "adam3/", p.get(p.master), sizeof(real) == 8 ? 1e-8 : 1e-4);
}

// A random model with strong weights, so that every path matters, and a random batch.
// strong_weight: element i of tensor t; a model's tests may specialise it.
template<class M> real strong_weight(const Tensor &t, int64_t, Rng &rng) {
    auto has = [&](const char *part) { return t.name.find(part) != std::string::npos; };
    if (t.matrix()) return rng.normal() / sqrt((double)t.shape[1]);
    if (has("time_mix")) return rng.uniform() * 1.2 - 0.1;
    if (has("ln") && has("weight")) return 0.5 + rng.uniform();
    return rng.normal();
}
template<class M> struct Random : Rig<M> {
    using Rig<M>::B; using Rig<M>::T; using Rig<M>::p; using Rig<M>::input;
    std::vector<int> x, y;
    std::vector<real> host;
    Random(Shape s, int B, int T, int recompute = 0, typename M::Config config = {}, uint64_t seed = 7) : Rig<M>(s, B, T, recompute, config), x(B * T), y(B * T), host(p.table.total) {
        Rng rng{seed, 0, 0};
        for (const Tensor &t : p.table.tensors)
            for (int64_t i = 0; i < t.count; i++) host[t.offset + i] = strong_weight<M>(t, i, rng);
        for (int &v : x) v = rng.next() % s.V;
        for (int &v : y) v = rng.next() % s.V;
        this->set(host);
    }
    ModelInput all(const real *in = nullptr, real *out = nullptr, const uint8_t *reset = nullptr) { return input(x, y, B, T, in, out, reset); }
    // rows [first, first + n) of the batch, columns [from, to)
    ModelInput part(int first, int n, int from, int to, const real *in = nullptr, real *out = nullptr) {
        auto cut = [&](const std::vector<int> &v) {
            std::vector<int> c;
            for (int b = first; b < first + n; b++) c.insert(c.end(), v.begin() + b * T + from, v.begin() + b * T + to);
            return c;
        };
        return input(cut(x), cut(y), n, to - from, in, out, nullptr, from);
    }
    std::vector<real> gradients(const ModelInput &in, int64_t count) {
        this->zero_grads(), this->forward(in), this->backward(in, count);
        return p.get(p.grads);
    }
    void check_same(const std::vector<real> &a, const std::vector<real> &b, double tolerance, const char *what) {
        for (const Tensor &t : p.table.tensors) {
            double e = worst(a.data() + t.offset, b.data() + t.offset, t.count);
            CHECK(e <= tolerance, "%s: %s differs by %.2e, limit %.2e", what, t.name.c_str(), e, tolerance);
        }
    }
};

// g, laid out like `host` by the table = difference quotients of loss(), which reads `host`: of every element, or of
// `some` of each tensor. An error of a quotient is h^2 times the third derivative, about 1e-8 (fp64 only).
template<class Loss> void check_quotients(const TensorTable &table, std::vector<real> &host, const std::vector<real> &g, Loss loss, int some = 0) {
    Rng rng{5, 0, 0};
    for (const Tensor &t : table.tensors)
        for (int64_t k = 0; k < (some ? some : t.count); k++) {
            int64_t i = t.offset + (some ? rng.next() % t.count : k);
            double keep = host[i], h = 1e-5;
            host[i] = keep + h;
            double up = loss();
            host[i] = keep - h;
            double d = (up - loss()) / (2 * h);
            host[i] = keep;
            CHECK(fabs(d - g[i]) <= 2e-7 * (1 + fabs(d)), "%s[%lld]: gradient %.10g, difference quotient %.10g", t.name.c_str(), (long long)(i - t.offset), (double)g[i], d);
        }
}

// Every parameter's gradient = its difference quotient (fp64 only). L2Wrap included: its gradient is that of
// 0.5 l2wrap mean (max z)^2. With `dropout` every forward draws the same mask.
template<class M> void test_finite_differences(Shape s, int B, int T, typename M::Config config = {}, bool dropout = false) {
    Random<M> rig(s, B, T, 0, config);
    ModelInput in = rig.all();
    if (dropout) in.draw = rig.draw.p;
    std::vector<real> g = rig.gradients(in, in.BT()), w = rig.host;
    auto loss = [&] {
        rig.p.set(w, rig.p.master);
        double l = rig.loss(in);
        std::vector<double> z = rig.logits(in);
        for (int64_t i = 0; i < in.BT(); i++) l += 0.5e-4 / in.BT() * pow(*std::max_element(z.begin() + i * s.V, z.begin() + (i + 1) * s.V), 2);
        return l;
    };
    check_quotients(rig.p.table, w, g, loss);
}
// Every tensor's gradient along a random direction = the difference quotient: for shapes with too many parameters to try
// each, and for batches of so many rows that kernels need several blocks, warps and rounds.
template<class M> void test_directions(Shape s, int B, int T, typename M::Config config = {}) {
    Random<M> rig(s, B, T, 0, config);
    ModelInput in = rig.all();
    rig.zero_grads(), rig.forward(in), rig.backward(in, in.BT(), nullptr, nullptr, 0);
    std::vector<real> g = rig.p.get(rig.p.grads), w = rig.host;
    Rng rng{3, 0, 0};
    for (const Tensor &t : rig.p.table.tensors) {
        double slope = 0, h = 1e-5 / sqrt((double)t.count), loss[2];
        std::vector<real> direction(t.count);
        for (int64_t i = 0; i < t.count; i++) direction[i] = rng.normal(), slope += direction[i] * g[t.offset + i];
        for (int side : {0, 1}) {
            for (int64_t i = 0; i < t.count; i++) w[t.offset + i] = rig.host[t.offset + i] + (side ? -h : h) * direction[i];
            rig.p.set(w, rig.p.master), loss[side] = rig.loss(in);
        }
        std::copy_n(rig.host.begin() + t.offset, t.count, w.begin() + t.offset);
        double d = (loss[0] - loss[1]) / (2 * h);
        CHECK(fabs(d - slope) <= 1e-6 * (1 + fabs(d)), "C %d, %d x %d, %s: slope %.10g, difference quotient %.10g", s.C, B, T, t.name.c_str(), slope, d);
    }
}
// A token changes no logit before it, not by one bit; but those of its block, the tokens that a kernel takes at once, by rounding
template<class M> void test_causal(Shape s, typename M::Config config = {}, int block = 1) {
    int T = 33, t = 20, V = s.V, before = t / block * block;
    Random<M> rig(s, 2, T, 0, config);
    ModelInput in = rig.all();
    rig.forward(in);
    std::vector<double> a = rig.logits(in);
    rig.x[t] = (rig.x[t] + 1) % V;
    in = rig.all();
    rig.forward(in);
    std::vector<double> b = rig.logits(in);
    CHECK(std::equal(a.begin(), a.begin() + before * V, b.begin()), "an earlier position of the sequence changed");
    for (int i = before * V; i < t * V; i++) CHECK(fabs(a[i] - b[i]) <= TOLERANCE, "an earlier position of the sequence changed by %g", fabs(a[i] - b[i]));
    CHECK(std::equal(a.begin() + T * V, a.end(), b.begin() + T * V), "another sequence changed");
    CHECK(!std::equal(a.begin() + t * V, a.begin() + (t + 1) * V, b.begin() + t * V), "its own position did not change");
    CHECK(!std::equal(a.begin() + (t + 5) * V, a.begin() + (t + 6) * V, b.begin() + (t + 5) * V), "later positions did not change");
}
// A sequence does not depend on the others of its batch
template<class M> void test_batch_rows(Shape s, typename M::Config config = {}) {
    int B = 3, T = 17;
    Random<M> rig(s, B, T, 0, config);
    ModelInput in = rig.all();
    rig.forward(in);
    std::vector<double> all = rig.logits(in);
    for (int b = 0; b < B; b++) {
        ModelInput one = rig.part(b, 1, 0, T);
        rig.forward(one);
        std::vector<double> z = rig.logits(one);
        double e = worst(z.data(), all.data() + b * T * s.V, z.size());  // cuBLAS may choose another kernel for another shape
        CHECK(e <= TOLERANCE / 10, "sequence %d alone differs by %.2e", b, e);
    }
}
// Parallel logits and final state are those of `step` tokens at a time. A model with a KV cache gets the same memory
// as state_in and state_out.
template<class M> void test_gpt_is_rnn(Shape s, int step = 1, typename M::Config config = {}) {
    int B = 2, T = 37, V = s.V;
    Random<M> rig(s, B, T, 0, config);
    int64_t n = rig.model->state_count(B);
    DeviceArray<real> whole(n), s0(n), s1(n);
    whole.zero(), s0.zero(), s1.zero();
    ModelInput in = rig.all(nullptr, whole.p);
    rig.forward(in);
    std::vector<double> z = rig.logits(in);
    real *now = s0.p, *next = M::recurrent ? s1.p : s0.p;
    for (int t = 0; t < T; t += step) {
        int len = std::min(step, T - t);
        ModelInput piece = rig.part(0, B, t, t + len, t ? now : nullptr, next);
        rig.forward(piece);
        std::vector<double> one = rig.logits(piece);
        for (int b = 0; b < B; b++) {
            double e = worst(one.data() + b * len * V, z.data() + (b * T + t) * V, (int64_t)len * V);
            CHECK(e <= TOLERANCE, "logits at t = %d differ by %.2e", t, e);
        }
        std::swap(now, next);
    }
    if (!ON_GPU) {
        std::vector<real> last(n);
        cudaCheck(cudaMemcpy(last.data(), now, n * sizeof(real), cudaMemcpyDeviceToHost));
        double e = worst(last.data(), whole.get().data(), n);
        CHECK(e <= TOLERANCE, "final states differ by %.2e", e);
    }
    // The states say the same, which on a GPU need not be the same numbers: RWKV-4's sums have a common exponent of any size
    auto after = [&](const real *state) {
        ModelInput more = rig.part(0, B, 0, 5, state, M::recurrent ? nullptr : (real *)state);
        more.past = T;
        rig.forward(more);
        return rig.logits(more);
    };
    if (T + 5 > rig.model->max_past()) return;
    std::vector<double> a = after(whole.p), b = after(now);
    double e = worst(b.data(), a.data(), a.size());
    CHECK(e <= TOLERANCE, "logits after the final states differ by %.2e", e);
}
// Two chunks with the state and its gradient carried = the whole sequence
template<class M> void test_chunks(Shape s, typename M::Config config = {}, double tolerance = TOLERANCE, int least = 1) {
    for (int cut : {1, 15, 16, 20}) {
        if (cut < least) continue;
        int T = 33, B = 2;
        Random<M> rig(s, B, T, 0, config);
        ModelInput in = rig.all();
        rig.zero_grads(), rig.forward(in);
        double loss = rig.backward(in, in.BT());
        std::vector<real> whole = rig.p.get(rig.p.grads);
        int64_t n = rig.model->state_count(B);
        DeviceArray<real> mid(n), end(n), dmid(n);
        rig.zero_grads();
        rig.forward(rig.part(0, B, 0, cut, nullptr, mid.p));
        ModelInput second = rig.part(0, B, cut, T, mid.p, end.p);
        rig.forward(second);
        double l = rig.backward(second, B * T, nullptr, dmid.p);
        ModelInput first = rig.part(0, B, 0, cut, nullptr, mid.p);
        rig.forward(first);
        l += rig.backward(first, B * T, dmid.p, nullptr);
        CHECK(fabs(l - loss) <= LOSS_TOLERANCE * loss, "loss %.8f in chunks, %.8f whole", l, loss);
        rig.check_same(rig.p.get(rig.p.grads), whole, tolerance, format("cut at %d", cut).c_str());
    }
}
// Gradients of two half batches add up to those of the whole batch, L2Wrap included
template<class M> void test_accumulation(Shape s, typename M::Config config = {}) {
    int B = 4, T = 9;
    Random<M> rig(s, B, T, 0, config);
    std::vector<real> whole = rig.gradients(rig.all(), B * T);
    rig.zero_grads();
    for (int h = 0; h < 2; h++) {
        ModelInput in = rig.part(h * B / 2, B / 2, 0, T);
        rig.forward(in), rig.backward(in, B * T);
    }
    rig.check_same(rig.p.get(rig.p.grads), whole, TOLERANCE, "accumulated");
}
// Recompute changes the memory (to under most1, most2 of the activations), not one bit of the gradients
template<class M> void test_recompute(Shape s, double most1, double most2, typename M::Config config = {}, bool dropout = false) {
    std::vector<real> g[3];
    size_t bytes[3];
    for (int level = 0; level < 3; level++) {
        Random<M> rig(s, 2, 33, level, config);
        for (auto &[name, n] : rig.arena.groups()) if (name == "activations") bytes[level] = n;
        ModelInput in = rig.all();
        if (dropout) in.draw = rig.draw.p;
        g[level] = rig.gradients(in, 66);
    }
    CHECK(g[0] == g[1] && g[0] == g[2], "the gradients differ");
    CHECK(bytes[1] < most1 * bytes[0] && bytes[2] < most2 * bytes[0], "activations %zu, %zu, %zu", bytes[0], bytes[1], bytes[2]);
}
// With resets, packed documents = each document alone, loss and gradients
template<class M> void test_resets(Shape s, typename M::Config config = {}) {
    int lengths[] = {7, 1, 16, 13}, T = 37;
    Random<M> rig(s, 1, T, 0, config);
    std::vector<uint8_t> mask(T);
    double losses = 0;
    rig.zero_grads();
    for (int i = 0, at = 0; i < 4; at += lengths[i++]) {
        mask[at] = at > 0;
        ModelInput in = rig.part(0, 1, at, at + lengths[i]);
        rig.forward(in);
        losses += rig.backward(in, T);
    }
    std::vector<real> alone = rig.p.get(rig.p.grads);
    DeviceArray<uint8_t> reset(mask);
    ModelInput in = rig.all(nullptr, nullptr, reset.p);
    rig.zero_grads(), rig.forward(in);
    double packed = rig.backward(in, T);
    CHECK(fabs(packed - losses) <= LOSS_TOLERANCE * losses, "loss %.8f packed, %.8f alone", packed, losses);
    rig.check_same(rig.p.get(rig.p.grads), alone, TOLERANCE, "packed");
}
// The rows that pad the vocabulary get no gradient
template<class M> void test_padding(Shape s, typename M::Config config = {}) {
    Random<M> rig(s, 2, 5, 0, config);
    std::vector<real> g = rig.gradients(rig.all(), 10);
    for (const Tensor &t : rig.p.table.tensors) {
        if (t.row->shape[0] != 'V') continue;
        int64_t stored = t.count / t.shape[0] * padded_vocab(s.V);
        for (int64_t i = t.count; i < stored; i++) CHECK(g[t.offset + i] == 0, "%s has a gradient in its padding", t.name.c_str());
    }
}
