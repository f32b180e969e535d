/* rwkv/pth.h: reading PyTorch's .pth files. Host only; nothing in the file is ever executed.

   A .pth is a zip archive, not compressed:
       NAME/data.pkl        a pickle: the dictionary of tensors, each (storage, offset, shape, strides)
       NAME/data/KEY        the bytes of one storage, which several tensors may share
   Sizes come from the central directory at the end (in the local headers they are 0), the place of the data from
   the local header. Above 4 GiB the fields are -1 and the true ones in the zip64 extension.

   The pickle is a program for a stack machine. The machine below knows the instructions that a dictionary of
   tensors needs; of the functions that a pickle may call (GLOBAL) it knows a list of names (pickle_globals), each
   done by hand. Any other is an Error that names it.

   Trainers save {"model": {...}, "optimizer": {...}}: the dictionary with the weights is found; the prefixes
   _forward_module. _orig_mod. and module., which wrappers add, are dropped.   defines: read_pth, verify_pth */
#pragma once
#include "tensor_file.h"
#include "utf8.h"
#include <algorithm>
#include <array>
#include <deque>
#include <unordered_map>

// ------------------------------------------------------------------------------------------------
// zip

struct ZipEntry { uint64_t size, header; uint32_t crc; int method, flags; };  // header: where the local one is

class Zip {
    const TensorFile &f;
    [[noreturn]] void damaged(const char *what) const { fail("%s is damaged: %s; copy or download it again", f.path.c_str(), what); }
    template<class T> T at(uint64_t offset) const {
        if (offset > f.size || f.size - offset < sizeof(T)) damaged("its zip directory points outside the file");
        return load_as<T>(f.bytes + offset);
    }
    uint64_t end_record() const {  // 22 bytes and a comment of up to 65535
        for (uint64_t i = 22; i <= f.size && i <= 22 + 65535; i++)
            if (load_as<uint32_t>(f.bytes + f.size - i) == 0x06054b50 && load_as<uint16_t>(f.bytes + f.size - i + 20) == i - 22) return f.size - i;
        fail("%s is cut short: it begins like a .pth, but after %zu bytes the directory that ends one is missing; copy or download it again",
             f.path.c_str(), f.size);
    }
    // One entry of the central directory at `p`; returns the next one's place.
    uint64_t read_entry(uint64_t p) {
        if (at<uint32_t>(p) != 0x02014b50) damaged("its zip directory is broken");
        uint64_t name = p + 46, extra = name + at<uint16_t>(p + 28), comment = extra + at<uint16_t>(p + 30), next = comment + at<uint16_t>(p + 32);
        if (next > f.size) damaged("its zip directory points outside the file");
        ZipEntry e = {at<uint32_t>(p + 24), at<uint32_t>(p + 42), at<uint32_t>(p + 16), at<uint16_t>(p + 10), at<uint16_t>(p + 8)};
        uint64_t packed = at<uint32_t>(p + 20);
        for (uint64_t x = extra, n; x + 4 <= comment; x += n) {
            n = 4 + at<uint16_t>(x + 2);
            if (at<uint16_t>(x) != 1) continue;  // zip64: 8 bytes for each field that is -1, in this order
            uint64_t field = x + 4;
            for (uint64_t *v : {&e.size, &packed, &e.header}) if (*v == 0xffffffff) *v = at<uint64_t>(field), field += 8;
        }
        std::string key((const char *)f.bytes + name, extra - name);
        if (!entries.emplace(key, e).second) damaged("its zip directory has an entry twice");
        return next;
    }

public:
    std::map<std::string, ZipEntry> entries;

    explicit Zip(const TensorFile &f) : f(f) {
        uint64_t end = end_record(), count = at<uint16_t>(end + 10), size = at<uint32_t>(end + 12), p = at<uint32_t>(end + 16);
        if (end >= 20 && at<uint32_t>(end - 20) == 0x07064b50) {  // zip64: a locator before the end record
            uint64_t end64 = at<uint64_t>(end - 20 + 8);
            if (at<uint32_t>(end64) != 0x06064b50) damaged("its zip64 directory is not where it should be");
            count = at<uint64_t>(end64 + 32), size = at<uint64_t>(end64 + 40), p = at<uint64_t>(end64 + 48);
        }
        if (p > end || size > end - p) damaged("its zip directory points outside the file");
        for (; count; count--) p = read_entry(p);  // ends at the latest with the file
    }
    // The bytes of an entry.
    std::string_view data(const std::string &name, const ZipEntry &e) const {
        if (e.flags & 1) fail("%s: its entry %s is encrypted; save it again with torch.save", f.path.c_str(), printable(name).c_str());
        if (e.method) fail("%s: its entry %s is compressed, which torch.save never does; load it in PyTorch and torch.save it", f.path.c_str(), printable(name).c_str());
        if (at<uint32_t>(e.header) != 0x04034b50) damaged("its zip directory points to no entry");
        uint64_t begin = e.header + 30 + at<uint16_t>(e.header + 26) + at<uint16_t>(e.header + 28);
        if (begin > f.size || e.size > f.size - begin) damaged("an entry of the zip archive is longer than the file");
        return {(const char *)f.bytes + begin, (size_t)e.size};
    }
};

// CRC-32 as zip has it, 8 bytes at a time: table[k][b] is the effect of byte b, k bytes before the end.
inline uint32_t crc32(std::string_view s) {
    static const auto table = [] {
        std::array<std::array<uint32_t, 256>, 8> t;
        for (uint32_t b = 0; b < 256; b++) {
            t[0][b] = b;
            for (int k = 0; k < 8; k++) t[0][b] = t[0][b] >> 1 ^ (t[0][b] & 1 ? 0xEDB88320u : 0);
        }
        for (int k = 1; k < 8; k++) for (uint32_t b = 0; b < 256; b++) t[k][b] = t[k - 1][b] >> 8 ^ t[0][t[k - 1][b] & 255];
        return t;
    }();
    uint32_t c = ~0u;
    size_t i = 0;
    for (; i + 8 <= s.size(); i += 8) {
        uint64_t x = load_as<uint64_t>(s.data() + i) ^ c;
        c = 0;
        for (int k = 0; k < 8; k++) c ^= table[7 - k][x >> 8 * k & 255];
    }
    for (; i < s.size(); i++) c = c >> 8 ^ table[0][(c ^ (uint8_t)s[i]) & 255];
    return ~c;
}

// ------------------------------------------------------------------------------------------------
// pickle

enum class Call : uint8_t { DICT, FIRST, TENSOR, STORAGE };  // FIRST: the result is the first argument
struct PickleGlobal { const char *name; Call call; DType dtype; };
inline const PickleGlobal pickle_globals[] = {
    {"collections.OrderedDict", Call::DICT, {}},
    {"torch._utils._rebuild_tensor_v2", Call::TENSOR, {}},
    {"torch._utils._rebuild_tensor", Call::TENSOR, {}},
    {"torch._utils._rebuild_parameter", Call::FIRST, {}},
    {"torch._utils._rebuild_parameter_with_state", Call::FIRST, {}},
    {"torch.Size", Call::FIRST, {}},
    {"torch.DoubleStorage", Call::STORAGE, DType::F64},
    {"torch.FloatStorage", Call::STORAGE, DType::F32},
    {"torch.HalfStorage", Call::STORAGE, DType::F16},
    {"torch.BFloat16Storage", Call::STORAGE, DType::BF16},
    {"torch.LongStorage", Call::STORAGE, DType::I64},
    {"torch.IntStorage", Call::STORAGE, DType::I32},
    {"torch.ShortStorage", Call::STORAGE, DType::I16},
    {"torch.CharStorage", Call::STORAGE, DType::I8},
    {"torch.ByteStorage", Call::STORAGE, DType::U8},
    {"torch.BoolStorage", Call::STORAGE, DType::BOOL},
};

struct PickleValue {
    enum Kind : uint8_t { Mark, None, Bool, Int, Float, Text, Tuple, List, Dict, Global, Storage, Tensor } kind;
    int64_t number = 0;            // Int, Bool; Global: index in pickle_globals; Storage: elements; Tensor: index in `tensors`
    DType dtype = DType::F32;      // Storage
    std::string_view text = {};    // Text; Storage: its key
    std::vector<int> items = {};   // indices of values; Dict: key, value, key, value, ...
};

class Pickle {
    typedef PickleValue V;
    const TensorFile &f;
    const Zip &zip;
    std::string root;  // "NAME/"
    std::string_view code;
    size_t i = 0;
    std::vector<int> stack;
    std::unordered_map<uint32_t, int> memo;

    [[noreturn]] void damaged(const char *what) const { fail("%s: its data.pkl is damaged or not from torch.save: %s at byte %zu", f.path.c_str(), what, i); }
    std::string_view take(uint64_t n) {
        if (n > code.size() - i) damaged("unexpected end");
        i += n;
        return code.substr(i - n, n);
    }
    template<class T> T take() { return load_as<T>(take(sizeof(T)).data()); }
    std::string_view line() {
        size_t end = code.find('\n', i);
        if (end == code.npos) damaged("unexpected end");
        std::string_view s = code.substr(i, end - i);
        i = end + 1;
        return s;
    }
    void push(V v) { values.push_back(std::move(v)), stack.push_back((int)values.size() - 1); }
    void push_int(int64_t n) { push({V::Int, n}); }
    int top() const { if (stack.empty()) damaged("empty stack"); return stack.back(); }
    int pop() { int v = top(); stack.pop_back(); return v; }
    V &top_as(V::Kind kind) { V &v = values[top()]; if (v.kind != kind) damaged("wrong kind of value"); return v; }
    const V &item(const V &v, size_t k, V::Kind kind) const {
        if (k >= v.items.size() || values[v.items[k]].kind != kind) damaged("wrong kind of value");
        return values[v.items[k]];
    }
    std::vector<int> pop_items(size_t n) {
        if (n > stack.size()) damaged("empty stack");
        std::vector<int> v(stack.end() - n, stack.end());
        stack.resize(stack.size() - n);
        return v;
    }
    std::vector<int> pop_to_mark() {
        size_t n = 0;
        while (n < stack.size() && values[stack[stack.size() - 1 - n]].kind != V::Mark) n++;
        if (n == stack.size()) damaged("no mark");
        std::vector<int> v = pop_items(n);
        stack.pop_back();
        return v;
    }
    void extend(V::Kind kind, const std::vector<int> &more) {
        if (kind == V::Dict && more.size() % 2) damaged("a key without a value");
        std::vector<int> &items = top_as(kind).items;
        items.insert(items.end(), more.begin(), more.end());
    }
    void remember(uint32_t slot) { memo[slot] = top(); }
    void recall(uint32_t slot) {
        auto m = memo.find(slot);
        if (m == memo.end()) damaged("an unknown reference");
        stack.push_back(m->second);
    }
    void push_global(std::string_view module, std::string_view name) {
        std::string full = std::string(module) + "." + std::string(name);
        for (const PickleGlobal &g : pickle_globals) if (full == g.name) return push({V::Global, &g - pickle_globals});
        fail("%s calls %s, which is not run here; load it in PyTorch and save only model.state_dict(), with torch.save", f.path.c_str(), printable(full).c_str());
    }
    void push_long(std::string_view bytes) {  // little-endian two's complement
        int64_t n = 0;
        for (size_t k = 0; k < bytes.size() && k < 8; k++) n |= (int64_t)((uint64_t)(uint8_t)bytes[k] << 8 * k);
        if (bytes.size() > 8) return push({V::None});  // a random seed, or the like: no tensor needs it
        if (!bytes.empty() && bytes.size() < 8 && (bytes.back() & 0x80)) n -= (int64_t)1 << 8 * bytes.size();
        push_int(n);
    }
    void push_storage(const V &id) {  // ('storage', class, key, device, elements)
        if (item(id, 0, V::Text).text != "storage") damaged("an unknown reference");
        const PickleGlobal &g = pickle_globals[item(id, 1, V::Global).number];
        if (g.call != Call::STORAGE) damaged("a storage without a type");
        push({V::Storage, item(id, 4, V::Int).number, g.dtype, item(id, 2, V::Text).text});
    }
    void push_tensor(const V &args);
    void call(const V &function, const V &args) {
        Call c = function.kind == V::Global ? pickle_globals[function.number].call : Call::STORAGE;
        if (args.kind != V::Tuple || c == Call::STORAGE) damaged("a call of what is no function");
        if (c == Call::TENSOR) return push_tensor(args);
        if (c == Call::DICT) return push({V::Dict});
        if (args.items.empty()) damaged("a call without arguments");
        stack.push_back(args.items[0]);
    }
    bool step();

public:
    std::deque<V> values;
    std::vector<TensorView> tensors;

    Pickle(const TensorFile &f, const Zip &zip, std::string root, std::string_view code) : f(f), zip(zip), root(std::move(root)), code(code) {}
    const V &run() {
        while (step()) {}
        return values[top()];
    }
};

// _rebuild_tensor_v2(storage, offset, shape, stride, ...)
inline void Pickle::push_tensor(const V &args) {
    const V &storage = item(args, 0, V::Storage), &shape = item(args, 2, V::Tuple), &stride = item(args, 3, V::Tuple);
    int64_t offset = item(args, 1, V::Int).number, elements = storage.number;
    std::string name = root + "data/" + std::string(storage.text);
    auto entry = zip.entries.find(name);
    if (entry == zip.entries.end()) fail("%s is damaged: it has no entry %s; copy or download it again", f.path.c_str(), printable(name).c_str());
    std::string_view data = zip.data(name, entry->second);
    TensorView t;
    t.dtype = storage.dtype;
    if (elements < 0 || (uint64_t)elements > data.size() / dtype_size(t.dtype))
        fail("%s: its entry %s has %zu bytes, too few for %lld elements of %s: the file is damaged",
             f.path.c_str(), printable(name).c_str(), data.size(), (long long)elements, dtype_name(t.dtype));
    if (shape.items.size() > 64 || stride.items.size() != shape.items.size()) damaged("a shape without strides");
    for (size_t d = 0; d < shape.items.size(); d++) t.shape.push_back(item(shape, d, V::Int).number), t.stride.push_back(item(stride, d, V::Int).number);
    if (!sane_shape(t.shape, INT64_MAX)) damaged("an impossible shape");
    if (t.count() > elements)
        fail("%s has a tensor of %s over a storage of %lld elements; such expanded tensors are not read, save it with .contiguous()",
             f.path.c_str(), t.shape_text().c_str(), (long long)elements);
    if (t.count()) {
        int64_t last = offset, step;  // index of the last element
        bool overflow = offset < 0;
        for (size_t d = 0; d < t.shape.size(); d++)
            overflow |= t.stride[d] < 0 || __builtin_mul_overflow(t.shape[d] - 1, t.stride[d], &step) || __builtin_add_overflow(last, step, &last);
        if (overflow || last >= elements) damaged("a tensor that reaches beyond its storage");
        t.data = data.data() + offset * dtype_size(t.dtype);
    }
    tensors.push_back(std::move(t));
    push({V::Tensor, (int64_t)tensors.size() - 1});
}

// One instruction; false after the last.
inline bool Pickle::step() {
    uint8_t op = take<uint8_t>();
    switch (op) {
        case '.': return false;                                                              // STOP
        case 0x80: if (take<uint8_t>() > 5) damaged("an unknown pickle protocol"); break;    // PROTO
        case 0x95: take<uint64_t>(); break;                                                  // FRAME
        case '(': push({V::Mark}); break;
        case '0': pop(); break;
        case 'N': push({V::None}); break;
        case 0x88: case 0x89: push({V::Bool, op == 0x88}); break;                            // NEWTRUE, NEWFALSE
        case 'K': push_int(take<uint8_t>()); break;                                          // BININT1
        case 'M': push_int(take<uint16_t>()); break;                                         // BININT2
        case 'J': push_int(take<int32_t>()); break;                                          // BININT
        case 0x8a: push_long(take(take<uint8_t>())); break;                                  // LONG1
        case 0x8b: push_long(take(take<uint32_t>())); break;                                 // LONG4
        case 'G': take(8); push({V::Float}); break;                                          // BINFLOAT
        case 'U': case 'C': case 0x8c: { auto s = take(take<uint8_t>()); push({V::Text, 0, {}, s}); break; }   // SHORT_BIN{STRING,BYTES,UNICODE}
        case 'T': case 'B': case 'X': { auto s = take(take<uint32_t>()); push({V::Text, 0, {}, s}); break; }   // BIN{STRING,BYTES,UNICODE}
        case 0x8d: case 0x8e: { auto s = take(take<uint64_t>()); push({V::Text, 0, {}, s}); break; }           // BIN{UNICODE8,BYTES8}
        case ')': push({V::Tuple}); break;
        case 0x85: case 0x86: case 0x87: { auto v = pop_items(op - 0x84); push({V::Tuple, 0, {}, {}, v}); break; }  // TUPLE1, 2, 3
        case 't': { auto v = pop_to_mark(); push({V::Tuple, 0, {}, {}, v}); break; }
        case ']': push({V::List}); break;
        case 'a': { auto v = pop_items(1); extend(V::List, v); break; }                      // APPEND
        case 'e': { auto v = pop_to_mark(); extend(V::List, v); break; }                     // APPENDS
        case '}': push({V::Dict}); break;
        case 's': { auto v = pop_items(2); extend(V::Dict, v); break; }                      // SETITEM
        case 'u': { auto v = pop_to_mark(); extend(V::Dict, v); break; }                     // SETITEMS
        case 'q': remember(take<uint8_t>()); break;                                          // BINPUT
        case 'r': remember(take<uint32_t>()); break;                                         // LONG_BINPUT
        case 0x94: remember((uint32_t)memo.size()); break;                                   // MEMOIZE
        case 'h': recall(take<uint8_t>()); break;                                            // BINGET
        case 'j': recall(take<uint32_t>()); break;                                           // LONG_BINGET
        case 'c': { auto module = line(); push_global(module, line()); break; }              // GLOBAL
        case 0x93: { auto v = pop_items(2); V pair{V::Tuple, 0, {}, {}, v};                  // STACK_GLOBAL
                     push_global(item(pair, 0, V::Text).text, item(pair, 1, V::Text).text); break; }
        case 'Q': { int id = pop(); if (values[id].kind != V::Tuple) damaged("an unknown reference"); push_storage(values[id]); break; }  // BINPERSID
        case 'R': { int args = pop(), function = pop(); call(values[function], values[args]); break; }  // REDUCE
        case 'b': pop(); top(); break;                                                       // BUILD: attributes such as _metadata; not needed
        default: damaged(format("instruction 0x%02x, which a dictionary of tensors does not need,", op).c_str());
    }
    return true;
}

// ------------------------------------------------------------------------------------------------
// the file

// The dictionary with the weights: one with a usual name, else this one if it has tensors, else the only one in it that has.
inline const PickleValue *find_weights(const TensorFile &f, const std::deque<PickleValue> &values, const PickleValue *dict) {
    typedef PickleValue V;
    static const char *const usual[] = {"state_dict", "model_state_dict", "model", "module", "weights"};
    auto has_tensors = [&](const V &d) {
        for (size_t k = 1; k < d.items.size(); k += 2) if (values[d.items[k]].kind == V::Tensor) return true;
        return false;
    };
    for (int depth = 0; depth < 4 && dict->kind == V::Dict; depth++) {  // the bound is for a dictionary in itself
        const V *named = nullptr, *only = nullptr;
        int full = 0;
        for (size_t k = 0; k < dict->items.size(); k += 2) {
            const V &key = values[dict->items[k]], &value = values[dict->items[k + 1]];
            if (key.kind != V::Text || value.kind != V::Dict || value.items.empty()) continue;
            for (const char *u : usual) if (!named && key.text == u) named = &value;
            if (has_tensors(value)) only = &value, full++;
        }
        if (!named && (has_tensors(*dict) || dict->items.empty())) return dict;
        if (!named && full > 1) fail("%s has %d dictionaries of tensors; save only model.state_dict(), with torch.save", f.path.c_str(), full);
        if (!named && !full) break;
        dict = named ? named : only;
    }
    fail("%s has no dictionary of named tensors; save model.state_dict() with torch.save", f.path.c_str());
}

inline std::string without_wrappers(std::string_view name) {
    static const std::string_view prefixes[] = {"_forward_module.", "_orig_mod.", "module."};
    for (bool again = true; again;) {
        again = false;
        for (std::string_view p : prefixes) if (name.substr(0, p.size()) == p) name.remove_prefix(p.size()), again = true;
    }
    return std::string(name);
}

inline void read_pth(TensorFile &f) {
    const char *path = f.path.c_str();
    Zip zip(f);
    std::string root;
    const ZipEntry *program = nullptr;
    for (auto &e : zip.entries) {
        size_t at = e.first.rfind('/') + 1;  // 0 without one
        if (e.first.substr(at) == "data.pkl") root = e.first.substr(0, at), program = &e.second;
    }
    if (zip.entries.count(root + "constants.pkl")) fail("%s is a TorchScript program; save model.state_dict() with torch.save instead", path);
    if (!program) fail("%s is a zip archive, but not a .pth: it has no data.pkl", path);
    auto order = zip.entries.find(root + "byteorder");
    if (order != zip.entries.end() && zip.data(order->first, order->second) == "big") fail("%s was saved on a big-endian machine, which is not supported", path);
    std::string_view code = zip.data(root + "data.pkl", *program);
    if (code.size() > 64 << 20) fail("%s has a data.pkl of %zu bytes; more than 64 MiB are not supported; save only model.state_dict()", path, code.size());
    Pickle pickle(f, zip, root, code);
    const PickleValue *dict = find_weights(f, pickle.values, &pickle.run());
    for (size_t k = 0; k < dict->items.size(); k += 2) {
        const PickleValue &key = pickle.values[dict->items[k]], &value = pickle.values[dict->items[k + 1]];
        if (key.kind != PickleValue::Text) continue;
        if (key.text == "_strategy" || key.text == "_version" || key.text == "_rescale_layer")
            fail("%s was converted by the rwkv pip package (it has the key %s), its weights are rearranged; load the original .pth", path, printable(key.text).c_str());
        if (value.kind != PickleValue::Tensor) continue;  // a counter or a setting
        if (utf8_bad_byte(key.text) != key.text.npos) fail("%s: the name of a tensor is not UTF-8: the file is damaged", path);
        TensorView t = pickle.tensors[value.number];
        t.name = without_wrappers(key.text);
        f.add(std::move(t));
    }
}

inline bool verify_pth(const TensorFile &f) {  // zip keeps a CRC-32 of every entry
    Zip zip(f);
    for (auto &e : zip.entries)
        if (crc32(zip.data(e.first, e.second)) != e.second.crc)
            fail("%s is damaged: the checksum of its entry %s is wrong; copy or download it again", f.path.c_str(), printable(e.first).c_str());
    return true;
}
