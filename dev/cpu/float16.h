/* dev/cpu/float16.h: bf16 and fp16 as storage; arithmetic is done in float and rounded to nearest even.
   defines: __nv_bfloat16, __nv_bfloat162, __half, __half2, their conversions and atomicAdd of pairs */
#pragma once

namespace cuda_cpu {

struct Bf16 {  // the upper half of a float
    static float load(unsigned short x) { return bits<float>((unsigned)x << 16); }
    static unsigned short store(float f) {
        unsigned u = bits<unsigned>(f), rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
        return (u & 0x7fffffff) > 0x7f800000 ? 0x7fff : rounded;
    }
};
struct Half {  // 1 sign, 5 exponent, 10 fraction bits
    static float load(unsigned short h) {
        unsigned u = (h & 0x7fffu) << 13;
        float f = bits<float>(u) * 0x1p112f;  // moves the exponent's bias; right for denormals too
        if (u >= 0x7c00u << 13) f = bits<float>(u | 0x7f800000);
        return bits<float>(bits<unsigned>(f) | (h & 0x8000u) << 16);
    }
    static unsigned short store(float f) {
        unsigned u = bits<unsigned>(f), sign = u >> 16 & 0x8000;
        u &= 0x7fffffff;
        unsigned normal = (u + 0xc8000fff + (u >> 13 & 1)) >> 13;
        unsigned denormal = bits<unsigned>(bits<float>(u) + 0.5f) - 0x3f000000;  // 0.5: its last bit is fp16's last denormal bit
        unsigned h = u < 0x38800000 ? denormal : u < 0x477ff000 ? normal : u <= 0x7f800000 ? 0x7c00 : 0x7fff;
        return sign | h;
    }
};

struct Raw16 { unsigned short x; };
template<class Format> struct Float16 {
    unsigned short x;
    Float16() = default;
    Float16(Raw16 r) : x(r.x) {}
    Float16(float f) : x(Format::store(f)) {}
    Float16(double f) : Float16((float)f) {}
    Float16(int f) : Float16((float)f) {}
    Float16(unsigned f) : Float16((float)f) {}
    operator float() const { return Format::load(x); }
    friend Float16 operator-(Float16 a) { return -(float)a; }
#define CUDA_CPU_OPERATOR(op)                                                                        \
    friend Float16 operator op(Float16 a, Float16 b) { return (float)a op (float)b; }                \
    friend Float16 &operator op##=(Float16 &a, Float16 b) { return a = a op b; }
    CUDA_CPU_OPERATOR(+) CUDA_CPU_OPERATOR(-) CUDA_CPU_OPERATOR(*) CUDA_CPU_OPERATOR(/)
#undef CUDA_CPU_OPERATOR
#define CUDA_CPU_OPERATOR(op) friend bool operator op(Float16 a, Float16 b) { return (float)a op (float)b; }
    CUDA_CPU_OPERATOR(<) CUDA_CPU_OPERATOR(>) CUDA_CPU_OPERATOR(<=) CUDA_CPU_OPERATOR(>=) CUDA_CPU_OPERATOR(==) CUDA_CPU_OPERATOR(!=)
#undef CUDA_CPU_OPERATOR
};
template<class Format> struct __attribute__((may_alias, aligned(4))) Pair16 {
    Float16<Format> x, y;
    friend Pair16 operator+(Pair16 a, Pair16 b) { return {a.x + b.x, a.y + b.y}; }
    friend Pair16 operator*(Pair16 a, Pair16 b) { return {a.x * b.x, a.y * b.y}; }
};

}  // namespace cuda_cpu

typedef cuda_cpu::Float16<cuda_cpu::Bf16> __nv_bfloat16, nv_bfloat16;
typedef cuda_cpu::Float16<cuda_cpu::Half> __half, half;
typedef cuda_cpu::Pair16<cuda_cpu::Bf16> __nv_bfloat162, nv_bfloat162;
typedef cuda_cpu::Pair16<cuda_cpu::Half> __half2, half2;

inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat16 __float2bfloat16(float x) { return x; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return cuda_cpu::Raw16{x}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {v.x, v.y}; }
inline float __half2float(__half x) { return x; }
inline __half __float2half(float x) { return x; }
inline __half __ushort_as_half(unsigned short x) { return cuda_cpu::Raw16{x}; }
inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
inline float2 __half22float2(__half2 v) { return {v.x, v.y}; }
template<class F> inline cuda_cpu::Pair16<F> atomicAdd(cuda_cpu::Pair16<F> *p, cuda_cpu::Pair16<F> v) {
    return cuda_cpu::atomic(p, [=](cuda_cpu::Pair16<F> old) { return old + v; });
}
