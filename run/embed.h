/* run/embed.h: each line of a file as a vector.

       run_rwkv embed --model F --lines A.txt --out A.npy|A.jsonl [--what memory] [--layer 5]
       run_rwkv embed --model F --lines A.txt --compare B.txt

   A line is read from an empty state, behind the end-of-text token where the tokenizer has one.
   memory   what the layers remember of the whole line: for version 4 the averages aa/bb (C a layer), for the others the
            H matrices [key, value] of N x N numbers; --layer takes one layer's
   state    all that the model goes on with: before each layer's memory its two shifted inputs (C each), which know only
            the last token
   hidden   C numbers: what the head turns into the logits of the next token
   .npy is float32 [lines, numbers], for numpy.load; .jsonl has {"text": ..., "vector": [...]} a line.

   --compare shows what the vectors are good for: the odd lines of both files give each file a centroid, the even lines
   go to the nearer one, each number in units of its standard deviation within a file. The share that goes home is
   printed: 50 % is chance.   defines: Embedder, centroid_accuracy, embed_main */
#pragma once
#include "engine.h"

class Embedder {
public:
    enum What { HIDDEN, STATE, MEMORY };

private:
    Engine &engine;
    Tokenizer &tokenizer;
    real *state;
    const What what;
    std::vector<Engine::StatePart> parts;

    std::vector<float> numbers_of_state() const {
        std::vector<real> s = engine.get_state(state);
        std::vector<float> out;
        for (const Engine::StatePart &p : parts) {
            int64_t n = TensorView("", DType::F32, p.shape, nullptr).count();
            bool sums = p.name.size() > 3 && !p.name.compare(p.name.size() - 3, 3, ".aa");  // aa, bb and pp follow each other
            for (int64_t i = p.offset; i < p.offset + n; i++) out.push_back((float)(!sums ? s[i] : s[i + n] > 0 ? s[i] / s[i + n] : 0));
        }
        return out;
    }

public:
    // layer -1: all
    Embedder(Engine &engine, Tokenizer &tokenizer, What what, int64_t layer = -1)
        : engine(engine), tokenizer(tokenizer), state(engine.new_states(1)), what(what) {
        std::string prefix = format("blocks.%lld.", (long long)layer);
        for (const Engine::StatePart &p : engine.state_parts()) {
            std::string kind = p.name.substr(p.name.rfind('.') + 1);
            if ((layer < 0 || !p.name.compare(0, prefix.size(), prefix)) && kind != "bb" && kind != "pp" && (kind != "x" || what == STATE)) parts.push_back(p);
        }
    }
    std::vector<int> tokens_of(std::string_view line) {
        std::vector<uint32_t> ids;
        if (tokenizer.eot >= 0) ids.push_back(tokenizer.eot);
        tokenizer.encode(line, ids);
        return {ids.begin(), ids.end()};
    }
    // Every line must have a token; asked before the first is run
    void check(const std::string &path, const std::vector<std::string_view> &lines) {
        for (size_t i = 0; i < lines.size(); i++)
            if (tokens_of(lines[i]).empty()) fail("%s, line %zu: it has no token: \"%s\"; remove it", path.c_str(), i + 1, printable(lines[i]).c_str());
    }
    std::vector<float> operator()(std::string_view line) {
        engine.zero_state(state);
        std::vector<int> tokens = tokens_of(line);
        engine.forward(tokens.data(), tokens.size(), state);
        return what == HIDDEN ? engine.hidden() : numbers_of_state();
    }
};

inline std::vector<std::string_view> lines_of(const MappedFile &file) {
    std::vector<std::string_view> lines;
    for (std::string_view rest = file.text(); !rest.empty(); ) {
        size_t end = std::min(rest.find('\n'), rest.size()), n = end && rest[end - 1] == '\r' ? end - 1 : end;
        lines.push_back(rest.substr(0, n));
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    if (lines.empty()) fail("%s has no lines", file.path.c_str());
    return lines;
}

// The head of a .npy: its length is a multiple of 64
inline std::string npy_header(int64_t rows, int64_t cols) {
    std::string text = format("{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %lld), }", (long long)rows, (long long)cols);
    text.resize((10 + text.size() + 1 + 63) / 64 * 64 - 11, ' ');
    uint16_t n = text.size() + 1;
    return std::string("\x93NUMPY\1\0", 8) + std::string((const char *)&n, 2) + text + "\n";
}
inline void write_vectors(const std::string &path, Embedder &embed, const std::vector<std::string_view> &lines) {
    const bool npy = path.size() > 4 && !path.compare(path.size() - 4, 4, ".npy");
    OutputFile out(path);
    for (size_t i = 0; i < lines.size(); i++) {
        std::vector<float> v = embed(lines[i]);
        std::string s = npy && i == 0 ? npy_header(lines.size(), v.size()) : "";
        if (npy) s.append((const char *)v.data(), v.size() * 4);
        else {
            s = "{\"text\":" + json_quote(utf8_repaired(std::string(lines[i]))) + ",\"vector\":[";
            for (float x : v) s += json_number(x, 9) + ",";
            s.back() = ']';
            s += "}\n";
        }
        out.write(s.data(), s.size());
    }
    out.commit();
}

// Share of the even lines of A and B whose vector is nearer to the centroid of the odd lines of its own file.
inline double centroid_accuracy(Embedder &embed, const std::vector<std::string_view> &a, const std::vector<std::string_view> &b) {
    if (a.size() < 4 || b.size() < 4) fail("--compare needs at least 4 lines in each file");
    std::vector<double> centre[2], square, scale;
    const double odd[2] = {(double)((a.size() + 1) / 2), (double)((b.size() + 1) / 2)};
    int64_t right = 0, even = 0;
    for (int c : {0, 1}) {
        const std::vector<std::string_view> &lines = c ? b : a;
        for (size_t i = 0; i < lines.size(); i += 2) {
            std::vector<float> v = embed(lines[i]);
            centre[c].resize(v.size()), square.resize(v.size());
            for (size_t j = 0; j < v.size(); j++) centre[c][j] += v[j] / odd[c], square[j] += (double)v[j] * v[j];
        }
    }
    for (size_t j = 0; j < square.size(); j++) {
        double x = centre[0][j], y = centre[1][j], all = odd[0] + odd[1], variance = (square[j] - odd[0] * x * x - odd[1] * y * y) / (all - 2);
        scale.push_back(variance > 1e-12 * square[j] / all ? 1 / variance : 0);  // a number that never changes says nothing
    }
    for (int c : {0, 1}) {
        const std::vector<std::string_view> &lines = c ? b : a;
        for (size_t i = 1; i < lines.size(); i += 2, even++) {
            std::vector<float> v = embed(lines[i]);
            double nearer = 0;  // to 0 than to 1, if negative
            for (size_t j = 0; j < v.size(); j++) nearer += scale[j] * (pow(v[j] - centre[0][j], 2) - pow(v[j] - centre[1][j], 2));
            right += (nearer > 0) == (c == 1);
        }
    }
    return (double)right / even;
}

inline int embed_main(int argc, char **argv) {
    ModelOptions m;
    std::string lines, compare, out, what;
    int64_t layer;
    std::vector<Option> table = m.table();
    table.insert(table.end(), {
        {"lines", &lines, "", "", "text file; each line becomes a vector"},
        {"out", &out, "", "", "file to write: .npy or .jsonl"},
        {"compare", &compare, "", "", "second text file: how well a nearest centroid tells the two apart"},
        {"what", &what, "memory", "memory|state|hidden", "what the layers remember of the line, all of their state, or the last hidden vector"},
        {"layer", &layer, -1, -1, 4095, "only this layer's memory or state; -1: all"},
    });
    Options options(argv[0], "lines of text as vectors", table);
    options.parse(argc, argv);
    auto ends = [&](const char *s) { return out.size() > strlen(s) && !out.compare(out.size() - strlen(s), strlen(s), s); };
    if (lines.empty()) usage_fail("--lines is missing; run_rwkv embed --help lists the options");
    if (out.empty() == compare.empty()) usage_fail("pass --out or --compare");
    if (!out.empty() && !ends(".npy") && !ends(".jsonl")) usage_fail("--out is %s, but must end in .npy or .jsonl", out.c_str());
    if (layer >= 0 && what == "hidden") usage_fail("--layer does not go with --what hidden, which is behind all layers");
    check_outputs(options, {"out"}, {"model", "tokenizer", "lines"});
    MappedFile file(lines);
    std::vector<std::string_view> a = lines_of(file);
    std::unique_ptr<Engine> engine(m.open());
    if (layer >= engine->info.L) usage_fail("--layer is %lld, but the model has layers 0 to %d", (long long)layer, engine->info.L - 1);
    std::unique_ptr<Tokenizer> tokenizer = engine->tokenizer(m.tokenizer);
    Embedder embed(*engine, *tokenizer, what == "memory" ? Embedder::MEMORY : what == "state" ? Embedder::STATE : Embedder::HIDDEN, layer);
    embed.check(lines, a);
    if (!out.empty()) {
        write_vectors(out, embed, a);
        printf("%s: %zu vectors\n", out.c_str(), a.size());
    } else {
        MappedFile other(compare);
        std::vector<std::string_view> b = lines_of(other);
        embed.check(compare, b);
        double share = centroid_accuracy(embed, a, b);
        printf("nearest centroid: %.1f %% of %zu lines (%s) and %zu lines (%s) recognised\n", 100 * share, a.size() / 2, lines.c_str(), b.size() / 2, compare.c_str());
    }
    return 0;
}
