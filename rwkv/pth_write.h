/* rwkv/pth_write.h: writing PyTorch's .pth files, so that torch.load(weights_only=True) reads them. Host only.

       archive/data.pkl       a pickle, protocol 2: {name: _rebuild_tensor_v2(storage KEY, 0, shape, strides, ...), ...}
       archive/byteorder      "little"
       archive/data/KEY       the elements of one tensor, row-major; KEY counts the tensors
       archive/version        "3"

   A zip without compression; every entry begins at a multiple of 64 bytes, as in torch.save's own files. What does
   not fit 32 bits (an entry or a place beyond 4 GiB) stands in zip64 fields. Each tensor is asked for when its turn
   comes, so a model is never in memory as a whole; the file appears under its name complete or not at all (file.h).
   What is written is a function of what is given.   defines: ZipOutput, write_pth */
#pragma once
#include "tensor_file.h"

template<class T> inline std::string le_bytes(T v) { return std::string((const char *)&v, sizeof v); }  // little-endian, as the machine

// ------------------------------------------------------------------------------------------------
// zip, the counterpart of Zip in pth.h

class ZipOutput {
    OutputFile file;
    const uint64_t most;  // what a 32-bit field can hold; tests lower it to have zip64 without 4 GiB
    std::string directory;
    uint64_t at = 0, entries = 0;

    void write(std::string_view s) { file.write(s.data(), s.size()), at += s.size(); }
    bool large(uint64_t v) const { return v >= most; }
    std::string field(uint64_t v) const { return le_bytes(large(v) ? 0xffffffffu : (uint32_t)v); }

public:
    explicit ZipOutput(const std::string &path, uint64_t most = 0xffffffff) : file(path), most(most) {}

    void add(const std::string &name, std::string_view data) {
        const uint64_t header = at, size = data.size();
        const uint16_t version = large(size) || large(header) ? 45 : 20;
        std::string sizes = large(size) ? le_bytes(size) + le_bytes(size) : "", place = large(header) ? le_bytes(header) : "";
        auto zip64 = [](const std::string &v) { return v.empty() ? "" : le_bytes<uint16_t>(1) + le_bytes<uint16_t>(v.size()) + v; };
        // common to the local header and the directory; 0x0800: the name is UTF-8; no time
        std::string common = le_bytes(version) + le_bytes<uint16_t>(0x0800) + le_bytes<uint16_t>(0) + le_bytes(0u)
                           + le_bytes(crc32(data)) + field(size) + field(size) + le_bytes<uint16_t>(name.size());
        std::string extra = zip64(sizes), both = zip64(sizes + place);
        uint16_t padding = (64 - (at + 30 + name.size() + extra.size() + 4) % 64) % 64;
        extra += "FB" + le_bytes(padding) + std::string(padding, 'Z');
        write("PK\3\4" + common + le_bytes<uint16_t>(extra.size()) + name + extra);
        write(data);
        directory += "PK\1\2" + le_bytes(version) + common + le_bytes<uint16_t>(both.size()) + std::string(12 - 2, '\0') + field(header) + name + both;
        entries++;
    }
    void commit() {
        const uint64_t begin = at, size = directory.size(), end = begin + size;
        write(directory);
        bool many = entries >= 0xffff;
        if (many || large(begin) || large(size))
            write("PK\6\6" + le_bytes<uint64_t>(44) + le_bytes<uint16_t>(45) + le_bytes<uint16_t>(45) + le_bytes<uint64_t>(0) + le_bytes(entries) + le_bytes(entries)
                  + le_bytes(size) + le_bytes(begin) + "PK\6\7" + le_bytes(0u) + le_bytes(end) + le_bytes(1u));
        uint16_t count = many ? 0xffff : entries;
        write("PK\5\6" + le_bytes(0u) + le_bytes(count) + le_bytes(count) + field(size) + field(begin) + le_bytes<uint16_t>(0));
        file.commit();
    }
};

// ------------------------------------------------------------------------------------------------
// pickle

inline std::string pickle_text(std::string_view s) { return "X" + le_bytes<uint32_t>(s.size()) + std::string(s); }
inline std::string pickle_int(int64_t v) { return v == (int32_t)v ? "J" + le_bytes<int32_t>(v) : "\x8a\x08" + le_bytes(v); }
inline std::string pickle_tuple(const std::vector<int64_t> &v) {
    std::string s = "(";
    for (int64_t n : v) s += pickle_int(n);
    return s + "t";
}
// _rebuild_tensor_v2(('storage', class, key, 'cpu', elements), offset, shape, strides, requires_grad, hooks)
inline std::string pickle_tensor(const TensorView &t, const std::string &key) {
    return "ctorch._utils\n_rebuild_tensor_v2\n(" "(" + pickle_text("storage") + "ctorch\n" + dtypes[(int)t.dtype].storage + "\n" + pickle_text(key)
         + pickle_text("cpu") + pickle_int(t.count()) + "tQ" + pickle_int(0) + pickle_tuple(t.shape) + pickle_tuple(TensorView("", t.dtype, t.shape, nullptr).stride)
         + "\x89" "ccollections\nOrderedDict\n)RtR";
}

// ------------------------------------------------------------------------------------------------
// the file

inline void write_pth(const std::string &path, const std::vector<TensorView> &tensors, TensorBytes bytes = own_bytes(), uint64_t zip_most = 0xffffffff) {
    std::string pickle = "\x80\2}";
    std::map<std::string, bool> seen;
    for (size_t i = 0; i < tensors.size(); i++) {
        if (seen[tensors[i].name]) fail("cannot write two tensors of the name %s", printable(tensors[i].name).c_str());
        seen[tensors[i].name] = true;
        pickle += pickle_text(tensors[i].name) + pickle_tensor(tensors[i], std::to_string(i)) + "s";
    }
    ZipOutput zip(path, zip_most);
    zip.add("archive/data.pkl", pickle + ".");
    zip.add("archive/byteorder", "little");
    for (size_t i = 0; i < tensors.size(); i++) zip.add("archive/data/" + std::to_string(i), bytes(tensors[i]));
    zip.add("archive/version", "3\n");
    zip.commit();
}
