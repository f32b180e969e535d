/* tests/data.h: shards, batches, and ./prepare from text to shard. */
#pragma once
#include "../rwkv/data.h"
#include "../rwkv/log.h"
#include "tokenizer.h"
#include <map>
#include <set>
namespace preparing {
#define main prepare_main
#include "../data_prep/prepare.cpp"
#undef main
}  // namespace preparing

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
TEST("prefetcher: the batches of the loader, in a row, repeated and after a jump; memory is given back") {
    ScratchDir d;
    put_file(d / "x.bin", shard_bytes(60000));
    const int T = 1001, B = 32;  // large enough that filling a batch takes longer than asking for the next
    static int alive;
    Loader loader(d / "x.bin", T, Loader::SHUFFLED, 2);
    {
        Prefetcher p(loader, B, [](size_t n) { alive++; return malloc(n); }, [](void *m) { alive--; free(m); });
        std::vector<int> x(B * T), y(B * T);
        std::mt19937 random(1);
        int64_t s = 0;
        for (int i = 0; i < 500; i++, s = random() % 10 ? s + B : random() % 5000) {
            const Batch &b = p.get(s);
            loader.batch(s, B, x.data(), y.data());
            CHECK(b.first == s && !memcmp(b.x, x.data(), x.size() * 4) && !memcmp(b.y, y.data(), y.size() * 4), "batch at sample %lld is wrong", (long long)s);
        }
        CHECK(alive == 4, "%d buffers", alive);
    }
    CHECK(alive == 0, "%d buffers are left", alive);
}

// ------------------------------------------------------------------------------------------------
// prepare

// Runs it in this process; returns what it prints.
inline std::string run_prepare(std::vector<std::string> words, std::string *warnings = nullptr) {
    ScratchDir d;
    preparing::Settings o;
    o.tokenizer = "byte", o.val = 0.1, o.text_key = "text";
    bool given = false;
    std::vector<std::string> inputs;
    for (size_t i = 0; i < words.size(); i++) {
        if (words[i].compare(0, 2, "--")) { inputs.push_back(words[i]); continue; }
        std::string name = words[i++].substr(2);
        if (name == "tokenizer") o.tokenizer = words[i], given = true;
        else if (name == "val") o.val = atof(words[i].c_str());
        else (name == "out" ? o.out : name == "keep" ? o.keep : name == "text-key" ? o.text_key : o.tokenizer_file) = words[i];
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
    return std::vector<uint32_t>(s.tokens, s.tokens + s.count);
}

TEST("prepare: a 1 KB text, byte and char; the printed command has batches") {
    ScratchDir d;
    std::string text;
    for (int i = 0; i < 100; i++) text += "h\u00E9llo " + std::to_string(i % 10) + "\r\n";  // 900 characters, 1000 bytes
    put_file(d / "t.txt", "\xEF\xBB\xBF" + text);
    for (const char *kind : {"byte", "char"}) {
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
