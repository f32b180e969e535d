/* tests/tokenizer.h: UTF-8, Unicode tables, JSON, every tokenizer: known ids, decoding, pieces, damaged files.
   Published ids come from ../shared/tokenizers; everything is tested on small vocabularies of our own too. */
#pragma once
#include "../data_prep/import.h"
#include "files.h"
#include "test.h"
#include <random>

// ------------------------------------------------------------------------------------------------
// helpers

inline std::string shared_tokenizers() {
    if (!file_exists("../shared/tokenizers")) SKIP("needs ../shared/tokenizers");
    return "../shared/tokenizers/";
}
inline std::string shared_text(const std::string &name) {
    if (!file_exists("../shared/data/" + name)) SKIP("needs ../shared/data/" + name);
    return file_bytes("../shared/data/" + name);
}
inline std::string ids_text(const std::vector<uint32_t> &ids) {
    std::string s;
    for (uint32_t id : ids) s += std::to_string(id) + " ";
    return s.substr(0, 300);
}
// gpt2, neox or world, made of the original files once
inline Tokenizer &original(const std::string &kind) {
    static std::map<std::string, TokenizerPtr> made;
    std::string from = shared_tokenizers();
    TokenizerPtr &t = made[kind];
    if (!t) t = kind == "gpt2" ? import_gpt2(from + "gpt2") : kind == "neox" ? import_neox(from + "neox20b/20B_tokenizer.json") : import_world(from + "rwkv_world/rwkv_vocab_v20230424.txt");
    return *t;
}

// SHA-256 (FIPS 180-4), to compare with published sums.
inline std::string sha256(const std::string &message) {
    uint32_t h[8], k[64];
    for (int n = 2, i = 0; i < 64; n++) {  // fractions of the roots of the first primes
        bool prime = true;
        for (int d = 2; d * d <= n; d++) prime &= n % d != 0;
        if (!prime) continue;
        if (i < 8) h[i] = (uint32_t)(int64_t)floorl((sqrtl(n) - floorl(sqrtl(n))) * 4294967296.0L);
        k[i++] = (uint32_t)(int64_t)floorl((cbrtl(n) - floorl(cbrtl(n))) * 4294967296.0L);
    }
    std::string m = message + '\x80';
    m.resize((m.size() + 8 + 63) / 64 * 64 - 8);
    for (int i = 7; i >= 0; i--) m += (char)((uint64_t)message.size() * 8 >> i * 8);
    auto rot = [](uint32_t x, int n) { return x >> n | x << (32 - n); };
    for (size_t at = 0; at < m.size(); at += 64) {
        uint32_t w[64], v[8];
        for (int i = 0; i < 16; i++) w[i] = (uint32_t)(uint8_t)m[at + 4 * i] << 24 | (uint8_t)m[at + 4 * i + 1] << 16 | (uint8_t)m[at + 4 * i + 2] << 8 | (uint8_t)m[at + 4 * i + 3];
        for (int i = 16; i < 64; i++) w[i] = w[i - 16] + w[i - 7] + (rot(w[i - 15], 7) ^ rot(w[i - 15], 18) ^ w[i - 15] >> 3) + (rot(w[i - 2], 17) ^ rot(w[i - 2], 19) ^ w[i - 2] >> 10);
        memcpy(v, h, sizeof v);
        for (int i = 0; i < 64; i++) {
            uint32_t a = v[7] + (rot(v[4], 6) ^ rot(v[4], 11) ^ rot(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
            uint32_t b = (rot(v[0], 2) ^ rot(v[0], 13) ^ rot(v[0], 22)) + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
            memmove(v + 1, v, 28);
            v[4] += a, v[0] = a + b;
        }
        for (int i = 0; i < 8; i++) h[i] += v[i];
    }
    std::string hex;
    for (uint32_t x : h) hex += format("%08x", x);
    return hex;
}
inline std::string as_uint16(const std::vector<uint32_t> &ids) {
    std::vector<uint16_t> half(ids.begin(), ids.end());
    return std::string((const char *)half.data(), half.size() * 2);
}

// Text that meets every rule: letters of several scripts, digits, marks, runs of spaces, contractions, bad bytes.
inline std::string wild_text(std::mt19937 &random, int parts, bool valid_only = false) {
    static const char *const parts_of[] = {"a", "the", " ", "  ", "   ", "\n", "\r\n", "\t", "'s", "'re", "'", "don't", "12", "٣", "é", "e\u0301", "\u0323", "漢字", "각", "\u1100\u1161\u11A8",
        "\u00A0", "\u3000", "\U0001F600", "<|endoftext|>", "<|end", "!!", "-", "q\u0307\u0323", "_", "Å", "\u212B", "ing", "                              ", "\xFF", "\xE6\xBC", "\x80"};
    std::string s;
    for (int i = 0; i < parts; i++) s += parts_of[random() % (sizeof parts_of / sizeof *parts_of - (valid_only ? 3 : 0))];
    return s;
}

// A small BPE vocabulary: the 256 bytes and `joins` random merges; ids are shuffled. `json` and `merges` as GPT-2's files.
struct SmallBpe {
    std::vector<std::string> tokens;
    std::vector<Merge> merges;
    std::string json = "{", list = "#version: 0.2\n";
    static std::string written(const std::string &bytes) {  // one character a byte
        std::string s;
        for (unsigned char b : bytes) {
            uint32_t code = b, next = 256;
            if (!((b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE)) {
                for (int c = 0; c < b; c++) next += !((c >= '!' && c <= '~') || (c >= 0xA1 && c <= 0xAC) || c >= 0xAE);
                code = next;
            }
            utf8_append(s, code);
        }
        return s;
    }
    SmallBpe(std::mt19937 &random, int joins, const std::string &alphabet) {
        for (int b = 0; b < 256; b++) tokens.push_back(std::string(1, (char)b));
        std::shuffle(tokens.begin(), tokens.end(), random);
        std::map<std::string, uint32_t> id;
        for (uint32_t i = 0; i < 256; i++) id[tokens[i]] = i;
        std::vector<std::string> pool;
        for (char c : alphabet) pool.push_back(std::string(1, c));
        for (int tries = 0; (int)merges.size() < joins && tries < 100 * joins; tries++) {
            std::string l = pool[random() % pool.size()], r = pool[random() % pool.size()];
            if (l.size() + r.size() > 8 || id.count(l + r)) continue;
            id[l + r] = tokens.size();
            tokens.push_back(l + r);
            pool.push_back(l + r);
            merges.push_back({id[l], id[r], id[l + r]});
            list += written(l) + " " + written(r) + "\n";
        }
        tokens.push_back("<|endoftext|>");
        for (size_t i = 0; i < tokens.size(); i++) json += (i ? ", " : "") + json_quote(written(tokens[i])) + ": " + std::to_string(i);
        json += "}";
    }
};

inline void mutate(std::string &s, std::mt19937 &random) {
    for (int n = 1 + random() % 4; n-- && !s.empty();) {
        size_t at = random() % s.size(), other = random() % s.size();
        switch (random() % 7) {
        case 0: s[at] ^= 1 << random() % 8; break;
        case 1: s[at] = (char)random(); break;
        case 2: s.resize(at); break;
        case 3: s.insert(at, 1 + random() % 9, (char)random()); break;
        case 4: s.erase(at, 1 + random() % 40); break;
        case 5: s.insert(at, s.substr(other, random() % 200)); break;
        default: s[at] = "{}[]\",:\\0e-\n '"[random() % 14];
        }
    }
}
// Runs `read` on damaged copies: an Error of one line, or success; nothing else may come out.
template<class Read> void fuzz(const std::string &good, int times, unsigned seed, Read read) {
    std::mt19937 random(seed);
    int refused = 0;
    for (int i = 0; i < times; i++) {
        std::string s = good;
        mutate(s, random);
        try { read(s); }
        catch (const Error &e) {
            refused++;
            CHECK(!strchr(e.what(), '\n') && strlen(e.what()) > 10 && strlen(e.what()) < 1000, "copy %d: '%s'", i, e.what());
        }
    }
    CHECK(refused > times / 4, "only %d of %d damaged copies were refused", refused, times);
}

// ------------------------------------------------------------------------------------------------
// UTF-8 and Unicode

TEST("utf8: strict about overlong forms, surrogates and the end of Unicode") {
    struct { const char *bytes; int result; } table[] = {
        {"A", 1}, {"\xC3\xA9", 2}, {"\xE2\x82\xAC", 3}, {"\xF0\x9F\x98\x80", 4}, {"\xF4\x8F\xBF\xBF", 4}, {"\xEF\xBF\xBF", 3},
        {"\x80", -1}, {"\xC0\x80", -1}, {"\xC1\xBF", -1}, {"\xE0\x9F\xBF", -1}, {"\xED\xA0\x80", -1}, {"\xF0\x8F\xBF\xBF", -1}, {"\xF4\x90\x80\x80", -1}, {"\xF5\x80", -1}, {"\xFF", -1},
        {"\xE2\x82", 0}, {"\xE2", 0}, {"\xF0\x9F\x98", 0}, {"\xE2\x28", -1}, {"\xE2\x82\x28", -2}, {"\xF0\x9F\x98\x28", -3},
    };
    for (auto &row : table) {
        uint32_t code;
        int n = utf8_next(row.bytes, 0, &code);
        CHECK(n == row.result, "%02X %02X: %d, expected %d", (unsigned char)row.bytes[0], (unsigned char)row.bytes[1], n, row.result);
    }
    for (uint32_t c = 0; c < 0x110000; c++) {
        if (c >= 0xD800 && c < 0xE000) continue;
        std::string s;
        utf8_append(s, c);
        uint32_t code = 0;
        CHECK(utf8_next(s, 0, &code) == (int)s.size() && code == c, "U+%04X came back as U+%04X", c, code);
    }
    CHECK(utf8_bad_byte("abc\xE9") == 3 && utf8_bad_byte("ab\xC3\xA9") == std::string::npos && utf8_bad_byte("a\xE9\x62") == 1, "first bad byte");
}
TEST("utf8 stream: every piece is valid, all pieces together are the text, broken bytes become U+FFFD once") {
    struct { std::string bytes, text; } table[] = {
        {"h\xC3\xA9 \xE6\xBC\xA2 \xF0\x9F\x98\x80!", "h\xC3\xA9 \xE6\xBC\xA2 \xF0\x9F\x98\x80!"},
        {"a\xFF" "b", "a\uFFFD" "b"}, {"\xF0\x9F\x98", "\uFFFD"}, {"\xF0\x9F\x98x", "\uFFFDx"}, {"\x80\x80", "\uFFFD\uFFFD"}, {"\xE6\xBC\xE6\xBC\xA2", "\uFFFD\xE6\xBC\xA2"}, {"", ""},
    };
    for (auto &row : table)
        for (size_t step = 1; step <= 4; step++) {
            Utf8Stream stream;
            std::string text;
            for (size_t i = 0; i < row.bytes.size(); i += step) {
                std::string piece = stream.feed(row.bytes.substr(i, step));
                CHECK(utf8_bad_byte(piece) == piece.npos, "an invalid piece at %zu", i);
                text += piece;
            }
            text += stream.flush();
            CHECK(text == row.text && stream.flush().empty(), "'%s', expected '%s'", text.c_str(), row.text.c_str());
        }
}
TEST("unicode: kinds of characters") {
    const UnicodeKind Letter = UnicodeKind::Letter, Digit = UnicodeKind::Digit, Space = UnicodeKind::Space, Other = UnicodeKind::Other;
    struct { uint32_t code; UnicodeKind kind; } table[] = {
        {'a', Letter}, {'Z', Letter}, {0xAA, Letter}, {0xE9, Letter}, {0x3B1, Letter}, {0x6F22, Letter}, {0xAC00, Letter}, {0x20000, Letter}, {0x2B0, Letter}, {0x1E900, Letter},
        {'0', Digit}, {'9', Digit}, {0xB2, Digit}, {0xBD, Digit}, {0x663, Digit}, {0x2160, Digit}, {0x3007, Digit}, {0x1D7CE, Digit},
        {' ', Space}, {'\n', Space}, {0x85, Space}, {0xA0, Space}, {0x3000, Space}, {0x2028, Space}, {0x200A, Space},
        {'_', Other}, {'!', Other}, {0, Other}, {0x1C, Other}, {0x200B, Other}, {0x301, Other}, {0x1F600, Other}, {0xFFFD, Other}, {0x10FFFF, Other}, {0xFEFF, Other},
    };
    for (auto &row : table) CHECK(unicode_kind(row.code) == row.kind, "U+%04X is %d, expected %d", row.code, (int)unicode_kind(row.code), (int)row.kind);
}
TEST("unicode: nfc composes, reorders, keeps exclusions and bytes that are not UTF-8") {
    struct { const char *from, *to; } table[] = {
        {"plain", "plain"}, {"e\u0301", "\u00E9"}, {"\u212B", "\u00C5"}, {"q\u0307\u0323", "q\u0323\u0307"}, {"\u1E0B\u0323", "\u1E0D\u0307"}, {"a\u0315\u0300\u05AE\u0300b", "\u00E0\u05AE\u0300\u0315b"},
        {"\u0958", "\u0915\u093C"}, {"\u1100\u1161\u11A8", "\uAC01"}, {"\uAC00\u11A8", "\uAC01"}, {"\uAC01\u11A8", "\uAC01\u11A8"}, {"\u0344", "\u0308\u0301"}, {"\u2126", "\u03A9"},
        {"\u0301a", "\u0301a"}, {"\U0001D15E", "\U0001D157\U0001D165"}, {"e\xFF\u0301", "e\xFF\u0301"}, {"\xE6\xBC", "\xE6\xBC"}, {"\u00E9\u0323", "\u1EB9\u0301"}, {"a\u0305\u0300", "a\u0305\u0300"},
    };
    for (auto &row : table) CHECK(nfc(row.from) == row.to, "'%s' became '%s', expected '%s'", row.from, nfc(row.from).c_str(), row.to);
    std::mt19937 random(1);
    for (int i = 0; i < 300; i++) {
        std::string s = nfc(wild_text(random, 20));
        CHECK(nfc(s) == s, "not stable: '%s'", s.c_str());
    }
}

// ------------------------------------------------------------------------------------------------
// JSON

TEST("json: values, order, exact integers, escapes") {
    Json j = parse_json(" {\"b\": [1, -2.5e2, true, false, null, 9007199254740993, 1e3, -0], \"a\": \"x\\n\\u00e9\\ud83d\\ude00\\ud800y\\/\"} ");
    CHECK(j.keys.size() == 2 && j.keys[0] == "b" && j.keys[1] == "a", "order of the keys");
    const Json &b = j.at("b");
    CHECK(b.at(0).as_int() == 1 && b.at(1).as_double() == -250 && b.at(2).as_bool() && !b.at(3).as_bool() && b.at(4).type == Json::Null, "values");
    CHECK(b.at(5).as_int() == 9007199254740993, "2^53 + 1 came as %lld", (long long)b.at(5).as_int());
    CHECK(!b.at(6).whole && !b.at(7).whole, "1e3 and -0 are not whole numbers");
    CHECK(j.at("a").as_text() == "x\n\u00E9\U0001F600\uFFFDy/", "escapes: '%s'", j.at("a").as_text().c_str());
    CHECK(!j.find("c") && parse_json(json_quote("a\"\\\n\t\x01")).as_text() == "a\"\\\n\t\x01", "quoting");
    CHECK_ERROR(b.at(0).as_text(), "is a number, not a string");
    CHECK_ERROR(b.at(1).as_int(), "not a whole number");
    CHECK_ERROR(j.at("c"), "has no \"c\"");
    CHECK_ERROR(b.at(8), "only 8 elements");
}
TEST("json: everything that is not JSON is refused with the byte") {
    const char *table[] = {"", "{", "[1,]", "{\"a\":1,}", "{\"a\":1,\"a\":2}", "01", "1.", "-", "1e", "+1", ".5", "nul", "truex", "[1] 2", "\"a", "\"\\x\"", "\"\\u12g4\"", "\"\t\"", "\"\xFF\"", "{a:1}",
                           "{\"a\" 1}", "[1 2]", "'a'", "1e999", "NaN", "\xEF\xBB\xBF[]", "[", "\"\\", "\"\\ud83d\\u", "{\"a\":}"};
    for (const char *text : table) CHECK_ERROR(parse_json(text, "x.json"), "x.json is not valid JSON: ");
    CHECK_ERROR(parse_json(std::string(1000000, '['), "x.json"), "nesting deeper than 64 at byte 64");
    CHECK_ERROR(parse_json(std::string("[1\0]", 4), "x.json"), "at byte 2");
}
TEST("json: 5000 damaged texts are refused or read, never a crash") {
    std::string good = "{\"__metadata__\": {\"k\": \"v\\u00e9\\n\"}, \"w\": {\"dtype\": \"F32\", \"shape\": [3, 4, -1.5e-3], \"data_offsets\": [0, 48]}, \"t\": [true, false, null, [[[{}]]]]}";
    fuzz(good, 5000, 1, [](const std::string &s) { parse_json(s, "x.json"); });
}

// ------------------------------------------------------------------------------------------------
// the rules, on vocabularies of our own

TEST("byte and char: every character its own token, in the order of the code points") {
    auto byte = import_bytes();
    std::string all;
    for (int b = 255; b >= 0; b--) all += (char)b;
    auto ids = byte->encode(all);
    for (int i = 0; i < 256; i++) CHECK(ids[i] == (uint32_t)(255 - i), "byte %d is token %u", 255 - i, ids[i]);
    CHECK(byte->vocab == 256 && byte->eot == -1 && byte->decode(ids) == all, "byte: V = %d", byte->vocab);

    auto chars = import_characters({'b', 'a', 0xE9, 0x1F600, '\n'});
    CHECK(ids_text(chars->encode("ab\u00E9\n\U0001F600")) == "1 2 3 0 4 ", "char: %s", ids_text(chars->encode("ab\u00E9\n\U0001F600")).c_str());
    CHECK(chars->dropped == 0 && ids_text(chars->encode("axb\u6F22a")) == "1 2 1 " && chars->dropped == 2, "%lld characters dropped", (long long)chars->dropped);
}
TEST("gpt2 words: contractions, one space in front, runs of spaces") {
    struct { const char *text, *words; } table[] = {  // words joined by |
        {"Hello world", "Hello| world"}, {"it's we're I'll don't", "it|'s| we|'re| I|'ll| don|'t"}, {"'S 'rex", "'|S| '|rex"}, {"a  b", "a| | b"}, {"a   b", "a|  | b"}, {"a \n b", "a| \n| b"},
        {"a\n\nb", "a|\n|\n|b"}, {"a \n", "a| \n"}, {"  ", "  "}, {"x12y", "x|12|y"}, {" 12!", " 12|!"}, {"?!..", "?!.."}, {"a\t b", "a|\t| b"}, {"a\tb", "a|\t|b"}, {"\u00E9t\u00E9", "\u00E9t\u00E9"},
        {"\u6F22\u5B57!", "\u6F22\u5B57|!"}, {"a\u00A0b", "a|\u00A0|b"}, {"a\u3000\u3000b", "a|\u3000|\u3000|b"}, {"e\u0301x", "e|\u0301|x"}, {"'", "'"}, {"a'", "a|'"}, {" 's", " '|s"}, {"\xFF\xFF a", "\xFF\xFF| a"},
    };
    for (auto &row : table) {
        std::string words, s = row.text;
        for (size_t i = 0, j; i < s.size(); i = j) words += (i ? "|" : "") + s.substr(i, (j = bpe_word_end(s, i)) - i);
        CHECK(words == row.words, "'%s' became '%s', expected '%s'", row.text, words.c_str(), row.words);
    }
}
// The definition of byte-pair encoding: look for the best merge again and again.
inline std::vector<uint32_t> naive_bpe(const SmallBpe &v, const std::string &word) {
    std::vector<uint32_t> s;
    for (char c : word) s.push_back(std::find(v.tokens.begin(), v.tokens.end(), std::string(1, c)) - v.tokens.begin());
    for (bool found = true; found;) {
        found = false;
        for (auto &m : v.merges) {
            for (size_t i = 0; i + 1 < s.size(); i++)
                if (s[i] == m.left && s[i + 1] == m.right) { s[i] = m.whole; s.erase(s.begin() + i + 1); found = true; break; }
            if (found) break;
        }
    }
    return s;
}
TEST("bpe: the heap joins what the definition joins, in words of 1 to 300 letters") {
    std::mt19937 random(3);
    for (int round = 0; round < 20; round++) {
        SmallBpe v(random, 60, "abcd");
        Tokenizer t("gpt2", v.tokens, -1, v.merges);
        for (int i = 0; i < 40; i++) {
            std::string word;
            for (int n = i < 30 ? 1 + random() % 20 : 65 + random() % 235; n--;) word += "abcd"[random() % 4];
            CHECK(t.encode(word) == naive_bpe(v, word), "'%s': %s, expected %s", word.c_str(), ids_text(t.encode(word)).c_str(), ids_text(naive_bpe(v, word)).c_str());
        }
    }
}
TEST("bpe: a word of a megabyte takes no quadratic time") {
    std::mt19937 random(4);
    SmallBpe v(random, 60, "ab");
    Tokenizer t("gpt2", v.tokens, -1, v.merges);
    std::string word;
    for (int i = 0; i < 1 << 20; i++) word += "ab"[random() % 2];
    CHECK(t.decode(t.encode(word)) == word, "decoding gives another text");
}
TEST("longest match: what a search over all tokens finds") {
    std::mt19937 random(5);
    for (int round = 0; round < 20; round++) {
        std::vector<std::string> tokens(1);
        std::set<std::string> have;
        for (int b = 0; b < 256; b++) tokens.push_back(std::string(1, (char)b));
        for (int i = 0; i < 200; i++) {
            std::string s;
            for (int n = 2 + random() % 6; n--;) s += "ab\xE6\xFF"[random() % 4];
            if (have.insert(s).second) tokens.push_back(s);
        }
        Tokenizer t("world", tokens, 0);
        std::string text;
        for (int i = 0; i < 500; i++) text += "ab\xE6\xFF"[random() % 4];
        std::vector<uint32_t> expected;
        for (size_t i = 0; i < text.size(); i += tokens[expected.back()].size()) {
            uint32_t best = 0;
            for (uint32_t k = 1; k < tokens.size(); k++) if (!text.compare(i, tokens[k].size(), tokens[k]) && tokens[k].size() > tokens[best].size()) best = k;
            expected.push_back(best);
        }
        CHECK(t.encode(text) == expected, "round %d", round);
    }
}
TEST("tokenizer: text in pieces gives the ids of the whole, wherever the pieces end") {
    std::mt19937 random(6);
    SmallBpe v(random, 200, "aething 's\n12");
    std::vector<std::string> longest = v.tokens, neox = v.tokens;
    std::vector<uint32_t> runs;
    for (int n = 24; n >= 2; n--) { runs.push_back(neox.size()); neox.push_back(std::string(n, ' ')); }
    longest.erase(std::unique(longest.begin(), longest.end()), longest.end());
    std::vector<TokenizerPtr> all;
    all.push_back(import_bytes());
    all.push_back(import_characters({'a', 'e', 't', ' ', '\n', 0xE9, 0x6F22, 0x301}));
    all.push_back(std::make_unique<Tokenizer>("world", longest, -1));
    all.push_back(std::make_unique<Tokenizer>("gpt2", v.tokens, -1, v.merges));
    all.push_back(std::make_unique<Tokenizer>("neox", neox, -1, v.merges, std::vector<uint32_t>{(uint32_t)v.tokens.size() - 1}, runs));
    for (auto &t : all)
        for (int round = 0; round < 400; round++) {
            std::string text = wild_text(random, 60), rest;
            std::vector<uint32_t> whole = t->encode(text), parts;
            for (size_t i = 0, n; i < text.size(); i += n) {
                n = std::min<size_t>(1 + random() % (round % 40 + 1), text.size() - i);
                rest += text.substr(i, n);
                rest.erase(0, t->encode_piece(rest, i + n == text.size(), parts));
            }
            CHECK(parts == whole, "%s: '%s' gave %s, in pieces %s", t->kind.c_str(), text.c_str(), ids_text(whole).c_str(), ids_text(parts).c_str());
            if (t->kind == "byte" || t->kind == "world" || t->kind == "gpt2") CHECK(t->decode(whole) == text, "%s: '%s' decodes to '%s'", t->kind.c_str(), text.c_str(), t->decode(whole).c_str());
            if (t->kind == "neox" && text.find("<|endoftext|>") == text.npos) CHECK(t->decode(whole).size() <= nfc(text).size(), "neox: longer than the text");
        }
}
TEST("neox rules: special tokens from the raw text, NFC, runs of spaces the longest first") {
    std::mt19937 random(7);
    SmallBpe v(random, 0, "a");
    std::vector<std::string> tokens = v.tokens;
    uint32_t eot = tokens.size() - 1, run2, run24;
    std::vector<uint32_t> runs;
    for (int n = 24; n >= 2; n--) { runs.push_back(tokens.size()); tokens.push_back(std::string(n, ' ')); }
    run24 = runs[0], run2 = runs.back();
    Tokenizer t("neox", tokens, eot, {}, {eot}, runs);
    auto byte = [&](unsigned char b) { return (uint32_t)(std::find(tokens.begin(), tokens.end(), std::string(1, (char)b)) - tokens.begin()); };
    typedef std::vector<uint32_t> Ids;
    struct { const char *text; Ids ids; } table[] = {
        {"a<|endoftext|>b", {byte('a'), eot, byte('b')}}, {"a  b", {byte('a'), run2, byte('b')}}, {"a b", {byte('a'), byte(' '), byte('b')}}, {"e\u0301", {byte(0xC3), byte(0xA9)}},
        {"                         b", {run24, byte(' '), byte('b')}}, {"                          ", {run24, run2}}, {"<|endoftext|", {byte('<'), byte('|'), byte('e'), byte('n'), byte('d'), byte('o'), byte('f'), byte('t'), byte('e'), byte('x'), byte('t'), byte('|')}},
        {"e<|endoftext|>\u0301", {byte('e'), eot, byte(0xCC), byte(0x81)}}, {"<|endoftext|><|endoftext|>", {eot, eot}},
    };
    for (auto &row : table) CHECK(t.encode(row.text) == row.ids, "'%s': %s, expected %s", row.text, ids_text(t.encode(row.text)).c_str(), ids_text(row.ids).c_str());
}

// ------------------------------------------------------------------------------------------------
// published ids

inline void check_vectors(const std::string &file, const std::string &kind, bool hex) {
    Tokenizer &t = original(kind);
    std::ifstream lines(shared_tokenizers() + "vectors/" + file);
    int n = 0;
    for (std::string line; std::getline(lines, line); n++) {
        Json j = parse_json(line, file);
        std::string text;
        if (!hex) text = j.at("text").as_text();
        else for (size_t i = 0; i + 1 < j.at("hex").as_text().size(); i += 2) text += (char)strtol(j.at("hex").as_text().substr(i, 2).c_str(), nullptr, 16);
        std::vector<uint32_t> ids;
        for (const Json &id : j.at("ids").items) ids.push_back(id.as_int());
        CHECK(t.encode(text) == ids, "line %d '%s': %s, expected %s", n + 1, text.substr(0, 60).c_str(), ids_text(t.encode(text)).c_str(), ids_text(ids).c_str());
        std::string back = kind == "neox" ? nfc(text) : text;
        CHECK(t.decode(ids) == back, "line %d decodes to '%s'", n + 1, t.decode(ids).substr(0, 60).c_str());
    }
    CHECK(n >= 5, "%s has only %d lines", file.c_str(), n);
}
TEST("gpt2: all published ids") { check_vectors("gpt2.jsonl", "gpt2", false); CHECK(original("gpt2").vocab == 50257 && original("gpt2").eot == 50256, "V or end of text"); }
TEST("neox: all published ids") { check_vectors("neox20b.jsonl", "neox", false); CHECK(original("neox").vocab == 50277 && original("neox").eot == 0, "V or end of text"); }
TEST("world: all published ids") { check_vectors("rwkv_world.jsonl", "world", false); CHECK(original("world").vocab == 65536 && original("world").eot == 0, "V or end of text"); }
TEST("world: bytes that are not UTF-8") { check_vectors("rwkv_world_bytes.jsonl", "world", true); }
TEST("gpt2, neox, world: tinyshakespeare has the published number and sha256 of ids") {
    CHECK(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "sha256 itself: %s", sha256("abc").c_str());
    std::string text = shared_text("tinyshakespeare.txt");
    Json j = parse_json(file_bytes(shared_tokenizers() + "vectors/whole_file_checks.json"), "whole_file_checks.json");
    struct { const char *kind, *key; } table[] = {{"gpt2", "gpt2"}, {"neox", "neox20b"}, {"world", "rwkv_world"}};
    for (auto &row : table) {
        const Json &expected = j.at(std::string(row.key) + ":tinyshakespeare.txt");
        std::vector<uint32_t> ids = original(row.kind).encode(text);
        CHECK((int64_t)ids.size() == expected.at("tokens").as_int(), "%s: %zu tokens", row.kind, ids.size());
        CHECK(sha256(as_uint16(ids)) == expected.at("sha256_of_uint16_le_ids").as_text(), "%s: other ids", row.kind);
    }
}
TEST("gpt2, neox, world: streaming decode of every token of a wild text is valid UTF-8") {
    std::mt19937 random(8);
    for (const char *kind : {"gpt2", "neox", "world"}) {
        Tokenizer &t = original(kind);
        std::string text = wild_text(random, 2000, true), out;
        Utf8Stream stream;
        for (uint32_t id : t.encode(text)) {
            std::string piece = stream.feed(t.bytes(id));
            CHECK(utf8_bad_byte(piece) == piece.npos, "%s: token %u leaves broken UTF-8", kind, id);
            out += piece;
        }
        out += stream.flush();
        if (strcmp(kind, "neox")) CHECK(out == text, "%s: decodes to another text", kind);
    }
}

// ------------------------------------------------------------------------------------------------
// files

TEST("tok: a saved tokenizer encodes the same and has the same hash; any change of it changes the hash") {
    std::mt19937 random(9);
    ScratchDir d;
    SmallBpe v(random, 50, "abc ");
    std::vector<TokenizerPtr> all;
    all.push_back(import_bytes());
    all.push_back(import_characters({'x', 0x6F22}));
    all.push_back(std::make_unique<Tokenizer>("gpt2", v.tokens, 5, v.merges));
    all.push_back(std::make_unique<Tokenizer>("gpt2", v.tokens, 6, v.merges));
    all.push_back(std::make_unique<Tokenizer>("neox", v.tokens, 5, v.merges, std::vector<uint32_t>{(uint32_t)v.tokens.size() - 1}));
    std::set<uint64_t> hashes;
    for (auto &t : all) {
        t->save(d / "t.tok");
        auto back = load_tokenizer(d / "t.tok");
        std::string text = wild_text(random, 500);
        CHECK(back->hash == t->hash && back->kind == t->kind && back->eot == t->eot && back->vocab == t->vocab && back->encode(text) == t->encode(text), "%s came back different", t->kind.c_str());
        CHECK(hashes.insert(t->hash).second, "%s has the hash of another", t->kind.c_str());
    }
    for (const char *kind : {"gpt2", "neox", "world"}) {
        if (!file_exists("../shared/tokenizers")) break;
        Tokenizer &t = original(kind);
        std::string s = t.serialize(), text = wild_text(random, 500);
        CHECK(read_tokenizer(s, "t.tok")->encode(text) == t.encode(text), "%s came back different", kind);
    }
}
// With the checksum made right again, so that the damage gets past it.
inline std::string with_right_hash(std::string s) {
    size_t at = s.find('\n', 17);
    if (s.size() > 40 && at == 38) s.replace(22, 16, format("%016llx", (unsigned long long)fnv1a(std::string_view(s).substr(39))));
    return s;
}
TEST("tok: what is wrong with a file is said") {
    std::string good = import_characters({'a', 'b'})->serialize();
    CHECK(with_right_hash(good) == good, "the helper finds the hash");
    auto changed = [&](const char *from, const char *to) { std::string s = good; s.replace(s.find(from), strlen(from), to); return with_right_hash(s); };
    struct { std::string text; const char *says; } table[] = {
        {"", "t.tok is empty"}, {"1 '\\x00' 1\n", "is not a tokenizer file"}, {good.substr(0, 60), "checksum is wrong"}, {with_right_hash(good.substr(0, good.size() - 1)), "ends too early"},
        {with_right_hash(good + "x"), "something follows"}, {changed("tokenizer 1", "tokenizer 2"), "version 2"}, {changed("kind char", "kind chat"), "is 'chat'"}, {changed("vocab 2", "vocab 9"), "ends too early"},
        {changed("vocab 2", "vocab -2"), "from 1 to 65536"}, {changed("eot -1", "eot 2"), "end-of-text token is 2"}, {changed("merges 0", "merges 9"), "ends too early"}, {changed("kind char", "kind gpt2"), "no token for the byte 0"},
        {with_right_hash(good.substr(0, good.size() - 1) + "a"), "are the same"},
    };
    for (auto &row : table) CHECK_ERROR(read_tokenizer(row.text, "t.tok"), row.says);
    CHECK_ERROR(load_tokenizer("no/such.tok"), "cannot open no/such.tok");
}
TEST("tok: 4000 damaged files are refused or used, never a crash") {
    std::mt19937 random(10);
    SmallBpe v(random, 40, "abc ");
    std::string text = wild_text(random, 100);
    Tokenizer bpe("neox", v.tokens, 5, v.merges, {(uint32_t)v.tokens.size() - 1});
    auto chars = import_characters({'a', 'b', 'c', 0x6F22, 0x1F600});
    for (const std::string &good : {bpe.serialize(), chars->serialize()}) {
        fuzz(good, 1000, 11, [&](const std::string &s) { read_tokenizer(s, "t.tok")->encode(text); });
        fuzz(good, 1000, 12, [&](const std::string &s) { read_tokenizer(with_right_hash(s), "t.tok")->encode(text); });
    }
}
TEST("import: gpt2's two files, and 1500 damaged ones") {
    std::mt19937 random(13);
    ScratchDir d;
    SmallBpe v(random, 40, "abc ");
    put_file(d / "encoder.json", v.json);
    put_file(d / "vocab.bpe", v.list);
    auto t = import_gpt2(d.path);
    CHECK(t->tokens == v.tokens && t->eot == (int)v.tokens.size() - 1 && t->merges.size() == v.merges.size(), "the vocabulary came out different");
    std::string text = wild_text(random, 100);
    CHECK(t->encode(text) == Tokenizer("gpt2", v.tokens, 0, v.merges).encode(text), "other ids");
    fuzz(v.json, 1000, 14, [&](const std::string &s) { put_file(d / "encoder.json", s); import_gpt2(d.path)->encode(text); });
    put_file(d / "encoder.json", v.json);
    fuzz(v.list, 500, 15, [&](const std::string &s) { put_file(d / "vocab.bpe", s); import_gpt2(d.path)->encode(text); });
    CHECK_ERROR(import_gpt2(d / "nowhere"), "nowhere/encoder.json");
    size_t last = v.list.rfind('\n', v.list.size() - 2) + 1;
    struct { std::string list; const char *says; } cut[] = {
        {v.list.substr(0, last), "vocab.bpe is not complete: no merge makes 1 of the 297 tokens, the first of them 295; sh data_prep/download.sh gpt2"},
        {v.list.substr(0, v.list.find('\n') + 1), "40 of the 297"}, {"", "40 of the 297"},
    };
    for (auto &row : cut) { put_file(d / "vocab.bpe", row.list); CHECK_ERROR(import_gpt2(d.path), row.says); }
}
TEST("import: neox's file, and 500 damaged ones") {
    std::mt19937 random(16);
    ScratchDir d;
    SmallBpe v(random, 20, "abc ");
    std::string merges;
    for (size_t i = v.list.find('\n') + 1, end; i < v.list.size(); i = end + 1) { end = v.list.find('\n', i); merges += (merges.empty() ? "" : ",") + json_quote(v.list.substr(i, end - i)); }
    size_t n = v.tokens.size();
    std::string json = "{\"added_tokens\": [" + format("{\"id\": %zu, \"content\": \"<|endoftext|>\", \"normalized\": false}, {\"id\": %zu, \"content\": \"  \", \"normalized\": true}", n - 1, n) +
                       "], \"normalizer\": {\"type\": \"NFC\"}, \"model\": {\"type\": \"BPE\", \"vocab\": " + v.json + ", \"merges\": [" + merges + "]}}";
    put_file(d / "t.json", json);
    auto t = import_neox(d / "t.json");
    CHECK(t->vocab == (int)n + 1 && t->eot == (int)n - 1 && ids_text(t->encode("<|endoftext|>  ")) == format("%zu %zu ", n - 1, n), "V = %d: %s", t->vocab, ids_text(t->encode("<|endoftext|>  ")).c_str());
    put_file(d / "cut.json", std::string(json).replace(json.rfind(merges), merges.size(), merges.substr(0, merges.rfind(','))));
    CHECK_ERROR(import_neox(d / "cut.json"), "cut.json is not complete: no merge makes 1 of the 278 tokens, the first of them 275; sh data_prep/download.sh neox");
    fuzz(json, 500, 17, [&](const std::string &s) { put_file(d / "t.json", s); import_neox(d / "t.json")->encode("a  <|endoftext|>"); });
}
TEST("import: world's literals, and 500 damaged files") {
    ScratchDir d;
    std::string list;
    for (int b = 0; b < 256; b++) list += format(b < 128 ? "%d '\\x%02x' 1\n" : "%d b'\\x%02x' 1\n", b + 1, b);
    list += "257 'a b' 3\n258 \"it's\" 4\r\n259 '\\xe9' 2\n260 b'\\xe6\\xbc' 2\n261 '\\u6f22' 3\n262 '\u00E9t' 3\n263 '\\\\\\'\\n' 3\n264 b\"'\\xff\" 2\n";
    put_file(d / "v.txt", list);
    std::vector<std::string> read = world_tokens(d / "v.txt");
    const char *tokens[] = {"a b", "it's", "\u00E9", "\xE6\xBC", "\u6F22", "\u00E9t", "\\'\n", "'\xFF"};
    for (int i = 0; i < 8; i++) CHECK(read[257 + i] == tokens[i], "token %d is '%s'", 257 + i, read[257 + i].c_str());
    CHECK_ERROR(import_world(d / "v.txt"), "v.txt is not complete: it lacks 65265 of the tokens 1 to 65529, the first of them 265; sh data_prep/download.sh world");
    std::string whole = list;
    for (int id = 265; id < 65530; id++) whole += format("%d 'x%d' 6\n", id, id + 10000);
    put_file(d / "v.txt", whole);
    auto t = import_world(d / "v.txt");
    CHECK(t->tokens[264] == "'\xFF" && t->tokens[65529] == "x75529" && ids_text(t->encode("a b")) == "257 ", "a whole vocabulary");
    CHECK(t->vocab == 65536 && t->eot == 0 && t->bytes(0).empty() && t->bytes(65535).empty() && t->bytes(70000).empty() && t->bytes(-1).empty(), "V = %d", t->vocab);
    size_t hole = whole.find("\n30000 ") + 1;
    put_file(d / "v.txt", std::string(whole).erase(hole, whole.find('\n', hole) + 1 - hole));
    CHECK_ERROR(import_world(d / "v.txt"), "it lacks 1 of the tokens 1 to 65529, the first of them 30000");
    put_file(d / "v.txt", std::string(whole).replace(hole, 15, "30000 'x40001' "));
    CHECK_ERROR(import_world(d / "v.txt"), "v.txt is no vocabulary of world: tokens 30000 and 30001 are the same");
    for (const char *bad : {"265 'ab' 3\n", "265 ab 2\n", "264 'zz' 2\n", "99999 'a' 1\n", "265 '\\q' 1\n", "265 'a\n", "<!DOCTYPE html>\n", "265 '' 0\n", "265 '\\ud800' 3\n"}) {
        put_file(d / "v.txt", list + bad);
        CHECK_ERROR(import_world(d / "v.txt"), "v.txt, line 265");
    }
    put_file(d / "v.txt", list.substr(0, 500));
    CHECK_ERROR(import_world(d / "v.txt"), "v.txt");
    fuzz(list, 500, 18, [&](const std::string &s) { put_file(d / "v.txt", s); Tokenizer("world", world_tokens(d / "v.txt"), 0); });
}
