/* run/generate.h: run_rwkv generate: text that goes on from a prompt, for one prompt or for many at once.

   The prompt goes through the model in parallel; then one token at a time is drawn (rwkv/sampler.h says how; sample.h does
   it on the device) and fed. Text ends at --tokens, at the end-of-text token, or before --stop. What is printed is valid UTF-8 after every write.
   With --batch the sequences take turns in --batch-size places; each draws its own random numbers from the same seed,
   so it gives the text that a run of its own would give.

   An empty prompt begins with the end-of-text token, or with a line break if there is none.
   defines: TextOptions, Writer, generate_main */
#pragma once
#include "engine.h"
#include <chrono>
#include <unistd.h>

inline double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// The options of everything that writes text
struct TextOptions {
    Sampler s;
    int64_t tokens, seed;
    std::string stop, state_in, state_out;
    Rng rng(uint64_t draws = 0) const { return {(uint64_t)seed, (uint64_t)1 << 32, draws}; }
    std::vector<Option> table() {
        return {
            {"tokens", &tokens, 256, 0, 1e12, "most tokens to write (of an answer)"},
            {"temperature", &s.temperature, 1, 0, 100, "0: always the likeliest token"},
            {"top-p", &s.top_p, 0.85, 0, 1, "only the likeliest tokens that make up this share; 1: all, 0: the likeliest"},
            {"top-k", &s.top_k, 0, 0, 1 << 20, "only the k likeliest tokens; 0: all"},
            {"min-p", &s.min_p, 0, 0, 1, "only tokens with at least this share of the likeliest one's probability"},
            {"top-a", &s.top_a, 0, 0, 1, "drop p < top-a * (largest p)^2; RWKV-1's rule has 0.02"},
            {"presence", &s.presence, 0.2, -100, 100, "taken from the logit of every token that was written before (byte and char vocabularies: 0)"},
            {"frequency", &s.frequency, 0.2, -100, 100, "the same, times how often (byte and char vocabularies: 0)"},
            {"decay", &s.decay, 0.996, 0, 1, "of these counts per token"},
            {"seed", &seed, 1, 0, 1e15, "of the random numbers"},
            {"stop", &stop, "", "", "end before this text, such as $'\\n\\nUser'"},
            {"state-in", &state_in, "", "", "start from this state: of --state-out, or a tuned one (time_state .pth)"},
            {"state-out", &state_out, "", "", "write the state after all tokens"},
        };
    }
};

// Letters must repeat: with a vocabulary of bytes or characters the two penalties are 0 unless they are asked for.
inline void penalties_for(const Tokenizer &t, Options &options, TextOptions &o) {
    if (t.kind != "byte" && t.kind != "char") return;
    if (!options.given("presence")) o.s.presence = 0;
    if (!options.given("frequency")) o.s.frequency = 0;
}

// Makes the tokens of one text printable and knows when it ends.
struct Writer {
    const Tokenizer &tokenizer;
    const TextOptions &o;
    Utf8Stream utf8;
    std::string held;               // printable, but perhaps the beginning of --stop
    int64_t made = 0;
    enum End { GOING, LENGTH, END_OF_TEXT, STOP } end = GOING;

    Writer(const Tokenizer &t, const TextOptions &o) : tokenizer(t), o(o) { if (o.tokens == 0) end = LENGTH; }
    // The next token was drawn; `text` gets what can be printed now.
    void take(int token, std::string &text) {
        made++;
        if (token == tokenizer.eot) return end = END_OF_TEXT, finish(text);
        held += utf8.feed(tokenizer.bytes(token));
        size_t at = o.stop.empty() ? held.npos : held.find(o.stop);
        if (at != held.npos) text += held.substr(0, at), held.clear(), end = STOP;
        else {
            size_t keep = o.stop.empty() ? 0 : std::min(held.size(), o.stop.size() - 1);
            while (keep && held.compare(held.size() - keep, keep, o.stop, 0, keep)) keep--;
            text += held.substr(0, held.size() - keep), held.erase(0, held.size() - keep);
            if (made >= o.tokens) end = LENGTH, finish(text);
        }
    }
    void finish(std::string &text) { text += held + utf8.flush(), held.clear(); }
};

inline std::vector<int> prompt_ids(Tokenizer &t, const std::string &text, const char *what, bool state) {
    size_t bad = utf8_bad_byte(text);
    if (bad != text.npos) fail("%s is not UTF-8: byte %zu is 0x%02x; save the text as UTF-8", what, bad, (unsigned char)text[bad]);
    t.dropped = 0;
    std::vector<uint32_t> ids = t.encode(text);
    if (t.dropped) fprintf(stderr, "warning: %lld characters of %s are unknown to the model's tokenizer (%s) and are left out\n", (long long)t.dropped, what, t.kind.c_str());
    if (ids.empty() && state) fail("%s is empty: with --state-in, say what comes next", what);
    if (ids.empty() && t.eot >= 0) ids = {(uint32_t)t.eot};
    if (ids.empty()) t.encode("\n", ids);
    if (ids.empty()) ids = {0};
    return std::vector<int>(ids.begin(), ids.end());
}
inline std::string read_text(const std::string &path) {  // "-": standard input
    if (path != "-") return std::string(MappedFile(path).text());
    std::string text;
    char part[65536];
    for (ssize_t n; (n = read(0, part, sizeof part)) != 0;) {
        if (n < 0) fail("cannot read standard input: %s", strerror(errno));
        text.append(part, n);
    }
    return text;
}
inline void print(const std::string &text) { fwrite(text.data(), 1, text.size(), stdout), fflush(stdout); }
inline void catch_interrupts() {  // a second one ends the program
    struct sigaction a = {};
    a.sa_handler = [](int) { stop_signal() = 1; }, a.sa_flags = (int)SA_RESETHAND;
    sigaction(SIGINT, &a, nullptr), sigaction(SIGTERM, &a, nullptr);
}

struct GenerateOptions : TextOptions {
    std::string prompt, prompt_file, batch;
    int64_t batch_size;
    bool no_prompt;
};

inline void generate_one(Engine &e, Tokenizer &t, const GenerateOptions &o) {
    std::string prompt = o.prompt_file.empty() ? o.prompt : read_text(o.prompt_file);
    std::vector<int> ids = prompt_ids(t, prompt, o.prompt_file.empty() ? "--prompt" : o.prompt_file.c_str(), !o.state_in.empty());
    real *state = e.new_states(1);
    if (!o.state_in.empty()) e.load_state(o.state_in, state);
    Writer w(t, o);
    e.sampling.vocabulary(&t), e.begin_text(0, o.s, o.rng());
    double start = seconds();
    e.forward(ids.data(), ids.size(), state, Engine::LAST);
    double first = seconds();
    if (!o.no_prompt) print(prompt);
    for (int token = w.end == Writer::GOING ? e.draw(0) : 0; w.end == Writer::GOING && !stop_signal();) {
        std::string text;
        w.take(token, text), print(text);
        if (w.end == Writer::GOING) e.decode_draw(&token, 1, state, nullptr, &token);
        else if (w.end != Writer::END_OF_TEXT && !o.state_out.empty()) e.decode(&token, 1, state, nullptr, nullptr);
    }
    if (stop_signal()) { std::string text; w.finish(text), print(text); }
    double now = seconds();
    if (w.end != Writer::STOP || isatty(1)) print("\n");
    fprintf(stderr, "prompt: %zu tokens, %.1f tokens/s; text: %lld tokens, %.1f tokens/s\n",
            ids.size(), ids.size() / (first - start), (long long)w.made, w.made / std::max(now - first, 1e-9));
    if (!o.state_out.empty()) e.save_state(o.state_out, state);
}

// One prompt a line; a line in quotes is a JSON string, which can hold line breaks.
inline std::vector<std::string> read_prompts(const std::string &path) {
    std::vector<std::string> prompts;
    std::string text = read_text(path);
    for (size_t i = 0, j; i < text.size(); i = j + 1) {
        j = std::min(text.find('\n', i), text.size());
        std::string line = text.substr(i, j - i);
        if (!line.empty() && line.back() == '\r') line.pop_back();
        if (line.size() > 1 && line[0] == '"') {
            Json s = parse_json(line, format("%s line %zu", path.c_str(), prompts.size() + 1).c_str());
            line = s.text;
        }
        prompts.push_back(line);
    }
    if (prompts.empty()) fail("--batch %s has no lines", path.c_str());
    return prompts;
}
// The texts of all prompts, in their order
struct BatchText { std::string prompt, text; int64_t tokens; const char *end; };
inline std::vector<BatchText> generate_batch(Engine &e, Tokenizer &t, const TextOptions &o, const std::vector<std::string> &prompts, int places,
                                             double *prefill_seconds = nullptr) {
    static const char *const ends[] = {"interrupted", "length", "end", "stop"};
    std::vector<BatchText> out;
    std::vector<std::vector<int>> prompt_tokens;  // of all: a wrong prompt is found before the first text is made
    for (const std::string &prompt : prompts) {
        std::string what = format("prompt %zu of --batch", prompt_tokens.size() + 1);
        prompt_tokens.push_back(prompt_ids(t, prompt, what.c_str(), !o.state_in.empty()));
        out.push_back({prompt, "", 0, ends[Writer::GOING]});
    }
    struct Place { size_t prompt; std::unique_ptr<Writer> w; int token; };
    std::vector<Place> place;           // those in use; slot[i] is the state of place[i]
    std::vector<int> slot, unused;
    real *states = e.new_states(places), *origin = e.new_states(1);
    if (!o.state_in.empty()) e.load_state(o.state_in, origin);
    for (int i = places; i-- > 0;) unused.push_back(i);
    e.sampling.vocabulary(&t);
    auto close = [&](Place &p) { out[p.prompt].tokens = p.w->made, out[p.prompt].end = ends[p.w->end]; };
    auto prefill = [&](size_t prompt) {  // into a free place
        double start = seconds();
        int s = unused.back();
        real *state = states + s * e.state_size();
        e.copy_state(state, origin);
        e.begin_text(s, o.s, o.rng());
        e.forward(prompt_tokens[prompt].data(), prompt_tokens[prompt].size(), state, Engine::LAST);
        Place p = {prompt, std::make_unique<Writer>(t, o), -1};
        if (p.w->end == Writer::GOING) p.token = e.draw(s), p.w->take(p.token, out[prompt].text);
        if (p.w->end == Writer::GOING) unused.pop_back(), slot.push_back(s), place.push_back(std::move(p));
        else close(p);
        if (prefill_seconds) *prefill_seconds += seconds() - start;
    };
    auto step = [&] {  // one token for each text; places whose text has ended become free
        std::vector<int> ids;
        for (Place &p : place) ids.push_back(p.token);
        e.decode_draw(ids.data(), ids.size(), states, slot.data(), ids.data());
        size_t kept = 0;
        for (size_t i = 0; i < place.size(); i++) {
            Place &p = place[i];
            p.token = ids[i], p.w->take(p.token, out[p.prompt].text);
            if (p.w->end != Writer::GOING) { close(p), unused.push_back(slot[i]); continue; }
            slot[kept] = slot[i];
            if (kept != i) place[kept] = std::move(p);
            kept++;
        }
        place.erase(place.begin() + kept, place.end()), slot.resize(kept);
    };
    for (size_t next = 0; (next < prompts.size() || !place.empty()) && !stop_signal();) {
        while (next < prompts.size() && !unused.empty()) prefill(next++);
        if (!place.empty()) step();
    }
    for (Place &p : place) p.w->finish(out[p.prompt].text), close(p);
    return out;
}

inline int generate_main(int argc, char **argv) {
    ModelOptions m;
    GenerateOptions o;
    std::vector<Option> table = m.table(), text = o.table();
    table.insert(table.end(), {
        {"prompt", &o.prompt, "", "", "what the text goes on from"},
        {"prompt-file", &o.prompt_file, "", "", "the same from a file; - is standard input"},
        {"no-prompt", &o.no_prompt, "print only what is new"},
        {"batch", &o.batch, "", "", "a prompt a line (or a JSON string a line); prints a line of JSON for each"},
        {"batch-size", &o.batch_size, 32, 1, 4096, "prompts of --batch that run at once"}});
    table.insert(table.end(), text.begin(), text.end());
    Options options(argv[0], "writes text that goes on from a prompt", table);
    options.parse(argc, argv);
    if (options.given("prompt") + options.given("prompt-file") + options.given("batch") > 1) usage_fail("--prompt, --prompt-file and --batch exclude each other");
    if (!o.batch.empty() && !o.state_out.empty()) usage_fail("--state-out is of one text, and --batch writes many");
    check_outputs(options, {"state-out"}, {"model", "tokenizer", "prompt-file", "state-in"});
    std::vector<std::string> prompts;
    if (!o.batch.empty()) prompts = read_prompts(o.batch);
    int places = std::min<size_t>(o.batch_size, std::max<size_t>(1, prompts.size()));
    std::unique_ptr<Engine> e = m.open(places);
    std::unique_ptr<Tokenizer> t = e->tokenizer(m.tokenizer);
    penalties_for(*t, options, o);
    catch_interrupts();
    if (prompts.empty()) generate_one(*e, *t, o);
    else {
        double start = seconds(), prefill = 0;
        int64_t tokens = 0;
        for (const BatchText &b : generate_batch(*e, *t, o, prompts, places, &prefill)) {
            tokens += b.tokens;
            print("{\"prompt\": " + json_quote(b.prompt) + ", \"text\": " + json_quote(b.text) + format(", \"tokens\": %lld, \"end\": \"%s\"}\n", (long long)b.tokens, b.end));
        }
        double all = seconds() - start;
        fprintf(stderr, "%zu prompts in %.2f s, %lld tokens, %.1f tokens/s\n", prompts.size(), all, (long long)tokens, tokens / std::max(all - prefill, 1e-9));
    }
    return stop_signal() ? 130 : 0;
}
