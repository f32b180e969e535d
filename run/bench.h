/* run/bench.h: run_rwkv bench: how fast a model is here.

   prefill    tokens/s of prompts of several lengths, from an empty state
   decode     tokens/s of B sequences at once, logits to the host; for B = 1 also the bytes of weights read per second, as a
              share of what the device reads at best (measured: the sum of a large array), since that is the limit
   generate   the same, but the next token is drawn on the device, as generate and chat do by default
   position   ms per token after so many tokens: the same, as the state does not grow
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
        if (end == p || v < 1 || v > 1 << 20 || (*end && *end != ',')) usage_fail("--%s is '%s', but must be numbers from 1 to 1048576 with commas between them", option, list.c_str());
        n.push_back((int)v), p = *end ? end + 1 : end;
    } while (*p);
    return n;
}

inline int bench_main(int argc, char **argv) {
    ModelOptions m;
    std::string random, lengths, batches, positions, json;
    int64_t tokens, repeat;
    std::vector<Option> table = m.table();
    table.insert(table.end(), {
        {"random", &random, "", "", "random weights instead of --model: VERSION:SIZE, such as 7:0.1B (0.1B 0.4B 1.5B 3B 7B 14B)"},
        {"prefill", &lengths, "128,512", "", "lengths of prompts"},
        {"batch", &batches, "1,8", "", "numbers of sequences that are decoded at once"},
        {"positions", &positions, "64,256,1024", "", "tokens after which the time of one is measured"},
        {"tokens", &tokens, 32, 1, 1 << 20, "tokens of a decoding run"},
        {"repeat", &repeat, 3, 1, 1000, "runs of which the best counts"},
        {"json", &json, "", "", "write the numbers to this file as well"}});
    Options options(argv[0], "how fast a model is on this device", table);
    options.parse(argc, argv);
    if (random.empty() == m.model.empty()) usage_fail("either --model or --random must be given");
    std::vector<int> prefill = numbers_of(lengths, "prefill"), batch = numbers_of(batches, "batch"), position = numbers_of(positions, "positions");
    check_outputs(options, {"json"}, {"model", "tokenizer"});
    int most = *std::max_element(batch.begin(), batch.end());
    std::unique_ptr<Engine> e(random.empty() ? m.open(most).release() : Engine::random(random, m.engine_options(most)));
    const ModelInfo &info = e->info;
    real *states = e->new_states(most);
    std::vector<float> logits((size_t)most * info.V);
    std::vector<int> ids(std::max(most, *std::max_element(prefill.begin(), prefill.end())));
    for (size_t i = 0; i < ids.size(); i++) ids[i] = (int)((i * 7919 + 11) % std::min(info.V, 60000));
    std::string precision = e->o.int8 ? "int8 + " PRECISION_NAME : PRECISION_NAME, rows;
    double active = active_bytes(*e), limit = read_bandwidth(std::min(std::max(active, 64e6), 1e9), (int)repeat);
    printf("%s, %s on %s\n%.1f MB of weights per token, %.1f MB of state per sequence; the device reads %.1f GB/s\n\n", info.text().c_str(), precision.c_str(), device().name,
           active / 1e6, e->state_size() * sizeof(real) / 1e6, limit / 1e9);
    auto row = [&](const std::string &what, int n, double value, const char *unit, const std::string &note = "") {
        printf("%-10s %7d   %10.2f %s%s\n", what.c_str(), n, value, unit, note.c_str());
        rows += format("%s\n    {\"test\": \"%s\", \"n\": %d, \"value\": %.6g, \"unit\": \"%s\"}", rows.empty() ? "" : ",", what.c_str(), n, value, unit);
    };
    for (int T : prefill) {
        double s = best_seconds(repeat, [&] { e->zero_state(states), e->forward(ids.data(), T, states, Engine::LAST, logits.data()); });
        row("prefill", T, T / s, "tokens/s");
    }
    for (int B : batch) {
        cudaCheck(cudaMemset(states, 0, B * e->state_size() * sizeof(real)));
        double s = best_seconds(repeat, [&] { for (int64_t i = 0; i < tokens; i++) e->decode(ids.data(), B, states, nullptr, logits.data()); });
        row("decode", B, B * tokens / s, "tokens/s", B > 1 ? "" : format("   %.1f GB/s of weights, %.0f %% of what the device reads", active * tokens / s / 1e9, 100 * active * tokens / s / limit));
    }
    TextOptions text;
    text.table(), e->sampling.vocabulary(nullptr);
    for (int B : batch) {
        std::vector<int> next(ids.begin(), ids.begin() + B);
        for (int b = 0; b < B; b++) e->begin_text(b, text.s, text.rng());
        double s = best_seconds(repeat, [&] { for (int64_t i = 0; i < tokens; i++) e->decode_draw(next.data(), B, states, nullptr, next.data()); });
        row("generate", B, B * tokens / s, "tokens/s");
    }
    e->zero_state(states);
    int at = 0;
    std::sort(position.begin(), position.end());
    for (int p : position) {
        for (; at < p; at += std::min<int>(ids.size(), p - at)) e->forward(ids.data(), std::min<int>(ids.size(), p - at), states);
        double s = best_seconds(repeat, [&] { for (int i = 0; i < 8; i++) e->decode(ids.data(), 1, states, nullptr, logits.data()); });
        row("position", p, s / 8 * 1e3, "ms/token");
    }
    if (!json.empty()) {
        std::string text = "{\"model\": " + json_quote(info.text()) + ", \"precision\": " + json_quote(precision) + ", \"device\": " + json_quote(device().name) +
                           format(", \"weight_bytes_per_token\": %.0f, \"read_bytes_per_second\": %.4g,\n  \"results\": [", active, limit) + rows + "]}\n";
        OutputFile f(json);
        f.write(text.data(), text.size());
        f.commit();
    }
    return 0;
}
