/* tests/rwkv4.h: RWKV-4 against PyTorch (tests/data, written by dev/reference/rwkv4.py), against finite differences
   in fp64, and against itself: chunked = whole, GPT mode = RNN mode, accumulation = big batch, causality, ... */
#pragma once
#include "model.h"

// A state of the reference, (L,5,B,C) in our layout: pp is a natural exponent there, base 2 here
static std::vector<real> state_of(const Reference &ref, const std::string &prefix) {
    std::vector<real> all;
    for (int l = 0; l < ref.s.L; l++)
        for (const char *part : {"att_x", "ffn_x", "aa", "bb", "pp"}) {
            std::string name = prefix + "/" + std::to_string(l) + "/" + part;
            std::vector<double> v = ref.file.find(name) ? ref.get(name) : std::vector<double>((size_t)ref.B * ref.s.C);
            for (double d : v) all.push_back(part[0] == 'p' ? d / log(2.0) : d);
        }
    return all;
}

static void check_states(const Reference &ref, const char *name, const std::vector<real> &ours, bool gradient) {
    std::vector<real> want = state_of(ref, name);
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
static void test_against(const char *name, bool with_state) {
    Reference ref(name);
    Rig<RWKV4> rig(ref.s, ref.B, ref.T);
    rig.set(rig.p.read(ref.file, "param/"));
    rig.zero_grads();
    int64_t n = rig.model->state_count(ref.B);
    DeviceArray<real> in(n), out(n), dout(n), din(n);
    if (with_state) in.set(state_of(ref, "state_in")), dout.set(state_of(ref, "dstate_out"));
    ModelInput input = rig.input(ref.x, ref.y, ref.B, ref.T, with_state ? in.p : nullptr, out.p);
    rig.forward(input);
    std::vector<double> z = rig.logits(input), want = ref.get("logits");
    double error = worst(z.data(), want.data(), z.size());
    CHECK(error <= TOLERANCE, "logits: error %.2e", error);
    check_states(ref, "state_out", out.get(), false);
    if (with_state) {  // the reference's gradients are relative to its own exponents: move them to ours
        std::vector<real> d = state_of(ref, "dstate_out"), o = out.get(), r = state_of(ref, "state_out");
        int64_t m = (int64_t)ref.B * ref.s.C;
        for (int l = 0; l < ref.s.L; l++)
            for (int part : {2, 3}) for (int64_t j = 0; j < m; j++) d[(l * 5 + part) * m + j] *= exp2((double)o[(l * 5 + 4) * m + j] - r[(l * 5 + 4) * m + j]);
        dout.set(d);
    }
    double loss = rig.backward(input, ref.B * ref.T, with_state ? dout.p : nullptr, with_state ? din.p : nullptr), expected = ref.get("loss")[0];
    CHECK(fabs(loss - expected) <= LOSS_TOLERANCE * expected, "loss %.8f, expected %.8f", loss, expected);
    check_tensors(ref, rig.p, "grad/", rig.p.get(rig.p.grads), TOLERANCE);
    if (with_state) check_states(ref, "dstate_in", din.get(), true);
}
TEST("rwkv4: logits, loss, final state and every gradient = PyTorch") { test_against("rwkv4_a.safetensors", false); }
TEST("rwkv4: with an initial state and a gradient into the final state = PyTorch") { test_against("rwkv4_b.safetensors", true); }

// ------------------------------------------------------------------------------------------------
// training steps

TEST("rwkv4: parameters after three AdamW steps with clipping and decay = PyTorch") { test_adam_steps<RWKV4>("rwkv4_a.safetensors"); }
TEST("adamw: a gradient norm that is not finite leaves everything as it was") {
    Rig<RWKV4> rig({11, 8, 32, 1}, 1, 3);
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

#ifdef PRECISION_FP64
TEST("rwkv4: every parameter's gradient = finite differences, at odd shapes") {
    test_finite_differences<RWKV4>({7, 6, 10, 2}, 2, 5);
    test_finite_differences<RWKV4>({5, 3, 7, 3}, 1, 18);
    test_finite_differences<RWKV4>({5, 8, 16, 1}, 3, 1);
}
TEST("rwkv4: every tensor's gradient along a random direction = finite differences, for a thousand rows") { test_directions<RWKV4>({17, 48, 40, 2}, 7, 150); }
#endif

// ------------------------------------------------------------------------------------------------
// properties of the model

TEST("rwkv4: causal: a token changes no logit before it, not by one bit") { test_causal<RWKV4>({19, 24, 40, 2}); }
TEST("rwkv4: a sequence does not depend on the others of its batch") { test_batch_rows<RWKV4>({19, 24, 40, 2}); }
TEST("rwkv4: GPT mode = RNN mode: parallel logits and state are those of one token at a time") { test_gpt_is_rnn<RWKV4>({19, 24, 40, 3}); }
TEST("rwkv4: two chunks with the state and its gradient carried = the whole sequence") { test_chunks<RWKV4>({19, 24, 40, 2}); }
TEST("rwkv4: gradients of two half batches add up to those of the whole batch, L2Wrap included") { test_accumulation<RWKV4>({19, 24, 40, 2}); }
TEST("rwkv4: recompute changes the memory, not one bit of the gradients") { test_recompute<RWKV4>({19, 32, 128, 4}, 0.85, 0.55); }
TEST("rwkv4: with resets, packed documents = each document alone, loss and gradients") { test_resets<RWKV4>({19, 24, 40, 2}); }
TEST("rwkv4: the padding of the vocabulary stays zero, in weights and gradients") { test_padding<RWKV4>({19, 24, 40, 1}); }
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
TEST("wkv: one key far from the others, at every step of a chunk, below and above where the reference moves") {
    for (double jump : {-100., -29., -26., 26., 29., 100.})  // it moves beyond 2^40 = e^27.7, fp32 ends at e^88
        for (int warps : {1, 3}) {
            WkvProblem p(2, 18 * WKV_CHUNK, 20, 1, true, 13);
            for (int i = 0; i < WKV_CHUNK; i++)
                for (int c = 0; c < 20; c++) p.k[(i * WKV_CHUNK + i) * 20 + c] = (floatX)(float)jump;
            for (auto &d : p.dstate) d *= WKV_LO;  // A and B may be 2^40 of their unit, and dk as many of dstate: fp16 ends at 2^16
            WkvRun got = p.run(warps);
            p.check(got, p.reference(got), 10 * WKV_TOLERANCE, "one far key");
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
        RWKV4::Config config;
        Rig<RWKV4> rig(RWKV4::shape_of(file, config), 1, 64);
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
        ModelInput in = rig.input(ids, ids, 1, 64);
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
