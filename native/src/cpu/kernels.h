// The CPU kernels a model runner is made of, as one table per instruction set.
//
// Row invariance. What a row's arithmetic yields never depends on which or how many other rows are in the call: sums over
// K run in one fixed order for every M, attention walks fixed tiles of keys counted from row 0, and sums that are split
// across tensor-parallel ranks are always formed as four slices added in order. Chunking, batching and the number of
// threads therefore change nothing, bit for bit.
//
// Types. Weights, normalised activations, queries, keys and values are bf16 (uint16_t bit patterns); the residual stream
// and all sums are f32. Conversion to bf16 rounds to nearest even.
#pragma once

#include <cstddef>
#include <cstdint>

namespace up::cpu {

using bf16 = uint16_t;

constexpr int max_head_dim = 256;
constexpr int max_conv_kernel = 8;
constexpr int max_key_dim = 256;
// Rows that pass the state of Gated DeltaNet together, counted from the state's first row.
constexpr int delta_block = 16;

// Rows of one slot in one layer of a page table. The layer's part of page p begins in slab slabs[p · slabs_per_page], at the
// same place in every slab; row r lives in page r / page_size.
//
//   K page  [kv_heads][page_size / 16][head_dim / 2][16][2]   16 keys side by side, dims in pairs
//   V page  [kv_heads][page_size / 2][head_dim][2]            dims side by side, keys in pairs
//
// Both are page_size · kv_heads · head_dim elements, V behind K.
struct KvPages {
  const int32_t *slabs;  // −1: given back, and not looked at
  int slabs_per_page;
  int page_size;    // a multiple of 64
  std::byte *base;  // of the layer's K in slab 0
  int64_t slab_bytes;
  int64_t page_elements;
};

// One group of query rows that share a page table.
struct Attention {
  int rows;
  const bf16 *queries;  // [rows, heads, head_dim]
  KvPages kv;
  const int32_t *lo;  // [rows] first visible key, or nullptr for 0
  const int32_t *hi;  // [rows] last visible key, inclusive, ≥ lo
  bf16 *output;       // [rows, heads, head_dim]
  // Of the first `sparse_blocks` blocks of 128 rows: the blocks of 64 keys that a row sees, [kv_heads, sparse_blocks, words]
  const uint32_t *bitmaps = nullptr;
  int sparse_blocks = 0;
  int words = 0;
};

struct AttentionShape {
  int heads;
  int kv_heads;
  int head_dim;
  float scale;
  float soft_cap;  // 0: none
};

// One of several products that share their shapes.
struct GemmPart {
  const bf16 *a;  // [m, k]
  int m;
  const void *packed;
  float *out;  // [m, n]
};

// Heads side by side in a row, each normalised by itself where `norm` is given.
struct Heads {
  int count;
  int dim;
  const float *norm;  // [dim], or nullptr
  float eps;
};

// Angles of rotary embedding: the first `dim` dimensions of a head turn, i with i + dim / 2.
struct Rotation {
  int dim;
  const float *cos;  // [positions, dim / 2]
  const float *sin;
  const int32_t *positions;  // [rows]
};

struct DeltaShape {
  int key_heads;
  int value_heads;
  int key_dim;
  int value_dim;
  int conv_kernel;
  float norm_eps;

  int key_width() const { return key_heads * key_dim; }
  int value_width() const { return value_heads * value_dim; }
  int conv_width() const { return 2 * key_width() + value_width(); }
  int projected_width() const { return conv_width() + value_width() + 2 * value_heads; }
  // Dimensions of a key as they are stored, zero beyond key_dim.
  int padded_key_dim() const { return (key_dim + 15) / 16 * 16; }
  int padded_value_dim() const { return (value_dim + 15) / 16 * 16; }
  // Elements of a block's keys of one head.
  int64_t head_keys() const { return int64_t{delta_block} * padded_key_dim(); }
  // Floats of a value head's state: S and the block's changes for each column, and what they have decayed by.
  int64_t head_state() const {
    return int64_t{padded_value_dim()} * (padded_key_dim() + delta_block) + padded_value_dim() / 16 * 2 * delta_block;
  }
};

// Rows [first, first + rows) of a tile, of one slot whose state goes on. All zero is the state before the first row.
struct DeltaGroup {
  int first;
  int rows;
  float *conv;     // [conv_kernel − 1, conv_width]: the inputs before the first row
  float *state;    // [value_heads, head_state()] in the table's own order
  bf16 *keys;      // [key_heads, head_keys()] of the block that has begun
  int32_t *begun;  // rows of that block
};

struct DeltaWeights {
  const float *conv;     // [conv_kernel, conv_width]
  const float *decay;    // [value_heads]: −exp(A_log)
  const float *dt_bias;  // [value_heads]
  const float *norm;     // [value_dim]
};

// What the recurrence of a tile's rows works on, padded to whole vectors of key dimensions.
struct DeltaRows {
  int rows;
  float *mixed;      // [rows, conv_width]: v in its last part, then the outputs in its place
  float *betas;      // [rows, value_heads]
  float *decays;     // [rows, value_heads]
  bf16 *directions;  // [key_heads, rows, 2, padded_key_dim]: k and q / sqrt(key_dim), both of length 1
  float *products;   // [key_heads, rows, 2, delta_block]: of each with the keys of the row's block
  bf16 *blocks;      // [rows, key_heads, 2, head_keys()]: the keys of each block that the rows touch, in two orders
};

struct Kernels {
  const char *name;

  // Bytes of a weight matrix [n, k] in this table's own layout; k is even.
  size_t (*packed_bytes)(int n, int k);
  // Packs rows [0, n) of `weight` [n, k], row-major bf16.
  void (*pack)(const bf16 *weight, int n, int k, void *packed);

  // out[m, n] = a[m, k] · weightᵀ, or out += when `accumulate`. The sum over k is formed as `slices` (1, or 4 where k is a multiple
  // of 8) partial sums over equal ranges of k, ((s0 + s1) + s2) + s3, before it is added to out.
  void (*gemm)(const bf16 *a, int lda, int m, const void *packed, int n, int k, int slices, bool accumulate, float *out,
               int ldo);
  // The products of all parts, parallel over all of them.
  void (*gemm_parts)(const GemmPart *parts, int count, int n, int k, int slices);

  // out[m, width] = x / sqrt(mean(x²) + eps) · weight
  void (*rms_norm)(const float *x, int rows, int width, const float *weight, float eps, bf16 *out);
  // sum += x / sqrt(mean(x²) + eps) · weight
  void (*add_rms_norm)(const float *x, int rows, int width, const float *weight, float eps, float *sum);

  // out[m, inner] = silu(gate) · up, where in[m, 2·inner] is [gate | up]; GELU is the one by tanh.
  void (*silu_mul)(const float *in, int rows, int inner, bf16 *out);
  void (*gelu_mul)(const float *in, int rows, int inner, bf16 *out);
  // x[n] *= σ(gates)
  void (*sigmoid_mul)(const bf16 *gates, int64_t n, bf16 *x);
  // x[n] = cap · tanh(x / cap)
  void (*soft_cap)(float *x, int64_t n, float cap);
  // out[rows, width] = x, rounded.
  void (*round_rows)(const float *x, int ldx, int rows, int width, bf16 *out);

  // Normalises and rotates heads of x[rows, heads, dim] (row stride ldx), and rounds.
  void (*rope)(const float *x, int ldx, int rows, const Heads &heads, const Rotation &rotation, bf16 *out);

  // Writes rows first … first + rows - 1 of one layer from k and v [rows, kv_heads, head_dim]. Starting a group of 16 rows
  // zeroes the group's later rows, so that what is beyond the last row is finite.
  void (*write_kv)(const bf16 *k, const bf16 *v, int first, int rows, int kv_heads, int head_dim, const KvPages &pages);

  // Softmax attention of every group; parallel over groups, key-value heads and tiles of query rows.
  void (*attend)(const Attention *groups, int count, const AttentionShape &shape);

  // Attention mass of each block of `block` rows among the first `rows` rows, summed over heads and queries (the last
  // `q_rows` of those rows, q [q_rows, heads, head_dim]), unsigned with 40 fractional bits: masses[ceil(rows / block)].
  // A head's mass of a block is a sum over its queries in f32, in order, before conversion; heads add as integers.
  // False when a score is not finite; masses are then meaningless.
  bool (*score)(const bf16 *queries, int q_rows, const KvPages &keys, int rows, int block, const AttentionShape &shape,
                uint64_t *masses);

  // The blocks of 64 keys that blocks of 128 query rows [rows, heads, head_dim] read for a share p of their attention (selection/
  // sparsity.h), the first of these being row `first`, a multiple of 128: bitmaps [kv_heads, blocks, sparse_words(first + 128 · blocks)].
  void (*sparse_keys)(const bf16 *queries, int first, int blocks, const KvPages &keys, const AttentionShape &shape, uint64_t p_q32,
                      uint32_t *bitmaps);

  // Gated DeltaNet of a tile's rows, projected [rows, projected_width] = [q | k | v | z | b | a], in three parts.
  // Convolution over the group's rows, SiLU, lengths of q and k, gates; the groups' convolution states go on.
  void (*delta_inputs)(const float *projected, const DeltaGroup *groups, int count, const DeltaShape &shape,
                       const DeltaWeights &weights, const DeltaRows &rows);
  // The recurrence; parallel over groups, heads and columns of the state.
  void (*delta_recur)(const DeltaGroup *groups, int count, const DeltaShape &shape, const DeltaRows &rows);
  // out[rows, value_width] = the heads' normalised outputs · silu(z)
  void (*delta_outputs)(const float *projected, int rows, const DeltaShape &shape, const DeltaWeights &weights,
                        const float *mixed, bf16 *out);

  // The top_k experts of each row by softmax of logits [rows, experts], the likeliest first, of equals the first one;
  // weights [rows, top_k] are their shares of all experts', or of the chosen ones' when `renormalise`.
  void (*route)(const float *logits, int rows, int experts, int top_k, bool renormalise, int32_t *chosen, float *weights);
  // out[row] (+)= Σ_rank weights[row, rank] · parts[places[row, rank]], + σ(shared_gates[row]) · shared[row] last; rows of `width`.
  void (*combine)(const float *parts, const int32_t *places, const float *weights, int top_k, const float *shared,
                  const float *shared_gates, int rows, int width, bool accumulate, float *out);
};

// Plain loops for any x86-64.
const Kernels *portable_kernels();
// AVX2 + FMA; nullptr where the processor lacks them.
const Kernels *avx2_kernels();
// AVX-512 with BF16; nullptr where the processor lacks them.
const Kernels *avx512_bf16_kernels();

}  // namespace up::cpu
