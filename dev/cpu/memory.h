/* dev/cpu/memory.h: device memory, and what CUDA_CPU_CHECK and CUDA_CPU_RACE do with it.

   CHECK: an allocation ends at a page that nobody may touch (CHECK=2: begins behind one), another such page is on its
   other side, and the bytes left over between it and the allocation must be unchanged after each kernel. Fresh memory
   is NaN. While no kernel or copy runs, device memory is closed to the host. Freed memory stays closed for ever. A fault
   becomes a sentence.
   With AddressSanitizer the memory is plain malloc and the sanitizer does the same.
   defines: alloc, release, known, device_range, Open, poison_shared, RaceCheck */
#pragma once
#include <link.h>
#include <signal.h>
#include <ucontext.h>
#include <vector>

enum cudaError_t {
    cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2, cudaErrorInvalidConfiguration = 9, cudaErrorIllegalState = 401,
    cudaErrorLaunchOutOfResources = 701, cudaErrorStreamCaptureUnsupported = 900, cudaErrorStreamCaptureImplicit = 906
};

namespace cuda_cpu {

constexpr unsigned char SLACK = 0xC5;
inline size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

struct Alloc {
    char *p;
    size_t size;
    bool host, freed;
    char *base;     // CHECK: the mapping [guard][slack, memory, slack][guard]
    size_t mapped;  // of it, guards included
};
inline std::vector<Alloc> allocs;
inline cudaError_t last_error;
inline bool in_kernel;            // or in a copy: device memory is open

// The allocation that p points into or just behind; a freed one only if nothing else is there.
inline Alloc *find(const void *p) {
    Alloc *freed = nullptr;
    for (Alloc &a : allocs)
        if ((char *)p >= a.p && (char *)p <= a.p + a.size) {
            if (!a.freed) return &a;
            freed = &a;
        }
    return freed;
}
inline bool known(const void *p) {  // or pinned host memory, which kernels may use too
    Alloc *a = find(p);
    return a && !a->freed;
}
inline bool device_range(const void *p, size_t n) {
    Alloc *a = find(p);
    return a && !a->freed && (char *)p + n <= a->p + a->size;
}

// ------------------------------------------------------------------------------------------------
// faults

inline void on_fault(int, siginfo_t *info, void *) {
    char *at = (char *)info->si_addr, where[200] = "", what[200] = "";
    Block *b = front || in_kernel ? block : nullptr;
    if (b && b->alive)
        snprintf(where, sizeof where, "kernel %s, block (%d,%d,%d), thread (%d,%d,%d)", b->k.name, blockIdx.x, blockIdx.y, blockIdx.z,
                 threadIdx.x, threadIdx.y, threadIdx.z);
    else snprintf(where, sizeof where, "%s", in_kernel ? "a copy or library call" : "host code");
    if (info->si_code == SI_KERNEL)  // x86 does not tell the address
        fatal("%s: misaligned vector access, or a wild pointer", where);
    if (b && at >= b->stacks && at < b->stacks + MAX_THREADS * STACK) fatal("%s: stack overflow: more than %zu bytes of local variables", where, STACK);
    if (b && at >= b->smem_end && at < b->smem_end + PAGE)
        fatal("%s: access to dynamic shared memory %zd bytes after its beginning, the launch asked for %zu bytes", where, at - b->smem, b->k.smem);
    for (int freed = 0; freed < 2 && !*what; freed++)
        for (Alloc &a : allocs) {
            if (!a.base || a.freed != freed || at < a.base || at >= a.base + a.mapped) continue;
            const char *state = a.freed ? "freed allocation" : "allocation";
            if (at < a.p) snprintf(what, sizeof what, "%zd bytes before the %s of %zu bytes at %p", a.p - at, state, a.size, (void *)a.p);
            else if (at >= a.p + a.size) snprintf(what, sizeof what, "%zd bytes after the end of the %s of %zu bytes at %p", at - a.p - a.size, state, a.size, (void *)a.p);
            else snprintf(what, sizeof what, "byte %zd of the %s of %zu bytes at %p", at - a.p, a.freed ? state : "device allocation", a.size, (void *)a.p);
        }
    fatal("%s: access to address %p: %s", where, (void *)at, *what ? what : "no device memory");
}
// Called on every OS thread that runs blocks: a fault on a full stack needs another one.
inline void catch_faults() {
    if (!opt.check || CUDA_CPU_ASAN) return;
    stack_t s{};
    s.ss_sp = malloc(s.ss_size = 64 << 10);
    sigaltstack(&s, nullptr);
    struct sigaction a{};
    a.sa_sigaction = on_fault, a.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &a, nullptr);
    sigaction(SIGBUS, &a, nullptr);
}

// ------------------------------------------------------------------------------------------------
// allocation

inline void set_access(const Alloc &a, bool open) {
    if (CUDA_CPU_ASAN) { if (open) ASAN_UNPOISON_MEMORY_REGION(a.p, a.size); else ASAN_POISON_MEMORY_REGION(a.p, a.size); }
    else mprotect(a.base + PAGE, a.mapped - 2 * PAGE, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}
// Device memory is open as long as one of these lives.
struct Open {
    bool outer = !in_kernel;
    Open() { if (outer) set(true); }
    ~Open() { if (outer) set(false); }
    static void set(bool open) {
        in_kernel = open;
        if (opt.check) for (const Alloc &a : allocs) if (!a.host && !a.freed) set_access(a, open);
    }
};

// Bytes the machine (or its container) can still give.
inline size_t available_memory() {
    size_t n = (size_t)sysconf(_SC_AVPHYS_PAGES) * sysconf(_SC_PAGESIZE), kb, limit, used;
    if (FILE *f = fopen("/proc/meminfo", "r")) {
        if (fscanf(f, "MemTotal: %*u kB MemFree: %*u kB MemAvailable: %zu", &kb) == 1) n = kb << 10;
        fclose(f);
    }
    FILE *max = fopen("/sys/fs/cgroup/memory.max", "r"), *now = fopen("/sys/fs/cgroup/memory.current", "r");
    if (max && now && fscanf(max, "%zu", &limit) == 1 && fscanf(now, "%zu", &used) == 1 && limit > used && limit - used < n) n = limit - used;
    if (max) fclose(max);
    if (now) fclose(now);
    return n;
}

inline cudaError_t alloc(void **p, size_t size, bool host) {
    *p = nullptr;
    if (!size) return cudaSuccess;
    if (size > 64 << 20 && size > available_memory()) return last_error = cudaErrorMemoryAllocation;  // Linux would promise anything
    Alloc a{nullptr, size, host, false, nullptr, 0};
    if (opt.check && !CUDA_CPU_ASAN) {
        size_t room = round_up(size, PAGE);
        a.mapped = room + 2 * PAGE, a.base = (char *)map_memory(a.mapped);
        if (!a.base) return last_error = cudaErrorMemoryAllocation;
        mprotect(a.base, PAGE, PROT_NONE), mprotect(a.base + PAGE + room, PAGE, PROT_NONE);
        a.p = opt.check > 1 ? a.base + PAGE : a.base + PAGE + room - round_up(size, 16);
        memset(a.base + PAGE, SLACK, room);
        static bool first = (catch_faults(), true);
        (void)first;
    } else {
        bool huge = size >= 4 << 20;  // large pages: far fewer TLB misses in big matrices
        if (posix_memalign((void **)&a.p, huge ? 2 << 20 : 256, size)) return last_error = cudaErrorMemoryAllocation;
        if (huge) madvise(a.p, size, MADV_HUGEPAGE);
    }
    if (opt.check) memset(a.p, 0xff, size);  // NaN in every float type, -1 as an integer
    if (opt.check && !in_kernel && !host) set_access(a, false);
    allocs.push_back(a);
    *p = a.p;
    return cudaSuccess;
}
inline cudaError_t release(void *p) {
    if (!p) return cudaSuccess;
    for (Alloc &a : allocs) {
        if (a.p != p || a.freed) continue;
        if (a.base) {
            set_access(a, false), madvise(a.base, a.mapped, MADV_DONTNEED);
            a.freed = true;
        } else {
            ASAN_UNPOISON_MEMORY_REGION(a.p, a.size);
            free(p);
            a = allocs.back(), allocs.pop_back();
        }
        return cudaSuccess;
    }
    if (opt.check) fatal("cudaFree of %p, which is %s", p, find(p) ? "freed already" : "not an allocation");
    return last_error = cudaErrorInvalidValue;
}
inline void check_slack(const char *kernel) {  // after a kernel: did it write next to an allocation?
    for (const Alloc &a : allocs) {
        if (!a.base || a.freed) continue;
        char *begin = a.base + PAGE, *end = a.base + a.mapped - PAGE;
        for (char *q = begin; q < end; q++) {
            if (q == a.p) q += a.size;
            if (q == end) break;
            if ((unsigned char)*q != SLACK)
                fatal("kernel %s wrote %zd bytes %s the allocation of %zu bytes at %p", kernel, q < a.p ? a.p - q : q - a.p - a.size,
                      q < a.p ? "before" : "after the end of", a.size, (void *)a.p);
        }
    }
}

// ------------------------------------------------------------------------------------------------
// static shared memory

// __shared__ variables are thread locals of the program. poison_shared() fills all of these with NaN before each block;
// threadIdx and its like are among them and are set again after it. So that the compiler does not take them for unchanged
// across the call, it may not look into these functions.
#ifdef __clang__
#define CUDA_CPU_OPAQUE __attribute__((noinline, optnone))
#else
#define CUDA_CPU_OPAQUE __attribute__((noipa))
#endif
struct ThreadLocals { char *p; size_t size; };
CUDA_CPU_OPAQUE inline ThreadLocals program_thread_locals() {
    ThreadLocals t{nullptr, 0};
    if (!CUDA_CPU_ASAN)
        dl_iterate_phdr([](dl_phdr_info *info, size_t, void *out) {
            bool dynamic = false;  // in a static program libc's variables are among them: leave them alone
            for (int i = 0; i < info->dlpi_phnum; i++) dynamic |= info->dlpi_phdr[i].p_type == PT_INTERP;
            for (int i = 0; i < info->dlpi_phnum && dynamic; i++) {
                auto &h = info->dlpi_phdr[i];
                if (h.p_type == PT_TLS) *(ThreadLocals *)out = {(char *)info->dlpi_tls_data + h.p_filesz, h.p_memsz - h.p_filesz};  // .tbss
            }
            return 1;  // the first one is the program
        }, &t);
    return t;
}
CUDA_CPU_OPAQUE inline void poison_shared(Block &b, ThreadLocals t) {
    if (t.p) memset(t.p, 0xff, t.size);
    if (b.smem) memset(b.smem, 0xff, b.k.smem);
    block = &b;
}

// ------------------------------------------------------------------------------------------------
// the race check: two runs of a kernel from the same device memory must leave the same bits

struct RaceCheck {
    static inline std::vector<char> before, first;  // kept: their pages would cost more than the copies
    static void copy(std::vector<char> &all) {
        all.clear();
        for (const Alloc &a : allocs) if (!a.host && !a.freed) all.insert(all.end(), a.p, a.p + a.size);
    }
    RaceCheck() { copy(before), float_atomics = false; }
    void rewind() {
        copy(first);
        size_t at = 0;
        for (const Alloc &a : allocs) if (!a.host && !a.freed) memcpy(a.p, &before[at], a.size), at += a.size;
    }
    void compare(const char *kernel) {
        size_t at = 0;
        for (const Alloc &a : allocs) {
            if (a.host || a.freed) continue;
            if (!memcmp(a.p, &first[at], a.size)) { at += a.size; continue; }
            for (size_t i = 0; i < a.size; i++) {
                if (a.p[i] == first[at + i]) continue;
                float x = 0, y = 0;
                i &= ~(size_t)3;
                if (i + 4 <= a.size) memcpy(&x, &first[at + i], 4), memcpy(&y, a.p + i, 4);
                fatal("race in kernel %s: byte %zu of the allocation of %zu bytes at %p depends on the order of the threads (as float: %.9g or %.9g)%s",
                      kernel, i, a.size, (void *)a.p, x, y, float_atomics ? "; it adds floats atomically" : "");
            }
        }
    }
};

}  // namespace cuda_cpu
