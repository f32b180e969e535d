/* dev/tasks/score.cu: how many answers of a task file (data_prep/tasks.cpp) does a trained model know?

       make DEVICE=cpu build/cpu-fp32/score_rwkv7                                                  (also score_rwkv4)
       build/cpu-fp32/score_rwkv7 --load runs/reverse7 --tokenizer data/reverse.tok --test data/reverse_test.txt

   Asked for is every token that follows a '=', or every second that follows a ';', up to the end of the line. A token is
   right if the model gives it the largest logit when it has read all that stands before; where all of a line are, the
   model would write the answer by itself at temperature 0. Every line is read alone, after a line break; lines of a batch
   are made equally long by line breaks behind them, which a causal model does not see.
   defines: main */
#define TESTING
#if defined(MODEL_RWKV7)
#include "../../train_rwkv7.cu"
typedef RWKV7 Model;
#else
#include "../../train_rwkv.cu"
typedef RWKV4 Model;
#endif
#include <fstream>

struct Line { std::vector<int> tokens; std::vector<bool> asked; };

static std::vector<Line> read_lines(const std::string &path, Tokenizer &tokenizer) {
    auto only = [&](const char *text) {  // the token that is this character
        std::vector<uint32_t> ids = tokenizer.encode(text);
        return ids.size() == 1 ? (int)ids[0] : -1;
    };
    const int newline = only("\n"), marks[2] = {only("="), only(";")};
    std::ifstream file(path);
    if (!file) fail("cannot open %s: %s; ./tasks makes it", path.c_str(), strerror(errno));
    std::vector<Line> lines;
    for (std::string text; std::getline(file, text);) {
        Line line = {{newline}, {false}};
        int stride = 0, since = 0;  // the mark of this line was there `since` tokens ago
        for (uint32_t id : tokenizer.encode(text + "\n")) {
            line.tokens.push_back(id), line.asked.push_back(stride && ++since % stride == 0);
            for (int i = 0; i < 2; i++) if ((int)id == marks[i]) stride = i + 1, since = 0;
        }
        if (!stride || newline < 0) fail("%s has a line with neither '=' nor ';', or the tokenizer has no token for these: use byte, or char as made of the task's own text", path.c_str());
        lines.push_back(line);
    }
    if (lines.empty()) fail("%s has no lines", path.c_str());
    return lines;
}

struct Score {
    int64_t lines = 0, lines_right = 0, tokens = 0, tokens_right = 0;
    void count(const Line &line, const std::vector<int> &likeliest) {  // likeliest[t]: after tokens[0 ... t]
        int asked = 0, right = 0;
        for (size_t t = 1; t < line.tokens.size(); t++)
            if (line.asked[t]) asked++, right += likeliest[t - 1] == line.tokens[t];
        lines++, lines_right += right == asked, tokens += asked, tokens_right += right;
    }
    static double percent(int64_t part, int64_t of) { return of ? 100.0 * part / of : 0; }
};

struct Scorer {
    Parameters p;
    typename Model::Config config;
    Options of_model{"score", "", config.table()};  // gives the model's own options their defaults; shape_of reads them from the file
    Arena arena;
    std::unique_ptr<Model> model;
    int *tokens;
    int B, T;

    Scorer(const TensorFile &file, int B, int T) : B(B), T(T) {
        Shape s = Model::shape_of(file, config);
        Model::complete(s, config, T);
        p.table = TensorTable(Model::rows(config), s);
        model.reset(new Model(p, config, B, T, 0));
        p.plan(arena, true), model->plan(arena), arena.plan("batch", &tokens, (int64_t)B * T);
        arena.allocate();
        p.link(), model->link();
        matmul_init(false);
        p.set(p.read(file), p.master);
        round_params(p.params, p.master, p.table.total, 0);
    }
    // For each line the likeliest token after each of its tokens.
    std::vector<std::vector<int>> read(const Line *lines, int n) {
        std::vector<int> padded((int64_t)B * T, lines[0].tokens[0]);
        for (int b = 0; b < n; b++) std::copy(lines[b].tokens.begin(), lines[b].tokens.end(), padded.begin() + (int64_t)b * T);
        cudaCheck(cudaMemcpy(tokens, padded.data(), padded.size() * sizeof(int), cudaMemcpyHostToDevice));
        ModelInput in = {tokens, B, T, nullptr, nullptr, nullptr};
        model->forward(in);
        const Head &head = model->head;
        std::vector<floatX> logits((int64_t)head.rows * head.stride);
        std::vector<std::vector<int>> likeliest(n, std::vector<int>(T));
        for (int64_t first = 0; first < (int64_t)n * T; first += head.rows) {
            int rows = std::min<int64_t>(head.rows, (int64_t)B * T - first);
            model->head.forward(model->x_out + first * head.C, model->weight(model->head_w), rows, 0);
            cudaCheck(cudaMemcpy(logits.data(), head.logits, (int64_t)rows * head.stride * sizeof(floatX), cudaMemcpyDeviceToHost));
            for (int64_t i = first; i < std::min<int64_t>(first + rows, (int64_t)n * T); i++) {
                const floatX *z = &logits[(i - first) * head.stride];
                int best = 0;
                for (int v = 1; v < head.V; v++) if ((float)z[v] > (float)z[best]) best = v;
                likeliest[i / T][i % T] = best;
            }
        }
        return likeliest;
    }
};

int main(int argc, char **argv) {
    return run_main([&] {
        std::string load, tokenizer_file, test;
        int64_t batch;
        Options options("score", "counts the right answers of a trained model in a file of ./tasks", {
            {"load", &load, "", "", "the model: a run's folder, a checkpoint or a weight file"},
            {"tokenizer", &tokenizer_file, "", "", "its .tok"},
            {"test", &test, "", "", "a file that ./tasks wrote, with another seed than that of the training text"},
            {"batch", &batch, 64, 1, 65536, "lines at a time"},
        });
        options.parse(argc, argv);
        for (const char *name : {"load", "tokenizer", "test"})
            if (!options.given(name)) usage_fail("--%s is missing: %s", name, options.find(name)->help);
        device_init();
        std::unique_ptr<Tokenizer> tokenizer(load_tokenizer(tokenizer_file));
        TensorFile file(weights_file(load));
        auto hash = file.metadata.find("tokenizer_hash");
        if (hash != file.metadata.end() && hash->second != format("%016llx", (unsigned long long)tokenizer->hash))
            fail("%s was not trained with %s: name its own tokenizer", file.path.c_str(), tokenizer_file.c_str());
        std::vector<Line> lines = read_lines(test, *tokenizer);
        size_t T = 0;
        for (const Line &line : lines) T = std::max(T, line.tokens.size());
        Scorer scorer(file, batch, T);
        Score all, longest;
        for (size_t i = 0; i < lines.size(); i += batch) {
            int n = std::min<size_t>(batch, lines.size() - i);
            auto likeliest = scorer.read(&lines[i], n);
            for (int b = 0; b < n; b++) {
                all.count(lines[i + b], likeliest[b]);
                if (lines[i + b].tokens.size() == T) longest.count(lines[i + b], likeliest[b]);
            }
        }
        printf("%s %s: %.2f %% of %lld tokens, %.2f %% of %lld lines, %.2f %% of the %lld longest lines are right\n", Model::kind, test.c_str(),
               Score::percent(all.tokens_right, all.tokens), (long long)all.tokens, Score::percent(all.lines_right, all.lines), (long long)all.lines,
               Score::percent(longest.lines_right, longest.lines), (long long)longest.lines);
        return 0;
    });
}
