/* run/convert.h: weight files from one format, type or precision to another, and what is in them.

       run_rwkv convert --model IN --out OUT.safetensors|OUT.pth [--dtype fp32|fp16|bf16|fp64|int8]
       run_rwkv info --model IN [--half-lives F.csv]

   Without --dtype every tensor keeps its type and convert is exact in both directions, for any file of tensors; names and
   order stay. A float type is for all tensors. int8 is for the large matrices of a model, the others stay as they are:
       NAME        I8  [rows, cols]      w = NAME * NAME_scale, by rows
       NAME_scale  F32 [rows]
   and another --dtype turns such a file back. Metadata (tokenizer, options of the run) go along, and the fingerprint,
   so that states saved with the source fit; a .pth has no place for them. One tensor at a time is in memory; OUT appears
   complete or not at all, and an existing file is never overwritten.   defines: Conversion, convert_main, info_main */
#pragma once
#include "../rwkv/pth_write.h"
#include "output.h"
#include "weights.h"

// ------------------------------------------------------------------------------------------------
// convert

class Conversion {
    struct Source { enum What { AS_IT_IS, CAST, INT8, SCALE, FROM_INT8 } what; const TensorView *t, *scale; };
    const TensorFile &file;
    std::unordered_map<std::string, Source> source;  // of every tensor of `tensors`
    std::vector<char> dense;
    std::vector<float> row;

    void add(const TensorView &like, const std::string &name, DType dtype, std::vector<int64_t> shape, Source::What what, const TensorView *scale = nullptr) {
        source[name] = {what, &like, scale};
        tensors.push_back({name, dtype, std::move(shape), nullptr});
    }
    static int64_t rows(const TensorView &t) { return t.count() / t.shape.back(); }
    // the scales of an int8 matrix, or none
    const TensorView *scale_of(const TensorView &t) const {
        const TensorView *scale = t.dtype == DType::I8 && t.shape.size() >= 2 && t.count() > 0 ? file.find(t.name + "_scale") : nullptr;
        return scale && is_float(scale->dtype) && scale->count() == rows(t) ? scale : nullptr;
    }
    bool is_scale(const TensorView &t) const {
        size_t end = t.name.rfind("_scale");
        const TensorView *matrix = end != t.name.npos && end + 6 == t.name.size() ? file.find(t.name.substr(0, end)) : nullptr;
        return matrix && scale_of(*matrix) == &t;
    }
    // the rows of matrix t as floats, in dense pieces
    template<class Row> void each_row(const TensorView &t, Row use) {
        int64_t cols = t.shape.back();
        TensorView one = t;
        one.shape = {1, cols}, one.stride = {0, t.stride.back()};
        row.resize(cols);
        for (int64_t r = 0; r < rows(t); r++) {
            one.data = (const char *)t.data + r * t.stride[t.stride.size() - 2] * dtype_size(t.dtype);
            read_tensor(one, row.data());
            for (float x : row)
                if (!std::isfinite(x))
                    fail("%s: %s has a number that is not finite in row %lld and cannot become int8", file.path.c_str(), printable(t.name).c_str(), (long long)r);
            use(r, row.data(), cols);
        }
    }

    void cast(const TensorView &t, DType to) {
        read_tensor(t, to, dense.data());
        if (to == t.dtype || to != DType::F16) return;
        for (size_t i = 0; i < dense.size(); i += 2)  // infinity
            if ((load_as<uint16_t>(dense.data() + i) & 0x7fff) == 0x7c00)
                fail("%s: %s has a number above 65504, which fp16 cannot hold; use --dtype bf16", file.path.c_str(), printable(t.name).c_str());
    }

public:
    std::vector<TensorView> tensors;  // what is written; their data come from bytes()

    // to: none keeps the types, I8 is int8
    Conversion(const TensorFile &file, const ModelInfo *model, std::optional<DType> to) : file(file) {
        std::unordered_map<std::string, char> kind;
        if (model) for (const WeightName &n : weight_names(*model)) kind[n.name] = n.row->kind;
        const bool to_int8 = to && *to == DType::I8, to_float = to && !to_int8;
        for (const TensorView &t : file.tensors) {
            const TensorView *scale = scale_of(t);
            bool matrix = kind.count(t.name) && kind[t.name] == 'M' && t.shape.size() >= 2;
            if (to_int8 && matrix && is_float(t.dtype)) {
                add(t, t.name, DType::I8, t.shape, Source::INT8);
                add(t, t.name + "_scale", DType::F32, {rows(t)}, Source::SCALE);
            } else if (to_float && scale) add(t, t.name, *to, t.shape, Source::FROM_INT8, scale);
            else if (to_float && is_scale(t)) continue;  // is in its matrix now
            else if (to_float && is_float(t.dtype)) add(t, t.name, *to, t.shape, Source::CAST);
            else add(t, t.name, t.dtype, t.shape, Source::AS_IT_IS);
        }
    }

    std::string_view bytes(const TensorView &out) {
        const Source &s = source.at(out.name);
        const TensorView &t = *s.t;
        if (s.what == Source::AS_IT_IS && t.contiguous()) return {(const char *)t.data, t.bytes()};
        dense.resize(out.bytes());
        if (s.what == Source::AS_IT_IS || s.what == Source::CAST) cast(t, out.dtype);
        else if (s.what == Source::FROM_INT8) {
            std::vector<float> scales(s.scale->count());
            read_tensor(*s.scale, scales.data());
            each_row(t, [&](int64_t r, float *w, int64_t n) {
                for (int64_t i = 0; i < n; i++) w[i] *= scales[r];
                read_tensor(TensorView("", DType::F32, {n}, w), out.dtype, dense.data() + r * n * dtype_size(out.dtype));
            });
        } else {
            std::vector<int8_t> q(t.shape.back());
            float scale;
            each_row(t, [&](int64_t r, const float *w, int64_t n) {
                quantise_row(q.data(), &scale, w, n);
                if (s.what == Source::INT8) memcpy(dense.data() + r * n, q.data(), n);
                else memcpy(dense.data() + r * 4, &scale, 4);
            });
        }
        return {dense.data(), dense.size()};
    }
};

// The model in a file, or none; `why`: what is wrong with it.
inline std::optional<ModelInfo> model_if_any(const TensorFile &file, std::string *why) {
    try { return inspect_model(file); } catch (const Error &e) { *why = e.what(); }
    return {};
}

inline void convert_file(const std::string &in, const std::string &out, const std::string &dtype) {
    static const std::pair<const char *, DType> types[] = {{"fp32", DType::F32}, {"fp16", DType::F16}, {"bf16", DType::BF16}, {"fp64", DType::F64}, {"int8", DType::I8}};
    auto ends = [&](const char *s) { return out.size() > strlen(s) && !out.compare(out.size() - strlen(s), strlen(s), s); };
    if (!ends(".pth") && !ends(".safetensors")) usage_fail("--out is %s, but must end in .safetensors or .pth", out.c_str());
    if (!access(out.c_str(), F_OK)) fail("--out %s exists already and is not overwritten; remove it or choose another name", out.c_str());
    check_writable("out", out);
    std::optional<DType> to;
    for (auto &t : types) if (dtype == t.first) to = t.second;
    if (to && *to == DType::I8 && ends(".pth")) usage_fail("--dtype int8 is written as .safetensors, not as %s", out.c_str());
    TensorFile file(weights_file(in));
    file.verify();
    std::string why;
    std::optional<ModelInfo> model = model_if_any(file, &why);
    if (!model && to && *to == DType::I8) fail("%s", why.c_str());
    if (model) printf("%s: %s\n", file.path.c_str(), model->text().c_str());
    else printf("%s: %zu tensors, no model that run_rwkv runs\n", file.path.c_str(), file.tensors.size());
    Conversion c(file, model ? &*model : nullptr, to);
    auto bytes = [&](const TensorView &t) { return c.bytes(t); };
    std::map<std::string, std::string> metadata = file.metadata;
    if (ends(".pth")) {
        if (metadata.count("tokenizer")) printf("note: a .pth has no place for the tokenizer's name (%s): pass --tokenizer\n", printable(metadata["tokenizer"]).c_str());
        write_pth(out, c.tensors, bytes);
    } else {
        if (model) metadata["fingerprint"] = model->fingerprint;
        metadata.emplace("format", "pt");  // Hugging Face's loader asks for it
        write_safetensors(out, metadata, c.tensors, bytes);
    }
    struct stat s;
    printf("%s: %zu tensors, %s\n", out.c_str(), c.tensors.size(), stat(out.c_str(), &s) ? "?" : megabytes(s.st_size).c_str());
}

inline int convert_main(int argc, char **argv) {
    std::string in, out, dtype;
    Options options(argv[0], "from .pth to .safetensors and back, to another type, to int8", {
        {"model", &in, "", "", "file to read: .pth, .safetensors, or the folder of a run"},
        {"out", &out, "", "", "file to write: NAME.safetensors or NAME.pth"},
        {"dtype", &dtype, "keep", "keep|fp32|fp16|bf16|fp64|int8", "type of the weights"},
    });
    options.parse(argc, argv);
    if (in.empty() || out.empty()) usage_fail("--%s is missing; run_rwkv convert --help lists the options", in.empty() ? "model" : "out");
    convert_file(in, out, dtype);
    return 0;
}

// ------------------------------------------------------------------------------------------------
// info

// Bytes of the weights in memory when matrices are `matrix` bytes an element (1: int8, with a scale per row) and the
// other large tensors `other`; vectors are fp32.
inline double weight_bytes(const ModelInfo &m, int matrix, int other) {
    double sum = 0;
    for (const WeightName &n : weight_names(m)) {
        double count = TensorView("", DType::F32, n.shape, nullptr).count();
        bool vector = n.row->kind == 'V' || n.row->kind == 'R';
        sum += vector ? 4 * count : n.row->kind == 'M' ? matrix * count + (matrix == 1 ? 4.0 * n.shape[0] : 0) : other * count;
    }
    return sum;
}
inline int64_t state_numbers(const ModelInfo &m) { return (int64_t)m.L * (m.version == "4" ? 5 * m.C : (2 + m.N) * m.C); }

// What is left after a token, per channel (5.1: per head), of what a layer remembers. 6 and 7 add to it what they read
// from the text: these are the values without that.
inline std::vector<double> decay_factors(const TensorFile &file, const ModelInfo &m, int layer) {
    const TensorView &t = file.get(format("blocks.%d.att.%s", layer, m.version == "7" ? "w0" : "time_decay"));
    std::vector<double> x(t.count());
    read_tensor(t, x.data());
    for (double &d : x) d = m.version == "7" ? exp(-exp(-0.5) / (1 + exp(-d))) : exp(-exp(d));
    return x;
}
inline void write_half_lives(const std::string &path, const TensorFile &file, const ModelInfo &m) {
    std::string csv = format("layer,%s,factor_per_token,half_life_tokens\n", m.version == "5.1" ? "head" : "channel");
    for (int l = 0; l < m.L; l++) {
        std::vector<double> w = decay_factors(file, m, l);
        for (size_t i = 0; i < w.size(); i++) csv += format("%d,%zu,%.9g,%.6g\n", l, i, w[i], w[i] < 1 ? log(2.0) / -log(w[i]) : INFINITY);
    }
    OutputFile out(path);
    out.write(csv.data(), csv.size());
    out.commit();
}

// The tensors, those of equal type and shape in all layers in one line.
inline void print_tensors(const TensorFile &file) {
    struct Line { std::string name, shape; DType dtype; int64_t number, count; };
    std::vector<Line> lines;
    std::unordered_map<std::string, size_t> at;
    for (const TensorView &t : file.tensors) {
        std::string name = printable(t.name), key;
        size_t end = 7 + strspn(name.c_str() + std::min<size_t>(7, name.size()), "0123456789");
        if (!name.compare(0, 7, "blocks.") && end > 7) name = "blocks.*" + name.substr(end);
        key = name + " " + dtype_name(t.dtype) + t.shape_text();
        auto known = at.emplace(key, lines.size());
        if (known.second) lines.push_back({name, t.shape_text(), t.dtype, 0, 0});
        lines[known.first->second].number++, lines[known.first->second].count += t.count();
    }
    for (const Line &l : lines) {
        std::string times = l.number > 1 ? format("x %lld", (long long)l.number) : "";
        printf("  %-36s %-5s %-18s %6s %16s\n", l.name.c_str(), dtype_name(l.dtype), l.shape.c_str(), times.c_str(), thousands(l.count).c_str());
    }
}

inline int info_main(int argc, char **argv) {
    std::string in, half_lives;
    Options options(argv[0], "what is in a weight file", {
        {"model", &in, "", "", "file: .pth, .safetensors, or the folder of a run"},
        {"half-lives", &half_lives, "", "", "CSV to write: how many tokens each channel remembers"},
    });
    options.parse(argc, argv);
    if (in.empty()) usage_fail("--model is missing; run_rwkv info --help lists the options");
    check_outputs(options, {"half-lives"}, {"model"});
    TensorFile file(weights_file(in));
    std::string why;
    std::optional<ModelInfo> m = model_if_any(file, &why);
    if (!half_lives.empty() && !m) fail("%s", why.c_str());
    if (m) {
        printf("%s: %s\n", file.path.c_str(), m->text().c_str());
        printf("fingerprint %s, %s%s\n", m->fingerprint.c_str(), dtype_name(m->dtype), m->int8 ? ", the large matrices int8" : "");
        printf("weights in memory: %s in fp32, %s in bf16 or fp16, %s in int8; state: %s for each sequence\n", megabytes(weight_bytes(*m, 4, 4)).c_str(),
               megabytes(weight_bytes(*m, 2, 2)).c_str(), megabytes(weight_bytes(*m, 1, 2)).c_str(), megabytes(4.0 * state_numbers(*m)).c_str());
    } else printf("%s: %zu tensors; %s\n", file.path.c_str(), file.tensors.size(), why.c_str());
    for (auto &p : file.metadata) printf("  %s = %s\n", printable(p.first).c_str(), printable(p.second).c_str());
    print_tensors(file);
    if (!half_lives.empty()) {
        write_half_lives(half_lives, file, *m);
        printf("%s: written\n", half_lives.c_str());
    }
    return 0;
}
