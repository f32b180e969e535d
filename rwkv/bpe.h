/* rwkv/bpe.h: byte-level byte-pair encoding, as GPT-2 and GPT-NeoX do it. Host only.

   1. (NeoX) the special tokens, such as <|endoftext|>, are taken out of the raw text; what is between them is put
      into NFC; then runs of 2 to 24 spaces are taken out, the longest first.
   2. What is between those is cut into words by GPT-2's regular expression
         's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
   3. The bytes of a word are joined two by two, always the neighbours whose merge comes first in the list of
      merges, the leftmost of equals, until no neighbours have a merge.

   Step 3 uses a heap, O(n log n) for a word of n bytes, so a megabyte without a space is no trouble; words of up to
   64 bytes are remembered in a table of 2^15.
   defines: Merge, Bpe, bpe_word_end, bpe_safe_end */
#pragma once
#include "unicode.h"
#include "check.h"
#include <algorithm>

struct Merge { uint32_t left, right, whole; };  // ids; bytes of `whole` = bytes of `left` + bytes of `right`

// Kind and length of the character at s[i]; a byte that is not UTF-8 counts as a symbol of its own.
inline UnicodeKind bpe_kind(std::string_view s, size_t i, int *length) {
    uint32_t c = (unsigned char)s[i];
    *length = 1;
    if (c >= 0x80 && (*length = utf8_next(s, i, &c)) <= 0) { *length = 1; return UnicodeKind::Other; }
    return unicode_kind(c);
}

// Where the word that begins at s[i] ends. Every character belongs to a word.
inline size_t bpe_word_end(std::string_view s, size_t i) {
    int n;
    if (s[i] == '\'' && i + 1 < s.size()) {
        char a = s[i + 1], b = i + 2 < s.size() ? s[i + 2] : 0;
        if (a == 's' || a == 't' || a == 'm' || a == 'd') return i + 2;
        if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return i + 3;
    }
    size_t j = i;
    UnicodeKind kind = bpe_kind(s, j, &n);
    if (s[i] == ' ' && i + 1 < s.size() && bpe_kind(s, i + 1, &n) != UnicodeKind::Space) kind = bpe_kind(s, ++j, &n);
    size_t last = j;
    for (; j < s.size() && bpe_kind(s, j, &n) == kind; j += n) last = j;
    // the last space of a run is left to the word behind it: \s+(?!\S)
    return kind == UnicodeKind::Space && j < s.size() && last > i ? last : j;
}

// The last place where a longer text may be cut so that the parts, encoded one by one, give the ids of the whole;
// 0 if there is none yet. It is in front of a space or newline which has no white space before it:
//   - a word ends there, whatever follows: the character before is no white space, so it is in one of the first seven
//     alternatives, and none of those takes a white space except as its first character;
//   - the next word begins there, since the expression looks at nothing to the left of a word;
//   - NFC never joins a space or newline with what is before it; no run of spaces and no special token is cut.
inline size_t bpe_safe_end(std::string_view s) {
    for (size_t i = s.size(); i-- > 1;) {
        if (s[i] != ' ' && s[i] != '\n') continue;
        size_t before = i - 1;  // the start of the character before
        while (before > 0 && i - before < 4 && ((unsigned char)s[before] & 0xC0) == 0x80) before--;
        int n;
        if (bpe_kind(s, before, &n) != UnicodeKind::Space) return i;
    }
    return 0;
}

class Bpe {
    struct Joined { uint32_t rank, whole; };
    struct Cached { std::string word; std::vector<uint32_t> ids; };
    struct Symbol { uint32_t id, before, after; };                    // a linked list over the bytes of a word
    struct Candidate { uint32_t rank, at, left, right, whole; };
    enum : uint32_t { NONE = ~0u };
    uint32_t byte_ids[256];                                           // NONE: dropped; NeoX lacks bytes that UTF-8 never has
    std::unordered_map<uint64_t, Joined> joins;                       // left << 32 | right
    std::vector<Cached> cache = std::vector<Cached>(1 << 15);
    std::vector<std::pair<std::string, uint32_t>> specials;
    std::vector<uint32_t> runs;                                       // runs[n]: id of n spaces, or NONE
    bool compose = false;
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;

    void offer(uint32_t at) {
        const Symbol &a = symbols[at];
        if (a.after == NONE) return;
        auto j = joins.find((uint64_t)a.id << 32 | symbols[a.after].id);
        if (j == joins.end()) return;
        heap.push_back({j->second.rank, at, a.id, symbols[a.after].id, j->second.whole});
        std::push_heap(heap.begin(), heap.end(), later);
    }
    static bool later(const Candidate &a, const Candidate &b) { return a.rank != b.rank ? a.rank > b.rank : a.at > b.at; }

    void join(std::string_view word, std::vector<uint32_t> &ids) {
        uint32_t n = word.size();
        symbols.resize(n);
        heap.clear();
        for (uint32_t i = 0; i < n; i++) symbols[i] = {byte_ids[(unsigned char)word[i]], i ? i - 1 : NONE, i + 1 < n ? i + 1 : NONE};
        for (uint32_t i = 0; i + 1 < n; i++) offer(i);
        while (!heap.empty()) {
            Candidate c = heap.front();
            std::pop_heap(heap.begin(), heap.end(), later);
            heap.pop_back();
            Symbol &a = symbols[c.at];
            if (a.id != c.left || a.after == NONE || symbols[a.after].id != c.right) continue;  // one of the two is gone
            symbols[a.after].id = NONE;
            a.id = c.whole;
            a.after = symbols[a.after].after;
            if (a.after != NONE) symbols[a.after].before = c.at;
            offer(c.at);
            if (a.before != NONE) offer(a.before);
        }
        for (uint32_t i = 0; i != NONE && n; i = symbols[i].after)
            if (symbols[i].id != NONE) ids.push_back(symbols[i].id);
    }
    void word(std::string_view w, std::vector<uint32_t> &ids) {
        if (w.size() > 64) return join(w, ids);
        Cached &c = cache[std::hash<std::string_view>()(w) & (cache.size() - 1)];
        if (c.word != w) {
            c.word = w;
            c.ids.clear();
            join(w, c.ids);
        }
        ids.insert(ids.end(), c.ids.begin(), c.ids.end());
    }
    void words(std::string_view s, std::vector<uint32_t> &ids) {
        for (size_t i = 0, j; i < s.size(); i = j) word(s.substr(i, (j = bpe_word_end(s, i)) - i), ids);
    }
    void between_specials(std::string_view raw, std::vector<uint32_t> &ids) {
        std::string composed = compose ? nfc(raw) : "";
        std::string_view s = compose ? composed : raw;
        size_t from = 0;
        for (size_t i = s.find("  "); i != s.npos && !runs.empty(); i = s.find("  ", i)) {
            size_t spaces = std::min(s.find_first_not_of(' ', i), s.size()) - i;
            size_t n = std::min(spaces, runs.size() - 1);
            while (n && runs[n] == NONE) n--;
            if (!n) { i += spaces; continue; }
            words(s.substr(from, i - from), ids);
            ids.push_back(runs[n]);
            from = i += n;
        }
        words(s.substr(from), ids);
    }

public:
    // `tokens`: bytes by id. `special` and `run` are ids of tokens that step 1 takes out.
    void build(const std::vector<std::string> &tokens, const std::vector<Merge> &merges,
               const std::vector<uint32_t> &special, const std::vector<uint32_t> &run, bool nfc) {
        std::fill(byte_ids, byte_ids + 256, NONE);
        for (uint32_t i = tokens.size(); i-- > 0;) if (tokens[i].size() == 1) byte_ids[(unsigned char)tokens[i][0]] = i;
        for (int b = 0; b < 256; b++) if (byte_ids[b] == NONE && b != 0xC0 && b != 0xC1 && b < 0xF5) fail("there is no token for the byte %d", b);
        for (uint32_t rank = 0; rank < merges.size(); rank++) {
            const Merge &m = merges[rank];
            if (m.left >= tokens.size() || m.right >= tokens.size() || m.whole >= tokens.size() ||
                tokens[m.left] + tokens[m.right] != tokens[m.whole] || tokens[m.left].empty() || tokens[m.right].empty())
                fail("merge %u does not join two tokens to a third", rank);
            joins.insert({(uint64_t)m.left << 32 | m.right, {rank, m.whole}});
        }
        for (uint32_t id : special) {
            if (id >= tokens.size() || tokens[id].empty() || tokens[id].find_first_of(" \n") != std::string::npos)
                fail("special token %u is empty or has a space", id);
            specials.push_back({tokens[id], id});
        }
        std::stable_sort(specials.begin(), specials.end(), [](auto &a, auto &b) { return a.first.size() > b.first.size(); });
        for (uint32_t id : run) {
            size_t n = id < tokens.size() ? tokens[id].size() : 0;
            if (n < 2 || tokens[id].find_first_not_of(' ') != std::string::npos) fail("added token %u is not a run of spaces", id);
            if (runs.size() <= n) runs.resize(n + 1, NONE);
            runs[n] = id;
        }
        compose = nfc;
    }
    void encode(std::string_view text, std::vector<uint32_t> &ids) {
        size_t from = 0;
        for (size_t i = 0; i < text.size() && !specials.empty(); i++)
            for (auto &s : specials) {
                if (text[i] != s.first[0] || text.compare(i, s.first.size(), s.first)) continue;
                between_specials(text.substr(from, i - from), ids);
                ids.push_back(s.second);
                from = i + s.first.size();
                i = from - 1;
                break;
            }
        between_specials(text.substr(from), ids);
    }
};
