/* rwkv/binidx.h: the data files of RWKV-LM and the order in which its trainer takes samples of them. Host only.

   NAME.bin is tokens, one behind the other, NAME.idx the list of its documents, both little-endian and without gaps:
     byte 0  "MMIDIDX\0\0"
          9  uint64 version, 1
         17  uint8 type of a token: 8 uint16, 4 int32
         18  uint64 n, documents;  uint64 m, entries of the last list
         34  int32[n] tokens of each document;  int64[n] its first byte in the .bin;  int64[m] borders: 0, ... n
   A document ends with token 0. Training does not ask where documents are: token k is element k of the .bin.

   The official order, for sequences of T tokens. p is the largest prime with p mod 3 = 2 and p <= tokens/T - 1; the file
   is cut into pieces of T tokens, and sample s = 0, 1, 2, ... of a run is piece
       floor(p (sqrt 5 - 1)/2) (s+1)^3  mod p                                                                     (1)
   with the one token behind it. Modulo such a prime no two numbers have the same cube, so p samples take every piece
   once; the next p repeat them. All of it is a function of s: batches are neighbouring s, whatever their size. (The
   official trainer counts in mini-epochs of 40320 samples, after which it prints and saves; the order runs through.)
   defines: Tokens, TokenWriter, read_binidx, BinIdxWriter, magic_prime, official_piece */
#pragma once
#include "file.h"
#include <climits>
#include <cmath>
#include <cstdint>
#include <vector>

// Tokens in a file, of 2 or 4 bytes.
struct Tokens {
    const void *data = nullptr;
    int width = 2;
    int operator[](int64_t i) const { return width == 2 ? ((const uint16_t *)data)[i] : ((const int32_t *)data)[i]; }
    Tokens operator+(int64_t i) const { return {(const char *)data + i * width, width}; }
};

// Where tokens are written to, in one format or the other.
struct TokenWriter {
    int64_t tokens = 0, text_bytes = 0;  // in all files
    virtual ~TokenWriter() {}
    virtual void add(const uint32_t *ids, size_t n, int64_t text) = 0;  // n tokens that stand for `text` bytes
    virtual void end_document() {}
    virtual std::string commit() = 0;    // returns what --train or --val is to be
};

// ------------------------------------------------------------------------------------------------
// reading

inline std::string idx_name(const std::string &bin) {  // data/x.bin -> data/x.idx
    bool ends = bin.size() > 4 && !bin.compare(bin.size() - 4, 4, ".bin");
    return (ends ? bin.substr(0, bin.size() - 4) : bin) + ".idx";
}
// The tokens of `bin`, after everything that its index says has been checked.
inline Tokens read_binidx(const MappedFile &bin, int64_t *count) {
    MappedFile idx(idx_name(bin.path));
    const char *name = idx.path.c_str(), *tokens = bin.path.c_str();
    auto at = [&](auto value, uint64_t byte) { memcpy(&value, idx.data + byte, sizeof value); return value; };  // nothing is aligned
    if (idx.size < 34 || memcmp(idx.data, "MMIDIDX\0\0", 9))
        fail("%s is not the index of a .bin (%s): fetch or make both files again", name, idx.size < 34 ? "it is too short" : "it does not begin with MMIDIDX");
    uint64_t version = at(uint64_t(), 9), n = at(uint64_t(), 18), m = at(uint64_t(), 26);
    int type = (uint8_t)idx.data[17], width = type == 8 ? 2 : 4;
    if (version != 1) fail("%s is an index of version %llu, this program reads version 1", name, (unsigned long long)version);
    if (type != 8 && type != 4) fail("%s says that tokens are of type %d, this program reads 8 (uint16) and 4 (int32): make the files again", name, type);
    if (n > idx.size / 12 || m > idx.size / 8 || 34 + 12 * n + 8 * m != idx.size)
        fail("%s is damaged: it lists %llu documents and %llu borders, for which its size, %zu bytes, is wrong; fetch or make it again",
             name, (unsigned long long)n, (unsigned long long)m, idx.size);
    int64_t end = 0;  // of the documents so far, in the .bin
    for (uint64_t i = 0; i < n && end <= (int64_t)bin.size; i++) {
        int64_t length = at(int32_t(), 34 + 4 * i), start = at(int64_t(), 34 + 4 * n + 8 * i);
        if (length < 0 || start != end)
            fail("%s is damaged: document %llu is %lld tokens at byte %lld, but those before it end at byte %lld; fetch or make it again",
                 name, (unsigned long long)i, (long long)length, (long long)start, (long long)end);
        end += length * width;
    }
    if (end != (int64_t)bin.size)
        fail("%s does not belong to %s: its documents have %s%lld bytes, the .bin has %zu; use two files that were written together",
             name, tokens, end > (int64_t)bin.size ? "at least " : "", (long long)end, bin.size);
    for (uint64_t i = 0, before = 0; i < m; i++) {
        uint64_t border = at(uint64_t(), 34 + 12 * n + 8 * i);
        if (border > n || border < before || (i == 0 && border))
            fail("%s is damaged: border %llu is at document %lld of %llu; fetch or make it again", name, (unsigned long long)i, (long long)border, (unsigned long long)n);
        before = border;
    }
    *count = bin.size / width;
    return {bin.data, width};
}

// ------------------------------------------------------------------------------------------------
// writing

// Writes STEM.bin and STEM.idx. Neither has its name before commit(). Memory: 4 bytes a document.
class BinIdxWriter : public TokenWriter {
    std::string stem;
    OutputFile bin, idx;
    const int width;
    const int64_t limit;         // tokens that a document can have; one that is longer is listed as several
    std::vector<int32_t> sizes;  // of the documents
    int64_t open = 0;            // tokens of the document that has not ended
    std::vector<char> buffer;

    template<class Int> void put(const uint32_t *ids, size_t n) {
        buffer.resize(n * sizeof(Int));
        for (size_t i = 0; i < n; i++) ((Int *)buffer.data())[i] = (Int)ids[i];
        bin.write(buffer.data(), buffer.size());
    }

public:
    BinIdxWriter(const std::string &stem, int vocab, int64_t limit = INT_MAX)
        : stem(stem), bin(stem + ".bin"), idx(stem + ".idx"), width(vocab > 65536 ? 4 : 2), limit(limit) {}
    void add(const uint32_t *ids, size_t n, int64_t text) override {
        if (open + (int64_t)n >= limit) sizes.push_back(open), open = 0;
        width == 2 ? put<uint16_t>(ids, n) : put<int32_t>(ids, n);
        open += n, tokens += n, text_bytes += text;
    }
    void end_document() override {
        uint32_t end = 0;
        add(&end, 1, 0);
        sizes.push_back(open), open = 0;
    }
    std::string commit() override {
        if (open) sizes.push_back(open), open = 0;
        uint64_t counts[2] = {sizes.size(), sizes.size() + 1}, version = 1;
        uint8_t type = width == 2 ? 8 : 4;
        idx.write("MMIDIDX\0\0", 9), idx.write(&version, 8), idx.write(&type, 1), idx.write(counts, 16);
        idx.write(sizes.data(), sizes.size() * 4);
        list([&, at = int64_t(0)](size_t i) mutable { int64_t start = at; at += (int64_t)sizes[i] * width; return start; }, sizes.size());
        list([](size_t i) { return (int64_t)i; }, sizes.size() + 1);
        bin.commit(), idx.commit();  // between the two they do not belong together, which a reader sees
        return stem + ".bin";
    }

private:
    template<class F> void list(F value, size_t n) {
        std::vector<int64_t> part;
        for (size_t i = 0; i < n; i++) {
            part.push_back(value(i));
            if (part.size() == 4096 || i + 1 == n) idx.write(part.data(), part.size() * 8), part.clear();
        }
    }
};

// ------------------------------------------------------------------------------------------------
// the official order

inline bool is_prime(int64_t n) {
    if (n < 4 || n % 2 == 0) return n == 2 || n == 3;
    for (int64_t i = 3; i <= n / i; i += 2) if (n % i == 0) return false;
    return true;
}
inline int64_t magic_prime(int64_t tokens, int T) {  // 0: there is none, the file is shorter than 3 T
    int64_t p = std::max<int64_t>(tokens / T - 1, 0);
    while (p && !(p % 3 == 2 && is_prime(p))) p--;
    return p;
}
inline int64_t official_piece(int64_t sample, int64_t p) {  // (1); 128 bits, as p may exceed 2^32
    unsigned __int128 i = (uint64_t)(sample + 1) % p, factor = (uint64_t)(p * ((sqrt(5.0) - 1) / 2));
    return (int64_t)(factor * i % p * i % p * i % p);
}
