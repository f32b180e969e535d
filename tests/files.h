/* tests/files.h: weight files and checkpoints: .safetensors, .pth, conversion, damage, kill -9, full disks.
   tests/data/edge.pth and edge.json come from dev/reference/pth_edge.py. */
#pragma once
#include "../rwkv/checkpoint.h"
#include "../rwkv/pth_write.h"
#include "scratch.h"
#include <cmath>
#include <sys/ptrace.h>

// ------------------------------------------------------------------------------------------------
// helpers

inline std::string row_major(const TensorView &t) {  // without read_tensor's shortcuts: one index after the other
    std::string out;
    int64_t size = dtype_size(t.dtype);
    for (int64_t i = 0, n = t.count(); i < n; i++) {
        int64_t at = 0, rest = i;
        for (size_t d = t.shape.size(); d-- > 0; rest /= t.shape[d]) at += rest % t.shape[d] * t.stride[d];
        out.append((const char *)t.data + at * size, size);
    }
    return out;
}
inline std::string read_raw(const TensorView &t) {
    std::string out(t.bytes(), '\0');
    read_tensor(t, t.dtype, out.data());
    return out;
}

// A zip as torch.save writes it: stored, sizes only behind the data and in the directory at the end.
struct ZipWriter {
    std::string out, directory;
    int count = 0, method = 0, flags = 0x0808;
    bool zip64 = false;

    void add(const std::string &name, const std::string &data, int padding = 5) {
        uint32_t crc = crc32(data), hidden = 0xffffffff, size = data.size();
        uint64_t header = out.size();
        std::string extra = zip64 ? le<uint16_t>(1) + le<uint16_t>(24) + le<uint64_t>(size) + le<uint64_t>(size) + le(header) : "";
        std::string common = le<uint16_t>(flags) + le<uint16_t>(method) + le(0u);
        out += "PK\3\4" + le<uint16_t>(20) + common + le(0u) + le(0u) + le(0u) + le<uint16_t>(name.size()) + le<uint16_t>(padding) + name + std::string(padding, 'Z');
        out += data + "PK\7\10" + le(crc) + le(size) + le(size);
        directory += "PK\1\2" + le<uint16_t>(20) + le<uint16_t>(20) + common + le(crc) + (zip64 ? le(hidden) + le(hidden) : le(size) + le(size))
                   + le<uint16_t>(name.size()) + le<uint16_t>(extra.size()) + le<uint16_t>(0) + le<uint16_t>(0) + le<uint16_t>(0) + le(0u)
                   + (zip64 ? le(hidden) : le<uint32_t>(header)) + name + extra;
        count++;
    }
    std::string finish(const std::string &comment = "") const {
        std::string s = out + directory;
        if (zip64) s += "PK\6\6" + le<uint64_t>(44) + le<uint16_t>(45) + le<uint16_t>(45) + le(0u) + le(0u) + le<uint64_t>(count) + le<uint64_t>(count)
                      + le<uint64_t>(directory.size()) + le<uint64_t>(out.size()) + "PK\6\7" + le(0u) + le<uint64_t>(out.size() + directory.size()) + le(1u);
        uint32_t n = zip64 ? 0xffff : count, size = zip64 ? ~0u : directory.size(), at = zip64 ? ~0u : out.size();
        return s + "PK\5\6" + le(0u) + le(n, 2) + le(n, 2) + le(size) + le(at) + le<uint16_t>(comment.size()) + comment;
    }
};

// Pieces of pickles, protocol 2
inline std::string p_text(const std::string &s) { return "X" + le<uint32_t>(s.size()) + s; }
inline std::string p_int(int64_t v) { return v == (int32_t)v ? "J" + le<int32_t>(v) : "\x8a\x08" + le(v); }
inline std::string p_tuple(const std::vector<int64_t> &v) { std::string s = "("; for (int64_t n : v) s += p_int(n); return s + "t"; }
inline std::string p_tensor(const char *storage, const char *key, int64_t elements, int64_t offset, const std::vector<int64_t> &shape, const std::vector<int64_t> &stride) {
    return std::string("ctorch._utils\n_rebuild_tensor_v2\n((") + p_text("storage") + "ctorch\n" + storage + "\n" + p_text(key) + p_text("cpu") + p_int(elements) + "tQ"
         + p_int(offset) + p_tuple(shape) + p_tuple(stride) + "\x89" "ccollections\nOrderedDict\n)RtR";
}
inline std::string p_dict(const std::vector<std::pair<std::string, std::string>> &entries) {
    std::string s = "}(";
    for (auto &e : entries) s += p_text(e.first) + e.second;
    return s + "u";
}
inline std::string p_program(const std::string &dict) { return "\x80\2" + dict + "."; }

inline std::string small_pickle() {  // 3x4 and its transpose, a row, and halves
    return p_program(p_dict({{"a.weight", p_tensor("FloatStorage", "0", 12, 0, {3, 4}, {4, 1})},
                             {"a.t", p_tensor("FloatStorage", "0", 12, 0, {4, 3}, {1, 4})},
                             {"a.row", p_tensor("FloatStorage", "0", 12, 8, {4}, {1})},
                             {"b", p_tensor("HalfStorage", "1", 3, 2, {}, {})}}));
}
inline std::string pth_of(const std::string &pickle, ZipWriter zip = {}, const std::string &folder = "arch/") {
    std::string floats;
    for (int i = 0; i < 12; i++) floats += le((float)i);
    zip.add(folder + "data.pkl", pickle);
    zip.add(folder + "data/0", floats);
    zip.add(folder + "data/1", le<uint16_t>(0x3c00) + le<uint16_t>(0x4000) + le<uint16_t>(0x4200));
    zip.add(folder + "version", "3\n");
    return zip.finish();
}
inline std::string safetensors_of(const std::string &json, const std::string &data) { return le<uint64_t>(json.size()) + json + data; }
inline std::string small_safetensors() {
    return safetensors_of(R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                          R"("e":{"dtype":"F32","shape":[0],"data_offsets":[24,24]},"b":{"dtype":"BF16","shape":[],"data_offsets":[24,26]}})",
                          std::string(24, '\0') + le<uint16_t>(0x3f80));
}
inline void open_bytes(const std::string &bytes) { TensorFile f("in.bin", bytes.data(), bytes.size()); }

// ------------------------------------------------------------------------------------------------
// safetensors

TEST("files: what write_safetensors wrote is read back bit by bit, every type, odd shapes, 0 dimensions, empty") {
    ScratchDir dir;
    std::mt19937_64 random(1);
    const std::vector<std::vector<int64_t>> shapes = {{}, {1}, {0}, {3, 0, 2}, {7}, {3, 5}, {1, 1, 13}, {2, 3, 5, 7}, {17, 1, 3}};
    std::vector<TensorView> tensors;
    std::deque<std::string> storage;
    for (int d = DTYPES - 1; d >= 0; d--) {  // the narrow ones first: the writer has to see to the alignment
        for (auto &shape : shapes) {
            TensorView t(format("%s \"quoted\" \xc3\xbc\n%zu", dtype_name((DType)d), tensors.size()), (DType)d, shape, nullptr);
            storage.emplace_back(t.bytes(), '\0');
            for (char &c : storage.back()) c = (char)random();
            t.data = storage.back().data();
            tensors.push_back(t);
        }
        TensorView t(format("%s transposed", dtype_name((DType)d)), (DType)d, {5, 3}, storage[storage.size() - 4].data());  // of {3, 5}
        t.stride = {1, 5};
        tensors.push_back(t);
    }
    std::map<std::string, std::string> metadata = {{"kind", "rwkv4"}, {"text", "a \"b\" \\ \xe2\x82\xac\n\t"}, {"empty", ""}};
    write_safetensors(dir / "x.safetensors", metadata, tensors);
    TensorFile f(dir / "x.safetensors");
    CHECK(f.verify(), "no checksum");
    CHECK(f.tensors.size() == tensors.size(), "%zu tensors", f.tensors.size());
    for (auto &m : metadata) CHECK(f.metadata[m.first] == m.second, "%s", m.first.c_str());
    for (const TensorView &t : tensors) {
        const TensorView &r = f.get(t.name);
        CHECK(r.dtype == t.dtype && r.shape == t.shape, "%s", t.name.c_str());
        CHECK((uintptr_t)r.data % dtype_size(r.dtype) == 0, "%s is not aligned", t.name.c_str());
        CHECK(read_raw(r) == row_major(t), "%s", t.name.c_str());
    }
    std::string first = file_bytes(dir / "x.safetensors");
    CHECK((8 + load_as<uint64_t>(first.data())) % 64 == 0, "the data begin at %llu", (unsigned long long)(8 + load_as<uint64_t>(first.data())));
    write_safetensors(dir / "x.safetensors", f.metadata, tensors);  // metadata now with the old checksum
    CHECK(file_bytes(dir / "x.safetensors") == first, "the same input gave other bytes");
    CHECK(!file_exists(dir / "x.safetensors.tmp"), "the temporary file is still there");
}

TEST("files: tensors of one type keep their order in the file") {
    ScratchDir dir;
    float x[3] = {1, 2, 3};
    write_safetensors(dir / "x", {}, {{"z", DType::F32, {2}, x}, {"a", DType::F32, {0}, x}, {"m", DType::F32, {1}, x + 2}});
    std::string bytes = file_bytes(dir / "x");
    CHECK(bytes.find("\"z\"") < bytes.find("\"a\"") && bytes.find("\"a\"") < bytes.find("\"m\""), "%s", bytes.c_str() + 8);
    CHECK(bytes.compare(bytes.size() - 12, 12, (const char *)x, 12) == 0, "data");
}

TEST("files: XXH64 gives the published values, whole or in pieces") {
    auto hash = [](const std::string &s, size_t piece) {
        Xxh64 h;
        for (size_t i = 0; i < s.size(); i += piece) h.add(s.data() + i, std::min(piece, s.size() - i));
        return h.digest();
    };
    std::string ramp;
    for (int i = 0; i < 101; i++) ramp += (char)(i * 7);
    const struct { std::string text; uint64_t hash; } known[] = {
        {"", 0xef46db3751d8e999}, {"abc", 0x44bc2cf5ad770999}, {ramp.substr(0, 31), 0x0f187c62b1e722b7}, {ramp.substr(0, 32), 0x91b0cb0931a8c629}, {ramp, 0x42312f4d55d9bd17}};
    for (auto &k : known)
        for (size_t piece : {1, 3, 8, 31, 32, 33, 1000})
            CHECK(hash(k.text, piece) == k.hash, "length %zu in pieces of %zu: %016llx", k.text.size(), piece, (unsigned long long)hash(k.text, piece));
}

TEST("files: no flipped bit in a file of ours passes verify, wherever it is") {
    ScratchDir dir;
    float x[5] = {1, 2, 3, 4, 5};
    write_safetensors(dir / "x", {{"step", "5"}}, {{"a", DType::F32, {5}, x}});
    std::string bytes = file_bytes(dir / "x");
    for (size_t i = 0; i < 8 * bytes.size(); i++) {
        bytes[i / 8] ^= 1 << i % 8;
        bool passed = false;
        try { passed = TensorFile("x", bytes.data(), bytes.size()).verify(); } catch (const Error &) {}
        CHECK(!passed, "bit %zu", i);
        bytes[i / 8] ^= 1 << i % 8;
    }
    CHECK(TensorFile("x", bytes.data(), bytes.size()).verify(), "undamaged");
}

// ------------------------------------------------------------------------------------------------
// conversion

template<int E, int M> void check_narrow() {  // every value and, between each two, the middle and its neighbours
    auto value = [](uint32_t bits) { return M == 10 ? (double)fp16_to_float((uint16_t)bits) : (double)bf16_to_float((uint16_t)bits); };
    const uint32_t infinity = ((1u << E) - 1) << M;
    for (uint32_t b = 0; b < infinity; b++) {
        double low = value(b), high = b + 1 < infinity ? value(b + 1) : low + (low - value(b - 1)), middle = low / 2 + high / 2;
        uint32_t even = b & 1 ? b + 1 : b;
        for (uint32_t sign : {0u, 1u}) {
            double s = sign ? -1 : 1;
            uint32_t top = sign << (E + M);
            CHECK(narrow(s * low, E, M) == (top | b), "%g", s * low);
            CHECK(narrow(s * middle, E, M) == (top | even), "the middle %.17g", s * middle);
            CHECK(narrow(s * std::nextafter(middle, 0), E, M) == (top | b), "below the middle %.17g", s * middle);
            CHECK(narrow(s * std::nextafter(middle, HUGE_VAL), E, M) == (top | (b + 1)), "above the middle %.17g", s * middle);
            if (M == 7 && (float)middle == middle && b + 1 < infinity) CHECK(float_to_bf16((float)(s * middle)) == (top | even), "float %g", s * middle);
            if (M == 7) CHECK(float_to_bf16(std::nextafterf((float)(s * low), (float)s * HUGE_VALF)) == (top | b), "float above %g", s * low);
        }
    }
    CHECK(narrow(HUGE_VAL, E, M) == infinity && narrow(1e300, E, M) == infinity, "infinity");
    CHECK(std::isnan(value(narrow(NAN, E, M))), "NaN");
}
TEST("files: bf16 and fp16 are rounded to nearest even at every value they have") { check_narrow<8, 7>(); check_narrow<5, 10>(); }

TEST("files: tensors convert between all types, NaN stays NaN, strides are honoured") {
    const double values[] = {0, -0.0, 1, -2, 0.5, 3.140625, 100, -7};
    std::string f64, f32, f16, bf16, i64, i8;
    for (double v : values) {
        f64 += le(v), f32 += le((float)v), f16 += le(narrow(v, 5, 10)), bf16 += le(narrow(v, 8, 7));
        i64 += le((int64_t)v), i8 += le((int8_t)v);
    }
    const std::string *data[] = {&f64, &f32, &f16, &bf16};
    for (int from = 0; from < 4; from++)
        for (int to = 0; to < 4; to++) {
            std::string out(data[to]->size(), '?');
            read_tensor(TensorView("x", (DType)from, {2, 4}, data[from]->data()), (DType)to, out.data());
            CHECK(out == *data[to], "%s to %s", dtype_name((DType)from), dtype_name((DType)to));
        }
    float out[8];
    read_tensor(TensorView("x", DType::I8, {8}, i8.data()), out);
    for (int i = 0; i < 8; i++) CHECK(out[i] == std::trunc((float)values[i]), "I8 %d", i);
    int64_t whole[8];
    read_tensor(TensorView("x", DType::I8, {8}, i8.data()), whole);
    CHECK(!memcmp(whole, i64.data(), 64), "I8 to I64");
    CHECK_ERROR(read_tensor(TensorView("x", DType::F32, {8}, f32.data()), whole), "cannot be read as I64");
    for (DType d : {DType::F32, DType::F16, DType::BF16}) {
        double nan = NAN, back = 0;
        uint64_t stored = 0;
        read_tensor(TensorView("x", DType::F64, {}, &nan), d, &stored);
        read_tensor(TensorView("x", d, {}, &stored), &back);
        CHECK(std::isnan(back), "%s", dtype_name(d));
    }
    uint16_t odd_nan = 0x7f81, same;  // a signalling NaN is copied, not computed with
    read_tensor(TensorView("x", DType::BF16, {}, &odd_nan), DType::BF16, &same);
    CHECK(same == odd_nan, "%04x", same);
    TensorView t("x", DType::F32, {2, 3, 4}, nullptr);
    float base[200];
    for (int i = 0; i < 200; i++) base[i] = (float)i;
    t.data = base;
    for (auto &stride : std::vector<std::vector<int64_t>>{{12, 4, 1}, {1, 2, 6}, {50, 7, 3}, {0, 0, 0}, {12, 1, 3}, {20, 5, 1}}) {
        t.stride = stride;
        double got[24];
        read_tensor(t, got);
        for (int i = 0; i < 24; i++) {
            double want = base[i / 12 * stride[0] + i / 4 % 3 * stride[1] + i % 4 * stride[2]];
            CHECK(got[i] == want, "strides %lld %lld %lld, element %d: %g, not %g", (long long)stride[0], (long long)stride[1], (long long)stride[2], i, got[i], want);
        }
    }
}

TEST("files: a model reads by name; another shape, type or a missing tensor is a sentence") {
    std::string bytes = small_safetensors();
    TensorFile f("m.safetensors", bytes.data(), bytes.size());
    double a[6], b = 0;
    f.read("a", {1, 2, 3}, a);  // dimensions of 1 do not matter
    f.read("b", {}, &b);
    CHECK(b == 1, "%g", b);
    int64_t n;
    CHECK_ERROR(f.read("a", {3, 2}, a), "m.safetensors: a has shape [2, 3], but the model needs [3, 2]");
    CHECK_ERROR(f.read("c", {}, a), "m.safetensors has no tensor c");
    CHECK_ERROR(f.read("b", {}, &n), "m.safetensors: b is BF16, but I64 is needed");
    CHECK(!f.verify(), "no checksum is in it");
}

// ------------------------------------------------------------------------------------------------
// .pth

TEST("files: tests/data/edge.pth, all that torch.save can do, equals edge.json bit by bit") {
    TensorFile f("tests/data/edge.pth");
    Json expected = parse_json(file_bytes("tests/data/edge.json"), "tests/data/edge.json");
    CHECK(f.verify(), "checksums");
    CHECK(f.tensors.size() == expected.keys.size() && f.tensors.size() > 300, "%zu tensors, not %zu", f.tensors.size(), expected.keys.size());
    for (size_t i = 0; i < f.tensors.size(); i++) {
        const TensorView &t = f.tensors[i];
        const Json &e = expected.items[i];
        CHECK(t.name == expected.keys[i] && t.dtype == f.get(t.name).dtype, "%s, not %s", t.name.c_str(), expected.keys[i].c_str());
        CHECK(dtype_name(t.dtype) == e.at("dtype").as_text(), "%s is %s", t.name.c_str(), dtype_name(t.dtype));
        std::vector<int64_t> shape;
        for (const Json &n : e.at("shape").items) shape.push_back(n.as_int());
        CHECK(t.shape == shape, "%s is %s", t.name.c_str(), t.shape_text().c_str());
        std::string hex;
        for (unsigned char c : read_raw(t)) hex += format("%02x", c);
        CHECK(hex == e.at("bytes").as_text(), "%s is %s", t.name.c_str(), hex.c_str());
    }
    CHECK(f.get("tied").data == f.get("base").data, "tied tensors share their data");
}

TEST("files: .pth to .safetensors loses nothing") {
    ScratchDir dir;
    TensorFile a("tests/data/edge.pth");
    write_safetensors(dir / "x", a.metadata, a.tensors);
    TensorFile b(dir / "x");
    CHECK(b.tensors.size() == a.tensors.size() && b.verify(), "%zu", b.tensors.size());
    for (const TensorView &t : a.tensors) CHECK(b.get(t.name).shape == t.shape && read_raw(b.get(t.name)) == row_major(t), "%s", t.name.c_str());
}

TEST("files: hand-made .pth: zip64, a comment, a file without a folder, wrappers, nested dictionaries") {
    auto check = [](const std::string &bytes, const char *what) {
        TensorFile f("x.pth", bytes.data(), bytes.size());
        float t[12], row[4], b;
        f.read("a.t", {4, 3}, t), f.read("a.row", {4}, row), f.read("b", {}, &b);
        for (int i = 0; i < 12; i++) CHECK(t[i] == i / 3 + 4 * (i % 3), "%s: %g at %d", what, t[i], i);
        CHECK(row[0] == 8 && row[3] == 11 && b == 3 && f.tensors.size() == 4 && f.verify(), "%s: %g %g %g", what, row[0], row[3], b);
    };
    ZipWriter zip64;
    zip64.zip64 = true;
    std::string pickle = small_pickle(), dict = pickle.substr(2, pickle.size() - 3);
    check(pth_of(pickle), "plain");
    check(pth_of(pickle, zip64), "zip64");
    check(pth_of(pickle, {}, ""), "no folder");
    std::string with_comment = pth_of(pickle);
    with_comment.replace(with_comment.size() - 2, 2, le<uint16_t>(9) + "a comment");
    check(with_comment, "comment");
    check(pth_of(p_program(p_dict({{"epoch", p_int(3)}, {"state_dict", dict}}))), "state_dict");
    check(pth_of(p_program(p_dict({{"module", p_dict({{"model", dict}})}, {"other", "}"}}))), "twice nested");
    check(pth_of(p_program(p_dict({{"rng", p_tensor("FloatStorage", "0", 12, 0, {1}, {1})}, {"model", dict}}))), "a tensor beside it");
    check(pth_of(p_program(p_dict({{"my own key", dict}, {"x", p_text("y")}}))), "an unusual key");
    check(pth_of(p_program(dict + "}" + "b")), "attributes");
    std::string wrapped = dict;
    size_t at = wrapped.find(p_text("b"));
    wrapped.replace(at, p_text("b").size(), p_text("module._orig_mod.b"));
    check(pth_of(p_program(wrapped)), "wrapped");
}

TEST("files: the loader's reference file and both formats of a real model agree exactly") {
    if (!file_exists("../shared/oracle/loader-edge.pth")) SKIP("no ../shared/oracle");
    TensorFile f("../shared/oracle/loader-edge.pth");
    Json expected = parse_json(file_bytes("../shared/oracle/loader-edge.expected.json"), "expected.json");
    for (size_t i = 0; i < expected.keys.size(); i++) {
        const TensorView &t = f.get(expected.keys[i]);
        std::vector<double> x(t.count());
        read_tensor(t, x.data());
        double sum = 0, weighted = 0;
        for (size_t k = 0; k < x.size(); k++) sum += x[k], weighted += x[k] * (double)(k + 1);
        const Json &e = expected.items[i];
        CHECK(sum == e.at("sum").as_double() && weighted == e.at("weighted").as_double(), "%s: %.17g %.17g", t.name.c_str(), sum, weighted);
        CHECK(t.shape.size() == e.at("shape").items.size(), "%s %s", t.name.c_str(), t.shape_text().c_str());
        for (size_t d = 0; d < t.shape.size(); d++) CHECK(t.shape[d] == e.at("shape").items[d].as_int(), "%s %s", t.name.c_str(), t.shape_text().c_str());
    }
    TensorFile full("../shared/oracle/tiny-rwkv-4v0-660K.fp32.pth"), half("../shared/oracle/tiny-rwkv-4v0-660K.bf16.safetensors");
    CHECK(full.tensors.size() == 78 && half.tensors.size() == 78, "%zu %zu", full.tensors.size(), half.tensors.size());
    for (const TensorView &t : full.tensors) {
        std::vector<Bf16> a(t.count()), b(t.count());
        read_tensor(t, a.data()), half.read(t.name, t.shape, b.data());
        CHECK(!memcmp(a.data(), b.data(), 2 * a.size()), "%s", t.name.c_str());
    }
}

// ------------------------------------------------------------------------------------------------
// bad files

TEST("files: every kind of wrong file gets its own sentence") {
    const std::string st = small_safetensors(), good = pth_of(small_pickle());
    auto entry = [](const char *json, int bytes = 8) { return safetensors_of(json, std::string(bytes, '\0')); };
    auto tensor = [](int64_t elements, int64_t offset, std::vector<int64_t> shape, std::vector<int64_t> stride) {
        return pth_of(p_program(p_dict({{"x", p_tensor("FloatStorage", "0", elements, offset, shape, stride)}})));
    };
    ZipWriter packed, locked, other;
    packed.method = 8, locked.flags = 1;
    other.add("word/document.xml", "x");
    std::string one = p_tensor("FloatStorage", "0", 12, 0, {1}, {1}), negative = one;
    negative.replace(negative.find(p_int(1)), 5, "\x8a\x01\x85");  // the shape is [-123]
    const struct { const char *what; std::string bytes; const char *sentence; } table[] = {
        {"empty", "", "the file is empty"},
        {"5 bytes", "hello", "neither .safetensors nor .pth: its first bytes are 68 65 6c 6c 6f"},
        {"web page", "\n <!DOCTYPE html><html>...", "a web page"},
        {"web page", "<HTML><body>Not found", "a web page"},
        {"git-lfs", "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 1330056\n", "a git-lfs pointer (70 bytes) to a file of 1330056 bytes"},
        {"gguf", "GGUF\3\0\0\0aaaaaaaa", "GGUF"},
        {"ggml", "fmgg\x64\0\0\0aaaaaaaaaaa", "ggml"},
        {"old torch", "\x80\2\x8a\nl\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\2M", "before 1.6"},
        {"pickle", "\x80\4\x95...", "a bare Python pickle"},
        {"gzip", "\x1f\x8b\x08----------", "gzip"},
        {"json", "{\"architectures\": []}", "JSON text"},
        {"shard", le(20240520) + le(1) + std::string(1016, 'x'), "shard of tokens"},
        {"big-endian", std::string(7, '\0') + "\2{}", "big-endian"},
        {"cut in the header", st.substr(0, 50), "is cut short: its header alone should end at byte"},
        {"cut in the data", st.substr(0, st.size() - 3), "is cut short: it should have 232 bytes, but has 229"},
        {"longer", st + "x", "1 bytes after its last tensor"},
        {"not JSON", entry("{\"a\":", 0), "in.bin"},
        {"no dtype", entry(R"({"a":{"shape":[2],"data_offsets":[0,8]}})"), "dtype"},
        {"unknown type", entry(R"({"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}})"), "a is of type F8_E4M3, which is not supported"},
        {"shape and bytes", entry(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})"), "a has a shape that does not fit"},
        {"huge shape", entry(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}})"), "a has a shape that does not fit"},
        {"negative", entry(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})"), "a has a negative number"},
        {"fraction", entry(R"({"a":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}})"), "not a whole number"},
        {"offsets", entry(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})"), "a has data_offsets that are not"},
        {"overlap", entry(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})"), "b overlap"},
        {"gap", entry(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})"), "a come after a gap"},
        {"far outside", entry(R"({"a":{"dtype":"U8","shape":[9007199254740000],"data_offsets":[0,9007199254740000]}})"), "is cut short: it should have 90071992547"},
        {"two of a name", entry(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})"), "twice"},
        {"newline in a name", entry("{\"a\\nb\":{\"dtype\":\"X\",\"shape\":[1],\"data_offsets\":[0,4]}}"), "a?b is of type X"},
        {"zip cut short", good.substr(0, good.size() - 30), "is cut short: it begins like a .pth"},
        {"zip of something", other.finish(), "a zip archive, but not a .pth"},
        {"compressed", pth_of(small_pickle(), packed), "is compressed"},
        {"encrypted", pth_of(small_pickle(), locked), "is encrypted"},
        {"code", pth_of(p_program("cos\nsystem\n" + p_text("true") + "\x85R")), "calls os.system, which is not run here"},
        {"whole module", pth_of(p_program("csrc.model\nRWKV\n)\x81")), "calls src.model.RWKV"},
        {"storage missing", pth_of(p_program(p_dict({{"x", p_tensor("FloatStorage", "7", 1, 0, {1}, {1})}}))), "no entry arch/data/7"},
        {"storage too short", tensor(13, 0, {1}, {1}), "too few for 13 elements of F32"},
        {"beyond the storage", tensor(12, 9, {4}, {1}), "beyond its storage"},
        {"stride beyond", tensor(12, 0, {3, 4}, {5, 1}), "beyond its storage"},
        {"negative offset", tensor(12, -1, {2}, {1}), "beyond its storage"},
        {"negative stride", tensor(12, 11, {12}, {-1}), "beyond its storage"},
        {"huge stride", tensor(12, 0, {3, 3}, {INT64_MAX, INT64_MAX}), "beyond its storage"},
        {"huge shape", tensor(12, 0, {1ll << 40, 1ll << 40}, {0, 0}), "an impossible shape"},
        {"expanded", tensor(12, 0, {1000000, 12}, {0, 1}), "has a tensor of [1000000, 12] over a storage of 12 elements"},
        {"negative size", tensor(12, 0, {-1}, {1}), "an impossible shape"},
        {"negative in one byte", pth_of(p_program(p_dict({{"x", negative}}))), "an impossible shape"},
        {"strides missing", tensor(12, 0, {3, 4}, {1}), "a shape without strides"},
        {"pip", pth_of(p_program(p_dict({{"a", one}, {"_strategy", p_text("cpu fp32")}}))), "converted by the rwkv pip package (it has the key _strategy)"},
        {"two of a name", pth_of(p_program(p_dict({{"a", one}, {"module.a", one}}))), "two tensors are called a"},
        {"a list", pth_of(p_program("](" + one + "e")), "no dictionary of named tensors"},
        {"only numbers", pth_of(p_program(p_dict({{"a", p_int(1)}}))), "no dictionary of named tensors"},
        {"two models", pth_of(p_program(p_dict({{"p", p_dict({{"a", one}})}, {"q", p_dict({{"a", one}})}}))), "2 dictionaries of tensors"},
        {"unknown opcode", pth_of("\x80\2i."), "instruction 0x69"},
        {"endless pickle", pth_of("\x80\2}"), "unexpected end"},
    };
    for (auto &row : table) {
        std::string said = "(no error)";
        try { open_bytes(row.bytes); } catch (const Error &e) { said = e.what(); }
        CHECK(said.find(row.sentence) != said.npos && said.find("in.bin") != said.npos && said.find('\n') == said.npos, "%s: it said: %s", row.what, said.c_str());
    }
    ScratchDir dir;
    put_file(dir / "empty", "");
    CHECK_ERROR(TensorFile(dir / "none"), "none: No such file");
    CHECK_ERROR(TensorFile(dir.path), "it is not a plain file");
    CHECK_ERROR(TensorFile(dir / "empty"), "the file is empty");
    CHECK_ERROR(TensorFile("/dev/null"), "it is not a plain file");
    std::string damaged = good;
    damaged[good.find(le(7.0f))] ^= 1;
    TensorFile f("in.bin", damaged.data(), damaged.size());
    CHECK_ERROR(f.verify(), "the checksum of its entry arch/data/0 is wrong");
}

// What any program may do with a file: open, read all of it, verify. Returns false when it could not be read.
inline bool use_file(const std::string &bytes) {
    bool read = false;
    try {
        TensorFile f("fuzz.bin", bytes.data(), bytes.size());
        std::vector<double> out;
        for (const TensorView &t : f.tensors) {
            CHECK((size_t)t.count() <= bytes.size(), "%s has more elements than the file has bytes", t.name.c_str());
            out.resize(t.count());
            read_tensor(t, out.data());
        }
        read = true;
        f.verify();
    } catch (const Error &e) {
        CHECK(strstr(e.what(), "fuzz.bin") && !strchr(e.what(), '\n'), "it said: %s", e.what());
    }
    return read;
}
TEST("files: 10,000 mutated files are read or refused with a sentence, never more") {
    std::mt19937_64 random(20240520);
    ScratchDir dir;
    float x[5] = {1, 2, 3, 4, 5};
    write_safetensors(dir / "x", {{"step", "5"}}, {{"a", DType::F32, {5}, x}, {"b", DType::BF16, {2, 2}, x}});
    ZipWriter zip64;
    zip64.zip64 = true;
    const std::string st = small_safetensors(), pickle = small_pickle(), header = st.substr(8, load_as<uint64_t>(st.data())), data = st.substr(8 + header.size());
    const std::string whole[] = {st, file_bytes(dir / "x"), pth_of(pickle), pth_of(pickle, zip64)};
    int read = 0, total = 10000;
    for (auto &s : whole) CHECK(use_file(s), "an undamaged file");
    MemoryLimit limit;
    for (int i = 0; i < total; i++) {
        std::string s = i % 6 < 4 ? whole[i % 6] : i % 6 == 4 ? header : pickle;
        mutate(s, random);
        if (i % 6 == 4) s = safetensors_of(s, data);  // damage inside, in a sound envelope
        if (i % 6 == 5) s = pth_of(s);
        read += use_file(s);
    }
    CHECK(read > total / 20 && read < total / 2, "%d of %d could be read", read, total);  // the test still tests something
}

// ------------------------------------------------------------------------------------------------
// writing .pth (what torch.load makes of it was tried by hand with PyTorch 1.13, also beyond 4 GiB)

inline void check_same(const TensorFile &a, const TensorFile &b) {
    CHECK(a.tensors.size() == b.tensors.size(), "%zu tensors, %zu", a.tensors.size(), b.tensors.size());
    for (const TensorView &t : a.tensors) {
        const TensorView &u = b.get(t.name);
        CHECK(t.dtype == u.dtype && t.shape == u.shape && row_major(t) == row_major(u), "%s has changed", t.name.c_str());
    }
}
TEST("pth_write: everything torch.save can do goes .pth -> .safetensors -> .pth -> .safetensors bit by bit") {
    ScratchDir dir;
    TensorFile edge("tests/data/edge.pth");
    write_safetensors(dir / "1.safetensors", {}, edge.tensors);
    TensorFile one(dir / "1.safetensors");
    write_pth(dir / "2.pth", one.tensors);
    TensorFile two(dir / "2.pth");
    CHECK(two.verify(), "no checksums");
    check_same(edge, two);
    write_safetensors(dir / "3.safetensors", {}, two.tensors);
    CHECK(file_bytes(dir / "1.safetensors") == file_bytes(dir / "3.safetensors"), "the second .safetensors is another one");
    write_pth(dir / "4.pth", edge.tensors);  // views with offsets and strides, tied storages
    write_pth(dir / "5.pth", edge.tensors);
    check_same(edge, TensorFile(dir / "4.pth"));
    CHECK(file_bytes(dir / "4.pth") == file_bytes(dir / "5.pth"), "written twice, two different files");
    write_pth(dir / "none.pth", {});
    CHECK(TensorFile(dir / "none.pth").tensors.empty(), "tensors from nowhere");
}
TEST("pth_write: zip64 fields, 70,000 tensors, every entry at a multiple of 64, numbers beyond 32 bits") {
    ScratchDir dir;
    TensorFile edge("tests/data/edge.pth");
    for (uint64_t most : {1, 60, 3000, 30000}) {
        write_pth(dir / "z.pth", edge.tensors, own_bytes(), most);
        TensorFile z(dir / "z.pth");
        check_same(edge, z);
        CHECK(z.verify(), "no checksums");
    }
    std::string s = file_bytes(dir / "z.pth");
    TensorFile z(dir / "z.pth");
    Zip zip(z);
    for (auto &e : zip.entries) {
        uint64_t at = e.second.header + 30 + load_as<uint16_t>(s.data() + e.second.header + 26) + load_as<uint16_t>(s.data() + e.second.header + 28);
        CHECK(at % 64 == 0, "%s begins at %llu", e.first.c_str(), (unsigned long long)at);
    }
    float x = 3;
    std::vector<TensorView> many;
    for (int i = 0; i < 70000; i++) many.push_back({std::to_string(i), DType::F32, {1}, &x});
    write_pth(dir / "many.pth", many);
    CHECK(TensorFile(dir / "many.pth").tensors.size() == 70000, "some are missing");
    CHECK(pickle_int(1ll << 40) == std::string("\x8a\x08") + le<int64_t>(1ll << 40) && pickle_int(-1) == "J" + le<int32_t>(-1), "a number in the pickle");
}
TEST("pth_write: two tensors of one name and a full disk are sentences; the old file stays") {
    ScratchDir dir;
    std::vector<float> x(2000, 1.0f);
    write_pth(dir / "x.pth", {{"a", DType::F32, {5}, x.data()}});
    std::string before = file_bytes(dir / "x.pth");
    CHECK_ERROR(write_pth(dir / "x.pth", {{"a", DType::F32, {5}, x.data()}, {"a", DType::F32, {5}, x.data()}}), "two tensors of the name a");
    CHECK(with_file_limit(4000, [&] { return says("File too large", [&] { write_pth(dir / "x.pth", {{"a", DType::F32, {2000}, x.data()}}); }); }) == 0, "no such sentence");
    CHECK(file_bytes(dir / "x.pth") == before && !file_exists(dir / "x.pth.tmp"), "the old file has changed, or a temporary one is there");
}

// ------------------------------------------------------------------------------------------------
// writing

TEST("files: on a full disk the old file stays, no temporary does, and a sentence says it") {
    ScratchDir dir;
    std::vector<float> x(1000, 1.0f);
    write_safetensors(dir / "x", {}, {{"a", DType::F32, {5}, x.data()}});
    std::string before = file_bytes(dir / "x");
    auto write = [&] { write_safetensors(dir / "x", {}, {{"a", DType::F32, {1000}, x.data()}}); };
    CHECK(with_file_limit(2000, [&] { return says("/x: File too large", write); }) == 0, "no such sentence");
    CHECK(file_bytes(dir / "x") == before, "the old file has changed");
    CHECK(!file_exists(dir / "x.tmp"), "the temporary file is still there");
    CHECK_ERROR(write_safetensors(dir / "none/x", {}, {}), "none/x: No such file");
    CHECK_ERROR(write_safetensors(dir.path, {}, {}), "something that is not a file");
    CHECK_ERROR(write_safetensors(dir / "x", {}, {{"a", DType::F32, {1}, x.data()}, {"a", DType::F32, {1}, x.data()}}), "two tensors of the name a");
}

// A checkpoint whose every number is `version`.
inline void save_version(const std::string &out, int64_t step, int64_t version, int64_t keep, int n = 1000) {
    std::vector<int64_t> x(n, version);
    std::vector<TensorView> t = {{"x", DType::I64, {n}, x.data()}};
    save_checkpoint(out, step, t, {{"version", std::to_string(version)}}, t, {}, keep);
}
inline int64_t version_of(const std::string &checkpoint) {  // -1 unless it is whole and of one version
    int64_t version = -1;
    if (checkpoint.empty()) return -1;
    for (const char *name : checkpoint_files) {
        TensorFile f(checkpoint + "/" + name);
        const TensorView &t = f.get("x");
        const int64_t *x = (const int64_t *)t.data;
        if (version < 0) version = x[0];
        for (int64_t i = 0; i < t.count(); i++) if (x[i] != version) return -1;
    }
    return version;
}
inline std::string listing(const std::string &directory) {
    std::vector<std::string> names;
    for (auto &e : std::filesystem::directory_iterator(directory)) names.push_back(e.path().filename().string());
    std::sort(names.begin(), names.end());
    std::string s;
    for (auto &n : names) s += (s.empty() ? "" : " ") + n;
    return s;
}
struct QuietStderr {  // warnings that a test provokes; text() is what was said
    FILE *file = tmpfile();
    int saved = dup(2);
    QuietStderr() { fflush(stderr); dup2(fileno(file), 2); }
    ~QuietStderr() { fflush(stderr); dup2(saved, 2); close(saved); fclose(file); }
    std::string text() {
        fflush(stderr);
        char buffer[4096];
        ssize_t n = pread(fileno(file), buffer, sizeof buffer, 0);
        return std::string(buffer, n > 0 ? n : 0);
    }
};

TEST("checkpoint: the newest `keep` stay, in order, and saving a step again replaces it") {
    ScratchDir dir;
    std::string out = dir / "a/b/run";
    CHECK(latest_checkpoint(out).empty(), "there is no directory yet");
    for (int step = 1; step <= 5; step++) save_version(out, step * 500, step, 3);
    CHECK(listing(out) == "step_00001500 step_00002000 step_00002500", "%s", listing(out).c_str());
    CHECK(listing(out + "/step_00002500") == "model.safetensors train_state.safetensors", "%s", listing(out + "/step_00002500").c_str());
    CHECK(latest_checkpoint(out) == out + "/step_00002500" && version_of(latest_checkpoint(out)) == 5, "%s", latest_checkpoint(out).c_str());
    save_version(out, 2500, 6, 2);
    CHECK(listing(out) == "step_00002000 step_00002500" && version_of(latest_checkpoint(out)) == 6, "%s", listing(out).c_str());
    save_version(out, 123456789012, 7, 0);
    CHECK(listing(out) == "step_00002000 step_00002500 step_123456789012" && version_of(latest_checkpoint(out)) == 7, "%s", listing(out).c_str());
    save_version(out, 3000, 8, 1);  // gone back: what comes later is not ours to delete
    CHECK(listing(out) == "step_00003000 step_123456789012", "%s", listing(out).c_str());
    put_file(dir / "file", "x");
    CHECK_ERROR(save_version(dir / "file", 1, 1, 1), "/file");
    CHECK_ERROR(latest_checkpoint(dir / "file"), "/file");
}

TEST("checkpoint: what is not named like ours is never deleted") {
    ScratchDir dir;
    std::string out = dir / "run";
    save_version(out, 1, 1, 1);
    for (const char *name : {"step_final", "step_2", "step_00000003x", "step_00000004.bak", ".tmp_other", "log"}) {
        std::filesystem::create_directory(out + "/" + name);
        put_file(out + "/" + name + "/model.safetensors", "mine");
    }
    put_file(out + "/step_00000001/notes.txt", "mine");  // a checkpoint with a stranger's file stays whole
    std::filesystem::create_directory(dir / "elsewhere");
    put_file(dir / "elsewhere/model.safetensors", "mine");
    std::filesystem::create_directory_symlink(dir / "elsewhere", out + "/step_00000000");
    std::filesystem::create_directory(out + "/.tmp_step_00000007");  // a temporary of ours goes
    put_file(out + "/.tmp_step_00000007/model.safetensors", "half");
    QuietStderr quiet;
    save_version(out, 10, 2, 1);
    save_version(out, 11, 3, 1);
    const char *expected = ".tmp_other log step_00000000 step_00000001 step_00000003x step_00000004.bak step_00000011 step_2 step_final";
    CHECK(listing(out) == expected, "%s", listing(out).c_str());
    CHECK(version_of(out + "/step_00000001") == 1 && file_bytes(out + "/step_00000001/notes.txt") == "mine", "a checkpoint lost a file");
    CHECK(file_bytes(dir / "elsewhere/model.safetensors") == "mine", "a file behind a link is gone");
    CHECK(quiet.text().find("cannot remove the old checkpoint") != std::string::npos, "%s", quiet.text().c_str());
}

TEST("checkpoint: bit rot in the newest falls back to the one before, which it names") {
    for (int file = 0; file < 2; file++)
        for (int kind = 0; kind < 4; kind++) {
            ScratchDir dir;
            save_version(dir.path, 1, 1, 5), save_version(dir.path, 2, 2, 5);
            std::string path = dir / "step_00000002/" + checkpoint_files[file], bytes = file_bytes(path);
            if (kind == 0) bytes[bytes.size() - 777] ^= 4;
            if (kind == 1) bytes.resize(bytes.size() / 2);
            if (kind == 2) bytes[20] ^= 4;
            if (kind == 3) std::filesystem::remove(path);
            else put_file(path, bytes);
            QuietStderr quiet;
            CHECK(version_of(latest_checkpoint(dir.path)) == 1, "file %d, kind %d", file, kind);
            CHECK(quiet.text().find("step_00000002") != std::string::npos, "it said: %s", quiet.text().c_str());
            if (kind != 1 && kind != 3) continue;  // a save looks at the sizes only: it does not read the old ones again
            save_version(dir.path, 3, 3, 2);       // the damaged one does not count as one that is kept
            CHECK(listing(dir.path) == "step_00000001 step_00000002 step_00000003", "%s", listing(dir.path).c_str());
            save_version(dir.path, 4, 4, 2);
            CHECK(listing(dir.path) == "step_00000003 step_00000004", "%s", listing(dir.path).c_str());
        }
}

TEST("checkpoint: a full disk is a sentence and leaves the old one") {
    for (size_t limit : {10u, 300u, 5000u, 9000u}) {
        ScratchDir dir;
        save_version(dir.path, 1, 1, 1);
        auto save = [&] { save_version(dir.path, 2, 2, 1, 2000); };
        CHECK(with_file_limit(limit, [&] { return says("File too large", save); }) == 0, "no such sentence at %zu", limit);
        CHECK(listing(dir.path) == "step_00000001" && version_of(latest_checkpoint(dir.path)) == 1, "%s", listing(dir.path).c_str());
    }
}

// Lets a child save version 2 of `step` and kills it at its stop number `n` (it stops before and after each system
// call). True when it was killed, false when it finished first.
inline bool killed_at(int n, const std::string &out, int64_t step) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr)) _exit(9);
        raise(SIGSTOP);
        try { save_version(out, step, 2, 1, 100); } catch (const std::exception &e) { fprintf(stderr, "%s\n", e.what()); _exit(1); }
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status)) SKIP("this machine does not let us trace a process");
    for (; n >= 0; n--) {
        if (ptrace(PTRACE_SYSCALL, child, nullptr, nullptr)) SKIP("this machine does not let us trace a process");
        waitpid(child, &status, 0);
        if (!WIFSTOPPED(status)) break;
    }
    if (!WIFSTOPPED(status)) {
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with status %x", status);
        return false;
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return true;
}
TEST("checkpoint: kill -9 before or after any system call leaves the old one or the new one") {
    for (int64_t step : {200, 100}) {  // a new step, the same step again
        bool killed = true;
        int n = 0, before = 0;
        for (; killed && n < 2000; n++) {
            ScratchDir dir;
            save_version(dir.path, 100, 1, 1, 100);
            killed = killed_at(n, dir.path, step);
            int64_t version = version_of(latest_checkpoint(dir.path));
            CHECK(version == 1 || version == 2, "killed at stop %d: %s", n, listing(dir.path).c_str());
            before += version == 1;
            save_version(dir.path, 200, 3, 1);  // and the next save clears up
            CHECK(listing(dir.path) == "step_00000200" && version_of(latest_checkpoint(dir.path)) == 3, "after stop %d: %s", n, listing(dir.path).c_str());
        }
        CHECK(!killed && before > 20 && before < n, "%d stops, %d of them before the rename", n, before);
    }
}
TEST("checkpoint: kill -9 after any time leaves the newest that was finished") {
    ScratchDir dir;
    std::mt19937_64 random(3);
    for (int round = 0, last = 0; round < 30; round++) {
        int report[2];
        CHECK(pipe(report) == 0, "pipe");
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            try {
                for (int step = last + 1;; step++) {
                    save_version(dir.path, step, step, 2, 20000);
                    if (write(report[1], &step, sizeof step) < 0) break;
                }
            } catch (const std::exception &e) { fprintf(stderr, "%s\n", e.what()); }
            _exit(1);
        }
        close(report[1]);
        usleep(random() % 20000);
        kill(child, SIGKILL);
        waitpid(child, nullptr, 0);
        int finished = last, step;
        while (::read(report[0], &step, sizeof step) == sizeof step) finished = step;
        close(report[0]);
        std::string latest = latest_checkpoint(dir.path);
        int64_t version = finished || !latest.empty() ? version_of(latest) : 0;
        CHECK(version == finished || version == finished + 1, "round %d: step %d was finished, %lld is there", round, finished, (long long)version);
        last = (int)version;
    }
}
