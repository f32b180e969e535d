/* tests/run_text.h: text through a model: tokenizers, generate, eval, embed. */
#pragma once
#include "../run/embed.h"
#include "../run/eval.h"
#include "../run/generate.h"
#include "run_files.h"

// A vocabulary of 30: the end of text, a-z, blank, line break, full stop; and a model for it
static Tokenizer letters() {
    std::vector<std::string> tokens = {""};
    for (char c = 'a'; c <= 'z'; c++) tokens.push_back(std::string(1, c));
    for (const char *s : {" ", "\n", "."}) tokens.push_back(s);
    return Tokenizer("world", tokens, 0);
}
static std::string letters_model(const ScratchDir &dir, const char *version = "7") {
    letters().save(dir / "letters.tok");
    return write_model(dir, {version, 2, 2, 8, 32, 30, *version == '6' ? "m3d3" : "w3a3v3g3"});
}
static std::vector<int> ints(const std::vector<uint32_t> &ids) { return {ids.begin(), ids.end()}; }
static double log_p(const Row &z, int token) {
    double max = *std::max_element(z.begin(), z.end()), sum = 0;
    for (double x : z) sum += exp(x - max);
    return z[token] - max - log(sum);
}
// ln p of ids[from ...] one by one, by the plain model from an empty state
static std::vector<double> plain_log_p(Plain &plain, const std::vector<int> &ids, size_t from) {
    std::vector<double> p;
    plain.start();
    for (size_t i = 0; i + 1 < ids.size(); i++) {
        Row z = plain.step(ids[i]);
        if (i + 1 >= from) p.push_back(log_p(z, ids[i + 1]));
    }
    return p;
}
static double total(const std::vector<double> &v) { double s = 0; for (double x : v) s += x; return s; }
static bool near(double a, double b, double scale = 1) { return fabs(a - b) <= LOGIT_LIMIT * std::max(1.0, scale); }

// ------------------------------------------------------------------------------------------------
// tokenizers

TEST("run: a tokenizer is found by the model or refused with a sentence") {
    ScratchDir dir;
    auto info = [&](int V, std::string at = "") { ModelInfo m; m.path = dir / (at + "m.pth"), m.V = V; return m; };
    std::map<std::string, std::string> none, hashed = {{"tokenizer_hash", format("%016llx", (unsigned long long)letters().hash)}};
    CHECK(model_tokenizer(info(256), none, "")->kind == "byte", "256 are bytes");
    CHECK_ERROR(model_tokenizer(info(30), none, ""), "no tokenizer was found");
    CHECK_ERROR(model_tokenizer(info(1000), none, ""), "the .tok that it was trained with");
    letters().save(dir / "letters.tok");
    CHECK(model_tokenizer(info(30), none, "")->vocab == 30 && model_tokenizer(info(30), hashed, "")->vocab == 30, "the .tok beside the model");
    CHECK(model_tokenizer(info(32), none, "")->vocab == 30, "a padded vocabulary");
    CHECK_ERROR(model_tokenizer(info(29), none, dir / "letters.tok"), "emb.weight has 29 rows");
    CHECK_ERROR(model_tokenizer(info(65536), none, dir / "letters.tok"), "65536");
    hashed["tokenizer_hash"][3] ^= 1;
    CHECK_ERROR(model_tokenizer(info(30), hashed, ""), "no tokenizer was found");
    CHECK_ERROR(model_tokenizer(info(30), hashed, dir / "letters.tok"), "not the tokenizer");
    CHECK_ERROR(model_tokenizer(info(30), none, dir / "none.tok"), "none.tok");
    for (std::string content : {std::string(""), std::string("GGUF"), file_bytes(dir / "letters.tok").substr(0, 60), std::string("{\"model\": 1}")}) {
        put_file(dir / "bad.tok", content);
        CHECK_ERROR(model_tokenizer(info(30), none, dir / "bad.tok"), "bad.tok");
    }
    fuzz("tokenizer", file_bytes(dir / "letters.tok"), 500, [&](const std::string &path) { model_tokenizer(info(30), none, path)->encode("some text\n"); });
}
TEST("run: World and NeoX models find the original vocabulary files beside them") {
    struct stat st;
    if (stat("../shared/tokenizers", &st)) SKIP("no ../shared/tokenizers");
    ScratchDir dir;
    auto original = [&](const char *name) {
        std::string from = std::string("../shared/tokenizers/") + name;
        if (!stat(from.c_str(), &st)) put_file(dir / from.substr(from.rfind('/') + 1), file_bytes(from));
        return !stat(from.c_str(), &st);
    };
    if (!original("rwkv_world/rwkv_vocab_v20230424.txt") || !original("neox20b/20B_tokenizer.json")) SKIP("no original files");
    ModelInfo m;
    m.path = dir / "m.pth", m.V = 65536;
    CHECK(model_tokenizer(m, {}, "")->kind == "world", "65536 is World");
    for (int V : {50277, 50304}) { m.V = V; CHECK(model_tokenizer(m, {}, "")->kind == "neox", "%d is NeoX", V); }
    CHECK_ERROR(model_tokenizer(m, {}, dir / "rwkv_vocab_v20230424.txt"), "65536");
}

// ------------------------------------------------------------------------------------------------
// generate

static TextOptions text_options() {
    TextOptions o;
    o.table();
    o.tokens = 40, o.seed = 1, o.s = Sampler();
    return o;
}
// What a Writer prints when exactly these tokens are drawn
static std::string spelled(const Tokenizer &t, const TextOptions &o, const std::vector<int> &ids, Writer::End *end = nullptr) {
    Writer w(t, o);
    std::string all;
    for (int id : ids) {
        std::string text;
        w.take(id, text);
        CHECK(utf8_bad_byte(text) == text.npos, "a piece is not UTF-8");
        all += text;
        if (w.end != Writer::GOING) break;
    }
    if (end) *end = w.end;
    return all;
}
TEST("generate: --stop ends the text before itself, also across tokens; the end-of-text token ends it; pieces are UTF-8") {
    Tokenizer t = letters();
    TextOptions o = text_options();
    o.s.temperature = 0;
    Writer::End end;
    CHECK(spelled(t, o, ints(t.encode("hello world"))) == "hello world", "without --stop");
    o.stop = "lo w";
    CHECK(spelled(t, o, ints(t.encode("hel lo world")), &end) == "hel " && end == Writer::STOP, "it said '%s'", spelled(t, o, ints(t.encode("hel lo world"))).c_str());
    o.tokens = 5;
    CHECK(spelled(t, o, ints(t.encode("hello")), &end) == "hello" && end == Writer::LENGTH, "the part of --stop that was held back is lost at the end");
    o.tokens = 40;
    std::vector<int> ids = ints(t.encode("hello"));
    ids.push_back(0);
    CHECK(spelled(t, o, ids, &end) == "hello" && end == Writer::END_OF_TEXT, "at the end of text");
    std::unique_ptr<Tokenizer> bytes = import_bytes();
    o.stop = "";
    CHECK(spelled(*bytes, o, ints(bytes->encode("h\xc3\xa9\xe4\xbd\xa0\xf0\x9f\x98\x80!"))) == "h\xc3\xa9\xe4\xbd\xa0\xf0\x9f\x98\x80!", "characters of several bytes");
    o.tokens = 2;
    CHECK(spelled(*bytes, o, {'a', 0xe4}) == "a\xef\xbf\xbd", "an unfinished character at the end is one U+FFFD");
}
TEST("generate: the same seed gives the same text, another seed another, and a batch what single runs give") {
    ScratchDir dir;
    std::string path = letters_model(dir);
    Tokenizer t = letters();
    TextOptions o = text_options();
    o.s.presence = o.s.frequency = 0.3;
    std::vector<std::string> prompts = {"once upon a time", "the", "", "a cat. a dog.\n", "zz", "x y z"};
    auto texts = [&](int places, int64_t seed) {
        Engine e(path, quiet(places));
        o.seed = seed;
        std::vector<std::string> out;
        for (auto &b : generate_batch(e, t, o, prompts, places)) out.push_back(b.text);
        return out;
    };
    std::vector<std::string> one = texts(1, 7), again = texts(1, 7), other = texts(1, 8), three = texts(3, 7);
    CHECK(one == again, "the same seed, another text");
    CHECK(one != other, "another seed, the same text");
    if (!has_master) CHECK(one == three, "places for 3: '%s', for 1: '%s'", three[0].c_str(), one[0].c_str());
    for (size_t i = 0; i < one.size(); i++) {  // a prompt alone
        std::vector<std::string> all = prompts;
        prompts = {all[i]};
        CHECK(texts(1, 7)[0] == one[i], "prompt %zu alone gives another text", i);
        prompts = all;
    }
}

TEST("generate: a batch refuses a wrong prompt before the first text; after Ctrl-C every prompt is there, as interrupted") {
    ScratchDir dir;
    Engine e(letters_model(dir), quiet());
    Tokenizer t = letters();
    TextOptions o = text_options();
    double prefill = 0;
    CHECK_ERROR(generate_batch(e, t, o, {"once", "caf\xe9"}, 1, &prefill), "prompt 2 of --batch is not UTF-8");
    CHECK(prefill == 0, "the first prompt was read");
    stop_signal() = 1;
    std::vector<BatchText> out = generate_batch(e, t, o, {"once", "the"}, 1);
    stop_signal() = 0;
    for (const BatchText &b : out) CHECK(b.prompt == (&b == &out[0] ? "once" : "the") && b.text.empty() && b.tokens == 0 && b.end == std::string("interrupted"), "'%s' ended with '%s'", b.prompt.c_str(), b.end ? b.end : "(null)");
}

// ------------------------------------------------------------------------------------------------
// eval

static const char *const story = "the cat sat on the mat.\nthe dog ran to the cat. the end.\nonce upon a time a zebra quit jumping over foxes.\n";

TEST("eval: bits per byte, perplexities and the loss by position = the plain model, whole and in pieces") {
    ScratchDir dir;
    std::string path = letters_model(dir);
    Tokenizer t = letters();
    Plain plain{TensorFile(path)};
    std::vector<int> ids = ints(t.encode(story));
    ids.insert(ids.begin(), 0);
    for (int chunk : {0, 7}) {
        Engine e(path, quiet(1, chunk));
        Scorer s(e, t);
        TextScore whole = score_text(s, story, 0, 10);
        std::vector<double> p = plain_log_p(plain, ids, 1);
        CHECK(near(whole.nats, -total(p), p.size()) && whole.tokens == (int64_t)p.size() && whole.bytes == (int64_t)strlen(story), "%g nats, not %g, in %lld tokens", whole.nats, -total(p), (long long)whole.tokens);
        CHECK(fabs(whole.bits_per_byte() - whole.nats / log(2) / strlen(story)) < 1e-12 && whole.words == 24 && fabs(whole.word_perplexity() - exp(whole.nats / 24)) < 1e-6 * whole.word_perplexity(), "%lld words", (long long)whole.words);
        CHECK(whole.loss.size() == (p.size() + 9) / 10 && near(whole.loss[1], -total({p.begin() + 10, p.begin() + 20}), 10) && whole.count[1] == 10, "the loss of positions 10 to 19");
        TextScore pieces = score_text(s, story, 16, 16);
        double sum = 0;
        for (size_t i = 0; i + 1 < ids.size(); i += 16) {
            std::vector<int> piece(ids.begin() + i, ids.begin() + std::min(i + 17, ids.size()));
            sum -= total(plain_log_p(plain, piece, 1));
        }
        CHECK(near(pieces.nats, sum, p.size()) && pieces.tokens == whole.tokens, "in pieces of 16: %g nats, not %g", pieces.nats, sum);
    }
    Engine e(path, quiet());
    Scorer s(e, t);
    write_positions(dir / "p.csv", score_text(s, story, 0, 50), 50);
    write_positions(dir / "p.jsonl", score_text(s, story, 0, 50), 50);
    CHECK(file_bytes(dir / "p.csv").find("position,tokens,loss\n0,50,") == 0, "CSV");
    CHECK(parse_json(file_bytes(dir / "p.jsonl").substr(0, file_bytes(dir / "p.jsonl").find('\n'))).at("tokens").as_int() == 50, "JSON lines");
    Tokenizer byte = *import_bytes();
    CHECK_ERROR(score_text(s, "", 0, 1), "at least 2");
    std::string bytes_path = write_model(dir, {"4", 1, 1, 16, 32, 256, ""}, 1, "b.safetensors");
    Engine b(bytes_path, quiet());
    Scorer sb(b, byte);  // no end of text: the first byte is not predicted
    CHECK(score_text(sb, "abc", 0, 1).tokens == 2 && score_text(sb, "abc", 0, 1).bytes == 2, "bytes");
    CHECK_ERROR(score_text(sb, "a", 0, 1), "at least 2");
}

TEST("eval: the logits of a long chunk are those of forward(), and 64 MB of them are held at a time") {
    ScratchDir dir;
    const int V = 65536, n = 600, most = (1 << 24) / V;  // 600 rows are 157 MB
    Engine e(write_model(dir, {"4", 1, 1, 8, 16, V, ""}), quiet(1, n));
    std::vector<int> ids(n);
    for (int i = 0; i < n; i++) ids[i] = i * 97 % V;
    std::vector<float> whole = gpt(e, ids, e.new_states(1));
    int64_t next = 0;
    const float *first = nullptr;
    e.each_logits(ids.data(), n, e.new_states(1), [&](int64_t i, const float *z) {
        if (i == 0) first = z;
        CHECK(i == next++ && z >= first && z < first + (int64_t)most * V, "row %lld is at %lld", (long long)i, (long long)(z - first));
        CHECK(std::equal(z, z + V, whole.begin() + i * V), "row %lld differs", (long long)i);
    });
    CHECK(next == n, "%lld rows", (long long)next);
}

TEST("eval: LAMBADA's accuracy and perplexity = the plain model; what is no example is named") {
    ScratchDir dir;
    std::string path = letters_model(dir, "6");
    Tokenizer t = letters();
    Plain plain{TensorFile(path)};
    std::vector<std::pair<std::string, std::string>> examples = {{"the cat sat on the", " mat"}, {"a dog ran to the", " zoo"}, {"once upon a", " time."}, {"go", " a"}};
    // one whose last word is the likeliest: greedy, two tokens after a blank
    plain.start();
    Row z = plain.step(0);
    for (int id : ints(t.encode("we see it again"))) z = plain.step(id);
    std::string file;
    double nats = 0;
    for (auto &[context, word] : examples) {
        std::vector<int> ids = ints(t.encode(context + word));
        ids.insert(ids.begin(), 0);
        nats -= total(plain_log_p(plain, ids, 1 + context.size()));
        file += "{\"text\": " + json_quote(context + word) + "}\n";
    }
    put_file(dir / "l.jsonl", file + "\n");
    Engine e(path, quiet());
    Scorer s(e, t);
    LambadaScore r = score_lambada(s, dir / "l.jsonl", 0);
    CHECK(r.accuracy.of == 4 && near(r.nats, nats, 20) && fabs(r.perplexity() - exp(nats / 4)) < (has_master ? 1e-2 : 1e-3) * r.perplexity(), "%g nats, not %g", r.nats, nats);
    // words that are right by construction: the greedy continuation of " ", as far as it is letters
    int64_t hits = 0, of = 0;
    std::string right;
    for (int id = 1; id <= 26; id++) {
        std::string context = "abc" + std::string(t.bytes(id));
        std::vector<int> ids = ints(t.encode(context + " "));
        ids.insert(ids.begin(), 0);
        plain.start();
        Row last;
        bool blank = true;
        for (size_t i = 0; i < ids.size(); i++) {
            if (i + 1 == ids.size()) blank = std::max_element(last.begin(), last.end()) - last.begin() == ids[i];
            last = plain.step(ids[i]);
        }
        int best = std::max_element(last.begin(), last.end()) - last.begin();
        if (best < 1 || best > 26) continue;
        right += "{\"text\": " + json_quote(context + " " + std::string(t.bytes(best))) + "}\n", hits += blank, of++;
    }
    put_file(dir / "r.jsonl", right);
    LambadaScore g = score_lambada(s, dir / "r.jsonl", 0);
    CHECK(g.accuracy.of == of && (has_master || g.accuracy.hits == hits), "%lld of %lld right, not %lld", (long long)g.accuracy.hits, (long long)of, (long long)hits);
    CHECK(score_lambada(s, dir / "l.jsonl", 2).accuracy.of == 2, "--limit");
    for (auto &[content, words] : {std::pair<const char *, const char *>{"{\"text\": \"word\"}\n", "line 1: no last word"}, {"\n{\"txt\": \"a b\"}\n", "line 2"}, {"{\"text\": \"a b\"}\nxx\n", "line 2"}, {"", "no examples"}, {"{\"text\": 5}", "l2.jsonl, line 1"}}) {
        put_file(dir / "l2.jsonl", content);
        CHECK_ERROR(score_lambada(s, dir / "l2.jsonl", 0), words);
    }
}

TEST("eval: HellaSwag's acc and acc_norm = the plain model, in both forms of the file") {
    ScratchDir dir;
    std::string path = letters_model(dir);
    Tokenizer t = letters();
    Plain plain{TensorFile(path)};
    const std::vector<std::vector<std::string>> endings = {{"sat down.", "ran away from it all.", "is", "went to sleep in a box."}, {"dog", "a long way home.", "x", "on the mat and slept."}, {"yes", "no no no no", "quiz", "aa"}};
    const char *contexts[] = {"the cat", "then the", "and so"};
    std::string file, original;
    int64_t acc = 0, norm = 0;
    for (int i = 0; i < 3; i++) {
        int best = 0, best_norm = 0;
        double most = -INFINITY, most_norm = -INFINITY;
        std::string list;
        for (int k = 0; k < 4; k++) {
            std::vector<int> ids = ints(t.encode(contexts[i] + std::string(" ") + endings[i][k]));
            ids.insert(ids.begin(), 0);
            double p = total(plain_log_p(plain, ids, 1 + strlen(contexts[i])));
            if (p > most) most = p, best = k;
            if (p / endings[i][k].size() > most_norm) most_norm = p / endings[i][k].size(), best_norm = k;
            list += (k ? ", " : "") + json_quote(endings[i][k]);
        }
        int label = i == 2 ? 3 : best;
        acc += best == label, norm += best_norm == label;
        file += format("{\"ind\": %d, \"ctx\": \"%s\", \"label\": %d, \"endings\": [%s]}\n", i, contexts[i], label, list.c_str());
    }
    put_file(dir / "h.jsonl", file);
    Engine e(path, quiet());
    Scorer s(e, t);
    HellaswagScore r = score_hellaswag(s, dir / "h.jsonl", 0);
    CHECK(r.acc.of == 3 && (has_master || (r.acc.hits == acc && r.acc_norm.hits == norm)), "acc %lld, not %lld; acc_norm %lld, not %lld", (long long)r.acc.hits, (long long)acc, (long long)r.acc_norm.hits, (long long)norm);
    CHECK(acc > norm, "acc and acc_norm do not differ");
    Json line = parse_json(R"({"activity_label": "Baking", "ctx_a": " [header] A cake [title] is", "ctx_b": "iN the oven  now", "ctx": "x", "endings": ["a"], "label": "0"})");
    CHECK(hellaswag_context(line) == "Baking:  A cake. is In the oven now", "it is '%s'", hellaswag_context(line).c_str());
    put_file(dir / "h2.jsonl", "{\"ctx\": \"a\", \"label\": 4, \"endings\": [\"a\", \"b\"]}\n");
    CHECK_ERROR(score_hellaswag(s, dir / "h2.jsonl", 0), "line 1: the label is 4");
    for (const char *label : {"zwei", "", "1x", "-1"}) {
        put_file(dir / "h3.jsonl", format("\n{\"ctx\": \"a\", \"label\": \"%s\", \"endings\": [\"a\", \"b\"]}\n", label));
        CHECK_ERROR(score_hellaswag(s, dir / "h3.jsonl", 0), format("h3.jsonl, line 2: the JSON value at byte 22 is the label \"%s\"", label));
    }
}

// ------------------------------------------------------------------------------------------------
// embed

TEST("embed: hidden vectors and states = the plain model; .npy and JSON lines hold them") {
    ScratchDir dir;
    Tokenizer t = letters();
    put_file(dir / "lines.txt", "the cat\nthe dog ran\r\n\nlast");
    MappedFile text(dir / "lines.txt");
    std::vector<std::string_view> lines = lines_of(text);
    CHECK(lines.size() == 4 && lines[1] == "the dog ran" && lines[2].empty() && lines[3] == "last", "the lines");
    for (const char *version : {"4", "6", "7"}) {
        std::string path = letters_model(dir, version);
        Plain plain{TensorFile(path)};
        Engine e(path, quiet());
        Embedder hidden(e, t, Embedder::HIDDEN), all(e, t, Embedder::STATE), second(e, t, Embedder::STATE, 1), memory(e, t, Embedder::MEMORY, 1);
        for (std::string_view line : lines) {
            plain.start();
            plain.step(0);
            for (int id : ints(t.encode(line))) plain.step(id);
            CHECK(difference(hidden(line), plain.hidden) <= LOGIT_LIMIT, "version %s: the hidden vector", version);
            std::vector<float> s = all(line), s1 = second(line);
            std::vector<double> want;
            for (auto &l : plain.state) {
                want.insert(want.end(), l.att_x.begin(), l.att_x.end()), want.insert(want.end(), l.ffn_x.begin(), l.ffn_x.end());
                if (*version == '4') for (int i = 0; i < plain.C; i++) want.push_back(l.aa[i] / l.bb[i]);
                else for (int c = 0; c < plain.C; c++) for (int j = 0; j < plain.N; j++)
                    want.push_back(*version == '7' ? l.S[(c / plain.N * plain.N + j) * plain.N + c % plain.N] : l.S[c * plain.N + j]);
            }
            CHECK(difference(s, want) <= 10 * LOGIT_LIMIT, "version %s: the state differs by %g", version, difference(s, want));
            CHECK(s1 == std::vector<float>(s.begin() + s.size() / 2, s.end()), "version %s: --layer 1", version);
            CHECK(memory(line) == std::vector<float>(s1.begin() + 2 * plain.C, s1.end()), "version %s: the memory of layer 1", version);
        }
        write_vectors(dir / "v.npy", hidden, lines), write_vectors(dir / "v.jsonl", hidden, lines);
        std::string npy = file_bytes(dir / "v.npy"), json = file_bytes(dir / "v.jsonl");
        size_t head = 10 + load_as<uint16_t>(npy.data() + 8);
        CHECK(head % 64 == 0 && npy[head - 1] == '\n' && npy.find("'shape': (4, 16)") != npy.npos && npy.size() == head + 4 * 16 * 4, "the head of the .npy");
        std::vector<float> last(16), fourth = hidden("last");
        memcpy(last.data(), npy.data() + head + 3 * 64, 64);
        CHECK(last == fourth, "the last row of the .npy");
        Json j = parse_json(json.substr(0, json.find('\n')));
        CHECK(j.at("text").as_text() == "the cat" && j.at("vector").items.size() == 16 && (float)j.at("vector").at(3).as_double() == hidden("the cat")[3], "the first line of the .jsonl");
    }
}

// Two kinds of story, told in the same letters; the model is random, but what it has read is in its state.
TEST("embed: a nearest centroid tells lines of two sources apart, more than 90 %") {
    ScratchDir dir;
    const std::vector<std::string> words[] = {{"the", "ship", "sailed", "over", "wide", "sea", "captain", "storm", "wind", "island", "and", "a", "pirate"},
                                              {"the", "queen", "baked", "bread", "in", "her", "kitchen", "oven", "sugar", "flour", "and", "a", "guest"}};
    std::string text[2];
    Rng rng = {3, 0, 0};
    for (int c : {0, 1}) for (int i = 0; i < 60; i++) for (int w = 0; w < 20; w++) text[c] += words[c][rng.below(words[c].size())] + (w < 19 ? " " : ".\n");
    put_file(dir / "a", text[0]), put_file(dir / "b", text[1]);
    MappedFile fa(dir / "a"), fb(dir / "b");
    Tokenizer t = letters();
    for (const char *version : {"4", "7"}) {
        RandomModel m = random_model(version, 2, 2, 8, 32, 30, "w3a3v3g3", 1);
        for (size_t i = 0; i < m.tensors.size(); i++)  // a memory of some 50 tokens
            if (m.tensors[i].name.find("time_decay") != std::string::npos || m.tensors[i].name.find("att.w0") != std::string::npos) for (float &x : m.data[i]) x = *version == '4' ? -4.5f : -3.5f;
        write_safetensors(dir / "m.safetensors", {}, m.tensors);
        Engine e(dir / "m.safetensors", quiet());
        Embedder memory(e, t, Embedder::MEMORY);
        double share = centroid_accuracy(memory, lines_of(fa), lines_of(fb)), chance = centroid_accuracy(memory, lines_of(fa), lines_of(fa));
        CHECK(share > 0.9, "version %s: %.1f %%", version, 100 * share);
        CHECK(chance < 0.7, "version %s: the same source twice is told apart in %.1f %%", version, 100 * chance);
    }
}
