/* data_prep/prepare.cpp: text to token shards.

       make prepare        (or: g++ -O3 -std=c++17 -o prepare data_prep/prepare.cpp)
       ./prepare input.txt --tokenizer char --out data/shakespeare

   writes data/shakespeare_train.bin, data/shakespeare_val.bin and data/shakespeare.tok, and prints the command that
   trains on them. data_prep/README.md has more examples, rwkv/data.h and rwkv/tokenizer.h the formats.

   Documents. A .txt file is one document, a line of a .jsonl file is one. The end-of-text token stands in front of each
   document (also of the part of a .txt that goes to validation); the trainer may empty its state there. Where the
   tokenizer has none (byte, char), the text of a .jsonl line ends in a newline instead.
   With --format binidx the files are RWKV-LM's (.bin and .idx), and token 0 stands behind each document.
   Validation takes the last --val of the characters of each .txt and of the documents of each .jsonl.

   Memory is constant. The input is read twice: to check and count it, and to encode it, in blocks of 1 MB cut between
   characters; what the tokenizer cannot yet decide about the end of a block waits for the next one.
   A run that is stopped writes nothing (output.h). */
#include "import.h"
#include "output.h"
#include "../rwkv/data.h"
#include "../rwkv/log.h"
#include "../rwkv/options.h"
#include <csignal>

struct Settings { std::string tokenizer, tokenizer_file, out, format, keep, text_key; double val; };

static std::string base_name(const std::string &path) { return path.substr(path.find_last_of('/') + 1); }

// As a word that a shell takes for what it is.
static std::string shell_word(const std::string &s) {
    if (!s.empty() && s.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+,:@%=-") == s.npos) return s;
    std::string quoted = "'";
    for (char c : s) quoted += c == '\'' ? "'\\''" : std::string(1, c);
    return quoted + "'";
}

static void go_on() { if (stop_signal()) fail("stopped by a signal: nothing was written"); }

// ------------------------------------------------------------------------------------------------
// reading

// A stretch of a document: whole characters, at most a block of a .txt, or all of a .jsonl document.
struct Piece { std::string_view text; bool begins, ends; };
typedef std::function<void(const Piece &)> Take;
const size_t BLOCK = 1 << 20, LONGEST_LINE = 256 << 20, LONGEST_WORD = 8 << 20;

struct Blocks {
    const std::string path;
    FILE *file;
    std::vector<char> buffer = std::vector<char>(BLOCK);
    explicit Blocks(const std::string &path) : path(path) {
        struct stat s;
        bool there = !stat(path.c_str(), &s);  // to open a pipe would be to wait for who writes into it
        if (there && S_ISDIR(s.st_mode)) fail("%s is a folder, not a plain file: name the texts in it, such as %s/*.txt", path.c_str(), path.c_str());
        if (there && !S_ISREG(s.st_mode)) fail("%s is not a plain file, and a text is read twice: write it to a file first", path.c_str());
        if (!(file = fopen(path.c_str(), "rb"))) fail("cannot open %s: %s", path.c_str(), strerror(errno));
    }
    Blocks(const Blocks &) = delete;
    ~Blocks() { fclose(file); }
    std::string_view next() {  // empty at the end
        go_on();
        size_t n = fread(buffer.data(), 1, BLOCK, file);
        if (ferror(file)) fail("cannot read %s: %s", path.c_str(), strerror(errno));
        return {buffer.data(), n};
    }
};

// Refuses other encodings by the first block of a file. Returns the length of a UTF-8 mark.
static size_t check_start(const std::string &path, std::string_view s, bool any_bytes) {
    if (s.empty()) fail("%s is empty: there is nothing to train on", path.c_str());
    if (s.substr(0, 3) == "\xEF\xBB\xBF") return 3;
    if (any_bytes) return 0;
    std::string mark(s.substr(0, 4)), encoding;
    size_t zeros = std::count(s.begin(), s.end(), '\0');
    if (mark == std::string("\xFF\xFE\0\0", 4) || mark == std::string("\0\0\xFE\xFF", 4)) encoding = "UTF-32";
    else if (mark.substr(0, 2) == "\xFF\xFE" || mark.substr(0, 2) == "\xFE\xFF") encoding = "UTF-16";
    else if (zeros > s.size() / 4) encoding = s[0] ? "UTF-16LE" : "UTF-16BE";
    if (!encoding.empty())
        fail("%s is %s (byte 0 is 0x%02X, %zu of its first %zu bytes are zero), not UTF-8: convert it with  iconv -f %s -t UTF-8 %s > %s",
             path.c_str(), encoding.c_str(), (unsigned char)s[0], zeros, s.size(), encoding.c_str(), shell_word(path).c_str(), shell_word(path + ".utf8.txt").c_str());
    return 0;
}

// How many bytes of s are whole characters. With any_bytes all of it is, whatever it is.
static size_t whole_characters(const std::string &path, std::string_view s, int64_t offset, bool last, bool any_bytes) {
    size_t bad = any_bytes ? s.npos : utf8_bad_byte(s);
    uint32_t code;
    if (bad == s.npos) return s.size();
    if (!last && utf8_next(s, bad, &code) == 0) return bad;
    fail("%s is not UTF-8: byte %lld is 0x%02X; if it is Windows text convert it with  "
         "iconv -f WINDOWS-1252 -t UTF-8 %s > %s  or use --tokenizer byte, which takes any bytes",
         path.c_str(), (long long)(offset + bad), (unsigned char)s[bad], shell_word(path).c_str(), shell_word(path + ".utf8.txt").c_str());
}

static void read_txt(const std::string &path, bool any_bytes, const Take &take) {
    Blocks blocks(path);
    std::string text;
    int64_t offset = 0;  // of text in the file
    bool begins = true;
    for (bool last = false; !last;) {
        std::string_view block = blocks.next();
        last = block.size() < BLOCK;
        text += block;
        if (begins) text.erase(0, offset = check_start(path, text, any_bytes));
        size_t n = whole_characters(path, text, offset, last, any_bytes);
        take({std::string_view(text).substr(0, n), begins, last});
        text.erase(0, n);
        offset += n;
        begins = false;
    }
}

static void read_jsonl(const std::string &path, const std::string &key, bool newline, const Take &take) {
    Blocks blocks(path);
    std::string rest;
    int64_t number = 0;
    auto line = [&](std::string_view s) {
        number++;
        if (s.find_first_not_of(" \t\r") == s.npos) return;
        std::string where = path + " line " + std::to_string(number);
        Json j = parse_json(s, where);
        const Json *text = j.find(key);
        if (!text || text->type != Json::String) {
            std::string keys;
            for (size_t i = 0; i < j.keys.size(); i++) if (j.items[i].type == Json::String) keys += (keys.empty() ? "" : ", ") + json_quote(j.keys[i]);
            fail("%s has no text under the key \"%s\": name the right one with --text-key (%s)",
                 where.c_str(), key.c_str(), keys.empty() ? "it has none with text" : ("it has " + keys).c_str());
        }
        std::string document = text->text;
        if (newline && (document.empty() || document.back() != '\n')) document += '\n';
        take({document, true, true});
    };
    for (bool last = false, first = true; !last; first = false) {
        std::string_view block = blocks.next();
        last = block.size() < BLOCK;
        size_t from = 0, seen = rest.size();
        rest += block;
        if (first) from = check_start(path, rest, false);
        for (size_t end; (end = rest.find('\n', std::max(from, seen))) != rest.npos; from = end + 1) line(std::string_view(rest).substr(from, end - from));
        rest.erase(0, from);
        if (rest.size() > LONGEST_LINE)
            fail("%s line %lld is longer than %zu MB: is it jsonl, one document a line?", path.c_str(), (long long)number + 1, LONGEST_LINE >> 20);
    }
    line(rest);
}

static bool is_jsonl(const std::string &path) { return path.size() > 6 && !path.compare(path.size() - 6, 6, ".jsonl"); }

// ------------------------------------------------------------------------------------------------
// pass 1: check and count

// Characters are counted as bytes that do not continue one, which is right for UTF-8 and defined for any bytes.
static bool begins_character(char c) { return ((unsigned char)c & 0xC0) != 0x80; }

struct Count {
    int64_t documents = 0, characters = 0, lines = 0, json_lines = 0;
    bool line_begins = true, brace = false;  // at this byte; the byte before is a { that begins a line
    void take(const Piece &p, std::vector<bool> *codes) {
        documents += p.begins;
        for (char c : p.text) {
            characters += begins_character(c);
            lines += line_begins;
            json_lines += brace && c == '"';
            brace = line_begins && c == '{';
            line_begins = c == '\n';
        }
        uint32_t code = 0;
        if (codes) for (size_t i = 0; i < p.text.size(); (*codes)[code] = true) i += utf8_next(p.text, i, &code);
    }
};

// --keep: characters, ranges as a-z, and \n \t \r \\ \-
static std::set<uint32_t> keep_set(const std::string &text) {
    if (utf8_bad_byte(text) != text.npos) usage_fail("--keep is not UTF-8");
    std::vector<std::pair<uint32_t, bool>> cs;  // character, escaped
    for (size_t i = 0; i < text.size();) {
        uint32_t code = 0;
        bool escaped = text[i] == '\\';
        if (escaped && ++i == text.size()) usage_fail("--keep ends in a single backslash");
        i += utf8_next(text, i, &code);
        static const char from[] = "ntr\\-", to[] = "\n\t\r\\-";
        const char *known = escaped && code < 128 ? strchr(from, (int)code) : nullptr;
        if (escaped && !known) usage_fail("--keep knows \\n \\t \\r \\\\ \\- but not \\%c", (char)code);
        cs.push_back({known ? (uint32_t)to[known - from] : code, escaped});
    }
    std::set<uint32_t> keep;
    for (size_t i = 0; i < cs.size(); i++) {
        uint32_t to = cs[i].first;
        if (i + 2 < cs.size() && cs[i + 1].first == '-' && !cs[i + 1].second) to = cs[i + 2].first;
        if (to < cs[i].first) usage_fail("--keep has a range that ends before it begins");
        for (uint32_t c = cs[i].first; c <= to; c++) if (c < 0xD800 || c >= 0xE000) keep.insert(c);
        if (to != cs[i].first) i += 2;
    }
    return keep;
}

// ------------------------------------------------------------------------------------------------
// the tokenizer

struct Original { const char *kind, *file; };  // where download.sh puts them
static const Original originals[] = {{"world", "data/rwkv_vocab_v20230424.txt"}, {"gpt2", "data/gpt2"}, {"neox", "data/20B_tokenizer.json"}};

static bool is_tok(const std::string &path) { return path.size() > 4 && !path.compare(path.size() - 4, 4, ".tok"); }

// nullptr: char, which is to be made of the texts.
static TokenizerPtr open_tokenizer(Settings &o, bool kind_given) {
    if (is_tok(o.tokenizer_file)) {
        TokenizerPtr t = load_tokenizer(o.tokenizer_file);
        if (kind_given && t->kind != o.tokenizer)
            usage_fail("--tokenizer is %s, but %s is of the kind %s: leave --tokenizer out",
                       o.tokenizer.c_str(), o.tokenizer_file.c_str(), t->kind.c_str());
        o.tokenizer = t->kind;
        if (!o.keep.empty())
            usage_fail("--keep makes a new vocabulary, and --tokenizer-file %s is one: leave one of them out", o.tokenizer_file.c_str());
        return t;
    }
    if (!o.keep.empty() && o.tokenizer != "char") usage_fail("--keep is for --tokenizer char, not %s", o.tokenizer.c_str());
    for (const Original &from : originals) {
        if (o.tokenizer != from.kind) continue;
        std::string file = o.tokenizer_file.empty() ? from.file : o.tokenizer_file;
        if (access(file.c_str(), R_OK))
            fail("cannot read %s: %s; fetch it with  sh data_prep/download.sh %s  or name it with --tokenizer-file",
                 file.c_str(), strerror(errno), from.kind);
        return o.tokenizer == "world" ? import_world(file) : o.tokenizer == "neox" ? import_neox(file) : import_gpt2(file);
    }
    if (!o.tokenizer_file.empty())
        usage_fail("--tokenizer %s needs no --tokenizer-file, unless it is a .tok; %s is not", o.tokenizer.c_str(), o.tokenizer_file.c_str());
    return o.tokenizer == "byte" ? import_bytes() : nullptr;
}

// ------------------------------------------------------------------------------------------------
// pass 2: encode

struct Encoder {
    Tokenizer &tokenizer;
    const bool binidx;
    std::unique_ptr<TokenWriter> files;
    int64_t documents = 0;
    std::string rest;  // text that the tokenizer wants to see together with what follows
    std::vector<uint32_t> ids;
    Encoder(Tokenizer &t, const std::string &stem, bool binidx) : tokenizer(t), binidx(binidx) {
        if (binidx) files.reset(new BinIdxWriter(stem, t.vocab));
        else files.reset(new ShardWriter(stem, {t.hash, t.vocab, t.eot, t.kind}));
    }

    void take(const Piece &p, const std::string &path) {
        ids.clear();
        documents += p.begins;
        if (p.begins && tokenizer.eot >= 0 && !binidx) ids.push_back(tokenizer.eot);
        size_t eots = ids.size();
        rest += p.text;
        int64_t bytes = tokenizer.encode_piece(rest, p.ends, ids);
        rest.erase(0, bytes);
        if (rest.size() > LONGEST_WORD)
            fail("%s has more than %zu MB without a space or newline, too long a word for --tokenizer %s: use byte, char or world",
                 path.c_str(), LONGEST_WORD >> 20, tokenizer.kind.c_str());
        if (tokenizer.kind == "char") {  // dropped characters are no part of the text
            bytes = 0;
            for (size_t i = eots; i < ids.size(); i++) bytes += tokenizer.bytes(ids[i]).size();
        }
        files->add(ids.data(), ids.size(), bytes);
        if (p.ends) files->end_document();
    }
    void report(const std::string &name) const {
        bool marked = binidx || tokenizer.eot >= 0;
        int64_t text_tokens = files->tokens - (marked ? documents : 0);
        printf("  %s: %s document%s, %s bytes, %s tokens%s, %.2f bytes per token\n", name.c_str(), thousands(documents).c_str(),
               documents == 1 ? "" : "s", thousands(files->text_bytes).c_str(), thousands(text_tokens).c_str(),
               marked ? (" + " + thousands(documents) + " end-of-text").c_str() : "", text_tokens ? (double)files->text_bytes / text_tokens : 0.0);
    }
};

// The part of a file that goes to training, in characters (.txt) or documents (.jsonl), goes there; then validation.
struct Splitter {
    Encoder *train, *val;
    int64_t left;  // for training
    bool by_document;
    bool past = false;  // the border of a .txt is behind us
    void take(const Piece &p, const std::string &path) {
        if (by_document) return (left-- > 0 ? train : val)->take(p, path);
        if (past) return val->take(p, path);
        size_t cut = 0;
        while (cut < p.text.size() && (left > 0 || !begins_character(p.text[cut]))) left -= begins_character(p.text[cut++]);
        past = cut < p.text.size();
        train->take({p.text.substr(0, cut), p.begins, p.ends || past}, path);
        if (past) val->take({p.text.substr(cut), true, p.ends}, path);
    }
};

static void progress(const std::string &path, int64_t done) {  // every 64 MB, on a terminal only
    static int64_t shown = 0;
    if (!isatty(2) || done / (64 << 20) == shown) return;
    shown = done / (64 << 20);
    fprintf(stderr, "\r  %s: %lld MB ", path.c_str(), (long long)done >> 20);
}

// ------------------------------------------------------------------------------------------------
// the command to go on with

struct Size { int64_t tokens; int layers, dim, ctx, batch; const char *lr; };
static const Size sizes[] = {  // for so many tokens, or more
    {1000000000, 12, 768, 1024, 32, "6e-4"},
    {100000000, 8, 512, 512, 32, "6e-4"},
    {10000000, 6, 256, 256, 16, "8e-4"},
    {0, 4, 128, 64, 16, "1e-3"},
};

static void print_command(const Settings &o, const std::string &train, const std::string &val, int64_t train_tokens, int64_t val_tokens) {
    const Size *s = sizes;
    while (train_tokens < s->tokens) s++;
    int64_t T = s->ctx, B = s->batch, shortest = val.empty() ? train_tokens : std::min(train_tokens, val_tokens);
    while (T > 1 && shortest < T + 1) T /= 2;
    while (B > 1 && (shortest - 1) / T < B) B /= 2;  // validation has one full batch at least
    int64_t steps = std::min<int64_t>(std::max<int64_t>(train_tokens / (B * T), 300), 20000);
    printf("train with\n  ./train_rwkv --train %s%s%s --out %s --layers %d --dim %d --ctx %lld --batch %lld --steps %lld --lr %s\n",
           shell_word(train).c_str(), val.empty() ? "" : " --val ", val.empty() ? "" : shell_word(val).c_str(),
           shell_word("runs/" + base_name(o.out)).c_str(), s->layers, s->dim, (long long)T, (long long)B, (long long)steps, s->lr);
    if (o.format == "binidx" && magic_prime(train_tokens, T))
        printf("RWKV-LM's trainer takes  --data_file %s --data_type binidx --ctx_len %lld --my_exit_tokens %lld --magic_prime %lld\n",
               shell_word(o.out + "_train").c_str(), (long long)T, (long long)train_tokens, (long long)magic_prime(train_tokens, T));
}

static void prepare(Settings &o, const std::vector<std::string> &inputs, bool kind_given) {
    TokenizerPtr tokenizer = open_tokenizer(o, kind_given);
    std::set<uint32_t> keep = keep_set(o.keep);
    bool any_bytes = o.tokenizer == "byte", make_char = !tokenizer, newline = tokenizer ? tokenizer->eot < 0 : true;
    if (inputs.empty() && !kind_given && o.tokenizer_file.empty()) usage_fail("no text is named: ./prepare TEXT.txt --out %s", o.out.c_str());
    bool binidx = o.format == "binidx";
    if (binidx && (make_char || (tokenizer->eot != 0 && tokenizer->kind != "byte")))
        usage_fail("--format binidx ends documents with token 0, which is a piece of text in the tokenizer %s: use world, neox or byte", o.tokenizer.c_str());
    if (make_char && inputs.empty()) usage_fail("--tokenizer char makes its vocabulary of a text, and none is named");
    auto read = [&](const std::string &path, const Take &take) {
        is_jsonl(path) ? read_jsonl(path, o.text_key, newline, take) : read_txt(path, any_bytes, take);
    };

    std::vector<Count> counts(inputs.size());
    std::vector<bool> seen(make_char ? 0x110000 : 0);
    for (size_t i = 0; i < inputs.size(); i++) {
        Count &c = counts[i];
        const char *name = inputs[i].c_str();
        read(inputs[i], [&](const Piece &p) { c.take(p, make_char ? &seen : nullptr); });
        if (!c.characters) fail("%s has no text: there is nothing to train on", name);
        if (!is_jsonl(inputs[i]) && c.json_lines * 2 > c.lines)
            fprintf(stderr, "warning: %s of the %s lines of %s begin with {\": if it is jsonl, rename it to .jsonl, so that only the text in it is used\n",
                    thousands(c.json_lines).c_str(), thousands(c.lines).c_str(), name);
    }
    if (make_char) {
        std::set<uint32_t> codes;
        for (uint32_t c = 0; c < seen.size(); c++) if (seen[c] && (o.keep.empty() || keep.count(c))) codes.insert(c);
        if (codes.empty()) fail("none of the characters of --keep is in the text");
        if (codes.size() > 65536)
            fail("the text has %zu different characters, a vocabulary at most 65536: use --keep or --tokenizer byte", codes.size());
        tokenizer = import_characters(codes);
    }
    bool trains = !inputs.empty(), validates = trains && o.val > 0;
    Output output(o.out);
    std::vector<std::string> read_files = inputs;
    read_files.push_back(o.tokenizer_file);
    output.keeps_what_is_needed(*tokenizer, read_files, validates || !trains);
    Encoder train(*tokenizer, output.written("_train"), binidx), val(*tokenizer, output.written("_val"), binidx);
    for (size_t i = 0; i < inputs.size(); i++) {
        bool jsonl = is_jsonl(inputs[i]);
        Splitter split = {&train, &val, (int64_t)((jsonl ? counts[i].documents : counts[i].characters) * (1 - o.val)), jsonl};
        int64_t done = 0;
        read(inputs[i], [&](const Piece &p) { split.take(p, inputs[i]); progress(inputs[i], done += p.text.size()); });
    }
    if (isatty(2)) fprintf(stderr, "\r");
    if ((trains && !train.files->text_bytes) || (validates && !val.files->text_bytes))
        fail("%s gives %s bytes of text to train on and %s to validate with: add text or change --val %g",
             inputs[0].c_str(), thousands(train.files->text_bytes).c_str(), thousands(val.files->text_bytes).c_str(), o.val);
    tokenizer->save(output.written(".tok"));
    if (trains) train.files->commit();
    if (validates) val.files->commit();
    go_on();
    output.publish();

    printf("  %s.tok: %s, %s tokens\n", o.out.c_str(), tokenizer->kind.c_str(), thousands(tokenizer->vocab).c_str());
    if (!trains) return;
    std::string train_name = output.published("_train"), val_name = validates ? output.published("_val") : "";
    train.report(train_name);
    if (validates) val.report(val_name);
    if (tokenizer->dropped) printf("  %s characters without a token were dropped\n", thousands(tokenizer->dropped).c_str());
    print_command(o, train_name, val_name, train.files->tokens, val.files->tokens);
}

int main(int argc, char **argv) {
    on_stop_signals();
    signal(SIGPIPE, SIG_IGN);  // what is printed is not the result: `| head -1` does not end the work
    int rc = run_main([&] {
        Settings o;
        Options options("prepare", "makes token shards of text: ./prepare TEXT.txt [more.txt | x.jsonl ...] --out data/NAME\n"
                        "writes data/NAME_train.bin, data/NAME_val.bin and data/NAME.tok (without a text: only the .tok)", {
            {"out", &o.out, "", "", "where to, and how the files begin: data/NAME"},
            {"tokenizer", &o.tokenizer, "byte", "byte|char|world|gpt2|neox", "how text becomes tokens"},
            {"tokenizer-file", &o.tokenizer_file, "", "", "vocabulary of world, gpt2 (its directory) or neox, or any .tok [where download.sh puts it]"},
            {"format", &o.format, "shard", "shard|binidx", "of the token files: shards, or the .bin and .idx of RWKV-LM"},
            {"val", &o.val, 0.1, 0, 0.9, "the last part of every file, kept for validation"},
            {"keep", &o.keep, "", "", "char: keep only these characters, such as 'a-zA-Z .,\\n'; the others are dropped"},
            {"text-key", &o.text_key, "text", "", "jsonl: the key of the text"},
        });
        options.takes_words = true;
        options.parse(argc, argv);
        if (o.out.empty()) usage_fail("--out is missing: say where to write, such as --out data/mine");
        if (o.out.back() == '/') usage_fail("--out %s is a directory: add a name, such as %smine", o.out.c_str(), o.out.c_str());
        prepare(o, options.words, options.given("tokenizer"));
        return 0;
    });
    return rc && stop_signal() ? 128 + stop_signal() : rc;
}
