/* rwkv/checkpoint.h: the checkpoints of a training run. Host only.

       out/step_00000500/model.safetensors          the weights
       out/step_00000500/train_state.safetensors    all that resuming needs besides: Adam moments, master weights, ...

   The pair is written into out/.tmp_step_00000500, both files and the directory are synced, and one rename makes
   it out/step_00000500. So whenever a run is killed, every step_ directory in `out` is complete. When a step is
   saved again, the old one is step_00000500.old until the new one has its place, and counts until then.

   Nothing is deleted before the new checkpoint is on the disk, and never anything but these two files in
   directories of these names: one in which somebody put another file stays.
   One run at a time writes to `out`: it holds a lock on the directory.
   defines: take_directory, save_checkpoint, latest_checkpoint, weights_file */
#pragma once
#include "safetensors.h"
#include <filesystem>

inline const char *const checkpoint_files[] = {"model.safetensors", "train_state.safetensors"};

// Makes the folder --out, sees that it can be written before hours of work depend on it, and takes it for this process.
inline void take_directory(DirectoryLock &lock, const std::string &out) {
    make_directory_of(out + "/");
    if (access(out.c_str(), W_OK | X_OK)) fail("--out %s cannot be written: %s", out.c_str(), strerror(errno));
    if (!lock.take(out)) fail("another run is writing to --out %s; wait for its end, or name another folder", out.c_str());
}

struct CheckpointDir {
    int64_t step;
    bool old;  // being replaced
    std::string name() const { return format("step_%08lld%s", (long long)step, old ? ".old" : ""); }
};

// What is in `out`, newest first, and before an .old one that which replaces it. With "step_": the checkpoints,
// with ".tmp_step_": what an interrupted save left.
inline std::vector<CheckpointDir> list_checkpoints(const std::string &out, const std::string &prefix = "step_") {
    std::vector<CheckpointDir> found;
    std::error_code error;
    for (std::filesystem::directory_iterator i(out, error), end; !error && i != end; i.increment(error)) {
        std::string name = i->path().filename().string();
        if (name.compare(0, prefix.size(), prefix)) continue;
        CheckpointDir c = {strtoll(name.c_str() + prefix.size(), nullptr, 10), name.size() > 4 && !name.compare(name.size() - 4, 4, ".old")};
        if (c.step >= 0 && prefix + c.name().substr(5) == name) found.push_back(c);  // not step_final, not step_7
    }
    if (error && error != std::errc::no_such_file_or_directory) fail("cannot list %s: %s", out.c_str(), error.message().c_str());
    std::sort(found.begin(), found.end(), [](auto &a, auto &b) { return a.step != b.step ? a.step > b.step : a.old < b.old; });
    return found;
}

// Removes a directory of ours. It gets a name that no reader looks at first, because two files cannot be deleted
// at once. False, with everything as it was, if it is a link or holds anything else.
inline bool remove_checkpoint(const std::string &out, const std::string &name) {
    std::string path = out + "/" + name, doomed = name[0] == '.' ? path : out + "/.tmp_" + name;
    std::error_code error;
    if (!std::filesystem::is_directory(std::filesystem::symlink_status(path, error))) return false;
    std::vector<std::string> ours;
    for (const char *file : checkpoint_files) ours.push_back(file), ours.push_back(file + std::string(".tmp"));  // as OutputFile calls a file that it did not finish
    for (std::filesystem::directory_iterator i(path, error), end; !error && i != end; i.increment(error))
        if (std::find(ours.begin(), ours.end(), i->path().filename().string()) == ours.end()) return false;
    if (error || (path != doomed && rename(path.c_str(), doomed.c_str()))) return false;
    for (const std::string &file : ours) unlink((doomed + "/" + file).c_str());
    return rmdir(doomed.c_str()) == 0;
}

// After a save: only the newest `keep` whole checkpoints up to `step` stay, and with them any damaged one among them.
// Later steps are another run's, or this one's before it went back: they stay.
inline void prune_checkpoints(const std::string &out, int64_t step, int64_t keep) {
    int64_t kept = 0, replaced = -1;
    for (const CheckpointDir &c : list_checkpoints(out)) {
        if (c.step > step) continue;
        bool surplus = kept >= keep || (c.old && c.step == replaced);
        if (surplus && !remove_checkpoint(out, c.name()))
            fprintf(stderr, "warning: cannot remove the old checkpoint %s/%s\n", out.c_str(), c.name().c_str());
        if (surplus) continue;
        try {  // whole: both files have the size that their headers say
            for (const char *file : checkpoint_files) TensorFile(out + "/" + c.name() + "/" + file);
            kept++, replaced = c.step;
        } catch (const Error &) {}  // neither counted nor removed; latest_checkpoint() will name it
    }
}

// Saves step `step` in directory `out`, which is made if need be, and then keeps only the newest `keep` (0: all).
inline void save_checkpoint(const std::string &out, int64_t step,
                            const std::vector<TensorView> &model, const std::map<std::string, std::string> &model_metadata,
                            const std::vector<TensorView> &state, const std::map<std::string, std::string> &state_metadata, int64_t keep) {
    CheckpointDir now = {step, false}, old = {step, true};
    std::string final = out + "/" + now.name(), temporary = out + "/.tmp_" + now.name(), replaced = out + "/" + old.name();
    make_directory_of(final);
    for (const CheckpointDir &c : list_checkpoints(out, ".tmp_step_")) remove_checkpoint(out, ".tmp_" + c.name());
    if (mkdir(temporary.c_str(), 0777)) fail("cannot write the checkpoint %s: %s: %s", final.c_str(), temporary.c_str(), strerror(errno));
    try {
        for (int i = 0; i < 2; i++)
            write_safetensors(temporary + "/" + checkpoint_files[i], i ? state_metadata : model_metadata, i ? state : model);
        if (!access(final.c_str(), F_OK)) {  // saved before: step aside
            if (!access(replaced.c_str(), F_OK)) remove_checkpoint(out, old.name());
            if (rename(final.c_str(), replaced.c_str())) fail("cannot replace the checkpoint %s: %s; move %s away", final.c_str(), strerror(errno), replaced.c_str());
        }
        if (rename(temporary.c_str(), final.c_str())) fail("cannot write the checkpoint %s: %s", final.c_str(), strerror(errno));
    } catch (...) {
        remove_checkpoint(out, ".tmp_" + now.name());
        throw;
    }
    sync_directory(out);
    prune_checkpoints(out, step, keep > 0 ? keep : INT64_MAX);
}

// The newest checkpoint in `out` that is undamaged to the last bit, "" if there is none. Damaged ones are named on stderr.
inline std::string latest_checkpoint(const std::string &out) {
    for (const CheckpointDir &c : list_checkpoints(out)) {
        std::string path = out + "/" + c.name();
        try {
            for (const char *file : checkpoint_files) {
                TensorFile f(path + "/" + file);
                if (!f.verify()) fail("%s has no checksum", f.path.c_str());
            }
            return path;
        } catch (const Error &e) {
            fprintf(stderr, "warning: the checkpoint %s is passed over: %s\n", path.c_str(), e.what());
        }
    }
    return "";
}

// The weights that a path names: a file, a checkpoint folder (step_X) or a run folder (its newest checkpoint)
inline std::string weights_file(const std::string &path) {
    struct stat st;
    if (stat(path.c_str(), &st) || !S_ISDIR(st.st_mode)) return path;
    if (!stat((path + "/model.safetensors").c_str(), &st)) return path + "/model.safetensors";
    std::string last = latest_checkpoint(path);
    if (last.empty()) fail("the folder %s holds no checkpoint; name a weight file, or the --out folder of a run", path.c_str());
    return last + "/model.safetensors";
}
