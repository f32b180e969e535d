/* rwkv/file.h: whole files in, whole files out. Host only.
   A file that is read is mapped, so that a 10 GB shard costs no memory. A file that is written appears under its
   name complete or not at all: temporary name beside it, fsync, rename; what was there before stays until then.
   defines: MappedFile, OutputFile, make_directory_of, sync_directory, same_file, DirectoryLock */
#pragma once
#include "check.h"
#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <string_view>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct MappedFile {
    std::string path;
    const char *data = nullptr;
    size_t size = 0;

    explicit MappedFile(const std::string &path) : path(path) {
        int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe is refused, not waited for
        if (fd < 0) fail("cannot open %s: %s", path.c_str(), strerror(errno));
        struct stat s;
        int error = fstat(fd, &s) ? errno : !S_ISREG(s.st_mode) ? EINVAL : 0;
        if (!error && s.st_size > 0) {
            void *p = mmap(nullptr, s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
            if (p == MAP_FAILED) error = errno;
            else data = (const char *)p, size = s.st_size;
        }
        close(fd);
        if (error) fail("cannot read %s: %s", path.c_str(), error == EINVAL ? "it is not a plain file" : strerror(error));
    }
    MappedFile(MappedFile &&o) : path(std::move(o.path)), data(o.data), size(o.size) { o.data = nullptr; }
    MappedFile(const MappedFile &) = delete;
    ~MappedFile() { if (data) munmap((void *)data, size); }
    std::string_view text() const { return {data, size}; }
};

// mkdir -p of the directory part of a path.
inline void make_directory_of(const std::string &path) {
    for (size_t slash = path.find('/', 1); slash != path.npos; slash = path.find('/', slash + 1)) {
        std::string directory = path.substr(0, slash);
        struct stat s;
        if (mkdir(directory.c_str(), 0777) && (errno != EEXIST || stat(directory.c_str(), &s) || !S_ISDIR(s.st_mode)))
            fail("cannot create the directory %s: %s", directory.c_str(), errno == EEXIST ? "a file has this name" : strerror(errno));
    }
}

// Makes the renames in a directory ("": here) survive a power cut.
inline void sync_directory(const std::string &path) {
    int directory = open(path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory >= 0) fsync(directory), close(directory);
}
inline bool same_file(const struct stat &a, const struct stat &b) { return a.st_dev == b.st_dev && a.st_ino == b.st_ino; }

// A directory that one process at a time writes to. A file system that knows no locks lets all of them.
class DirectoryLock {
    int fd = -1;

public:
    DirectoryLock() {}
    DirectoryLock(const DirectoryLock &) = delete;
    ~DirectoryLock() { if (fd >= 0) close(fd); }
    bool take(const std::string &path) {  // until this object goes; false: another process has it
        fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0) fail("cannot write in %s: %s", path.c_str(), strerror(errno));
        if (flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) return false;
        struct stat here, locked;  // one that has just ended may have removed it
        return !stat(path.c_str(), &here) && !fstat(fd, &locked) && same_file(here, locked);
    }
};

// Writes to NAME.tmp; commit() gives it the name it was made for, or another. Without commit() it is removed.
// If NAME is a link, the file that it points to is what is replaced.
class OutputFile {
    std::string target, temporary;
    int fd = -1;
    [[noreturn]] void failed(int error) {
        fail("cannot write %s: %s%s", target.c_str(), strerror(error), error == ENOSPC || error == EDQUOT ? "; make room, nothing has been overwritten" : "");
    }
    void write_at(const void *data, size_t n, off_t at) {
        for (const char *p = (const char *)data; n;) {
            ssize_t k = pwrite(fd, p, std::min<size_t>(n, 1 << 30), at);
            if (k < 0 && errno == EINTR) continue;
            if (k <= 0) failed(k ? errno : ENOSPC);
            p += k, n -= k, at += k;
        }
    }
    off_t end = 0;

public:
    explicit OutputFile(const std::string &name) : target(name) {
        struct stat s;
        char linked[PATH_MAX];
        if (!lstat(name.c_str(), &s) && S_ISLNK(s.st_mode) && realpath(name.c_str(), linked)) target = linked;
        temporary = target + ".tmp";
        if (!stat(target.c_str(), &s) && !S_ISREG(s.st_mode)) fail("cannot write %s: something that is not a file has this name", target.c_str());
        fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (fd < 0) failed(errno);
    }
    OutputFile(const OutputFile &) = delete;
    ~OutputFile() { if (fd >= 0) close(fd), unlink(temporary.c_str()); }
    void write(const void *data, size_t n) { write_at(data, n, end), end += n; }
    void rewrite_head(const void *data, size_t n) { write_at(data, n, 0); }
    void commit(const std::string &name) {
        if (fsync(fd) || rename(temporary.c_str(), name.c_str())) failed(errno);
        close(fd);
        fd = -1;
        sync_directory(name.substr(0, name.rfind('/') + 1));
    }
    void commit() { commit(target); }
};
