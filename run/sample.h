/* run/sample.h: the next tokens are drawn on the device, so that a token is one graph between its id going up and the next
   one coming down. What is drawn is defined step by step in rwkv/sampler.h; here the arithmetic is in `real`.

   penalise_kernel  a block per 2048 logits z of a text: the token drawn last is counted, penalties are taken off in place;
                    m = max z and sum e^(z - m) of the block
   choose_kernel    a block per text. In the order of falling logits (of equal ones the lower token first) every filter
                    keeps a beginning, so what is kept is all above a cut and some of those at it:
                        min_p, top_a   z >= max + ln min_p,  z >= max + ln(top_a / sum e^(z - max))
                        top_p, top_k   the first z, from above, at which sum p >= top_p or the number is k. The bits of z,
                                       taken as an integer, have the order of z: a histogram of 1024 bins over [lo, hi]
                                       gives the bin of the cut, which is the next [lo, hi]: at most 4 rounds (fp64: 7)
                    The kept are written to the front of the row, in the order of tokens, and one is drawn: u in [0, 1)
                    falls into the running sum of e^((z - max)/temperature).

   Sums that decide are integers, in units of 2^-40 of the likeliest token's e^0: the same in any order, and without gaps
   between the shares of neighbours. (What is below 2^-41 of the likeliest is never drawn.) On the CPU a block is one thread.
   defines: Sampling */
#pragma once
#include "../rwkv/sampler.h"
#include "../rwkv/tensors.h"
#include "../rwkv/tokenizer.h"
#include <limits>

constexpr int SAMPLE_CHUNK = 2048;              // logits of a block of penalise_kernel: 256 threads, 8 each
constexpr int SAMPLE_BINS = 1024;
constexpr real NEVER = -1, BARRED = -2;         // counts of tokens that were not drawn, and that must not be
constexpr real LARGEST = std::numeric_limits<real>::max();
constexpr uint64_t UNLIMITED = ~0ull >> 1;

struct TextSampler {                            // of one text
    Sampler s;
    Rng rng;
    int last;                                   // drawn, but not yet counted; -1: none
};
struct Sampling {                               // device memory; texts are in slots, logits in rows
    TextSampler *texts;                         // (slots)
    real *counts;                               // (slots, stride) of each token so far, or NEVER, or BARRED
    real *unseen;                               // (stride) NEVER or BARRED: the counts before the first token
    uint8_t *grows;                             // (stride) 1, or 0 for blanks and digits
    int *kept;                                  // (slots, stride) by rows: the tokens that may be drawn, whose logits ...
    int *kept_count;                            // (slots) ... are then the first so many of the row
    struct Chunk { real max, sum; } *chunks;    // (slots, chunk_count) by rows: of penalise_kernel's blocks; max = inf: it has a NaN
    int *drawn;                                 // (slots) by rows: the result; -1: the logits are no distribution
    int V, stride, chunk_count;                 // stride: of rows

    void plan(Arena &a, int64_t slots, int vocabulary) {
        V = vocabulary, stride = padded_vocab(V), chunk_count = ceil_div(stride, SAMPLE_CHUNK);
        a.plan("sampling", &texts, slots), a.plan("sampling", &counts, slots * stride), a.plan("sampling", &unseen, stride);
        a.plan("sampling", &grows, stride), a.plan("sampling", &kept, slots * stride), a.plan("sampling", &kept_count, slots);
        a.plan("sampling", &chunks, slots * chunk_count), a.plan("sampling", &drawn, slots);
    }
    // Which tokens may be drawn: not those without bytes, other than the end of text, and not padding. Null: all, and all count.
    void vocabulary(const Tokenizer *t) {
        std::vector<real> may(stride, BARRED);
        std::vector<uint8_t> grow(stride, 1);
        for (int i = 0; i < (t ? std::min(V, t->vocab) : V); i++) {
            may[i] = t && t->bytes(i).empty() && i != t->eot ? BARRED : NEVER;
            Occurrences one;
            if (t) one.add(Sampler(), i, t->bytes(i)), grow[i] = one.counts[i] > 0;
        }
        cudaCheck(cudaMemcpy(unseen, may.data(), stride * sizeof(real), cudaMemcpyHostToDevice));
        cudaCheck(cudaMemcpy(grows, grow.data(), stride, cudaMemcpyHostToDevice));
    }
    void begin(int slot, const Sampler &s, const Rng &rng, cudaStream_t stream) {  // a new text
        TextSampler t = {s, rng, -1};
        cudaCheck(cudaMemcpyAsync(texts + slot, &t, sizeof t, cudaMemcpyHostToDevice, stream));
        cudaCheck(cudaMemcpyAsync(counts + (int64_t)slot * stride, unseen, stride * sizeof(real), cudaMemcpyDeviceToDevice, stream));
        cudaCheck(cudaStreamSynchronize(stream));
    }
    // drawn[b] from logits (B, stride), which it changes; row b is the text in slots[b], slots (B) in device memory
    void penalise(real *logits, int B, const int *slots, cudaStream_t stream);
    void choose(real *logits, int B, const int *slots, cudaStream_t stream);
    void draw(real *logits, int B, const int *slots, cudaStream_t stream) { penalise(logits, B, slots, stream), choose(logits, B, slots, stream); }
};

// ------------------------------------------------------------------------------------------------
// penalties, and the largest logit and the sum of each chunk

template<int W> __global__ void penalise_kernel(Sampling a, real *logits, const int *slots) {
    __shared__ BlockRoom room;
    int turn = 0, row = blockIdx.x / a.chunk_count, first = blockIdx.x % a.chunk_count * SAMPLE_CHUNK, end = min(first + SAMPLE_CHUNK, a.stride);
    const TextSampler &t = a.texts[slots[row]];
    real *z = logits + (int64_t)row * a.stride, *count = a.counts + (int64_t)slots[row] * a.stride, top[1] = {-INFINITY}, total[1] = {0};
    for (int i = first + threadIdx.x * W; i < end; i += blockDim.x * W) {
        Vec<W> x = load<W>(z + i), n = load<W>(count + i);
        if (!all_within(n, NEVER, NEVER) || (unsigned)(t.last - i) < (unsigned)W) {  // few have been drawn
            real decay = (real)t.s.decay, presence = (real)t.s.presence, frequency = (real)t.s.frequency;
            n = each<W>([&](int j) {
                real c = n[j] > 0 ? n[j] * decay : n[j];
                return i + j == t.last ? (c > 0 ? c : real(0)) + a.grows[i + j] : c;
            });
            x = each<W>([&](int j) { return n[j] >= 0 ? x[j] - (presence + frequency * n[j]) : n[j] == BARRED ? -INFINITY : x[j]; });
            store(z + i, x), store(count + i, n);
        }
        top[0] = fmax(top[0], all_within(x, -INFINITY, LARGEST) ? largest(x) : INFINITY);
    }
    block_max(top, room, turn);
    real max = top[0] > -INFINITY ? top[0] : 0;  // -inf - -inf is no number
    for (int i = first + threadIdx.x * W; i < end && t.s.temperature > 0; i += blockDim.x * W) total[0] += sum(exp2v((load<W>(z + i) - max) * LOG2E));
    block_sum(total, room, turn);
    if (threadIdx.x == 0) a.chunks[blockIdx.x] = {top[0], total[0]};
}

// ------------------------------------------------------------------------------------------------
// the choice

typedef std::conditional_t<sizeof(real) == 8, uint64_t, uint32_t> Order;
struct ChooseRoom {
    BlockRoom reduce;
    uint64_t warps[2][32];
    uint64_t mass[SAMPLE_BINS];
    int number[SAMPLE_BINS];
    struct { real low; uint64_t mass, number; } goal;            // z >= low; the cut is where one of the sums is reached
    struct { int bin, number; uint64_t mass_above, number_above; } cut;
};
// An integer with the order of x; -0 is 0
__device__ inline Order order_of(real x) {
    Order bits;
    x += real(0);
    memcpy(&bits, &x, sizeof bits);
    return bits >> (8 * sizeof bits - 1) ? ~bits : bits | (Order)1 << (8 * sizeof bits - 1);
}
__device__ inline real from_order(Order o) {
    real x;
    o = o >> (8 * sizeof o - 1) ? o ^ (Order)1 << (8 * sizeof o - 1) : ~o;
    memcpy(&x, &o, sizeof x);
    return x;
}
// 2^40 e^(z - max) with scale = log2(e), and as an integer
template<int W> __device__ inline Vec<W> shares(const real *z, real max, real scale) {
    return exp2v((load<W>(z) - max) * scale) * real(1ull << 40);
}
__device__ inline uint64_t units(real share) { return (uint64_t)(share + real(0.5)); }

// The sum of x over the threads before this one; all: over every thread
__device__ inline uint64_t block_prefix(uint64_t x, uint64_t &all, ChooseRoom &room, int &turn) {
    all = x;
    if (blockDim.x == 1) return 0;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    uint64_t upto = x;
    for (int o = 1; o < 32; o *= 2) {
        uint64_t y = __shfl_up_sync(~0u, upto, o);
        if (lane >= o) upto += y;
    }
    if (lane == 31) room.warps[turn][warp] = upto;
    __syncthreads();  // the sums of all warps are written; the other buffer may still be read
    uint64_t w = lane < warps ? room.warps[turn][lane] : 0;
    for (int o = 1; o < 32; o *= 2) {
        uint64_t y = __shfl_up_sync(~0u, w, o);
        if (lane >= o) w += y;
    }
    turn ^= 1, all = __shfl_sync(~0u, w, 31);
    uint64_t before = __shfl_sync(~0u, w, warp ? warp - 1 : 0);
    return (warp ? before : 0) + upto - x;
}

// Moves what is above `bound`, and the first `ties` of what equals it, to the front of z and token; returns how many. With
// `chunk` these are all logits of a row, and chunks without any such are not read.
// A thread writes to places that it or threads before it have read: those of this turn before the barrier of block_prefix.
template<int W> __device__ inline int keep(real *z, int *token, int n, const Sampling::Chunk *chunk, real bound, uint64_t ties,
                                           ChooseRoom &room, int &turn) {
    uint64_t above = 0, equal = 0;
    for (int base = 0; base < n; base += blockDim.x * W) {
        int i = base + threadIdx.x * W, id[W];
        Vec<W> x = i < n && (!chunk || chunk[i / SAMPLE_CHUNK].max >= bound) ? load<W>(z + i) : Vec<W>(-INFINITY);
        uint64_t mine = 0, all;  // low half: above, high half: equal
        bool any = largest(x) >= bound;
        if (any) {
#pragma unroll
            for (int j = 0; j < W; j++) {
                id[j] = chunk || i + j >= n ? i + j : token[i + j];
                if (i + j < n) mine += x[j] > bound ? 1 : x[j] == bound ? 1ull << 32 : 0;
            }
        }
        uint64_t before = block_prefix(mine, all, room, turn), rank = equal + (before >> 32);
        uint64_t at = above + (uint32_t)before + min(rank, ties);
        if (any) {
#pragma unroll
            for (int j = 0; j < W; j++)
                if (i + j < n && (x[j] > bound || (x[j] == bound && rank++ < ties))) z[at] = x[j], token[at++] = id[j];
        }
        above += (uint32_t)all, equal += all >> 32;
    }
    __syncthreads();  // all are written before anyone reads another's
    return (int)(above + min(equal, ties));
}

// The cut by top_p and top_k among n logits; `ties`: how many of those equal to it stay
__device__ inline real find_cut(const real *z, int n, real max, uint64_t &ties, ChooseRoom &room, int &turn) {
    Order hi = order_of(max), lo = order_of(room.goal.low);
    uint64_t mass = 0, number = 0, goal_mass = room.goal.mass, goal_number = room.goal.number;  // of all above hi
    auto reached = [&](uint64_t m, uint64_t k) { return m >= goal_mass || k >= goal_number; };
    for (bool more = true; more;) {
        int shift = 0;
        while ((hi - lo) >> shift >= SAMPLE_BINS) shift++;
        for (int b = threadIdx.x; b < SAMPLE_BINS; b += blockDim.x) room.mass[b] = room.number[b] = 0;
        __syncthreads();  // all bins are empty, and the cut of the last round was read
        if (threadIdx.x == 0) room.cut.bin = -1;
        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            Order o = order_of(z[i]);
            if (o < lo || o > hi) continue;
            int b = (int)((hi - o) >> shift);
            atomicAdd(&room.number[b], 1);
            if (goal_mass != UNLIMITED) atomicAdd((unsigned long long *)&room.mass[b], (unsigned long long)units(shares<1>(z + i, max, LOG2E)[0]));
        }
        __syncthreads();  // all bins are full
        int part = (SAMPLE_BINS + blockDim.x - 1) / blockDim.x, from = min((int)threadIdx.x * part, SAMPLE_BINS), to = min(from + part, SAMPLE_BINS);
        uint64_t m = 0, k = 0, all;
        for (int b = from; b < to; b++) m += room.mass[b], k += room.number[b];
        uint64_t m0 = mass + block_prefix(m, all, room, turn), k0 = number + block_prefix(k, all, room, turn);
        if (!reached(m0, k0) && reached(m0 + m, k0 + k)) {  // one thread
            for (; !reached(m0 + room.mass[from], k0 + room.number[from]); from++) m0 += room.mass[from], k0 += room.number[from];
            room.cut = {from, room.number[from], m0, k0};
        }
        __syncthreads();  // the cut is written
        int bin = room.cut.bin, inside = room.cut.number;
        if (bin < 0) break;  // the sums do not reach a goal: all stay
        mass = room.cut.mass_above, number = room.cut.number_above;
        hi -= (Order)bin << shift;
        if ((hi - lo) >> shift) lo = hi - (((Order)1 << shift) - 1);
        more = shift && inside > 1;
    }
    ties = goal_number - number;
    return from_order(lo);
}

template<int W> __global__ void __launch_bounds__(1024) choose_kernel(Sampling a, real *logits, const int *slots) {
    __shared__ ChooseRoom room;
    int turn = 0, row = blockIdx.x;
    TextSampler &t = a.texts[slots[row]];
    const Sampling::Chunk *chunk = a.chunks + (int64_t)row * a.chunk_count;
    real *z = logits + (int64_t)row * a.stride, best[1] = {-INFINITY}, total[1] = {0};
    int *token = a.kept + (int64_t)row * a.stride;
    for (int c = threadIdx.x; c < a.chunk_count; c += blockDim.x) best[0] = fmax(best[0], chunk[c].max);
    block_max(best, room.reduce, turn);
    real max = best[0];
    if (!(fabs(max) < INFINITY)) {  // a NaN, an infinity, or nothing but -inf
        if (threadIdx.x == 0) a.drawn[row] = -1;
        return;
    }
    for (int c = threadIdx.x; c < a.chunk_count; c += blockDim.x) total[0] += chunk[c].sum * exp2v(Vec<1>((chunk[c].max - max) * LOG2E))[0];
    block_sum(total, room.reduce, turn);
    if (threadIdx.x == 0) {  // one thread, since a GPU may have few units for double
        // The tokens from top_p's cut on hold more than 1 - top_p, and none of them exceeds it, so it is above (1 - top_p)/V.
        const Sampler &s = t.s;
        double Z = total[0], floor = fmax(fmax(s.min_p, s.top_a / Z), 0.999 * (1 - s.top_p) * Z / a.V);
        real low = max - real(745);  // below, p is 0 in double
        if (floor > 0) low = fmax(low, max + real(log((real)floor)));
        room.goal.low = s.temperature <= 0 ? max : fmin(low, max);
        room.goal.mass = s.top_p < 1 ? (uint64_t)fmax(1.0, s.top_p * Z * (1ull << 40)) : UNLIMITED;
        room.goal.number = s.top_k > 0 ? s.top_k : UNLIMITED;
    }
    double u = Rng(t.rng).uniform();
    __syncthreads();  // the goals are written, and every thread has read the random number's counter
    int n = keep<W>(z, token, a.stride, chunk, room.goal.low, UNLIMITED, room, turn);
    if (t.s.temperature > 0 && n > 1 && (room.goal.mass != UNLIMITED || room.goal.number < (uint64_t)n)) {
        uint64_t ties;
        real cut = find_cut(z, n, max, ties, room, turn);
        n = keep<W>(z, token, n, nullptr, cut, ties, room, turn);
    }
    // Each thread has a piece of the running sum; the one into whose piece u falls finds the token. Temperature 0: the first.
    real scale = LOG2E / fmax((real)t.s.temperature, real(1e-30));
    int step = blockDim.x * W, part = (n + step - 1) / step * W, from = min((int)threadIdx.x * part, n), to = min(from + part, n);
    uint64_t mine = 0, all;
    for (int i = from; i < to; i += W) {  // what lies behind n is in the row
        Vec<W> e = shares<W>(z + i, max, scale);
        for (int j = 0; j < min(W, to - i); j++) mine += units(e[j]);
    }
    uint64_t before = block_prefix(mine, all, room, turn), goal = t.s.temperature > 0 ? min(all - 1, (uint64_t)(u * (double)all)) : 0;
    if (before > goal || before + mine <= goal) return;
    while (from < to - 1 && (before += units(shares<1>(z + from, max, scale)[0])) <= goal) from++;
    a.drawn[row] = t.last = token[from], a.kept_count[row] = n;
    t.rng.counter++;
}

// Blocks of whole warps; on the CPU one thread
inline void Sampling::penalise(real *logits, int B, const int *slots, cudaStream_t stream) {
    constexpr int W = ELEMENT_WIDTH;
    penalise_kernel<W><<<B * chunk_count, loop_threads(std::min(SAMPLE_CHUNK, stride) / W), 0, stream>>>(*this, logits, slots);
    launchCheck();
}
inline void Sampling::choose(real *logits, int B, const int *slots, cudaStream_t stream) {
    constexpr int W = ELEMENT_WIDTH;
    choose_kernel<W><<<B, loop_threads(stride / W), 0, stream>>>(*this, logits, slots);
    launchCheck();
}
