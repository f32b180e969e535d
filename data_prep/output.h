/* data_prep/output.h: the files of a data set NAME, which appear together and complete, or not at all. Host only.

     NAME.tok    NAME_train.bin    NAME_val.bin        binidx: .idx beside each .bin; many shards: NAME_train_000000.bin, ...

   They are written in the folder NAME.tmp, and moved to their places when all are complete; what was there before stays
   until then. The folder is locked while a program writes in it. What a killed one has left there the next one removes.
   Nothing is replaced that cannot be made again, or that would be taken for what it is not: see keeps_what_is_needed().
   defines: Output */
#pragma once
#include "../rwkv/tokenizer.h"
#include <filesystem>
#include <set>

class Output {
    const std::string out, folder, name;  // out = folder + name
    const std::string work = out + ".tmp";
    DirectoryLock lock;

    template<class Take> static void files_in(const std::string &where, Take take) {
        std::error_code error;
        for (std::filesystem::directory_iterator i(where.empty() ? "." : where, error), end; !error && i != end; i.increment(error))
            take(i->path().filename().string());
    }
    // The token files in a folder, of whatever format and number: what stands behind NAME in their names. part: _train or _val
    std::set<std::string> token_files(const std::string &where, const std::string &part) const {
        std::set<std::string> found;
        files_in(where, [&](const std::string &file) {
            if (file.compare(0, name.size() + part.size(), name + part)) return;
            std::string end = file.substr(name.size() + part.size());
            bool numbered = end.size() == 11 && end[0] == '_' && end.find_first_not_of("0123456789", 1) == 7 && end.substr(7) == ".bin";
            if (end == ".bin" || end == ".idx" || numbered) found.insert(part + end);
        });
        return found;
    }
    void move(const std::string &end) const {
        if (rename(written(end).c_str(), (out + end).c_str())) fail("cannot write %s%s: %s", out.c_str(), end.c_str(), strerror(errno));
    }
    void clear() const {  // only files of ours: a folder of this name may be the user's
        std::set<std::string> ours;
        files_in(work, [&](const std::string &file) { if (!file.compare(0, name.size(), name)) ours.insert(file); });
        for (auto &file : ours) unlink((work + "/" + file).c_str());
    }

public:
    explicit Output(const std::string &out) : out(out), folder(out.substr(0, out.rfind('/') + 1)), name(out.substr(folder.size())) {
        make_directory_of(out);
        if (mkdir(work.c_str(), 0777) && errno != EEXIST) fail("cannot write %s: %s", work.c_str(), strerror(errno));
        if (!lock.take(work)) fail("another ./prepare is writing %s: wait until it has ended, or name another --out", out.c_str());
        clear();
    }
    Output(const Output &) = delete;
    ~Output() {
        clear();
        rmdir(work.c_str());
    }
    // Where the file NAME + end is to be written to.
    std::string written(const std::string &end) const { return work + "/" + name + end; }

    // The vocabulary of models that were trained with it; a text that is read (`inputs`); and, where no validation text
    // is made, one that belongs to another training text.
    void keeps_what_is_needed(const Tokenizer &tokenizer, const std::vector<std::string> &inputs, bool validates) const {
        std::string tok = out + ".tok", old_val;
        if (!access(tok.c_str(), F_OK) && MappedFile(tok).text() != tokenizer.serialize())
            fail("%s is there and has another vocabulary, which models that were trained with it need: name another --out, or remove it", tok.c_str());
        for (const char *part : {"_train", "_val"})
            for (auto &end : token_files(folder, part)) {
                std::string path = out + end;
                struct stat old, s;
                if (stat(path.c_str(), &old)) continue;
                if (!S_ISREG(old.st_mode)) fail("cannot write %s: something that is not a file has this name", path.c_str());
                for (auto &input : inputs)
                    if (!stat(input.c_str(), &s) && same_file(s, old))
                        fail("%s is read, and its tokens would replace it, as %s: name another --out", input.c_str(), path.c_str());
                if (!strcmp(part, "_val")) old_val += " " + path;
            }
        if (!validates && !old_val.empty())
            fail("--val 0 makes no validation text, and there is one of an earlier text: name another --out, or remove%s", old_val.c_str());
    }
    // Moves all files to their places; of the parts that are among them nothing older stays, so that a pattern finds one run only.
    void publish() const {
        move(".tok");  // first: models need it, and it is the old one or new
        for (const char *part : {"_train", "_val"}) {
            std::set<std::string> now = token_files(work, part), before = token_files(folder, part);
            for (auto &end : now) move(end);
            for (auto &end : before) if (!now.empty() && !now.count(end)) unlink((out + end).c_str());
        }
        sync_directory(folder);
    }
    // What --train or --val is to be: a file, or a pattern of several.
    std::string published(const std::string &part) const { return out + part + (token_files(folder, part).count(part + ".bin") ? ".bin" : "_*.bin"); }
};
