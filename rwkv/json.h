/* rwkv/json.h: a small strict JSON reader (RFC 8259) for safetensors headers, tokenizer files and jsonl. Host only.

       Json j = parse_json(text, "model.safetensors");
       const Json &shape = j.at("blocks.0.att.key.weight").at("shape");
       for (const Json &n : shape.items) sizes.push_back(n.as_int());

   Objects keep the order of the file and refuse a key that occurs twice. Numbers are doubles; whole ones within
   int64 are exact. Text must be UTF-8; a lone \uD800 surrogate becomes U+FFFD. Nesting deeper than 64 is refused,
   so that hostile input cannot overflow the stack. Every problem is an Error that names the file and the byte.
   defines: Json, parse_json, json_quote */
#pragma once
#include "check.h"
#include "utf8.h"
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct Json {
    enum Type { Null, Bool, Number, String, Array, Object } type = Null;
    bool truth = false;              // Bool
    bool whole = false;              // Number: no fraction, no exponent, fits `integer`
    double number = 0;               // Number
    int64_t integer = 0;             // Number, if whole
    std::string text;                // String
    std::vector<Json> items;         // Array: elements; Object: values
    std::vector<std::string> keys;   // Object: keys[i] belongs to items[i]
    std::shared_ptr<const std::string> file;  // with the offset: where to point when this value is a wrong one
    size_t offset = 0;

    [[noreturn]] void wrong(const std::string &what) const {
        fail("%s: the JSON value at byte %zu %s: the file is damaged or of another kind", file ? file->c_str() : "JSON", offset, what.c_str());
    }
    void expect(Type t) const {
        static const char *const names[] = {"null", "true or false", "a number", "a string", "a list", "an object"};
        if (type != t) wrong(format("is %s, not %s", names[type], names[t]));
    }
    const Json *find(std::string_view key) const {  // nullptr if absent or if this is no object
        for (size_t i = 0; i < keys.size(); i++) if (keys[i] == key) return &items[i];
        return nullptr;
    }
    const Json &at(std::string_view key) const {
        expect(Object);
        const Json *j = find(key);
        if (!j) wrong("has no \"" + std::string(key) + "\"");
        return *j;
    }
    const Json &at(size_t i) const {
        expect(Array);
        if (i >= items.size()) wrong(format("has only %zu elements", items.size()));
        return items[i];
    }
    const std::string &as_text() const { expect(String); return text; }
    double as_double() const { expect(Number); return number; }
    bool as_bool() const { expect(Bool); return truth; }
    int64_t as_int() const {
        expect(Number);
        if (!whole) wrong(format("is %g, not a whole number", number));
        return integer;
    }
};

// The text as a JSON string with its quotes; the text must be UTF-8.
inline std::string json_quote(std::string_view text) {
    std::string out = "\"";
    for (unsigned char c : text)
        if (c == '"' || c == '\\') { out += '\\'; out += (char)c; }
        else if (c == '\n') out += "\\n";
        else if (c < 0x20 || c == 0x7F) out += format("\\u%04x", c);
        else out += (char)c;
    return out + "\"";
}

struct JsonReader {
    std::string_view s;
    std::shared_ptr<const std::string> file;
    size_t i = 0;
    int depth = 0;

    [[noreturn]] void wrong(const char *what) { fail("%s is not valid JSON: %s at byte %zu", file->c_str(), what, i); }
    char peek() { return i < s.size() ? s[i] : '\0'; }  // a real NUL is no JSON either
    void space() { while (i < s.size() && memchr(" \t\r\n", s[i], 4)) i++; }
    bool take(char c) { return peek() == c ? (i++, true) : false; }
    bool take_word(std::string_view w) { return s.substr(i, w.size()) == w ? (i += w.size(), true) : false; }

    uint32_t hex4() {
        uint32_t code = 0;
        for (int k = 0; k < 4; k++, i++) {
            char c = peek();
            int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
            if (digit < 0) wrong("a \\u without four hexadecimal digits");
            code = code * 16 + digit;
        }
        return code;
    }
    void escape(std::string &out) {  // behind the backslash
        static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
        char c = peek();
        const char *known = c ? strchr(from, c) : nullptr;
        if (known) { out += to[known - from]; i++; return; }
        if (c != 'u') wrong("an unknown escape");
        i++;
        uint32_t code = hex4();
        if (code >= 0xD800 && code < 0xDC00 && s.substr(i, 2) == "\\u") {
            size_t back = i;
            i += 2;
            uint32_t low = hex4();
            if (low >= 0xDC00 && low < 0xE000) code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
            else i = back;
        }
        utf8_append(out, code >= 0xD800 && code < 0xE000 ? 0xFFFD : code);
    }
    std::string string() {
        if (!take('"')) wrong("no string where one is needed");
        std::string out;
        for (uint32_t code;;) {
            if (i >= s.size()) wrong("an unfinished string");
            unsigned char c = s[i];
            if (c == '"') { i++; return out; }
            if (c < 0x20) wrong("a control character inside a string");
            if (c == '\\') { i++; escape(out); continue; }
            int n = utf8_next(s, i, &code);
            if (n <= 0) wrong("a byte that is not UTF-8");
            out.append(s, i, n);
            i += n;
        }
    }
    size_t digits() {
        size_t from = i;
        while (peek() >= '0' && peek() <= '9') i++;
        if (i == from) wrong("a number without digits");
        return i - from;
    }
    void number(Json &j) {
        size_t from = i;
        bool negative = take('-');
        char first = peek();
        if (digits() > 1 && first == '0') wrong("a number with a leading zero");
        bool whole = true;
        if (take('.')) { whole = false; digits(); }
        if (peek() == 'e' || peek() == 'E') { whole = false; i++; if (!take('+')) take('-'); digits(); }
        std::string text(s.substr(from, i - from));
        j.type = Json::Number;
        j.number = strtod(text.c_str(), nullptr);
        if (!std::isfinite(j.number)) wrong("a number too large");
        errno = 0;
        j.integer = whole ? strtoll(text.c_str(), nullptr, 10) : 0;
        j.whole = whole && errno != ERANGE && !(negative && first == '0');  // -0 is a double
    }
    void members(Json &j) {
        char close = j.type == Json::Object ? '}' : ']';
        space();
        if (take(close)) return;
        do {
            space();
            if (j.type == Json::Object) {
                j.keys.push_back(string());
                space();
                if (!take(':')) wrong("no ':' behind a key");
            }
            j.items.push_back(value());
            space();
        } while (take(','));
        if (!take(close)) wrong(j.type == Json::Object ? "no ',' or '}'" : "no ',' or ']'");
    }
    void refuse_twins(const Json &j) {
        std::vector<std::string_view> sorted(j.keys.begin(), j.keys.end());
        std::sort(sorted.begin(), sorted.end());
        auto twin = std::adjacent_find(sorted.begin(), sorted.end());
        if (twin != sorted.end()) wrong(("the key " + json_quote(twin->substr(0, 99)) + " twice in the object that ends").c_str());
    }
    Json value() {
        space();
        Json j;
        j.file = file;
        j.offset = i;
        if (depth == 64) wrong("nesting deeper than 64");
        depth++;
        char c = peek();
        if (c == '{' || c == '[') {
            j.type = c == '{' ? Json::Object : Json::Array;
            i++;
            members(j);
            refuse_twins(j);
        } else if (c == '"') { j.type = Json::String; j.text = string(); }
        else if (take_word("true")) { j.type = Json::Bool; j.truth = true; }
        else if (take_word("false")) j.type = Json::Bool;
        else if (take_word("null")) {}
        else if (c == '-' || (c >= '0' && c <= '9')) number(j);
        else wrong(i < s.size() ? "an unexpected character" : "an unexpected end");
        depth--;
        return j;
    }
};

// Reads one JSON value that fills the whole text; `file` is named in errors.
inline Json parse_json(std::string_view text, const std::string &file = "JSON") {
    JsonReader r;
    r.s = text;
    r.file = std::make_shared<const std::string>(file);
    Json j = r.value();
    r.space();
    if (r.i != text.size()) r.wrong("something behind the end");
    return j;
}
