/* tests/run_sample.h: run/sample.h, which draws on the device, against rwkv/sampler.h, which says what is drawn. */
#pragma once
#include "run_text.h"
#include <numeric>

typedef std::vector<float> Logits;
static const float NO = -INFINITY;

// B texts and their logits on the device
struct Drawing {
    Arena arena;
    Sampling a;
    int *slots, B;
    real *logits;
    Drawing(int V, int B = 1, const Tokenizer *t = nullptr) : B(B) {
        a.plan(arena, B, V), arena.plan("test", &slots, B), arena.plan("test", &logits, (int64_t)B * a.stride);
        arena.allocate(), a.vocabulary(t);
    }
    void begin(int slot, const Sampler &s, const Rng &rng = {1, 2, 0}) { a.begin(slot, s, rng, 0); }
    // rows[b] is of the text in slot[b]
    void put(const std::vector<Logits> &rows, const std::vector<int> &slot) {
        std::vector<real> z(rows.size() * a.stride, real(99));  // padding must not be drawn
        for (size_t b = 0; b < rows.size(); b++) std::copy(rows[b].begin(), rows[b].end(), z.begin() + b * a.stride);
        cudaCheck(cudaMemcpy(logits, z.data(), z.size() * sizeof(real), cudaMemcpyHostToDevice));
        cudaCheck(cudaMemcpy(slots, slot.data(), slot.size() * sizeof(int), cudaMemcpyHostToDevice));
    }
    template<class T> std::vector<T> get(const T *from, size_t n) const {
        std::vector<T> x(n);
        cudaCheck(cudaMemcpy(x.data(), from, n * sizeof(T), cudaMemcpyDeviceToHost));
        return x;
    }
    std::vector<int> draw(const std::vector<Logits> &rows, const std::vector<int> &slot) {
        put(rows, slot), a.draw(logits, rows.size(), slots, 0);
        return get(a.drawn, rows.size());
    }
    int draw(const Logits &z) { return draw(std::vector<Logits>{z}, {0})[0]; }
    std::vector<int> kept(int row = 0) const { return get(a.kept + (int64_t)row * a.stride, get(a.kept_count, B)[row]); }
};
static std::string list(const std::vector<int> &x) {
    std::string s;
    for (size_t i = 0; i < std::min<size_t>(x.size(), 12); i++) s += format(" %d", x[i]);
    return format("%zu:", x.size()) + s + (x.size() > 12 ? " ..." : "");
}
static std::vector<int> reference(const Sampler &s, const Logits &z) {
    std::vector<int> tokens;
    for (const Candidate &c : candidates(s, z.data(), z.size())) tokens.push_back((int)c.token);
    std::sort(tokens.begin(), tokens.end());
    return tokens;
}
static void check_kept(Drawing &d, const Sampler &s, const Logits &z, const std::string &what) {
    d.begin(0, s);
    int token = d.draw(z);
    std::vector<int> got = d.kept(), want = reference(s, z);
    CHECK(got == want, "%s, %zu tokens: kept are %s, not %s", what.c_str(), z.size(), list(got).c_str(), list(want).c_str());
    CHECK(std::binary_search(want.begin(), want.end(), token), "%s: token %d is drawn, but not kept", what.c_str(), token);
}
static bool checks_on() {  // they make a draw of 65,536 tokens take 20 ms
#ifdef CUDA_CPU
    return cuda_cpu::opt.check || cuda_cpu::opt.race;
#else
    return false;
#endif
}

TEST("sample: the kept tokens = candidates() for every filter, with ties, in vocabularies of 6 to 65,536") {
    const float p[] = {0.05f, 0.40f, 0.10f, 0.20f, 0.05f, 0.20f};  // tokens 3 and 5, 0 and 4 are equal
    struct { const char *what; Sampler s; std::vector<int> kept; } rows[] = {
        {"no filter", {1, 1, 0, 0, 0}, {0, 1, 2, 3, 4, 5}},
        {"top_p 0 keeps the likeliest", {1, 0, 0, 0, 0}, {1}},
        {"top_p 0.3999", {1, 0.3999, 0, 0, 0}, {1}},
        {"top_p 0.4001 crosses in the first of two equals, the tie survives", {1, 0.4001, 0, 0, 0}, {1, 3, 5}},
        {"top_p 0.7999", {1, 0.7999, 0, 0, 0}, {1, 3, 5}},
        {"top_p 0.8001", {1, 0.8001, 0, 0, 0}, {1, 2, 3, 5}},
        {"top_p 0.9001, ties at the end", {1, 0.9001, 0, 0, 0}, {0, 1, 2, 3, 4, 5}},
        {"top_k 1", {1, 1, 1, 0, 0}, {1}},
        {"top_k 2: of equals the lower token", {1, 1, 2, 0, 0}, {1, 3}},
        {"top_k 3", {1, 1, 3, 0, 0}, {1, 3, 5}},
        {"top_k 5: of equals the lower token", {1, 1, 5, 0, 0}, {0, 1, 2, 3, 5}},
        {"top_k beyond the vocabulary", {1, 1, 1 << 20, 0, 0}, {0, 1, 2, 3, 4, 5}},
        {"top_k within the ties of top_p", {1, 0.41, 2, 0, 0}, {1, 3}},
        {"top_k after top_p", {1, 0.41, 4, 0, 0}, {1, 3, 5}},
        {"min_p 0.3: p >= 0.12", {1, 1, 0, 0.3, 0}, {1, 3, 5}},
        {"min_p 1 keeps the likeliest", {1, 1, 0, 1, 0}, {1}},
        {"top_a 0.5: p >= 0.08", {1, 1, 0, 0, 0.5}, {1, 2, 3, 5}},
        {"min_p does not change the sum of top_p", {1, 0.91, 0, 0.2, 0}, {1, 2, 3, 5}},
        {"the temperature does not change what is kept", {5, 0.41, 0, 0, 0}, {1, 3, 5}},
    };
    for (int V : {6, 256, 50277, 65536}) {
        Drawing d(V);
        for (auto &r : rows) {
            Logits z(V, NO);
            std::vector<int> want;
            for (int i = 0; i < 6; i++) z[(int64_t)i * (V - 1) / 5] = logf(p[i]) - 3;
            for (int i : r.kept) want.push_back((int64_t)i * (V - 1) / 5);
            check_kept(d, r.s, z, r.what);
            CHECK(d.kept() == want, "%s, %d tokens: kept are %s, not %s", r.what, V, list(d.kept()).c_str(), list(want).c_str());
            if (checks_on() && V > 256) break;
        }
    }
}

// Cuts at the k-th likeliest, half-way to the next: no p is within rounding of them
TEST("sample: the kept tokens = candidates() for random logits, with and without ties and -inf, V = 1, 5, 256, 50277, 65536") {
    Rng rng = {7, 0, 0};
    for (int V : {1, 5, 256, 50277, 65536})
        for (int kind = 0; kind < (checks_on() && V > 256 ? 1 : 4); kind += V > 256 ? 3 : 1) {  // 1: ties, 2: -inf, 3: both
            Drawing d(V);
            Logits z(V);
            for (int i = 0; i < V; i++) {
                double x = 3 * rng.normal();
                z[i] = kind & 2 && i && rng.below(4) == 0 ? NO : kind & 1 ? (float)round(4 * x) / 4 : (float)x;
            }
            std::vector<Candidate> all = candidates({1, 1, V, 0, 0}, z.data(), V);  // in falling order
            std::vector<size_t> places = {0, 1, 3, all.size() / 3};
            if (V > 256) places.push_back(60), places.push_back(1500);
            for (size_t k : places) {
                while (k > 0 && k < all.size() && all[k].p > all[k - 1].p * 0.99999) k--;  // to the first of its group
                if (k + 1 >= all.size()) continue;
                double sum = 0, gap = all[k].p;
                for (size_t i = 0; i < k; i++) sum += all[i].p;
                double top_p = sum + gap / 2, p = k ? sqrt(all[k - 1].p * all[k].p) / all[0].p : 1;
                std::string what = format("kind %d, cut at %zu", kind, k);
                if (gap > 1e-5) check_kept(d, {1, top_p, 0, 0, 0}, z, what + ", top_p");
                check_kept(d, {0.5, 1, (int64_t)k + 1, 0, 0}, z, what + ", top_k");
                check_kept(d, {1, 1, 0, p, 0}, z, what + ", min_p");
                check_kept(d, {1, 1, 0, 0, p / all[0].p}, z, what + ", top_a");
                if (gap > 1e-5) check_kept(d, {2, top_p, (int64_t)k + 2, p / 2, p * p}, z, what + ", all at once");
            }
            check_kept(d, {1, 1, 0, 0, 0}, z, "no filter");
            check_kept(d, {3, 0.9999999, 0, 0, 0}, Logits(V, 1.5f), "all alike");
            check_kept(d, {3, 1, V / 2 + 1, 0, 0}, Logits(V, -1.5f), "half of those alike");
        }
}

TEST("sample: temperature 0 takes the lowest of equals; far logits, low and high temperatures stay finite") {
    for (int V : {5, 70, 5000}) {
        Drawing d(V);
        Logits z(V, 2);
        z[1] = z[V - 2] = 3, z[0] = -INFINITY;
        d.begin(0, {0, 1, 0, 0, 0});
        CHECK(d.draw(z) == 1, "not the lowest");
        d.begin(0, {1e-30, 1, 0, 0, 0});
        int two = d.draw(z);
        CHECK(two == 1 || two == V - 2, "temperature 1e-30 draws token %d", two);
        z = Logits(V, -3e38f), z[2] = 3e38f, z[3] = 88;
        for (double T : {0.0, 1e-3, 1.0, 100.0}) {
            d.begin(0, {T, 1, 0, 0, 0});
            CHECK(d.draw(z) == 2, "temperature %g: not the likeliest", T);
        }
        z = Logits(V, NO), z[V - 1] = -7;
        d.begin(0, {100, 0.5, 0, 0, 0});
        CHECK(d.draw(z) == V - 1, "a forbidden token");
        z[0] = -500;  // p = e^-493, and it may be drawn at this temperature
        check_kept(d, {100, 1, 0, 0, 0}, z, "far below");
        for (int i = 0; i < V; i++) z[i] = i % 2 ? 0.f : -0.f;
        check_kept(d, {1, 1, V - 1, 0, 0}, z, "0 and -0 are equal");
    }
    Drawing one(1);
    one.begin(0, {1, 0.5, 3, 0.1, 0.1});
    CHECK(one.draw(Logits{-4.f}) == 0, "a vocabulary of one");
}

// Draws of many texts at once, each with its own random numbers; counts by token
static std::vector<int> frequencies(Drawing &d, const Sampler &s, const Logits &z, int rounds) {
    std::vector<int> count(z.size()), slot(d.B);
    std::iota(slot.begin(), slot.end(), 0);
    for (int b = 0; b < d.B; b++) d.begin(b, s, {11, (uint64_t)b, 0});
    std::vector<Logits> rows(d.B, z);
    for (int i = 0; i < rounds; i++)
        for (int token : d.draw(rows, slot)) {
            CHECK(token >= 0 && token < (int)z.size(), "token %d", token);
            count[token]++;
        }
    return count;
}
TEST("sample: 100,000 draws have the right frequencies") {
    struct { int V; Sampler s; int draws; } rows[] = {{7, {1, 1, 0, 0, 0}, 100000}, {7, {0.5, 1, 0, 0, 0}, 20000},
                                                      {12, {2, 0.9, 0, 0, 0}, 20000}, {300, {0.7, 0.95, 9, 0.01, 0.02}, 20000}};
    for (auto &r : rows) {
        Logits z(r.V);
        Rng rng = {3, (uint64_t)r.V, 0};
        for (float &x : z) x = (float)rng.normal();
        int B = 200, rounds = (checks_on() ? 1000 : r.draws) / B, cells = 0;
        Drawing d(r.V, B);
        std::vector<int> count = frequencies(d, r.s, z, rounds);
        double chi = 0, n = (double)B * rounds;
        for (const Candidate &c : candidates(r.s, z.data(), r.V)) {
            double want = n * c.p;
            chi += (count[c.token] - want) * (count[c.token] - want) / want, cells++, count[c.token] = 0;
        }
        for (int i = 0; i < r.V; i++) CHECK(count[i] == 0, "token %d of %d is filtered out, but drawn", i, r.V);
        double limit = (cells - 1) + 3.7 * sqrt(2.0 * (cells - 1)) + 4;  // about one in a thousand
        CHECK(cells > 3 && chi < limit, "%d tokens, temperature %g: chi-square %g with %d degrees of freedom, limit %g", r.V, r.s.temperature, chi, cells - 1, limit);
    }
}
TEST("sample: 65,536 equally likely tokens are drawn from all parts of the vocabulary") {
    const int V = 65536, draws = checks_on() ? 8 : 64;
    Drawing d(V, 8);
    std::vector<int> count = frequencies(d, {1, 1, 0, 0, 0}, Logits(V, 0.25f), draws / 8), part(8);
    for (int i = 0; i < V; i++) part[i / (V / 8)] += count[i];
    double chi = 0, want = draws / 8.;
    for (int n : part) chi += (n - want) * (n - want) / want;
    CHECK(chi < 24, "chi-square %g with 7 degrees of freedom", chi);  // one in a thousand
}

TEST("sample: the same seed draws the same, another seed or stream another; a text goes on at any counter") {
    const int V = 600, n = 24;
    Logits z(V);
    Rng r = {5, 0, 0};
    for (float &x : z) x = (float)r.normal();
    Sampler s = {1.2, 0.95, 0, 0, 0};
    Drawing d(V);
    auto text = [&](const Rng &rng, int n) {
        std::vector<int> t;
        d.begin(0, s, rng);
        while ((int)t.size() < n) t.push_back(d.draw(z));
        return t;
    };
    std::vector<int> a = text({42, 1, 0}, n);
    CHECK(a == text({42, 1, 0}, n), "the same seed draws something else");
    CHECK(a != text({43, 1, 0}, n) && a != text({42, 2, 0}, n), "another seed or stream draws the same");
    CHECK(std::vector<int>(a.begin() + 9, a.end()) == text({42, 1, 9}, n - 9), "a draw is not one number of the counter");
}

static Tokenizer marks() {  // tokens without bytes, blanks, digits, and the end of text
    std::vector<std::string> t = {"", "a", "b", " ", "1", "12", "1a", "", "\t", "c"};
    for (int i = 0; i < 40; i++) t.push_back(format("x%d", i));
    return Tokenizer("world", t, 0);
}
TEST("sample: penalties = Occurrences over a text: presence, frequency, decay, blanks and digits, barred tokens, padding") {
    Tokenizer t = marks();
    const int V = t.vocab + 3, steps = 60;  // 3 rows beyond the tokenizer
    Sampler s;
    s.presence = 0.4, s.frequency = 0.3, s.decay = 0.9;
    Drawing d(V, 2, &t);
    Rng r = {8, 0, 0};
    for (int round = 0; round < 2; round++) {  // a second text in the slot knows nothing of the first
        Occurrences seen;
        d.begin(1, s, {3, 0, 0});
        for (int n = 0; n < steps; n++) {
            Logits z(V), want;
            for (int i = 0; i < V; i++) z[i] = (float)r.normal() + (i < 7 ? 2 : 0);
            want = z, want[7] = want[V - 3] = want[V - 2] = want[V - 1] = NO;
            seen.penalise(s, want.data(), V);
            d.put({z}, {1}), d.a.penalise(d.logits, 1, d.slots, 0);
            std::vector<real> got = d.get(d.logits, V);
            for (int i = 0; i < V; i++)
                CHECK(std::isinf(want[i]) ? got[i] == want[i] : fabs(got[i] - want[i]) < 1e-5, "step %d: the logit of token %d is %g, not %g", n, i, (double)got[i], want[i]);
            d.a.choose(d.logits, 1, d.slots, 0);
            int token = d.get(d.a.drawn, 1)[0];
            CHECK(want[token] > NO, "step %d: token %d is drawn", n, token);
            seen.add(s, token, t.bytes(token));
        }
        CHECK(seen.counts.count(3) && seen.counts.count(4) && seen.counts[4] == 0 && seen.counts.size() > 10, "the text is too dull for this test");
    }
}

TEST("sample: texts of a batch do not touch each other: each draws what it would alone, in whatever row it is") {
    Tokenizer t = marks();
    const int V = t.vocab, B = 5, steps = 12;
    Rng r = {9, 0, 0};
    std::vector<std::vector<Logits>> z(steps, std::vector<Logits>(B, Logits(V)));
    for (auto &row : z) for (Logits &l : row) for (float &x : l) x = (float)r.normal();
    auto sampler = [](int b) { return Sampler{0.5 + 0.3 * b, 0.99 - 0.1 * b, b, 0.01 * b, 0.1 * b, 0.3 * b, 0.5, 0.9}; };
    std::vector<std::vector<int>> alone(B), together(B);
    for (int b = 0; b < B; b++) {
        Drawing d(V, 1, &t);
        d.begin(0, sampler(b), {4, (uint64_t)b, 0});
        for (int n = 0; n < steps; n++) alone[b].push_back(d.draw(z[n][b]));
    }
    Drawing d(V, B, &t);
    for (int b = 0; b < B; b++) d.begin(b, sampler(b), {4, (uint64_t)b, 0});
    for (int n = 0; n < steps; n++)
        for (int first = 0, size; first < B; first += size) {  // some of them at a time, in changing rows
            size = std::min(B - first, 1 + n % B);
            std::vector<int> slot;
            std::vector<Logits> rows;
            for (int i = first; i < first + size; i++) slot.push_back((i * 2 + n) % B), rows.push_back(z[n][slot.back()]);
            std::vector<int> token = d.draw(rows, slot);
            for (int i = 0; i < size; i++) together[slot[i]].push_back(token[i]);
        }
    for (int b = 0; b < B; b++) CHECK(alone[b] == together[b], "text %d: %s, alone %s", b, list(together[b]).c_str(), list(alone[b]).c_str());
}

TEST("sample: logits that are no distribution are found, also beside good ones; those of barred tokens do not matter") {
    Tokenizer t = marks();
    for (int V : {50, 4500})  // the second has three chunks
        for (double T : {0.0, 1.0})
            for (int at : {0, 1, V - 1}) {
                Drawing d(V, 3, V == 50 ? &t : nullptr);
                for (int b = 0; b < 3; b++) d.begin(b, {T, 0.5, 0, 0, 0});
                for (float bad : {NAN, INFINITY, NO}) {
                    Logits good(V, 1), wrong = std::isinf(bad) && bad < 0 ? Logits(V, NO) : good;
                    wrong[at] = bad;
                    std::vector<int> token = d.draw({good, wrong, good}, {0, 1, 2});
                    CHECK(token[0] >= 0 && token[1] == -1 && token[2] >= 0, "%g as logit %d: tokens are %s", bad, at, list(token).c_str());
                    good[7] = bad;
                    CHECK(V > 50 || d.draw(good) >= 0, "%g as the logit of a barred token", bad);
                }
            }
    ScratchDir dir;
    RandomModel m = random_model("7", 2, 2, 8, 32, 30, "w3a3v3g3", 1);
    for (size_t i = 0; i < m.tensors.size(); i++) if (m.tensors[i].name == "head.weight") m.data[i][16 * 20] = NAN;
    write_safetensors(dir / "m.safetensors", {}, m.tensors);
    Engine e(dir / "m.safetensors", quiet());
    Tokenizer l = letters();
    real *state = e.new_states(1);
    int id = 5, next;
    e.sampling.vocabulary(&l), e.begin_text(0, Sampler(), Rng());
    e.forward(&id, 1, state, Engine::LAST);
    CHECK_ERROR(e.draw(0), "the logit of token 20 is");
    for (int i = 0; i < 3; i++) CHECK_ERROR(e.decode_draw(&id, 1, state, nullptr, &next), "the logit of token 20 is");
}

TEST("sample: the engine draws from the logits that it would give, one graph per token, also in a batch") {
    for (int B : {1, 3}) {
        Engine e(model_path("7"), quiet(B, 4)), plain(model_path("7"), quiet(B, 4));
        real *states = e.new_states(B), *other = plain.new_states(B);
        Sampler s;
        s.presence = s.frequency = 0.5, s.top_p = 0.8;
        Drawing d(e.info.V, B);
        e.sampling.vocabulary(nullptr);
        std::vector<int> ids, slot;
        for (int b = 0; b < B; b++) e.begin_text(b, s, {6, (uint64_t)b, 0}), d.begin(b, s, {6, (uint64_t)b, 0}), ids.push_back(3 + b), slot.push_back(B - 1 - b);
        Logits z((size_t)B * e.info.V);
        for (int n = 0; n < 8; n++) {
            plain.decode(ids.data(), B, other, slot.data(), z.data());
            std::vector<Logits> rows;
            for (int b = 0; b < B; b++) rows.emplace_back(z.begin() + (size_t)b * e.info.V, z.begin() + (size_t)(b + 1) * e.info.V);
            std::vector<int> want = d.draw(rows, slot);
            e.decode_draw(ids.data(), B, states, slot.data(), ids.data());
            CHECK(ids == want, "token %d: %s, not %s", n, list(ids).c_str(), list(want).c_str());
        }
    }
}
