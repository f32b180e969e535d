/* tests/run_reference.h: RWKV-4, 5.1, 5.2, 6 and 7 once more, as plain as can be: one token at a time, double precision, no
   kernels, nothing shared with run/ but the list of names. It is itself checked against dev/reference/run.py's numbers
   and then says what a model of any shape must give: heads of 64, odd widths, long texts.
   Also: random models with strong weights.   defines: Plain, random_model, RandomModel */
#pragma once
#include "../run/weights.h"
#include "test.h"

typedef std::vector<double> Row;

struct Plain {
    std::string version;
    int V, C, L, H = 1, N = 0;
    double group_norm_eps = 64e-5;
    std::map<std::string, Row> w;
    std::map<std::string, std::vector<int64_t>> shape;
    struct Layer { Row att_x, ffn_x, aa, bb, pp, S; };  // S: [H][key][value], 7: [H][value][key]
    std::vector<Layer> state;
    Row hidden;                                         // ln_out of the last token

    explicit Plain(const TensorFile &file) {
        for (const TensorView &t : file.tensors) {
            Row &x = w[t.name];
            x.resize(t.count()), shape[t.name] = t.shape;
            read_tensor(t, x.data());
        }
        auto has = [&](const char *n) { return w.count(std::string("blocks.0.att.") + n) > 0; };
        version = has("r_k") ? "7" : has("time_maa_x") ? "6" : !has("gate.weight") ? "4" : shape["blocks.0.att.time_decay"].size() == 1 ? "5.1" : "5.2";
        V = shape["emb.weight"][0], C = shape["emb.weight"][1];
        for (L = 0; w.count(format("blocks.%d.ln1.weight", L)); ) L++;
        if (version != "4") H = shape[version == "7" ? "blocks.0.att.r_k" : version == "5.1" ? "blocks.0.att.time_decay" : "blocks.0.att.time_faaaa"][0];
        N = C / H;
        start();
    }
    void start() {
        Row zero(C);
        state.assign(L, {zero, zero, zero, zero, Row(C, -1e38), Row(version == "4" ? 0 : C * N)});
    }

    static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
    const Row &get(const std::string &name) const {
        auto i = w.find(name);
        CHECK(i != w.end(), "no tensor %s", name.c_str());
        return i->second;
    }
    Row linear(const std::string &name, const Row &x) const {  // [out, in]
        const Row &m = get(name + ".weight");
        Row y(m.size() / x.size());
        for (size_t o = 0; o < y.size(); o++) for (size_t i = 0; i < x.size(); i++) y[o] += m[o * x.size() + i] * x[i];
        return y;
    }
    Row times(const Row &x, const std::string &name, int part = 0, int parts = 1) const {  // x W, W [in, out]; of a stack the part-th
        const Row &m = get(name);
        size_t in = x.size(), out = m.size() / parts / in;
        Row y(out);
        for (size_t i = 0; i < in; i++) for (size_t o = 0; o < out; o++) y[o] += x[i] * m[(part * in + i) * out + o];
        return y;
    }
    template<class F> static Row each(int n, F f) { Row y(n); for (int i = 0; i < n; i++) y[i] = f(i); return y; }
    Row norm(const Row &x, const std::string &name, double eps, int groups = 1) const {
        int n = x.size() / groups;
        const Row &weight = get(name + ".weight"), &bias = get(name + ".bias");
        Row y(x.size());
        for (int g = 0; g < groups; g++) {
            double mean = 0, var = 0;
            for (int i = 0; i < n; i++) mean += x[g * n + i] / n;
            for (int i = 0; i < n; i++) var += (x[g * n + i] - mean) * (x[g * n + i] - mean) / n;
            for (int i = g * n; i < (g + 1) * n; i++) y[i] = (x[i] - mean) / sqrt(var + eps) * weight[i] + bias[i];
        }
        return y;
    }
    // between the token before and this one: `now`: the vector is the weight of this token, else of the one before
    Row mix(const Row &x, const Row &last, const std::string &name, bool now, const Row *more = nullptr) const {
        const Row &m = get(name);
        return each(C, [&](int i) { double a = m[i] + (more ? (*more)[i] : 0); return now ? x[i] * a + last[i] * (1 - a) : x[i] + (last[i] - x[i]) * a; });
    }

    Row att4(const Row &x, Layer &s, const std::string &b) const {
        Row k = linear(b + "key", mix(x, s.att_x, b + "time_mix_k", true)), v = linear(b + "value", mix(x, s.att_x, b + "time_mix_v", true));
        Row r = linear(b + "receptance", mix(x, s.att_x, b + "time_mix_r", true)), y(C);
        for (int i = 0; i < C; i++) {
            double w = -exp(get(b + "time_decay")[i]), u = get(b + "time_first")[i], q = std::max(s.pp[i], u + k[i]);
            y[i] = sigmoid(r[i]) * (exp(s.pp[i] - q) * s.aa[i] + exp(u + k[i] - q) * v[i]) / (exp(s.pp[i] - q) * s.bb[i] + exp(u + k[i] - q));
            q = std::max(s.pp[i] + w, k[i]);
            s.aa[i] = exp(s.pp[i] + w - q) * s.aa[i] + exp(k[i] - q) * v[i], s.bb[i] = exp(s.pp[i] + w - q) * s.bb[i] + exp(k[i] - q), s.pp[i] = q;
        }
        return linear(b + "output", y);
    }
    // y_j = sum_i r_i (S_ij + u_i k_i v_j), then S_ij = w_i S_ij + k_i v_j
    Row heads(Row &S, const Row &r, const Row &k, const Row &v, const Row &w, const Row &u) const {
        Row y(C);
        for (int c = 0; c < C; c++) for (int j = 0; j < N; j++) {
            int at = c / N * N + j;
            double &s = S[c * N + j], kv = k[c] * v[at];
            y[at] += r[c] * (s + u[c] * kv), s = w[c] * s + kv;
        }
        return y;
    }
    Row att56(const Row &x, Layer &s, const std::string &b) const {
        bool six = version == "6";
        std::map<char, Row> m;
        if (!six) for (char c : std::string("kvrg")) m[c] = mix(x, s.att_x, b + "time_mix_" + c, true);
        else {
            Row h = times(mix(x, s.att_x, b + "time_maa_x", false), b + "time_maa_w1");
            int D = h.size() / 5;
            for (int i = 0; i < 5; i++) {
                Row part = each(D, [&](int d) { return tanh(h[i * D + d]); }), more = times(part, b + "time_maa_w2", i, 5);
                m["wkvrg"[i]] = mix(x, s.att_x, b + "time_maa_" + "wkvrg"[i], false, &more);
            }
        }
        Row d = get(b + "time_decay"), u = get(b + "time_faaaa");
        if (version == "5.1") d = each(C, [&](int i) { return get(b + "time_decay")[i / N]; }), u = each(C, [&](int i) { return get(b + "time_faaaa")[i / N]; });
        if (six) {
            Row t = times(m['w'], b + "time_decay_w1");
            for (double &z : t) z = tanh(z);
            Row more = times(t, b + "time_decay_w2");
            for (int i = 0; i < C; i++) d[i] += more[i];
        }
        for (double &z : d) z = exp(-exp(z));
        Row y = heads(s.S, linear(b + "receptance", m['r']), linear(b + "key", m['k']), linear(b + "value", m['v']), d, u), g = linear(b + "gate", m['g']);
        y = norm(y, b + "ln_x", group_norm_eps, H);
        for (int i = 0; i < C; i++) y[i] *= g[i] * sigmoid(g[i]);
        return linear(b + "output", y);
    }
    Row att7(const Row &x, Layer &s, const std::string &b, Row &first, bool layer0) const {
        std::map<char, Row> m;
        for (char c : std::string("rwkvag")) m[c] = mix(x, s.att_x, b + "x_" + c, false);
        Row r = linear(b + "receptance", m['r']), k = linear(b + "key", m['k']), v = linear(b + "value", m['v']);
        Row t = times(m['w'], b + "w1"), g = times(m['g'], b + "g1");
        for (double &z : t) z = tanh(z);
        for (double &z : g) z = sigmoid(z);
        Row w = times(t, b + "w2"), a = times(times(m['a'], b + "a1"), b + "a2"), kk(C), y(C);
        g = times(g, b + "g2");
        if (layer0) first = v;
        else {
            Row gate = times(times(m['v'], b + "v1"), b + "v2");
            for (int i = 0; i < C; i++) v[i] += (first[i] - v[i]) * sigmoid(get(b + "v0")[i] + gate[i]);
        }
        for (int h = 0; h < H; h++) {
            double length = 0;
            for (int i = h * N; i < (h + 1) * N; i++) kk[i] = k[i] * get(b + "k_k")[i], length += kk[i] * kk[i];
            for (int i = h * N; i < (h + 1) * N; i++) kk[i] /= std::max(sqrt(length), 1e-12);
        }
        for (int i = 0; i < C; i++) {
            w[i] = exp(-exp(-0.5) * sigmoid(get(b + "w0")[i] + w[i])), a[i] = sigmoid(get(b + "a0")[i] + a[i]);
            k[i] *= 1 + (a[i] - 1) * get(b + "k_a")[i];
        }
        for (int i = 0; i < C; i++) {  // value channel i
            double *S = &s.S[i * N], removed = 0;
            int h = i / N * N;
            for (int j = 0; j < N; j++) removed += S[j] * kk[h + j];
            for (int j = 0; j < N; j++) S[j] = S[j] * w[h + j] - removed * kk[h + j] * a[h + j] + v[i] * k[h + j], y[i] += S[j] * r[h + j];
        }
        y = norm(y, b + "ln_x", group_norm_eps, H);
        for (int h = 0; h < H; h++) {
            double bonus = 0;
            for (int i = h * N; i < (h + 1) * N; i++) bonus += r[i] * k[i] * get(b + "r_k")[i];
            for (int i = h * N; i < (h + 1) * N; i++) y[i] = (y[i] + bonus * v[i]) * g[i];
        }
        return linear(b + "output", y);
    }
    Row ffn(const Row &x, Layer &s, const std::string &b) const {
        bool now = version[0] < '6';
        std::string name = b + (now ? "time_mix_" : version == "6" ? "time_maa_" : "x_");
        Row k = linear(b + "key", mix(x, s.ffn_x, name + "k", now));
        for (double &z : k) z = z > 0 ? z * z : 0;
        Row y = linear(b + "value", k);
        if (version == "7") return y;
        Row r = linear(b + "receptance", mix(x, s.ffn_x, name + "r", now));
        for (int i = 0; i < C; i++) y[i] *= sigmoid(r[i]);
        return y;
    }
    Row step(int token) {  // -> logits
        Row first, x(get("emb.weight").begin() + (int64_t)token * C, get("emb.weight").begin() + (int64_t)(token + 1) * C);
        x = norm(x, "blocks.0.ln0", 1e-5);
        for (int l = 0; l < L; l++) {
            std::string b = format("blocks.%d.", l);
            Layer &s = state[l];
            Row h = norm(x, b + "ln1", 1e-5), y = version == "4" ? att4(h, s, b + "att.") : version == "7" ? att7(h, s, b + "att.", first, l == 0) : att56(h, s, b + "att.");
            for (int i = 0; i < C; i++) x[i] += y[i];
            s.att_x = h;
            h = norm(x, b + "ln2", 1e-5), y = ffn(h, s, b + "ffn.");
            for (int i = 0; i < C; i++) x[i] += y[i];
            s.ffn_x = h;
        }
        return linear("head", hidden = norm(x, "ln_out", 1e-5));
    }
    std::vector<Row> run(const std::vector<int> &tokens) {
        std::vector<Row> rows;
        for (int t : tokens) rows.push_back(step(t));
        return rows;
    }
};

// ------------------------------------------------------------------------------------------------
// random models

// A float32 number with the name's kind of size: far from the initial values, so that no term hides; see STRONG in run.py
inline void strong_range(const WeightName &n, double *lo, double *hi) {
    static const struct { const char *part; double lo, hi; } table[] = {
        {"time_decay_w", 0, 0}, {"maa_w1", 0, 0}, {"maa_w2", 0, 0}, {"time_decay", -4, 1.5}, {"time_first", -1, 1}, {"time_faaaa", -1.5, 1.5}, {"time_mix", -.2, 1.2}, {"time_maa", -.2, 1.2},
        {".x_", -.2, 1.2}, {".w0", -4, 3}, {".a0", -1, 1}, {".v0", -1, 1}, {".k_k", .3, 1.5}, {".k_a", -.5, 1.5}, {".r_k", -.6, .6}, {"bias", -.3, .3}, {"emb.", -.01, .01}};
    for (auto &t : table) if (t.lo < t.hi && n.name.find(t.part) != n.name.npos && n.row->kind != 'L') { *lo = t.lo, *hi = t.hi; return; }
    double gain = n.name.find("decay_w2") != n.name.npos ? 1 : n.name.find("maa_w2") != n.name.npos ? .5 : n.row->kind == 'L' ? 1.5 : n.name == "head.weight" ? 2 : n.name.find("ffn.value") != n.name.npos ? .4 : 1.2;
    int64_t in = n.row->kind == 'L' ? n.shape[n.shape.size() - 2] : n.shape.back();
    *hi = gain * sqrt(3.0 / in), *lo = -*hi;
    if (n.row->kind == 'V' || n.row->kind == 'R') *lo = .5, *hi = 1.5;  // norms
}
struct RandomModel {  // the tensors of a model file
    std::vector<TensorView> tensors;
    std::vector<std::vector<float>> data;
};
// lora: "w5a3v7g11"
inline RandomModel random_model(const std::string &version, int L, int H, int N, int F, int V, const char *lora, uint64_t seed) {
    ModelInfo m;
    m.version = version, m.V = V, m.C = H * N, m.F = F, m.L = L, m.H = H, m.N = N;
    for (const char *p = lora; *p; ) { char c = *p; m.lora[c - 'a'] = strtol(p + 1, (char **)&p, 10); }
    RandomModel r;
    Rng rng = {seed, 0, 0};
    for (WeightName n : weight_names(m)) {
        TensorView t(n.name, DType::F32, n.shape, nullptr);
        double lo, hi;
        strong_range(n, &lo, &hi);
        r.data.emplace_back(t.count());
        for (float &x : r.data.back()) x = (float)(floatX)(float)(lo + (hi - lo) * rng.uniform());  // no rounding on loading
        t.data = r.data.back().data();
        r.tensors.push_back(t);
    }
    return r;
}
