/* tests/gpt2.h: GPT-2 and its variants against PyTorch (tests/data/gpt2_*, written by dev/reference/gpt2.py), against finite
   differences in fp64, and against themselves; parameter counts; Hugging Face's files; dropout. */
#pragma once
#include "model.h"

// A variant: activation, bias, head, positions, heads, dropout, time_out
static GPT2Config variant(int64_t heads, const char *activation = "gelu", const char *bias = "on", const char *head = "tied", const char *positions = "learned", double dropout = 0, const char *time_out = "off") {
    GPT2Config c;
    c.heads = heads, c.activation = activation, c.bias = bias, c.head = head, c.positions = positions, c.dropout = dropout, c.time_out = time_out;
    return c;
}
static GPT2Config standard(double dropout = 0) { return variant(2, "gelu", "on", "tied", "learned", dropout); }
static GPT2Config seeds(double dropout = 0) { return variant(2, "relu", "not-qkv", "untied-bias", "learned", dropout); }
static GPT2Config rotary_geglu(double dropout = 0) { return variant(2, "geglu", "off", "untied", "rotary", dropout, "on"); }
static const struct { const char *file; GPT2Config config; } references[] = {
    {"gpt2_a.safetensors", standard()}, {"gpt2_b.safetensors", seeds()}, {"gpt2_c.safetensors", rotary_geglu()}};

// biases and the factor per position near what they are in a trained model; weights strong, so that softmaxes are far from uniform
template<> real strong_weight<GPT2>(const Tensor &t, int64_t, Rng &rng) {
    if (t.name == "wte.weight" || t.name == "wpe.weight") return rng.normal();
    if (t.matrix()) return rng.normal() * 1.5 / sqrt((double)t.shape[1]);
    return t.name.find("weight") != std::string::npos || t.name == "time_out" ? 0.5 + rng.uniform() : 0.5 * rng.normal();
}

// ------------------------------------------------------------------------------------------------
// against PyTorch

TEST("gpt2: logits, loss and every gradient = PyTorch: the standard model") { test_against_reference<GPT2>(references[0].file, references[0].config, 0, 0); }
TEST("gpt2: ... ReLU, no bias in q k v, untied head with bias") {
    if (has_master) SKIP("16-bit rounding decides on which side of a kink an input is");
    test_against_reference<GPT2>(references[1].file, references[1].config, 1, 0);
}
TEST("gpt2: ... rotary positions, GeGLU, no biases, untied head, factor per position") { test_against_reference<GPT2>(references[2].file, references[2].config, 2, 0); }
TEST("gpt2: parameters after three AdamW steps with clipping and decay = PyTorch, all three") {
    for (auto &r : references) test_adam_steps<GPT2>(r.file, r.config, 1e-3, 0.95, 1e-5, 0);
}

#ifdef PRECISION_FP64
TEST("gpt2: every parameter's gradient = finite differences, at odd shapes, with and without dropout") {
    Shape longer = {7, 8, 10, 2};
    longer['p'] = 9;  // positions that no token has
    test_finite_differences<GPT2>(longer, 2, 5, standard());
    test_finite_differences<GPT2>({5, 6, 7, 2}, 1, 18, variant(1, "gelu", "on", "untied-bias"));
    test_finite_differences<GPT2>({7, 12, 10, 1}, 2, 7, rotary_geglu());
    test_finite_differences<GPT2>({5, 10, 9, 1}, 1, 5, variant(1, "geglu", "on", "tied", "rotary"));
    test_finite_differences<GPT2>({5, 8, 16, 1}, 3, 1, variant(4, "gelu", "off", "untied"));
    test_finite_differences<GPT2>({7, 8, 10, 2}, 2, 6, standard(0.25), true);
    test_finite_differences<GPT2>({7, 12, 10, 2}, 2, 6, rotary_geglu(0.5), true);
}
TEST("gpt2: every tensor's gradient along a random direction = finite differences, for a thousand rows") { test_directions<GPT2>({17, 48, 40, 2}, 7, 150, standard()); }
#endif

// ------------------------------------------------------------------------------------------------
// properties of the model

TEST("gpt2: causal: a token changes no logit before it, not by one bit") {
    test_causal<GPT2>({19, 24, 40, 2}, standard());
    test_causal<GPT2>({19, 24, 40, 2}, rotary_geglu());
}
TEST("gpt2: a sequence does not depend on the others of its batch") { test_batch_rows<GPT2>({19, 24, 40, 2}, standard()); }
TEST("gpt2: with the KV cache = without: one token at a time, and in pieces") {
    for (int step : {1, 5, 16}) {
        test_gpt_is_rnn<GPT2>({19, 24, 40, 3}, step, standard());
        test_gpt_is_rnn<GPT2>({19, 32, 40, 2}, step, rotary_geglu());
    }
}
TEST("gpt2: gradients of two half batches add up to those of the whole batch") {
    test_accumulation<GPT2>({19, 24, 40, 2}, standard());
    test_accumulation<GPT2>({19, 24, 40, 2}, seeds());
}
TEST("gpt2: recompute changes the memory, not one bit of the gradients, dropout or not") {
    for (bool dropout : {false, true}) {
        double p = dropout ? 0.3 : 0;
        test_recompute<GPT2>({19, 32, 128, 4}, 0.75, 0.45, standard(p), dropout);
        test_recompute<GPT2>({19, 32, 128, 4}, 0.9, 0.5, seeds(p), dropout);
        test_recompute<GPT2>({19, 32, 96, 4}, 0.8, 0.45, rotary_geglu(p), dropout);
    }
}
TEST("gpt2: the padding of the vocabulary stays zero, in weights and gradients") {
    test_padding<GPT2>({19, 24, 40, 1}, standard());
    test_padding<GPT2>({19, 24, 40, 1}, seeds());
}
TEST("gpt2: head sizes 2 to 128 and odd T: parallel = one token at a time") {
    for (int N : {2, 4, 6, 12, 30, 64, 128})
        for (int T : {1, 3, 7}) {
            Random<GPT2> rig({11, 2 * N, 8, 1}, 1, T, 0, standard());
            rig.forward(rig.all());
            std::vector<double> z = rig.logits(rig.all());
            DeviceArray<real> cache(rig.model->state_count(1));
            for (int t = 0; t < T; t++) {
                ModelInput in = rig.part(0, 1, t, t + 1, t ? cache.p : nullptr, cache.p);
                rig.forward(in);
                double e = worst(rig.logits(in).data(), z.data() + t * 11, 11);
                CHECK(e <= TOLERANCE, "head size %d: logits at t = %d of %d differ by %.2e", N, t, T, e);
            }
        }
}
TEST("gpt2: rotary positions are relative: a key and a query moved together give the same scores") {
    if (has_master) SKIP("compared in fp32 and fp64");
    int N = 20, T = 9, C = 2 * N, far = 700;
    std::vector<real> table = rotary_table(far + T, N);
    DeviceArray<real> turns(table);
    std::vector<floatX> x(T * 3 * C);
    Rng rng{3, 0, 0};
    for (int i = 0; i < T * 3 * C; i++) x[i] = x[i % (3 * C)] = i < 3 * C ? (floatX)(real)rng.normal() : x[i % (3 * C)];  // the same token everywhere
    DeviceArray<floatX> here(x), there(x), back(x);
    rotary(here.p, turns.p, 0, false, T, T, C, N, 0), rotary(there.p, turns.p, far, false, T, T, C, N, 0);
    rotary(back.p, turns.p, 5, false, T, T, C, N, 0), rotary(back.p, turns.p, 5, true, T, T, C, N, 0);
    std::vector<floatX> a = here.get(), b = there.get(), c = back.get();
    CHECK(worst(c.data(), x.data(), c.size()) <= TOLERANCE, "turned and turned back is not the same");
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < T; i++)
            for (int j = 0; j < T; j++) {
                double s = 0, s2 = 0, still = 0;
                for (int d = 0; d < N; d++) {
                    auto at = [&](const std::vector<floatX> &v, int t, int part) { return (double)(real)v[(t * 3 + part) * C + h * N + d]; };
                    s += at(a, i, 0) * at(a, j, 1), s2 += at(b, i, 0) * at(b, j, 1), still += at(x, i, 0) * at(x, j, 1);
                }
                CHECK(fabs(s - s2) <= 300 * TOLERANCE, "score of %d and %d: %.8f, moved by %d: %.8f", i, j, s, far, s2);  // angles of 700 lose three digits
                CHECK((i == j) == (fabs(s - still) <= 1e-5) || N < 4, "score of %d and %d: %.8f, without positions %.8f", i, j, s, still);
            }
    for (int i = 0; i < T * 3 * C; i++)
        if (i % (3 * C) >= 2 * C || i % N >= N / 2) CHECK((real)a[i] == (real)x[i], "element %d must not be turned", i);
}
TEST("gpt2: the initialisation is GPT-2's: 0.02, residual projections 0.02/sqrt(2L), norms one, biases zero") {
    Parameters p;
    GPT2Config c = seeds();
    Shape s = {500, 96, 0, 3};
    GPT2::complete(s, c, 64);
    p.table = TensorTable(GPT2::rows(c), s);
    std::vector<real> host = p.initial(3, 1e-4);
    CHECK(host == p.initial(3, 1e-4) && host != p.initial(4, 1e-4), "the seed does not decide");
    for (const Tensor &t : p.table.tensors) {
        const real *w = host.data() + t.offset;
        double sum = 0, squares = 0, deviation = t.name.find("c_proj") != std::string::npos ? 0.02 / sqrt(6.) : 0.02;
        for (int64_t i = 0; i < t.count; i++) sum += w[i], squares += (double)w[i] * w[i];
        if (t.matrix()) {  // standard errors: of the mean deviation/sqrt(n), of the deviation deviation/sqrt(2n); 5 of them
            double got = sqrt(squares / t.count), n = t.count;
            CHECK(fabs(sum / n) <= 5 * deviation / sqrt(n) && fabs(got - deviation) <= 5 * deviation / sqrt(2 * n), "%s: mean %g, deviation %g", t.name.c_str(), sum / n, got);
        } else {
            double want = t.name.find("ln_") != std::string::npos && t.name.find("weight") != std::string::npos;
            CHECK(sum == want * t.count && squares == want * t.count, "%s", t.name.c_str());
        }
    }
}

// ------------------------------------------------------------------------------------------------
// parameter counts

TEST("gpt2: parameter counts: GPT-2 124M, the seeds' GPT-2s and their MHA + rotary + GeGLU, exactly") {
    GPT2Config relu = variant(8, "relu", "not-qkv", "untied-bias"), mha = variant(8, "geglu", "on", "untied", "rotary", 0, "on");
    struct { const char *name; Shape s; int64_t heads; GPT2Config c; int T; int64_t count; } cases[] = {
        {"GPT-2 124M", {50257, 768, 0, 12}, 0, GPT2Config(), 1024, 124439808},
        {"GPT-2 350M", {50257, 1024, 0, 24}, 0, GPT2Config(), 1024, 354823168},
        {"GPT2_85m_clean", {56, 768, 0, 12}, 64, relu, 256, 85311032},
        {"GPT2_14m_clean", {27, 384, 0, 8}, 8, relu, 256, 14306331},
        {"GPT2_14m", {483, 384, 0, 8}, 8, relu, 256, 14656995},
        {"MHA + rotary + GeGLU", {136, 512, 0, 5}, 8, mha, 256, 17218304}};
    for (auto &t : cases) {
        t.c.heads = t.heads;
        GPT2::complete(t.s, t.c, t.T);
        int64_t count = TensorTable(GPT2::rows(t.c), t.s).count;
        CHECK(count == t.count, "%s has %lld parameters, expected %lld", t.name, (long long)count, (long long)t.count);
        CHECK(t.heads || t.s.C / t.c.heads == 64, "%s has %lld heads", t.name, (long long)t.c.heads);
    }
}
TEST("gpt2: options that do not fit are one sentence") {
    auto complete = [](int C, GPT2Config c, int T = 8, int P = 0) { Shape s = {11, C, 0, 1}; s['p'] = P; GPT2::complete(s, c, T); };
    CHECK_ERROR(complete(100, variant(3)), "--heads 3 does not divide --dim 100");
    CHECK_ERROR(complete(100, variant(0)), "--dim 100 is not a multiple of 64");
    CHECK_ERROR(complete(96, variant(32)), "heads of 3 channels");
    CHECK_ERROR(complete(512, variant(2)), "heads of 256 channels");
    CHECK_ERROR(complete(32, variant(16, "gelu", "on", "tied", "rotary")), "--positions rotary needs 4");
    CHECK_ERROR(complete(32, variant(2), 65, 64), "--ctx 65 is more than the 64 positions");
    CHECK_ERROR(complete(32, variant(-2)), "--heads -2");
    complete(32, variant(2), 64, 64), complete(48, variant(0)), complete(32, variant(8, "gelu", "on", "tied", "rotary"));
}

// ------------------------------------------------------------------------------------------------
// files

// A file of its own, to be opened and unlinked
static std::string written(const std::vector<TensorView> &tensors, const std::map<std::string, std::string> &about = {}) {
    std::string path = format("/tmp/test_gpt2_%d.safetensors", (int)getpid());
    write_safetensors(path, about, tensors);
    return path;
}
static std::vector<double> logits_of(const TensorFile &file, GPT2Config c, const TensorFile &expected, std::vector<double> *want) {
    Shape s = GPT2::shape_of(file, c);
    Rig<GPT2> rig(s, 1, 9, 0, c);
    rig.set(rig.p.read(file));
    std::vector<int> x(9);
    expected.read("expected.tokens", {9}, x.data());
    want->resize(9 * 13), expected.read("expected.logits", {9, 13}, want->data());
    ModelInput in = rig.input(x, x, 1, 9);
    rig.forward(in);
    return rig.logits(in);
}
TEST("gpt2: Hugging Face's files: logits = PyTorch from .safetensors and from .pth with prefix, buffers and tied head; written back the same") {
    TensorFile plain("tests/data/gpt2_hf.safetensors"), prefixed("tests/data/gpt2_hf.pth");
    for (const TensorFile *file : {&plain, &prefixed}) {
        GPT2Config c = variant(2);
        std::vector<double> want, z = logits_of(*file, c, plain, &want);
        double e = worst(z.data(), want.data(), z.size());
        CHECK(e <= TOLERANCE, "%s: logits differ by %.2e", file->path.c_str(), e);
        Shape s = GPT2::shape_of(*file, c);
        GPT2::complete(s, c, 9);
        CHECK(s.V == 13 && s.C == 8 && s.F == 32 && s.L == 2 && s['p'] == 9 && c.head == "tied" && c.bias == "on" && c.positions == "learned" && c.prefix == (file == &prefixed), "%s: wrong shape", file->path.c_str());
        Parameters p;
        p.table = TensorTable(GPT2::rows(c), s);
        std::vector<real> host = p.read(*file), copy = host;
        std::string path = written(p.views(copy));
        TensorFile back(path);
        unlink(path.c_str());
        CHECK(back.tensors.size() == p.table.tensors.size(), "it has %zu tensors", back.tensors.size());
        for (const TensorView &t : back.tensors) {
            const TensorView &from = file->get(t.name);
            std::vector<double> a(t.count()), b(t.count());
            read_tensor(t, a.data()), read_tensor(from, b.data());
            CHECK(t.shape == from.shape && a == b, "%s is not what was read", t.name.c_str());
        }
        CHECK(back.get(c.prefix ? "transformer.h.0.attn.c_attn.weight" : "h.0.attn.c_attn.weight").shape == std::vector<int64_t>({8, 24}), "c_attn.weight is not [in, out]");
        CHECK(p.read(back) == host, "reading it again gives something else");
        const Tensor *fc = p.table.find(c.prefix ? "transformer.h.1.mlp.c_fc.weight" : "h.1.mlp.c_fc.weight");
        std::vector<double> raw(8 * 32);
        file->read(fc->name, {8, 32}, raw.data());
        CHECK(host[fc->offset + 5 * 8 + 3] == (real)raw[3 * 32 + 5], "c_fc.weight is not turned around");
    }
}
TEST("gpt2: what a file is made of is read off it, and heads and activation off its metadata") {
    for (const char *positions : {"learned", "rotary"})
        for (const char *activation : {"gelu", "relu", "geglu"})
            for (const char *bias : {"on", "off", "not-qkv"})
                for (const char *head : {"tied", "untied", "untied-bias"})
                    for (const char *time_out : {"off", "on"}) {
                        GPT2Config c = variant(3, activation, bias, head, positions, 0, time_out), found;
                        Shape s = {11, 12, 0, 2};
                        GPT2::complete(s, c, 10);
                        Parameters p;
                        p.table = TensorTable(GPT2::rows(c), s);
                        std::vector<real> host = p.initial(1, 1e-3);
                        std::string path = written(p.views(host), {{"heads", "3"}, {"activation", activation}});
                        TensorFile file(path);
                        unlink(path.c_str());
                        Shape t = GPT2::shape_of(file, found);
                        GPT2::complete(t, found, 10);
                        CHECK(t.V == s.V && t.C == s.C && t.F == s.F && t.L == s.L && t['p'] == s['p'] && t['f'] == s['f'], "the shape is another");
                        CHECK(found.heads == 3 && found.positions == positions && found.activation == activation && found.bias == bias && found.head == head && found.time_out == time_out,
                              "%s %s %s %s %s became %s %s %s %s %s", positions, activation, bias, head, time_out, found.positions.c_str(), found.activation.c_str(), found.bias.c_str(), found.head.c_str(), found.time_out.c_str());
                        p.table = TensorTable(GPT2::rows(found), t);
                        p.read(file);
                    }
}
TEST("gpt2: other kinds of models are refused by name") {
    struct { std::vector<const char *> tensors; const char *said; } cases[] = {
        {{"emb.weight", "blocks.0.att.time_decay"}, "an RWKV-4 model"}, {{"emb.weight", "blocks.0.att.time_decay", "blocks.0.att.ln_x.weight"}, "an RWKV-5 model"},
        {{"blocks.0.att.time_maa_x"}, "an RWKV-6 model"}, {{"blocks.0.att.r_k"}, "an RWKV-7 model"}, {{"model.embed_tokens.weight"}, "a model of the Llama kind"},
        {{"x"}, "is not a GPT-2 model: it has no wte.weight"}, {{"wte.weight"}, "it has no h.0.mlp.c_fc.weight"}};
    for (auto &t : cases) {
        std::vector<float> zeros(4);
        std::vector<TensorView> views;
        for (const char *name : t.tensors) views.push_back({name, DType::F32, {2, 2}, zeros.data()});
        std::string path = written(views);
        TensorFile file(path);
        unlink(path.c_str());
        GPT2Config c;
        CHECK_ERROR(GPT2::shape_of(file, c), t.said);
    }
    std::vector<float> zeros(8);
    std::string path = written({{"wte.weight", DType::F32, {8}, zeros.data()}});
    TensorFile file(path);
    unlink(path.c_str());
    GPT2Config c;
    CHECK_ERROR(GPT2::shape_of(file, c), "wte.weight must be a matrix, but has shape");
}

// ------------------------------------------------------------------------------------------------
// dropout

TEST("gpt2: dropout: the same draw gives the same bits, another one others, none those of a model without") {
    auto gradients = [](double p, uint64_t number, bool drawn) {
        Random<GPT2> rig({19, 24, 40, 2}, 2, 17, 0, standard(p));
        rig.draw.set({number});
        ModelInput in = rig.all();
        if (drawn) in.draw = rig.draw.p;
        return rig.gradients(in, 34);
    };
    std::vector<real> a = gradients(0.3, 5, true);
    CHECK(a == gradients(0.3, 5, true), "the same draw gives something else");
    CHECK(a != gradients(0.3, 6, true), "another draw gives the same");
    CHECK(a != gradients(0.3, 5, false), "without a draw something is dropped");
    CHECK(gradients(0.3, 5, false) == gradients(0, 5, false) && gradients(0, 5, true) == gradients(0, 5, false), "p = 0 is not the model without dropout");
}
// y = mask scale, for x = 1
static std::vector<double> mask_of(double p, uint64_t number, int site, int64_t n, int width) {
    DeviceArray<uint64_t> draw(std::vector<uint64_t>{number});
    std::vector<floatX> ones(n, (floatX)1.f);
    DeviceArray<floatX> x(ones), y(n);
    Dropout d(p, draw.p, site);
    dispatch_width<ELEMENT_WIDTH>(width, [&](auto W) { dropout_kernel<W.value><<<ceil_div(n, 256 * width), 256, 0, 0>>>(y.p, x.p, d, n); });
    std::vector<floatX> got = y.get();
    std::vector<double> m;
    for (floatX v : got) m.push_back((double)(real)v);
    return m;
}
TEST("gpt2: dropout: the share and the mean are right, sites and draws are independent, vectors of any width agree") {
    int64_t n = 1 << 16;
    for (double p : {0.1, 0.5, 0.9}) {
        std::vector<double> a = mask_of(p, 7, 2, n, ELEMENT_WIDTH), other_draw = mask_of(p, 8, 2, n, ELEMENT_WIDTH), other_site = mask_of(p, 7, 3, n, ELEMENT_WIDTH);
        CHECK(a == mask_of(p, 7, 2, n, 1), "the mask depends on the width of a vector");
        auto both = [&](const std::vector<double> &b, int64_t shift) {  // share of elements kept in both: (1-p)^2
            double s = 0;
            for (int64_t i = 0; i < n; i++) s += a[i] != 0 && b[(i + shift) % n] != 0;
            return s / n;
        };
        double q = 1 - p, error = 5 * sqrt(q * p / n), error2 = 5 * sqrt(q * q * (1 - q * q) / n);  // 5 standard errors
        CHECK(fabs(both(a, 0) - q) <= error, "p = %g: %.4f are kept", p, both(a, 0));
        for (double v : a) CHECK(v == 0 || fabs(v - 1 / q) <= 4e-3 / q, "p = %g: an element is %g", p, v);
        CHECK(fabs(both(other_draw, 0) - q * q) <= error2 && fabs(both(other_site, 0) - q * q) <= error2, "p = %g: masks are not independent", p);
        for (int64_t shift : {1, 2, 7, 8, 9, 64}) CHECK(fabs(both(a, shift) - q * q) <= error2, "p = %g: elements %lld apart are not independent", p, (long long)shift);
    }
}
