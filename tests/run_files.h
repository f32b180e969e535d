/* tests/run_files.h: model files: conversion, what is refused and how it is said, damage. */
#pragma once
#include "../run/convert.h"
#include "run_models.h"

static int run_quietly(int (*command)(int, char **), std::vector<std::string> words, std::string *said = nullptr) {  // a sub-command; what it printed
    std::vector<char *> argv;
    for (std::string &w : words) argv.push_back(w.data());
    ScratchDir dir;
    fflush(stdout);
    int keep = dup(1), file = open((dir / "out").c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    dup2(file, 1);
    struct Restore { int keep, file; ~Restore() { fflush(stdout), dup2(keep, 1), close(keep), close(file); } };
    int rc;
    {
        Restore restore = {keep, file};
        rc = command((int)argv.size(), argv.data());
    }
    if (said) *said = file_bytes(dir / "out");
    return rc;
}
static std::string dense(const TensorView &t) {
    std::string s(t.bytes(), '\0');
    read_tensor(t, t.dtype, s.data());
    return s;
}

// ------------------------------------------------------------------------------------------------
// convert, info

TEST("convert: .pth -> .safetensors -> .pth keeps every bit, name, shape and type, and the fingerprint") {
    ScratchDir dir;
    for (const char *version : versions) {
        std::string from = model_path(version), st = dir / (std::string(version) + ".safetensors"), pth = dir / (std::string(version) + ".pth"), again = dir / (std::string(version) + "b.safetensors");
        run_quietly(convert_main, {"convert", "--model", from, "--out", st});
        run_quietly(convert_main, {"convert", "--model", st, "--out", pth});
        run_quietly(convert_main, {"convert", "--model", pth, "--out", again});
        TensorFile a(from), b(st), c(pth);
        CHECK(b.verify() && c.verify(), "no checksum");
        for (const TensorView &t : a.tensors)
            for (const TensorFile *f : {&b, &c}) {
                const TensorView &u = f->get(t.name);
                CHECK(u.dtype == t.dtype && u.shape == t.shape && dense(u) == dense(t), "%s of %s has changed", t.name.c_str(), f->path.c_str());
            }
        CHECK(b.tensors.size() == a.tensors.size() && c.tensors.size() == a.tensors.size(), "%zu tensors became %zu and %zu", a.tensors.size(), b.tensors.size(), c.tensors.size());
        CHECK(file_bytes(st) == file_bytes(again), "there and back: another .safetensors");
        CHECK(inspect_model(a).fingerprint == inspect_model(b).fingerprint && inspect_model(a).fingerprint == inspect_model(c).fingerprint, "the fingerprint has changed");
    }
}

TEST("convert: the state of a model fits its conversion to another type, and metadata stay") {
    ScratchDir dir;
    RandomModel m = random_model("7", 2, 2, 8, 24, 20, "w2a2v2g2", 1);
    write_safetensors(dir / "m.safetensors", {{"tokenizer", "char"}, {"note", "mine"}}, m.tensors);
    for (const char *dtype : {"bf16", "fp16", "fp64", "int8"}) {
        std::string out = dir / (std::string(dtype) + ".safetensors");
        run_quietly(convert_main, {"convert", "--model", dir / "m.safetensors", "--out", out, "--dtype", dtype});
        TensorFile file(out);
        CHECK(file.metadata["tokenizer"] == "char" && file.metadata["note"] == "mine" && file.verify(), "metadata are lost");
        CHECK(file.get("emb.weight").dtype == (!strcmp(dtype, "bf16") ? DType::BF16 : !strcmp(dtype, "fp16") ? DType::F16 : !strcmp(dtype, "fp64") ? DType::F64 : DType::F32), "the type of emb.weight");
        Engine a(dir / "m.safetensors", quiet()), b(out, quiet());
        real *s = a.new_states(1), *t = b.new_states(1);
        gpt(a, {1, 2, 3}, s);
        a.save_state(dir / "state", s);
        b.load_state(dir / "state", t);
        CHECK(a.get_state(s) == b.get_state(t), "%s: the state has changed", dtype);
    }
}

TEST("convert: an int8 file is what --int8 makes of the model, to the bit, a third of its size, and comes back within half a step") {
    ScratchDir dir;
    for (const char *version : versions) {
        std::string out = dir / (std::string(version) + ".safetensors"), back = dir / (std::string(version) + "_back.safetensors");
        run_quietly(convert_main, {"convert", "--model", model_path(version), "--out", out, "--dtype", "int8"});
        EngineOptions o = quiet();
        o.int8 = true;
        Engine live(model_path(version), o), file(out, quiet());
        CHECK(file.info.int8 && file.o.int8, "the file is not known as int8");
        std::vector<int> ids = expected_tokens(version);
        CHECK(gpt(live, ids, live.new_states(1)) == gpt(file, ids, file.new_states(1)), "version %s: other logits", version);
        run_quietly(convert_main, {"convert", "--model", out, "--out", back, "--dtype", "fp32"});
        TensorFile a(model_path(version)), q(out), b(back);
        for (const TensorView &t : a.tensors) {
            const TensorView &u = b.get(t.name), &s = q.get(t.name);
            std::vector<float> x(t.count()), y(t.count());
            read_tensor(t, x.data()), read_tensor(u, y.data());
            if (s.dtype != DType::I8) { CHECK(dense(s) == dense(t), "%s is no large matrix, but has changed", t.name.c_str()); continue; }
            int64_t cols = t.shape.back();
            for (int64_t r = 0; r < t.count() / cols; r++) {
                float most = 0;
                for (int64_t i = r * cols; i < (r + 1) * cols; i++) most = std::max(most, fabsf(x[i]));
                for (int64_t i = r * cols; i < (r + 1) * cols; i++) CHECK(fabsf(x[i] - y[i]) <= most / 127 * 0.5001f, "%s[%lld]: %g became %g", t.name.c_str(), (long long)i, x[i], y[i]);
            }
        }
        CHECK(b.tensors.size() == a.tensors.size(), "scales are left over");
        int64_t large = 0;
        for (const WeightName &n : weight_names(file.info)) large += n.row->kind == 'M' ? q.get(n.name).dtype == DType::I8 : 0;
        CHECK(large > 5, "only %lld matrices are int8", (long long)large);
    }
}

TEST("convert: types round as they should, and what cannot be done is a sentence that leaves no file") {
    ScratchDir dir;
    std::string in = model_path("4");
    run_quietly(convert_main, {"convert", "--model", in, "--out", dir / "b.safetensors", "--dtype", "bf16"});
    run_quietly(convert_main, {"convert", "--model", dir / "b.safetensors", "--out", dir / "f.safetensors", "--dtype", "fp32"});
    TensorFile a(in), b(dir / "f.safetensors");
    for (const TensorView &t : a.tensors) {
        std::vector<float> x(t.count()), y(t.count());
        read_tensor(t, x.data()), read_tensor(b.get(t.name), y.data());
        for (size_t i = 0; i < x.size(); i++) CHECK(bf16_to_float(float_to_bf16(x[i])) == y[i], "%s: %g became %g", t.name.c_str(), x[i], y[i]);
    }
    auto convert = [&](std::string from, std::string to, std::string dtype = "keep") { run_quietly(convert_main, {"convert", "--model", from, "--out", to, "--dtype", dtype}); };
    std::string before = file_bytes(dir / "b.safetensors");
    CHECK_ERROR(convert(dir / "b.safetensors", dir / "b.safetensors"), "exists already");
    CHECK_ERROR(convert(in, dir / "f.safetensors"), "exists already");
    CHECK(file_bytes(dir / "b.safetensors") == before, "the input was overwritten");
    CHECK_ERROR(convert(in, dir / "x.gguf"), "must end in .safetensors or .pth");
    CHECK_ERROR(convert(in, dir / "x.pth", "int8"), "int8");
    CHECK_ERROR(convert("tests/data/edge.pth", dir / "x.safetensors", "int8"), "edge.pth");
    CHECK_ERROR(convert(in, dir / "x.safetensors", "fp8"), "--dtype is 'fp8'");
    CHECK_ERROR(convert(in, dir / "no/x.safetensors"), "no/x.safetensors");
    CHECK_ERROR(convert(dir / "none", dir / "x.pth"), "none");
    CHECK_ERROR(run_quietly(convert_main, {"convert", "--model", in}), "--out is missing");
    std::string damaged = before;
    damaged[damaged.size() - 9] ^= 1;
    put_file(dir / "damaged.safetensors", damaged);
    CHECK_ERROR(convert(dir / "damaged.safetensors", dir / "x.pth"), "checksum");
    float large[2] = {1, 70000}, nan[2] = {NAN, 1};
    write_safetensors(dir / "large.safetensors", {}, {{"a", DType::F32, {2}, large}});
    CHECK_ERROR(convert(dir / "large.safetensors", dir / "x.pth", "fp16"), "a has a number above 65504");
    RandomModel m = random_model("4", 1, 1, 8, 16, 12, "", 1);
    for (TensorView &t : m.tensors) if (t.name == "head.weight") memcpy((void *)t.data, nan, 8);
    write_safetensors(dir / "nan.safetensors", {}, m.tensors);
    CHECK_ERROR(convert(dir / "nan.safetensors", dir / "x.safetensors", "int8"), "head.weight has a number that is not finite");
    CHECK(!file_exists(dir / "x.safetensors") && !file_exists(dir / "x.pth") && !file_exists(dir / "x.safetensors.tmp") && !file_exists(dir / "x.pth.tmp"), "something was written");
}

TEST("info: shape, fingerprint, memory and tensors; half-lives of the decays as CSV") {
    ScratchDir dir;
    std::string said;
    for (const char *version : versions) {
        CHECK(run_quietly(info_main, {"info", "--model", model_path(version), "--half-lives", dir / "h.csv"}, &said) == 0, "exit code");
        TensorFile file(model_path(version));
        ModelInfo m = inspect_model(file);
        for (std::string words : {m.text(), m.fingerprint, std::string("emb.weight"), std::string("blocks.*.att.key.weight"), std::string("state: ")})
            CHECK(said.find(words) != said.npos, "version %s: it does not say %s", version, words.c_str());
        Engine e(model_path(version), quiet());
        CHECK(state_numbers(m) == e.state_size(), "version %s: a state has %lld numbers, not %lld", version, (long long)e.state_size(), (long long)state_numbers(m));
        std::istringstream csv(file_bytes(dir / "h.csv"));
        std::string line;
        std::getline(csv, line);
        CHECK(line == format("layer,%s,factor_per_token,half_life_tokens", strcmp(version, "51") ? "channel" : "head"), "the first line is %s", line.c_str());
        int rows = 0, layer, channel;
        for (double w, half; std::getline(csv, line); rows++) {
            CHECK(sscanf(line.c_str(), "%d,%d,%lf,%lf", &layer, &channel, &w, &half) == 4, "a line is %s", line.c_str());
            CHECK(fabs(pow(w, half) - 0.5) < 1e-3 && w > 0 && w < 1, "%s: %g^%g is not 1/2", line.c_str(), w, half);
        }
        CHECK(rows == m.L * (strcmp(version, "51") ? m.C : m.H), "%d rows", rows);
    }
    run_quietly(info_main, {"info", "--model", "tests/data/edge.pth"}, &said);
    CHECK(said.find("transposed") != said.npos && said.find("not an RWKV model") != said.npos, "it said %s", said.c_str());
}

// ------------------------------------------------------------------------------------------------
// what is refused

TEST("run: other variants and other kinds of file are refused by name") {
    ScratchDir dir;
    RandomModel four = random_model("4", 2, 1, 8, 16, 12, "", 1), five = random_model("5.1", 2, 2, 4, 16, 12, "", 1), seven = random_model("7", 2, 2, 4, 16, 12, "w2a2v2g2", 1);
    float zero[64] = {};
    auto with = [&](RandomModel &m, std::vector<std::string> names) {
        std::vector<TensorView> t = m.tensors;
        for (std::string &n : names) t.push_back({n, DType::F32, {8, 8}, zero});
        write_safetensors(dir / "m.safetensors", {}, t);
        return dir / "m.safetensors";
    };
    auto without = [&](RandomModel &m, const char *part) {
        std::vector<TensorView> t;
        for (auto &v : m.tensors) if (v.name.find(part) == v.name.npos) t.push_back(v);
        write_safetensors(dir / "m.safetensors", {}, t);
        return dir / "m.safetensors";
    };
    CHECK_ERROR(Engine(with(four, {"blocks.1.tiny_q.weight", "blocks.1.tiny_k.weight"}), quiet()), "RWKV-4a");
    CHECK_ERROR(Engine(with(four, {"blocks.0.att.qq.weight", "blocks.0.att.kk.weight"}), quiet()), "RWKV-4b");
    CHECK_ERROR(Engine(without(five, "gate"), quiet()), "RWKV-5.0");
    CHECK_ERROR(Engine(with(seven, {"blocks.0.ffn.s_emb.weight"}), quiet()), "RWKV-7a");
    CHECK_ERROR(Engine(with(seven, {"blocks.0.qkv.k1"}), quiet()), "RWKV-7b");
    CHECK_ERROR(Engine(with(seven, {"blocks.0.ffn.enn.weight"}), quiet()), "RWKV-8");
    CHECK_ERROR(Engine(with(seven, {"blocks.0.ffn.receptance.weight"}), quiet()), "blocks.0.ffn.receptance.weight");
    CHECK_ERROR(Engine(with(four, {"extra"}), quiet()), "extra");
    CHECK_ERROR(Engine(without(four, "blocks.1.ffn.value.weight"), quiet()), "blocks.1.ffn.value.weight is missing");
    CHECK_ERROR(Engine(without(seven, "blocks.1.att.r_k"), quiet()), "blocks.1.att.r_k is missing");
    CHECK_ERROR(Engine(without(seven, "blocks."), quiet()), "not an RWKV model");
    for (auto &[name, words] : {std::pair<const char *, const char *>{"transformer.wte.weight", "GPT-2"}, {"model.layers.0.attn.r_proj.weight", "Hugging Face"}, {"rwkv.blocks.0.attention.key.weight", "Hugging Face"}}) {
        write_safetensors(dir / "m.safetensors", {}, {{name, DType::F32, {8, 8}, zero}});
        CHECK_ERROR(Engine(dir / "m.safetensors", quiet()), words);
    }
    RandomModel odd = random_model("4", 2, 1, 8, 16, 12, "", 1);
    for (TensorView &t : odd.tensors) if (t.name == "blocks.1.att.key.weight") t = {t.name, DType::F32, {4, 8}, t.data};
    write_safetensors(dir / "m.safetensors", {}, odd.tensors);
    CHECK_ERROR(Engine(dir / "m.safetensors", quiet()), "blocks.1.att.key.weight has shape [4, 8]");
    for (auto &[content, words] : {std::pair<std::string, const char *>{"", "empty"}, {"<!DOCTYPE html><html>not found</html>", "web page"}, {std::string("GGUF\3\0\0\0\0\0\0\0", 12), "GGUF"},
                                   {"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n", "git-lfs"}, {"fmgg\x65\0\0\0", "ggml"}, {"garbage that is nothing", "neither .safetensors nor .pth"},
                                   {file_bytes(model_path("7")).substr(0, 40000), "cut short"}, {file_bytes(model_path("6")).substr(0, 40000), "cut short"}}) {
        put_file(dir / "file", content);
        CHECK_ERROR(Engine(dir / "file", quiet()), words);
        CHECK_ERROR(Engine(dir / "file", quiet()), "file");
    }
    CHECK_ERROR(Engine(dir / "none.pth", quiet()), "none.pth");
    CHECK_ERROR(Engine(dir.path, quiet()), "holds no checkpoint");
}

TEST("run: tensors of layer 0 that trainers write and published files lack change nothing") {
    ScratchDir dir;
    TensorFile file(model_path("7"));
    std::vector<TensorView> published;
    for (const TensorView &t : file.tensors) if (t.name.compare(0, 14, "blocks.0.att.v") || t.name == "blocks.0.att.value.weight") published.push_back(t);
    CHECK(file.tensors.size() == published.size() + 3, "the file has no blocks.0.att.v0, v1, v2");
    std::reverse(published.begin(), published.end());  // nor does the order matter
    write_pth(dir / "m.pth", published);
    Engine a(model_path("7"), quiet()), b(dir / "m.pth", quiet());
    CHECK(gpt(a, expected_tokens("7"), a.new_states(1)) == gpt(b, expected_tokens("7"), b.new_states(1)), "other logits");
    CHECK(a.info.fingerprint == b.info.fingerprint, "another fingerprint");
}

TEST("run: .pth with prefixes, transposed and shared storages give the same logits") {
    ScratchDir dir;
    for (const char *version : {"6", "7"}) {
        TensorFile file(model_path(version));
        std::vector<TensorView> odd = file.tensors;
        std::vector<std::string> storage;  // every matrix as the transpose of its transpose, with a gap in front
        storage.reserve(odd.size());
        for (TensorView &t : odd) {
            t.name = "_forward_module." + t.name;
            if (t.shape.size() != 2) continue;
            int64_t rows = t.shape[0], cols = t.shape[1], size = dtype_size(t.dtype);
            std::string in = dense(t), turned((3 + rows * cols) * size, '\x7f');
            for (int64_t r = 0; r < rows; r++) for (int64_t c = 0; c < cols; c++) memcpy(&turned[(3 + c * rows + r) * size], &in[(r * cols + c) * size], size);
            storage.push_back(turned);
            t.stride = {1, rows}, t.data = storage.back().data() + 3 * size;
        }
        // the views as they are: what torch.save writes of transposed tensors
        std::string pickle = "\x80\2}";
        ZipOutput zip(dir / "odd.pth");
        for (size_t i = 0, k = 0; i < odd.size(); i++) {
            bool matrix = odd[i].shape.size() == 2;
            std::string bytes = matrix ? storage[k++] : dense(odd[i]), key = std::to_string(i);
            pickle += pickle_text(odd[i].name) + "ctorch._utils\n_rebuild_tensor_v2\n((" + pickle_text("storage") + "ctorch\n" + dtypes[(int)odd[i].dtype].storage + "\n" + pickle_text(key) + pickle_text("cuda:0")
                    + pickle_int(bytes.size() / dtype_size(odd[i].dtype)) + "tQ" + pickle_int(matrix ? 3 : 0) + pickle_tuple(odd[i].shape) + pickle_tuple(odd[i].stride) + "\x89" "ccollections\nOrderedDict\n)RtRs";
            zip.add("x/data/" + key, bytes);
        }
        zip.add("x/data.pkl", pickle + ".");
        zip.commit();
        Engine a(model_path(version), quiet()), b(dir / "odd.pth", quiet());
        CHECK(gpt(a, expected_tokens(version), a.new_states(1)) == gpt(b, expected_tokens(version), b.new_states(1)), "version %s: other logits", version);
    }
}

// ------------------------------------------------------------------------------------------------
// damage

template<class Use> static void fuzz(const char *what, const std::string &whole, int total, Use use) {
    std::mt19937_64 random(7);
    ScratchDir dir;
    int good = 0;
    for (int i = 0; i < total; i++) {
        std::string s = whole;
        mutate(s, random);
        put_file(dir / "fuzz.bin", s);
        try {
            use(dir / "fuzz.bin");
            good++;
        } catch (const Error &e) { CHECK(strstr(e.what(), "fuzz.bin") && !strchr(e.what(), '\n'), "%s: it said: %s", what, e.what()); }
    }
    CHECK(good < total, "%s: all %d damaged files were taken", what, total);
}
TEST("run: 1,500 damaged model files run or are refused with a sentence") {
    ScratchDir dir;
    for (const char *version : {"4", "6", "7"}) {
        RandomModel m = random_model(version, 2, *version == '4' ? 1 : 2, 4, 8, 9, *version == '6' ? "m1d2" : "w1a1v1g1", 1);
        write_safetensors(dir / "m", {}, m.tensors);
        write_pth(dir / "m.pth", m.tensors);
        std::string st = file_bytes(dir / "m"), pth = file_bytes(dir / "m.pth");
        size_t header = 8 + load_as<uint64_t>(st.data());
        auto use = [&](const std::string &path) {
            Engine e(path, quiet());
            std::vector<float> z(e.info.V);
            e.forward(std::vector<int>(3, 0).data(), 3, e.new_states(1), Engine::LAST, z.data());
        };
        use(dir / "m"), use(dir / "m.pth");
        fuzz("safetensors", st, 150, use);
        fuzz("pth", pth, 150, use);
        fuzz("the header of a safetensors", st.substr(0, header), 200, [&](const std::string &path) {  // whole data behind a damaged header
            std::string s = file_bytes(path);
            if (s.size() >= 8) { uint64_t n = s.size() - 8; memcpy(s.data(), &n, 8); }
            put_file(path, s + st.substr(header));
            use(path);
        });
    }
}
TEST("run: 600 damaged state files load or are refused with a sentence, and a refusal changes nothing") {
    ScratchDir dir;
    Engine e(model_path("7"), quiet());
    real *s = e.new_states(1);
    gpt(e, expected_tokens("7"), s);
    e.save_state(dir / "state", s);
    std::string whole = file_bytes(dir / "state");
    size_t header = 8 + load_as<uint64_t>(whole.data());
    std::vector<real> before = e.get_state(s);
    auto use = [&](const std::string &path) {
        try {
            e.load_state(path, s);
        } catch (const Error &) {
            CHECK(e.get_state(s) == before, "a refused file changed the state");
            throw;
        }
        e.set_state(s, before);
    };
    fuzz("state", whole, 300, use);
    fuzz("the header of a state", whole.substr(0, header), 300, [&](const std::string &path) {
        std::string t = file_bytes(path);
        if (t.size() >= 8) { uint64_t n = t.size() - 8; memcpy(t.data(), &n, 8); }
        put_file(path, t + whole.substr(header));
        use(path);
    });
}
