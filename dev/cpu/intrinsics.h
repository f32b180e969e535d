/* dev/cpu/intrinsics.h: device functions for memory, bits and arithmetic.
   defines: atomicAdd ... atomicCAS, __ldg ... __stcs, min, max, __expf, rsqrtf, __float_as_uint, __popc ... */
#pragma once

namespace cuda_cpu {
inline std::atomic<bool> float_atomics{false};  // for the message of the race check
template<class To, class From> inline To bits(From x) {
    static_assert(sizeof(To) == sizeof x, "");
    To y;
    memcpy((void *)&y, (const void *)&x, sizeof y);
    return y;
}
template<class T, class F> inline T atomic(T *p, F f) {  // *p = f(*p), returns what it was
    if (!std::is_integral<T>::value && opt.race) float_atomics = true;
    T old, v;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    do v = f(old);
    while (!__atomic_compare_exchange(p, &old, &v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
template<class T> struct same { typedef T type; };  // takes a parameter out of deduction: atomicAdd(float *, 1)
}

#define CUDA_CPU_ATOMIC(name, expression)                                               \
    template<class T> inline T name(T *p, typename cuda_cpu::same<T>::type v) {         \
        return cuda_cpu::atomic(p, [=](T o) -> T { return expression; });               \
    }
CUDA_CPU_ATOMIC(atomicAdd, o + v) CUDA_CPU_ATOMIC(atomicSub, o - v) CUDA_CPU_ATOMIC(atomicExch, ((void)o, v))
CUDA_CPU_ATOMIC(atomicMin, o < v ? o : v) CUDA_CPU_ATOMIC(atomicMax, o > v ? o : v)
CUDA_CPU_ATOMIC(atomicAnd, o & v) CUDA_CPU_ATOMIC(atomicOr, o | v) CUDA_CPU_ATOMIC(atomicXor, o ^ v)
CUDA_CPU_ATOMIC(atomicInc, o >= v ? 0 : o + 1)
template<class T> inline T atomicCAS(T *p, typename cuda_cpu::same<T>::type expected, typename cuda_cpu::same<T>::type v) {
    __atomic_compare_exchange(p, &expected, &v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return expected;
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
[[noreturn]] inline void __trap() { cuda_cpu::fatal("kernel %s: __trap()", cuda_cpu::block->k.name); }
inline long long clock64() { return (long long)(cuda_cpu::now() * 1e9); }

// Loads and stores with a cache hint
template<class T> inline T __ldg(const T *p) { return *p; }
template<class T> inline T __ldcg(const T *p) { return *p; }
template<class T> inline T __ldcs(const T *p) { return *p; }
template<class T> inline void __stcg(T *p, typename cuda_cpu::same<T>::type v) { *p = v; }
template<class T> inline void __stcs(T *p, typename cuda_cpu::same<T>::type v) { *p = v; }

#define CUDA_CPU_MINMAX(T) inline T min(T a, T b) { return a < b ? a : b; } inline T max(T a, T b) { return a > b ? a : b; }
CUDA_CPU_MINMAX(int) CUDA_CPU_MINMAX(unsigned) CUDA_CPU_MINMAX(long) CUDA_CPU_MINMAX(unsigned long)
CUDA_CPU_MINMAX(long long) CUDA_CPU_MINMAX(unsigned long long)
inline unsigned min(int a, unsigned b) { return min((unsigned)a, b); }
inline unsigned min(unsigned a, int b) { return min(a, (unsigned)b); }
inline unsigned max(int a, unsigned b) { return max((unsigned)a, b); }
inline unsigned max(unsigned a, int b) { return max(a, (unsigned)b); }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

// e^x without branches, so that loops of it vectorise: a polynomial for e^r, r = x - n ln 2 taken off in two steps
// (ln 2 = 0.693359375 - 2.12194440e-4), times 2^n from exponent bits, in two halves as n may be 128. At most 2 ulp off.
inline float __expf(float x) {
    float y = x < -104.f ? -104.f : x > 89.f ? 89.f : x;
    float m = y * 1.44269504f + 12582912.f, n = m - 12582912.f;  // 1.5 * 2^23: its last bit is 1, so this rounds to an integer
    float r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.f / 5040 * r + 1.f / 720;
    p = p * r + 1.f / 120, p = p * r + 1.f / 24, p = p * r + 1.f / 6, p = p * r + .5f, p = p * r + 1.f, p = p * r + 1.f;
    unsigned k = cuda_cpu::bits<unsigned>(m) - 0x4b400000, half = (int)k >> 1;
    return p * cuda_cpu::bits<float>((half + 127) << 23) * cuda_cpu::bits<float>((k - half + 127) << 23);
}
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }

inline unsigned __float_as_uint(float x) { return cuda_cpu::bits<unsigned>(x); }
inline int __float_as_int(float x) { return cuda_cpu::bits<int>(x); }
inline float __uint_as_float(unsigned x) { return cuda_cpu::bits<float>(x); }
inline float __int_as_float(int x) { return cuda_cpu::bits<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
