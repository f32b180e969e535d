/* rwkv/data.h: token shards and the batches that are cut from them. Host only.

   Two formats are read: a .bin whose .idx lies beside it is RWKV-LM's (binidx.h), every other file is a shard.
   A shard is llm.c's: 256 int32, then the tokens as uint16, little-endian. Ours use words that llm.c leaves at zero:
     word 0  magic 20240520    3, 4  hash of the tokenizer (0: unknown)    7, 8  bytes of the text, for bits per byte
          1  version 1         5     vocabulary size (0: unknown)          9-12  kind of the tokenizer, ASCII
          2  number of tokens  6     end-of-text token + 1 (0: none)
   The end-of-text token stands IN FRONT of each document, as in llm.c, and so begins it.

   Order of the samples. A window is T+1 neighbouring tokens of a shard: x the first T, y the last T. A shard of n
   tokens has W = max(1, (n-T)/T) windows an epoch, from tokens p, p+T, p+2T, ..., where the phase p is drawn for every
   epoch from as many values as leave all windows inside the shard (T of them if n >= 2T), so that the borders move.
   Every epoch takes all windows of all shards once, in an order of its own: a Feistel network of 4 rounds permutes
   [0, 4^k), and stepping on while the result is >= W (cycle walking) makes it a permutation of [0, W). So the window of
   sample s is a function of (seed, s) alone; the loader has no state, and a run resumes exactly from a sample number.
   The official order (binidx.h) is RWKV-LM's, of one file of either format.
   In order (validation): window i is tokens i T ... i T + T, W = (n-1)/T, and after the last comes the first again.
   defines: TokenHeader, Shard, ShardWriter, Loader, Prefetcher */
#pragma once
#include "binidx.h"
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <glob.h>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

struct TokenHeader {
    enum { MAGIC = 20240520, VERSION = 1 };
    int32_t magic = MAGIC, version = VERSION, count = 0;
    uint32_t hash[2] = {};   // low word first, as in text_bytes
    int32_t vocab = 0, eot_plus_1 = 0;
    uint32_t text_bytes[2] = {};
    char kind[16] = {};
    int32_t zero[243] = {};
};
static_assert(sizeof(TokenHeader) == 1024, "256 words");

// What a shard was made with; a model and its shards must agree.
struct TokenizerId {
    uint64_t hash = 0;   // 0: unknown
    int vocab = 0;       // 0: unknown
    int eot = -1;        // -1: none
    std::string kind;
};

// ------------------------------------------------------------------------------------------------
// reading

struct Shard {
    MappedFile file;
    Tokens tokens;
    int64_t count = 0, text_bytes = 0;
    TokenizerId made_with;

    explicit Shard(const std::string &path) : file(path) {
        const char *name = path.c_str();
        std::string_view start = file.text().substr(0, 64);
        start.remove_prefix(std::min(start.find_first_not_of(" \r\n\t\xEF\xBB\xBF"), start.size()));
        if (!file.size) fail("%s is empty: make it again with ./prepare", name);
        TokenHeader h;
        memcpy(&h, file.data, std::min(file.size, sizeof h));
        if (!(file.size >= 4 && h.magic == TokenHeader::MAGIC) && !access(idx_name(path).c_str(), F_OK)) {
            tokens = read_binidx(file, &count);
            made_with.eot = 0;
            return;
        }
        if (file.text().substr(0, 7) == "MMIDIDX") fail("%s is the index of a .bin: name the .bin", name);
        if (!start.empty() && start[0] == '<') fail("%s is a web page, not a token shard: the download went wrong, fetch it again", name);
        if (file.size >= 4 && h.magic == (int)__builtin_bswap32(TokenHeader::MAGIC))
            fail("%s was written on a machine of the other byte order: make it again with ./prepare on this one", name);
        if (file.size < 4 || h.magic != TokenHeader::MAGIC)
            fail("%s is not a token shard (its first word is not %d), and no .idx is beside it: make a shard of a text with ./prepare", name, (int)TokenHeader::MAGIC);
        if (file.size < sizeof h)
            fail("%s is cut off: it has %zu bytes, its header alone should have %zu; make it again with ./prepare", name, file.size, sizeof h);
        if (h.version != TokenHeader::VERSION)
            fail("%s is a token shard of version %d, this program reads version %d: make it again with ./prepare",
                 name, h.version, (int)TokenHeader::VERSION);
        if (h.count < 0 || file.size != sizeof h + (size_t)h.count * 2)
            fail("%s is %s: its header says %d tokens, which makes %lld bytes, but it has %zu; make it again with ./prepare", name,
                 h.count >= 0 && file.size < sizeof h + (size_t)h.count * 2 ? "cut off" : "damaged", h.count, (long long)sizeof h + 2LL * h.count, file.size);
        tokens.data = file.data + sizeof h;
        count = h.count;
        text_bytes = (int64_t)h.text_bytes[1] << 32 | h.text_bytes[0];
        made_with = {(uint64_t)h.hash[1] << 32 | h.hash[0], h.vocab, h.eot_plus_1 - 1, std::string(h.kind, strnlen(h.kind, 16))};
        if (h.vocab < 0 || h.vocab > 65536 || h.eot_plus_1 < 0 || h.eot_plus_1 > 65536 || text_bytes < 0)
            fail("%s has a damaged header (vocabulary %d, end of text %d): make it again with ./prepare", name, h.vocab, h.eot_plus_1 - 1);
    }
    // Reads every token once: an id beyond the embedding would be read from, and its gradient written to, foreign memory.
    void check_ids(int vocab) const {
        for (int64_t i = 0; i < count; i += 4096) {
            int64_t n = std::min<int64_t>(4096, count - i);
            if (tokens.width == 2 ? largest((const uint16_t *)tokens.data + i, n) < vocab : largest((const uint32_t *)tokens.data + i, n) < (uint32_t)vocab) continue;
            while ((uint32_t)tokens[i] < (uint32_t)vocab) i++;
            fail("%s: token %lld is %d, but the vocabulary has only ids 0 to %d; was it made with another tokenizer?",
                 file.path.c_str(), (long long)i, tokens[i], vocab - 1);
        }
    }

private:
    template<class Int> static Int largest(const Int *t, int64_t n) {
        Int most = 0;
        for (int64_t k = 0; k < n; k++) most = std::max(most, t[k]);
        return most;
    }
};

// ------------------------------------------------------------------------------------------------
// writing

// Writes STEM.bin, or STEM_000000.bin, STEM_000001.bin, ... when there are more tokens than `limit`. Nothing has its
// name before commit(), which also removes what an earlier run left under STEM, so that a glob pattern finds one run only.
class ShardWriter : public TokenWriter {
    std::string stem;
    TokenizerId id;
    int64_t limit;
    std::vector<std::unique_ptr<OutputFile>> files;
    TokenHeader header;  // of the last file
    std::vector<uint16_t> buffer;
    int64_t bytes = 0;   // of text, in the last file

    std::string name(int i) const { return stem + format("_%06d.bin", i); }
    void begin() {
        files.push_back(std::make_unique<OutputFile>(files.empty() ? stem + ".bin" : name(files.size())));
        header = TokenHeader();
        files.back()->write(&header, sizeof header);
        bytes = 0;
    }
    void end() {
        header.hash[0] = (uint32_t)id.hash, header.hash[1] = id.hash >> 32;
        header.vocab = id.vocab, header.eot_plus_1 = id.eot + 1;
        header.text_bytes[0] = (uint32_t)bytes, header.text_bytes[1] = bytes >> 32;
        memcpy(header.kind, id.kind.data(), std::min<size_t>(id.kind.size(), sizeof header.kind));
        files.back()->rewrite_head(&header, sizeof header);
    }

public:
    ShardWriter(const std::string &stem, const TokenizerId &id, int64_t limit = 1000000000) : stem(stem), id(id), limit(limit) { begin(); }
    // A file ends with the call that brings it to the limit, so n is to be small.
    void add(const uint32_t *ids, size_t n, int64_t text) override {
        if (header.count >= limit) end(), begin();
        buffer.assign(ids, ids + n);
        files.back()->write(buffer.data(), n * 2);
        header.count += n, tokens += n;
        bytes += text, text_bytes += text;
    }
    std::string commit() override {
        end();
        bool many = files.size() > 1;
        for (size_t i = 0; i < files.size(); i++) files[i]->commit(many ? name(i) : stem + ".bin");
        if (many) unlink((stem + ".bin").c_str());
        unlink((stem + ".idx").c_str());
        for (size_t i = many ? files.size() : 0; !unlink(name(i).c_str()); i++) {}
        return many ? "'" + stem + "_*.bin'" : stem + ".bin";
    }
};

// ------------------------------------------------------------------------------------------------
// batches

inline uint64_t mix64(uint64_t x) {  // every bit of the result depends on every bit of x (the finaliser of splitmix64)
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}
// A pseudo-random permutation of [0, n), chosen by the key; i < n.
inline uint64_t permute(uint64_t i, uint64_t n, uint64_t key) {
    int half = 1;  // bits; the network works on numbers of 2 * half bits, of which there are less than 4 n
    while (half < 31 && 1ull << 2 * half < n) half++;
    const uint64_t mask = (1ull << half) - 1;
    do {
        uint64_t left = i >> half, right = i & mask;
        for (int round = 0; round < 4; round++) {
            uint64_t next = left ^ (mix64(key ^ mix64(right * 4 + round)) & mask);
            left = right, right = next;
        }
        i = left << half | right;
    } while (i >= n);
    return i;
}

class Loader {
    std::string pattern;
    std::vector<Shard> shards;
    std::vector<int64_t> ends;  // windows in the shards up to this one
    uint64_t seed;

public:
    const enum Order { SHUFFLED, IN_ORDER, OFFICIAL } order;
    const int T;
    TokenizerId made_with;
    int64_t tokens = 0, text_bytes = 0, windows = 0;

    // `pattern`: a file, or a pattern of files such as 'data/x_train_*.bin'; data/x is the pair data/x.bin, data/x.idx.
    Loader(const std::string &pattern, int T, Order order, uint64_t seed = 0) : pattern(pattern), seed(seed), order(order), T(T) {
        glob_t found;
        struct stat s;
        if (!stat((pattern + ".idx").c_str(), &s)) shards.emplace_back(pattern + ".bin");
        else if (!stat(pattern.c_str(), &s)) shards.emplace_back(pattern);  // a name is a name, whatever characters it has
        else if (pattern.find_first_of("*?[") == pattern.npos)
            fail("cannot open %s: %s; ./prepare makes shards of a text", pattern.c_str(), strerror(errno));
        else {
            int result = glob(pattern.c_str(), 0, nullptr, &found);
            if (result) fail("no file matches '%s': ./prepare prints the right --train and --val", pattern.c_str());
            std::vector<std::string> names(found.gl_pathv, found.gl_pathv + found.gl_pathc);  // sorted
            globfree(&found);
            for (auto &name : names) shards.emplace_back(name);
        }
        made_with = shards[0].made_with;
        for (const Shard &s : shards) add(s);
        if (order == OFFICIAL && shards.size() > 1)
            fail("'%s' are %zu files, the official order is one of a single file: name one, or leave the official order away", pattern.c_str(), shards.size());
        if (order == OFFICIAL) windows = magic_prime(tokens, T);
        if (!windows)
            fail("%s has %lld tokens, %s needs %lld: lower --ctx", pattern.c_str(), (long long)tokens,
                 order == OFFICIAL ? "the official order" : "a batch", order == OFFICIAL ? 3ll * T : T + 1ll);
    }
    // The number of full batches in `windows`; 0 is an error, since a loss over no batch is no loss.
    int64_t batches(int B) const {
        if (windows < B)
            fail("%s has %lld tokens, a batch of %d sequences needs %lld: lower --batch or --ctx",
                 pattern.c_str(), (long long)tokens, B, (long long)B * T + 1);
        return windows / B;
    }
    void check_ids(int vocab) const { for (const Shard &s : shards) s.check_ids(vocab); }

    // The first token of a sample, and that T more follow it.
    Tokens window(int64_t sample) const {
        if (order == OFFICIAL) return shards[0].tokens + official_piece(sample, windows) * T;
        uint64_t epoch = sample / windows, w = sample % windows, key = mix64(seed ^ mix64(epoch));
        if (order == SHUFFLED) w = permute(w, windows, key);
        size_t i = std::upper_bound(ends.begin(), ends.end(), (int64_t)w) - ends.begin();
        const Shard &s = shards[i];
        int64_t here = ends[i] - (i ? ends[i - 1] : 0), number = w - (ends[i] - here);
        int64_t phases = order == IN_ORDER ? 1 : std::min<int64_t>(T, s.count - here * T);
        return s.tokens + number * T + mix64(key + i + 1) % phases;
    }
    // Samples first ... first+B-1: x and y (B,T); with TC one after the other the chunks (B,TC), the last of what is left.
    void batch(int64_t first, int B, int *x, int *y, int TC = 0) const {
        for (int from = 0, n; from < T; from += n) {
            n = std::min(TC ? TC : T, T - from);
            for (int b = 0; b < B; b++) {
                Tokens t = window(first + b) + from;
                for (int i = 0; i < n; i++) *x++ = t[i], *y++ = t[i + 1];
            }
        }
    }

private:
    void add(const Shard &s) {
        const TokenizerId &a = made_with, &b = s.made_with;
        if (a.hash != b.hash || a.vocab != b.vocab || a.eot != b.eot)
            fail("%s and %s were made with different tokenizers (%s, %s): train on one of them",
                 shards[0].file.path.c_str(), s.file.path.c_str(), a.kind.empty() ? "unknown" : a.kind.c_str(), b.kind.empty() ? "unknown" : b.kind.c_str());
        tokens += s.count;
        text_bytes += s.text_bytes;
        if (s.count > T) windows += order == IN_ORDER ? (s.count - 1) / T : std::max<int64_t>(1, (s.count - T) / T);
        ends.push_back(windows);
    }
};

// Two buffers and a thread that fills one while the other is used: fill(i, first) is to put samples first ... first+B-1
// into buffer i.
class Prefetcher {
    const int B;
    const std::function<void(int, int64_t)> fill;
    int64_t first[2] = {-1, -1};  // what the buffers hold
    int current = 0;
    int64_t wanted = -1;          // what the thread is to put into buffer 1 - current; -1: nothing
    bool stop = false;
    std::mutex mutex;
    std::condition_variable changed;
    std::thread thread;

    void work() {
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            changed.wait(lock, [&] { return stop || wanted >= 0; });
            if (stop) return;
            lock.unlock();  // get() does not touch that buffer before wanted is -1 again
            fill(1 - current, wanted);
            lock.lock();
            first[1 - current] = wanted, wanted = -1;
            changed.notify_all();
        }
    }

public:
    Prefetcher(int B, std::function<void(int, int64_t)> fill) : B(B), fill(std::move(fill)), thread([this] { work(); }) {}
    Prefetcher(const Prefetcher &) = delete;
    ~Prefetcher() {
        { std::lock_guard<std::mutex> lock(mutex); stop = true; }
        changed.notify_all();
        thread.join();
    }
    // The buffer that holds the samples from `sample` on, until the next get().
    int get(int64_t sample) {
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [&] { return wanted < 0; });
        current = 1 - current;
        if (first[current] != sample) fill(current, sample), first[current] = sample;
        wanted = sample + B;
        changed.notify_all();
        return current;
    }
};
