/* run/bench.h: run_rwkv bench: how fast a model is here.

   prefill    tokens/s of prompts of several lengths, from an empty state
   decode     tokens/s of B sequences at once, logits to the host; for B = 1 also the bytes of weights read per second, as a
              share of what the device reads at best (measured: the sum of a large array), since that is the limit
   generate   the same, but the next token is drawn on the device, as generate and chat do by default
   position   ms per token after so many tokens: always about the same, as the state does not grow
   Every number is the best of --repeat runs. --random 7:0.1B takes random weights of an official shape: no file needed.
   defines: bench_main */
#pragma once
#include "generate.h"

// partial[i] = sum of a part of x: what reading costs
template<int W> __global__ void read_kernel(real *partial, const real *x, int64_t n) {
    Vec<W> s = 0;
    int64_t threads = (int64_t)gridDim.x * blockDim.x, id = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, part = (n / W + threads - 1) / threads * W;
#ifdef CUDA_CPU
    for (int64_t i = id * part; i < std::min(n, (id + 1) * part); i += W) s += load<W>(x + i);  // a piece of memory each
#else
    (void)part;
#pragma unroll 8
    for (int64_t i = id * W; i < n; i += threads * W) s += load<W>(x + i);
#endif
    partial[id] = sum(s);
}
// Bytes per second
inline double read_bandwidth(double bytes, int repeat) {
    int64_t n = (int64_t)(bytes / sizeof(real)) / 64 * 64;
#ifdef CUDA_CPU
    int blocks = 64, threads = 1;
#else
    int blocks = busy_blocks() * 2, threads = 256;
#endif
    real *x, *partial;
    if (cudaMalloc(&x, n * sizeof(real)) != cudaSuccess) { cudaGetLastError(); return 0; }
    cudaCheck(cudaMalloc(&partial, (int64_t)blocks * threads * sizeof(real)));
    cudaCheck(cudaMemset(x, 0, n * sizeof(real)));
    double best = 1e30;
    for (int i = 0; i <= repeat; i++) {
        double start = seconds();
        read_kernel<4 * ELEMENT_WIDTH / (16 / (int)sizeof(real))><<<blocks, threads>>>(partial, x, n);
        launchCheck();
        cudaCheck(cudaDeviceSynchronize());
        if (i) best = std::min(best, seconds() - start);
    }
    cudaCheck(cudaFree(x)), cudaCheck(cudaFree(partial));
    return n * sizeof(real) / best;
}
// Bytes of weights that a token reads: all but the embedding
inline double active_bytes(const Engine &e) {
    double bytes = 0;
    for (const Weights::Slot &s : e.net->weights.slots) {
        double count = TensorView("", DType::F32, s.n.shape, nullptr).count();
        if (s.n.row->kind != 'E') bytes += s.q ? count + s.n.shape[0] * sizeof(real) : count * (s.w ? sizeof(floatX) : sizeof(real));
    }
    return bytes;
}
template<class F> inline double best_seconds(int64_t repeat, F f) {
    double best = 1e30;
    for (int64_t i = 0; i <= repeat; i++) {  // the first run plans and warms up
        double start = seconds();
        f();
        if (i || !repeat) best = std::min(best, seconds() - start);
    }
    return best;
}
inline std::vector<int> numbers_of(const std::string &list, const char *option) {
    std::vector<int> n;
    const char *p = list.c_str();
    do {  // an empty list is no list
        char *end;
        long v = strtol(p, &end, 10);
        if (end == p || v < 1 || v > 1 << 20 || (*end && *end != ','))
            usage_fail("--%s is '%s', but must be numbers from 1 to 1048576 with commas between them", option, list.c_str());
        n.push_back((int)v), p = *end ? end + 1 : end;
    } while (*p);
    return n;
}

struct BenchOptions {
    std::vector<int> prefill, batch, position;
    int64_t tokens, repeat;
};
// row(test, n, value, unit, note) for every number; limit: bytes per second that the device reads
template<class Row> inline void measure(Engine &e, BenchOptions o, double limit, Row row) {
    const int V = e.info.V, most = *std::max_element(o.batch.begin(), o.batch.end());
    real *states = e.new_states(most);
    std::vector<float> logits((size_t)most * V);
    std::vector<int> ids(std::max(most, *std::max_element(o.prefill.begin(), o.prefill.end())));
    for (size_t i = 0; i < ids.size(); i++) ids[i] = (int)((i * 7919 + 11) % std::min(V, 60000));
    for (int T : o.prefill) {
        double s = best_seconds(o.repeat, [&] { e.zero_state(states), e.forward(ids.data(), T, states, Engine::LAST, logits.data()); });
        row("prefill", T, T / s, "tokens/s", "");
    }
    for (int B : o.batch) {
        cudaCheck(cudaMemset(states, 0, B * e.state_size() * sizeof(real)));
        double s = best_seconds(o.repeat, [&] { for (int64_t i = 0; i < o.tokens; i++) e.decode(ids.data(), B, states, nullptr, logits.data()); });
        double read = active_bytes(e) * o.tokens / s;
        row("decode", B, B * o.tokens / s, "tokens/s", B > 1 ? "" : format("   %.1f GB/s of weights, %.0f %% of what the device reads", read / 1e9, 100 * read / limit));
    }
    TextOptions text;
    text.table(), e.sampling.vocabulary(nullptr);
    for (int B : o.batch) {
        std::vector<int> next(ids.begin(), ids.begin() + B);
        for (int b = 0; b < B; b++) e.begin_text(b, text.s, text.rng());
        double s = best_seconds(o.repeat, [&] { for (int64_t i = 0; i < o.tokens; i++) e.decode_draw(next.data(), B, states, nullptr, next.data()); });
        row("generate", B, B * o.tokens / s, "tokens/s", "");
    }
    e.zero_state(states);
    int at = 0;
    std::sort(o.position.begin(), o.position.end());
    for (int p : o.position) {
        for (; at < p; at += std::min<int>(ids.size(), p - at)) e.forward(ids.data(), std::min<int>(ids.size(), p - at), states);
        double s = best_seconds(o.repeat, [&] { for (int i = 0; i < 8; i++) e.decode(ids.data(), 1, states, nullptr, logits.data()); });
        row("position", p, s / 8 * 1e3, "ms/token", "");
    }
}

inline int bench_main(int argc, char **argv) {
    ModelOptions m;
    BenchOptions o;
    std::string random, lengths, batches, positions, json;
    std::vector<Option> table = m.table();
    table.insert(table.end(), {
        {"random", &random, "", "", "random weights instead of --model: VERSION:SIZE, such as 7:0.1B (0.1B 0.4B 1.5B 3B 7B 14B)"},
        {"prefill", &lengths, "128,512", "", "lengths of prompts"},
        {"batch", &batches, "1,8", "", "numbers of sequences that are decoded at once"},
        {"positions", &positions, "64,256,1024", "", "tokens after which the time of one is measured"},
        {"tokens", &o.tokens, 32, 1, 1 << 20, "tokens of a decoding run"},
        {"repeat", &o.repeat, 3, 1, 1000, "runs of which the best counts"},
        {"json", &json, "", "", "write the numbers to this file as well"}});
    Options options(argv[0], "how fast a model is on this device", table);
    options.parse(argc, argv);
    if (random.empty() == m.model.empty()) usage_fail("either --model or --random must be given");
    o.prefill = numbers_of(lengths, "prefill"), o.batch = numbers_of(batches, "batch"), o.position = numbers_of(positions, "positions");
    check_outputs(options, {"json"}, {"model", "tokenizer"});
    int most = *std::max_element(o.batch.begin(), o.batch.end());
    std::unique_ptr<Engine> e(random.empty() ? m.open(most).release() : Engine::random(random, m.engine_options(most)));
    const ModelInfo &info = e->info;
    std::string rows;
    double active = active_bytes(*e), limit = read_bandwidth(std::min(std::max(active, 64e6), 1e9), (int)o.repeat);
    printf("%s, %s on %s\n%.1f MB of weights per token, %.1f MB of state per sequence; the device reads %.1f GB/s\n\n", info.text().c_str(), e->precision(), device().name,
           active / 1e6, e->state_size() * sizeof(real) / 1e6, limit / 1e9);
    auto row = [&](const std::string &what, int n, double value, const char *unit, const std::string &note) {
        printf("%-10s %7d   %10.2f %s%s\n", what.c_str(), n, value, unit, note.c_str());
        rows += format("%s\n    {\"test\": \"%s\", \"n\": %d, \"value\": %.6g, \"unit\": \"%s\"}", rows.empty() ? "" : ",", what.c_str(), n, value, unit);
    };
    measure(*e, o, limit, row);
    if (!json.empty()) {
        std::string text = "{\"model\": " + json_quote(info.text()) + ", \"precision\": " + json_quote(e->precision()) + ", \"device\": " + json_quote(device().name) +
                           format(", \"weight_bytes_per_token\": %.0f, \"read_bytes_per_second\": %.4g,\n  \"results\": [", active, limit) + rows + "]}\n";
        OutputFile f(json);
        f.write(text.data(), text.size());
        f.commit();
    }
    return 0;
}
