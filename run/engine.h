/* run/engine.h: a model, ready to run.

       Engine e("model.pth", {});                      // opens, says how much memory it needs, refuses or loads
       real *state = e.new_states(1);                  // device memory, an empty past
       e.forward(ids, n, state, Engine::LAST, logits); // GPT mode: n tokens, `chunk` at a time, state in place
       e.decode(&id, 1, state, nullptr, logits);       // RNN mode: one token for each of B states; one CUDA graph
       e.sampling.vocabulary(&tokenizer), e.begin_text(0, sampler, rng);
       int id = e.draw(0);                             // the token after forward(..., LAST), drawn on the device
       e.decode_draw(&id, 1, state, nullptr, &id);     // ... and the one after id, in the same graph

   A state is state_size() numbers: per layer what state_parts() lists. State files are safetensors with these names and
   the model's fingerprint; official tuned states (blocks.N.att.time_state) load too.
   defines: EngineOptions, Engine, ModelOptions */
#pragma once
#include "output.h"
#include "rwkv4.h"
#include "rwkv5.h"
#include "rwkv6.h"
#include "rwkv7.h"
#include "sample.h"
#include "tokenizers.h"
#include <memory>

struct EngineOptions {
    bool int8 = false;
    int64_t chunk = 0;          // tokens of prefill at a time; 0: 256 on the CPU, 1024 on a GPU
    int64_t batch = 1;          // most sequences of decode()
    double group_norm_eps = 0;  // 0: 64e-5
    bool quiet = false;
};

struct Engine {
    ModelInfo info;
    EngineOptions o;
    std::map<std::string, std::string> metadata;  // of the file
    std::unique_ptr<Network> net;
    enum Which { NONE, LAST, ALL };
    struct StatePart { std::string name; int64_t offset; std::vector<int64_t> shape; };

    Engine(const std::string &path, EngineOptions options) : o(options) {
        TensorFile file(weights_file(path));
        info = inspect_model(file), metadata = file.metadata;
        o.int8 |= info.int8;
        build();
        net->weights.load(file, info);
    }
    static Engine *random(const std::string &spec, EngineOptions options, uint64_t seed = 1) { return new Engine(official_shape(spec), options, seed); }
    Engine(const ModelInfo &m, EngineOptions options, uint64_t seed) : info(m), o(options) {  // random weights
        build();
        net->weights.randomise(seed);
    }
    Engine(const Engine &) = delete;
    ~Engine() {
        for (void *p : owned) cudaFree(p);
        cudaFreeHost(host_ids), cudaFreeHost(host_slots);
        if (stream) cudaStreamDestroy(stream);
    }
    const char *precision() const { return o.int8 ? "int8 + " PRECISION_NAME : PRECISION_NAME; }
    std::unique_ptr<Tokenizer> tokenizer(const std::string &option) const { return model_tokenizer(info, metadata, option); }

    // ---------------------------------------------------------------- states
    int64_t state_size() const { return info.L * net->state_size(); }
    const std::vector<StatePart> &state_parts() const { return parts; }
    real *new_states(int64_t count) {
        size_t bytes = count * state_size() * sizeof(real), free_bytes, total;
        cudaCheck(cudaMemGetInfo(&free_bytes, &total));
        if (bytes > 0.97 * free_bytes)
            fail("%lld states of %s need more device memory than the %s that are free", (long long)count,
                 megabytes(state_size() * sizeof(real)).c_str(), megabytes(free_bytes).c_str());
        void *p;
        cudaCheck(cudaMalloc(&p, bytes)), cudaCheck(cudaMemset(p, 0, bytes));
        owned.push_back(p);
        return (real *)p;
    }
    void zero_state(real *state) { cudaCheck(cudaMemsetAsync(state, 0, state_size() * sizeof(real), stream)), cudaCheck(cudaStreamSynchronize(stream)); }
    void copy_state(real *to, const real *from) {
        cudaCheck(cudaMemcpyAsync(to, from, state_size() * sizeof(real), cudaMemcpyDeviceToDevice, stream)), cudaCheck(cudaStreamSynchronize(stream));
    }
    std::vector<real> get_state(const real *state) const {
        std::vector<real> host(state_size());
        cudaCheck(cudaMemcpy(host.data(), state, host.size() * sizeof(real), cudaMemcpyDeviceToHost));
        return host;
    }
    void set_state(real *state, const std::vector<real> &host) { cudaCheck(cudaMemcpy(state, host.data(), state_size() * sizeof(real), cudaMemcpyHostToDevice)); }
    // `about` is kept in the file and returned by load_state: what the text so far was, for chat
    void save_state(const std::string &path, const real *state, std::map<std::string, std::string> about = {}) const {
        check_state_target(path);
        std::vector<real> host = get_state(state);
        std::vector<TensorView> views;
        for (const StatePart &p : parts) views.emplace_back(p.name, dtype_of<real>, p.shape, host.data() + p.offset);
        about["kind"] = "rwkv state", about["version"] = info.version, about["fingerprint"] = info.fingerprint, about["model"] = info.text();
        write_safetensors(path, about, views);
    }
    std::map<std::string, std::string> load_state(const std::string &path, real *state) {
        TensorFile file(path);
        std::vector<real> host(state_size(), 0);
        if (file.find("blocks.0.att.time_state")) read_tuned_state(file, host);
        else {
            auto of = [&](const char *key) { auto i = file.metadata.find(key); return i == file.metadata.end() ? std::string() : printable(i->second); };
            if (of("kind") != "rwkv state") fail("%s is not a state: it is neither of run_rwkv nor has it blocks.0.att.time_state", path.c_str());
            if (of("fingerprint") != info.fingerprint)
                fail("%s is the state of another model (%s, fingerprint %s) than %s (%s, fingerprint %s)", path.c_str(), of("model").c_str(), of("fingerprint").c_str(),
                     info.path.c_str(), info.text().c_str(), info.fingerprint.c_str());
            file.verify();
            for (const StatePart &p : parts) file.read(p.name, p.shape, host.data() + p.offset);
        }
        set_state(state, host);
        return file.metadata;
    }

    // ---------------------------------------------------------------- GPT mode
    // logits: (1 or n, V) on the host; LAST without them: for draw()
    void forward(const int *ids, int64_t n, real *state, Which which = NONE, float *logits = nullptr) {
        run_forward(ids, n, state, which, [&](int64_t first, int rows) { if (logits) copy_logits(rows, logits + first * info.V); });
    }
    // each(i, z): the logits z (V) after token i, of every token. Few rows are held at a time, however long the chunk.
    template<class Each> void each_logits(const int *ids, int64_t n, real *state, Each each) {
        std::vector<float> z(std::min<int64_t>(n, head_most) * info.V);
        run_forward(ids, n, state, ALL, [&](int64_t first, int rows) {
            copy_logits(rows, z.data()), cudaCheck(cudaStreamSynchronize(stream));
            for (int r = 0; r < rows; r++) each(first + r, z.data() + (int64_t)r * info.V);
        });
    }
    // ---------------------------------------------------------------- RNN mode
    // One token for each of B sequences; sequence i has the state states + slots[i] * state_size() (slots null: i).
    // logits: (B, V) on the host, or null
    void decode(const int *ids, int B, real *states, const int *slots, float *logits) {
        run_decode(ids, B, states, slots, logits ? LOGITS : STATES);
        if (logits) copy_logits(B, logits);
        cudaCheck(cudaStreamSynchronize(stream));
    }

    // ---------------------------------------------------------------- drawing tokens
    Sampling sampling;
    void begin_text(int slot, const Sampler &s, const Rng &rng) { sampling.begin(slot, s, rng, stream); }  // slots: as those of states
    // The token after the last forward(..., LAST), of the text in this slot
    int draw(int slot) {
        host_slots[0] = slot;
        cudaCheck(cudaMemcpyAsync(device_slots, host_slots, sizeof(int), cudaMemcpyHostToDevice, stream));
        draw_launches(1);
        int token;
        take_drawn(1, &token);
        return token;
    }
    // decode(), and the next token of each sequence: next (B), which may be ids
    void decode_draw(const int *ids, int B, real *states, const int *slots, int *next) {
        run_decode(ids, B, states, slots, TOKENS);
        take_drawn(B, next);
    }
    // ln_out of the last token of the last forward() or decode() (there of the first sequence)
    std::vector<float> hidden() const {
        std::vector<floatX> row(info.C);
        cudaCheck(cudaMemcpy(row.data(), hidden_row, row.size() * sizeof(floatX), cudaMemcpyDeviceToHost));
        return std::vector<float>(row.begin(), row.end());
    }

    cudaStream_t stream = 0;

private:
    Arena arena;
    std::vector<StatePart> parts;
    std::vector<void *> owned;
    int *tokens = nullptr, *device_slots = nullptr, *host_ids = nullptr, *host_slots = nullptr;
    floatX *x_out = nullptr, *hidden_row = nullptr;   // (head_most, C) after ln_out
    real *logits_device = nullptr;                    // (head_most, padded V)
    enum Output { STATES, LOGITS, TOKENS };           // of decoding
    int head_most = 0, head_stride = 0;
    const real *ln0_w, *ln0_b, *ln_out_w, *ln_out_b;
    Matrix emb, head;
    std::map<std::tuple<int, real *, Output>, Graph> graphs;

    static Network *new_network(const std::string &version) {
        return version == "4" ? (Network *)new Rwkv4 : version == "6" ? (Network *)new Rwkv6 : version == "7" ? (Network *)new Rwkv7 : new Rwkv5;
    }
    void plan(Arena &a, Network &n, bool int8) {
        n.m = info, n.most = std::max(o.chunk, o.batch);
        head_most = std::max<int64_t>(o.batch, std::max<int64_t>(1, std::min<int64_t>(n.most, (1 << 24) / info.V))), head_stride = padded_vocab(info.V);
        n.weights.plan(a, info, int8);
        n.plan(a);
        n.scratch.w_count = int8 ? (int64_t)info.F * info.C : 0;
        a.plan("activations", &n.scratch.w, n.scratch.w_count);
        a.plan("activations", &tokens, n.most), a.plan("activations", &device_slots, o.batch);
        a.plan("activations", &x_out, (int64_t)head_most * info.C), a.plan("activations", &logits_device, (int64_t)head_most * head_stride);
        sampling.plan(a, o.batch, info.V);
    }
    void build() {
        device_init();
#ifdef CUDA_CPU
        if (!o.chunk) o.chunk = 256;
#else
        if (!o.chunk) o.chunk = 1024;
#endif
        net.reset(new_network(info.version));
        plan(arena, *net, o.int8);
        check_memory();
        arena.allocate();
        cudaCheck(cudaStreamCreate(&stream));
        cudaCheck(cudaMallocHost((void **)&host_ids, o.batch * sizeof(int))), cudaCheck(cudaMallocHost((void **)&host_slots, o.batch * sizeof(int)));
        net->stream = stream;
        if (o.group_norm_eps > 0) net->group_norm_eps = (real)o.group_norm_eps;
        matmul_init(false);
        net->link();
        const Weights &w = net->weights;
        emb = w.matrix("emb.weight"), head = w.matrix("head.weight"), head.rows = head_stride;
        ln0_w = w.vector("ln0.weight", 0), ln0_b = w.vector("ln0.bias", 0), ln_out_w = w.vector("ln_out.weight"), ln_out_b = w.vector("ln_out.bias");
        list_parts();
    }
    // What it takes, before anything is allocated
    void check_memory() {
        size_t free_bytes, total;
        cudaCheck(cudaMemGetInfo(&free_bytes, &total));
        double states = (double)o.batch * state_size() * sizeof(real), need = arena.total + states;
        std::string line;
        for (auto &[name, bytes] : arena.groups()) line += format("%s %s, ", name.c_str(), megabytes(bytes).c_str());
        if (!o.quiet)
            fprintf(stderr, "%s: %s, %s on %s; %sstates %s; %s free\n", info.path.c_str(), info.text().c_str(), precision(), device().name,
                    line.c_str(), megabytes(states).c_str(), megabytes(free_bytes).c_str());
        if (need < 0.97 * free_bytes) return;
        std::string way = "take a smaller model";
        if (!o.int8) {
            Arena other;
            std::unique_ptr<Network> n(new_network(info.version));
            plan(other, *n, true);
            if (other.total + states < 0.97 * free_bytes) way = format("pass --int8, which needs %s", megabytes(other.total + states).c_str());
        }
        if (o.batch > 1) way += ", or fewer sequences at once";
        fail("%s needs %s of device memory in " PRECISION_NAME ", but %s are free: %s", info.path.c_str(), megabytes(need).c_str(), megabytes(free_bytes).c_str(), way.c_str());
    }
    void list_parts() {
        for (int l = 0; l < info.L; l++) {
            int64_t at = net->layer_offset(l), C = info.C;
            auto add = [&](const char *name, std::vector<int64_t> shape) {
                parts.push_back({format("blocks.%d.%s", l, name), at, shape});
                at += TensorView("", DType::F32, shape, nullptr).count();
            };
            add("att.x", {C}), add("ffn.x", {C});
            if (info.version == "4") add("att.aa", {C}), add("att.bb", {C}), add("att.pp", {C});
            else add("att.S", {info.H, info.N, info.N});
        }
    }
    // blocks.N.att.time_state [H, N, N]: [value][key] in the files of versions 5 and 6, [key][value] in those of 7 (what
    // ChatRWKV does with them: it transposes both, and its S is [key][value] in 5 and 6, [value][key] in 7)
    void read_tuned_state(const TensorFile &file, std::vector<real> &host) const {
        if (info.version == "4") fail("%s holds tuned states of RWKV-5, 6 or 7, but %s is an RWKV-4 model", file.path.c_str(), info.path.c_str());
        for (const TensorView &t : file.tensors)
            if (t.name.find(".att.time_state") == t.name.npos) fail("%s: %s does not belong into a file of tuned states", file.path.c_str(), printable(t.name).c_str());
        if ((int)file.tensors.size() != info.L) fail("%s holds tuned states of %zu layers, but %s has %d", file.path.c_str(), file.tensors.size(), info.path.c_str(), info.L);
        int N = info.N;
        std::vector<real> S((int64_t)info.C * N);
        for (int l = 0; l < info.L; l++) {
            file.read(format("blocks.%d.att.time_state", l), {info.H, N, N}, S.data());
            real *to = host.data() + net->layer_offset(l) + 2 * info.C;
            for (int h = 0; h < info.H; h++)
                for (int i = 0; i < N; i++)
                    for (int j = 0; j < N; j++) to[(h * N + i) * N + j] = S[info.version == "7" ? (h * N + i) * N + j : (h * N + j) * N + i];
        }
    }

    void check_ids(const int *ids, int64_t n) const {
        for (int64_t i = 0; i < n; i++)
            if (ids[i] < 0 || ids[i] >= info.V) fail("token %lld is %d, but %s has a vocabulary of %d (ids 0 to %d)", (long long)i, ids[i], info.path.c_str(), info.V, info.V - 1);
    }
    void body(const Pass &p) {
        embedding_forward(net->x, tokens, emb.w, ln0_w, ln0_b, p.N(), info.C, stream);
        for (int l = 0; l < info.L; l++) net->attention(l, p), net->feed_forward(l, p);
    }
    void final_norm(const real *x, int rows) { embedding_forward(x_out, nullptr, x, ln_out_w, ln_out_b, rows, info.C, stream); }
    // take(first, rows): the logits after tokens first.. are in logits_device
    template<class Take> void run_forward(const int *ids, int64_t n, real *state, Which which, Take take) {
        if (n < 1) fail("there are no tokens to run");
        check_ids(ids, n);
        for (int64_t done = 0; done < n;) {
            int T = std::min(o.chunk, n - done);
            Pass p = {1, T, {state, nullptr, state_size()}, false};
            cudaCheck(cudaMemcpyAsync(tokens, ids + done, T * sizeof(int), cudaMemcpyHostToDevice, stream));
            body(p);
            done += T;
            bool last = done == n;
            if (last) final_norm(net->x + (int64_t)(T - 1) * info.C, 1), hidden_row = x_out;
            if (which == LAST && last) head_rows(1), take(0, 1);
            for (int row = 0; which == ALL && row < T; row += head_most) {
                int rows = std::min(head_most, T - row);
                final_norm(net->x + (int64_t)row * info.C, rows);
                head_rows(rows), take(done - T + row, rows);
                hidden_row = x_out + (int64_t)(rows - 1) * info.C;
            }
            cudaCheck(cudaStreamSynchronize(stream));
        }
    }
    void head_rows(int rows) { linear({{logits_device, x_out, head}}, rows, false, net->scratch, stream); }
    void copy_logits(int rows, float *logits, int first = 0) {
        const real *from = logits_device + (int64_t)first * head_stride;
        if (sizeof(real) == sizeof(float)) {
            cudaCheck(cudaMemcpy2DAsync(logits, info.V * sizeof(float), from, head_stride * sizeof(real), info.V * sizeof(float), rows, cudaMemcpyDeviceToHost, stream));
            return;
        }
        std::vector<real> wide((int64_t)rows * head_stride);
        cudaCheck(cudaMemcpyAsync(wide.data(), from, wide.size() * sizeof(real), cudaMemcpyDeviceToHost, stream)), cudaCheck(cudaStreamSynchronize(stream));
        for (int r = 0; r < rows; r++) std::copy_n(wide.begin() + (int64_t)r * head_stride, info.V, logits + (int64_t)r * info.V);
    }
    // The graph has the copies too: ids and slots up from host_ids and host_slots, the drawn tokens down to host_ids
    void run_decode(const int *ids, int B, real *states, const int *slots, Output output) {
        if (B < 1 || B > o.batch) fail("a batch of %d sequences, but the engine was opened for %lld", B, (long long)o.batch);
        check_ids(ids, B);
        for (int i = 0; i < B; i++) host_ids[i] = ids[i], host_slots[i] = slots ? slots[i] : i;
        graphs[{B, states, output}].run(stream, [&] {
            cudaCheck(cudaMemcpyAsync(tokens, host_ids, B * sizeof(int), cudaMemcpyHostToDevice, stream));
            cudaCheck(cudaMemcpyAsync(device_slots, host_slots, B * sizeof(int), cudaMemcpyHostToDevice, stream));
            body({B, 1, {states, device_slots, state_size()}, true});
            final_norm(net->x, B);
            if (output != STATES) linear({{logits_device, x_out, head}}, B, true, net->scratch, stream);
            if (output == TOKENS) draw_launches(B);
        });
        hidden_row = x_out;
    }
    void draw_launches(int B) {
        sampling.draw(logits_device, B, device_slots, stream);
        cudaCheck(cudaMemcpyAsync(host_ids, sampling.drawn, B * sizeof(int), cudaMemcpyDeviceToHost, stream));
    }
    void take_drawn(int B, int *next) {
        cudaCheck(cudaStreamSynchronize(stream));
        for (int i = 0; i < B; i++) {
            if (host_ids[i] < 0) {
                std::vector<float> z(info.V);
                copy_logits(1, z.data(), i), cudaCheck(cudaStreamSynchronize(stream));
                likeliest_token(z.data(), info.V);  // says what is wrong with them
            }
            next[i] = host_ids[i];
        }
    }
};

// The options that every sub-command with a model has
struct ModelOptions {
    std::string model, tokenizer;
    bool int8;
    int64_t chunk;
    double group_norm_eps;
    std::vector<Option> table() {
        return {
            {"model", &model, "", "", "the model: .pth, .safetensors, a checkpoint folder or a run's folder"},
            {"tokenizer", &tokenizer, "", "", ".tok, or an original vocabulary file [found by the model]"},
            {"int8", &int8, "large matrices as int8, half the memory of 16 bits"},
            {"chunk", &chunk, 0, 0, 65536, "tokens of a prompt at a time; 0: 256 on the CPU, 1024 on a GPU"},
            {"group-norm-eps", &group_norm_eps, 0, 0, 1, "epsilon of the norm over heads; 0: 64e-5, as trained"},
        };
    }
    EngineOptions engine_options(int64_t batch) const { return {int8, chunk, batch, group_norm_eps, false}; }
    std::unique_ptr<Engine> open(int64_t batch = 1) const {
        if (model.empty()) usage_fail("--model is missing: a .pth or .safetensors file, or the folder of a run");
        return std::unique_ptr<Engine>(new Engine(model, engine_options(batch)));
    }
};
