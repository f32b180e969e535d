/* tests/run_models.h: every version of RWKV in run/ against references, and against itself in other ways of running:
   tests/data/run_* from dev/reference/run.py, tests/run_reference.h at other shapes, ../shared/oracle where it is. */
#pragma once
#include "../rwkv/pth_write.h"
#include "run_reference.h"
#include "scratch.h"
#include "test.h"

// Logits reach +-7. fp32: sums of 200 products in three layers, the norms divide by deviations of 0.006: 2e-5 to 1.1e-4,
// as compilers and widths of vectors have it.
// 16 bits: activations round by 2^-9 (bf16) or 2^-12 (fp16) at every product, which these strong weights amplify: the root
// of the mean square was at most 0.074 in bf16.
constexpr double LOGIT_LIMIT = sizeof(floatX) == 8 ? 2e-6 : sizeof(floatX) == 4 ? 3e-4 : std::is_same<floatX, __half>::value ? 0.05 : 0.15;
static const char *const versions[] = {"4", "51", "52", "6", "7"};

static std::string model_path(const std::string &version) { return "tests/data/run_" + version + (version == "7" ? ".pth" : ".safetensors"); }
static EngineOptions quiet(int64_t batch = 1, int64_t chunk = 0) { EngineOptions o; o.quiet = true, o.batch = batch, o.chunk = chunk; return o; }
static const TensorFile &expected_file() { static TensorFile f("tests/data/run_expected.safetensors"); return f; }
static std::vector<double> expected(const std::string &name) {
    const TensorView &t = expected_file().get(name);
    std::vector<double> x(t.count());
    read_tensor(t, x.data());
    return x;
}
static std::vector<int> expected_tokens(const std::string &version) { std::vector<double> x = expected(version + "/tokens"); return {x.begin(), x.end()}; }

// Logits of all tokens, GPT mode or RNN mode; `state` goes on.
static std::vector<float> gpt(Engine &e, const std::vector<int> &ids, real *state) {
    std::vector<float> z(ids.size() * e.info.V);
    e.forward(ids.data(), ids.size(), state, Engine::ALL, z.data());
    return z;
}
static std::vector<float> rnn(Engine &e, const std::vector<int> &ids, real *state) {
    std::vector<float> z(ids.size() * e.info.V);
    for (size_t t = 0; t < ids.size(); t++) e.decode(&ids[t], 1, state, nullptr, z.data() + t * e.info.V);
    return z;
}
// The largest difference, of 16-bit builds the root of the mean square, which one unlucky logit does not decide; NaN is infinite
template<class A, class B> static double difference(const A &a, const B &b) {
    if (a.size() != b.size()) return INFINITY;
    double most = 0, squares = 0;
    for (size_t i = 0; i < a.size(); i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        most = d <= most ? most : std::isfinite(d) ? d : INFINITY, squares += d * d;
    }
    return has_master && std::isfinite(most) ? sqrt(squares / a.size()) : most;
}

// A state in the official form: "LAYER/att_x", "ffn_x", then version 4: "sum" = aa e^pp and "weight" = bb e^pp, others "S"
static std::map<std::string, std::vector<double>> official_state(Engine &e, const real *state) {
    std::vector<real> s = e.get_state(state);
    std::map<std::string, std::vector<double>> out;
    auto part = [&](const std::string &name) -> const Engine::StatePart & {
        for (auto &p : e.state_parts()) if (p.name == name) return p;
        throw TestFailure{"no part " + name + " in the state"};
    };
    for (int l = 0; l < e.info.L; l++) {
        std::string b = format("blocks.%d.", l), to = std::to_string(l) + "/";
        auto copy = [&](const char *name, int64_t n) { int64_t at = part(b + name).offset; return std::vector<double>(s.begin() + at, s.begin() + at + n); };
        int C = e.info.C, N = e.info.N;
        out[to + "att_x"] = copy("att.x", C), out[to + "ffn_x"] = copy("ffn.x", C);
        if (e.info.version == "4") {
            std::vector<double> aa = copy("att.aa", C), bb = copy("att.bb", C), pp = copy("att.pp", C);
            for (int i = 0; i < C; i++) aa[i] *= exp(pp[i]), bb[i] *= exp(pp[i]);
            out[to + "sum"] = aa, out[to + "weight"] = bb;
        } else {
            std::vector<double> S = copy("att.S", (int64_t)C * N), turned = S;
            for (int c = 0; c < C; c++) for (int j = 0; j < N; j++) turned[(c / N * N + j) * N + c % N] = S[c * N + j];
            out[to + "S"] = e.info.version == "7" ? turned : S;  // official 7: [value][key]
        }
    }
    return out;
}
// ... and back
static void set_official(Engine &e, real *state, const std::map<std::string, std::vector<double>> &from) {
    std::vector<real> s(e.state_size());
    for (auto &p : e.state_parts()) {
        int l = atoi(p.name.c_str() + 7), N = e.info.N;
        std::string name = p.name.substr(p.name.rfind('.') + 1), at = std::to_string(l) + "/";
        const std::vector<double> *x = name == "x" ? &from.at(at + (p.name.find("att") != p.name.npos ? "att_x" : "ffn_x")) : name == "aa" ? &from.at(at + "sum") : name == "bb" ? &from.at(at + "weight") : name == "S" ? &from.at(at + "S") : nullptr;
        for (int64_t i = 0; x && i < (int64_t)x->size(); i++) {
            int c = i / std::max(N, 1), j = i % std::max(N, 1);
            s[p.offset + i] = (real)(name == "S" && e.info.version == "7" ? (*x)[(c / N * N + j) * N + c % N] : (*x)[i]);
        }
    }
    e.set_state(state, s);
}
static std::map<std::string, std::vector<double>> expected_state(const std::string &version, int t, int L) {
    std::map<std::string, std::vector<double>> out;
    for (int l = 0; l < L; l++) {
        std::string from = format("%s/state%d/%d/", version.c_str(), t, l), to = std::to_string(l) + "/";
        out[to + "att_x"] = expected(from + "att_x"), out[to + "ffn_x"] = expected(from + "ffn_x");
        if (version != "4") { out[to + "S"] = expected(from + "S"); continue; }
        std::vector<double> aa = expected(from + "aa"), bb = expected(from + "bb"), pp = expected(from + "pp");
        for (size_t i = 0; i < aa.size(); i++) aa[i] *= exp(pp[i]), bb[i] *= exp(pp[i]);
        out[to + "sum"] = aa, out[to + "weight"] = bb;
    }
    return out;
}
// Numbers of a state have their own sizes: relative to the largest of its part
static void check_state(const std::map<std::string, std::vector<double>> &got, const std::map<std::string, std::vector<double>> &want, const std::string &what) {
    for (auto &[name, x] : want) {
        double size = 0, d = difference(got.at(name), x);
        for (double v : x) size = std::max(size, fabs(v));
        CHECK(d <= LOGIT_LIMIT * size, "%s: %s of the state differs by %g of %g", what.c_str(), name.c_str(), d, size);
    }
}

// ------------------------------------------------------------------------------------------------
// against dev/reference/run.py

static void test_reference(const std::string &version, std::vector<float> (*run)(Engine &, const std::vector<int> &, real *)) {
    Engine e(model_path(version), quiet());
    std::vector<int> ids = expected_tokens(version);
    std::vector<double> want = expected(version + "/logits");
    real *state = e.new_states(1);
    double d = difference(run(e, {ids.begin(), ids.begin() + 16}, state), std::vector<double>(want.begin(), want.begin() + 16 * e.info.V));
    CHECK(d <= LOGIT_LIMIT, "version %s: a logit of the first 16 tokens differs by %g, limit %g", version.c_str(), d, LOGIT_LIMIT);
    check_state(official_state(e, state), expected_state(version, 16, e.info.L), "version " + version + " after 16 tokens");
    // from the reference's state, not our own
    set_official(e, state, expected_state(version, 16, e.info.L));
    d = difference(run(e, {ids.begin() + 16, ids.end()}, state), std::vector<double>(want.begin() + 16 * e.info.V, want.end()));
    CHECK(d <= LOGIT_LIMIT, "version %s: a logit from the state after 16 tokens on differs by %g, limit %g", version.c_str(), d, LOGIT_LIMIT);
    check_state(official_state(e, state), expected_state(version, 33, e.info.L), "version " + version + " after 33 tokens");
}
TEST("run: RWKV-4, GPT mode and RNN mode: logits and states = PyTorch") { test_reference("4", gpt), test_reference("4", rnn); }
TEST("run: RWKV-5.1, GPT mode and RNN mode: logits and states = PyTorch") { test_reference("51", gpt), test_reference("51", rnn); }
TEST("run: RWKV-5.2, GPT mode and RNN mode: logits and states = PyTorch") { test_reference("52", gpt), test_reference("52", rnn); }
TEST("run: RWKV-6, GPT mode and RNN mode: logits and states = PyTorch") { test_reference("6", gpt), test_reference("6", rnn); }
TEST("run: RWKV-7 from a .pth, GPT mode and RNN mode: logits and states = PyTorch") { test_reference("7", gpt), test_reference("7", rnn); }

TEST("run: the plain model of tests/run_reference.h = PyTorch, to 1e-5") {
    for (const char *version : versions) {
        TensorFile file(model_path(version));
        Plain plain(file);
        std::vector<double> want = expected(std::string(version) + "/logits"), got;
        for (const Row &r : plain.run(expected_tokens(version))) got.insert(got.end(), r.begin(), r.end());
        CHECK(difference(got, want) <= 1e-5, "version %s: differs by %g", version, difference(got, want));
    }
}

// ------------------------------------------------------------------------------------------------
// at other shapes: heads of 64 (kernels of their own), odd heads, odd widths, long texts

struct Shape5 { const char *version; int L, H, N, F, V; const char *lora; };
static const Shape5 shapes[] = {
    {"4", 2, 1, 67, 45, 131, ""}, {"4", 3, 1, 64, 256, 50, ""}, {"5.1", 2, 3, 64, 160, 67, ""}, {"5.1", 2, 5, 12, 33, 67, ""}, {"5.2", 2, 3, 64, 160, 67, ""},
    {"5.2", 2, 7, 6, 33, 67, ""}, {"6", 2, 3, 64, 160, 67, "m9d13"}, {"6", 2, 1, 20, 50, 67, "m1d3"}, {"7", 2, 3, 64, 224, 67, "w9a7v5g17"}, {"7", 3, 5, 10, 50, 67, "w1a2v3g4"},
    {"7", 1, 1, 64, 64, 40, "w8a8v8g8"}, {"7", 2, 2, 32, 96, 41, "w16a16v16g32"}};
static std::string shape_text(const Shape5 &s) { return format("RWKV-%s L%d, %d heads of %d, F%d V%d %s", s.version, s.L, s.H, s.N, s.F, s.V, s.lora); }
static std::string write_model(const ScratchDir &dir, const Shape5 &s, uint64_t seed = 1, const char *name = "model.safetensors") {
    RandomModel m = random_model(s.version, s.L, s.H, s.N, s.F, s.V, s.lora, seed);
    write_safetensors(dir / name, {}, m.tensors);
    return dir / name;
}
static std::vector<int> random_ids(int n, int V, uint64_t seed) {
    Rng rng = {seed, 1, 0};
    std::vector<int> ids(n);
    for (int &i : ids) i = (int)rng.below(V);
    return ids;
}

TEST("run: random models of every version and odd shapes = the plain model, GPT and RNN mode") {
    ScratchDir dir;
    for (const Shape5 &s : shapes) {
        std::string path = write_model(dir, s);
        Plain plain{TensorFile(path)};
        Engine e(path, quiet());
        std::vector<int> ids = random_ids(37, s.V, 5);
        std::vector<double> want;
        for (const Row &r : plain.run(ids)) want.insert(want.end(), r.begin(), r.end());
        real *state = e.new_states(2);
        double g = difference(gpt(e, ids, state), want), r = difference(rnn(e, ids, state + e.state_size()), want);
        CHECK(g <= LOGIT_LIMIT, "%s: GPT mode: a logit differs by %g", shape_text(s).c_str(), g);
        CHECK(r <= LOGIT_LIMIT, "%s: RNN mode: a logit differs by %g", shape_text(s).c_str(), r);
        CHECK(difference(e.hidden(), plain.hidden) <= LOGIT_LIMIT, "%s: the hidden vector differs by %g", shape_text(s).c_str(), difference(e.hidden(), plain.hidden));
    }
}

#ifdef CPU_SHAPES
TEST("run: the size of the prefill's chunks changes not one bit of logits and state") {
    ScratchDir dir;
    for (const Shape5 &s : shapes) {
        std::string path = write_model(dir, s);
        std::vector<int> ids = random_ids(70, s.V, 7);
        std::vector<float> first;
        std::vector<real> state1;
        for (int chunk : {70, 1, 2, 15, 16, 17, 64}) {
            Engine e(path, quiet(1, chunk));
            real *state = e.new_states(1);
            std::vector<float> z = gpt(e, ids, state), last(s.V);
            std::vector<real> got = e.get_state(state);
            if (first.empty()) first = z, state1 = got;
            CHECK(!memcmp(z.data(), first.data(), z.size() * sizeof z[0]), "%s: chunks of %d change a logit by %g", shape_text(s).c_str(), chunk, difference(z, first));
            CHECK(!memcmp(got.data(), state1.data(), got.size() * sizeof got[0]), "%s: chunks of %d change the state by %g", shape_text(s).c_str(), chunk, difference(got, state1));
            e.zero_state(state);
            e.forward(ids.data(), 70, state, Engine::LAST, last.data());
            CHECK(!memcmp(last.data(), z.data() + 69 * s.V, s.V * 4), "%s: only the last logits: they differ", shape_text(s).c_str());
        }
    }
}
#endif

TEST("run: a text of 3,000 tokens stays finite and = the plain model, also with keys of +-250") {
    ScratchDir dir;
    for (Shape5 s : {Shape5{"4", 1, 1, 16, 16, 20, ""}, {"5.2", 1, 2, 8, 16, 20, ""}, {"6", 1, 2, 8, 16, 20, "m2d2"}, {"7", 1, 2, 8, 16, 20, "w2a2v2g2"}}) {
        RandomModel m = random_model(s.version, s.L, s.H, s.N, s.F, s.V, s.lora, 3);
        if (!strcmp(s.version, "4"))
            for (size_t i = 0; i < m.tensors.size(); i++)
                if (m.tensors[i].name == "blocks.0.att.key.weight") for (float &x : m.data[i]) x = (float)(floatX)(x * 100);
        write_safetensors(dir / "m.safetensors", {}, m.tensors);
        Plain plain{TensorFile(dir / "m.safetensors")};
        Engine e(dir / "m.safetensors", quiet());
        std::vector<int> ids = random_ids(3000, s.V, 9);
        std::vector<double> want;
        for (const Row &r : plain.run(ids)) want.insert(want.end(), r.begin(), r.end());
        double d = difference(gpt(e, ids, e.new_states(1)), want);
        // e^k turns the rounding of k = 250 (3e-5 in fp32) into an error of the weights
        double limit = strcmp(s.version, "4") ? LOGIT_LIMIT : 20 * LOGIT_LIMIT;
        CHECK(d <= limit, "version %s: a logit differs by %g, limit %g", s.version, d, limit);
    }
}

TEST("run: --group-norm-eps is the epsilon of the norm over heads") {
    for (const char *version : {"51", "52", "6", "7"}) {
        EngineOptions o = quiet();
        o.group_norm_eps = 0.02;
        Engine e(model_path(version), o);
        Plain plain{TensorFile(model_path(version))};
        plain.group_norm_eps = 0.02;
        std::vector<double> want;
        for (const Row &r : plain.run(expected_tokens(version))) want.insert(want.end(), r.begin(), r.end());
        double d = difference(gpt(e, expected_tokens(version), e.new_states(1)), want), moved = difference(want, expected(std::string(version) + "/logits"));
        CHECK(d <= LOGIT_LIMIT && moved > (has_master ? 1.5 * d : 10 * LOGIT_LIMIT), "version %s: a logit differs by %g; the option moves it by %g", version, d, moved);
    }
}

// ------------------------------------------------------------------------------------------------
// states

TEST("run: two prompts in a row = each alone, to the bit: nothing leaks") {
    for (const char *version : versions) {
        Engine e(model_path(version), quiet()), fresh(model_path(version), quiet());
        std::vector<int> a = expected_tokens(version), b = random_ids(21, e.info.V, 11);
        real *state = e.new_states(1), *other = fresh.new_states(1);
        gpt(e, a, state);
        e.zero_state(state);
        std::vector<float> after = gpt(e, b, state), alone = gpt(fresh, b, other);
        CHECK(after == alone, "version %s: a logit differs by %g", version, difference(after, alone));
        CHECK(e.get_state(state) == fresh.get_state(other), "version %s: the states differ", version);
    }
}

TEST("run: a state saved, loaded elsewhere, and branched goes on to the bit") {
    ScratchDir dir;
    for (const char *version : versions) {
        Engine e(model_path(version), quiet()), other(model_path(version), quiet());
        std::vector<int> ids = expected_tokens(version), tail(ids.begin() + 20, ids.end()), wrong = random_ids(9, e.info.V, 2);
        real *s = e.new_states(3), *branch = s + e.state_size(), *third = branch + e.state_size(), *loaded = other.new_states(1);
        gpt(e, {ids.begin(), ids.begin() + 20}, s);
        e.save_state(dir / "state", s);
        e.copy_state(branch, s), e.copy_state(third, s);
        gpt(e, wrong, third);  // another branch must not disturb these
        std::vector<float> straight = gpt(e, tail, s), branched = gpt(e, tail, branch);
        other.load_state(dir / "state", loaded);
        CHECK(straight == branched, "version %s: the branch differs by %g", version, difference(straight, branched));
        CHECK(straight == gpt(other, tail, loaded), "version %s: the loaded state gives other logits", version);
        CHECK(e.get_state(s) == other.get_state(loaded), "version %s: the final states differ", version);
    }
}

TEST("run: the state of another model, a damaged one and what is no state are refused") {
    ScratchDir dir;
    Engine e(model_path("7"), quiet()), six(model_path("6"), quiet());
    real *s = e.new_states(1), *s6 = six.new_states(1);
    std::vector<int> ids = expected_tokens("7");
    gpt(e, ids, s);
    std::vector<real> before = e.get_state(s);
    six.save_state(dir / "six", s6);
    CHECK_ERROR(e.load_state(dir / "six", s), "another model");
    std::string other = write_model(dir, {"7", 3, 3, 8, 96, 37, "w5a3v7g11"});  // the same shape, other weights
    Engine twin(other, quiet());
    twin.save_state(dir / "twin", twin.new_states(1));
    CHECK_ERROR(e.load_state(dir / "twin", s), "another model");
    e.save_state(dir / "mine", s);
    std::string bytes = file_bytes(dir / "mine");
    bytes[bytes.size() - 3] ^= 4;
    put_file(dir / "bad", bytes);
    CHECK_ERROR(e.load_state(dir / "bad", s), "checksum");
    put_file(dir / "cut", bytes.substr(0, bytes.size() - 4));
    CHECK_ERROR(e.load_state(dir / "cut", s), "cut");
    CHECK_ERROR(e.load_state(model_path("7"), s), "not a state");
    CHECK_ERROR(e.load_state(dir / "none", s), "none");
    CHECK_ERROR(Engine(dir / "mine", quiet()), "--state-in");
    CHECK(e.get_state(s) == before, "a refused file changed the state");
}

TEST("run: official tuned states: [value][key] for 5 and 6, [key][value] for 7") {
    ScratchDir dir;
    for (const char *version : {"52", "6", "7"}) {
        Engine e(model_path(version), quiet());
        int L = e.info.L, H = e.info.H, N = e.info.N;
        std::vector<std::vector<float>> data;
        std::vector<TensorView> tensors;
        std::map<std::string, std::vector<double>> want;
        for (int l = 0; l < L; l++) {
            std::vector<double> S = expected(format("%s/state16/%d/S", version, l));
            std::vector<float> turned(S.size());
            for (int c = 0; c < H * N; c++) for (int j = 0; j < N; j++) turned[(c / N * N + j) * N + c % N] = (float)S[c * N + j];
            data.push_back(turned), want[std::to_string(l) + "/S"] = S;
            want[std::to_string(l) + "/att_x"] = want[std::to_string(l) + "/ffn_x"] = std::vector<double>(H * N, 0);
        }
        for (int l = 0; l < L; l++) tensors.push_back({format("blocks.%d.att.time_state", l), DType::F32, {H, N, N}, data[l].data()});
        write_pth(dir / "tuned.pth", tensors);
        real *s = e.new_states(1);
        gpt(e, random_ids(5, e.info.V, 1), s);
        e.load_state(dir / "tuned.pth", s);
        check_state(official_state(e, s), want, std::string("version ") + version);
        tensors.pop_back();
        write_pth(dir / "short.pth", tensors);
        CHECK_ERROR(e.load_state(dir / "short.pth", s), "layers");
    }
    Engine four(model_path("4"), quiet());
    CHECK_ERROR(four.load_state(dir / "tuned.pth", four.new_states(1)), "RWKV-4");
}

// ------------------------------------------------------------------------------------------------
// several sequences at once

TEST("run: a batch of sequences in any slots = each alone, logits, states and greedy tokens") {
    for (const char *version : versions) {
        const int B = 5, T = 12;
        Engine e(model_path(version), quiet(B)), single(model_path(version), quiet());
        int slots[B] = {3, 0, 6, 1, 4}, V = e.info.V;
        real *states = e.new_states(7), *alone = single.new_states(1);
        std::vector<int> ids(B);
        std::vector<std::vector<int>> greedy(B);
        std::vector<float> z(B * V), one(V);
        for (int b = 0; b < B; b++) {  // prompts of different lengths
            std::vector<int> prompt = random_ids(1 + 4 * b, V, 20 + b);
            gpt(e, prompt, states + slots[b] * e.state_size());
            ids[b] = prompt[0];
        }
        std::vector<int> now = ids;
        for (int t = 0; t < T; t++) {
            e.decode(now.data(), B, states, slots, z.data());
            for (int b = 0; b < B; b++) greedy[b].push_back(now[b] = (int)likeliest_token(z.data() + b * V, V));
        }
        for (int b = 0; b < B; b++) {
            single.zero_state(alone);
            gpt(single, random_ids(1 + 4 * b, V, 20 + b), alone);
            int id = ids[b];
            for (int t = 0; t < T; t++) {
                single.decode(&id, 1, alone, nullptr, one.data());
                id = (int)likeliest_token(one.data(), V);
                CHECK(has_master || id == greedy[b][t], "version %s, sequence %d: token %d is %d, alone %d", version, b, t, greedy[b][t], id);
                if (id != greedy[b][t]) break;  // 16 bits: near ties
                if (t + 1 == T) CHECK(difference(one, std::vector<float>(z.begin() + b * V, z.begin() + (b + 1) * V)) <= LOGIT_LIMIT, "version %s, sequence %d: logits differ", version, b);
            }
        }
        std::vector<real> idle = e.get_state(states + 5 * e.state_size());
        CHECK(std::count(idle.begin(), idle.end(), real(0)) == (int64_t)idle.size(), "version %s: a slot that is not in the batch has changed", version);
        CHECK_ERROR(e.decode(std::vector<int>(6, 0).data(), 6, states, nullptr, nullptr), "batch of 6");
        int bad = V;
        CHECK_ERROR(e.decode(&bad, 1, states, nullptr, nullptr), "vocabulary");
        CHECK_ERROR(e.forward(&bad, 1, states), "vocabulary");
    }
}

// ------------------------------------------------------------------------------------------------
// int8

// 254 steps over the largest of a row: a weight is off by at most max/254, in the mean 1/sqrt(12) of a step. For
// uniform weights that is 0.4 % of a product's standard deviation, some 2 % of a logit's after three layers with squares
// and gates; the bound is for the mean of |difference| / mean of |logit|.
TEST("run: int8 weights move logits by 4 % on average, and every way of decoding gives the same") {
    for (const char *version : versions) {
        EngineOptions o = quiet(3);
        o.int8 = true;
        Engine e(model_path(version), o);
        std::vector<int> ids = expected_tokens(version);
        std::vector<double> want = expected(std::string(version) + "/logits");
        real *states = e.new_states(4);
        std::vector<float> z = gpt(e, ids, states), one = rnn(e, ids, states + e.state_size());
        double moved = 0, size = 0;
        for (size_t i = 0; i < want.size(); i++) moved += fabs(z[i] - want[i]), size += fabs(want[i]);
        CHECK(moved <= (has_master ? 0.06 : 0.04) * size, "version %s: int8 moves logits by %.2f %%", version, 100 * moved / size);
        CHECK(moved >= 1e-4 * size, "version %s: int8 changes nothing, is it on?", version);
        CHECK(difference(z, one) <= 2 * LOGIT_LIMIT, "version %s: GPT mode and RNN mode differ by %g", version, difference(z, one));
    }
}

// ------------------------------------------------------------------------------------------------
// ../shared/oracle: published and constructed models with logits from another implementation

TEST("run: ../shared/oracle: tiny-rwkv-4v0 and stress-7v0, logits and states") {
    const std::string dir = "../shared/oracle/";
    struct stat st;
    if (stat(dir.c_str(), &st)) SKIP("no ../shared/oracle");
    struct Case { const char *file, *ref; bool state; };
    auto numbers = [&](const std::string &name) {
        std::string s = file_bytes(dir + "ref/" + name);
        CHECK(!s.empty() && s.size() % 4 == 0, "cannot read %s", name.c_str());
        std::vector<float> v(s.size() / 4);
        memcpy(v.data(), s.data(), s.size());
        return v;
    };
    for (Case c : {Case{"tiny-rwkv-4v0-660K.fp32.pth", "tiny-rwkv-4v0-660K.fp32.", true}, {"tiny-rwkv-4v0-660K.bf16.safetensors", "tiny-rwkv-4v0-660K.bf16.", false},
                   {"stress-7v0.bf16.pth", "stress-7v0.bf16.", true}})
        for (std::string text : {"text64", "lcg64"}) {
            std::string name = c.ref + text + ".logits.f32.bin";
            if (!file_exists(dir + "ref/" + name)) continue;
            Engine e(dir + c.file, quiet());
            std::string raw = file_bytes(dir + "ref/tokens." + text + ".u32.bin");
            std::vector<int> ids(64);
            memcpy(ids.data(), raw.data(), 256);
            std::vector<float> want = numbers(name);
            real *s = e.new_states(2), *s1 = s + e.state_size();
            double limit = has_master ? 0.3 : 1e-4, g = difference(gpt(e, ids, s), want), r = difference(rnn(e, ids, s1), want);
            CHECK(g <= limit && r <= limit, "%s: a logit differs by %g (GPT mode) or %g (RNN mode), limit %g", name.c_str(), g, r, limit);
            std::string after = c.ref + text + ".state_after64.f32.bin";
            if (!file_exists(dir + "ref/" + after)) continue;
            // per layer ffn_x, att_x, then aa, bb, pp or S
            std::vector<float> flat = numbers(after);
            size_t at = 0;
            std::map<std::string, std::vector<double>> state;
            auto take = [&](int64_t n) { at += n; return std::vector<double>(flat.begin() + at - n, flat.begin() + at); };
            for (int l = 0; l < e.info.L; l++) {
                std::string b = std::to_string(l) + "/";
                int C = e.info.C;
                state[b + "ffn_x"] = take(C), state[b + "att_x"] = take(C);
                if (e.info.version == "7") { state[b + "S"] = take((int64_t)C * e.info.N); continue; }
                std::vector<double> aa = take(C), bb = take(C), pp = take(C);
                for (int i = 0; i < C; i++) aa[i] *= exp(pp[i]), bb[i] *= exp(pp[i]);
                state[b + "sum"] = aa, state[b + "weight"] = bb;
            }
            check_state(official_state(e, s), state, name);
        }
}
