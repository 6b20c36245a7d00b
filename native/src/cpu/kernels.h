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

// Rows of one slot in one layer of a page table. Page p of the table begins at k_pages[p] and v_pages[p]; row r lives in
// page r / page_size.
//
//   K page  [kv_heads][page_size / 16][head_dim / 2][16][2]   16 keys side by side, dims in pairs
//   V page  [kv_heads][page_size / 2][head_dim][2]            dims side by side, keys in pairs
//
// Both are page_size · kv_heads · head_dim elements.
struct KvPages {
  bf16 *const *k_pages;
  bf16 *const *v_pages;
  int page_size;  // a multiple of 64
};

// One group of query rows that share a page table.
struct Attention {
  int rows;
  const bf16 *queries;  // [rows, heads, head_dim]
  KvPages kv;
  const int32_t *lo;  // [rows] first visible key, or nullptr for 0
  const int32_t *hi;  // [rows] last visible key, inclusive, ≥ lo
  bf16 *output;       // [rows, heads, head_dim]
};

struct AttentionShape {
  int heads;
  int kv_heads;
  int head_dim;
  float scale;
  float soft_cap;  // 0: none
};

struct Kernels {
  const char *name;

  // Bytes of a weight matrix [n, k] in this table's own layout; k is a multiple of 8 (4 slices of bf16 pairs).
  size_t (*packed_bytes)(int n, int k);
  // Packs rows [0, n) of `weight` [n, k], row-major bf16.
  void (*pack)(const bf16 *weight, int n, int k, void *packed);

  // out[m, n] = a[m, k] · weightᵀ, or out += when `accumulate`. The sum over k is formed as `slices` (1 or 4) partial sums over
  // equal ranges of k, ((s0 + s1) + s2) + s3, before it is added to out.
  void (*gemm)(const bf16 *a, int lda, int m, const void *packed, int n, int k, int slices, bool accumulate, float *out,
               int ldo);

  // out[m, width] = x / sqrt(mean(x²) + eps) · weight
  void (*rms_norm)(const float *x, int rows, int width, const float *weight, float eps, bf16 *out);

  // out[m, inner] = silu(gate) · up, where in[m, 2·inner] is [gate | up].
  void (*silu_mul)(const float *in, int rows, int inner, bf16 *out);

  // Rotates pairs (i, i + head_dim/2) of x[rows, heads, head_dim] (row stride ldx) by the angles whose cosines and sines
  // are given per row, [rows, head_dim / 2], and rounds to bf16. cos = nullptr only rounds.
  void (*rope)(const float *x, int ldx, int rows, int heads, int head_dim, const float *cos, const float *sin, bf16 *out);

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
};

// Plain loops for any x86-64.
const Kernels *portable_kernels();
// AVX2 + FMA; nullptr where the processor lacks them.
const Kernels *avx2_kernels();
// AVX-512 with BF16; nullptr where the processor lacks them.
const Kernels *avx512_bf16_kernels();

}  // namespace up::cpu
