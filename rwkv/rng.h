/* rwkv/rng.h: random numbers that are a function of three integers, and orthogonal matrices made of them.

   Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011): ten rounds
   of a keyed bijection turn (seed, stream, counter) into 128 random bits. Nothing is carried from draw to draw,
   so a kernel thread can draw number n without drawing the n-1 before it, and a checkpoint stores an Rng as
   three integers. Every call of next(), uniform(), normal() or below() takes one whole counter value.
   Streams of one seed are independent: one for each purpose (init, data order, sampling).
   defines: HD, philox, Rng, orthogonal */
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>
#include "threads.h"

#ifdef __CUDACC__
#define HD __host__ __device__
#else
#define HD
#endif

struct Random128 { uint32_t x[4]; };

HD inline Random128 philox(uint64_t key, uint64_t low, uint64_t high) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = (uint32_t)low, c1 = (uint32_t)(low >> 32), c2 = (uint32_t)high, c3 = (uint32_t)(high >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = 0xD2511F53ull * c0, b = 0xCD9E8D57ull * c2;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c0 = n0, c1 = (uint32_t)b, c2 = n2, c3 = (uint32_t)a;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

struct Rng {
    uint64_t seed = 0, stream = 0, counter = 0;

    HD Random128 block() { return philox(seed, counter++, stream); }
    HD uint32_t next() { return block().x[0]; }
    HD static double unit(uint32_t high, uint32_t low) { return (double)((((uint64_t)high << 32) | low) >> 11) * 0x1p-53; }
    HD double uniform() { Random128 r = block(); return unit(r.x[0], r.x[1]); }               // [0, 1), 53 bits
    HD uint64_t below(uint64_t n) { return (uint64_t)(uniform() * (double)n); }               // 0 .. n-1; bias below n/2^53
    HD double normal() {                                                                      // N(0, 1), Box-Muller
        Random128 r = block();
        double u = 1 - unit(r.x[0], r.x[1]), v = unit(r.x[2], r.x[3]);                        // u in (0, 1]: log is finite
        return sqrt(-2 * log(u)) * cos(6.283185307179586477 * v);
    }
};

// out[j] += sum_r c[r * c_step] * x[r * x_step + j], j < n: the one inner loop of orthogonal(). Eight rows of x at
// a pass, so that out is loaded and stored once for sixteen flops; the loop over j vectorises as it stands.
inline void add_rows(double *out, const double *c, int64_t c_step, const double *x, int64_t x_step, int64_t rows, int64_t n) {
    int64_t r = 0;
    for (; r + 8 <= rows; r += 8, c += 8 * c_step, x += 8 * x_step) {
        const double c0 = c[0], c1 = c[c_step], c2 = c[2 * c_step], c3 = c[3 * c_step];
        const double c4 = c[4 * c_step], c5 = c[5 * c_step], c6 = c[6 * c_step], c7 = c[7 * c_step];
        const double *x1 = x + x_step, *x2 = x1 + x_step, *x3 = x2 + x_step;
        const double *x4 = x3 + x_step, *x5 = x4 + x_step, *x6 = x5 + x_step, *x7 = x6 + x_step;
        double *__restrict o = out;
        for (int64_t j = 0; j < n; j++)
            o[j] += c0 * x[j] + c1 * x1[j] + c2 * x2[j] + c3 * x3[j] + c4 * x4[j] + c5 * x5[j] + c6 * x6[j] + c7 * x7[j];
    }
    for (; r < rows; r++, c += c_step, x += x_step)
        for (int64_t j = 0; j < n; j++) out[j] += c[0] * x[j];
}

// A (m,n), m >= n, becomes Q of A = Q R with diag(R) > 0: A^T A = R^T R (Cholesky), Q = A R^-1. One pass is
// orthogonal to eps cond(A)^2. Gaussian A has diag(R) from about sqrt(m) down to sqrt(m-n), and a ratio of 4
// means m - n = m/16, cond = 62, error 1e-12; nearer to square a second pass repairs the first (error 1e-16 as
// long as cond < 1e7). False if A is singular to working precision. The two products with A, all of the work where A is
// tall (the head), are cut into independent pieces: the bits do not depend on the threads.
inline bool orthonormalise(double *A, int64_t m, int64_t n) {
    for (bool again = true; again;) {
        std::vector<double> R_(n * n, 0.0), X_(n * n, 0.0), minus(n);
        double *R = R_.data(), *X = X_.data(), largest = 0, smallest = 1e300;
        const int64_t strips = (n + 63) / 64;
        const bool small = m * n * n < 1 << 26;                               // 10 ms
        parallel_each(strips * ((n + 255) / 256), [&](int64_t piece) {        // R = A^T A, upper triangle, in blocks of
            int64_t b = piece / strips * 256, from = piece % strips * 64;     // 256 columns (2 KB rows stay in L1) by 64 rows
            for (int64_t r = 0; r < m; r += 64)
                for (int64_t i = from; i < std::min({n, b + 256, from + 64}); i++) {
                    int64_t j = std::max(i, b);
                    add_rows(R + i * n + j, A + r * n + i, n, A + r * n + j, n, std::min<int64_t>(64, m - r), std::min(n, b + 256) - j);
                }
        }, small);
        for (int64_t i = 0; i < n; i++) {                                     // R^T R = A^T A, row after row
            double *row = R + i * n, whole = row[i];
            for (int64_t k = 0; k < i; k++) minus[k] = -R[k * n + i];
            add_rows(row + i, minus.data(), 1, R + i, n, i, n - i);
            if (!(row[i] > 1e-14 * whole)) return false;
            double d = sqrt(row[i]);
            for (int64_t j = i; j < n; j++) row[j] /= d;
            largest = fmax(largest, d), smallest = fmin(smallest, d);
        }
        for (int64_t i = n - 1; i >= 0; i--) {                                // X = R^-1: row i from the rows below it
            double d = R[i * n + i];
            X[i * n + i] = 1 / d;
            for (int64_t k = i + 1; k < n; k++) minus[k] = -R[i * n + k] / d;
            add_rows(X + i * n + i + 1, minus.data() + i + 1, 1, X + (i + 1) * (n + 1), n, n - 1 - i, n - 1 - i);
        }
        parallel_each((m + 63) / 64, [&](int64_t piece) {                     // A = A X; row k of X is zero left of column k
            int64_t r = piece * 64, rows = std::min<int64_t>(64, m - r);
            std::vector<double> Q(rows * n, 0.0);
            for (int64_t k = 0; k < n; k += 8)
                for (int64_t i = 0; i < rows; i++)
                    add_rows(Q.data() + i * n + k, A + (r + i) * n + k, 1, X + k * n + k, n, std::min<int64_t>(8, n - k), n - k);
            std::copy(Q.begin(), Q.end(), A + r * n);
        }, small);
        again = largest > 4 * smallest;
    }
    return true;
}

// W (rows, cols) becomes a random orthogonal matrix times gain: all its singular values are gain. Uniform (Haar)
// because the diagonal of R is positive. fp32 or fp64 W; the work is fp64: on one thread 1.2 s for (4096, 1024), 7 s for
// (50277, 768) on an EPYC core with AVX2. Tensors with a stream each can be filled at the same time, in any order.
template<class T> void orthogonal(T *W, int64_t rows, int64_t cols, double gain, Rng &rng) {
    int64_t m = rows > cols ? rows : cols, n = rows > cols ? cols : rows;
    std::vector<double> A(m * n);
    do {
        parallel_each((m + 63) / 64, [&](int64_t piece) {                            // number i takes counter value i
            Rng mine{rng.seed, rng.stream, rng.counter + piece * 64 * n};
            for (int64_t i = piece * 64 * n; i < std::min(m, piece * 64 + 64) * n; i++) A[i] = mine.normal();
        }, m * n < 1 << 16);
        rng.counter += m * n;
    } while (!orthonormalise(A.data(), m, n));                                       // singular: about once in 1e7 matrices
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) W[i * cols + j] = (T)(gain * (rows >= cols ? A[i * n + j] : A[j * n + i]));
}
