/* rwkv/train.h: the training program that every model shares: `return train_main<Model>(argc, argv)`.

   A step: accum times { batch -> device; forward, loss, backward } -> gradient norm -> AdamW -> log line.
   Which tokens a step sees is a pure function of the seed and the step number, and everything else that a step
   depends on is in the checkpoint, so a resumed run gives the bits of an uninterrupted one.

   Long sequences: with --chunk N a sequence of --ctx tokens goes through the model N at a time and the state is
   carried. --bptt full also carries the gradient of the state back: the chunks run forward once keeping only the
   states between them, then from the last to the first forward and backward: the exact gradient of the whole
   sequence, in the activation memory of one chunk. --bptt truncated stops the gradient at chunk borders.

   What a Model must have (train_rwkv.cu is the example):
       kind, program, purpose          for people
       recurrent                       false: no --chunk, --bptt, --doc-reset; state_in and state_out are one KV cache
       defaults()                      of the shared options
       Config with table()             its own options; their values go into checkpoints
       rows(config)                    the tensor table
       shape_of(file, config)          of a weight file; refuses other kinds of model by name
       complete(shape, config, ctx)    derives what the options leave open, checks what they say
       tuned_state(shape), state_rows()  where in a state is what --tune state trains (count 0: nothing), its table
       Model(parameters, config, B, T, recompute), plan(arena), link(), state_count(B), max_past()
       forward(ModelInput), loss(), backward(), head, head_w, weight(), x_out, stream
   defines: TrainDefaults, Trainer, train_main */
#pragma once
#include <chrono>
#include <climits>
#include <memory>
#include "adamw.h"
#include "checkpoint.h"
#include "data.h"
#include "embedding.h"
#include "finetune.h"
#include "log.h"
#include "loss.h"
#include "options.h"
#include "sampler.h"
#include "schedule.h"
#include "tokenizer.h"

struct TrainDefaults {  // of the options whose best value depends on the model
    double lr = 6e-4, lr_final = 1e-5, beta2 = 0.99, eps = 1e-8, weight_decay = 0, l2wrap = 1e-4;
    const char *recompute = "less memory, more time, the same bits";  // what its levels 1 and 2 do
};
// What a model's forward sees: B sequences, or one piece of each.
struct ModelInput {
    const int *tokens;           // (B,T) device
    int B, T;
    const real *state_in;        // laid out as the model says; null: the sequences begin here
    real *state_out;             // null: not wanted
    const uint8_t *reset;        // (B,T) nonzero: a document begins here; or null
    int past = 0;                // tokens of each sequence before these, for models with a KV cache
    const uint64_t *draw = nullptr;  // device: a number that no other piece of the run has, for dropout; null: no dropout
    int64_t BT() const { return (int64_t)B * T; }
};

struct TrainOptions {
    std::string train, val, order, out, load, tune, schedule, bptt, prompt, log, tokenizer;
    bool resume, doc_reset;
    int64_t rank, layers, dim, ffn, ctx, batch, accum, chunk, steps, warmup, seed, eval_every, eval_batches, sample_every, sample_tokens, save_every, keep, recompute;
    double alpha, lr, lr_final, beta1, beta2, eps, weight_decay, clip, l2wrap, temperature, top_p;

    std::vector<Option> table(const TrainDefaults &d, bool recurrent, std::vector<Option> of_model) {
        std::vector<Option> all = {
            {"train", &train, "", "", "shard(s) to train on; quote a pattern: 'data/x_train_*.bin'"},
            {"val", &val, "", "", "shard(s) for the validation loss"},
            {"order", &order, "shuffled", "shuffled|official", "of the samples: ours, or that of RWKV-LM's trainer (one file)"},
            {"out", &out, "", "", "folder for checkpoints; without it nothing is saved"},
            {"load", &load, "", "", "start from these weights: .safetensors, .pth or a checkpoint folder"},
            {"resume", &resume, "go on from the last good checkpoint in --out, with the options that it was started with"},
            {"tune", &tune, "weights", recurrent ? "weights|lora|state" : "weights|lora", "what is trained; all but the weights need --load"},
            {"rank", &rank, 16, 1, 4096, "of the matrices that --tune lora adds"},
            {"alpha", &alpha, 32, 0, 1e6, "their weight is this over the rank"},
            {"tokenizer", &tokenizer, "", "", "the .tok file for samples [beside --train]"},
            {"layers", &layers, 4, 1, 1000, "layers (L)"},
            {"dim", &dim, 128, 1, 65536, "channels (C)"},
            {"ffn", &ffn, 0, 0, 1 << 20, "channels of the feed-forward layer (F); 0: the model's own rule"},
            {"ctx", &ctx, 64, 1, 1 << 24, "tokens per sequence (T)"},
            {"batch", &batch, 16, 1, 65535, "sequences per micro-step (B)"},
            {"accum", &accum, 1, 1, 65536, "micro-steps whose gradients are summed into one step"},
            {"chunk", &chunk, 0, 0, 1 << 24, "run a sequence this many tokens at a time, carrying the state; 0: all at once"},
            {"bptt", &bptt, "full", "full|truncated", "with --chunk: gradients through the state, or not"},
            {"doc-reset", &doc_reset, "empty the state where a document begins (at an end-of-text token)"},
            {"steps", &steps, 1000, 1, 1e12, "optimizer steps in all"},
            {"lr", &lr, d.lr, 0, 10, "learning rate after the warm-up"},
            {"lr-final", &lr_final, d.lr_final, 0, 10, "learning rate at the end"},
            {"warmup", &warmup, 0, 0, 1e12, "steps with a rising learning rate"},
            {"schedule", &schedule, "cosine", SCHEDULES, "how the learning rate falls"},
            {"beta1", &beta1, 0.9, 0, 0.999999, "Adam: decay of the mean of gradients"},
            {"beta2", &beta2, d.beta2, 0, 0.999999, "Adam: decay of the mean of squares"},
            {"eps", &eps, d.eps, 0, 1, "Adam: added to the root of the mean of squares"},
            {"weight-decay", &weight_decay, d.weight_decay, 0, 10, "decoupled weight decay, on matrices only"},
            {"clip", &clip, 1, 0, 1e9, "limit of the gradient norm; 0: none"},
            {"l2wrap", &l2wrap, d.l2wrap, 0, 1, "strength of L2Wrap, the pull on the largest logit; 0: off"},
            {"seed", &seed, 1, 0, 1e15, "of the initial weights, the order of data and the samples"},
            {"recompute", &recompute, 0, 0, 2, d.recompute},
            {"eval-every", &eval_every, 100, 0, 1e12, "steps between validations; 0: only at the end"},
            {"eval-batches", &eval_batches, 20, 1, 1e9, "batches per validation, at most"},
            {"sample-every", &sample_every, 0, 0, 1e12, "steps between samples of text; 0: only at the end"},
            {"sample-tokens", &sample_tokens, 200, 0, 1e9, "length of a sample; 0: no samples"},
            {"prompt", &prompt, "", "", "what a sample goes on from [end-of-text, or a line break]"},
            {"temperature", &temperature, 1, 0, 100, "of samples; 0: always the likeliest token"},
            {"top-p", &top_p, 0.9, 0, 1, "of samples: only the likeliest tokens that make up this share"},
            {"save-every", &save_every, 1000, 0, 1e12, "steps between checkpoints; 0: only at the end"},
            {"keep", &keep, 2, 1, 1e9, "checkpoints to keep"},
            {"log", &log, "", "", "write a JSON line per step to this file"},
        };
        for (const char *name : {"chunk", "bptt", "doc-reset"})
            for (size_t i = 0; i < all.size() && !recurrent; i++)
                if (!strcmp(all[i].name, name)) all.erase(all.begin() + i);
        auto after_shape = std::find_if(all.begin(), all.end(), [](const Option &x) { return !strcmp(x.name, "ctx"); });
        all.insert(after_shape, of_model.begin(), of_model.end());
        return all;
    }
};

// One batch in one piece of memory, on the device or pinned on the host, so that one copy takes it there. Sequences lie in
// chunks, (chunk,B,TC), so that each chunk is contiguous.
struct BatchMemory {
    char *memory;
    size_t bytes;
    int *tokens, *targets, *index;               // index: a TokenIndex per chunk
    uint8_t *resets;                             // ModelInput::reset
    uint64_t *draws;                             // one per chunk: ModelInput::draw
    int64_t per_chunk;                           // B * TC

    void lay(char *where, int64_t B, int T, int TC) {  // null: only to learn how many bytes
        uintptr_t at = (uintptr_t)where;
        auto part = [&](auto *&pointer, int64_t count) {
            pointer = (decltype(&*pointer))at;
            at += (count * sizeof *pointer + 255) / 256 * 256;
        };
        int chunks = ceil_div(T, TC);
        memory = where, per_chunk = B * TC;
        part(tokens, B * T), part(targets, B * T), part(index, chunks * TokenIndex::ints(per_chunk)), part(resets, B * T), part(draws, chunks);
        bytes = at - (uintptr_t)where;
    }
    TokenIndex sorted(int chunk) const { return {index + chunk * TokenIndex::ints(per_chunk), per_chunk}; }
};

template<class Model> struct Trainer {
    TrainOptions o;
    typename Model::Config config;
    Options options{Model::program, Model::purpose, o.table(Model::defaults(), Model::recurrent, config.table())};
    Parameters p;
    Parameters tuned;                            // --tune lora: A and B; --tune state: the initial state
    Adapters lora;
    std::unique_ptr<Model> model;
    std::unique_ptr<Tokenizer> tokenizer;
    Arena arena;
    cudaStream_t stream = 0;
    int B, T, TC, chunks;                        // TC: tokens per chunk

    // On the device: one batch, the states between chunks and their gradients, the numbers of a step
    BatchMemory batch;
    real *states, *dstates, *sample_states;
    real *first_state, *dfirst_state;            // --tune state: what B sequences begin with, its gradient
    uint8_t *group;
    StepNumbers *numbers;
    struct Results { real loss, norm; } *results;  // sum of losses, gradient norm
    real *norm_partial;
    Groups groups;
    // On the host, pinned: what travels
    BatchMemory staging[3];                      // two of the prefetcher, one for validation
    cudaEvent_t sent;                            // the last copy from staging
    StepNumbers *host_numbers;
    Results *host_results;
    Graph micro_step_graph, update_graph;

    // What a checkpoint holds besides tensors
    int64_t saved = -1;                          // the step of the last checkpoint
    int64_t step = 0, updates = 0;               // steps done; updates: without those that a loss scale skipped
    double loss_scale = 1;
    int64_t good_steps = 0;                      // since the loss scale last changed
    std::string base_crc;                        // of the weights that a tuned thing belongs to
    static constexpr bool scaled = std::is_same<floatX, __half>::value;

    std::unique_ptr<Loader> train_data, val_data;
    TokenizerId made_with;                       // what the shards were made with
    std::unique_ptr<Prefetcher> batches;         // its thread uses what stands above
    std::string resumed;                         // the checkpoint that this process goes on from, or ""
    RunLog run_log;
    DirectoryLock out_lock;

    bool tunes(const char *what) const { return o.tune == what; }
    Parameters &trained() { return tunes("weights") ? p : tuned; }  // what the optimizer works on
    TunedState tuned_state() const { return Model::tuned_state(p.table.s); }

    // ---------------------------------------------------------------- setting up
    Shape shape_from_options(const TensorFile *file) {
        Shape s = {made_with.vocab, (int)o.dim, (int)o.ffn, (int)o.layers};
        if (file) {
            std::vector<std::pair<const Option *, std::string>> asked;  // the model's own options, as given
            for (const Option &option : typename Model::Config().table())
                if (options.given(option.name)) asked.push_back({options.find(option.name), options.find(option.name)->text()});
            Shape f = Model::shape_of(*file, config);
            for (auto &[option, text] : asked)
                if (option->text() != text)
                    fail("%s has %s %s, but --%s says %s; leave the option away", file->path.c_str(), option->name, option->text().c_str(), option->name, text.c_str());
            struct { const char *option; int64_t asked; int has; } checks[] = {{"layers", o.layers, f.L}, {"dim", o.dim, f.C}, {"ffn", o.ffn, f.F}};
            for (auto &c : checks)
                if (options.given(c.option) && c.asked && c.asked != c.has)
                    fail("%s has %s %d, but --%s says %lld; leave the option away", file->path.c_str(), c.option, c.has, c.option, (long long)c.asked);
            if (f.V < s.V)
                fail("%s has a vocabulary of %d, but the tokens of %s go up to %d; prepare the text with the model's tokenizer", file->path.c_str(), f.V, o.train.c_str(), s.V);
            s = f;
        }
        Model::complete(s, config, T);
        return s;
    }
    void plan(Arena &a, Model &m) {
        p.plan(a, true, tunes("weights"));
        if (!tunes("weights")) tuned.plan(a, true);
        if (tunes("lora")) a.plan("parameters", &lora.base, p.table.total);
        if (tunes("state")) a.plan("states", &first_state, m.state_count(B)), a.plan("states", &dfirst_state, m.state_count(B));
        m.plan(a);
        batch.lay(nullptr, B, T, TC);
        a.plan("batch", &batch.memory, batch.bytes);
        if (chunks > 1) a.plan("states", &states, (chunks + 1) * m.state_count(B)), a.plan("states", &dstates, 2 * m.state_count(B));
        a.plan("states", &sample_states, 2 * m.state_count(1));
        a.plan("optimizer", &group, trained().table.total / 64);
        a.plan("optimizer", &numbers, 1), a.plan("optimizer", &results, 1), a.plan("optimizer", &norm_partial, busy_blocks());
    }
    // Prints what memory is needed, and refuses before anything is allocated.
    void check_memory(const Arena &a) {
        size_t free_bytes, total_bytes;
        cudaCheck(cudaMemGetInfo(&free_bytes, &total_bytes));
        std::string line;
        for (auto &[name, bytes] : a.groups()) line += format("%s%s %s", line.empty() ? "" : ", ", name.c_str(), megabytes(bytes).c_str());
        printf("memory: %s; %s in all, %s free\n", line.c_str(), megabytes(a.total).c_str(), megabytes(free_bytes).c_str());
        if (a.total < 0.97 * free_bytes) return;
        size_t fixed = 0;
        for (auto &[name, bytes] : a.groups()) if (name == "parameters" || name == "gradients" || name == "optimizer") fixed += bytes;
        double fits = B * (0.9 * free_bytes - fixed) / (a.total - fixed);  // sequences
        std::string smaller = format("lower --batch to %lld and raise --accum", (long long)std::max(1.0, fits));
        std::string way = fixed > 0.9 * free_bytes ? "the model itself is too large: lower --dim or --layers"
                        : o.recompute < 2 ? "pass --recompute 2, or " + smaller : B > 1 ? smaller : "lower --ctx, or pass --chunk";
        fail("this run needs %s of device memory, but %s are free: %s", megabytes(a.total).c_str(), megabytes(free_bytes).c_str(), way.c_str());
    }
    void allocate() {
        model.reset(new Model(p, config, B, TC, o.recompute));
        plan(arena, *model);
        check_memory(arena);
        arena.allocate();
        p.link(), tuned.link(), model->link();
        batch.lay(batch.memory, B, T, TC);
        if (tunes("lora")) lora.link(p, tuned, o.alpha);
        cudaCheck(cudaStreamCreate(&stream));
        model->stream = stream;
        for (BatchMemory &b : staging) {
            cudaCheck(cudaMallocHost((void **)&b.memory, batch.bytes));
            b.lay(b.memory, B, T, TC);
        }
        cudaCheck(cudaEventCreateWithFlags(&sent, cudaEventDisableTiming));
        cudaCheck(cudaMallocHost((void **)&host_numbers, sizeof *host_numbers)), cudaCheck(cudaMallocHost((void **)&host_results, sizeof *host_results));
        std::vector<uint8_t> g = groups.assign(trained().table, o.weight_decay);
        cudaCheck(cudaMemcpy(group, g.data(), g.size(), cudaMemcpyHostToDevice));
        matmul_init(true);
    }
    void set_weights(const std::vector<real> &host) {
        p.set(host, p.master);
        round_params(p.params, p.master, p.table.total, stream);
        cudaCheck(cudaStreamSynchronize(stream));
        if (tunes("lora")) p.set(host, lora.base);
        if (!tunes("weights")) base_crc = format("%08x", crc32({(const char *)host.data(), host.size() * sizeof(real)}));
    }
    void set_tuned(const std::vector<real> &host) {
        tuned.set(host, tuned.master);
        if (tunes("lora")) lora.merge(stream), cudaCheck(cudaStreamSynchronize(stream));
    }

    // ---------------------------------------------------------------- one step
    // Samples first ... first+B-1 with all that a micro-step needs of them. Of the training data it runs in the prefetcher's
    // thread, so that sorting tokens takes no time of the device.
    void fill(BatchMemory &to, const Loader &from, int64_t first) const {
        std::vector<int> room;
        from.batch(first, B, to.tokens, to.targets, TC);
        for (int c = 0; c < chunks; c++) {
            to.sorted(c).fill(to.tokens + c * to.per_chunk, B * std::min(TC, T - c * TC), p.table.s.V, room);
            to.draws[c] = (uint64_t)o.seed * 0x9e3779b97f4a7c15 + first / B * chunks + c;
        }
        for (int64_t i = 0; i < (int64_t)B * T; i++) to.resets[i] = to.tokens[i] == made_with.eot;
    }
    void send(const BatchMemory &from) {
        cudaCheck(cudaMemcpyAsync(batch.memory, from.memory, batch.bytes, cudaMemcpyHostToDevice, stream));
        cudaCheck(cudaEventRecord(sent, stream));
    }
    ModelInput chunk_input(int c, bool training) {
        int64_t at = (int64_t)B * c * TC, n = model->state_count(B);
        bool carried = chunks > 1;
        const real *state_in = carried && c ? states + c * n : tunes("state") ? first_state : nullptr;
        return {batch.tokens + at, B, std::min(TC, T - c * TC), state_in, carried ? states + (c + 1) * n : nullptr,
                o.doc_reset ? batch.resets + at : nullptr, 0, training ? batch.draws + c : nullptr};
    }
    void forward_backward() {
        auto forward = [&](int c) { model->forward(chunk_input(c, true)); };
        auto backward = [&](int c, const real *dstate_out, real *dstate_in) {
            ModelInput in = chunk_input(c, true);
            model->loss(in, batch.targets + (int64_t)B * c * TC, &numbers->dloss, o.l2wrap, true);
            loss_sum(&results->loss, model->head.losses, in.BT(), stream);
            bool tune = c == 0 && tunes("state");
            model->backward(in, batch.sorted(c), dstate_out, tune ? dfirst_state : dstate_in);
            if (tune) gather_state(tuned.grads, dfirst_state, tuned_state(), p.table.s.L, B, stream);
        };
        if (tunes("state")) spread_state(first_state, tuned.master, tuned_state(), p.table.s.L, B, stream);
        if (o.bptt == "truncated" || chunks == 1) {
            for (int c = 0; c < chunks; c++) forward(c), backward(c, nullptr, nullptr);
            return;
        }
        int64_t n = model->state_count(B);
        for (int c = 0; c + 1 < chunks; c++) forward(c);
        for (int c = chunks - 1; c >= 0; c--) {
            forward(c);
            backward(c, c + 1 < chunks ? dstates + (c + 1) % 2 * n : nullptr, c ? dstates + c % 2 * n : nullptr);
        }
    }
    // Runs optimizer step number `step`; returns the mean loss and the gradient norm.
    Results train_step(const Schedule &schedule) {
        double t = updates + 1, count = (double)B * T * o.accum;
        *host_numbers = {(real)learning_rate(schedule, step), (real)(1 - pow(o.beta1, t)), (real)(1 - pow(o.beta2, t)), (real)(loss_scale / count), (real)(1 / loss_scale)};
        cudaCheck(cudaMemcpyAsync(numbers, host_numbers, sizeof *numbers, cudaMemcpyHostToDevice, stream));
        cudaCheck(cudaMemsetAsync(p.grads, 0, p.table.total * sizeof(real), stream));
        if (!tunes("weights")) cudaCheck(cudaMemsetAsync(tuned.grads, 0, tuned.table.total * sizeof(real), stream));
        cudaCheck(cudaMemsetAsync(results, 0, sizeof *results, stream));
        for (int j = 0; j < o.accum; j++) {
            cudaCheck(cudaEventSynchronize(sent));  // get() lets the thread fill what was sent last
            send(staging[batches->get((step * o.accum + j) * B)]);
            micro_step_graph.run(stream, [&] { forward_backward(); });
        }
        update_graph.run(stream, [&] {
            AdamW a = {(real)o.beta1, (real)o.beta2, (real)o.eps, (real)o.clip};
            Parameters &t = trained();
            if (tunes("lora")) lora.gradients(stream);
            gradient_norm(&results->norm, norm_partial, t.grads, t.table.total, numbers, stream);
            adamw(t.master, t.params, t.grads, t.m, t.v, group, groups, a, &results->norm, numbers, t.table.total, stream);
            if (tunes("lora")) lora.merge(stream);
        });
        cudaCheck(cudaMemcpyAsync(host_results, results, sizeof *results, cudaMemcpyDeviceToHost, stream));
        cudaCheck(cudaStreamSynchronize(stream));
        Results r = {(real)(host_results->loss / count), host_results->norm};
        bool finite = std::isfinite(r.norm);
        if (!std::isfinite(r.loss) || (!finite && !scaled)) stop_at_nan(r);
        if (scaled) adapt_loss_scale(finite, count);
        updates += finite, step++;
        return r;
    }
    // fp16: gradients are computed times a scale that keeps them in range. One overflow halves it and skips the
    // update; 2000 good steps double it. The gradient of a token is at most scale / count, which fp16 must hold.
    void adapt_loss_scale(bool finite, double count) {
        good_steps = finite ? good_steps + 1 : 0;
        if (!finite) loss_scale /= 2;
        else if (good_steps % 2000 == 0) loss_scale = std::min(loss_scale * 2, 32768 * count);
        if (loss_scale < 1.0 / (1 << 14)) fail("step %lld: gradients overflow fp16 at every loss scale down to %g; lower --lr, or use bf16 or fp32", (long long)step, loss_scale);
        if (!finite) fprintf(stderr, "step %lld: gradient overflow, step skipped, loss scale now %g\n", (long long)step, loss_scale);
    }
    static bool finite(const Tensor &t, const std::vector<real> &x) {
        return std::all_of(x.begin() + t.offset, x.begin() + t.offset + t.count, [](real x) { return std::isfinite(x); });
    }
    [[noreturn]] void stop_at_nan(const Results &r) {
        std::string where = "the loss";
        std::vector<real> w = p.get(p.master), g = p.get(p.grads);
        for (int pass = 1; pass >= 0; pass--)  // a broken parameter explains more than a broken gradient
            for (const Tensor &t : p.table.tensors)
                if (!finite(t, pass ? g : w))
                    where = (pass ? "the gradient of " : "the parameter ") + t.name;
        fail("step %lld: %s is not finite (loss %g, gradient norm %g, samples %lld to %lld of the data order); nothing was overwritten: lower --lr or --clip, or look at the data",
             (long long)step, where.c_str(), (double)r.loss, (double)r.norm, (long long)(step * o.accum * B), (long long)((step + 1) * o.accum * B - 1));
    }

    // ---------------------------------------------------------------- validation and samples
    double validate() {
        double total = 0;
        int64_t batches = std::min<int64_t>(o.eval_batches, val_data->batches(B));
        if (tunes("state")) spread_state(first_state, tuned.master, tuned_state(), p.table.s.L, B, stream);
        for (int64_t i = 0; i < batches; i++) {
            fill(staging[2], *val_data, i * B);
            send(staging[2]);
            cudaCheck(cudaMemsetAsync(results, 0, sizeof *results, stream));
            for (int c = 0; c < chunks; c++) {
                ModelInput in = chunk_input(c, false);
                model->forward(in);
                model->loss(in, batch.targets + (int64_t)B * c * TC, &numbers->dloss, 0, false);
                loss_sum(&results->loss, model->head.losses, in.BT(), stream);
            }
            cudaCheck(cudaMemcpyAsync(host_results, results, sizeof *results, cudaMemcpyDeviceToHost, stream));
            cudaCheck(cudaStreamSynchronize(stream));
            total += host_results->loss;
        }
        return total / ((double)batches * B * T);
    }
    // Text that the model writes after the prompt: parallel over the prompt, then one token at a time.
    std::string sample() {
        std::vector<uint32_t> ids;
        if (!o.prompt.empty()) tokenizer->encode(o.prompt, ids);
        else if (tokenizer->eot >= 0) ids = {(uint32_t)tokenizer->eot};
        else tokenizer->encode("\n", ids);
        if (ids.empty()) ids = {0};
        std::string text = o.prompt;
        Utf8Stream utf8;
        Sampler sampler;
        sampler.temperature = o.temperature, sampler.top_p = o.top_p;
        Rng rng{(uint64_t)o.seed, (uint64_t)1 << 32, 0};
        int64_t n = model->state_count(1);
        std::vector<floatX> row(p.table.s.V);
        std::vector<float> logits(p.table.s.V);
        real *state[2] = {sample_states, Model::recurrent ? sample_states + n : sample_states};
        size_t fed = 0, most = model->max_past();  // tokens of ids that the state holds, and can hold
        for (int64_t made = 0, turn = 0; made < o.sample_tokens; turn ^= 1) {
            if (ids.size() > most) ids.erase(ids.begin(), ids.end() - (most + 1) / 2), fed = 0;  // full: its last half again
            int len = std::min<int64_t>(ids.size() - fed, TC);
            std::vector<int> part(ids.begin() + fed, ids.begin() + fed + len);
            cudaCheck(cudaMemcpyAsync(batch.tokens, part.data(), len * sizeof(int), cudaMemcpyHostToDevice, stream));
            bool begins = !fed && tunes("state");
            if (begins) spread_state(state[turn ^ 1], tuned.master, tuned_state(), p.table.s.L, 1, stream);
            model->forward({batch.tokens, 1, len, fed || begins ? state[turn ^ 1] : nullptr, state[turn], nullptr, (int)fed});
            fed += len;
            if (fed < ids.size()) { cudaCheck(cudaStreamSynchronize(stream)); continue; }
            model->head.forward(model->x_out + (int64_t)(len - 1) * p.table.s.C, model->weight(model->head_w), 1, stream);
            cudaCheck(cudaMemcpyAsync(row.data(), model->head.logits, row.size() * sizeof(floatX), cudaMemcpyDeviceToHost, stream));
            cudaCheck(cudaStreamSynchronize(stream));
            for (size_t i = 0; i < row.size(); i++) logits[i] = (float)row[i];
            int next = sample_token(sampler, logits.data(), std::min((int)logits.size(), tokenizer->vocab), rng);
            made++;
            if (next == tokenizer->eot) break;
            text += utf8.feed(tokenizer->bytes(next));
            ids.push_back(next);
        }
        return text + utf8.flush();
    }

    // ---------------------------------------------------------------- checkpoints
    void save() {
        saved = step;
        if (o.out.empty()) return;
        Parameters &t = trained(), &written = tunes("state") ? tuned : p;
        std::vector<real> w = written.get(written.master), a, m = t.get(t.m), v = t.get(t.v);
        std::vector<TensorView> state = t.views(m, "adam_m.");
        auto add = [&](std::vector<real> &host, const char *prefix) { for (TensorView &view : t.views(host, prefix)) state.push_back(view); };
        add(v, "adam_v.");
        if (tunes("lora")) a = t.get(t.master), add(a, "");
        const Shape &s = p.table.s;
        std::map<std::string, std::string> about = {
            {"model", Model::kind}, {"layers", std::to_string(s.L)}, {"dim", std::to_string(s.C)}, {"ffn", std::to_string(s.F)}, {"vocab", std::to_string(s.V)},
            {"tokenizer", made_with.kind}, {"tokenizer_hash", format("%016llx", (unsigned long long)made_with.hash)},
            {"step", std::to_string(step)}, {"tokens", std::to_string(step * o.accum * B * T)}};
        for (const Option &option : typename Model::Config().table()) about[option.name] = options.find(option.name)->text();
        std::map<std::string, std::string> numbers = {
            {"updates", std::to_string(updates)}, {"loss_scale", shortest(loss_scale)}, {"good_steps", std::to_string(good_steps)}, {"matmul", matmul_choices()}};
        if (!tunes("weights")) numbers["base"] = base_crc;
        for (const Option &option : options.table)
            if (!of_start(option.name)) numbers[std::string("option.") + option.name] = utf8_repaired(option.text());  // other bytes would make the file unreadable
        save_checkpoint(o.out, step, written.views(w), about, state, numbers, o.keep);
    }
    static bool one_of(const std::string &name, std::initializer_list<const char *> list) {
        return std::any_of(list.begin(), list.end(), [&](const char *n) { return name == n; });
    }
    // Options of one start, which a checkpoint does not keep. --log is one: the run may be a copy, whose log is the original's.
    static bool of_start(const std::string &name) { return one_of(name, {"out", "load", "resume", "log"}); }
    // Options that may change when a run goes on: they do not change its numbers.
    static bool may_change(const std::string &name) {
        return one_of(name, {"val", "tokenizer", "eval-every", "eval-batches", "sample-every", "sample-tokens", "prompt", "temperature", "top-p", "save-every", "keep", "recompute"});
    }
    void restore(const std::string &folder) {
        TensorFile weights(folder + "/model.safetensors"), state(folder + "/train_state.safetensors");
        Parameters &t = trained();
        if (tunes("weights")) set_weights(p.read(weights));
        else if (state.metadata["base"] != base_crc) fail("%s was tuned from another model than %s; --load the one that it began with", folder.c_str(), o.load.c_str());
        else set_tuned(t.read(tunes("lora") ? state : weights));
        t.set(t.read(state, "adam_m."), t.m), t.set(t.read(state, "adam_v."), t.v);
        auto number = [&](TensorFile &f, const char *key) {
            auto i = f.metadata.find(key);
            if (i == f.metadata.end()) fail("%s does not say %s; it was not written by %s", f.path.c_str(), key, Model::program);
            return strtod(i->second.c_str(), nullptr);
        };
        saved = step = number(weights, "step");
        updates = number(state, "updates"), loss_scale = number(state, "loss_scale"), good_steps = number(state, "good_steps");
        matmul_restore_choices(state.metadata["matmul"]);
    }
    void check_tokenizer(const TensorFile &file) {
        auto i = file.metadata.find("tokenizer_hash");
        std::string ours = format("%016llx", (unsigned long long)made_with.hash);
        if (i != file.metadata.end() && made_with.hash && i->second != std::string(16, '0') && i->second != ours)
            fail("%s was trained with another tokenizer (%s) than that of %s (%s); prepare the text with that model's .tok", file.path.c_str(),
                 file.metadata.count("tokenizer") ? file.metadata.at("tokenizer").c_str() : "unnamed", o.train.c_str(), made_with.kind.c_str());
    }

    // ---------------------------------------------------------------- the program
    void setup(int argc, char **argv) {
        options.parse(argc, argv);
        if (o.resume && !o.out.empty()) resumed = latest_checkpoint(o.out);
        if (!resumed.empty()) adopt_options();
        if (!options.given("lr-final")) o.lr_final = std::min(o.lr_final, o.lr);
        check_options();
        device_init();
        B = o.batch, T = o.ctx, TC = o.chunk ? std::min(o.chunk, o.ctx) : o.ctx, chunks = ceil_div(T, TC);
        open_data();
        std::unique_ptr<TensorFile> weights = open_weights();
        announce();
        start(weights.get());
    }
    // What is not on the command line of --resume is as it was when the run began.
    void adopt_options() {
        TensorFile state(resumed + "/train_state.safetensors");
        for (Option &option : options.table) {
            auto before = state.metadata.find(std::string("option.") + option.name);
            if (before == state.metadata.end() || before->second == option.text()) continue;
            if (!option.given) option.set(before->second);
            else if (!may_change(option.name)) fprintf(stderr, "warning: --%s is %s, but this run was started with %s\n", option.name, option.text().c_str(), before->second.c_str());
        }
    }
    void check_options() {
        if (o.train.empty()) usage_fail("--train is missing: a shard that ./prepare wrote, such as data/NAME_train.bin");
        if (o.resume && o.out.empty()) usage_fail("--resume needs --out, the folder of the run");
        if (!tunes("weights") && o.load.empty()) usage_fail("--tune %s needs --load, the model that stays as it is", o.tune.c_str());
        if (o.resume && !o.load.empty() && tunes("weights"))
            usage_fail("--resume and --load exclude each other: one goes on with a run, the other starts from its weights");
        if (o.warmup > o.steps) usage_fail("--warmup is %lld, but must not exceed --steps, %lld", (long long)o.warmup, (long long)o.steps);
        if (o.batch * o.ctx > INT_MAX)
            usage_fail("--batch %lld times --ctx %lld is more than 2^31 tokens at once; lower --batch and raise --accum", (long long)o.batch, (long long)o.ctx);
    }
    void open_data() {
        train_data.reset(new Loader(o.train, T, o.order == "official" ? Loader::OFFICIAL : Loader::SHUFFLED, o.seed));
        train_data->batches(B);
        if (!o.val.empty()) val_data.reset(new Loader(o.val, T, Loader::IN_ORDER)), val_data->batches(B);
        made_with = train_data->made_with;
        bool pair = !made_with.vocab && made_with.eot == 0;  // RWKV-LM's .bin and .idx do not say; llm.c's shards neither: they are GPT-2's
        if (!made_with.vocab && !pair) made_with.vocab = 50257, made_with.eot = 50256;
        if (o.doc_reset && made_with.eot < 0) usage_fail("--doc-reset needs a tokenizer with an end-of-text token, which %s has not", o.train.c_str());
        if (val_data && val_data->made_with.hash != made_with.hash)
            fail("--val %s was made with another tokenizer than --train %s; prepare both together", o.val.c_str(), o.train.c_str());
        load_tokenizer_for_samples();
        if (pair && tokenizer) made_with = {tokenizer->hash, tokenizer->vocab, 0, tokenizer->kind};
    }
    // A run that goes on has its own copy. data/x_train.bin or data/x_train_000003.bin -> data/x.tok; of a pair, data/x.bin
    // or data/x -> data/x.tok
    void load_tokenizer_for_samples() {
        std::string path = o.tokenizer, kept = o.out + "/tokenizer.tok";
        size_t cut = o.train.rfind("_train");
        if (!resumed.empty() && !options.given("tokenizer") && !access(kept.c_str(), F_OK)) path = kept;
        else if (path.empty() && cut != std::string::npos) path = o.train.substr(0, cut) + ".tok";
        else if (path.empty()) path = o.train.substr(0, o.train.rfind(".bin")) + ".tok";
        if (o.tokenizer.empty() && access(path.c_str(), F_OK)) {
            if (o.sample_tokens) printf("no tokenizer beside %s: no samples (--tokenizer names one)\n", o.train.c_str());
            return;
        }
        tokenizer = load_tokenizer(path);
        if (made_with.hash && tokenizer->hash != made_with.hash) fail("%s is not the tokenizer that %s was made with", path.c_str(), o.train.c_str());
    }
    // The weights to begin with, null for fresh ones; and what depends on them: the shape, the tables, which tokens there may be.
    std::unique_ptr<TensorFile> open_weights() {
        if (!o.out.empty() && resumed.empty() && !list_checkpoints(o.out).empty())
            fail(o.resume ? "all checkpoints in --out %s are damaged; remove them, or name another folder"
                          : "--out %s already holds a run; add --resume to go on with it, or name another folder", o.out.c_str());
        if (o.resume && resumed.empty()) printf("no checkpoint in %s yet: starting from scratch\n", o.out.c_str());
        std::string source = o.load.empty() ? "" : weights_file(o.load);
        if (!resumed.empty() && tunes("weights")) source = resumed + "/model.safetensors";
        std::unique_ptr<TensorFile> file(source.empty() ? nullptr : new TensorFile(source));
        if (file) check_tokenizer(*file);
        else if (!made_with.vocab) made_with.vocab = 65536;  // World's; a file says its own
        Shape shape = shape_from_options(file.get());  // also completes config, which rows() needs
        p.table = TensorTable(Model::rows(config), shape);
        if (tunes("lora")) tuned.table = lora.table(p.table, o.rank);
        if (tunes("state") && !tuned_state().count) usage_fail("--tune state: %s has no state matrix to tune; it is for RWKV-7", Model::kind);
        if (tunes("state")) tuned.table = TensorTable(Model::state_rows(), shape);
        train_data->check_ids(shape.V);
        if (val_data) val_data->check_ids(shape.V);
        if (tokenizer && o.sample_tokens && tokenizer->vocab > shape.V)
            fail("the tokenizer for samples has %d tokens, but the model has %d; pass --tokenizer with the one of %s, or --sample-tokens 0",
                 tokenizer->vocab, shape.V, o.train.c_str());
        return file;
    }
    std::string shape_text() const {
        const Shape &s = p.table.s;
        return format("L%d C%d F%d V%d", s.L, s.C, s.F, s.V);
    }
    void announce() {
        printf("%s\n", options.echo().c_str());
        printf("%s: %s, %s parameters, " PRECISION_NAME " on %s\n", Model::kind, shape_text().c_str(), thousands(p.table.count).c_str(), device().name);
        printf("data: %s training tokens%s, batch %d x %d x %lld, %s tokens a step\n", thousands(train_data->tokens).c_str(),
               val_data ? format(", %s validation tokens", thousands(val_data->tokens).c_str()).c_str() : "", B, T, (long long)o.accum, thousands((int64_t)B * T * o.accum).c_str());
    }
    void start(const TensorFile *weights) {
        if (scaled) loss_scale = 65536;
        allocate();
        batches.reset(new Prefetcher(B, [this](int i, int64_t first) { fill(staging[i], *train_data, first); }));
        if (resumed.empty() || !tunes("weights")) set_weights(weights ? read_weights(*weights) : p.initial(o.seed, o.lr));
        if (!o.out.empty()) take_directory(out_lock, o.out);
        if (!o.out.empty() && tokenizer) tokenizer->save(o.out + "/tokenizer.tok");  // a model needs it for ever, and the shards' may be replaced
        if (weights && (resumed.empty() || !tunes("weights"))) printf("loaded %s\n", weights->path.c_str());
        if (!tunes("weights")) {
            set_tuned(tuned.initial(o.seed, o.lr));
            printf("training %s parameters (--tune %s)\n", thousands(tuned.table.count).c_str(), o.tune.c_str());
        }
        if (!resumed.empty()) restore(resumed), printf("resumed from %s, step %lld\n", resumed.c_str(), (long long)step);
        RunFacts facts = {Model::kind, shape_text(), PRECISION_NAME, device().name, made_with.kind,
                          format("%016llx", (unsigned long long)made_with.hash), p.table.count, (int64_t)arena.total};
        run_log.open(o.log, options, resumed.empty() ? -1 : step, facts);
    }
    std::vector<real> read_weights(const TensorFile &file) {
        std::vector<real> w = p.read(file);
        for (const Tensor &t : p.table.tensors)
            if (!finite(t, w)) fail("%s: %s is not finite; the file is damaged, or the run that wrote it had failed", file.path.c_str(), t.name.c_str());
        return w;
    }
    void first_loss_check(double loss) {
        double expected = log((double)p.table.s.V);
        if (o.load.empty() && fabs(loss / expected - 1) > 0.1)
            fprintf(stderr, "warning: the first loss is %.3f, but a fresh model should give about ln(%d) = %.3f\n", loss, p.table.s.V, expected);
        if (!o.load.empty() && loss > expected)
            fprintf(stderr, "warning: the first loss, %.3f, is worse than guessing (%.3f): are these the tokens that %s was trained on?\n", loss, expected, o.load.c_str());
    }
    void evaluate(Progress &progress) {
        double loss = validate(), bits = val_data->text_bytes ? loss / log(2.0) * val_data->tokens / val_data->text_bytes : NAN;
        run_log.eval(step, loss, bits);
        progress.note(format("step %lld  validation loss %.4f%s", (long long)step, loss, std::isnan(bits) ? "" : format(" nats per token, %.4f bits per byte", bits).c_str()));
    }
    int run(int argc, char **argv) {
        signal(SIGPIPE, SIG_IGN);  // who reads along may leave
        setup(argc, argv);
        on_stop_signals();
        if (step >= o.steps) printf("nothing left to do: the run is at step %lld, and --steps is %lld\n", (long long)step, (long long)o.steps);
        Schedule schedule{o.schedule, o.lr, o.lr_final, o.warmup, o.steps};
        Progress progress(o.steps, std::max<int64_t>(1, o.steps / 50), step * o.accum * B * T);
        while (step < o.steps && !stop_signal()) {
            auto start = std::chrono::steady_clock::now();
            bool first = step == 0;
            Results r = train_step(schedule);
            double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
            if (first) first_loss_check(r.loss);
            int64_t step_tokens = (int64_t)o.accum * B * T;
            StepLine line = {step, step * step_tokens, r.loss, host_numbers->lr, r.norm, ms, step_tokens / ms * 1000};
            run_log.step(line);
            progress.step(line);
            bool last = step == o.steps;
            if (last || stop_signal()) {
                save();  // before all that takes time
                on_stop_signals(SIG_DFL);
            }
            if (val_data && (last || (o.eval_every && step % o.eval_every == 0))) evaluate(progress);
            if (tokenizer && o.sample_tokens && (last || (o.sample_every && step % o.sample_every == 0))) {
                std::string text = sample();
                run_log.sample(step, text);
                progress.note(format("--- sample at step %lld ---\n%s\n---", (long long)step, text.c_str()));
            }
            if (o.save_every && step % o.save_every == 0 && saved != step) save();
        }
        if (saved != step) save();
        if (stop_signal()) printf("stopped at step %lld%s\n", (long long)step, o.out.empty() ? "" : format("; saved, go on with --resume").c_str());
        return 0;
    }
};

template<class Model> int train_main(int argc, char **argv) {
    return run_main([&] {
        Trainer<Model> trainer;
        return trainer.run(argc, argv);
    });
}
