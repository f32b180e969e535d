/* rwkv/embedding.h: token embedding followed by a LayerNorm ("ln0"), forward and backward; and the gradient of a
   plain one.

       x[b,t,:] = LayerNorm(emb[token[b,t],:])          tokens null: of row [b,t] itself, the norm alone

   Backward. All positions with the same token v share the row emb[v], hence its xh and rstd, and the
   LayerNorm backward is linear in dy: first sum dy over the positions of each token, then go through the
   norm once per distinct token. The sums run over positions sorted by token (the host sorts while the
   previous step trains), cut into pieces of at most PIECE positions, so that a frequent token (a blank)
   does not become one long serial sum: deterministic, without atomics.
   defines: TokenIndex, embedding_forward, embedding_backward */
#pragma once
#include <vector>
#include "norm.h"

// x, emb: floatX or real
template<int W, class Out, class In> __global__ void embedding_forward_kernel(Out *x, const int *tokens, const In *emb, const real *w, const real *b, int rows, int C) {
    __shared__ BlockRoom room;
    int turn = 0, c = threadIdx.x * W;
    bool inside = c < C;
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        Vec<W> e = inside ? load<W>(emb + (int64_t)(tokens ? tokens[row] : row) * C + c) : Vec<W>(0);
        Stats s = row_stats(e, inside, C, room, turn);
        if (inside) store(x + (int64_t)row * C + c, (e - s.mean) * s.rstd * load<W>(w + c) + load<W>(b + c));
    }
}
template<class Out, class In> inline void embedding_forward(Out *x, const int *tokens, const In *emb, const real *w, const real *b, int rows, int C, cudaStream_t stream) {
    int width = channel_width(C), threads = row_threads(C, width);
    dispatch_width(width, [&](auto W) {
        embedding_forward_kernel<W.value><<<std::min(rows, 4 * busy_blocks()), threads, 0, stream>>>(x, tokens, emb, w, b, rows, C);
    });
    launchCheck();
}

// The positions of a batch, sorted by token (stable, so sums have a fixed order).
//   counts[2]      pieces, distinct tokens
//   position[BT]   sorted positions
//   piece[P+1]     where pieces start in position[]       P <= BT / PIECE + distinct tokens
//   first[D+1]     where the pieces of each distinct token start in piece[]
//   token[D]       the distinct tokens, ascending
struct TokenIndex {
    static constexpr int PIECE = 64;
    static int64_t ints(int64_t BT) { return 2 + 4 * BT + 3 + BT; }  // room for everything, in ints
    int *counts, *position, *piece, *first, *token;
    TokenIndex() {}
    TokenIndex(int *memory, int64_t BT) {  // host or device memory of ints(BT)
        counts = memory, position = counts + 2, piece = position + BT, first = piece + 2 * BT + 1, token = first + BT + 1;
    }
    void fill(const int *tokens, int BT, int V, std::vector<int> &start) {
        start.assign(V + 1, 0);
        for (int i = 0; i < BT; i++) start[tokens[i] + 1]++;
        for (int v = 0; v < V; v++) start[v + 1] += start[v];
        int pieces = 0, distinct = 0;
        for (int v = 0; v < V; v++) {
            if (start[v] == start[v + 1]) continue;
            token[distinct] = v, first[distinct++] = pieces;
            for (int i = start[v]; i < start[v + 1]; i += PIECE) piece[pieces++] = i;
        }
        piece[pieces] = BT, first[distinct] = pieces, counts[0] = pieces, counts[1] = distinct;
        for (int i = 0; i < BT; i++) position[start[tokens[i]]++] = i;
    }
};

// sums[piece,:] = sum of dx over the positions of the piece
template<int W> __global__ void embedding_piece_kernel(real *sums, const floatX *dx, TokenIndex index, int C) {
    int c = (blockIdx.y * blockDim.x + threadIdx.x) * W;
    if (c >= C) return;
    for (int p = blockIdx.x; p < index.counts[0]; p += gridDim.x) {
        Vec<W> s = 0;
        for (int i = index.piece[p]; i < index.piece[p + 1]; i++) s += load<W>(dx + (int64_t)index.position[i] * C + c);
        store(sums + (int64_t)p * C + c, s);
    }
}
// per distinct token: dy = sum of its pieces, through the norm into demb; dw, db partial sums per block
template<int W> __global__ void embedding_backward_kernel(real *demb, real *partial, const real *sums, const floatX *emb, const real *w, TokenIndex index, int C) {
    __shared__ BlockRoom room;
    int turn = 0, c = threadIdx.x * W;
    bool inside = c < C;
    Vec<W> dw = 0, db = 0, weight = inside ? load<W>(w + c) : Vec<W>(0);
    for (int d = blockIdx.x; d < index.counts[1]; d += gridDim.x) {
        int64_t row = (int64_t)index.token[d] * C;
        Vec<W> e = inside ? load<W>(emb + row + c) : Vec<W>(0), dy = 0;
        for (int p = index.first[d]; inside && p < index.first[d + 1]; p++) dy += load<W>(sums + (int64_t)p * C + c);
        Stats s = row_stats(e, inside, C, room, turn);
        Vec<W> xh = (e - s.mean) * s.rstd;
        dw += dy * xh, db += dy;
        Vec<W> de = norm_backward_row(dy * weight, xh, s.rstd, inside, C, room, turn);
        if (inside) store(demb + row + c, load<W>(demb + row + c) + de);
    }
    if (inside) store(partial + (int64_t)blockIdx.x * 2 * C + c, dw), store(partial + ((int64_t)blockIdx.x * 2 + 1) * C + c, db);
}
// sums: room for (BT/PIECE + min(BT,V)) rows of C;  partial: busy_blocks() rows of 2C
inline int64_t embedding_pieces(int64_t BT, int64_t V) { return BT / TokenIndex::PIECE + std::min(BT, V); }
inline void embedding_backward(real *demb, real *dw, real *db, real *sums, real *partial, const floatX *dx, const floatX *emb, const real *w, TokenIndex index, int BT, int V, int C, cudaStream_t stream) {
    int width = channel_width(C), threads = row_threads(C, width), pieces = std::min<int64_t>(embedding_pieces(BT, V), 65536), blocks = std::min(std::min(BT, V), busy_blocks());
    dispatch_width(width, [&](auto W) {
        embedding_piece_kernel<W.value><<<dim3(pieces, ceil_div(C, 128 * W.value)), std::min(128, ceil_div(C, W.value)), 0, stream>>>(sums, dx, index, C);
        embedding_backward_kernel<W.value><<<blocks, threads, 0, stream>>>(demb, partial, sums, emb, w, index, C);
    });
    launchCheck();
    column_sums({{dw, db}}, partial, blocks, 2, C, stream);
}

// Without the norm: demb[token] += the sum of its pieces
template<int W> __global__ void embedding_sum_kernel(real *demb, const real *sums, TokenIndex index, int C) {
    int c = (blockIdx.y * blockDim.x + threadIdx.x) * W;
    if (c >= C) return;
    for (int d = blockIdx.x; d < index.counts[1]; d += gridDim.x) {
        real *to = demb + (int64_t)index.token[d] * C + c;
        Vec<W> s = load<W>(to);
        for (int p = index.first[d]; p < index.first[d + 1]; p++) s += load<W>(sums + (int64_t)p * C + c);
        store(to, s);
    }
}
inline void embedding_backward(real *demb, real *sums, const floatX *dx, TokenIndex index, int BT, int V, int C, cudaStream_t stream) {
    int width = channel_width(C), threads = std::min(128, ceil_div(C, width)), columns = ceil_div(C, 128 * width);
    dispatch_width(width, [&](auto W) {
        embedding_piece_kernel<W.value><<<dim3(std::min<int64_t>(embedding_pieces(BT, V), 65536), columns), threads, 0, stream>>>(sums, dx, index, C);
        embedding_sum_kernel<W.value><<<dim3(std::min(std::min(BT, V), 65536), columns), threads, 0, stream>>>(demb, sums, index, C);
    });
    launchCheck();
}
