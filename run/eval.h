/* run/eval.h: how well a model predicts a text, LAMBADA, HellaSwag.

       run_rwkv eval --model F --text T.txt [--ctx N] [--positions P.csv|P.jsonl]
       run_rwkv eval --model F --lambada L.jsonl
       run_rwkv eval --model F --hellaswag H.jsonl

   Every text stands behind the end-of-text token (where the tokenizer has one), as documents do in training.
   text        Bits per byte and perplexity per word can be compared between tokenizers, perplexity per token cannot.
               --ctx N: pieces of N tokens, each from an empty state and beginning with the last token of the one before,
               so that every token is predicted once; 0: all of it in one piece. --positions: the mean loss by place in the
               piece, --bucket tokens a line, which shows whether the loss still falls beyond the trained length.
   lambada     {"text": ...} a line. The last word, with the space before it, is to be predicted from what stands before.
               accuracy: every token of it is the likeliest; perplexity exp(-mean log p(word)), as lm-evaluation-harness has it.
   hellaswag   {"ctx", "endings", "label"} a line, also with the original's "activity_label", "ctx_a", "ctx_b", from which lm-eval
               makes ctx. acc: the right ending has the largest log p; acc_norm: the largest log p per character.
   +- is one standard error.   defines: Scorer, TextScore, score_text, LambadaScore, score_lambada, HellaswagScore, score_hellaswag, eval_main */
#pragma once
#include "engine.h"

// ------------------------------------------------------------------------------------------------
// log-probabilities

class Scorer {
    Engine &engine;
    int last = 0;  // token of the context, not yet in `state`

    // ln p(target) under one row of logits; was it the likeliest?
    double log_p(const float *z, int target, bool *likeliest) const {
        float max = z[0];
        int best = 0;
        for (int i = 1; i < V; i++) if (z[i] > max) max = z[i], best = i;
        double sum = 0;
        for (int i = 0; i < V; i++) sum += exp((double)z[i] - max);
        if (likeliest) *likeliest &= best == target;
        return (double)z[target] - max - log(sum);
    }

public:
    const int V;
    Tokenizer &tokenizer;
    real *state, *branch;

    Scorer(Engine &engine, Tokenizer &tokenizer) : engine(engine), V(engine.info.V), tokenizer(tokenizer), state(engine.new_states(2)), branch(state + engine.state_size()) {}

    std::vector<int> encode(std::string_view text, bool first) {  // first: behind the end-of-text token
        std::vector<uint32_t> ids;
        if (first && tokenizer.eot >= 0) ids.push_back(tokenizer.eot);
        tokenizer.encode(text, ids);
        return {ids.begin(), ids.end()};
    }
    // Feeds ids[0 .. n-1]; each(i, ln p(ids[i+1])) for every i. ids has n + 1 tokens.
    template<class Each> void predict(const int *ids, int64_t n, real *from, Each each, bool *likeliest = nullptr) {
        engine.each_logits(ids, n, from, [&](int64_t i, const float *z) { each(i, log_p(z, ids[i + 1], likeliest)); });
    }
    // Reads a context, which is not empty; log_p_of(next) is then ln p(next | context), for as many next as you like.
    void read(const std::vector<int> &context) {
        engine.zero_state(state);
        if (context.size() > 1) engine.forward(context.data(), context.size() - 1, state);
        last = context.back();
    }
    double log_p_of(const std::vector<int> &next, bool *likeliest = nullptr) {
        std::vector<int> ids(1, last);
        ids.insert(ids.end(), next.begin(), next.end());
        double sum = 0;
        engine.copy_state(branch, state);
        predict(ids.data(), next.size(), branch, [&](int64_t, double p) { sum += p; }, likeliest);
        return sum;
    }
    void empty() { engine.zero_state(state); }
};

// A share and its standard error
struct Share {
    int64_t hits = 0, of = 0;
    double value() const { return (double)hits / of; }
    std::string text() const { return format("%.2f %% +- %.2f", 100 * value(), of > 1 ? 100 * sqrt(value() * (1 - value()) / (of - 1)) : 0.0); }
};
// Lines of a jsonl file, one example each
template<class Each> void each_example(const std::string &path, int64_t limit, Each each) {
    MappedFile file(path);
    std::string_view rest = file.text();
    for (int64_t line = 1, done = 0; !rest.empty() && (!limit || done < limit); line++) {
        size_t end = std::min(rest.find('\n'), rest.size());
        std::string_view text = rest.substr(0, end);
        rest.remove_prefix(std::min(end + 1, rest.size()));
        if (text.find_first_not_of(" \t\r") == text.npos) continue;
        each(parse_json(text, format("%s, line %lld", path.c_str(), (long long)line)), line);
        done++;
        if (isatty(2) && done % 10 == 0) fprintf(stderr, "\r%lld examples", (long long)done);
    }
    if (isatty(2)) fprintf(stderr, "\r\033[K");
}

// ------------------------------------------------------------------------------------------------
// a text

struct TextScore {
    int64_t tokens = 0, bytes = 0, words = 0;
    double nats = 0;
    std::vector<double> loss;        // by bucket of positions: the sum of -ln p
    std::vector<int64_t> count;      // and of how many tokens
    double per_token() const { return nats / tokens; }
    double bits_per_byte() const { return nats / log(2.0) / bytes; }
    double word_perplexity() const { return exp(nats / words); }
};

inline TextScore score_text(Scorer &s, std::string_view text, int64_t ctx, int64_t bucket, const std::string &name = "the text") {
    std::vector<int> ids = s.encode(text, true);
    int64_t n = (int64_t)ids.size() - 1;
    if (n < 1) fail("%s has %zu tokens, but at least 2 are needed to predict one", name.c_str(), ids.size());
    TextScore r;
    bool inside = false;
    for (unsigned char c : text) {
        bool space = c == ' ' || (c >= '\t' && c <= '\r');
        r.words += !space && !inside, inside = !space;
    }
    for (int64_t i = 0, piece = ctx ? ctx : n; i < n; i += piece) {
        s.empty();
        s.predict(ids.data() + i, std::min(piece, n - i), s.state, [&](int64_t at, double log_p) {
            size_t b = at / bucket;
            if (b >= r.loss.size()) r.loss.resize(b + 1), r.count.resize(b + 1);
            r.loss[b] -= log_p, r.count[b]++, r.nats -= log_p, r.tokens++;
            r.bytes += s.tokenizer.bytes(ids[i + at + 1]).size();
        });
    }
    if (!r.bytes) fail("%s has no bytes that this tokenizer knows", name.c_str());
    r.words = std::max<int64_t>(r.words, 1);
    return r;
}
inline void write_positions(const std::string &path, const TextScore &r, int64_t bucket) {
    bool json = path.size() > 6 && !path.compare(path.size() - 6, 6, ".jsonl");
    std::string out = json ? "" : "position,tokens,loss\n";
    for (size_t b = 0; b < r.loss.size(); b++)
        out += format(json ? "{\"position\":%lld,\"tokens\":%lld,\"loss\":%.8g}\n" : "%lld,%lld,%.8g\n", (long long)(b * bucket), (long long)r.count[b], r.loss[b] / r.count[b]);
    OutputFile f(path);
    f.write(out.data(), out.size());
    f.commit();
}

// ------------------------------------------------------------------------------------------------
// LAMBADA and HellaSwag

struct LambadaScore { Share accuracy; double nats = 0; double perplexity() const { return exp(nats / accuracy.of); } };

inline LambadaScore score_lambada(Scorer &s, const std::string &path, int64_t limit) {
    LambadaScore r;
    each_example(path, limit, [&](const Json &line, int64_t number) {
        const std::string &text = line.at("text").as_text();
        size_t end = text.find_last_not_of(" \t\r\n") + 1, space = text.rfind(' ', end ? end - 1 : 0);
        std::vector<int> context, word;
        if (end && space != text.npos) context = s.encode(text.substr(0, space), true), word = s.encode(text.substr(space, end - space), false);
        if (context.empty() || word.empty()) fail("%s, line %lld: no last word and something before it: \"%s\"", path.c_str(), (long long)number, printable(text).c_str());
        bool right = true;
        s.read(context);
        r.nats -= s.log_p_of(word, &right);
        r.accuracy.hits += right, r.accuracy.of++;
    });
    if (!r.accuracy.of) fail("%s has no examples", path.c_str());
    return r;
}

struct HellaswagScore { Share acc, acc_norm; };

// What lm-eval does with the text of the original: "[title]" ends a sentence, other [...] go, double spaces too.
inline std::string hellaswag_clean(std::string s) {
    auto replace = [&](const std::string &what, const std::string &by) { for (size_t i = 0; (i = s.find(what, i)) != s.npos; i += by.size()) s.replace(i, what.size(), by); };
    s.erase(0, std::min(s.find_first_not_of(" \t\r\n"), s.size()));
    s.erase(s.find_last_not_of(" \t\r\n") + 1);
    replace(" [title]", ". ");
    for (size_t open, close; (open = s.find('[')) != s.npos && (close = s.find(']', open)) != s.npos; ) s.erase(open, close + 1 - open);
    replace("  ", " ");
    return s;
}
inline std::string hellaswag_context(const Json &line) {
    const Json *activity = line.find("activity_label");
    if (!activity) return line.at("ctx").as_text();
    std::string b = line.at("ctx_b").as_text();
    for (char &c : b) c = c >= 'A' && c <= 'Z' ? c + 32 : c;
    if (!b.empty() && b[0] >= 'a' && b[0] <= 'z') b[0] -= 32;
    return hellaswag_clean(activity->as_text() + ": " + line.at("ctx_a").as_text() + " " + b);
}
inline int64_t hellaswag_label(const Json &label) {  // a number, or one in quotes
    if (label.type != Json::String) return label.as_int();
    if (label.text.empty() || label.text.find_first_not_of("0123456789") != label.text.npos) label.wrong("is the label \"" + printable(label.text) + "\", not a number");
    return strtoll(label.text.c_str(), nullptr, 10);
}
inline HellaswagScore score_hellaswag(Scorer &s, const std::string &path, int64_t limit) {
    HellaswagScore r;
    each_example(path, limit, [&](const Json &line, int64_t number) {
        const Json &endings = line.at("endings");
        int64_t label = hellaswag_label(line.at("label"));
        endings.expect(Json::Array);
        std::vector<int> context = s.encode(hellaswag_context(line), true);
        if (label < 0 || label >= (int64_t)endings.items.size())
            fail("%s, line %lld: the label is %lld, but there are %zu endings", path.c_str(), (long long)number, (long long)label, endings.items.size());
        if (context.empty()) fail("%s, line %lld: nothing stands before the endings", path.c_str(), (long long)number);
        s.read(context);
        double best = -INFINITY, best_norm = -INFINITY;
        int64_t at = 0, at_norm = 0, i = 0;
        for (const Json &e : endings.items) {
            std::string text = line.find("activity_label") ? hellaswag_clean(e.as_text()) : e.as_text();
            std::vector<int> ending = s.encode(" " + text, false);
            double p = ending.empty() ? 0 : s.log_p_of(ending), characters = 0;
            for (unsigned char c : text) characters += (c & 0xC0) != 0x80;
            if (p > best) best = p, at = i;
            if (p / std::max(1.0, characters) > best_norm) best_norm = p / std::max(1.0, characters), at_norm = i;
            i++;
        }
        r.acc.hits += at == label, r.acc_norm.hits += at_norm == label, r.acc.of++, r.acc_norm.of++;
    });
    if (!r.acc.of) fail("%s has no examples", path.c_str());
    return r;
}

inline int eval_main(int argc, char **argv) {
    ModelOptions m;
    std::string text, lambada, hellaswag, positions;
    int64_t ctx, bucket, limit;
    std::vector<Option> table = m.table();
    table.insert(table.end(), {
        {"text", &text, "", "", "text file: bits per byte, perplexity"},
        {"lambada", &lambada, "", "", "LAMBADA's jsonl: accuracy of the last word, perplexity"},
        {"hellaswag", &hellaswag, "", "", "HellaSwag's jsonl: acc, acc_norm"},
        {"ctx", &ctx, 0, 0, 1 << 30, "with --text: pieces of so many tokens; 0: one piece"},
        {"positions", &positions, "", "", "with --text: file for the loss by position, .csv or .jsonl"},
        {"bucket", &bucket, 64, 1, 1 << 30, "positions in one line of it"},
        {"limit", &limit, 0, 0, 1e15, "only the first so many examples; 0: all"},
    });
    Options options(argv[0], "how well a model predicts", table);
    options.parse(argc, argv);
    if (text.empty() + lambada.empty() + hellaswag.empty() != 2) usage_fail("pass one of --text, --lambada and --hellaswag");
    if (text.empty() && (options.given("ctx") || options.given("positions") || options.given("bucket"))) usage_fail("--ctx, --positions and --bucket belong to --text");
    if (!text.empty() && options.given("limit")) usage_fail("--limit counts examples of --lambada and --hellaswag");
    if (options.given("bucket") && positions.empty()) usage_fail("--bucket needs --positions");
    check_outputs(options, {"positions"}, {"model", "tokenizer", "text"});
    std::unique_ptr<Engine> engine(m.open());
    std::unique_ptr<Tokenizer> tokenizer = engine->tokenizer(m.tokenizer);
    Scorer s(*engine, *tokenizer);
    if (!lambada.empty()) {
        LambadaScore r = score_lambada(s, lambada, limit);
        printf("%s: %lld examples, accuracy %s, perplexity %.3f\n", lambada.c_str(), (long long)r.accuracy.of, r.accuracy.text().c_str(), r.perplexity());
    } else if (!hellaswag.empty()) {
        HellaswagScore r = score_hellaswag(s, hellaswag, limit);
        printf("%s: %lld examples, acc %s, acc_norm %s\n", hellaswag.c_str(), (long long)r.acc.of, r.acc.text().c_str(), r.acc_norm.text().c_str());
    } else {
        MappedFile file(text);
        TextScore r = score_text(s, file.text(), ctx, bucket, text);
        printf("%s: %s tokens, %s bytes, %s words\n", text.c_str(), thousands(r.tokens).c_str(), thousands(r.bytes).c_str(), thousands(r.words).c_str());
        printf("%.4f bits per byte, perplexity %.4g per word, %.4g per token (loss %.4f)\n", r.bits_per_byte(), r.word_perplexity(), exp(r.per_token()), r.per_token());
        if (tokenizer->dropped) printf("note: %s characters are not in the vocabulary; they were left out and cost nothing\n", thousands(tokenizer->dropped).c_str());
        if (!positions.empty()) write_positions(positions, r, bucket);
    }
    return 0;
}
