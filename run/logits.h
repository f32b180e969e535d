/* run/logits.h: run_rwkv logits: token ids in, float32 logits out, for comparisons with other programs.
   defines: logits_main */
#pragma once
#include "engine.h"

// Whitespace-separated numbers
inline std::vector<int> read_ids(const std::string &path, const ModelInfo &m) {
    MappedFile file(path);
    std::vector<int> ids;
    std::string text(file.text());
    for (char *p = text.data(), *end = p + text.size();;) {
        while (p < end && isspace((unsigned char)*p)) p++;
        if (p == end) break;
        char *stop;
        long long id = strtoll(p, &stop, 10);
        char *word_end = std::find_if(p, end, [](char c) { return isspace((unsigned char)c); });
        if (stop != word_end) fail("%s: id %zu is not a whole number: '%s'", path.c_str(), ids.size(), printable(std::string(p, word_end)).c_str());
        if (id < 0 || id >= m.V) fail("%s: id %zu is %lld, but %s has a vocabulary of %d", path.c_str(), ids.size(), id, m.path.c_str(), m.V);
        ids.push_back((int)id), p = stop;
    }
    if (ids.empty()) fail("%s has no token ids", path.c_str());
    return ids;
}
inline int logits_main(int argc, char **argv) {
    ModelOptions m;
    std::string ids_file, out, mode, state_in, state_out;
    std::vector<Option> table = m.table();
    table.insert(table.end(), {
        {"ids", &ids_file, "", "", "file of token ids, separated by white space"},
        {"out", &out, "", "", "where the logits go: float32, little-endian, [ids, vocabulary]"},
        {"mode", &mode, "gpt", "gpt|rnn", "gpt: all tokens in parallel, a chunk at a time; rnn: one by one"},
        {"state-in", &state_in, "", "", "start from this state"},
        {"state-out", &state_out, "", "", "write the state after the last token"}});
    Options options(argv[0], "the logits after every token of a list", table);
    options.parse(argc, argv);
    if (ids_file.empty()) usage_fail("--ids is missing: a file of token ids");
    if (out.empty()) usage_fail("--out is missing: where to write the logits");
    check_outputs(options, {"out", "state-out"}, {"model", "tokenizer", "ids", "state-in"});
    std::unique_ptr<Engine> e = m.open();
    std::vector<int> ids = read_ids(ids_file, e->info);
    real *state = e->new_states(1);
    if (!state_in.empty()) e->load_state(state_in, state);
    OutputFile file(out);
    std::vector<float> row(e->info.V);
    auto write = [&](int64_t, const float *z) { file.write(z, row.size() * sizeof(float)); };
    if (mode == "gpt") e->each_logits(ids.data(), ids.size(), state, write);
    else for (int id : ids) e->decode(&id, 1, state, nullptr, row.data()), write(0, row.data());
    file.commit();
    if (!state_out.empty()) e->save_state(state_out, state);
    return 0;
}
