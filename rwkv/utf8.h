/* rwkv/utf8.h: UTF-8, strictly: no overlong forms, no surrogates, nothing above U+10FFFF. Host only.
   Utf8Stream turns bytes that arrive in pieces (tokens) into text that is valid after every piece.
   defines: utf8_next, utf8_append, utf8_bad_byte, Utf8Stream */
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

// Reads the character at s[i]. Returns its length in bytes;
//   0      when the text ends inside a character that is good so far
//   -n     when the n bytes at s[i] cannot begin or continue a character (n: the maximal ill-formed part, which
//          a decoder replaces by one U+FFFD)
inline int utf8_next(std::string_view s, size_t i, uint32_t *code) {
    unsigned char c = s[i];
    if (c < 0x80) { *code = c; return 1; }
    int n = c >= 0xC2 && c <= 0xDF ? 2 : c >= 0xE0 && c <= 0xEF ? 3 : c >= 0xF0 && c <= 0xF4 ? 4 : 0;
    if (!n) return -1;
    *code = c & (0xFF >> (n + 1));
    for (int k = 1; k < n; k++) {
        if (i + k >= s.size()) return 0;
        unsigned char d = s[i + k];
        // only the second byte has narrower limits: they exclude overlong forms, surrogates and > U+10FFFF
        unsigned lo = k > 1 ? 0x80 : c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
        unsigned hi = k > 1 ? 0xBF : c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
        if (d < lo || d > hi) return -k;
        *code = *code << 6 | (d & 0x3F);
    }
    return n;
}

inline void utf8_append(std::string &s, uint32_t code) {
    if (code < 0x80) s += (char)code;
    else if (code < 0x800) { s += (char)(0xC0 | code >> 6); s += (char)(0x80 | (code & 63)); }
    else if (code < 0x10000) { s += (char)(0xE0 | code >> 12); s += (char)(0x80 | (code >> 6 & 63)); s += (char)(0x80 | (code & 63)); }
    else { s += (char)(0xF0 | code >> 18); s += (char)(0x80 | (code >> 12 & 63)); s += (char)(0x80 | (code >> 6 & 63)); s += (char)(0x80 | (code & 63)); }
}

// Offset of the first byte that is not UTF-8 (an unfinished character at the end counts), or npos.
inline size_t utf8_bad_byte(std::string_view s) {
    uint32_t code;
    for (size_t i = 0; i < s.size();) {
        int n = utf8_next(s, i, &code);
        if (n <= 0) return i;
        i += n;
    }
    return std::string_view::npos;
}

// What feed() has returned so far is always valid UTF-8: the tail of an unfinished character is held back, and
// each ill-formed part becomes one U+FFFD.
struct Utf8Stream {
    std::string held;  // at most 3 bytes

    std::string feed(std::string_view bytes) {
        held += bytes;
        std::string text;
        uint32_t code;
        size_t i = 0;
        while (i < held.size()) {
            int n = utf8_next(held, i, &code);
            if (n == 0) break;
            if (n > 0) text.append(held, i, n);
            else utf8_append(text, 0xFFFD);
            i += n > 0 ? n : -n;
        }
        held.erase(0, i);
        return text;
    }
    // The end: an unfinished character becomes one U+FFFD.
    std::string flush() {
        bool unfinished = !held.empty();
        held.clear();
        return unfinished ? "\xEF\xBF\xBD" : "";
    }
};
