/* tests/scratch.h: what tests of files need: a folder that goes away, damage at random, little memory, a full disk. */
#pragma once
#include "../rwkv/check.h"
#include "test.h"
#include <csignal>
#include <filesystem>
#include <fstream>
#include <random>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

struct ScratchDir {  // in memory where there is such a place: fsync is then free
    std::string path;
    ScratchDir() {
        char name[] = "/dev/shm/rwkv_test_XXXXXX", fallback[] = "/tmp/rwkv_test_XXXXXX";
        const char *made = mkdtemp(name);
        if (!made) made = mkdtemp(fallback);
        if (!made) throw TestSkip{"no place for temporary files"};
        path = made;
    }
    ~ScratchDir() { std::error_code e; std::filesystem::remove_all(path, e); }
    std::string operator/(const std::string &name) const { return path + "/" + name; }
};
inline std::string file_bytes(const std::string &path) {
    std::ifstream f(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(f), {});
}
inline void put_file(const std::string &path, const std::string &bytes) { std::ofstream(path, std::ios::binary) << bytes; }
inline bool file_exists(const std::string &path) { return access(path.c_str(), F_OK) == 0; }
template<class T> std::string le(T v, int bytes = sizeof(T)) { return std::string((const char *)&v, bytes); }
inline void mutate(std::string &s, std::mt19937_64 &random) {
    static const uint64_t lengths[] = {0, 1, 2, 8, 0x7f, 0x80, 0xff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 1ull << 62, INT64_MAX, 1ull << 63, ~0ull};
    for (int n = random() % 2 ? 1 : 1 + random() % 4; n && !s.empty(); n--) {
        size_t at = random() % s.size(), other = random() % s.size(), count = std::min<size_t>(1 + random() % 16, s.size() - std::max(at, other));
        switch (random() % 8) {
            case 0: case 1: s[at] ^= 1 << random() % 8; break;
            case 2: s[at] = (char)random(); break;
            case 3: s.resize(at); break;
            case 4: s.insert(at, s.substr(other, count)); break;
            case 5: s.erase(at, count); break;
            case 6: s.replace(at, count, s.substr(other, count)); break;
            case 7: {  // a length, an offset or a digit
                if (s[at] >= '0' && s[at] <= '9') { s.replace(at, 1, std::to_string((long long)lengths[random() % 16])); break; }
                std::string v = le(lengths[random() % 16], 1 << random() % 4);
                s.replace(at, v.size(), v);
            }
        }
    }
}
struct MemoryLimit {  // address space: no more than 256 MiB above what is mapped now; sanitizers need more, and have limits of their own
    rlimit before;
    MemoryLimit() {
        getrlimit(RLIMIT_AS, &before);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        rlimit r = before;
        long pages = 0;
        std::ifstream("/proc/self/statm") >> pages;
        r.rlim_cur = pages * sysconf(_SC_PAGESIZE) + (256 << 20);
        if (pages) setrlimit(RLIMIT_AS, &r);
#endif
    }
    ~MemoryLimit() { setrlimit(RLIMIT_AS, &before); }
};
// Runs body in a child in which files cannot grow beyond n bytes: like a full disk. The child's exit code, 0 if body was true.
template<class Body> int with_file_limit(size_t n, Body body) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGXFSZ, SIG_IGN);
        rlimit r = {n, n};
        setrlimit(RLIMIT_FSIZE, &r);
        bool ok = false;
        try { ok = body(); } catch (const std::exception &e) { fprintf(stderr, "%s\n", e.what()); }
        _exit(ok ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    return status;
}
template<class Body> bool says(const char *words, Body body) {
    try { body(); } catch (const Error &e) { return strstr(e.what(), words); }
    return false;
}
