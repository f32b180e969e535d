/* dev/cpu/runtime.h: the CUDA runtime API as far as it is used here. One device; work is done when a call returns. */
#pragma once

enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8, cudaFuncAttributePreferredSharedMemoryCarveout = 9 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed };
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin, sharedMemPerMultiprocessor;
    int regsPerBlock, warpSize, maxThreadsPerBlock, major, minor, multiProcessorCount, l2CacheSize, maxThreadsPerMultiProcessor;
};
struct cuda_cpu_event { double t; cuda_cpu_graph *capture; };
typedef cuda_cpu_event *cudaEvent_t;
typedef cuda_cpu_graph *cudaGraph_t, *cudaGraphExec_t;
// A call that CUDA does not allow while a stream is captured
#define CUDA_CPU_NOT_IN_CAPTURE() do { if (cuda_cpu::capturing) return cuda_cpu::last_error = cudaErrorStreamCaptureUnsupported; } while (0)

inline const char *cudaGetErrorName(cudaError_t e) {
#define CUDA_CPU_NAME(x) if (e == x) return #x
    CUDA_CPU_NAME(cudaSuccess); CUDA_CPU_NAME(cudaErrorInvalidValue); CUDA_CPU_NAME(cudaErrorMemoryAllocation); CUDA_CPU_NAME(cudaErrorIllegalState);
    CUDA_CPU_NAME(cudaErrorInvalidConfiguration); CUDA_CPU_NAME(cudaErrorStreamCaptureUnsupported);
    CUDA_CPU_NAME(cudaErrorStreamCaptureImplicit);
    return "unknown CUDA error";
}
inline const char *cudaGetErrorString(cudaError_t e) { return cudaGetErrorName(e); }
inline cudaError_t cudaGetLastError() { cudaError_t e = cuda_cpu::last_error; return cuda_cpu::last_error = cudaSuccess, e; }

// ------------------------------------------------------------------------------------------------
// device

inline cudaError_t cudaGetDeviceCount(int *n) { return *n = 1, cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { CUDA_CPU_NOT_IN_CAPTURE(); return cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int) {
    *p = {};
    char model[200] = "CPU", line[256];
    if (FILE *f = fopen("/proc/cpuinfo", "r")) {
        while (fgets(line, sizeof line, f) && sscanf(line, "model name : %199[^\n]", model) != 1) {}
        fclose(f);
    }
    snprintf(p->name, sizeof p->name, "%s, %d threads", model, cuda_cpu::threads());
    p->totalGlobalMem = (size_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    p->sharedMemPerBlock = 48 << 10, p->sharedMemPerBlockOptin = cuda_cpu::SMEM, p->sharedMemPerMultiprocessor = cuda_cpu::SMEM + 1024;
    p->regsPerBlock = 65536, p->warpSize = 32, p->maxThreadsPerBlock = 1024, p->major = 9, p->minor = 0;
    p->multiProcessorCount = cuda_cpu::opt.sms, p->l2CacheSize = 1 << 20, p->maxThreadsPerMultiProcessor = 2048;
    return cudaSuccess;
}
template<class K> inline cudaError_t cudaFuncSetAttribute(K *, cudaFuncAttribute a, int v) {
    if (a != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (v < 0 || (size_t)v > cuda_cpu::SMEM) return cuda_cpu::last_error = cudaErrorInvalidValue;
    if (v > cuda_cpu::max_smem) cuda_cpu::max_smem = v;
    return cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    return *total = (size_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE), *free = cuda_cpu::available_memory(), cudaSuccess;
}

// ------------------------------------------------------------------------------------------------
// memory

template<class T> inline cudaError_t cudaMalloc(T **p, size_t n) { CUDA_CPU_NOT_IN_CAPTURE(); return cuda_cpu::alloc((void **)p, n, false); }
template<class T> inline cudaError_t cudaMallocHost(T **p, size_t n, unsigned = 0) { CUDA_CPU_NOT_IN_CAPTURE(); return cuda_cpu::alloc((void **)p, n, true); }
inline cudaError_t cudaFree(void *p) { CUDA_CPU_NOT_IN_CAPTURE(); return cuda_cpu::release(p); }
inline cudaError_t cudaFreeHost(void *p) { CUDA_CPU_NOT_IN_CAPTURE(); return cuda_cpu::release(p); }

namespace cuda_cpu {
inline void check_side(const char *what, const void *p, size_t n, bool device) {  // CHECK: is p where the call says?
    Alloc *a = find(p);
    if (device ? device_range(p, n) : !a || a->host) return;
    if (!device) fatal("%s: the host pointer %p is device memory", what, p);
    fatal("%s: %zu bytes at %p are not in one piece of device memory", what, n, p);
}
template<class F> inline void in_pieces(size_t n, F f) {  // f(offset, bytes), large ranges on all threads
    const size_t piece = 1 << 20;
    if (n <= 4 * piece) f(0, n);
    else parallel_for((long)((n + piece - 1) / piece), [&](long i) { f(i * piece, n - i * piece < piece ? n - i * piece : piece); });
}
}
inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind kind, cudaStream_t stream = nullptr) {
    if (cuda_cpu::opt.check && n && kind != cudaMemcpyDefault) {
        cuda_cpu::check_side("cudaMemcpy", to, n, kind & 1);
        cuda_cpu::check_side("cudaMemcpy", from, n, kind & 2);
    }
    return cuda_cpu::enqueue("cudaMemcpy", stream, [=] { cuda_cpu::in_pieces(n, [=](size_t i, size_t m) { memcpy((char *)to + i, (const char *)from + i, m); }); });
}
inline cudaError_t cudaMemcpy(void *to, const void *from, size_t n, cudaMemcpyKind kind) { CUDA_CPU_NOT_IN_CAPTURE(); return cudaMemcpyAsync(to, from, n, kind); }
inline cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, cudaMemcpyKind, cudaStream_t stream = nullptr) {
    return cuda_cpu::enqueue("cudaMemcpy", stream, [=] { for (size_t i = 0; i < height; i++) memcpy((char *)to + i * to_pitch, (const char *)from + i * from_pitch, width); });
}
inline cudaError_t cudaMemsetAsync(void *p, int v, size_t n, cudaStream_t stream = nullptr) {
    if (cuda_cpu::opt.check && n) cuda_cpu::check_side("cudaMemset", p, n, true);
    return cuda_cpu::enqueue("cudaMemset", stream, [=] { cuda_cpu::in_pieces(n, [=](size_t i, size_t m) { memset((char *)p + i, v, m); }); });
}
inline cudaError_t cudaMemset(void *p, int v, size_t n) { CUDA_CPU_NOT_IN_CAPTURE(); return cudaMemsetAsync(p, v, n); }
template<class T> inline cudaError_t cudaMemcpyToSymbol(T &symbol, const void *from, size_t n, size_t offset = 0, cudaMemcpyKind = cudaMemcpyHostToDevice) {
    return cuda_cpu::enqueue("cudaMemcpy", nullptr, [&symbol, from, n, offset] { memcpy((char *)&symbol + offset, from, n); });
}

// ------------------------------------------------------------------------------------------------
// streams, events, graphs

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) { return *s = new cuda_cpu_stream{}, cudaSuccess; }
inline cudaError_t cudaStreamCreate(cudaStream_t *s) { return cudaStreamCreateWithFlags(s, 0); }
inline cudaError_t cudaStreamDestroy(cudaStream_t s) { return delete s, cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { CUDA_CPU_NOT_IN_CAPTURE(); return cudaSuccess; }
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) { return *e = new cuda_cpu_event{}, cudaSuccess; }
inline cudaError_t cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, 0); }
inline cudaError_t cudaEventDestroy(cudaEvent_t e) { return delete e, cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s = nullptr) { return e->t = cuda_cpu::now(), e->capture = s ? s->capture : nullptr, cudaSuccess; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { CUDA_CPU_NOT_IN_CAPTURE(); return cudaSuccess; }
inline cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) { return *ms = (float)((b->t - a->t) * 1e3), cudaSuccess; }
inline cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned = 0) {  // joins the capture of the event's stream
    if (cuda_cpu::capturing && s && e->capture == cuda_cpu::capturing) s->capture = e->capture;
    return cudaSuccess;
}

inline cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
    if (!s || cuda_cpu::capturing) return cuda_cpu::last_error = cudaErrorIllegalState;
    return s->capture = cuda_cpu::capturing = new cuda_cpu_graph, cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g) {
    if (!s || !cuda_cpu::capturing || s->capture != cuda_cpu::capturing) return cuda_cpu::last_error = cudaErrorIllegalState;
    return *g = cuda_cpu::capturing, cuda_cpu::capturing = nullptr, cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long = 0) { return g->owners++, *e = g, cudaSuccess; }
inline cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long) { return cudaGraphInstantiate(e, g); }
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t) { CUDA_CPU_NOT_IN_CAPTURE(); return e->run(), cudaSuccess; }
inline cudaError_t cudaGraphDestroy(cudaGraph_t g) { return g->drop(), cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e) { return e->drop(), cudaSuccess; }
