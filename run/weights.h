/* run/weights.h: what RWKV model a file holds, found from the names and shapes of its tensors, and its weights in
   device memory.

       version   told by                                        state of a layer besides two vectors of C
       4         att.time_first, no ln_x                        three vectors of C
       5.1       att.ln_x, att.gate, one decay per head         H matrices N x N
       5.2       att.ln_x, att.gate, one decay per channel      the same
       6         att.time_maa_x                                 the same
       7         att.r_k                                        the same

   weight_rows(version) lists every tensor; checking a file, the estimate of memory, loading, quantising and random
   weights all derive from it. Other variants (4a, 4b, 5.0, 7a, ...) share most names, so they are refused by name.

   In memory: matrices are [out, in] floatX, or int8 with one scale per row: w = q scale, scale = max |row| / 127.
   LoRA matrices, [in, out] in the file, are transposed. Vectors are `real`, brought to the form the kernels need
   (column "become"). A file is mapped and goes to the device a few MB at a time, so the host never holds a copy.
   defines: ModelInfo, WeightRow, weight_rows, weight_names, inspect_model, quantise_row, Matrix, Weights */
#pragma once
#include "../rwkv.h"
#include <unordered_map>

// ------------------------------------------------------------------------------------------------
// the tensors of each version

typedef double Become(double);  // what a vector's numbers are turned into
inline double one_minus(double x) { return 1 - x; }                        // weight of this token -> of the token before
inline double log_decay(double x) { return -std::min(exp(x), 1e30); }      // RWKV-4: log of the factor per token
inline double decay_factor(double x) { return exp(-exp(x)); }              // RWKV-5

// mean, sd: of random weights; of a vector after "become", of a matrix before the division by the root of its columns
// kind: E embedding  M large matrix, may be int8  L LoRA [in, out]  V vector  R one number per head, repeated over its channels
// shape: V C F H N and the widths w a v g m d (see ModelInfo::dim); M: 5 m.  name: '*' every layer, '+' all but the first
struct WeightRow { const char *name; char kind; const char *shape; Become *become; double mean, sd; };

inline std::vector<WeightRow> common_rows(std::vector<WeightRow> block) {
    std::vector<WeightRow> rows = {
        {"emb.weight", 'E', "VC", nullptr, 0, 1}, {"blocks.0.ln0.weight", 'V', "C", nullptr, 1, 0}, {"blocks.0.ln0.bias", 'V', "C", nullptr, 0, .1},
        {"blocks.*.ln1.weight", 'V', "C", nullptr, 1, 0}, {"blocks.*.ln1.bias", 'V', "C", nullptr, 0, .1},
        {"blocks.*.ln2.weight", 'V', "C", nullptr, 1, 0}, {"blocks.*.ln2.bias", 'V', "C", nullptr, 0, .1}};
    rows.insert(rows.end(), block.begin(), block.end());
    rows.insert(rows.end(), {{"ln_out.weight", 'V', "C", nullptr, 1, 0}, {"ln_out.bias", 'V', "C", nullptr, 0, .1}, {"head.weight", 'M', "VC", nullptr, 0, 1}});
    return rows;
}
inline std::vector<WeightRow> rwkv5_rows(bool per_head) {
    char vector = per_head ? 'R' : 'V';
    const char *shape = per_head ? "H" : "HN";
    return common_rows({
        {"blocks.*.att.time_mix_k", 'V', "C", one_minus, .5, .2}, {"blocks.*.att.time_mix_v", 'V', "C", one_minus, .5, .2},
        {"blocks.*.att.time_mix_r", 'V', "C", one_minus, .5, .2}, {"blocks.*.att.time_mix_g", 'V', "C", one_minus, .5, .2},
        {"blocks.*.att.time_decay", vector, shape, decay_factor, .9, .02}, {"blocks.*.att.time_faaaa", vector, shape, nullptr, 0, .5},
        {"blocks.*.att.receptance.weight", 'M', "CC", nullptr, 0, 1}, {"blocks.*.att.key.weight", 'M', "CC", nullptr, 0, 1},
        {"blocks.*.att.value.weight", 'M', "CC", nullptr, 0, 1}, {"blocks.*.att.gate.weight", 'M', "CC", nullptr, 0, 1},
        {"blocks.*.att.output.weight", 'M', "CC", nullptr, 0, 1},
        {"blocks.*.att.ln_x.weight", 'V', "C", nullptr, 1, 0}, {"blocks.*.att.ln_x.bias", 'V', "C", nullptr, 0, .1},
        {"blocks.*.ffn.time_mix_k", 'V', "C", one_minus, .5, .2}, {"blocks.*.ffn.time_mix_r", 'V', "C", one_minus, .5, .2},
        {"blocks.*.ffn.key.weight", 'M', "FC", nullptr, 0, 1}, {"blocks.*.ffn.receptance.weight", 'M', "CC", nullptr, 0, 1},
        {"blocks.*.ffn.value.weight", 'M', "CF", nullptr, 0, 1}});
}
inline const std::vector<WeightRow> &weight_rows(const std::string &version) {
    static const std::map<std::string, std::vector<WeightRow>> rows = {
        {"4", common_rows({
            {"blocks.*.att.time_decay", 'V', "C", log_decay, -.1, .02}, {"blocks.*.att.time_first", 'V', "C", nullptr, 0, .5},
            {"blocks.*.att.time_mix_k", 'V', "C", one_minus, .5, .2}, {"blocks.*.att.time_mix_v", 'V', "C", one_minus, .5, .2},
            {"blocks.*.att.time_mix_r", 'V', "C", one_minus, .5, .2},
            {"blocks.*.att.key.weight", 'M', "CC", nullptr, 0, 1}, {"blocks.*.att.value.weight", 'M', "CC", nullptr, 0, 1},
            {"blocks.*.att.receptance.weight", 'M', "CC", nullptr, 0, 1}, {"blocks.*.att.output.weight", 'M', "CC", nullptr, 0, 1},
            {"blocks.*.ffn.time_mix_k", 'V', "C", one_minus, .5, .2}, {"blocks.*.ffn.time_mix_r", 'V', "C", one_minus, .5, .2},
            {"blocks.*.ffn.key.weight", 'M', "FC", nullptr, 0, 1}, {"blocks.*.ffn.receptance.weight", 'M', "CC", nullptr, 0, 1},
            {"blocks.*.ffn.value.weight", 'M', "CF", nullptr, 0, 1}})},
        {"5.1", rwkv5_rows(true)}, {"5.2", rwkv5_rows(false)},
        {"6", common_rows({
            {"blocks.*.att.time_maa_x", 'V', "C", nullptr, .5, .2}, {"blocks.*.att.time_maa_w", 'V', "C", nullptr, .5, .2}, {"blocks.*.att.time_maa_k", 'V', "C", nullptr, .5, .2},
            {"blocks.*.att.time_maa_v", 'V', "C", nullptr, .5, .2}, {"blocks.*.att.time_maa_r", 'V', "C", nullptr, .5, .2}, {"blocks.*.att.time_maa_g", 'V', "C", nullptr, .5, .2},
            {"blocks.*.att.time_maa_w1", 'L', "CM", nullptr, 0, 1}, {"blocks.*.att.time_maa_w2", 'L', "5mC", nullptr, 0, 1},
            {"blocks.*.att.time_decay", 'V', "C", nullptr, 0, 2}, {"blocks.*.att.time_decay_w1", 'L', "Cd", nullptr, 0, 1},
            {"blocks.*.att.time_decay_w2", 'L', "dC", nullptr, 0, 1},
            {"blocks.*.att.time_faaaa", 'V', "HN", nullptr, 0, .5},
            {"blocks.*.att.receptance.weight", 'M', "CC", nullptr, 0, 1}, {"blocks.*.att.key.weight", 'M', "CC", nullptr, 0, 1},
            {"blocks.*.att.value.weight", 'M', "CC", nullptr, 0, 1}, {"blocks.*.att.gate.weight", 'M', "CC", nullptr, 0, 1},
            {"blocks.*.att.output.weight", 'M', "CC", nullptr, 0, 1},
            {"blocks.*.att.ln_x.weight", 'V', "C", nullptr, 1, 0}, {"blocks.*.att.ln_x.bias", 'V', "C", nullptr, 0, .1},
            {"blocks.*.ffn.time_maa_k", 'V', "C", nullptr, .5, .2}, {"blocks.*.ffn.time_maa_r", 'V', "C", nullptr, .5, .2},
            {"blocks.*.ffn.key.weight", 'M', "FC", nullptr, 0, 1}, {"blocks.*.ffn.receptance.weight", 'M', "CC", nullptr, 0, 1},
            {"blocks.*.ffn.value.weight", 'M', "CF", nullptr, 0, 1}})},
        {"7", common_rows({
            {"blocks.*.att.x_r", 'V', "C", nullptr, .5, .2}, {"blocks.*.att.x_w", 'V', "C", nullptr, .5, .2}, {"blocks.*.att.x_k", 'V', "C", nullptr, .5, .2},
            {"blocks.*.att.x_v", 'V', "C", nullptr, .5, .2}, {"blocks.*.att.x_a", 'V', "C", nullptr, .5, .2}, {"blocks.*.att.x_g", 'V', "C", nullptr, .5, .2},
            {"blocks.*.att.w0", 'V', "C", nullptr, 0, 2}, {"blocks.*.att.w1", 'L', "Cw", nullptr, 0, 1}, {"blocks.*.att.w2", 'L', "wC", nullptr, 0, 1},
            {"blocks.*.att.a0", 'V', "C", nullptr, 0, .5}, {"blocks.*.att.a1", 'L', "Ca", nullptr, 0, 1}, {"blocks.*.att.a2", 'L', "aC", nullptr, 0, 1},
            {"blocks.+.att.v0", 'V', "C", nullptr, 0, .5}, {"blocks.+.att.v1", 'L', "Cv", nullptr, 0, 1}, {"blocks.+.att.v2", 'L', "vC", nullptr, 0, 1},
            {"blocks.*.att.g1", 'L', "Cg", nullptr, 0, 1}, {"blocks.*.att.g2", 'L', "gC", nullptr, 0, 1},
            {"blocks.*.att.k_k", 'V', "C", nullptr, 0, .3}, {"blocks.*.att.k_a", 'V', "C", nullptr, 0, .3}, {"blocks.*.att.r_k", 'V', "HN", nullptr, 0, .3},
            {"blocks.*.att.receptance.weight", 'M', "CC", nullptr, 0, 1}, {"blocks.*.att.key.weight", 'M', "CC", nullptr, 0, 1},
            {"blocks.*.att.value.weight", 'M', "CC", nullptr, 0, 1}, {"blocks.*.att.output.weight", 'M', "CC", nullptr, 0, 1},
            {"blocks.*.att.ln_x.weight", 'V', "C", nullptr, 1, 0}, {"blocks.*.att.ln_x.bias", 'V', "C", nullptr, 0, .1},
            {"blocks.*.ffn.x_k", 'V', "C", nullptr, .5, .2}, {"blocks.*.ffn.key.weight", 'M', "FC", nullptr, 0, 1}, {"blocks.*.ffn.value.weight", 'M', "CF", nullptr, 0, 1}})},
    };
    return rows.at(version);
}

struct ModelInfo {
    std::string path, version;         // version: a key of weight_rows()
    int V = 0, C = 0, F = 0, L = 0;    // vocabulary, channels, channels of the feed-forward layer, layers
    int H = 0, N = 0;                  // heads and their size; version 4: 0
    int lora[26] = {};                 // widths. 7: w decay, a rate, v value residual, g gate; 6: m mixes, d decay
    DType dtype = DType::F32;          // of emb.weight in the file
    bool int8 = false;                 // the large matrices are int8 in the file
    int64_t count = 0;                 // parameters
    std::string fingerprint;           // 16 hex digits that tell models apart; states carry it

    int dim(char c) const {
        return c == 'V' ? V : c == 'C' ? C : c == 'F' ? F : c == 'L' ? L : c == 'H' ? H : c == 'N' ? N : c == '5' ? 5 : c == 'M' ? 5 * lora['m' - 'a'] : lora[c - 'a'];
    }
    std::string text() const {
        return format("RWKV-%s L%d C%d F%d V%d%s, %s parameters", version.c_str(), L, C, F, V, H ? format(", %d heads of %d", H, N).c_str() : "", thousands(count).c_str());
    }
};
struct WeightName { std::string name; const WeightRow *row; int layer; std::vector<int64_t> shape; };  // layer -1: outside the blocks

// Every tensor of a model, layer by layer
inline std::vector<WeightName> weight_names(const ModelInfo &m) {
    std::vector<WeightName> names;
    auto add = [&](const WeightRow &r, int layer) {
        WeightName n = {r.name, &r, layer, {}};
        if (layer >= 0) n.name = format("blocks.%d%s", layer, r.name + 8);
        for (const char *c = r.shape; *c; c++) n.shape.push_back(m.dim(*c));
        names.push_back(n);
    };
    const std::vector<WeightRow> &rows = weight_rows(m.version);
    auto in_block = [](const WeightRow &r) { return !strncmp(r.name, "blocks.", 7); };
    add(rows[0], -1);
    for (int l = 0; l < m.L; l++)
        for (const WeightRow &r : rows) if (in_block(r) && (r.name[7] == '*' || (r.name[7] == '+') == (l > 0))) add(r, l);
    for (size_t i = 1; i < rows.size(); i++) if (!in_block(rows[i])) add(rows[i], -1);
    return names;
}

// ------------------------------------------------------------------------------------------------
// what is in a file

// A model that shares names with ours but is none of them: part of a tensor's name, and what it is.
inline const char *foreign_model(const std::string &name) {
    static const struct { const char *part, *is; } table[] = {
        {"att.qq.weight", "an RWKV-4b model (tiny attention in every layer)"}, {"tiny_q", "an RWKV-4a model (tiny attention in one layer)"},
        {"ffn.s_emb", "an RWKV-7a model (deep embedding)"}, {".qkv.", "an RWKV-7b or RWKV-8 model (deep embedding attention)"},
        {"ffn.enn", "an RWKV-8 model"}, {"rosa", "an RWKV-8 model (ROSA)"}, {".tmix.", "an x051a model (nanoRWKV)"}, {"ffnPre", "an RWKV-4 model with pre_ffn"},
        {"head_q.", "a model with head-QK, of RWKV-4 or older"}, {"ffn.aa.", "an RWKV-4 model with MishGLU"},
        {"rwkv.h.", "a nanoRWKV model (RWKV-4 with other names)"}, {"rwkv.blocks.", "a model under the names of Hugging Face transformers; take BlinkDL's .pth"},
        {"model.layers.", "a model under the names of Hugging Face or flash-linear-attention; take BlinkDL's .pth"},
        {"att.time_mix_w1", "a model converted for web-rwkv; take BlinkDL's .pth that it was made from"}, {"att.x_rwkvag", "a model converted for rwkv.cpp; take BlinkDL's .pth"},
        {"tok_emb.weight", "an RWKV-1 or minGPT model"}, {"att.time_ww", "an RWKV-2 or RWKV-3 model"}, {"wte.weight", "a GPT-2 model"}, {"wpe.weight", "a GPT-2 model"}};
    for (auto &t : table) if (name.find(t.part) != name.npos) return t.is;
    return nullptr;
}
inline bool same_numbers(const std::vector<int64_t> &a, const std::vector<int64_t> &b) {  // dimensions of 1 aside
    auto squeeze = [](const std::vector<int64_t> &s) { std::vector<int64_t> r; for (int64_t n : s) if (n != 1) r.push_back(n); return r; };
    return squeeze(a) == squeeze(b);
}
// Element i (row-major) of a tensor of whatever strides
inline float element(const TensorView &t, int64_t i) {
    TensorView one = t;
    int64_t at = 0;
    for (size_t d = t.shape.size(); d-- > 0; i /= t.shape[d]) at += i % t.shape[d] * t.stride[d];
    one.shape = {1}, one.stride = {1}, one.data = (const char *)t.data + at * dtype_size(t.dtype);
    float x;
    read_tensor(one, &x);
    return x;
}
// XXH64 of up to 16 numbers of every tensor, rounded to bf16: the same for .pth and .safetensors, fp32 and bf16
inline std::string fingerprint(const TensorFile &file, const ModelInfo &m) {
    auto kept = file.metadata.find("fingerprint");
    if (kept != file.metadata.end()) return kept->second;  // a converted file carries that of its source
    Xxh64 hash;
    for (const WeightName &n : weight_names(m)) {
        const TensorView &t = file.get(n.name);
        int64_t count = t.count(), step = std::max<int64_t>(1, count / 16);
        hash.add(n.name.data(), n.name.size());
        for (int64_t i = 0; i < count; i += step + i % 2) {
            uint16_t bits = t.dtype == DType::I8 ? load_as<int8_t>((const char *)t.data + i) : narrow(element(t, i), 8, 7);
            hash.add(&bits, 2);
        }
    }
    return format("%016llx", (unsigned long long)hash.digest());
}
// Missing, extra and wrongly shaped tensors, each with its name.
inline void check_tensors(const TensorFile &file, ModelInfo &m) {
    std::map<std::string, bool> known;
    const char *path = file.path.c_str();
    for (const WeightName &n : weight_names(m)) {
        const TensorView *t = file.find(n.name);
        if (!t) fail("%s: the tensor %s is missing, which every RWKV-%s model has", path, n.name.c_str(), m.version.c_str());
        TensorView wanted("", DType::F32, n.shape, nullptr);
        bool vector = n.row->kind == 'V' || n.row->kind == 'R';
        if (vector ? t->count() != wanted.count() : !same_numbers(t->shape, n.shape))
            fail("%s: %s has shape %s, but this RWKV-%s model needs %s", path, n.name.c_str(), t->shape_text().c_str(), m.version.c_str(), wanted.shape_text().c_str());
        if (n.row->kind == 'M' && t->dtype == DType::I8) {
            const TensorView *scale = file.find(n.name + "_scale");
            if (!scale || scale->count() != n.shape[0] || !is_float(scale->dtype))
                fail("%s: %s is int8, but has no %s_scale with %lld numbers", path, n.name.c_str(), n.name.c_str(), (long long)n.shape[0]);
            if (!t->contiguous()) fail("%s: %s is int8 and not contiguous", path, n.name.c_str());
            m.int8 = known[scale->name] = true;
        } else if (!is_float(t->dtype)) fail("%s: %s is %s, but weights are F32, F16 or BF16", path, n.name.c_str(), dtype_name(t->dtype));
        known[n.name] = true, m.count += t->count();
    }
    for (const TensorView &t : file.tensors) {
        bool unused = m.version == "7" && (t.name == "blocks.0.att.v0" || t.name == "blocks.0.att.v1" || t.name == "blocks.0.att.v2");  // trained files have them
        if (!known[t.name] && !unused) fail("%s: RWKV-%s has no tensor %s; this is a variant that this program does not know", path, m.version.c_str(), printable(t.name).c_str());
    }
}
inline std::string version_of(const TensorFile &file) {
    const char *path = file.path.c_str();
    for (const TensorView &t : file.tensors)
        if (const char *is = foreign_model(t.name)) fail("%s is %s, which this program cannot run: RWKV-4, 5.1, 5.2, 6 and 7 it can", path, is);
    auto has = [&](const char *name) { return file.find(std::string("blocks.0.att.") + name); };
    if (file.find("_strategy") || file.find("_version")) fail("%s was converted by the rwkv pip package for one device; load the .pth that it was made from", path);
    if (has("r_k")) return "7";
    if (has("time_maa_x")) return "6";
    if (const TensorView *decay = has("time_decay")) {
        if (!has("ln_x.weight")) return "4";
        if (!has("gate.weight")) fail("%s is an RWKV-5.0 model, which has no gate; this program runs RWKV-4, 5.1, 5.2, 6 and 7", path);
        return decay->shape.size() >= 2 && decay->shape.back() > 1 ? "5.2" : "5.1";
    }
    if (file.find("blocks.0.att.time_state")) fail("%s holds tuned states, not a model: --state-in takes it, together with --model", path);
    if (file.find("blocks.0.att.S") || file.find("blocks.0.att.aa")) fail("%s is a state that run_rwkv saved, not a model: --state-in takes it", path);
    fail("%s is not an RWKV model: it has no blocks.0.att.time_decay or att.r_k (%zu tensors%s%s)", path, file.tensors.size(),
         file.tensors.empty() ? "" : ", the first is ", file.tensors.empty() ? "" : printable(file.tensors[0].name).c_str());
}
inline ModelInfo inspect_model(const TensorFile &file) {
    ModelInfo m;
    m.path = file.path, m.version = version_of(file);
    auto tensor = [&](const char *name, size_t dims) -> const TensorView & {
        const TensorView *t = file.find(name);
        if (!t) fail("%s: the tensor %s is missing, which every RWKV-%s model has", file.path.c_str(), name, m.version.c_str());
        if (t->shape.size() < dims) fail("%s: %s has shape %s, but must have %zu dimensions", file.path.c_str(), name, t->shape_text().c_str(), dims);
        for (int64_t n : t->shape) if (n < 1 || n > 1 << 24) fail("%s: %s has the impossible shape %s", file.path.c_str(), name, t->shape_text().c_str());
        return *t;
    };
    const TensorView &emb = tensor("emb.weight", 2);
    m.V = emb.shape[0], m.C = emb.shape[1], m.dtype = emb.dtype, m.F = tensor("blocks.0.ffn.key.weight", 2).shape[0];
    for (const TensorView &t : file.tensors) if (!t.name.compare(0, 7, "blocks.")) m.L = std::max(m.L, atoi(t.name.c_str() + 7) + 1);
    if (m.L > 4096) fail("%s has a block number %d; no model has so many layers", file.path.c_str(), m.L - 1);
    auto width = [&](char letter, const char *name) { m.lora[letter - 'a'] = tensor(name, 2).shape[1]; };
    if (m.version == "7") {
        width('w', "blocks.0.att.w1"), width('a', "blocks.0.att.a1"), width('g', "blocks.0.att.g1");
        if (m.L > 1) width('v', "blocks.1.att.v1");
    } else if (m.version == "6") {
        width('d', "blocks.0.att.time_decay_w1"), m.lora['m' - 'a'] = tensor("blocks.0.att.time_maa_w2", 3).shape[1];
    }
    if (m.version != "4") {
        const TensorView &heads = tensor(m.version == "7" ? "blocks.0.att.r_k" : m.version == "5.1" ? "blocks.0.att.time_decay" : "blocks.0.att.time_faaaa", 1);
        m.H = m.version == "5.1" ? heads.count() : heads.shape[0], m.N = m.C / m.H;
        if (m.H * m.N != m.C) fail("%s: %s has %d heads, which do not divide %d channels", file.path.c_str(), heads.name.c_str(), m.H, m.C);
    }
    check_tensors(file, m);
    m.fingerprint = fingerprint(file, m);
    return m;
}

// The official sizes: "7:0.1B" is version 7, 0.1B
inline ModelInfo official_shape(const std::string &spec) {
    struct Size { const char *versions, *name; int L, C; };
    static const Size sizes[] = {{"4 5.2 6 7", "0.1B", 12, 768}, {"4 5.2 6 7", "0.4B", 24, 1024}, {"4 5.2 6 7", "1.5B", 24, 2048}, {"4 5.2 6 7", "3B", 32, 2560},
                                 {"4 5.2 6 7", "7B", 32, 4096}, {"6 7", "14B", 61, 4096}, {"4", "14B", 40, 5120}};
    size_t colon = spec.find(':');
    ModelInfo m;
    m.version = spec.substr(0, colon);
    std::string name = colon == spec.npos ? "" : spec.substr(colon + 1);
    for (const Size &s : sizes) if (name == s.name && (" " + std::string(s.versions) + " ").find(" " + m.version + " ") != std::string::npos) m.L = s.L, m.C = s.C;
    if (!m.L) usage_fail("--random is '%s', but must be VERSION:SIZE with version 4, 5.2, 6 or 7 and size 0.1B 0.4B 1.5B 3B 7B 14B, such as 7:0.1B", spec.c_str());
    m.path = "random " + spec, m.V = 65536, m.dtype = DType::F32, m.fingerprint = "random " + spec;
    m.F = m.version == "4" || m.version == "7" ? 4 * m.C : (int)(3.5 * m.C) / 32 * 32;
    if (m.version != "4") m.N = 64, m.H = m.C / 64;
    auto round32 = [](double x) { return std::max(32, (int)std::nearbyint(x / 32) * 32); };
    double root = sqrt((double)m.C);
    if (m.version == "7") m.lora['w' - 'a'] = m.lora['a' - 'a'] = round32(1.8 * root), m.lora['v' - 'a'] = round32(1.3 * root), m.lora['g' - 'a'] = round32(.6 * pow(m.C, .8));
    if (m.version == "6") m.lora['m' - 'a'] = m.C < 4096 ? 32 : 64, m.lora['d' - 'a'] = m.C < 4096 ? 64 : 128;
    for (const WeightName &n : weight_names(m)) m.count += TensorView("", DType::F32, n.shape, nullptr).count();
    return m;
}

// ------------------------------------------------------------------------------------------------
// in device memory

// A row of int8 and its scale; an all-zero row has scale 0.
inline void quantise_row(int8_t *q, float *scale, const float *w, int64_t n) {
    float most = 0;
    for (int64_t i = 0; i < n; i++) most = std::max(most, std::fabs(w[i]));
    float inverse = most > 0 ? 127 / most : 0;
    *scale = most / 127;
    for (int64_t i = 0; i < n; i++) q[i] = (int8_t)std::nearbyint(w[i] * inverse);
}

struct Matrix {                  // [rows, cols]: w, or q and scale
    const floatX *w;
    const int8_t *q;
    const real *scale;           // (rows)
    int rows, cols;
};
constexpr DType FLOATX = std::is_same<floatX, double>::value ? DType::F64 : std::is_same<floatX, float>::value ? DType::F32
                       : std::is_same<floatX, __half>::value ? DType::F16 : DType::BF16;
constexpr int64_t STAGING = 4 << 20;  // elements on their way to the device at a time

// Random weights, uniform with standard deviation sd around `mean`, a function of the place alone
template<class T> __global__ void random_kernel(T *w, int64_t n, uint64_t stream, real mean, real sd) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    uint64_t z = (stream << 40) + i + 0x9E3779B97F4A7C15ull;  // splitmix64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull, z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    w[i] = (T)(mean + sd * real(3.4641016) * (real((z ^ (z >> 31)) >> 40) * real(1.0 / (1 << 24)) - real(.5)));
}

struct Weights {
    struct Slot { WeightName n; floatX *w = nullptr; int8_t *q = nullptr; real *x = nullptr; };  // x: a vector, or the scales
    std::vector<Slot> slots;
    std::unordered_map<std::string, size_t> index;

    void plan(Arena &arena, const ModelInfo &m, bool int8) {
        for (const WeightName &n : weight_names(m)) index[n.name] = slots.size(), slots.push_back({n, nullptr, nullptr, nullptr});
        for (Slot &s : slots) {  // the addresses of slots stay from here on
            char kind = s.n.row->kind;
            int64_t count = TensorView("", DType::F32, s.n.shape, nullptr).count();
            if (kind == 'R') arena.plan("weights", &s.x, m.C);
            else if (kind == 'V') arena.plan("weights", &s.x, count);
            else if (kind == 'M' && int8) arena.plan("weights", &s.q, padded_rows(s) * s.n.shape[1]), arena.plan("weights", &s.x, padded_rows(s));
            else arena.plan("weights", &s.w, kind == 'M' ? padded_rows(s) * s.n.shape[1] : count);
        }
    }
    static int64_t padded_rows(const Slot &s) { return (s.n.shape[0] + 15) / 16 * 16; }  // zeros: rows of products stay aligned
    const Slot &slot(const char *name, int layer) const {
        auto i = index.find(layer < 0 ? name : format("blocks.%d.%s", layer, name));
        if (i == index.end()) fail("the table of weights has no %s", name);
        return slots[i->second];
    }
    const real *vector(const char *name, int layer = -1) const { return slot(name, layer).x; }
    // part: of a stack of LoRA matrices
    Matrix matrix(const char *name, int layer = -1, int part = 0) const {
        const Slot &s = slot(name, layer);
        const std::vector<int64_t> &d = s.n.shape;
        if (s.n.row->kind != 'L') return {s.w, s.q, s.q ? s.x : nullptr, (int)d[0], (int)d[1]};
        int in = d[d.size() - 2], out = d.back();
        return {s.w + (int64_t)part * in * out, nullptr, nullptr, out, in};
    }

    void load(const TensorFile &file, const ModelInfo &m) {
        std::vector<float> numbers;
        std::vector<char> bytes;
        for (const Slot &s : slots) {
            const TensorView &t = file.get(s.n.name);
            char kind = s.n.row->kind;
            if (kind == 'V' || kind == 'R') load_vector(s, t, m);
            else if (kind == 'L') load_lora(s, t);
            else if (t.dtype == DType::I8) send(s.q, (const int8_t *)t.data, t.count()), load_scales(s, file.get(s.n.name + "_scale"));
            else load_matrix(s, t, numbers, bytes);
        }
    }
    void randomise(uint64_t seed) {
        for (const Slot &s : slots) {
            int64_t count = TensorView("", DType::F32, s.n.shape, nullptr).count(), cols = s.n.shape.back(), rows = count / cols;
            uint64_t stream = seed * slots.size() + index[s.n.name];
            int in = s.n.row->kind == 'L' ? (int)s.n.shape[s.n.shape.size() - 2] : (int)cols;
            auto fill = [&](auto *p, int64_t n, real mean, real sd) { random_kernel<<<ceil_div(n, 256), 256>>>(p, n, stream, mean, sd); launchCheck(); };
            if (s.w) fill(s.w, count, 0, (real)(s.n.row->sd / sqrt((double)in)));
            else if (s.q) fill(s.q, count, 0, 60), fill(s.x, rows, (real)(1 / 60. / sqrt((double)in)), 0);
            else fill(s.x, count, (real)s.n.row->mean, (real)s.n.row->sd);
        }
        cudaCheck(cudaDeviceSynchronize());
    }

private:
    template<class T> static void send(T *to, const T *from, int64_t n) { cudaCheck(cudaMemcpy(to, from, n * sizeof(T), cudaMemcpyHostToDevice)); }
    static void load_scales(const Slot &s, const TensorView &t) {
        std::vector<real> x(t.count());
        read_tensor(t, dtype_of<real>, x.data());
        send(s.x, x.data(), x.size());
    }
    static void load_vector(const Slot &s, const TensorView &t, const ModelInfo &m) {
        std::vector<double> x(t.count());
        read_tensor(t, x.data());
        int repeat = s.n.row->kind == 'R' ? m.N : 1;
        std::vector<real> out(x.size() * repeat);
        for (size_t i = 0; i < out.size(); i++) out[i] = (real)(s.n.row->become ? s.n.row->become(x[i / repeat]) : x[i / repeat]);
        send(s.x, out.data(), out.size());
    }
    static void load_lora(const Slot &s, const TensorView &t) {
        int64_t out = s.n.shape.back(), in = s.n.shape[s.n.shape.size() - 2], parts = t.count() / in / out;
        std::vector<floatX> file(t.count()), turned(t.count());
        read_tensor(t, FLOATX, file.data());
        for (int64_t p = 0; p < parts; p++)
            for (int64_t i = 0; i < in; i++)
                for (int64_t o = 0; o < out; o++) turned[(p * out + o) * in + i] = file[(p * in + i) * out + o];
        send(s.w, turned.data(), turned.size());
    }
    // A few rows at a time
    static void load_matrix(const Slot &s, TensorView t, std::vector<float> &numbers, std::vector<char> &bytes) {
        while (t.shape.size() > 2) {  // [1, V, C]
            size_t one = std::find(t.shape.begin(), t.shape.end(), 1) - t.shape.begin();
            t.shape.erase(t.shape.begin() + one), t.stride.erase(t.stride.begin() + one);
        }
        int64_t rows = s.n.shape[0], cols = s.n.shape[1], piece = std::max<int64_t>(1, STAGING / cols);
        if (t.shape.size() < 2) t.shape = {rows, cols}, t.stride = rows == 1 ? std::vector<int64_t>{0, t.stride.empty() ? 1 : t.stride[0]} : std::vector<int64_t>{t.stride[0], 0};
        const char *data = (const char *)t.data;
        for (int64_t r = 0; r < rows; r += piece) {
            int64_t n = std::min(piece, rows - r);
            TensorView part = t;
            part.shape[0] = n, part.data = data + r * t.stride[0] * dtype_size(t.dtype);
            if (!s.q) {
                bytes.resize(n * cols * sizeof(floatX));
                read_tensor(part, FLOATX, bytes.data());
                send(s.w + r * cols, (const floatX *)bytes.data(), n * cols);
                continue;
            }
            numbers.resize(n * cols), bytes.resize(n * cols);
            read_tensor(part, numbers.data());
            std::vector<real> scales(n);
            for (int64_t i = 0; i < n; i++) {
                float scale;
                quantise_row((int8_t *)bytes.data() + i * cols, &scale, numbers.data() + i * cols, cols);
                scales[i] = scale;
            }
            send(s.q + r * cols, (const int8_t *)bytes.data(), n * cols), send(s.x + r, scales.data(), n);
        }
    }
};
