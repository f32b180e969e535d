/* tests/rwkv7.h: RWKV-7 against PyTorch (tests/data, written by dev/reference/rwkv7.py), against finite differences in
   fp64, against itself (tests/model.h), its initialisation, its files, and the kernels around the recurrence at every
   head size against difference quotients of a plain version. The recurrence has tests of its own: tests/wkv7.h. */
#pragma once
#include "model.h"
#include "scratch.h"

static RWKV7::Config rwkv7_config(int N, int w, int a, int v, int g) {
    RWKV7::Config c;
    c.head_size = N, c.lora_w = w, c.lora_a = a, c.lora_v = v, c.lora_g = g;
    return c;
}
static const RWKV7::Config rwkv7_small = rwkv7_config(16, 5, 3, 2, 7);

// Strong weights: nothing is near zero, decays from almost none to the strongest
template<> real strong_weight<RWKV7>(const Tensor &t, int64_t, Rng &rng) {
    auto has = [&](const char *part) { return t.name.find(part) != std::string::npos; };
    if (has("att.w0")) return -8 + 12 * rng.uniform();
    if (has(".x_") || has("k_a")) return rng.uniform() * 1.2 - 0.1;
    if (has("k_k")) return 0.3 + rng.uniform();
    if (has("r_k")) return 0.5 * rng.normal();
    if (has("ln") && has("weight")) return 0.5 + rng.uniform();
    return t.matrix() ? rng.normal() / sqrt((double)t.shape[1]) : rng.normal();
}

// ------------------------------------------------------------------------------------------------
// against PyTorch

static std::vector<real> rwkv7_state_of(const Reference &ref, const std::string &prefix) {
    std::vector<real> all;
    for (int l = 0; l < ref.s.L; l++)
        for (const char *part : {"att_x", "ffn_x", "S"})
            for (double d : ref.get(format("%s/%d/%s", prefix.c_str(), l, part))) all.push_back(d);
    return all;
}
static void check_rwkv7_states(const Reference &ref, const Rig<RWKV7> &rig, const char *name, const std::vector<real> &ours) {
    std::vector<real> want = rwkv7_state_of(ref, name);
    int64_t layer = rig.model->layer_state(ref.B), BC = (int64_t)ref.B * ref.s.C;
    for (int l = 0; l < ref.s.L; l++)
        for (int64_t from : {(int64_t)0, BC, 2 * BC}) {
            double error = worst(ours.data() + l * layer + from, want.data() + l * layer + from, from < 2 * BC ? BC : layer - 2 * BC);
            CHECK(error <= TOLERANCE, "%s, layer %d, %s: error %.2e", name, l, from == 0 ? "att_x" : from == BC ? "ffn_x" : "S", error);
        }
}
static RWKV7::Config rwkv7_config_of(const Reference &ref) {
    auto n = [&](const char *key) { return atoi(ref.file.metadata.at(key).c_str()); };
    return rwkv7_config(n("N"), n("lora-w"), n("lora-a"), n("lora-v"), n("lora-g"));
}
// The parameters are in file a; gradients, with an initial state and a gradient into the final one, in b
static void test_rwkv7_against(const char *name, int recompute) {
    Reference ref(name), a("rwkv7_a.safetensors");
    Rig<RWKV7> rig(ref.s, ref.B, ref.T, recompute, rwkv7_config_of(ref));
    rig.set(rig.p.read(a.file, "param/"));
    rig.zero_grads();
    bool with_state = ref.file.find("state_in/0/S");
    int64_t n = rig.model->state_count(ref.B);
    DeviceArray<real> in(n), out(n), dout(n), din(n);
    if (with_state) in.set(rwkv7_state_of(ref, "state_in")), dout.set(rwkv7_state_of(ref, "dstate_out"));
    ModelInput input = rig.input(ref.x, ref.y, ref.B, ref.T, with_state ? in.p : nullptr, out.p);
    rig.forward(input);
    std::vector<double> z = rig.logits(input), want = ref.get("logits");
    double error = worst(z.data(), want.data(), z.size());
    CHECK(error <= TOLERANCE, "logits: error %.2e", error);
    check_rwkv7_states(ref, rig, "state_out", out.get());
    double loss = rig.backward(input, ref.B * ref.T, with_state ? dout.p : nullptr, with_state ? din.p : nullptr), expected = ref.get("loss")[0];
    CHECK(fabs(loss - expected) <= LOSS_TOLERANCE * expected, "loss %.8f, expected %.8f", loss, expected);
    if (!with_state) return;
    check_tensors(ref, rig.p, "grad/", rig.p.get(rig.p.grads), TOLERANCE);
    check_rwkv7_states(ref, rig, "dstate_in", din.get());
}
TEST("rwkv7: logits, loss and final state = PyTorch") { test_rwkv7_against("rwkv7_a.safetensors", 0); }
TEST("rwkv7: every gradient, with an initial state and a gradient into the final state = PyTorch, at every recompute level") {
    for (int level = 0; level < 3; level++) test_rwkv7_against("rwkv7_b.safetensors", level);
}
TEST("rwkv7: parameters after three AdamW steps (eps 1e-18, decay, 2x rate of w0) = PyTorch") {
    test_adam_steps<RWKV7>("rwkv7_a.safetensors", rwkv7_config_of(Reference("rwkv7_a.safetensors")), 1e-3, 0.99, 1e-18);
}
#ifdef PRECISION_FP64
TEST("rwkv7: every parameter's gradient = finite differences") { test_finite_differences<RWKV7>({7, 32, 3, 2}, 1, 5, rwkv7_config(16, 3, 1, 2, 5)); }
TEST("rwkv7: every tensor's gradient along a random direction = finite differences, at odd shapes and all head sizes") {
    struct { Shape s; int B, T, N; } cases[] = {{{5, 32, 3, 3}, 1, 18, 32}, {{7, 96, 10, 2}, 2, 17, 48}, {{5, 128, 7, 2}, 1, 33, 64}, {{5, 80, 7, 2}, 3, 1, 80}, {{6, 128, 9, 2}, 2, 16, 128}, {{5, 16, 7, 1}, 1, 2, 16}, {{17, 64, 40, 2}, 7, 150, 16}};
    for (auto &c : cases) test_directions<RWKV7>(c.s, c.B, c.T, rwkv7_config(c.N, 3, 40, 2, 5));
}
#endif

// ------------------------------------------------------------------------------------------------
// properties of the model

static const Shape rwkv7_shape = {19, 64, 40, 3};  // 4 heads of 16
TEST("rwkv7: causal: a token changes no logit before it, not by one bit") { test_causal<RWKV7>(rwkv7_shape, rwkv7_small, ON_GPU ? WKV7_CHUNK : 1); }
TEST("rwkv7: a sequence does not depend on the others of its batch") { test_batch_rows<RWKV7>(rwkv7_shape, rwkv7_small); }
TEST("rwkv7: GPT mode = RNN mode: parallel logits and state are those of one token at a time") {
    test_gpt_is_rnn<RWKV7>(rwkv7_shape, 1, rwkv7_small);
    test_gpt_is_rnn<RWKV7>({19, 128, 40, 2}, 1, rwkv7_config(64, 5, 3, 2, 7));
    test_gpt_is_rnn<RWKV7>({19, 160, 40, 2}, 5, rwkv7_config(80, 5, 3, 2, 7));
}
TEST("rwkv7: two chunks with the state and its gradient carried = the whole sequence") {
    // A cut moves the chunks in which a GPU multiplies. One token alone has r.k from a single product, which may cancel, and then
    // GroupNorm multiplies its rounding: in 16 bits the gradients of the two ways are 0.65 apart (bf16) and 0.08 (fp16).
    const double tolerance = (ON_GPU ? 4 : 1) * TOLERANCE;
    const int least = ON_GPU && has_master ? 2 : 1;
    test_chunks<RWKV7>(rwkv7_shape, rwkv7_small, tolerance, least);
    test_chunks<RWKV7>({19, 128, 40, 2}, rwkv7_config(64, 5, 3, 2, 7), tolerance, least);
}
TEST("rwkv7: gradients of two half batches add up to those of the whole batch, L2Wrap included") { test_accumulation<RWKV7>(rwkv7_shape, rwkv7_small); }
TEST("rwkv7: recompute changes the memory, not one bit of the gradients") {
    test_recompute<RWKV7>({19, 64, 256, 4}, 0.7, 0.4, rwkv7_small);
    test_recompute<RWKV7>({19, 64, 256, 1}, 1.5, 1.5, rwkv7_small);  // one layer: nothing to share
}
TEST("rwkv7: with resets, packed documents = each document alone, loss and gradients") { test_resets<RWKV7>(rwkv7_shape, rwkv7_small); }
TEST("rwkv7: the padding of the vocabulary stays zero, in weights and gradients") { test_padding<RWKV7>(rwkv7_shape, rwkv7_small); }
TEST("rwkv7: a batch on used buffers = the same on fresh ones, bit for bit") {  // nothing is left over from the step before
    Random<RWKV7> rig(rwkv7_shape, 2, 33, 0, rwkv7_small);
    std::vector<real> g = rig.gradients(rig.all(), 66);
    ModelInput other = rig.part(0, 1, 3, 20);
    rig.gradients(other, 17);
    CHECK(rig.gradients(rig.all(), 66) == g, "the gradients changed");
}

// ------------------------------------------------------------------------------------------------
// the initialisation, learning rates, groups, sizes

// The length of every row or column of w, whichever are fewer, and that they are orthogonal: all singular values are `gain`
static void check_singular_values(const Tensor &t, const real *w, double gain) {
    int64_t rows = t.shape[0], cols = t.shape[1], n = std::min(rows, cols), m = std::max(rows, cols);
    for (int64_t a = 0; a < n; a++)
        for (int64_t b = 0; b <= a; b++) {
            double dot = 0;
            for (int64_t k = 0; k < m; k++) dot += rows < cols ? (double)w[a * cols + k] * w[b * cols + k] : (double)w[k * cols + a] * w[k * cols + b];
            CHECK(fabs(dot - (a == b ? gain * gain : 0)) <= 1e-5 * (gain * gain + 1e-6), "%s: %lld and %lld have product %g, gain %g", t.name.c_str(), (long long)a, (long long)b, dot, gain);
        }
}
TEST("rwkv7: the initialisation is the official one: vectors exactly, matrices by singular values, ranges and zeros") {
    TensorFile file("tests/data/rwkv7_init.safetensors");
    Parameters p;
    Shape s = {65, 32, 128, 3};
    RWKV7::Config config = rwkv7_config(16, 0, 0, 0, 40);  // the gate's is wider than C
    RWKV7::complete(s, config, 1);
    p.table = TensorTable(RWKV7::rows(config), s);
    std::vector<real> host = p.initial(3, 1e-4);
    CHECK(host == p.initial(3, 1e-4) && host != p.initial(4, 1e-4), "the seed does not decide");
    struct { const char *part; double gain; } gains[] = {  // 0: all zero
        {".w1", 0}, {".a1", 0}, {".v1", 0}, {".g1", 0}, {".w2", 0.1}, {".a2", 0.1}, {".v2", 0.1}, {".g2", 0.1 * sqrt(40 / 32.)},
        {"receptance", 1}, {"att.key", 0.1}, {"att.value", 1}, {"output", 0}, {"ffn.key", 1}, {"ffn.value", 0}, {"head", 0.5 * sqrt(65 / 32.)}};
    int matrices = 0, vectors = 0;
    for (const Tensor &t : p.table.tensors) {
        const real *w = host.data() + t.offset;
        bool done = t.name == "emb.weight";
        if (done) {
            real most = *std::max_element(w, w + t.count), least = *std::min_element(w, w + t.count);
            CHECK(most <= 1e-4 && most > 0.98e-4 && least >= -1e-4 && least < -0.98e-4, "emb.weight is in [%g, %g]", (double)least, (double)most);
        }
        for (auto &g : gains) {
            if (done || t.name.find(g.part) == std::string::npos) continue;
            if (g.gain == 0) for (int64_t i = 0; i < t.count; i++) CHECK(w[i] == 0, "%s is not zero", t.name.c_str());
            else check_singular_values(t, w, g.gain);
            done = true, matrices++;
        }
        if (done) continue;
        std::vector<double> want(t.count);
        file.read("param/" + t.name, t.shape, want.data());
        CHECK(worst(w, want.data(), t.count) <= 1e-6, "%s", t.name.c_str());
        vectors++;
    }
    CHECK(matrices == 3 * 14 - 2 + 1 && vectors == (int)file.tensors.size(), "%d matrices, %d vectors were compared", matrices, vectors);
}
TEST("rwkv7: LoRA widths and numbers of parameters are the official ones") {
    struct { Shape s; int w, a, v, g; long long count; } models[] = {  // published files: older widths from 0.4B on
        {{65536, 768, 0, 12}, 64, 64, 32, 128, 191034624}, {{50304, 768, 0, 12}, 64, 64, 32, 128, 167688192 - 768 - 2 * 768 * 32},
        {{65536, 1024, 0, 24}, 64, 64, 32, 128, 450767872}, {{50304, 1024, 0, 24}, 64, 64, 32, 160, 421145600}};
    for (auto &m : models) {
        RWKV7::Config c = rwkv7_config(0, m.w, m.a, m.v, m.g);
        RWKV7::complete(m.s, c, 1);
        long long count = TensorTable(RWKV7::rows(c), m.s).count;
        CHECK(count == m.count, "L%d C%d has %lld parameters, expected %lld", m.s.L, m.s.C, count, m.count);
    }
    int widths[][5] = {{768, 64, 64, 32, 128}, {1024, 64, 64, 64, 160}, {2048, 128, 128, 64, 224}, {2560, 128, 128, 96, 256}, {4096, 160, 160, 96, 320}};
    for (auto &w : widths) {
        Shape s = {65536, w[0], 0, 2};
        RWKV7::Config c;
        RWKV7::complete(s, c, 1);
        CHECK(c.lora_w == w[1] && c.lora_a == w[2] && c.lora_v == w[3] && c.lora_g == w[4], "C = %d: %d %d %d %d", w[0], s['w'], s['a'], s['v'], s['g']);
        CHECK(s.F == 4 * w[0] && s['n'] == 64 && s['h'] == w[0] / 64, "F %d, heads %d x %d", s.F, s['h'], s['n']);
    }
}
TEST("rwkv7: 0.1B at ctx 512, batch 16 trains within 8 GB in 16 bits with recompute") {
    if (!has_master) SKIP("planned for 16-bit activations");
    for (int level : {1, 2}) {
        Shape s = {65536, 768, 0, 12};
        RWKV7::Config c;
        RWKV7::complete(s, c, 512);
        Parameters p;
        p.table = TensorTable(RWKV7::rows(c), s);
        RWKV7 model(p, c, 16, 512, level);
        Arena arena;
        p.plan(arena, true), model.plan(arena);
        std::string line;
        for (auto &[name, bytes] : arena.groups()) line += format("%s %.2f GB, ", name.c_str(), bytes / 1e9);
        CHECK(arena.total < (level == 1 ? 9.5e9 : 6.5e9), "level %d: %s%.2f GB in all", level, line.c_str(), arena.total / 1e9);
    }
}
TEST("rwkv7: the twelve learning rates of the official MiniPile run") {
    TrainDefaults d = RWKV7::defaults();
    Schedule s{"cosine", d.lr, d.lr_final, 10, 182890};  // 1,498,226,207 tokens of 16 x 512 a step
    double want[] = {.00059975, .00059899, .00059773, .00059597, .00059371, .00059096, .00058771, .00058399, .00057978, .00057511, .00056999, .00056441};
    for (int i = 0; i < 12; i++) {
        double lr = learning_rate(s, 2520 * (i + 1) - 1);
        CHECK(fabs(lr - want[i]) <= 0.5001e-8, "mini-epoch %d: %.9f, expected %.8f", i, lr, want[i]);
    }
    CHECK(d.eps == 1e-18 && d.beta2 == 0.99 && d.l2wrap == 1e-4 && d.weight_decay == 1e-3, "eps %g beta2 %g l2wrap %g decay %g", d.eps, d.beta2, d.l2wrap, d.weight_decay);
}
TEST("rwkv7: weight decay on the large matrices only, twice the learning rate on w0 only") {
    Rig<RWKV7> rig(rwkv7_shape, 1, 1, 0, rwkv7_small);
    Groups groups;
    std::vector<uint8_t> of = groups.assign(rig.p.table, 0.1);
    for (const Tensor &t : rig.p.table.tensors) {
        bool decays = t.name.find(".weight") != std::string::npos && t.shape.size() == 2, twice = t.name.find("att.w0") != std::string::npos;
        int g = of[t.offset / 64];
        CHECK(groups.decay[g] == (decays ? real(0.1) : 0) && groups.factor[g] == (twice ? 2 : 1), "%s has decay %g and factor %g", t.name.c_str(), (double)groups.decay[g], (double)groups.factor[g]);
    }
}

// ------------------------------------------------------------------------------------------------
// the kernels around the recurrence, at every head size: outputs = a plain version in fp64, gradients = its difference
// quotients. sum = sum over everything that prepare and out write, times given numbers.

struct Around {
    enum { R, K, V, WL, AL, VL, V_FIRST, G, Y, INPUTS };                       // (rows,C)
    enum { W0, A0, V0, K_K, K_A, R_K, LN_W, LN_B, VECTORS };                   // (C)
    enum { W, KP, VP, MINUS_KK, KKA, OUT, OUTPUTS };                           // (rows,C)
    int rows, H, N, C;
    bool layer0;
    std::vector<double> in[INPUTS], vec[VECTORS], d[OUTPUTS], dr;              // d: of the outputs; dr: of r, from the recurrence

    Around(int rows, int H, int N, bool layer0) : rows(rows), H(H), N(N), C(H * N), layer0(layer0) {
        Rng rng{(uint64_t)N, 0, 0};
        auto fill = [&](std::vector<double> &x, int n, double from, double to) { x.resize(n); for (double &e : x) e = (double)(real)(floatX)(real)(from + (to - from) * rng.uniform()); };
        for (auto &x : in) fill(x, rows * C, -2, 2);
        for (auto &x : vec) fill(x, C, 0.3, 1.3);
        for (auto &x : d) fill(x, rows * C, -1, 1);
        fill(dr, rows * C, -1, 1);
    }
    // the outputs of head h of a row, and their part of the sum
    double sum(int row, int h, double *out[OUTPUTS]) const {
        int at = row * C + h * N, c = h * N;
        auto sigmoid = [](double x) { return 1 / (1 + exp(-x)); };
        double square = 0, bonus = 0, mean = 0, var = 0, total = 0;
        for (int i = 0; i < N; i++) square += pow(in[K][at + i] * vec[K_K][c + i], 2), mean += in[Y][at + i] / N;
        for (int i = 0; i < N; i++) var += pow(in[Y][at + i] - mean, 2) / N;
        double result[OUTPUTS][128];
        for (int i = 0; i < N; i++) {
            double k = in[K][at + i], v = in[V][at + i], a = sigmoid(vec[A0][c + i] + in[AL][at + i]), kk = k * vec[K_K][c + i] / std::max(sqrt(square), 1e-12);
            result[W][i] = vec[W0][c + i] + in[WL][at + i], result[KP][i] = k * (1 + (a - 1) * vec[K_A][c + i]);
            result[MINUS_KK][i] = -kk, result[KKA][i] = kk * a;
            result[VP][i] = layer0 ? v : v + (in[V_FIRST][at + i] - v) * sigmoid(vec[V0][c + i] + in[VL][at + i]);
            bonus += in[R][at + i] * result[KP][i] * vec[R_K][c + i];
        }
        for (int i = 0; i < N; i++) {
            result[OUT][i] = ((in[Y][at + i] - mean) / sqrt(var + 64e-5) * vec[LN_W][c + i] + vec[LN_B][c + i] + bonus * result[VP][i]) * in[G][at + i];
            total += dr[at + i] * in[R][at + i];
            for (int j = 0; j < OUTPUTS; j++) {
                total += d[j][at + i] * result[j][i];
                if (out) out[j][i] = result[j][i];
            }
        }
        return total;
    }
    double slope(double &x, std::function<double()> f) const {
        double keep = x, h = 1e-5;
        x = keep + h;
        double up = f();
        x = keep - h;
        double down = f();
        x = keep;
        return (up - down) / (2 * h);
    }
};
static void check_around(Around p) {
    int rows = p.rows, C = p.C, n = rows * C;
    auto device = [](const std::vector<double> &v) { std::vector<floatX> x(v.size()); for (size_t i = 0; i < v.size(); i++) x[i] = (floatX)(real)v[i]; return std::make_unique<DeviceArray<floatX>>(x); };
    std::unique_ptr<DeviceArray<floatX>> in[Around::INPUTS], out[Around::OUTPUTS], d[Around::OUTPUTS], dr = device(p.dr);
    std::unique_ptr<DeviceArray<real>> vec[Around::VECTORS];
    for (int i = 0; i < Around::INPUTS; i++) in[i] = device(p.in[i]);
    for (int i = 0; i < Around::OUTPUTS; i++) out[i] = device(std::vector<double>(n)), d[i] = device(p.d[i]);
    for (int i = 0; i < Around::VECTORS; i++) vec[i] = std::make_unique<DeviceArray<real>>(std::vector<real>(p.vec[i].begin(), p.vec[i].end()));
    HeadShape s = {rows, p.H, p.N};
    DeviceArray<floatX> dy(n), dg(n);
    std::vector<real> before(n);
    Rng rng{5, 0, 0};
    for (real &x : before) x = rng.normal();
    DeviceArray<real> dv_first(before), partial((int64_t)head_parts(s) * 6 * C), sums(8 * C);
    sums.zero();
    PrepareArgs prepare = {out[Around::W]->p, out[Around::KP]->p, out[Around::VP]->p, out[Around::MINUS_KK]->p, out[Around::KKA]->p, in[Around::K]->p, in[Around::V]->p, in[Around::WL]->p, in[Around::AL]->p,
                           p.layer0 ? nullptr : in[Around::VL]->p, in[Around::V_FIRST]->p, vec[Around::W0]->p, vec[Around::A0]->p, vec[Around::V0]->p, vec[Around::K_K]->p, vec[Around::K_A]->p, s};
    const floatX *vp = p.layer0 ? in[Around::V]->p : out[Around::VP]->p;
    OutArgs gated = {out[Around::OUT]->p, in[Around::Y]->p, in[Around::R]->p, out[Around::KP]->p, vp, in[Around::G]->p, vec[Around::LN_W]->p, vec[Around::LN_B]->p, vec[Around::R_K]->p, s};
    OutBackwardArgs gated_back = {gated, dy.p, dg.p, d[Around::OUT]->p, partial.p};
    PrepareBackwardArgs prepare_back = {prepare, dr->p, d[Around::KP]->p, d[Around::VP]->p, d[Around::KKA]->p, d[Around::MINUS_KK]->p, d[Around::W]->p, dv_first.p, false,
                                        d[Around::OUT]->p, in[Around::G]->p, in[Around::R]->p, vec[Around::R_K]->p, partial.p, p.layer0 ? 5 : 6};
    head_launch(s, [&](auto W, dim3 grid, dim3 block) { prepare_forward_kernel<W.value><<<grid, block>>>(prepare); });
    head_launch(s, [&](auto W, dim3 grid, dim3 block) { out_forward_kernel<W.value><<<grid, block>>>(gated); });
    head_launch(s, [&](auto W, dim3 grid, dim3 block) { out_backward_kernel<W.value><<<grid, block>>>(gated_back); });
    column_sums({{sums.p, sums.p + C}}, partial.p, head_parts(s), 2, C, 0);
    head_launch(s, [&](auto W, dim3 grid, dim3 block) { prepare_backward_kernel<W.value><<<grid, block>>>(prepare_back); });
    column_sums({{sums.p + 2 * C, sums.p + 3 * C, sums.p + 4 * C, sums.p + 5 * C, sums.p + 6 * C, sums.p + 7 * C}}, partial.p, head_parts(s), prepare_back.sums, C, 0);

    // the plain version
    std::vector<double> want[Around::OUTPUTS];
    for (auto &w : want) w.resize(n);
    for (int row = 0; row < rows; row++)
        for (int h = 0; h < p.H; h++) {
            double *to[Around::OUTPUTS];
            for (int j = 0; j < Around::OUTPUTS; j++) to[j] = want[j].data() + row * C + h * p.N;
            p.sum(row, h, to);
        }
    double tolerance = sizeof(floatX) == 8 ? 1e-7 : sizeof(floatX) == 4 ? 2e-5 : std::is_same<floatX, __half>::value ? 4e-3 : 3e-2;  // k' and v' are rounded on the way
    auto check = [&](const char *what, const auto &got, const std::vector<double> &expected) {
        std::vector<double> g(got.size());
        for (size_t i = 0; i < g.size(); i++) g[i] = (double)(real)got[i];
        int64_t at = 0;
        double e = worst(g.data(), expected.data(), expected.size(), &at);
        CHECK(e <= tolerance, "N %d, %s: %s differs by %.2e, limit %.2e; element %lld is %g, expected %g", p.N, p.layer0 ? "layer 0" : "other layers", what, e, tolerance, (long long)at, g[at], expected[at]);
    };
    const char *outputs[] = {"w", "k'", "v'", "-kk", "kk a", "out"};
    for (int j = 0; j < Around::OUTPUTS; j++) if (j != Around::VP || !p.layer0) check(outputs[j], out[j]->get(), want[j]);
    std::vector<double> slopes[Around::INPUTS];
    for (int i = 0; i < Around::INPUTS; i++)
        for (int row = 0; row < rows; row++)
            for (int c = 0; c < C; c++) slopes[i].push_back(p.slope(p.in[i][row * C + c], [&] { return p.sum(row, c / p.N, nullptr); }));
    for (int i = 0; i < n; i++) {
        if (p.layer0) slopes[Around::V][i] += before[i];
        else slopes[Around::V_FIRST][i] += before[i];
    }
    check("dr", dr->get(), slopes[Around::R]), check("dk", d[Around::KP]->get(), slopes[Around::K]), check("dv", d[Around::VP]->get(), slopes[Around::V]);
    check("dal", d[Around::KKA]->get(), slopes[Around::AL]), check("dy", dy.get(), slopes[Around::Y]), check("dg", dg.get(), slopes[Around::G]);
    if (!p.layer0) check("dvl", d[Around::MINUS_KK]->get(), slopes[Around::VL]), check("dv_first", dv_first.get(), slopes[Around::V_FIRST]);
    std::vector<real> all = sums.get();
    int vectors[] = {Around::LN_W, Around::LN_B, Around::W0, Around::A0, Around::K_K, Around::K_A, Around::R_K, Around::V0};
    for (int i = 0; i < (p.layer0 ? 7 : 8); i++) {
        std::vector<double> expected;
        for (int c = 0; c < C; c++)
            expected.push_back(p.slope(p.vec[vectors[i]][c], [&] { double total = 0; for (int row = 0; row < rows; row++) total += p.sum(row, c / p.N, nullptr); return total; }));
        check(format("the gradient of vector %d", vectors[i]).c_str(), std::vector<real>(all.begin() + i * C, all.begin() + (i + 1) * C), expected);
    }
}
TEST("rwkv7: prepare and out, forward and backward, at every head size = difference quotients of a plain version") {
    for (int N = 16; N <= 128; N += 16)
        for (bool layer0 : {false, true}) check_around(Around(7, 2, N, layer0));
    check_around(Around(300, 1, 16, false));  // more tokens than warps
}
TEST("rwkv7: keys that are all zero or tiny, and zeros through GroupNorm, have finite gradients") {
    for (real size : {real(0), real(1e-15)}) {  // 1e-15: below the least norm that keys are divided by
        Random<RWKV7> rig({19, 32, 40, 2}, 1, 9, 0, rwkv7_small);
        for (int l = 0; l < 2; l++)
            for (int64_t at = rig.p.table.offset("att.key.weight", l), i = 0; i < 32 * 32; i++) rig.host[at + i] *= size;
        rig.set(rig.host);
        std::vector<real> g = rig.gradients(rig.all(), 9);
        for (const Tensor &t : rig.p.table.tensors)
            for (int64_t i = 0; i < t.count; i++) CHECK(std::isfinite(g[t.offset + i]), "keys of %g: %s has a gradient of %g", (double)size, t.name.c_str(), (double)g[t.offset + i]);
    }
}

// ------------------------------------------------------------------------------------------------
// files

static void write_fake(const std::string &path, const std::vector<std::pair<std::string, std::vector<int64_t>>> &tensors) {
    std::vector<float> data(1 << 14);
    std::vector<TensorView> views;
    for (auto &[name, shape] : tensors) views.push_back({name, dtype_of<float>, shape, data.data()});
    write_safetensors(path, {}, views);
}
TEST("rwkv7: other models, LoRA widths that contradict and impossible head sizes are refused in one sentence") {
    ScratchDir dir;
    typedef std::vector<std::pair<std::string, std::vector<int64_t>>> Tensors;
    Tensors good = {{"emb.weight", {11, 64}}, {"blocks.0.att.r_k", {4, 16}}, {"blocks.0.ffn.key.weight", {96, 64}}, {"blocks.0.att.w1", {64, 8}}, {"blocks.0.att.w2", {8, 64}},
                    {"blocks.0.att.a1", {64, 6}}, {"blocks.0.att.a2", {6, 64}}, {"blocks.0.att.g1", {64, 12}}, {"blocks.0.att.g2", {12, 64}}, {"blocks.1.att.r_k", {4, 16}},
                    {"blocks.1.att.v1", {64, 5}}, {"blocks.1.att.v2", {5, 64}}};
    auto changed = [&](const char *name, std::vector<int64_t> shape) { Tensors t = good; for (auto &[n, s] : t) if (n == name) s = shape; return t; };
    auto with = [&](const char *name) { Tensors t = good; t.push_back({name, {1}}); return t; };
    auto read = [&](const Tensors &tensors, RWKV7::Config config) {
        write_fake(dir.path + "/x.safetensors", tensors);
        Shape s = RWKV7::shape_of(TensorFile(dir.path + "/x.safetensors"), config);
        RWKV7::complete(s, config, 1);
        return s;
    };
    Shape s = read(good, {});
    CHECK(s.V == 11 && s.C == 64 && s.F == 96 && s.L == 2 && s['h'] == 4 && s['n'] == 16 && s['w'] == 8 && s['a'] == 6 && s['v'] == 5 && s['g'] == 12,
          "V%d C%d F%d L%d %d x %d, %d %d %d %d", s.V, s.C, s.F, s.L, s['h'], s['n'], s['w'], s['a'], s['v'], s['g']);
    struct { Tensors tensors; RWKV7::Config config; const char *message; } bad[] = {
        {with("blocks.0.att.time_maa_x"), {}, "x.safetensors is an RWKV-6 model; this program trains RWKV-7"},
        {with("blocks.0.att.time_faaaa"), {}, "is an RWKV-5 model"},
        {with("blocks.0.att.time_first"), {}, "is an RWKV-4 model; train_rwkv trains it"},
        {with("wte.weight"), {}, "is a GPT-2 model"},
        {with("blocks.0.ffn.receptance.weight"), {}, "is an older RWKV model"},
        {with("blocks.0.ffn.s_emb.weight"), {}, "is an RWKV-7a model"},
        {{{"emb.weight", {11, 64}}}, {}, "is not an RWKV-7 model: it has no blocks.0.att.r_k"},
        {changed("emb.weight", {704}), {}, "emb.weight must be a matrix"},
        {changed("blocks.0.att.r_k", {4, 32}), {}, "r_k is 4 heads of 32 channels, but the model has 64 channels"},
        {changed("blocks.0.att.r_k", {8, 8}), {}, "has heads of 8 channels; this program takes multiples of 16 up to 128"},
        {changed("blocks.0.att.w2", {9, 64}), {}, "blocks.0.att.w1 has a width of 8, but blocks.0.att.w2 of 9"},
        {changed("blocks.1.att.v1", {64, 4}), {}, "blocks.1.att.v1 has a width of 4, but blocks.1.att.v2 of 5"},
        {good, rwkv7_config(0, 9, 0, 0, 0), "has lora-w of 8, but --lora-w says 9; leave the option away"},
        {good, rwkv7_config(32, 0, 0, 0, 0), "has heads of 16, but --head-size says 32; leave the option away"},
    };
    for (auto &b : bad) CHECK_ERROR(read(b.tensors, b.config), b.message);
    auto fresh = [](int C, int N) { Shape s = {11, C, 0, 2}; RWKV7::Config c = rwkv7_config(N, 0, 0, 0, 0); RWKV7::complete(s, c, 1); return s; };
    CHECK_ERROR(fresh(100, 0), "--dim is 100, which is not a multiple of the head size, 64");
    CHECK_ERROR(fresh(96, 24), "--head-size is 24, but must be a multiple of 16 up to 128");
    CHECK_ERROR(fresh(256, 256), "--head-size is 256, but must be a multiple of 16 up to 128");
}
TEST("rwkv7: what is written is read back, LoRAs as (in, out) and no v0, v1, v2 in layer 0") {
    ScratchDir dir;
    Rig<RWKV7> rig(rwkv7_shape, 1, 1, 0, rwkv7_small);
    std::vector<real> w = rig.p.initial(1, 1e-3), copy = w;
    write_safetensors(dir.path + "/x.safetensors", {}, rig.p.views(copy));
    TensorFile file(dir.path + "/x.safetensors");
    CHECK((file.get("blocks.1.att.w2").shape == std::vector<int64_t>{5, 64}) && (file.get("blocks.2.att.g1").shape == std::vector<int64_t>{64, 7}), "LoRAs are not (in, out)");
    CHECK((file.get("blocks.1.att.v0").shape == std::vector<int64_t>{1, 1, 64}) && !file.find("blocks.0.att.v0") && !file.find("blocks.0.att.v1"), "v0 has another shape, or is in layer 0");
    const Tensor *t = rig.p.table.find("blocks.1.att.w2");
    std::vector<double> in_file(t->count);
    read_tensor(file.get(t->name), in_file.data());
    CHECK(in_file[64 * 3 + 17] == (double)w[t->offset + 17 * 5 + 3], "w2 is not transposed");
    CHECK(rig.p.read(file) == w, "the weights changed on the way");
}
TEST("rwkv7: logits and states of the stress model (.pth): GPT mode, RNN mode, and from a state") {
    const std::string dir = "../shared/oracle/";
    struct stat st;
    if (stat(dir.c_str(), &st)) SKIP("no ../shared/oracle");
    auto read = [&](const std::string &name, size_t n) {
        std::vector<float> v(n);
        FILE *f = fopen((dir + "ref/" + name).c_str(), "rb");
        CHECK(f && fread(v.data(), 4, n, f) == n, "cannot read %s", name.c_str());
        fclose(f);
        return v;
    };
    TensorFile file(dir + "stress-7v0.bf16.pth");
    RWKV7::Config config;
    Shape s = RWKV7::shape_of(file, config);
    Rig<RWKV7> rig(s, 1, 64, 0, config);
    int V = 256, C = s.C;
    CHECK(s.V == V && C == 128 && s.L == 3 && config.head_size == 64 && config.lora_w == 32 && config.lora_a == 24 && config.lora_v == 16 && config.lora_g == 64, "the shape was not read");
    rig.set(rig.p.read(file));
    int64_t n = rig.model->state_count(1);
    double limit = has_master ? 0.3 : 1e-4;
    for (const char *text : {"text64", "lcg64"}) {
        std::vector<float> raw = read(format("tokens.%s.u32.bin", text), 64), want = read(format("stress-7v0.bf16.%s.logits.f32.bin", text), 64 * V);
        std::vector<float> last = read(format("stress-7v0.bf16.%s.state_after64.f32.bin", text), n);
        std::vector<int> ids(64);
        memcpy(ids.data(), raw.data(), 256);
        for (int step : {64, 1, 23}) {
            DeviceArray<real> state[2] = {DeviceArray<real>(n), DeviceArray<real>(n)};
            int turn = 0;
            double most = 0;
            for (int t = 0; t < 64; t += step, turn ^= 1) {
                int len = std::min(step, 64 - t);
                std::vector<int> part(ids.begin() + t, ids.begin() + t + len);
                ModelInput in = rig.input(part, part, 1, len, t ? state[turn ^ 1].p : nullptr, state[turn].p);
                rig.forward(in);
                std::vector<double> z = rig.logits(in);
                for (size_t i = 0; i < z.size(); i++) most = std::max(most, std::isfinite(z[i]) ? fabs(z[i] - want[t * V + i]) : INFINITY);
            }
            CHECK(most <= limit, "%s, %d tokens at a time: a logit differs by %g, limit %g", text, step, most, limit);
            std::vector<real> mine = state[turn ^ 1].get();  // theirs: per layer ffn_x, att_x, S
            int64_t layer = n / s.L;
            for (int l = 0; l < s.L; l++)
                for (int part = 0; part < 3; part++) {
                    int64_t count = part < 2 ? C : layer - 2 * C, theirs = part == 0 ? C : part == 1 ? 0 : 2 * C;
                    double e = worst(mine.data() + l * layer + part * C, last.data() + l * layer + theirs, count);
                    CHECK(e <= limit, "%s, %d tokens at a time, layer %d: part %d of the state differs by %.2e", text, step, l, part, e);
                }
        }
    }
}
