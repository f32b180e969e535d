/* run/tokenizers.h: which tokenizer belongs to a model.

   --tokenizer names it: a .tok of ./prepare, or an original vocabulary file (rwkv_vocab_v20230424.txt, 20B_tokenizer.json,
   a folder with GPT-2's encoder.json). Without it, in this order: the usual file names for the number of rows of emb.weight,
   in the model's folder, the one above, data/ and here;

       65536 World    50277, 50304, 50254 NeoX 20B    50257 GPT-2

   any .tok in the model's folder or the one above, where a run keeps its own (tokenizer.tok; early runs have none, so they
   need --tokenizer); and for 256 rows bytes, which need no file.

   A tokenizer with another hash than the checkpoint's, with more tokens than the model or with far fewer is refused.
   defines: model_tokenizer */
#pragma once
#include "weights.h"
#include "../data_prep/import.h"

inline bool exists(const std::string &path) { struct stat st; return !stat(path.c_str(), &st); }

// A .tok or an original vocabulary
inline std::unique_ptr<Tokenizer> any_tokenizer(const std::string &path) {
    struct stat st;
    if (stat(path.c_str(), &st)) fail("the tokenizer %s cannot be opened: %s", path.c_str(), strerror(errno));
    if (S_ISDIR(st.st_mode)) return import_gpt2(path);
    MappedFile file(path);
    if (file.text().substr(0, 15) == "rwkv tokenizer ") return read_tokenizer(file.text(), path);
    if (file.text().substr(0, 1) == "{") return import_neox(path);
    if (file.text().substr(0, 2) == "1 ") return import_world(path);
    return read_tokenizer(file.text(), path);  // says what is wrong
}
// Does it fit the model?
inline void check_tokenizer(const Tokenizer &t, const std::string &path, const ModelInfo &m, const std::string &hash) {
    std::string ours = format("%016llx", (unsigned long long)t.hash);
    if (!hash.empty() && hash != ours)
        fail("%s is not the tokenizer that %s was trained with (hash %s, needed %s); pass --tokenizer with that .tok",
             path.c_str(), m.path.c_str(), ours.c_str(), hash.c_str());
    if (t.vocab > m.V || m.V - t.vocab > 128)  // up to 127 rows of padding
        fail("%s: emb.weight has %d rows, but the tokenizer %s (%s) has %d tokens; pass --tokenizer with the one of this model",
             m.path.c_str(), m.V, path.c_str(), t.kind.c_str(), t.vocab);
}
inline std::unique_ptr<Tokenizer> model_tokenizer(const ModelInfo &m, const std::map<std::string, std::string> &metadata, const std::string &option) {
    auto about = metadata.find("tokenizer_hash");
    std::string hash = about == metadata.end() || about->second == std::string(16, '0') ? "" : about->second;
    if (!option.empty()) {
        std::unique_ptr<Tokenizer> t = any_tokenizer(option);
        check_tokenizer(*t, option, m, hash);
        return t;
    }
    std::string folder = m.path.substr(0, m.path.rfind('/') + 1);
    std::vector<std::string> tried;
    auto usable = [&](const std::string &path) -> std::unique_ptr<Tokenizer> {  // for a search: null if it is not there or does not fit
        if (path.empty() || !exists(path)) return nullptr;
        try {
            std::unique_ptr<Tokenizer> t = any_tokenizer(path);
            check_tokenizer(*t, path, m, hash);
            return t;
        } catch (const Error &) { return nullptr; }
    };
    static const struct { int V; std::vector<const char *> names; } usual[] = {
        {65536, {"world.tok", "rwkv_vocab_v20230424.txt"}}, {50277, {"neox.tok", "20B_tokenizer.json"}}, {50254, {"neox.tok", "20B_tokenizer.json"}},
        {50304, {"neox.tok", "20B_tokenizer.json"}}, {50257, {"gpt2.tok"}}};
    for (auto &u : usual)
        if (u.V == m.V)
            for (const char *name : u.names)
                for (std::string where : {folder, folder + "../", std::string("data/"), std::string("data/tokenizers/"), std::string("")})
                    if (std::unique_ptr<Tokenizer> t = usable(where + name)) return t;
    std::unique_ptr<Tokenizer> found;
    std::error_code error;  // the .tok beside the model, or in the folder of its run
    for (std::string where : {folder.empty() ? std::string("./") : folder, folder + "../"})
        for (std::filesystem::directory_iterator i(where, error), end; !found && !error && i != end; i.increment(error))
            if (i->path().extension() == ".tok") found = usable(i->path().string());
    if (found) return found;
    if (m.V == 256) {
        std::unique_ptr<Tokenizer> t = import_bytes();
        if (hash.empty() || hash == format("%016llx", (unsigned long long)t->hash)) return t;
    }
    const char *file = m.V == 65536 ? "world.tok or rwkv_vocab_v20230424.txt (data_prep/download.sh world)"
                     : m.V == 50277 || m.V == 50254 || m.V == 50304 ? "neox.tok or 20B_tokenizer.json (data_prep/download.sh neox)"
                     : "the .tok that it was trained with (tokenizer.tok in the folder of its run)";
    fail("no tokenizer was found for %s, which has a vocabulary of %d: pass --tokenizer with %s", m.path.c_str(), m.V, file);
}
