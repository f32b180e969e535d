/* tests/data.h: shards, .bin/.idx pairs, batches, ./prepare from text to shard, ./tasks. */
#pragma once
#include "../rwkv/data.h"
#include "../rwkv/log.h"
#include "../rwkv/rng.h"
#include "../data_prep/output.h"
#include "tokenizer.h"
#include <map>
#include <set>
namespace preparing {
#define main prepare_main
#include "../data_prep/prepare.cpp"
#undef main
}  // namespace preparing
namespace tasks {
#define main tasks_main
#include "../data_prep/tasks.cpp"
#undef main
}  // namespace tasks

// ------------------------------------------------------------------------------------------------
// shards

inline std::string shard_bytes(int64_t n, TokenHeader h = {}) {  // tokens 0, 1, 2, ...
    h.count = n;
    std::string s((const char *)&h, sizeof h);
    for (int64_t i = 0; i < n; i++) s += le<uint16_t>(i);
    return s;
}
inline void write_shard(const std::string &stem, const std::vector<uint32_t> &ids, const TokenizerId &id = {}) {
    ShardWriter w(stem, id);
    w.add(ids.data(), ids.size(), ids.size());
    w.commit();
}
TEST("shard: what is written is read back, and llm.c's header is the start of ours") {
    ScratchDir d;
    {
        ShardWriter w(d / "x", {0x0123456789abcdef, 50257, 50256, "gpt2"});
        uint32_t a[] = {50256, 7, 65535}, b[] = {9};
        w.add(a, 3, 5000000000), w.add(b, 1, 17);
        CHECK(!file_exists(d / "x.bin"), "the name is there before commit()");
        CHECK(w.commit() == d / "x.bin" && w.tokens == 4 && w.text_bytes == 5000000017, "%lld tokens", (long long)w.tokens);
    }
    Shard s(d / "x.bin");
    CHECK(s.count == 4 && s.tokens[0] == 50256 && s.tokens[2] == 65535 && s.tokens[3] == 9, "tokens");
    CHECK(s.made_with.hash == 0x0123456789abcdef && s.made_with.vocab == 50257 && s.made_with.eot == 50256 && s.made_with.kind == "gpt2" && s.text_bytes == 5000000017, "header");
    const int32_t *words = (const int32_t *)s.file.data;
    CHECK(words[0] == 20240520 && words[1] == 1 && words[2] == 4 && s.file.size == 1024 + 8, "llm.c reads %d %d %d", words[0], words[1], words[2]);
    put_file(d / "l.bin", shard_bytes(10));  // as llm.c writes it: zeros behind word 2
    Shard l(d / "l.bin");
    CHECK(l.count == 10 && l.made_with.hash == 0 && l.made_with.vocab == 0 && l.made_with.eot == -1, "a shard of llm.c");
    { ShardWriter w(d / "gone", {}); uint32_t a[] = {1}; w.add(a, 1, 1); }
    CHECK(std::filesystem::directory_iterator(d.path) != std::filesystem::directory_iterator() && !file_exists(d / "gone.bin") && !file_exists(d / "gone.bin.tmp"), "an unfinished shard is left behind");
}
TEST("shard: what is wrong with a file is said") {
    ScratchDir d;
    TokenHeader version, swapped, vocab;
    version.version = 2, swapped.magic = __builtin_bswap32(20240520), vocab.vocab = 70000;
    std::string good = shard_bytes(10), minus = good;
    memcpy(&minus[8], "\xFF\xFF\xFF\xFF", 4);
    struct { std::string bytes; const char *says; } table[] = {
        {"", "is empty"}, {"\n<!DOCTYPE html><html>", "web page"}, {good.substr(0, 3), "not a token shard"}, {good.substr(0, 100), "cut off"}, {good.substr(0, 1043), "cut off"}, {good + "x", "damaged"}, {good + good, "says 10 tokens"},
        {std::string(2000, 'a'), "not a token shard"}, {shard_bytes(10, version), "version 2"}, {shard_bytes(10, swapped), "byte order"}, {shard_bytes(10, vocab), "vocabulary 70000"}, {minus, "says -1 tokens"},
    };
    for (auto &row : table) {
        put_file(d / "x.bin", row.bytes);
        CHECK_ERROR(Shard(d / "x.bin"), row.says);
        CHECK_ERROR(Shard(d / "x.bin"), "x.bin");
    }
    CHECK_ERROR(Shard(d / "none.bin"), "cannot open");
    CHECK_ERROR(Shard(d.path), "not a plain file");
}
TEST("shard: the first id beyond the vocabulary is named with its offset") {
    ScratchDir d;
    std::vector<uint32_t> ids(10000, 41);
    ids[8191] = 42, ids[9000] = 65535;
    write_shard(d / "x", ids);
    Shard s(d / "x.bin");
    s.check_ids(65536);
    CHECK_ERROR(s.check_ids(43), "token 9000 is 65535");
    CHECK_ERROR(s.check_ids(42), "token 8191 is 42, but the vocabulary has only ids 0 to 41");
    CHECK_ERROR(s.check_ids(10), "token 0 is 41");
}
TEST("shard: 3000 damaged files are refused or read, never a crash") {
    ScratchDir d;
    std::string good = shard_bytes(50);
    int sum = 0;
    fuzz(good.substr(0, 200) + good.substr(1024 - 100), 500, 21, [&](const std::string &s) { put_file(d / "x.bin", s); Shard(d / "x.bin"); });
    std::mt19937 random(22);
    for (int i = 0; i < 2500; i++) {
        std::string s = good;
        for (int n = 1 + random() % 3; n--;) s[random() % 52] = (char)(random() % 3 ? random() : 0);
        if (i % 5 == 0) s.resize(random() % s.size());
        put_file(d / "x.bin", s);
        try { Shard shard(d / "x.bin"); for (int64_t k = 0; k < shard.count; k++) sum += shard.tokens[k]; }
        catch (const Error &e) { CHECK(!strchr(e.what(), '\n'), "%s", e.what()); }
    }
    CHECK(sum > 0, "none was read");
}
TEST("shard writer: many tokens make several files, and an earlier run's files go") {
    ScratchDir d;
    for (const char *old : {"x_000000.bin", "x_000001.bin", "x_000002.bin", "x_000003.bin", "x_000004.bin", "x.bin", "y_000000.bin"}) put_file(d / old, "old");
    {
        ShardWriter w(d / "x", {}, 100);
        for (uint32_t i = 0; i < 250; i++) w.add(&i, 1, 2);
        CHECK(w.commit() == "'" + (d / "x_*.bin") + "'", "what --train is to be");
    }
    std::set<std::string> names;
    for (auto &f : std::filesystem::directory_iterator(d.path)) names.insert(f.path().filename());
    CHECK(names == (std::set<std::string>{"x_000000.bin", "x_000001.bin", "x_000002.bin", "y_000000.bin"}), "%zu files", names.size());
    Shard last(d / "x_000002.bin");
    CHECK(last.count == 50 && last.tokens[0] == 200 && last.text_bytes == 100, "the last has %lld tokens", (long long)last.count);
    write_shard(d / "x", {1, 2, 3});
    CHECK(Shard(d / "x.bin").count == 3 && !file_exists(d / "x_000000.bin") && !file_exists(d / "x_000002.bin") && file_exists(d / "y_000000.bin"), "one file replaces the three");
    CHECK_ERROR(ShardWriter(d / "no/such/x", {}), "cannot write");
    std::filesystem::create_directory(d / "dir.bin");
    CHECK_ERROR(ShardWriter(d / "dir", {}), "dir.bin");
}

// ------------------------------------------------------------------------------------------------
// batches

TEST("loader: permute() is a permutation of every size, and another for another key") {
    for (uint64_t n : {1, 2, 3, 4, 5, 16, 17, 1000, 4096, 65537}) {
        std::vector<bool> seen(n);
        int same = 0;
        for (uint64_t i = 0; i < n; i++) {
            uint64_t p = permute(i, n, 77);
            CHECK(p < n && !seen[p], "n = %llu: %llu comes twice or is too large", (unsigned long long)n, (unsigned long long)p);
            seen[p] = true;
            same += p == permute(i, n, 78);
        }
        CHECK(n < 100 || same < 20, "n = %llu: two keys agree %d times", (unsigned long long)n, same);
    }
    double sum = 0;  // neighbours are torn apart: |p(i+1) - p(i)| is n/3 on average for a random permutation
    for (int i = 0; i < 9999; i++) sum += fabs((double)permute(i + 1, 10000, 5) - (double)permute(i, 10000, 5));
    CHECK(sum / 9999 > 3000 && sum / 9999 < 3700, "mean distance of neighbours is %.0f of 10000", sum / 9999);
}
TEST("loader: every epoch takes every window of every shard once; borders move; y is x shifted; T odd and even") {
    ScratchDir d;
    struct { int64_t a, b; int T; } table[] = {{1000, 333, 16}, {1000, 17, 16}, {18, 5, 17}, {100, 100, 1}, {257, 64, 63}, {130, 66, 65}};
    for (auto &row : table) {
        put_file(d / "a_0.bin", shard_bytes(row.a));
        TokenHeader h;
        h.count = row.b;
        std::string b((const char *)&h, sizeof h);
        for (int i = 0; i < row.b; i++) b += le<uint16_t>(10000 + i);
        put_file(d / "a_1.bin", b);
        const int T = row.T;
        Loader loader(d / "a_*.bin", T, Loader::SHUFFLED, 1);
        CHECK(loader.tokens == row.a + row.b, "%lld tokens", (long long)loader.tokens);
        std::set<int> phases, orders;
        for (int epoch = 0; epoch < 20; epoch++) {
            std::set<int> starts;
            for (int64_t i = 0; i < loader.windows; i++) {
                std::vector<int> x(T), y(T);
                loader.batch(epoch * loader.windows + i, 1, x.data(), y.data());
                for (int t = 0; t < T; t++) CHECK(x[t] == x[0] + t && y[t] == x[t] + 1, "x[%d] = %d, y = %d", t, x[t], y[t]);
                CHECK(y[T - 1] < (x[0] < 10000 ? row.a : 10000 + row.b), "beyond the shard");
                starts.insert(x[0]);
                if (i == 0) orders.insert(x[0]);
            }
            CHECK((int64_t)starts.size() == loader.windows, "epoch %d: %zu of %lld windows", epoch, starts.size(), (long long)loader.windows);
            for (auto s = starts.begin(), n = std::next(s); n != starts.end(); s++, n++) CHECK(*n - *s >= T, "windows at %d and %d overlap", *s, *n);
            phases.insert(*starts.begin());
        }
        if (row.a >= 2 * T && T > 1) CHECK(phases.size() > 5 || (int)phases.size() == T, "T = %d: only %zu phases in 20 epochs", T, phases.size());
        if (loader.windows > 10) CHECK(orders.size() > 5, "the epochs begin alike");
    }
}
TEST("loader: a batch is a function of seed and sample number alone") {
    ScratchDir d;
    put_file(d / "x.bin", shard_bytes(5000));
    const int T = 31, B = 4;
    Loader one(d / "x.bin", T, Loader::SHUFFLED, 9), two(d / "x.bin", T, Loader::SHUFFLED, 9), other(d / "x.bin", T, Loader::SHUFFLED, 10);
    std::map<int64_t, std::vector<int>> seen;
    std::vector<int> x(B * T), y(B * T);
    for (int64_t s = 0; s < 1000; s += B) one.batch(s, B, x.data(), y.data()), seen[s] = x;
    int differ = 0;
    for (int64_t s = 996; s >= 0; s -= B) {
        two.batch(s, B, x.data(), y.data());
        CHECK(x == seen[s], "sample %lld depends on what was asked before", (long long)s);
        two.batch(s + 2, 1, x.data(), y.data());
        CHECK(std::equal(x.begin(), x.begin() + T, seen[s].begin() + 2 * T), "sample %lld depends on the batch it is in", (long long)s + 2);
        other.batch(s, B, x.data(), y.data());
        differ += x != seen[s];
    }
    CHECK(differ > 240, "another seed gives the same batches");
}
TEST("loader: in order for validation") {
    ScratchDir d;
    put_file(d / "x.bin", shard_bytes(101));
    Loader loader(d / "x.bin", 10, Loader::IN_ORDER);
    CHECK(loader.windows == 10 && loader.batches(3) == 3 && loader.batches(10) == 1, "%lld windows", (long long)loader.windows);
    int x[10], y[10];
    for (int i = 0; i < 10; i++) { loader.batch(i, 1, x, y); CHECK(x[0] == 10 * i && y[9] == 10 * i + 10, "window %d begins at %d", i, x[0]); }
    loader.batch(10, 1, x, y);
    CHECK(x[0] == 0, "behind the last window comes the first, not %d", x[0]);
}
TEST("loader: too short, no match, mixed tokenizers, no validation batch: a sentence each") {
    ScratchDir d;
    put_file(d / "x.bin", shard_bytes(900));
    CHECK_ERROR(Loader(d / "x.bin", 1024, Loader::SHUFFLED), "x.bin has 900 tokens, a batch needs 1025: lower --ctx");
    CHECK_ERROR(Loader(d / "y_*.bin", 16, Loader::SHUFFLED), "no file matches");
    CHECK_ERROR(Loader(d / "y.bin", 16, Loader::SHUFFLED), "cannot open");
    CHECK_ERROR(Loader(d / "x.bin", 100, Loader::IN_ORDER).batches(9), "900 tokens, a batch of 9 sequences needs 901: lower --batch or --ctx");
    CHECK(Loader(d / "x.bin", 899, Loader::SHUFFLED).windows == 1 && Loader(d / "x.bin", 899, Loader::IN_ORDER).batches(1) == 1, "T+1 tokens are one window");
    write_shard(d / "z_0", {1, 2, 3, 4}, {1, 256, -1, "byte"});
    write_shard(d / "z_1", {1, 2, 3, 4}, {2, 256, -1, "char"});
    CHECK_ERROR(Loader(d / "z_*.bin", 2, Loader::SHUFFLED), "different tokenizers (byte, char)");
    put_file(d / "[1].bin", shard_bytes(50));
    CHECK(Loader(d / "[1].bin", 2, Loader::SHUFFLED).tokens == 50, "a file whose name looks like a pattern");
}
TEST("loader: a batch in chunks") {
    ScratchDir d;
    put_file(d / "x.bin", shard_bytes(101));
    Loader loader(d / "x.bin", 7, Loader::SHUFFLED);
    int x[14], y[14], cx[14], cy[14];
    loader.batch(0, 2, x, y), loader.batch(0, 2, cx, cy, 3);
    for (int b = 0; b < 2; b++)
        for (int t = 0; t < 7; t++) {
            int from = t / 3 * 3, at = 2 * from + b * std::min(3, 7 - from) + t - from;  // (2,3), (2,3), (2,1)
            CHECK(cx[at] == x[7 * b + t] && cy[at] == y[7 * b + t], "token %d of sample %d is %d, not %d", t, b, cx[at], x[7 * b + t]);
        }
}
TEST("prefetcher: the batches of the loader, in a row, repeated and after a jump") {
    ScratchDir d;
    put_file(d / "x.bin", shard_bytes(60000));
    const int T = 1001, B = 32;  // large enough that filling a batch takes longer than asking for the next
    Loader loader(d / "x.bin", T, Loader::SHUFFLED, 2);
    std::vector<int> held[2][2], x(B * T), y(B * T);
    for (auto &buffer : held) for (auto &tokens : buffer) tokens.resize(B * T);
    Prefetcher p(B, [&](int i, int64_t first) { loader.batch(first, B, held[i][0].data(), held[i][1].data()); });
    std::mt19937 random(1);
    int64_t s = 0;
    for (int i = 0; i < 500; i++, s = random() % 10 ? s + B : random() % 5000) {
        auto &buffer = held[p.get(s)];
        loader.batch(s, B, x.data(), y.data());
        CHECK(buffer[0] == x && buffer[1] == y, "batch at sample %lld is wrong", (long long)s);
    }
}

// ------------------------------------------------------------------------------------------------
// .bin and .idx of RWKV-LM

inline std::string idx_bytes(const std::vector<int> &sizes, int type) {
    std::string s("MMIDIDX\0\0", 9), starts, borders = le<int64_t>(0);
    s += le<uint64_t>(1) + (char)type + le<uint64_t>(sizes.size()) + le<uint64_t>(sizes.size() + 1);
    int64_t at = 0, i = 0;
    for (int n : sizes) s += le<int32_t>(n), starts += le(at), at += n * (type == 8 ? 2 : 4), borders += le(++i);
    return s + starts + borders;
}
TEST("binidx: what is written is read back, in the bytes that the format says") {
    ScratchDir d;
    for (int vocab : {65536, 65537}) {
        std::vector<uint32_t> ids = {7, 300, 65535, 9, vocab > 65536 ? 70000u : 5u};
        {
            BinIdxWriter w(d / "x", vocab);
            w.add(ids.data(), 3, 10), w.end_document(), w.add(&ids[3], 1, 1), w.add(&ids[4], 1, 1), w.end_document();
            CHECK(!file_exists(d / "x.bin") || vocab > 65536, "the name is there before commit()");
            CHECK(w.commit() == d / "x.bin" && w.tokens == 7 && w.text_bytes == 12, "%lld tokens", (long long)w.tokens);
        }
        CHECK(file_bytes(d / "x.idx") == idx_bytes({4, 3}, vocab > 65536 ? 4 : 8), "V = %d: the .idx differs", vocab);
        Shard s(d / "x.bin");
        std::vector<int> expected = {7, 300, 65535, 0, 9, (int)ids[4], 0};
        CHECK(s.count == 7 && s.tokens.width == (vocab > 65536 ? 4 : 2) && s.file.size == 7u * s.tokens.width, "%lld tokens of %d bytes", (long long)s.count, s.tokens.width);
        for (int i = 0; i < 7; i++) CHECK(s.tokens[i] == expected[i], "token %d is %d", i, s.tokens[i]);
        CHECK(s.made_with.eot == 0 && s.made_with.vocab == 0 && s.made_with.hash == 0, "such a file does not say more");
        s.check_ids(70001);
        CHECK_ERROR(s.check_ids(65535), "token 2 is 65535, but the vocabulary has only ids 0 to 65534");
    }
    put_file(d / "n.bin", le<int32_t>(5) + le<int32_t>(-3)), put_file(d / "n.idx", idx_bytes({2}, 4));
    CHECK_ERROR(Shard(d / "n.bin").check_ids(65536), "token 1 is -3");
    BinIdxWriter w(d / "long", 256, 100);  // a document that is longer than a document may be
    std::vector<uint32_t> ids(30, 1);
    for (int i = 0; i < 10; i++) w.add(ids.data(), 30, 30);
    w.end_document(), w.commit();
    CHECK(file_bytes(d / "long.idx") == idx_bytes({90, 90, 90, 31}, 8) && Shard(d / "long.bin").count == 301, "long documents");
    { BinIdxWriter gone(d / "gone", 256); gone.add(ids.data(), 3, 3); }
    CHECK(!file_exists(d / "gone.bin") && !file_exists(d / "gone.idx") && !file_exists(d / "gone.bin.tmp") && !file_exists(d / "gone.idx.tmp"), "an unfinished pair is left behind");
}
TEST("binidx: what is wrong with a pair is said in a sentence") {
    ScratchDir d;
    std::string bin = shard_bytes(10).substr(1024), good = idx_bytes({4, 6}, 8);  // documents of 4 and 6 tokens
    auto with = [&](size_t at, const std::string &bytes) { std::string s = good; s.replace(at, bytes.size(), bytes); return s; };
    struct { std::string bin, idx; const char *says; } table[] = {
        {bin, "", "x.idx is not the index of a .bin (it is too short)"}, {bin, good.substr(0, 33), "too short"}, {bin, with(0, "MMIDIDY"), "does not begin with MMIDIDX"}, {bin, "<!DOCTYPE html><html><body>Not found", "does not begin"},
        {bin, with(9, le<uint64_t>(2)), "version 2"}, {bin, with(17, "\5"), "of type 5"}, {bin, with(17, "\4"), "document 1 is 6 tokens at byte 8, but those before it end at byte 16"},
        {bin, with(18, le<uint64_t>(3)), "lists 3 documents and 3 borders"}, {bin, with(18, le<uint64_t>(~0ull)), "is damaged: it lists"}, {bin, with(18, le<uint64_t>(1ull << 61)), "is damaged: it lists"}, {bin, with(26, le<uint64_t>(1ull << 61)), "is damaged: it lists"},
        {bin, good + "x", "83 bytes, is wrong"}, {bin, good.substr(0, 80), "80 bytes, is wrong"}, {bin, with(34, le<int32_t>(-4)), "document 0 is -4 tokens"}, {bin, with(42, le<int64_t>(2)), "document 0 is 4 tokens at byte 2, but those before it end at byte 0"},
        {bin, with(58, le<int64_t>(1)), "border 0 is at document 1 of 2"}, {bin, with(74, le<int64_t>(-1)), "border 2 is at document -1"}, {bin, with(74, le<int64_t>(3)), "border 2 is at document 3 of 2"},
        {bin + "x", good, "x.idx does not belong to "}, {bin.substr(0, 18), good, "its documents have at least 20 bytes, the .bin has 18"}, {bin + bin, good, "its documents have 20 bytes, the .bin has 40; use two files that were written together"}, {"", good, "is empty"},
    };
    for (auto &row : table) {
        put_file(d / "x.bin", row.bin), put_file(d / "x.idx", row.idx);
        CHECK_ERROR(Shard(d / "x.bin"), row.says);
        CHECK_ERROR(Shard(d / "x.bin"), d / "x.");
    }
    put_file(d / "x.bin", bin), put_file(d / "x.idx", good);
    CHECK_ERROR(Loader(d / "x.idx", 2, Loader::SHUFFLED), "is the index of a .bin: name the .bin");
    CHECK(Shard(d / "x.bin").count == 10, "the good pair");
    put_file(d / "y.bin", bin);
    CHECK_ERROR(Shard(d / "y.bin"), "no .idx is beside it");
    put_file(d / "x.bin", shard_bytes(3));
    CHECK(Shard(d / "x.bin").count == 3, "a shard stays a shard, whatever lies beside it");
    write_shard(d / "x", {1, 2});
    CHECK(!file_exists(d / "x.idx"), "a new shard removes the .idx of an earlier run");
}
TEST("binidx: 10000 damaged pairs are refused or read, never a crash") {
    ScratchDir d;
    std::mt19937 random(41);
    int read = 0, refused = 0;
    int64_t sum = 0;
    for (int i = 0; i < 10000; i++) {
        std::vector<int> sizes(random() % 5);
        int n = 0, type = random() % 2 ? 8 : 4;
        for (int &s : sizes) n += s = random() % 20;
        std::string bin, idx = idx_bytes(sizes, type);
        for (int k = 0; k < n; k++) bin += type == 8 ? le<uint16_t>(k) : le<int32_t>(k);
        std::string &victim = random() % 8 ? idx : bin;
        for (int k = random() % 4; k-- && !victim.empty();) victim[random() % victim.size()] = (char)(random() % 3 ? random() : random() % 2 ? 0xFF : 0);
        if (random() % 5 == 0) victim.resize(random() % (victim.size() + 1));
        else if (random() % 9 == 0) victim += std::string(random() % 20, '\1');
        put_file(d / "x.bin", bin), put_file(d / "x.idx", idx);
        try {
            Loader loader(d / "x", 3, Loader::OFFICIAL);
            int x[3], y[3];
            for (int64_t s = 0; s < loader.windows; s++) loader.batch(s, 1, x, y), sum += x[0] + y[2];
            Shard s(d / "x.bin");
            for (int64_t k = 0; k < s.count; k++) sum += s.tokens[k];
            read++;
        } catch (const Error &e) {
            refused++;
            CHECK(!strchr(e.what(), '\n') && strstr(e.what(), "/x"), "%s", e.what());
        }
    }
    CHECK(read > 500 && refused > 5000 && sum, "%d read, %d refused", read, refused);
}
TEST("official order: magic primes and pieces of published data sets") {
    struct { int64_t tokens; int T; int64_t prime; std::vector<int64_t> pieces; } table[] = {
        {1498226207, 512, 2926181, {1808479, 2763108, 2010037, 1621597, 743938, 1449391, 2884106, 1268052}},  // minipile
        {1498226207, 4096, 365759, {226051, 345372, 251233, 202663, 92932}},
        {332115325534, 1024, 324331313, {200447775, 306256948}}, {332115325534, 2048, 162165671, {}}, {332115325534, 4096, 81082817, {50111936}}, {332115325534, 8192, 40541399, {}},  // the Pile
        {10000000000000, 16, 624999999959, {386271242943, 590169943708, 429323560117, 346359549951}},  // factors of 40 bits
        {3000, 1000, 2, {1, 0, 1, 0}}, {2999, 1000, 0, {}}, {0, 1, 0, {}},
    };
    for (auto &row : table) {
        CHECK(magic_prime(row.tokens, row.T) == row.prime, "%lld / %d: %lld", (long long)row.tokens, row.T, (long long)magic_prime(row.tokens, row.T));
        for (size_t i = 0; i < row.pieces.size(); i++)
            CHECK(official_piece(i, row.prime) == row.pieces[i], "p = %lld, sample %zu: %lld", (long long)row.prime, i, (long long)official_piece(i, row.prime));
    }
    CHECK(official_piece(123456789011, 2926181) == 293434 && official_piece(123456789011, 624999999959) == 446036500007, "cubes far beyond 64 bits");
    for (int n = 0; n < 2000; n++) {
        bool prime = n > 1;
        for (int i = 2; i < n; i++) prime &= n % i != 0;
        CHECK(is_prime(n) == prime, "%d", n);
    }
}
TEST("official order: p samples take every piece once, then again; alike from both formats and any batch") {
    ScratchDir d;
    for (int T : {1, 2, 7, 16, 65}) {
        std::vector<uint32_t> ids(1000);
        for (size_t i = 0; i < ids.size(); i++) ids[i] = i;
        write_shard(d / "s", ids);
        BinIdxWriter w(d / "b", 70000);
        w.add(ids.data(), ids.size(), 0), w.commit();
        Loader shard(d / "s.bin", T, Loader::OFFICIAL, 1), pair(d / "b", T, Loader::OFFICIAL, 2);
        int64_t p = shard.windows;
        CHECK(p == magic_prime(1000, T) && pair.windows == p && pair.tokens == 1000, "T = %d: %lld and %lld windows", T, (long long)p, (long long)pair.windows);
        std::set<int> starts;
        for (int64_t s = 0; s < 2 * p; s += 3) {
            std::vector<int> x(3 * T), y(3 * T), x2(3 * T), y2(3 * T);
            shard.batch(s, 3, x.data(), y.data()), pair.batch(s, 3, x2.data(), y2.data());
            CHECK(x == x2 && y == y2, "the formats differ at sample %lld", (long long)s);
            for (int b = 0; b < 3; b++) {
                CHECK(x[b * T] == official_piece(s + b, p) * T && y[b * T + T - 1] == x[b * T] + T && y[b * T + T - 1] < 1000, "sample %lld begins at %d", (long long)s + b, x[b * T]);
                if (s + b < p) CHECK(starts.insert(x[b * T]).second, "piece %d comes twice", x[b * T] / T);
            }
        }
        CHECK((int64_t)starts.size() == p, "%zu of %lld pieces", starts.size(), (long long)p);
        for (Loader::Order order : {Loader::SHUFFLED, Loader::IN_ORDER}) {  // our own orders, of the pair
            Loader a(d / "s.bin", T, order, 3), b(d / "b.bin", T, order, 3);
            std::vector<int> x(4 * T), y(4 * T), x2(4 * T), y2(4 * T);
            for (int64_t s = 0; s < 40; s += 4) {
                a.batch(s, 4, x.data(), y.data()), b.batch(s, 4, x2.data(), y2.data());
                CHECK(x == x2 && y == y2, "order %d: the formats differ", order);
            }
        }
    }
    CHECK_ERROR(Loader(d / "s.bin", 400, Loader::OFFICIAL), "s.bin has 1000 tokens, the official order needs 1200: lower --ctx");
    write_shard(d / "t", {1, 2, 3, 4});
    CHECK_ERROR(Loader(d / "?.bin", 1, Loader::SHUFFLED), "different tokenizers");  // a pair says that token 0 ends texts, these shards do not
    std::filesystem::remove(d / "b.bin");
    CHECK_ERROR(Loader(d / "?.bin", 1, Loader::OFFICIAL), "are 2 files, the official order is one of a single file");
    CHECK_ERROR(Loader(d / "b", 1, Loader::SHUFFLED), "cannot open " + (d / "b.bin"));
}

// ------------------------------------------------------------------------------------------------
// prepare

// Runs it in this process; returns what it prints.
inline std::string run_prepare(std::vector<std::string> words, std::string *warnings = nullptr) {
    ScratchDir d;
    preparing::Settings o;
    o.tokenizer = "byte", o.val = 0.1, o.format = "shard", o.text_key = "text";
    bool given = false;
    std::vector<std::string> inputs;
    for (size_t i = 0; i < words.size(); i++) {
        if (words[i].compare(0, 2, "--")) { inputs.push_back(words[i]); continue; }
        std::string name = words[i++].substr(2);
        if (name == "tokenizer") o.tokenizer = words[i], given = true;
        else if (name == "val") o.val = atof(words[i].c_str());
        else (name == "out" ? o.out : name == "format" ? o.format : name == "keep" ? o.keep : name == "text-key" ? o.text_key : o.tokenizer_file) = words[i];
    }
    fflush(stdout), fflush(stderr);
    int out = dup(1), err = dup(2), f = open((d / "out").c_str(), O_CREAT | O_WRONLY, 0666), g = open((d / "err").c_str(), O_CREAT | O_WRONLY, 0666);
    dup2(f, 1), dup2(g, 2), close(f), close(g);
    std::exception_ptr thrown;
    try { preparing::prepare(o, inputs, given); } catch (...) { thrown = std::current_exception(); }
    fflush(stdout), fflush(stderr);
    dup2(out, 1), dup2(err, 2), close(out), close(err);
    if (thrown) std::rethrow_exception(thrown);
    if (warnings) *warnings = file_bytes(d / "err");
    return file_bytes(d / "out");
}
inline std::vector<uint32_t> shard_ids(const std::string &path) {
    Shard s(path);
    std::vector<uint32_t> ids(s.count);
    for (int64_t i = 0; i < s.count; i++) ids[i] = s.tokens[i];
    return ids;
}

TEST("prepare: a 1 KB text, byte and char; the printed command has batches") {
    ScratchDir d;
    std::string text;
    for (int i = 0; i < 100; i++) text += "h\u00E9llo " + std::to_string(i % 10) + "\r\n";  // 900 characters, 1000 bytes
    put_file(d / "t.txt", "\xEF\xBB\xBF" + text);
    for (const char *kind : {"byte", "char"}) {
        std::filesystem::remove(d / "deep/er/x.tok");  // it would be kept
        std::string said = run_prepare({d / "t.txt", "--tokenizer", kind, "--out", d / "deep/er/x"});
        auto tok = load_tokenizer(d / "deep/er/x.tok");
        std::string train = tok->decode(shard_ids(d / "deep/er/x_train.bin")), val = tok->decode(shard_ids(d / "deep/er/x_val.bin"));
        CHECK(train + val == text && train == text.substr(0, 900), "%s: %zu + %zu bytes", kind, train.size(), val.size());
        Shard s(d / "deep/er/x_train.bin");
        CHECK(s.made_with.hash == tok->hash && s.made_with.kind == kind && s.made_with.vocab == tok->vocab && s.text_bytes == 900, "%s: header, %lld bytes", kind, (long long)s.text_bytes);
        CHECK(said.find("--train " + (d / "deep/er/x_train.bin")) != said.npos && said.find("--out runs/x ") != said.npos, "%s", said.c_str());
        int T = atoi(said.c_str() + said.find("--ctx ") + 6), B = atoi(said.c_str() + said.find("--batch ") + 8);
        CHECK(Loader(d / "deep/er/x_val.bin", T, Loader::IN_ORDER).batches(B) >= 1 && Loader(d / "deep/er/x_train.bin", T, Loader::SHUFFLED).windows, "ctx %d batch %d does not run", T, B);
    }
    CHECK(load_tokenizer(d / "deep/er/x.tok")->vocab == 17, "h \u00E9 l o space CR LF 0-9: V = %d", load_tokenizer(d / "deep/er/x.tok")->vocab);
    std::string said = run_prepare({d / "t.txt", "--val", "0", "--out", d / "n"});
    CHECK(!file_exists(d / "n_val.bin") && said.find("--val") == said.npos && shard_ids(d / "n_train.bin").size() == 1000, "--val 0: %s", said.c_str());
}
TEST("prepare: documents begin with the end-of-text token; .txt and .jsonl; several files") {
    ScratchDir d;
    std::mt19937 random(30);
    SmallBpe v(random, 30, "abc ");
    int eot = v.tokens.size() - 1;
    Tokenizer t("gpt2", v.tokens, eot, v.merges);
    t.save(d / "t.tok");
    put_file(d / "a.txt", "abc abc ab");
    put_file(d / "b.jsonl", "{\"text\": \"aa\", \"n\": 1}\n\n{\"n\": 2, \"text\": \"b\\u0063\"}\r\n{\"text\": \"c\"}");
    run_prepare({d / "a.txt", d / "b.jsonl", "--tokenizer-file", d / "t.tok", "--val", "0.34", "--out", d / "x"});
    auto with = [&](std::initializer_list<const char *> documents) {
        std::vector<uint32_t> ids;
        for (const char *s : documents) { ids.push_back(eot); t.encode(s, ids); }
        return ids;
    };
    CHECK(shard_ids(d / "x_train.bin") == with({"abc ab", "aa"}), "train: %s", ids_text(shard_ids(d / "x_train.bin")).c_str());
    CHECK(shard_ids(d / "x_val.bin") == with({"c ab", "bc", "c"}), "val: %s", ids_text(shard_ids(d / "x_val.bin")).c_str());
    CHECK(file_bytes(d / "x.tok") == file_bytes(d / "t.tok"), "the tokenizer is copied");
    run_prepare({d / "b.jsonl", "--val", "0.34", "--out", d / "y"});
    CHECK(import_bytes()->decode(shard_ids(d / "y_train.bin")) == "aa\n" && import_bytes()->decode(shard_ids(d / "y_val.bin")) == "bc\nc\n", "without end of text a document ends in a newline");
    std::string warning;
    put_file(d / "b.txt", file_bytes(d / "b.jsonl"));
    run_prepare({d / "b.txt", "--out", d / "z"}, &warning);
    CHECK(warning.find("3 of the 4 lines") != warning.npos && warning.find("rename it to .jsonl") != warning.npos, "jsonl as .txt: '%s'", warning.c_str());
    run_prepare({d / "a.txt", "--out", d / "z"}, &warning);
    CHECK(warning.empty(), "a warning for nothing: %s", warning.c_str());
    run_prepare({"--tokenizer-file", d / "t.tok", "--out", d / "only"});
    CHECK(file_exists(d / "only.tok") && !file_exists(d / "only_train.bin"), "without a text only the tokenizer");
}
TEST("prepare: --format binidx writes the tokens of the shards, with 0 behind each document and a list of them") {
    ScratchDir d;
    put_file(d / "a.txt", "abc abc ab");
    put_file(d / "b.jsonl", "{\"text\": \"aa\"}\n{\"text\": \"bc\"}\n{\"text\": \"c\"}");
    std::string said = run_prepare({d / "a.txt", d / "b.jsonl", "--format", "binidx", "--val", "0.34", "--out", d / "x"});
    auto with = [](std::initializer_list<const char *> documents) {
        std::vector<uint32_t> ids;
        for (const char *s : documents) { for (; *s; s++) ids.push_back(*s); ids.push_back(0); }
        return ids;
    };
    CHECK(shard_ids(d / "x_train.bin") == with({"abc ab", "aa\n"}) && file_bytes(d / "x_train.idx") == idx_bytes({7, 4}, 8), "train: %s", ids_text(shard_ids(d / "x_train.bin")).c_str());
    CHECK(shard_ids(d / "x_val.bin") == with({"c ab", "bc\n", "c\n"}) && file_bytes(d / "x_val.idx") == idx_bytes({5, 4, 3}, 8), "val: %s", ids_text(shard_ids(d / "x_val.bin")).c_str());
    CHECK(said.find("2 documents, 9 bytes, 9 tokens + 2 end-of-text") != said.npos, "%s", said.c_str());
    std::string text;
    for (int i = 0; i < 40000; i++) text += "word" + std::to_string(i) + " ";
    put_file(d / "long.txt", text);  // several blocks
    said = run_prepare({d / "long.txt", "--format", "binidx", "--val", "0", "--out", d / "l"});
    std::vector<uint32_t> ids = shard_ids(d / "l_train.bin");
    CHECK(ids.back() == 0 && std::string(ids.begin(), ids.end() - 1) == text && file_bytes(d / "l_train.idx") == idx_bytes({(int)text.size() + 1}, 8), "a document of several blocks is one document");
    CHECK(said.find(format("--data_file %s --data_type binidx --ctx_len 64 --my_exit_tokens %zu --magic_prime %lld", (d / "l_train").c_str(), ids.size(), (long long)magic_prime(ids.size(), 64))) != said.npos, "%s", said.c_str());
    CHECK(Loader(d / "l_train", 64, Loader::OFFICIAL).windows == magic_prime(ids.size(), 64), "the printed prime is not the one that we use");
    std::mt19937 random(32);
    SmallBpe v(random, 30, "abc ");
    Tokenizer("gpt2", v.tokens, v.tokens.size() - 1, v.merges).save(d / "g.tok");
    CHECK_ERROR(run_prepare({d / "a.txt", "--format", "binidx", "--out", d / "y", "--tokenizer", "char"}), "is a piece of text in the tokenizer char");
    CHECK_ERROR(run_prepare({d / "a.txt", "--format", "binidx", "--out", d / "y", "--tokenizer-file", d / "g.tok"}), "is a piece of text in the tokenizer gpt2");
    CHECK(!file_exists(d / "y_train.bin") && !file_exists(d / "y_train.bin.tmp"), "something was written");
}
TEST("prepare: --keep drops all other characters") {
    ScratchDir d;
    std::string text = "The quick brown fox, jumps over the lazy dog. PACK MY BOX WITH FIVE DOZEN LIQUOR JUGS\n(1) \u00E9\t- ", kept;
    for (int i = 0; i < 20; i++) text += text.substr(0, 100);
    put_file(d / "t.txt", text);
    std::string said = run_prepare({d / "t.txt", "--tokenizer", "char", "--keep", "a-zA-Z .,\\n", "--out", d / "x"});
    for (char c : text) if (isalpha((unsigned char)c) || strchr(" .,\n", c)) kept += c;
    auto t = load_tokenizer(d / "x.tok");
    CHECK(t->vocab == 56, "52 letters and 4 others make %d", t->vocab);
    CHECK(t->decode(shard_ids(d / "x_train.bin")) + t->decode(shard_ids(d / "x_val.bin")) == kept, "other text");
    CHECK(Shard(d / "x_train.bin").text_bytes == Shard(d / "x_train.bin").count, "dropped bytes are no text");
    CHECK(said.find("characters without a token were dropped") != said.npos, "%s", said.c_str());
    CHECK(preparing::keep_set("a-c\\-\\\\x-").size() == 6 && preparing::keep_set("\u00E0-\u00E2").count(0xE1), "ranges and escapes");
    CHECK_ERROR(preparing::keep_set("z-a"), "ends before it begins");
    CHECK_ERROR(preparing::keep_set("\\q"), "\\q");
    CHECK_ERROR(run_prepare({d / "t.txt", "--keep", "a", "--out", d / "x"}), "--keep is for --tokenizer char, not byte");
    put_file(d / "q.txt", "Qaaa");
    CHECK_ERROR(run_prepare({d / "q.txt", "--tokenizer", "char", "--keep", "Q", "--val", "0.5", "--out", d / "e"}), "gives 1 bytes of text to train on and 0 to validate with");
    CHECK_ERROR(run_prepare({d / "t.txt", "--tokenizer", "char", "--keep", "%", "--out", d / "x"}), "none of the characters of --keep");
}
TEST("prepare: what is wrong with a text is said, with the byte and the way out, and nothing is written") {
    ScratchDir d;
    auto with = [&](const char *name, const std::string &bytes) { put_file(d / name, bytes); return d / name; };
    std::string utf16 = std::string("\xFF\xFEh\0i\0", 6), bare("h\0e\0l\0l\0", 8), big(3 << 20, 'a');
    for (size_t i = 0; i < big.size(); i += 50) big[i] = ' ';
    big[(2 << 20) + 12345] = '\xE9';
    struct { std::string file; const char *says; } table[] = {
        {with("empty.txt", ""), "empty.txt is empty"}, {with("mark.txt", "\xEF\xBB\xBF"), "has no text"}, {with("utf16.txt", utf16), "iconv -f UTF-16 -t UTF-8"}, {with("bare.txt", bare), "iconv -f UTF-16LE"},
        {with("latin.txt", "caf\xE9 au lait"), "byte 3 is 0xE9"}, {with("end.txt", "caf\xC3"), "byte 3 is 0xC3"}, {with("big.txt", big), "byte 2109497 is 0xE9"}, {d / "none.txt", "cannot open"}, {d.path, "not a plain file"},
        {with("a.jsonl", "{\"text\": \"a\"}\n{\"story\": \"b\", \"n\": 3}\n"), "line 2 has no text under the key \"text\": name the right one with --text-key (it has \"story\")"}, {with("b.jsonl", "{\"text\": 3}"), "line 1 has no text"},
        {with("c.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\""), "c.jsonl line 2 is not valid JSON"}, {with("d.jsonl", "\n\n"), "has no text"}, {with("e.jsonl", ""), "is empty"}, {with("f.jsonl", "{\"text\": \"\"}\n"), "gives 0 bytes of text to train on"},
        {with("one.jsonl", "{\"text\": \"all there is\"}\n"), "gives 0 bytes of text to train on"},
    };
    for (auto &row : table) CHECK_ERROR(run_prepare({row.file, "--tokenizer", "char", "--out", d / "out/x"}), row.says);
    CHECK(!file_exists(d / "out/x_train.bin") && !file_exists(d / "out/x.tok") && !file_exists(d / "out/x_train.bin.tmp"), "something was written");
    run_prepare({d / "latin.txt", "--val", "0.3", "--out", d / "out/x"});  // bytes are bytes
    CHECK(shard_ids(d / "out/x_train.bin")[3] == 0xE9, "byte takes anything");
    CHECK_ERROR(run_prepare({d / "latin.txt", "--tokenizer", "world", "--tokenizer-file", d / "none", "--out", d / "out/x"}), "download.sh world");
    CHECK_ERROR(run_prepare({d / "latin.txt", "--tokenizer", "char", "--tokenizer-file", d / "out/x.tok", "--out", d / "out/y"}), "is of the kind byte");
    CHECK_ERROR(run_prepare({"--tokenizer", "char", "--out", d / "out/y"}), "none is named");
    CHECK_ERROR(run_prepare({"--out", d / "out/y"}), "no text is named");
    put_file(d / "file", "");
    CHECK_ERROR(run_prepare({d / "latin.txt", "--out", d / "file/x"}), "cannot create");
    if (getuid()) CHECK_ERROR(run_prepare({d / "latin.txt", "--out", "/proc/x"}), "cannot write");
}
TEST("prepare: a text of many blocks gives the ids of the whole text, split at a character") {
    ScratchDir d;
    std::mt19937 random(31);
    SmallBpe v(random, 200, "aething 's\n12");
    Tokenizer bpe("neox", v.tokens, -1, v.merges);
    std::vector<std::string> tokens = v.tokens;
    Tokenizer longest("world", tokens, -1);
    std::string text = wild_text(random, 900000, true);  // about 3 blocks of 1 MB
    for (Tokenizer *t : {&bpe, &longest}) {
        put_file(d / "t.txt", text);
        t->save(d / "t.tok");
        std::filesystem::remove(d / "x.tok");
        run_prepare({d / "t.txt", "--tokenizer-file", d / "t.tok", "--out", d / "x"});
        int64_t characters = std::count_if(text.begin(), text.end(), preparing::begins_character), left = (int64_t)(characters * 0.9);
        size_t cut = 0;
        for (; left || !preparing::begins_character(text[cut]); cut++) left -= preparing::begins_character(text[cut]);
        CHECK(text.size() > 2 << 20, "%zu bytes", text.size());
        CHECK(shard_ids(d / "x_train.bin") == t->encode(std::string_view(text).substr(0, cut)), "%s: train", t->kind.c_str());
        CHECK(shard_ids(d / "x_val.bin") == t->encode(std::string_view(text).substr(cut)), "%s: val", t->kind.c_str());
        CHECK(Shard(d / "x_train.bin").text_bytes == (int64_t)cut, "%s: bytes", t->kind.c_str());
    }
    put_file(d / "long.txt", std::string(12 << 20, 'a'));
    bpe.save(d / "t.tok");
    CHECK_ERROR(run_prepare({d / "long.txt", "--tokenizer-file", d / "t.tok", "--out", d / "y"}), "without a space or newline");
}
TEST("prepare: memory does not grow with the text") {
#ifdef __SANITIZE_ADDRESS__
    SKIP("the sanitizer needs memory of its own");
#endif
    ScratchDir d;
    {
        std::ofstream f(d / "t.txt");
        for (int i = 0; i < 800000; i++) f << "a line of text, number " << i << ", and more\n";  // 32 MB
    }
    pid_t child = fork();
    if (child == 0) {
        long pages[6] = {};
        FILE *f = fopen("/proc/self/statm", "r");
        int n = f ? fscanf(f, "%ld %ld %ld %ld %ld %ld", pages, pages + 1, pages + 2, pages + 3, pages + 4, pages + 5) : 0;
        struct rlimit limit = {(rlim_t)(pages[5] * sysconf(_SC_PAGESIZE) + (16 << 20)), RLIM_INFINITY};  // what it has and 16 MB
        if (n != 6 || setrlimit(RLIMIT_DATA, &limit)) _exit(0);
        try { run_prepare({d / "t.txt", "--out", d / "x"}); } catch (...) { _exit(1); }
        _exit(0);
    }
    int status = 1;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "32 MB of text do not fit into 16 MB more memory");
    CHECK(shard_ids(d / "x_train.bin").size() > 27000000, "the shard is too short");
}
TEST("prepare: tinyshakespeare gives V = 65 and 1,003,854 + 111,540 characters; GPT-2 301,966 + 36,059 tokens") {
    ScratchDir d;
    put_file(d / "t.txt", shared_text("tinyshakespeare.txt"));
    std::string said = run_prepare({d / "t.txt", "--tokenizer", "char", "--out", d / "c"});
    CHECK(load_tokenizer(d / "c.tok")->vocab == 65 && Shard(d / "c_train.bin").count == 1003854 && Shard(d / "c_val.bin").count == 111540, "%s", said.c_str());
    said = run_prepare({d / "t.txt", "--tokenizer", "gpt2", "--tokenizer-file", shared_tokenizers() + "gpt2", "--out", d / "g"});
    CHECK(Shard(d / "g_train.bin").count == 301966 + 1 && Shard(d / "g_val.bin").count == 36059 + 1, "%s", said.c_str());  // + end-of-text in front
    CHECK(said.find("301,966 tokens + 1 end-of-text") != said.npos, "%s", said.c_str());
}
TEST("prepare: English Wikipedia with --keep has exactly 56 symbols") {
    ScratchDir d;
    if (!file_exists("../shared/data/wiki_val.txt.xz") || system(("xz -dc ../shared/data/wiki_val.txt.xz > " + (d / "w.txt") + " 2> /dev/null").c_str())) SKIP("needs ../shared/data/wiki_val.txt.xz and xz");
    run_prepare({d / "w.txt", "--tokenizer", "char", "--keep", "a-zA-Z \\n.,", "--out", d / "w"});
    CHECK(load_tokenizer(d / "w.tok")->vocab == 56, "%d symbols", load_tokenizer(d / "w.tok")->vocab);
}

// ------------------------------------------------------------------------------------------------
// tasks

inline std::string run_tasks(std::vector<const char *> words, const std::string &out) {
    words.insert(words.begin(), "tasks"), words.push_back("--out"), words.push_back(out.c_str());
    CHECK(tasks::tasks_main(words.size(), (char **)words.data()) == 0, "./tasks %s fails", words[1]);
    return file_bytes(out);
}
TEST("tasks: reverse reverses, every length up to --digits comes, and the seed decides") {
    ScratchDir d;
    std::string text = run_tasks({"reverse", "--digits", "7", "--examples", "5000", "--seed", "3"}, d / "r.txt");
    std::istringstream lines(text);
    std::map<size_t, int> lengths;
    int count[10] = {};
    for (std::string line; std::getline(lines, line);) {
        size_t n = line.find('=');
        CHECK(line.size() == 2 * n + 1 && std::equal(line.begin(), line.begin() + n, line.rbegin()), "%s", line.c_str());
        lengths[n]++;
        for (size_t i = 0; i < n; i++) count[line.at(i) - '0']++;
    }
    for (int n = 1; n <= 7; n++) CHECK(abs(lengths[n] - 5000 / 7) < 120, "%d lines of %d digits", lengths[n], n);  // 5 sigma of 25
    for (int c : count) CHECK(c > 1800 && c < 2200, "a digit comes %d of 20000 times", c);
    CHECK(lengths.size() == 7 && text.back() == '\n', "%zu lengths", lengths.size());
    CHECK(run_tasks({"reverse", "--digits", "7", "--examples", "5000", "--seed", "3"}, d / "s.txt") == text, "the same seed gives another text");
    CHECK(run_tasks({"reverse", "--digits", "7", "--examples", "5000", "--seed", "4"}, d / "s.txt") != text, "another seed gives the same text");
}
TEST("tasks: recall asks only for what the line has said, twice as often as it has pairs, and keys of a line differ") {
    ScratchDir d;
    std::istringstream lines(run_tasks({"recall", "--pairs", "5", "--keys", "9", "--values", "30", "--examples", "3000"}, d / "r.txt"));
    std::set<std::string> keys, values;
    std::set<size_t> lengths;
    for (std::string line; std::getline(lines, line);) {
        size_t end = line.find(';'), n = end / 4;  // a key is 3 bytes of UTF-8, a value 1
        CHECK(end % 4 == 0 && n >= 1 && n <= 5 && line.size() == end + 1 + 8 * n, "%s", line.c_str());
        std::map<std::string, std::string> said;
        for (size_t i = 0; i < n; i++) said[line.substr(4 * i, 3)] = line.substr(4 * i + 3, 1);
        CHECK(said.size() == n, "a key twice: %s", line.c_str());
        for (size_t i = end + 1; i < line.size(); i += 4) CHECK(said.count(line.substr(i, 3)) && said[line.substr(i, 3)] == line.substr(i + 3, 1), "%s", line.c_str());
        for (auto &[key, value] : said) keys.insert(key), values.insert(value);
        lengths.insert(n);
    }
    CHECK(keys.size() == 9 && values.size() == 30 && lengths.size() == 5, "%zu keys, %zu values, %zu lengths", keys.size(), values.size(), lengths.size());
}
