/* dev/compare/latency.cu: what a generated token costs, the first as well as the 16,384th: time and memory.

       latency_rwkv4 --layers 4 --dim 128 --tokens 16384 --log rwkv4.jsonl        (built with -DMODEL_RWKV4)
       latency_gpt2 --layers 4 --dim 128 --positions rotary --tokens 16384 --log gpt2.jsonl   (-DMODEL_GPT2)

   One sequence, one token at a time through the model's forward with its state, as the trainer's samples are made, and
   the likeliest token goes in next. The latency of a token is the wall-clock time from its number on the host to the
   logits on the host. A few tokens are generated first, so that products are planned and tuned and memory is warm.
   The log has a line for every --window tokens, at its last:
       {"tokens":256,"latency_ms":0.21,"total_s":0.055,"memory":3715072}
   latency_ms is the median over the window's tokens, total_s the time since before the first token; of several --passes
   over the whole length the median each. memory is what generation needs at that length, in bytes: parameters,
   activations of one token, and the state, of a KV cache the part that is filled. Nothing is allocated on the way. */
#include <numeric>
#define TESTING  // without the main of the trainer
#ifdef MODEL_GPT2
#include "../../train_gpt2.cu"
typedef GPT2 Model;
#else
#include "../../train_rwkv.cu"
typedef RWKV4 Model;
#endif

struct Latency {
    std::string load, log;
    int64_t layers, dim, ffn, vocab, tokens, window, passes;
    Model::Config config;
    std::vector<Option> table() {
        std::vector<Option> all = {
            {"load", &load, "", "", "weights, .safetensors or .pth; without it random ones of the shape below"},
            {"layers", &layers, 4, 1, 1000, "layers (L)"},
            {"dim", &dim, 128, 1, 65536, "channels (C)"},
            {"ffn", &ffn, 0, 0, 1 << 20, "channels of the feed-forward layer (F); 0: the model's own rule"},
            {"vocab", &vocab, 256, 1, 1 << 20, "tokens that there are (V)"},
            {"tokens", &tokens, 16384, 1, 1 << 24, "tokens to generate"},
            {"window", &window, 256, 1, 1 << 24, "tokens per line of the log"},
            {"passes", &passes, 3, 1, 1000, "times to generate them"},
            {"log", &log, "", "", "write a JSON line per window to this file"},
        };
        for (const Option &o : config.table()) all.push_back(o);
        return all;
    }
    Options options{"latency", "time and memory per generated token", table()};

    Parameters p;
    std::unique_ptr<Model> model;
    Arena arena;
    int *token;
    real *states;

    // How fast a product is does not depend on the numbers in it, as long as they are ordinary.
    std::vector<real> random_weights() const {
        std::vector<real> host(p.table.total);
        Rng rng{1, 0, 0};
        for (const Tensor &t : p.table.tensors)
            for (int64_t i = 0; i < t.count; i++) host[t.offset + i] = t.matrix() ? (2 * rng.uniform() - 1) / sqrt((double)t.shape[1]) : 0.5 + 0.5 * rng.uniform();
        return host;
    }
    void setup() {
        std::unique_ptr<TensorFile> file(load.empty() ? nullptr : new TensorFile(load));
        Shape s = {(int)vocab, (int)dim, (int)ffn, (int)layers};
        if (file) s = Model::shape_of(*file, config);
        Model::complete(s, config, file ? 1 : tokens);
        p.table = TensorTable(Model::rows(config), s);
        model.reset(new Model(p, config, 1, 1, 0));
        if (tokens > model->max_past()) fail("--tokens %lld is more than the %d positions of %s", (long long)tokens, model->max_past(), load.c_str());
        p.plan(arena, false), model->plan(arena);
        arena.plan("token", &token, 1), arena.plan("states", &states, state_bytes() / sizeof(real));
        size_t free_bytes, total_bytes;
        cudaCheck(cudaMemGetInfo(&free_bytes, &total_bytes));
        if (arena.total > 0.97 * free_bytes) fail("this needs %s of device memory, but %s are free: lower --layers, --dim or --tokens", megabytes(arena.total).c_str(), megabytes(free_bytes).c_str());
        arena.allocate();
        p.link(), model->link();
        matmul_init(true);
        p.set(file ? p.read(*file) : random_weights(), p.master);
        round_params(p.params, p.master, p.table.total, 0);
        printf("%s: L%d C%d F%d V%d, %s parameters, " PRECISION_NAME " on %s\n", Model::kind, s.L, s.C, s.F, s.V, thousands(p.table.count).c_str(), device().name);
    }
    // A recurrent model reads one state and writes the other; a KV cache is added to in place.
    int64_t state_bytes() const { return model->state_count(1) * (Model::recurrent ? 2 : 1) * sizeof(real); }
    int64_t memory_at(int64_t length) const {
        int64_t bytes = 0;
        for (auto &[name, size] : arena.groups()) bytes += name == "backward" || name == "states" ? 0 : size;
        return bytes + (Model::recurrent ? state_bytes() : state_bytes() / model->max_past() * length);
    }
    // The milliseconds of each of the first n tokens of a sequence
    std::vector<double> generate(int64_t n) {
        real *state[2] = {states, Model::recurrent ? states + model->state_count(1) : states};
        std::vector<floatX> logits(p.table.s.V);
        std::vector<double> ms(n);
        int next = 0;
        for (int64_t t = 0; t < n; t++) {
            auto start = std::chrono::steady_clock::now();
            cudaCheck(cudaMemcpyAsync(token, &next, sizeof next, cudaMemcpyHostToDevice, 0));
            model->forward({token, 1, 1, t ? state[t % 2] : nullptr, state[(t + 1) % 2], nullptr, (int)t});
            model->head.forward(model->x_out, model->weight(model->head_w), 1, 0);
            cudaCheck(cudaMemcpyAsync(logits.data(), model->head.logits, logits.size() * sizeof(floatX), cudaMemcpyDeviceToHost, 0));
            cudaCheck(cudaStreamSynchronize(0));
            ms[t] = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
            next = 0;
            for (int i = 0; i < p.table.s.V; i++) if ((float)logits[i] > (float)logits[next]) next = i;
        }
        return ms;
    }
    static double median(std::vector<double> v) {
        std::sort(v.begin(), v.end());
        return (v[(v.size() - 1) / 2] + v[v.size() / 2]) / 2;
    }
    int run(int argc, char **argv) {
        options.parse(argc, argv);
        device_init();
        setup();
        const Shape &s = p.table.s;
        RunLog out;
        out.open(log, options, -1, {Model::kind, format("L%d C%d F%d V%d", s.L, s.C, s.F, s.V), PRECISION_NAME, device().name, "", "", p.table.count, memory_at(tokens)});
        generate(std::min<int64_t>(tokens, 64));
        std::vector<std::vector<double>> passes;
        for (int64_t i = 0; i < this->passes; i++) passes.push_back(generate(tokens));
        printf("%10s %12s %12s %12s\n", "tokens", "ms/token", "seconds", "MB");
        for (int64_t from = 0, to, shown = 1; from < tokens; from = to) {
            to = std::min(from + window, tokens);
            std::vector<double> latency, total;
            for (const std::vector<double> &ms : passes)
                latency.push_back(median({ms.begin() + from, ms.begin() + to})), total.push_back(std::accumulate(ms.begin(), ms.begin() + to, 0.0) / 1000);
            out.write(format("{\"tokens\":%lld,\"latency_ms\":%.6g,\"total_s\":%.6g,\"memory\":%lld}\n", (long long)to, median(latency), median(total), (long long)memory_at(to)));
            if (to < shown * window && to < tokens) continue;                 // on the screen: 1, 2, 4, ... windows
            printf("%10lld %12.4f %12.3f %12.3f\n", (long long)to, median(latency), median(total), memory_at(to) / 1e6);
            shown *= 2;
        }
        return 0;
    }
};

int main(int argc, char **argv) {
    return run_main([&] { return Latency().run(argc, argv); });
}
