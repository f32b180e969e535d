/* rwkv/safetensors.h: reading and writing .safetensors files. Host only.

       u64 little-endian   n, the length of the header
       n bytes of JSON     {"__metadata__": {"key": "text", ...},
                            "emb.weight": {"dtype": "BF16", "shape": [65536, 768], "data_offsets": [begin, end]}, ...}
       the data            row-major, little-endian; offsets count from the end of the header; no gaps, no overlap

   What we write is a function of what is given: no times, no names of machines. Tensors keep their order, except
   that wider types come first (as in everybody's files), so that every tensor is aligned. The header is padded
   with spaces until the data begin at a multiple of 64 bytes.

   __metadata__ of our files has "xxh64": XXH64 (seed 0, 16 hex digits) of the whole file in which these 16 digits
   are '0'. So a flipped bit is found wherever it is, in a weight, in a name, or in the checksum itself.

   A file appears under its name complete or not at all (rwkv/file.h).
   defines: Xxh64, looks_like_safetensors, read_safetensors, verify_safetensors, write_safetensors */
#pragma once
#include "json.h"
#include "tensor_file.h"
#include <algorithm>
#include <tuple>

// ------------------------------------------------------------------------------------------------
// XXH64, from its public specification: four lanes of 8 bytes, then what is left, then an avalanche
class Xxh64 {
    static constexpr uint64_t P1 = 0x9E3779B185EBCA87, P2 = 0xC2B2AE3D27D4EB4F, P3 = 0x165667B19E3779F9,
                              P4 = 0x85EBCA77C2B2AE63, P5 = 0x27D4EB2F165667C5;
    uint64_t lane[4] = {P1 + P2, P2, 0, 0 - P1}, total = 0;
    uint8_t held[32];  // total % 32 bytes that do not fill a stripe yet

    static uint64_t rotate(uint64_t x, int n) { return x << n | x >> (64 - n); }
    static uint64_t round(uint64_t a, uint64_t x) { return rotate(a + x * P2, 31) * P1; }
    const uint8_t *stripes(const uint8_t *p, size_t n) {
        uint64_t a = lane[0], b = lane[1], c = lane[2], d = lane[3];
        for (; n; n--, p += 32)
            a = round(a, load_as<uint64_t>(p)), b = round(b, load_as<uint64_t>(p + 8)), c = round(c, load_as<uint64_t>(p + 16)), d = round(d, load_as<uint64_t>(p + 24));
        lane[0] = a, lane[1] = b, lane[2] = c, lane[3] = d;
        return p;
    }

public:
    void add(const void *data, size_t n) {
        if (n == 0) return;
        const uint8_t *p = (const uint8_t *)data;
        size_t have = total % 32;
        total += n;
        if (have) {
            size_t take = std::min(n, 32 - have);
            memcpy(held + have, p, take);
            p += take, n -= take;
            if (have + take < 32) return;
            stripes(held, 1);
        }
        p = stripes(p, n / 32);
        memcpy(held, p, n % 32);
    }
    uint64_t digest() const {
        uint64_t h = P5;
        if (total >= 32) {
            h = rotate(lane[0], 1) + rotate(lane[1], 7) + rotate(lane[2], 12) + rotate(lane[3], 18);
            for (uint64_t l : lane) h = (h ^ round(0, l)) * P1 + P4;
        }
        h += total;
        const uint8_t *p = held, *end = held + total % 32;
        for (; end - p >= 8; p += 8) h = rotate(h ^ round(0, load_as<uint64_t>(p)), 27) * P1 + P4;
        for (; end - p >= 4; p += 4) h = rotate(h ^ load_as<uint32_t>(p) * P1, 23) * P2 + P3;
        for (; p < end; p++) h = rotate(h ^ *p * P5, 11) * P1;
        h = (h ^ h >> 33) * P2;
        h = (h ^ h >> 29) * P3;
        return h ^ h >> 32;
    }
};

// ------------------------------------------------------------------------------------------------
// reading

constexpr uint64_t SAFETENSORS_MAX_HEADER = 16 << 20;  // 150,000 tensors; parsed JSON takes about 100 times its text

inline bool looks_like_safetensors(std::string_view head) {
    if (head.size() <= 8 || head[8] != '{') return false;
    uint64_t n = load_as<uint64_t>(head.data());
    return n < 1ull << 32 || __builtin_bswap64(n) < 1ull << 32;  // big-endian ones get their own sentence
}

// One entry of the header: the view, still without data, and where they begin.
inline std::pair<uint64_t, TensorView> safetensors_entry(const TensorFile &f, const std::string &name, const Json &entry) {
    auto damaged = [&](const char *what) { fail("%s: %s has %s in the header: the file is damaged", f.path.c_str(), printable(name).c_str(), what); };
    auto whole = [&](const Json &j) { int64_t n = j.as_int(); if (n < 0) damaged("a negative number"); return n; };
    const std::string &type = entry.at("dtype").as_text();
    int d = 0;
    while (d < DTYPES && type != dtypes[d].name) d++;
    if (d == DTYPES)
        fail("%s: %s is of type %s, which is not supported; convert it to F32, F16 or BF16", f.path.c_str(), printable(name).c_str(), printable(type).c_str());
    const Json &shape = entry.at("shape"), &offsets = entry.at("data_offsets");
    shape.expect(Json::Array);
    std::vector<int64_t> sizes;
    for (const Json &n : shape.items) sizes.push_back(whole(n));
    uint64_t begin = whole(offsets.at(0)), end = whole(offsets.at(1));
    if (offsets.items.size() != 2 || end < begin) damaged("data_offsets that are not [begin, end]");
    if (!sane_shape(sizes, (end - begin) / dtype_size((DType)d))) damaged("a shape that does not fit its data_offsets");
    TensorView t(name, (DType)d, std::move(sizes), nullptr);
    if (t.bytes() != end - begin) damaged("a shape that does not fit its data_offsets");
    return {begin, std::move(t)};
}

inline void read_safetensors(TensorFile &f) {
    typedef unsigned long long ull;
    const char *path = f.path.c_str();
    uint64_t n = load_as<uint64_t>(f.bytes), data = 8 + n, expected = data;
    if (n >= 1ull << 32) fail("%s is a big-endian safetensors file, which is not supported", path);
    if (data > f.size)
        fail("%s is cut short: its header alone should end at byte %llu, but the file has %zu bytes; copy or download it again", path, (ull)data, f.size);
    if (n > SAFETENSORS_MAX_HEADER) fail("%s has a header of %llu bytes; more than %llu are not supported", path, (ull)n, (ull)SAFETENSORS_MAX_HEADER);
    Json header = parse_json(std::string_view((const char *)f.bytes + 8, n), f.path.c_str());
    std::vector<std::pair<uint64_t, TensorView>> entries;
    for (size_t i = 0; i < header.keys.size(); i++) {
        const Json &entry = header.items[i];
        entry.expect(Json::Object);
        if (header.keys[i] == "__metadata__") {
            for (size_t k = 0; k < entry.keys.size(); k++) f.metadata[entry.keys[k]] = entry.items[k].as_text();
        } else {
            entries.push_back(safetensors_entry(f, header.keys[i], entry));
            expected = std::max(expected, data + entries.back().first + entries.back().second.bytes());
        }
    }
    if (expected > f.size) fail("%s is cut short: it should have %llu bytes, but has %zu; copy or download it again", path, (ull)expected, f.size);
    std::sort(entries.begin(), entries.end(), [](const auto &a, const auto &b) {  // equal offsets: only one is not empty
        return std::make_tuple(a.first, a.second.bytes(), std::ref(a.second.name)) < std::make_tuple(b.first, b.second.bytes(), std::ref(b.second.name));
    });
    uint64_t at = 0;
    for (auto &[begin, t] : entries) {
        if (begin != at)
            fail("%s: the data of %s %s: the file is damaged", path, printable(t.name).c_str(), begin < at ? "overlap those of another tensor" : "come after a gap");
        t.data = f.bytes + data + begin, at += t.bytes();
        f.add(std::move(t));
    }
    if (data + at != f.size) fail("%s has %llu bytes after its last tensor: the file is damaged", path, (ull)(f.size - data - at));
}

// Offset of the 16 digits of the checksum in the header, 0 if there are none. The key in this form, with an
// unescaped quote before the colon, can only stand where it means itself.
inline size_t safetensors_checksum_at(std::string_view header) {
    size_t at = header.find("\"xxh64\":\"");
    return at == header.npos || header.size() - at < 9 + 16 ? 0 : at + 9;
}
inline bool verify_safetensors(const TensorFile &f) {
    auto stored = f.metadata.find("xxh64");
    if (stored == f.metadata.end()) return false;
    size_t at = safetensors_checksum_at({(const char *)f.bytes, (size_t)(8 + load_as<uint64_t>(f.bytes))});
    Xxh64 hash;
    if (at) hash.add(f.bytes, at), hash.add("0000000000000000", 16), hash.add(f.bytes + at + 16, f.size - at - 16);
    std::string computed = format("%016llx", (unsigned long long)hash.digest());
    if (!at || stored->second != computed)
        fail("%s is damaged, or was rewritten by another program: its checksum is %s, but should be %s",
             f.path.c_str(), computed.c_str(), printable(stored->second).c_str());
    return true;
}

// ------------------------------------------------------------------------------------------------
// writing

inline std::string safetensors_header(const std::map<std::string, std::string> &metadata, const std::vector<const TensorView *> &tensors) {
    std::string h = "{\"__metadata__\":{";
    for (auto &m : metadata) h += (h.back() == '{' ? "" : ",") + json_quote(m.first) + ":" + json_quote(m.second);
    h += "}";
    std::map<std::string, bool> seen;
    size_t offset = 0;
    for (const TensorView *t : tensors) {
        if (t->name == "__metadata__" || seen[t->name]) fail("cannot write two tensors of the name %s", printable(t->name).c_str());
        seen[t->name] = true;
        h += "," + json_quote(t->name) + ":{\"dtype\":\"" + dtype_name(t->dtype) + "\",\"shape\":[";
        for (size_t d = 0; d < t->shape.size(); d++) h += (d ? "," : "") + std::to_string(t->shape[d]);
        h += "],\"data_offsets\":[" + std::to_string(offset) + "," + std::to_string(offset + t->bytes()) + "]}";
        offset += t->bytes();
    }
    h += "}";
    h.resize((8 + h.size() + 63) / 64 * 64 - 8, ' ');
    if (h.size() > SAFETENSORS_MAX_HEADER) fail("cannot write %zu tensors: their header has more than %llu bytes", tensors.size(), (unsigned long long)SAFETENSORS_MAX_HEADER);
    uint64_t n = h.size();
    return std::string((const char *)&n, 8) + h;
}

// Tensors of the widest types come first, so that all are aligned. Each is asked for when its turn comes, so a model need
// not be in memory as a whole; the checksum is put into the head at the end.
inline void write_safetensors(const std::string &path, std::map<std::string, std::string> metadata, const std::vector<TensorView> &tensors, TensorBytes bytes = own_bytes()) {
    std::vector<const TensorView *> order;
    for (const TensorView &t : tensors) order.push_back(&t);
    std::stable_sort(order.begin(), order.end(), [](const TensorView *a, const TensorView *b) { return dtype_size(a->dtype) > dtype_size(b->dtype); });
    metadata["xxh64"] = "0000000000000000";
    std::string header = safetensors_header(metadata, order);
    Xxh64 hash;
    OutputFile out(path);
    auto put = [&](std::string_view s) { hash.add(s.data(), s.size()), out.write(s.data(), s.size()); };
    put(header);
    for (const TensorView *t : order) put(bytes(*t));
    header.replace(safetensors_checksum_at(header), 16, format("%016llx", (unsigned long long)hash.digest()));
    out.rewrite_head(header.data(), header.size());
    out.commit();
}
