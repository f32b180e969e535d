/* run/output.h: is it right to write there? Asked before the work begins: before the model is loaded, not after hours.
   defines: check_outputs, check_writable, check_state_target */
#pragma once
#include "../rwkv/options.h"
#include "../rwkv/checkpoint.h"

// A state is written over a state or an empty file, never over what may be a model.
inline void check_state_target(const std::string &path) {
    struct stat st;
    if (stat(path.c_str(), &st) || st.st_size == 0) return;
    std::string kind;
    try { kind = TensorFile(path).metadata["kind"]; } catch (const Error &) {}
    if (kind != "rwkv state") fail("%s exists already, is no state of run_rwkv, and is not overwritten; remove it or choose another name", path.c_str());
}
inline void check_writable(const char *option, const std::string &path) {
    std::string folder = path.find('/') == path.npos ? "." : path.substr(0, path.rfind('/') + 1);
    struct stat st;
    if (access(folder.c_str(), W_OK | X_OK))
        fail("--%s %s cannot be written: the folder %s: %s; name a file in a folder that exists and can be written to", option, path.c_str(), folder.c_str(), strerror(errno));
    if (!stat(path.c_str(), &st) && !S_ISREG(st.st_mode)) fail("--%s %s cannot be written: something that is not a file has this name; choose another", option, path.c_str());
}
inline bool same_file(const std::string &a, const std::string &b) {  // also where there is no file yet
    auto name = [](const std::string &path) { std::error_code error; return std::filesystem::weakly_canonical(std::filesystem::absolute(path, error), error); };
    return !name(a).empty() && name(a) == name(b);
}
// The files that the options `writes` name can be written, and none is another of them or a file that one of `reads` names;
// but a state may replace the state that it went on from.
inline void check_outputs(Options &options, const std::vector<const char *> &writes, const std::vector<const char *> &reads) {
    std::vector<std::pair<std::string, std::string>> taken;  // option, file
    auto text = [&](const char *name) { return options.find(name)->text(); };
    for (const char *name : reads)
        if (!text(name).empty()) taken.push_back({name, strcmp(name, "model") ? text(name) : weights_file(text(name))});
    for (std::string name : writes) {
        std::string path = text(name.c_str());
        if (path.empty()) continue;
        check_writable(name.c_str(), path);
        for (auto &[other, file] : taken)
            if (same_file(path, file) && (name != "state-out" || other != "state-in"))
                fail("--%s and --%s are both %s, which would be overwritten; choose another name", name.c_str(), other.c_str(), path.c_str());
        if (name == "state-out") check_state_target(path);
        taken.push_back({name, path});
    }
}
