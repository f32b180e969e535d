/* data_prep/import.h: original vocabulary files, or a text's characters, made into a Tokenizer. Host only.
     byte   no file
     char   no file: the set of characters
     world  rwkv_vocab_v20230424.txt: lines `id literal length`, the literal as Python writes a str or bytes object
     gpt2   a directory with encoder.json (token -> id) and vocab.bpe (one merge a line, best first)
     neox   20B_tokenizer.json
   In the last two a byte is written as one character: itself if printable, else one of U+0100 ... U+0143.
   A file that was cut off still encodes any text, only to more and other tokens, which no model knows. So World must have
   all its ids, 1 ... 65529, and in the last two each token of several bytes must be made by a merge.
   defines: import_bytes, import_characters, world_tokens, import_world, import_gpt2, import_neox */
#pragma once
#include "../rwkv/json.h"
#include "../rwkv/tokenizer.h"
#include <map>
#include <set>

typedef std::unique_ptr<Tokenizer> TokenizerPtr;

inline TokenizerPtr import_bytes() {
    std::vector<std::string> tokens;
    for (int b = 0; b < 256; b++) tokens.push_back(std::string(1, (char)b));
    return std::make_unique<Tokenizer>("byte", tokens, -1);
}

inline TokenizerPtr import_characters(const std::set<uint32_t> &codes) {
    std::vector<std::string> tokens;
    for (uint32_t c : codes) { tokens.emplace_back(); utf8_append(tokens.back(), c); }
    return std::make_unique<Tokenizer>("char", tokens, -1);
}

// What is wrong with a vocabulary as a whole is said with the name of its file.
inline TokenizerPtr checked_tokenizer(const std::string &path, const char *kind, std::vector<std::string> tokens, int eot, std::vector<Merge> merges = {},
                                      std::vector<uint32_t> specials = {}, std::vector<uint32_t> runs = {}) {
    try {
        return std::make_unique<Tokenizer>(kind, std::move(tokens), eot, std::move(merges), std::move(specials), std::move(runs));
    } catch (const Error &e) {
        fail("%s is no vocabulary of %s: %s", path.c_str(), kind, e.what());
    }
}

// ------------------------------------------------------------------------------------------------
// world

// The bytes that Python's literal 'text', "text", b'text' or b"text" denotes; false if it is none. In a str \xE9 is
// the character U+00E9, two bytes of UTF-8; in a bytes object it is one byte.
inline bool python_literal(std::string_view s, std::string &out) {
    bool raw = !s.empty() && s[0] == 'b';
    if (raw) s.remove_prefix(1);
    if (s.size() < 2 || (s[0] != '\'' && s[0] != '"') || s.back() != s[0]) return false;
    s = s.substr(1, s.size() - 2);
    for (size_t i = 0; i < s.size(); i++) {
        if (s[i] != '\\') { out += s[i]; continue; }
        if (++i == s.size()) return false;
        static const char from[] = "ntr\\'\"", to[] = "\n\t\r\\'\"";
        const char *known = s[i] ? strchr(from, s[i]) : nullptr;
        if (known) { out += to[known - from]; continue; }
        size_t digits = s[i] == 'x' ? 2 : s[i] == 'u' ? 4 : 0;
        std::string hex(s.substr(i + 1, digits));
        if (!digits || hex.size() != digits || hex.find_first_not_of("0123456789abcdefABCDEF") != hex.npos) return false;
        uint32_t code = strtoul(hex.c_str(), nullptr, 16);
        if (code >= 0xD800 && code < 0xE000) return false;
        if (raw) out += (char)code;
        else utf8_append(out, code);
        i += digits;
    }
    return true;
}

// The tokens of the lines that are there, by id.
inline std::vector<std::string> world_tokens(const std::string &path) {
    MappedFile file(path);
    std::vector<std::string> tokens(65536);
    std::string_view rest = file.text();
    for (int number = 1; !rest.empty(); number++) {
        std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
        if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
        size_t a = line.find(' '), b = line.rfind(' ');
        std::string token;
        int id = atoi(std::string(line.substr(0, std::min<size_t>(a, 9))).c_str());
        bool good = a < b && b != line.npos && id >= 1 && id < 65536 && tokens[id].empty() && python_literal(line.substr(a + 1, b - a - 1), token);
        if (!good || token.empty() || std::to_string(token.size()) != line.substr(b + 1))
            fail("%s, line %d is not `id 'token' length`: is it rwkv_vocab_v20230424.txt, and complete? sh data_prep/download.sh world fetches it",
                 path.c_str(), number);
        tokens[id] = token;
    }
    return tokens;
}

inline TokenizerPtr import_world(const std::string &path) {
    std::vector<std::string> tokens = world_tokens(path);
    int missing = std::count(tokens.begin() + 1, tokens.begin() + 65530, "");
    if (missing)
        fail("%s is not complete: it lacks %d of the tokens 1 to 65529, the first of them %d; sh data_prep/download.sh world fetches it", path.c_str(),
             missing, (int)(std::find(tokens.begin() + 1, tokens.end(), "") - tokens.begin()));
    for (int b = 0; b < 256; b++) if (tokens[b + 1] != std::string(1, (char)b))
        fail("%s has no token %d for the byte %d: is it rwkv_vocab_v20230424.txt? sh data_prep/download.sh world fetches it", path.c_str(), b + 1, b);
    return checked_tokenizer(path, "world", std::move(tokens), 0);
}

// ------------------------------------------------------------------------------------------------
// gpt2 and neox

// The bytes of a token that is written with one character a byte; false if one of the characters stands for none.
inline bool bytes_of_characters(std::string_view s, std::string &out) {
    static const std::map<uint32_t, char> byte_of = [] {
        std::map<uint32_t, char> m;
        uint32_t next = 256;
        for (int b = 0; b < 256; b++) m[(b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE ? b : next++] = (char)b;
        return m;
    }();
    for (size_t i = 0; i < s.size();) {
        uint32_t code;
        int n = utf8_next(s, i, &code);
        auto b = n > 0 ? byte_of.find(code) : byte_of.end();
        if (b == byte_of.end()) return false;
        out += b->second;
        i += n;
    }
    return true;
}

// {"token": id, ...} to bytes by id.
inline std::vector<std::string> tokens_by_id(const Json &j) {
    j.expect(Json::Object);
    std::vector<std::string> tokens(std::min<size_t>(j.keys.size(), 65536));
    for (size_t i = 0; i < j.keys.size(); i++) {
        int64_t id = j.items[i].as_int();
        std::string bytes;
        if (id < 0 || id >= (int64_t)tokens.size() || !tokens[id].empty() || !bytes_of_characters(j.keys[i], bytes) || bytes.empty())
            j.items[i].wrong("is the id of no, of a strange or of a second token");
        tokens[id] = bytes;
    }
    return tokens;
}

// "left right", in the order of rank.
struct MergeList {
    const std::vector<std::string> &tokens;
    std::unordered_map<std::string, uint32_t> id_of;
    std::vector<Merge> merges;
    explicit MergeList(const std::vector<std::string> &tokens) : tokens(tokens) { for (uint32_t i = tokens.size(); i-- > 0;) id_of[tokens[i]] = i; }
    bool add(std::string_view line) {
        size_t space = line.find(' ');
        std::string left, right;
        if (space == line.npos || !bytes_of_characters(line.substr(0, space), left) || !bytes_of_characters(line.substr(space + 1), right)) return false;
        auto l = id_of.find(left), r = id_of.find(right), w = id_of.find(left + right);
        if (l == id_of.end() || r == id_of.end() || w == id_of.end()) return false;
        merges.push_back({l->second, r->second, w->second});
        return true;
    }
    // Nothing else makes a token of several bytes, except those that `before` all merges are taken from the text.
    void expect_all(const std::string &path, const char *kind, const std::vector<uint32_t> &before) const {
        std::vector<bool> made(tokens.size());
        for (const Merge &m : merges) made[m.whole] = true;
        for (uint32_t id : before) made[id] = true;
        for (size_t i = 0; i < tokens.size(); i++) if (tokens[i].size() == 1) made[i] = true;
        size_t missing = std::count(made.begin(), made.end(), false);
        if (missing)
            fail("%s is not complete: no merge makes %zu of the %zu tokens, the first of them %d; sh data_prep/download.sh %s fetches it", path.c_str(),
                 missing, tokens.size(), (int)(std::find(made.begin(), made.end(), false) - made.begin()), kind);
    }
};

inline int find_end_of_text(const std::vector<std::string> &tokens) {
    auto at = std::find(tokens.begin(), tokens.end(), "<|endoftext|>");
    return at == tokens.end() ? -1 : (int)(at - tokens.begin());
}

inline TokenizerPtr import_gpt2(const std::string &directory) {
    std::string json_path = directory + "/encoder.json", merges_path = directory + "/vocab.bpe";
    MappedFile json_file(json_path), merges_file(merges_path);
    std::vector<std::string> tokens = tokens_by_id(parse_json(json_file.text(), json_path));
    MergeList list(tokens);
    std::string_view rest = merges_file.text();
    for (int number = 1; !rest.empty(); number++) {
        std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
        if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
        if (line.empty() || (number == 1 && line.substr(0, 8) == "#version")) continue;
        if (!list.add(line))
            fail("%s, line %d does not join two tokens of %s to a third: are they from the same model, and complete?",
                 merges_path.c_str(), number, json_path.c_str());
    }
    int eot = find_end_of_text(tokens);
    std::vector<uint32_t> before;
    if (eot >= 0) before.push_back(eot);
    list.expect_all(merges_path, "gpt2", before);
    return checked_tokenizer(json_path, "gpt2", std::move(tokens), eot, std::move(list.merges));
}

inline TokenizerPtr import_neox(const std::string &path) {
    MappedFile file(path);
    Json j = parse_json(file.text(), path);
    const Json &model = j.at("model"), &normalizer = j.at("normalizer");
    if (model.at("type").as_text() != "BPE") model.at("type").wrong("is not \"BPE\"");
    if (normalizer.at("type").as_text() != "NFC") normalizer.at("type").wrong("is not \"NFC\"");
    std::vector<std::string> tokens = tokens_by_id(model.at("vocab"));
    MergeList list(tokens);
    const Json &merges = model.at("merges"), &added = j.at("added_tokens");
    merges.expect(Json::Array), added.expect(Json::Array);
    for (const Json &m : merges.items) if (!list.add(m.as_text())) m.wrong("does not join two tokens to a third");
    std::vector<uint32_t> specials, runs;
    for (const Json &a : added.items) {  // in the order of their ids; some are in the vocabulary already
        int64_t id = a.at("id").as_int();
        if (id < 0 || id > (int64_t)tokens.size() || id > 65535) a.at("id").wrong("leaves a hole in the vocabulary");
        if (id == (int64_t)tokens.size()) tokens.emplace_back();
        tokens[id] = a.at("content").as_text();
        (a.at("normalized").as_bool() ? runs : specials).push_back(id);
    }
    std::vector<uint32_t> before = specials;
    before.insert(before.end(), runs.begin(), runs.end());
    list.expect_all(path, "neox", before);
    int eot = find_end_of_text(tokens);
    return checked_tokenizer(path, "neox", std::move(tokens), eot, std::move(list.merges), std::move(specials), std::move(runs));
}
