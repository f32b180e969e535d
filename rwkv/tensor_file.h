/* rwkv/tensor_file.h: a file of named tensors, whatever its format. Host only.

       TensorFile file("RWKV-4-Pile-169M.pth");             // .pth or .safetensors: the content decides
       for (const TensorView &t : file.tensors) printf("%s %s\n", t.name.c_str(), t.shape_text().c_str());
       file.read("emb.weight", {V, C}, weights);            // float*: converted if the file has another type
       file.verify();                                       // reads every byte: is the checksum right?

   The file is memory-mapped; a TensorView points into it and lives as long as the TensorFile. Opening checks
   everything that could lead outside the file, so that a view may be read without another thought, and no view
   has more elements than the file has room for. Shapes are as PyTorch prints them; strides count elements.

   Conversions are exact where the target can hold the value, else rounded to nearest, ties to even; equal types
   are copied bit by bit. (Only int64 beyond 2^53 to a 16-bit type rounds twice.)
   defines: DType, dtype_size, dtype_name, Bf16, Fp16, dtype_of, TensorView, read_tensor, TensorBytes, own_bytes,
            TensorFile, printable */
#pragma once
#include "check.h"
#include "file.h"
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

// ------------------------------------------------------------------------------------------------
// element types: the names are those of safetensors; in a .pth the storage class says the type

enum class DType : uint8_t { F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL };
struct DTypeInfo { const char *name, *storage; int size; };
inline const DTypeInfo dtypes[] = {
    {"F64", "DoubleStorage", 8}, {"F32", "FloatStorage", 4}, {"F16", "HalfStorage", 2}, {"BF16", "BFloat16Storage", 2},
    {"I64", "LongStorage", 8},   {"I32", "IntStorage", 4},   {"I16", "ShortStorage", 2}, {"I8", "CharStorage", 1},
    {"U8", "ByteStorage", 1},    {"BOOL", "BoolStorage", 1},
};
constexpr int DTYPES = 10;
inline int dtype_size(DType d) { return dtypes[(int)d].size; }
inline const char *dtype_name(DType d) { return dtypes[(int)d].name; }
inline bool is_float(DType d) { return d <= DType::BF16; }

struct Bf16 { uint16_t bits; };  // __nv_bfloat16 and __half have the same layout: cast the pointer
struct Fp16 { uint16_t bits; };
template<class T> struct DTypeOf;
template<> struct DTypeOf<double> { static constexpr DType value = DType::F64; };
template<> struct DTypeOf<float> { static constexpr DType value = DType::F32; };
template<> struct DTypeOf<Fp16> { static constexpr DType value = DType::F16; };
template<> struct DTypeOf<Bf16> { static constexpr DType value = DType::BF16; };
template<> struct DTypeOf<int64_t> { static constexpr DType value = DType::I64; };
template<> struct DTypeOf<int32_t> { static constexpr DType value = DType::I32; };
template<> struct DTypeOf<int16_t> { static constexpr DType value = DType::I16; };
template<> struct DTypeOf<int8_t> { static constexpr DType value = DType::I8; };
template<> struct DTypeOf<uint8_t> { static constexpr DType value = DType::U8; };
template<> struct DTypeOf<bool> { static constexpr DType value = DType::BOOL; };
template<class T> constexpr DType dtype_of = DTypeOf<T>::value;

// Text from a file, fit for a one-line message.
inline std::string printable(std::string_view s) {
    std::string out(s.substr(0, 100));
    for (char &c : out) if ((unsigned char)c < 32 || c == 127) c = '?';
    return out + (s.size() > 100 ? "..." : "");
}

struct TensorView {
    std::string name;
    DType dtype = DType::F32;
    std::vector<int64_t> shape, stride;  // stride in elements
    const void *data = nullptr;

    TensorView() {}
    TensorView(std::string name, DType dtype, std::vector<int64_t> shape, const void *data)  // row-major
        : name(std::move(name)), dtype(dtype), shape(std::move(shape)), data(data) {
        stride.resize(this->shape.size());
        int64_t s = 1;
        for (size_t d = stride.size(); d-- > 0; s *= this->shape[d]) stride[d] = s;
    }
    int64_t count() const { int64_t n = 1; for (int64_t s : shape) n *= s; return n; }
    size_t bytes() const { return count() * dtype_size(dtype); }
    bool contiguous() const {  // row-major without gaps; a dimension of one element may have any stride
        int64_t s = 1;
        for (size_t d = shape.size(); d-- > 0; s *= shape[d]) if (shape[d] != 1 && stride[d] != s) return count() == 0;
        return true;
    }
    std::string shape_text() const {
        std::string s = "[";
        for (size_t d = 0; d < shape.size(); d++) s += (d ? ", " : "") + std::to_string(shape[d]);
        return s + "]";
    }
};

// Is the shape legal, with at most `most` elements? (a header may claim any product; count() must not overflow)
inline bool sane_shape(const std::vector<int64_t> &shape, int64_t most) {
    if (shape.size() > 64) return false;  // PyTorch's own limit
    bool empty = false;
    int64_t n = 1;
    for (int64_t s : shape) {
        if (s < 0) return false;
        empty |= s == 0;
        if (s && __builtin_mul_overflow(n, s, &n)) return false;
    }
    return empty || n <= most;
}

// ------------------------------------------------------------------------------------------------
// conversion

template<class T> inline T load_as(const void *p) { T v; memcpy(&v, p, sizeof v); return v; }  // no alignment is assumed

// x with a sign, `e` exponent bits and `m` mantissa bits, rounded to nearest even: bf16 is (8, 7), fp16 (5, 10)
inline uint16_t narrow(double x, int e, int m) {
    uint64_t bits = load_as<uint64_t>(&x), fraction = bits & ((1ull << 52) - 1);
    uint32_t sign = (uint32_t)(bits >> 63) << (e + m), infinity = ((1u << e) - 1) << m;
    int exponent = (int)(bits >> 52 & 2047);
    if (exponent == 2047) return (uint16_t)(sign | infinity | (fraction ? 1u << (m - 1) | (uint32_t)(fraction >> (52 - m)) : 0));
    exponent += (1 << (e - 1)) - 1 - 1023;          // as the target biases it
    int shift = 52 - m + (exponent < 1 ? 1 - exponent : 0);  // below 1 the result is subnormal and loses more bits
    if (shift > 54) return (uint16_t)sign;          // less than half of the smallest subnormal
    fraction |= 1ull << 52;
    uint64_t q = fraction >> shift, rest = fraction & ((1ull << shift) - 1), half = 1ull << (shift - 1);
    q += rest > half || (rest == half && (q & 1));
    q += exponent < 1 ? 0 : (uint64_t)(exponent - 1) << m;  // the leading one of q, or a carry, counts the exponent up
    return (uint16_t)(sign | (uint32_t)(q < infinity ? q : infinity));
}
inline uint16_t float_to_bf16(float x) {
    uint32_t u = load_as<uint32_t>(&x);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40);  // NaN stays NaN
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
inline float bf16_to_float(uint16_t b) { uint32_t u = (uint32_t)b << 16; return load_as<float>(&u); }
inline float fp16_to_float(uint16_t h) {
    uint32_t sign = (h & 0x8000u) << 16, e = h >> 10 & 31, m = h & 1023, u;
    if (e == 0) { float tiny = (float)m * 0x1p-24f; u = load_as<uint32_t>(&tiny) | sign; }
    else u = sign | (e == 31 ? 255 : e + 112) << 23 | m << 13;
    return load_as<float>(&u);
}

template<DType D> inline auto load_element(const char *p) {  // double, float or int64_t, whichever holds it exactly
    if constexpr (D == DType::F64) return load_as<double>(p);
    else if constexpr (D == DType::F32) return load_as<float>(p);
    else if constexpr (D == DType::F16) return fp16_to_float(load_as<uint16_t>(p));
    else if constexpr (D == DType::BF16) return bf16_to_float(load_as<uint16_t>(p));
    else if constexpr (D == DType::I64) return load_as<int64_t>(p);
    else if constexpr (D == DType::I32) return (int64_t)load_as<int32_t>(p);
    else if constexpr (D == DType::I16) return (int64_t)load_as<int16_t>(p);
    else if constexpr (D == DType::I8) return (int64_t)load_as<int8_t>(p);
    else if constexpr (D == DType::U8) return (int64_t)load_as<uint8_t>(p);
    else return (int64_t)(*p != 0);
}
template<DType D, class V> inline void store_element(char *p, V v) {
    auto put = [p](auto x) { memcpy(p, &x, sizeof x); };
    if constexpr (D == DType::F64) put((double)v);
    else if constexpr (D == DType::F32) put((float)v);
    else if constexpr (D == DType::F16) put(narrow((double)v, 5, 10));
    else if constexpr (D == DType::I64) put((int64_t)v);
    else if constexpr (std::is_same<V, float>::value) put(float_to_bf16(v));
    else put(narrow((double)v, 8, 7));
}

// n elements, `stride` elements apart, into a dense row
typedef void ConvertRow(const char *in, int64_t stride, char *out, int64_t n);
template<DType From, DType To> inline void convert_row(const char *in, int64_t stride, char *out, int64_t n) {
    const int64_t size = dtypes[(int)From].size, to = dtypes[(int)To].size;
    if (stride == 1) for (int64_t i = 0; i < n; i++) store_element<To>(out + i * to, load_element<From>(in + i * size));
    else for (int64_t i = 0; i < n; i++) store_element<To>(out + i * to, load_element<From>(in + i * stride * size));
}
template<int SIZE> inline void copy_row(const char *in, int64_t stride, char *out, int64_t n) {
    if (stride == 1) memcpy(out, in, n * SIZE);
    else for (int64_t i = 0; i < n; i++) memcpy(out + i * SIZE, in + i * stride * SIZE, SIZE);
}
template<DType To> inline ConvertRow *converter_to(DType from) {
    static ConvertRow *const by_source[DTYPES] = {
        convert_row<DType::F64, To>, convert_row<DType::F32, To>, convert_row<DType::F16, To>, convert_row<DType::BF16, To>,
        convert_row<DType::I64, To>, convert_row<DType::I32, To>, convert_row<DType::I16, To>, convert_row<DType::I8, To>,
        convert_row<DType::U8, To>,  convert_row<DType::BOOL, To>};
    return by_source[(int)from];
}
// nullptr: not without loss of meaning (a float where whole numbers are needed, a wider integer)
inline ConvertRow *converter(DType from, DType to) {
    if (from == to) {
        int size = dtype_size(to);
        return size == 8 ? copy_row<8> : size == 4 ? copy_row<4> : size == 2 ? copy_row<2> : copy_row<1>;
    }
    switch (to) {
        case DType::F64: return converter_to<DType::F64>(from);
        case DType::F32: return converter_to<DType::F32>(from);
        case DType::F16: return converter_to<DType::F16>(from);
        case DType::BF16: return converter_to<DType::BF16>(from);
        case DType::I64: return is_float(from) ? nullptr : converter_to<DType::I64>(from);
        default: return nullptr;
    }
}

// All elements of t in row-major order, as type `to`; out has room for t.count() of them.
inline void read_tensor(const TensorView &t, DType to, void *out) {
    ConvertRow *row = converter(t.dtype, to);
    if (!row) fail("tensor %s is %s and cannot be read as %s", printable(t.name).c_str(), dtype_name(t.dtype), dtype_name(to));
    int64_t n = t.count(), size = dtype_size(t.dtype);
    const char *in = (const char *)t.data;
    if (n == 0) return;
    if (t.contiguous()) return row(in, 1, (char *)out, n);
    int last = (int)t.shape.size() - 1;  // not contiguous, so there is a last dimension
    std::vector<int64_t> at(t.shape.size(), 0);
    for (int64_t done = 0; done < n; done += t.shape[last]) {
        row(in, t.stride[last], (char *)out + done * dtype_size(to), t.shape[last]);
        for (int d = last - 1; d >= 0; d--) {  // next row: count up like an odometer
            in += t.stride[d] * size;
            if (++at[d] < t.shape[d]) break;
            in -= t.shape[d] * t.stride[d] * size, at[d] = 0;
        }
    }
}
template<class Out> inline void read_tensor(const TensorView &t, Out *out) { read_tensor(t, dtype_of<Out>, out); }

// What a writer asks for: the elements of a tensor in row-major order, t.bytes() bytes of its type; valid until the next call.
typedef std::function<std::string_view(const TensorView &)> TensorBytes;
inline TensorBytes own_bytes() {  // those that the view points to
    return [dense = std::vector<char>()](const TensorView &t) mutable {
        if (t.contiguous()) return std::string_view((const char *)t.data, t.bytes());
        dense.resize(t.bytes());
        read_tensor(t, t.dtype, dense.data());
        return std::string_view(dense.data(), dense.size());
    };
}

// ------------------------------------------------------------------------------------------------
// the file

// What a file is that is neither of ours, by its first bytes.
inline const char *foreign_format(std::string_view head) {
    static const struct { std::string_view magic; const char *what; } table[] = {
        {"GGUF", "a GGUF file (llama.cpp); load the .pth or .safetensors that it was made from"},
        {"lmgg", "a ggml file (rwkv.cpp); load the .pth or .safetensors that it was made from"},
        {"fmgg", "a ggml file (rwkv.cpp); load the .pth or .safetensors that it was made from"},
        {"tjgg", "a ggml file (llama.cpp); load the .pth or .safetensors that it was made from"},
        {{"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 14},
         "a .pth in the format of PyTorch before 1.6; load it with torch.load and torch.save it again"},
        {"\x80", "a bare Python pickle, not a .pth; torch.save the state_dict instead"},
        {{"\x1f\x8b", 2}, "compressed with gzip; unpack it first"},
        {{"\xfd" "7zXZ", 5}, "compressed with xz; unpack it first"},
        {{"\x28\xb5\x2f\xfd", 4}, "compressed with zstd; unpack it first"},
        {"7z\xbc\xaf", "a 7z archive; unpack it first"},
        {"BZh", "compressed with bzip2; unpack it first"},
        {"\x93NUMPY", "a NumPy array; model weights are .pth or .safetensors"},
        {"\x89HDF", "an HDF5 file; model weights are .pth or .safetensors"},
        {{"\x88\xd8\x34\x01", 4}, "a shard of tokens, not a model; give it to --train or --val"},          // 20240520
        {{"\xc6\xd7\x34\x01", 4}, "an llm.c model; model weights here are .pth or .safetensors"},           // 20240326
        {"{", "JSON text; the weights are in the .safetensors or .pth beside it"},
    };
    for (auto &f : table) if (head.substr(0, f.magic.size()) == f.magic) return f.what;
    size_t i = head.find_first_not_of(" \t\r\n\xef\xbb\xbf");
    std::string start;
    for (char c : head.substr(i == head.npos ? head.size() : i, 9)) start += (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
    if (start == "<!doctype" || start.substr(0, 5) == "<html") return "a web page (HTML): the download went wrong; fetch the file itself";
    return nullptr;
}

class TensorFile {
    std::optional<MappedFile> file;  // none: the bytes are somebody else's

public:
    std::string path;
    std::vector<TensorView> tensors;              // in the order of the file
    std::map<std::string, std::string> metadata;  // of a safetensors file
    const uint8_t *bytes;                         // all of it
    size_t size;

    explicit TensorFile(const std::string &path) : file(path), path(path), bytes((const uint8_t *)file->data), size(file->size) { parse(); }
    TensorFile(const std::string &name, const void *bytes, size_t size) : path(name), bytes((const uint8_t *)bytes), size(size) { parse(); }

    const TensorView *find(const std::string &name) const {
        auto i = index.find(name);
        return i == index.end() ? nullptr : &tensors[i->second];
    }
    const TensorView &get(const std::string &name) const {
        const TensorView *t = find(name);
        if (!t) fail("%s has no tensor %s (it has %zu%s%s); is it a model of another kind?", path.c_str(), name.c_str(), tensors.size(),
                     tensors.empty() ? "" : ", the first is ", tensors.empty() ? "" : printable(tensors[0].name).c_str());
        return *t;
    }
    // Tensor `name`, which must have this shape (dimensions of 1 aside), converted to `to`.
    void read(const std::string &name, const std::vector<int64_t> &shape, DType to, void *out) const {
        const TensorView &t = get(name), wanted("", to, shape, nullptr);
        auto squeezed = [](std::vector<int64_t> s) { std::vector<int64_t> r; for (int64_t n : s) if (n != 1) r.push_back(n); return r; };
        if (squeezed(t.shape) != squeezed(shape))
            fail("%s: %s has shape %s, but the model needs %s", path.c_str(), name.c_str(), t.shape_text().c_str(), wanted.shape_text().c_str());
        if (!converter(t.dtype, to)) fail("%s: %s is %s, but %s is needed", path.c_str(), name.c_str(), dtype_name(t.dtype), dtype_name(to));
        read_tensor(t, to, out);
    }
    template<class Out> void read(const std::string &name, const std::vector<int64_t> &shape, Out *out) const { read(name, shape, dtype_of<Out>, out); }

    // Reads every byte and compares with the checksum in the file; an Error if they differ, false if there is none.
    bool verify() const;
    void add(TensorView t) {  // for the readers
        if (!index.emplace(t.name, tensors.size()).second) fail("%s: two tensors are called %s", path.c_str(), printable(t.name).c_str());
        tensors.push_back(std::move(t));
    }

private:
    std::map<std::string, size_t> index;
    bool zip() const { return size >= 4 && !memcmp(bytes, "PK", 2); }
    void parse();
};

void read_pth(TensorFile &f);                                // pth.h
bool verify_pth(const TensorFile &f);
bool looks_like_safetensors(std::string_view first_bytes);  // safetensors.h
void read_safetensors(TensorFile &f);
bool verify_safetensors(const TensorFile &f);

inline void TensorFile::parse() {
    std::string_view head((const char *)bytes, size < 1024 ? size : 1024);
    if (size == 0) fail("%s: the file is empty (0 bytes); copy or download it again", path.c_str());
    if (zip()) return read_pth(*this);
    if (head.substr(0, 24) == "version https://git-lfs.") {
        size_t at = head.find("\nsize ");
        fail("%s is a git-lfs pointer (%zu bytes) to a file of %s bytes; run git lfs pull, or download the file itself", path.c_str(), size,
             at == head.npos ? "?" : printable(head.substr(at + 6, head.find('\n', at + 6) - at - 6)).c_str());
    }
    if (looks_like_safetensors(head)) return read_safetensors(*this);
    if (const char *what = foreign_format(head)) fail("%s is %s", path.c_str(), what);
    std::string first;
    for (size_t i = 0; i < size && i < 8; i++) first += format(" %02x", bytes[i]);
    fail("%s is neither .safetensors nor .pth: its first bytes are%s", path.c_str(), first.c_str());
}
inline bool TensorFile::verify() const { return zip() ? verify_pth(*this) : verify_safetensors(*this); }

#include "pth.h"
#include "safetensors.h"
