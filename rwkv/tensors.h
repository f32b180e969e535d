/* rwkv/tensors.h: the table of tensors, the parameter buffer made from it, and the arena for everything else.

   A model lists its tensors once, as rows: name, shape, initialisation, learning-rate factor, weight decay.
   A row named "blocks.*.x" stands for one tensor per layer, "blocks.0.x" for one of layer 0 only, "blocks.+.x" for
   one of every layer but that. Layout, initialisation, optimizer, checkpoint and the size print-out all derive from
   the expanded table.

   All parameters lie in one buffer of `total` elements, each tensor at `offset` (a multiple of 64 elements,
   so 128-byte aligned in every precision). Tensors with V rows are padded to a multiple of 16 rows that
   stay zero: an odd vocabulary (50277) would misalign every row of logits.
   defines: Shape, TensorRow, Tensor, TensorTable, init_ones, init_zeros, Arena, Parameters */
#pragma once
#include "cuda.h"
#include "rng.h"
#include "tensor_file.h"
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

struct Shape {           // what tensor shapes are made of
    int V, C, F, L;      // vocabulary, channels, channels of the feed-forward layer, layers
    int more[26] = {};   // what else a model has, under small letters: s['h'] heads, ...
    int &operator[](char letter) { return more[letter - 'a']; }
    int operator[](char letter) const { return more[letter - 'a']; }
    int size(char d) const { return d == 'V' ? V : d == 'C' ? C : d == 'F' ? F : d == '1' ? 1 : more[d - 'a']; }
};
inline int padded_vocab(int V) { return (V + 15) / 16 * 16; }

// Where an initialiser works: tensor w of rows x cols (vectors: 1 x n) in layer l.
struct InitContext { Shape s; int layer; int64_t rows, cols; double lr; Rng &rng; };
typedef void Init(double *w, const InitContext &);

struct TensorRow {
    const char *name;
    std::vector<char> shape;  // of the letters of Shape: V C F 1 and small ones
    Init *init;
    float lr;      // learning-rate factor
    bool decay;    // subject to weight decay
    bool transposed = false;  // files hold this matrix as (columns, rows), as Hugging Face's GPT-2 does
};
inline void init_ones(double *w, const InitContext &c) { std::fill_n(w, c.rows * c.cols, 1.0); }
inline void init_zeros(double *w, const InitContext &c) { std::fill_n(w, c.rows * c.cols, 0.0); }

struct Tensor {
    std::string name;
    std::vector<int64_t> shape;
    const TensorRow *row;
    int layer;       // -1 outside the blocks
    int64_t offset;  // in the parameter buffer, in elements
    int64_t count;   // elements, without the padding of V
    bool matrix() const { return shape.size() == 2; }
    std::vector<int64_t> in_file() const { return row->transposed ? std::vector<int64_t>{shape[1], shape[0]} : shape; }
};

struct TensorTable {
    Shape s;
    std::string blocks;  // what comes before the number of a layer: "blocks."
    std::vector<Tensor> tensors;
    int64_t total = 0;  // elements of the buffer, with padding
    int64_t count = 0;  // parameters

    TensorTable() {}
    TensorTable(std::vector<TensorRow> list, Shape s) : s(s), rows(new std::vector<TensorRow>(std::move(list))) {
        const std::vector<TensorRow> &r = *rows;
        for (const TensorRow &row : r)
            if (const char *star = strchr(row.name, '*')) { blocks.assign(row.name, star); break; }
        auto in_block = [&](size_t i) { return i < r.size() && !blocks.empty() && !strncmp(r[i].name, blocks.c_str(), blocks.size()); };
        for (size_t i = 0; i < r.size();) {
            size_t j = i;
            while (in_block(j)) j++;
            if (j == i) add(r[i++], -1);
            for (int l = 0; l < s.L && i < j; l++)
                for (size_t k = i; k < j; k++) {
                    char which = r[k].name[blocks.size()];
                    if (which == '*' || (which == '0') == (l == 0)) add(r[k], l);
                }
            i = std::max(i, j);
        }
    }
    const Tensor *find(const std::string &name) const {
        for (const Tensor &t : tensors) if (t.name == name) return &t;
        return nullptr;
    }
    int64_t offset(const char *name, int layer = -1) const {
        std::string full = layer < 0 ? name : format("%s%d.%s", blocks.c_str(), layer, name);
        const Tensor *t = find(full);
        if (!t) fail("the tensor table has no %s", full.c_str());
        return t->offset;
    }

private:
    std::shared_ptr<const std::vector<TensorRow>> rows;  // Tensor::row points into it
    void add(const TensorRow &row, int layer) {
        Tensor t{row.name, {}, &row, layer, total, 1};
        if (layer >= 0) t.name = format("%s%d%s", blocks.c_str(), layer, row.name + blocks.size() + 1);
        int64_t stored = 1;
        for (char d : row.shape) {
            int64_t n = s.size(d);
            t.shape.push_back(n), t.count *= n, stored *= d == 'V' ? padded_vocab(s.V) : n;
        }
        total += (stored + 63) / 64 * 64, count += t.count;
        tensors.push_back(t);
    }
};

// Device memory in one piece. First every buffer is planned (nothing is allocated, so that the table of
// sizes can be shown and refused), then allocate() gets the memory and fills in the pointers.
struct Arena {
    struct Slot { const char *group; void **pointer; size_t bytes, offset; };
    std::vector<Slot> slots;
    size_t total = 0;
    char *memory = nullptr;

    template<class T> void plan(const char *group, T **pointer, int64_t count) {
        size_t bytes = (count * sizeof(T) + 255) / 256 * 256;
        slots.push_back({group, (void **)pointer, bytes, total});
        *pointer = nullptr, total += bytes;
    }
    void allocate() {
        cudaCheck(cudaMalloc((void **)&memory, total));
        cudaCheck(cudaMemset(memory, 0, total));
        for (Slot &s : slots) *s.pointer = memory + s.offset;
    }
    // "parameters 1.2 MB, gradients 1.2 MB, ..." in the order in which the groups were first planned
    std::vector<std::pair<std::string, size_t>> groups() const {
        std::vector<std::pair<std::string, size_t>> g;
        for (const Slot &s : slots) {
            size_t i = 0;
            while (i < g.size() && g[i].first != s.group) i++;
            if (i == g.size()) g.push_back({s.group, 0});
            g[i].second += s.bytes;
        }
        return g;
    }
    ~Arena() { if (memory) cudaFree(memory); }
    Arena() {}
    Arena(const Arena &) = delete;
};

// The buffers of a model's tensors: parameters, their gradients and the Adam moments, all laid out alike.
// Vectors (norms, decays, mixes) are read in `real` from master; matrices in floatX from params, which in
// 32- and 64-bit precision is the same memory.
struct Parameters {
    TensorTable table;
    floatX *params = nullptr;
    real *master = nullptr, *grads = nullptr, *m = nullptr, *v = nullptr;

    void plan(Arena &arena, bool training, bool moments = true) {
        arena.plan("parameters", &master, table.total);
        if (has_master) arena.plan("parameters", &params, table.total);
        if (!training) return;
        arena.plan("gradients", &grads, table.total);
        if (moments) arena.plan("optimizer", &m, table.total), arena.plan("optimizer", &v, table.total);
    }
    void link() { if (!has_master) params = (floatX *)master; }

    // The official initialisation; the random numbers of a tensor depend on the seed and its place in the table only. The
    // head, which takes longest, stands at the end of the table, and its threads help themselves: so from the end.
    std::vector<real> initial(uint64_t seed, double lr) const {
        std::vector<real> host(table.total);
        parallel_each(table.tensors.size(), [&](int64_t nth) {
            const uint64_t i = table.tensors.size() - 1 - nth;
            const Tensor &t = table.tensors[i];
            Rng rng{seed, i, 0};
            std::vector<double> w(t.count);
            int64_t cols = t.matrix() ? t.shape[1] : t.count;
            t.row->init(w.data(), {table.s, t.layer, t.count / cols, cols, lr, rng});
            std::copy(w.begin(), w.end(), host.begin() + t.offset);
        });
        return host;
    }
    void set(const std::vector<real> &host, real *buffer) const { cudaCheck(cudaMemcpy(buffer, host.data(), table.total * sizeof(real), cudaMemcpyHostToDevice)); }
    std::vector<real> get(const real *buffer) const {
        std::vector<real> host(table.total);
        cudaCheck(cudaMemcpy(host.data(), buffer, table.total * sizeof(real), cudaMemcpyDeviceToHost));
        return host;
    }
    // Views of a host copy as files hold it, under the tensors' names; turns the transposed matrices in the copy around
    std::vector<TensorView> views(std::vector<real> &host, const std::string &prefix = "") const {
        std::vector<TensorView> list;
        for (const Tensor &t : table.tensors) {
            if (t.row->transposed) transpose(host.data() + t.offset, t.shape[0], t.shape[1]);
            list.push_back({prefix + t.name, dtype_of<real>, t.in_file(), host.data() + t.offset});
        }
        return list;
    }
    // A host copy read from a file whose names may have a prefix
    std::vector<real> read(const TensorFile &file, const std::string &prefix = "") const {
        std::vector<real> host(table.total);
        for (const Tensor &t : table.tensors) {
            if (file.get(prefix + t.name).dtype == DType::I8) fail("%s is int8, which is for running a model only; run_rwkv convert --dtype fp32 makes numbers of it that can be trained", file.path.c_str());
            file.read(prefix + t.name, t.in_file(), host.data() + t.offset);
            if (t.row->transposed) transpose(host.data() + t.offset, t.shape[1], t.shape[0]);
        }
        return host;
    }
    static void transpose(real *w, int64_t rows, int64_t cols) {
        std::vector<real> copy(w, w + rows * cols);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < cols; j++) w[j * rows + i] = copy[i * cols + j];
    }
};
