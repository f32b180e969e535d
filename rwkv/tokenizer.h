/* rwkv/tokenizer.h: text to token ids and back, with every kind of vocabulary. Host only.

     kind   vocabulary (V)                          end of text   how text is cut
     byte   the 256 bytes                           none          longest match
     char   the characters of a text, sorted        none          longest match; other characters are dropped
     world  RWKV World (65536)                      0             longest match
     gpt2   GPT-2 (50257)                           50256         byte-pair encoding (bpe.h)
     neox   GPT-NeoX 20B, the Pile models (50277)   0             NFC, runs of spaces, byte-pair encoding (bpe.h)

   Longest match: the longest token that the rest of the text begins with, again and again. For characters that is
   the plain look-up, for bytes the identity, so one trie serves the three.
   Decoding joins bytes(id); Utf8Stream (utf8.h) makes text of them. Ids 0 and 65530 ... 65535 of world have no bytes.
   "<|endoftext|>" in a text is plain text for gpt2 and world, and the token 0 for neox.

   A tokenizer is one file, NAME.tok; ./prepare makes it. Text lines, an empty line, then little-endian data:
     rwkv tokenizer 1
     hash 9f86d081884c7d65     FNV-1a, 64 bits, of all that follows this line; shards and checkpoints carry it
     kind gpt2                 then  vocab V, eot N (-1: none), merges M, specials S, runs R  (one line each)
     V x {uint16 length, bytes}; M x {uint32 left, right, whole}; S x uint32 id; R x uint32 id
   Merges, specials (taken from the text before all else) and runs (tokens of several spaces) belong to bpe.h.
   defines: Trie, Tokenizer, read_tokenizer, load_tokenizer */
#pragma once
#include "bpe.h"
#include "file.h"
#include "utf8.h"
#include <cstdint>
#include <memory>

struct Trie {
    struct Node { int32_t id = -1; uint32_t first = 0; uint16_t low = 0, span = 0; };  // child of byte c: children[first + c - low]
    std::vector<Node> nodes;
    std::vector<uint32_t> children;  // 0: none, since the root is nobody's child
    size_t longest = 0;              // token, in bytes

    // Nodes in the order of breadth; `work` holds the range of the sorted tokens below each.
    void build(const std::vector<std::string> &tokens) {
        std::vector<uint32_t> order;
        for (uint32_t i = 0; i < tokens.size(); i++) if (!tokens[i].empty()) order.push_back(i);
        std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return tokens[a] < tokens[b]; });
        for (uint32_t id : order) longest = std::max(longest, tokens[id].size());
        struct Work { uint32_t from, to, depth; };
        std::vector<Work> work = {{0, (uint32_t)order.size(), 0}};
        nodes.resize(1);
        for (size_t at = 0; at < work.size(); at++) {
            Work w = work[at];
            if (w.from < w.to && tokens[order[w.from]].size() == w.depth) nodes[at].id = order[w.from++];
            if (w.from == w.to) continue;
            auto byte = [&](uint32_t i) { return (unsigned char)tokens[order[i]][w.depth]; };
            if (tokens[order[w.from]].size() == w.depth) fail("tokens %d and %u are the same", nodes[at].id, order[w.from]);
            nodes[at].first = children.size();
            nodes[at].low = byte(w.from);
            nodes[at].span = byte(w.to - 1) - byte(w.from) + 1;
            children.resize(children.size() + nodes[at].span);
            for (uint32_t from = w.from, to; from < w.to; from = to) {
                for (to = from; to < w.to && byte(to) == byte(from);) to++;
                children[nodes[at].first + byte(from) - nodes[at].low] = nodes.size();
                work.push_back({from, to, w.depth + 1});
                nodes.push_back({});
            }
        }
    }
    // The longest token at s[i]: its id and end, or -1.
    int match(std::string_view s, size_t i, size_t *end) const {
        int best = -1;
        for (uint32_t at = 0; i < s.size(); ) {
            const Node &n = nodes[at];
            unsigned k = (unsigned)(unsigned char)s[i] - n.low;
            if (k >= n.span || !(at = children[n.first + k])) break;
            i++;
            if (nodes[at].id >= 0) best = nodes[at].id, *end = i;
        }
        return best;
    }
};

class Tokenizer {
    Trie trie;
    Bpe bpe;

public:
    std::string kind;
    int vocab = 0;                        // ids are 0 ... vocab-1
    int eot = -1;                         // end-of-text token, -1: none
    uint64_t hash = 0;
    std::vector<std::string> tokens;      // bytes by id
    std::vector<Merge> merges;
    std::vector<uint32_t> specials, runs;
    int64_t dropped = 0;                  // characters met so far that have no token (char only)

    Tokenizer(std::string kind, std::vector<std::string> tokens, int eot, std::vector<Merge> merges = {},
              std::vector<uint32_t> specials = {}, std::vector<uint32_t> runs = {});
    bool is_bpe() const { return kind == "gpt2" || kind == "neox"; }
    std::string_view bytes(int id) const { return id >= 0 && id < vocab ? std::string_view(tokens[id]) : std::string_view(); }

    // Appends the ids of a piece of a longer text, as far as they do not depend on what follows it, and returns how
    // many bytes these are; the caller puts the rest in front of the next piece. `last`: nothing follows.
    size_t encode_piece(std::string_view text, bool last, std::vector<uint32_t> &ids);
    void encode(std::string_view text, std::vector<uint32_t> &ids) { encode_piece(text, true, ids); }
    std::vector<uint32_t> encode(std::string_view text) { std::vector<uint32_t> ids; encode(text, ids); return ids; }
    template<class Ids> std::string decode(const Ids &ids) const {
        std::string text;
        for (auto id : ids) text += bytes(id);
        return text;
    }
    std::string serialize() const;
    void save(const std::string &path) const {
        std::string s = serialize();
        OutputFile f(path);
        f.write(s.data(), s.size());
        f.commit();
    }
};

inline uint64_t fnv1a(std::string_view s) {
    uint64_t h = 0xcbf29ce484222325;
    for (unsigned char c : s) h = (h ^ c) * 0x100000001b3;
    return h;
}

// Checks all that encode() relies on; an Error does not name a file, the caller does.
inline Tokenizer::Tokenizer(std::string kind_, std::vector<std::string> tokens_, int eot, std::vector<Merge> merges_,
                            std::vector<uint32_t> specials_, std::vector<uint32_t> runs_)
    : kind(std::move(kind_)), vocab(tokens_.size()), eot(eot), tokens(std::move(tokens_)),
      merges(std::move(merges_)), specials(std::move(specials_)), runs(std::move(runs_)) {
    if (kind != "byte" && kind != "char" && kind != "world" && !is_bpe())
        fail("the kind of the tokenizer is '%s', but must be byte, char, world, gpt2 or neox", kind.substr(0, 20).c_str());
    if (tokens.empty() || tokens.size() > 65536) fail("the vocabulary has %zu tokens, but must have 1 to 65536", tokens.size());
    if (eot < -1 || eot >= vocab) fail("the end-of-text token is %d, but the vocabulary has %d tokens", eot, vocab);
    for (int i = 0; i < vocab; i++) if (tokens[i].size() > 1024) fail("token %d has %zu bytes, more than 1024", i, tokens[i].size());
    if (is_bpe()) bpe.build(tokens, merges, specials, runs, kind == "neox");
    else trie.build(tokens);
    std::string s = serialize();
    hash = strtoull(s.c_str() + s.find("hash ") + 5, nullptr, 16);
}

inline size_t Tokenizer::encode_piece(std::string_view text, bool last, std::vector<uint32_t> &ids) {
    if (is_bpe()) {
        size_t n = last ? text.size() : bpe_safe_end(text);
        bpe.encode(text.substr(0, n), ids);
        return n;
    }
    // a match is final when even the longest token could not reach beyond the text
    size_t i = 0;
    for (size_t end = 0; i < text.size() && (last || text.size() - i >= trie.longest); ) {
        int id = trie.match(text, i, &end);
        if (id >= 0) {
            ids.push_back(id);
            i = end;
            continue;
        }
        uint32_t code;
        int n = utf8_next(text, i, &code);
        if (n == 0 && !last) break;
        dropped++;
        i += n > 0 ? n : n < 0 ? -n : text.size() - i;
    }
    return i;
}

inline std::string Tokenizer::serialize() const {
    std::string s = format("kind %s\nvocab %d\neot %d\nmerges %zu\nspecials %zu\nruns %zu\n\n",
                           kind.c_str(), vocab, eot, merges.size(), specials.size(), runs.size());
    auto put = [&](const void *p, size_t n) { s.append((const char *)p, n); };
    for (auto &t : tokens) {
        uint16_t n = t.size();
        put(&n, 2);
        s += t;
    }
    put(merges.data(), merges.size() * sizeof(Merge));
    put(specials.data(), specials.size() * 4);
    put(runs.data(), runs.size() * 4);
    return format("rwkv tokenizer 1\nhash %016llx\n", (unsigned long long)fnv1a(s)) + s;
}

// Takes a .tok apart. Nothing is allocated beyond what the text itself has room for.
struct TokReader {
    std::string_view rest;
    std::string line(std::string_view key) {  // the value of the line "key value"
        size_t end = rest.substr(0, 100).find('\n');
        if (end == rest.npos || rest.substr(0, key.size() + 1) != std::string(key) + " ")
            fail("there is no line '%.*s'", (int)key.size(), key.data());
        std::string value(rest.substr(key.size() + 1, end - key.size() - 1));
        rest.remove_prefix(end + 1);
        return value;
    }
    int64_t count(const char *key, int64_t low, int64_t high) {
        std::string value = line(key);
        char *end;
        int64_t n = strtoll(value.c_str(), &end, 10);
        if (value.empty() || *end || n < low || n > high) fail("%s is not a number from %lld to %lld", key, (long long)low, (long long)high);
        return n;
    }
    const char *take(size_t n) {
        if (n > rest.size()) fail("it ends too early");
        const char *p = rest.data();
        rest.remove_prefix(n);
        return p;
    }
    template<class T> std::vector<T> array(size_t n) {
        std::vector<T> v;
        const char *p = take(n * sizeof(T));  // before the allocation
        v.resize(n);
        if (n) memcpy(v.data(), p, n * sizeof(T));
        return v;
    }
    std::unique_ptr<Tokenizer> read() {
        std::string stored = line("hash");
        if (stored != format("%016llx", (unsigned long long)fnv1a(rest))) fail("its checksum is wrong");
        std::string kind = line("kind");
        size_t vocab = count("vocab", 1, 65536), eot = count("eot", -1, 65535);
        size_t merges = count("merges", 0, 1 << 20), specials = count("specials", 0, 65536), runs = count("runs", 0, 65536);
        if (*take(1) != '\n') fail("there is no empty line behind its head");
        std::vector<std::string> tokens;
        for (size_t i = 0; i < vocab; i++) {
            size_t n = array<uint16_t>(1)[0];
            tokens.emplace_back(take(n), n);
        }
        auto m = array<Merge>(merges);
        auto s = array<uint32_t>(specials), r = array<uint32_t>(runs);
        if (!rest.empty()) fail("something follows its end");
        return std::make_unique<Tokenizer>(kind, std::move(tokens), (int)eot, std::move(m), std::move(s), std::move(r));
    }
};

// `path` is named in errors.
inline std::unique_ptr<Tokenizer> read_tokenizer(std::string_view text, const std::string &path) {
    if (text.empty()) fail("%s is empty: make it again with ./prepare", path.c_str());
    if (text.substr(0, 15) != "rwkv tokenizer ")
        fail("%s is not a tokenizer file (.tok): ./prepare --tokenizer world --tokenizer-file %s --out data/world makes one of an original vocabulary",
             path.c_str(), path.c_str());
    try {
        TokReader reader = {text.substr(5)};
        std::string version = reader.line("tokenizer");
        if (version != "1") fail("it has version %s, this program reads version 1", version.c_str());
        return reader.read();
    } catch (const Error &e) {
        fail("%s cannot be used as a tokenizer: %s; make it again with ./prepare", path.c_str(), e.what());
    }
}
inline std::unique_ptr<Tokenizer> load_tokenizer(const std::string &path) {
    MappedFile file(path);
    return read_tokenizer(file.text(), path);
}
