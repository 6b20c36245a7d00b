// The recurrence of Gated DeltaNet:
//
//   S ← d S;  δ = β (v − Sᵀk);  S += k ⊗ δ;  o = Sᵀq
//
// Row after row it is three multiplications in f32 for each element of S. Here S stands still for a block of 16 rows, counted
// from the state's first row, and what the block's rows s before row t have changed is added from their keys and changes:
//
//   δ_t = β (v_t − G_t Sᵀk_t − Σ_{s<t} D_ts (k_s·k_t) δ_s)     o_t = G_t Sᵀq_t + Σ_{s≤t} D_ts (k_s·q_t) δ_s
//
// with D_ts the product of the decays of rows s + 1 … t, G_t that of all rows of the block to t; behind the block's last row
// S ← G S + Σ_s k_s ⊗ D_s δ_s. So the products with S are matrix products, of bf16 operands and f32 sums as all of ours are; S
// itself and δ are f32. A block may be begun in one call and ended in another: its keys and changes wait in the state, so
// a row's arithmetic is the same however the rows are cut.
//
// A task is a strip of a value head's columns, which no other column touches, through all rows of a group; a strip of 32
// columns of 128 keys takes 16 KB, and 8 KB as bf16: it stays in the L1 cache. In memory a strip is
//
//   S [padded_key_dim][columns]   δ [delta_block][columns]   D [delta_block]   G, and padding to delta_block
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "dot_tile.h"
#include "parallel.h"

namespace up::cpu {

template <class Simd>
struct DeltaRecurrence {
  using F = typename Simd::F;
  static constexpr int strip_columns = 16 * Simd::strip_vectors;

  // Rows of a group that lie in one block.
  struct Block {
    const DeltaGroup *group;
    int first, rows;  // of the tile
    int begun;        // rows of the block before them
    bf16 *keys;       // [key_heads, 2, head_keys()]: side by side, as a K page has them; and [padded_key_dim][delta_block]

    bool ends() const { return begun + rows == delta_block; }
  };

  struct Task {
    const Block *blocks;  // of one group
    int count;
    int head;
    int column;
  };

  // Puts the keys of a block's rows beside those before, and multiplies the rows' k and q with all of them.
  static void multiply_keys(const Block &block, const DeltaShape &shape, const DeltaRows &rows, int head) {
    const int dim = shape.padded_key_dim();
    const ptrdiff_t first = static_cast<ptrdiff_t>(head) * rows.rows + block.first;
    const bf16 *directions = rows.directions + first * 2 * dim;
    bf16 *keys = block.keys + head * 2 * shape.head_keys(), *by_dim = keys + shape.head_keys();
    if (block.begun > 0)
      std::memcpy(keys, block.group->keys + head * shape.head_keys(), sizeof(bf16) * shape.head_keys());
    for (int row = 0; row < block.rows; ++row) {
      const bf16 *k = directions + static_cast<ptrdiff_t>(row) * 2 * dim;
      bf16 *to = keys + 2 * (block.begun + row);
      for (int i = 0; i < dim; i += 2, to += 2 * delta_block) std::memcpy(to, k + i, 2 * sizeof(bf16));
    }
    float *products = rows.products + first * 2 * delta_block;
    tiles_of_rows<2 * Simd::strip_rows, 1>(2 * block.rows, directions, dim, keys, dim / 2, products);
    if (!block.ends()) return;
    for (int i = 0; i < dim; i += 2, keys += 2 * delta_block, by_dim += 2 * delta_block) {
      uint32_t pairs[delta_block];
      bf16 even[delta_block], odd[delta_block];
      std::memcpy(pairs, keys, sizeof pairs);
      for (int s = 0; s < delta_block; ++s) {
        even[s] = static_cast<bf16>(pairs[s]);
        odd[s] = static_cast<bf16>(pairs[s] >> 16);
      }
      std::memcpy(by_dim, even, sizeof even);
      std::memcpy(by_dim + delta_block, odd, sizeof odd);
    }
  }

  // out[rows, 16 W] = a[rows, 2 pairs] · b, R rows at a time.
  template <int R, int W>
  static void tiles_of_rows(int rows, const bf16 *a, int stride, const bf16 *b, int pairs, float *out) {
    const int tiles = (rows + R - 1) / R;
    for (int t = 0; t < tiles; ++t) {
      const int row = rows * t / tiles, end = rows * (t + 1) / tiles;
      tile_of_rows<R, W>(end - row, a + static_cast<ptrdiff_t>(row) * stride, stride, b, pairs, out + row * 16 * W);
    }
  }

  template <int R, int W>
  [[gnu::noinline]] static void tile_of_rows(int rows, const bf16 *a, int stride, const bf16 *b, int pairs, float *out) {
    if constexpr (R > 1)
      if (rows < R) return tile_of_rows<R - 1, W>(rows, a, stride, b, pairs, out);
    F acc[R][W];
    zero_tile<Simd>(acc);
    dot_tile<Simd>(a, stride, b, 32 * W, 32, pairs, acc);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int w = 0; w < W; ++w) Simd::store(out + (r * W + w) * 16, acc[r][w]);
  }

  // One strip, and what its rows need.
  template <int W>
  struct Strip {
    static constexpr int width = 16 * W;
    int dim;  // of a key, padded
    float *state, *changes, *decays, *decayed;
    alignas(64) bf16 rounded[max_key_dim * width];     // S in pairs of keys
    alignas(64) float recalled[2 * delta_block * width];  // Sᵀk and Sᵀq of the block's rows
    alignas(64) bf16 shares[delta_block * width];      // D δ in pairs of rows

    Strip(float *memory, int dim)
        : dim(dim), state(memory), changes(state + dim * width), decays(changes + delta_block * width), decayed(decays + delta_block) {
      for (int i = 0; i < dim; i += 2) round_pair(i, state + i * width, state + (i + 1) * width);
    }

    void round_pair(int key, const float *even, const float *odd) {
      for (int w = 0; w < W; ++w) Simd::store_pairs(rounded + (key * W + 2 * w) * 16, Simd::load(even + w * 16), Simd::load(odd + w * 16));
    }

    // What a block's rows are given, from its row `begun` on.
    struct RowInputs {
      const float *products;  // [rows, 2, delta_block] of each row's k, then of its q, with the block's keys
      const float *betas, *decays;
      ptrdiff_t gate_stride;
      float *v;
      ptrdiff_t v_stride;
      int columns;
    };

    // δ and o of N rows from the block's row t on, the i-th that the call has. A row takes up the changes before it in their
    // order, whatever N is.
    template <int N>
    [[gnu::always_inline]] inline void run_together(int t, int i, const RowInputs &in, F &decay_of, float &g) {
      alignas(64) float of_k[N][delta_block], of_q[N][delta_block];
      F rest[N][W], o[N][W];
      const float *products = in.products + i * 2 * delta_block, *with_s = recalled + i * 2 * width;
      float *v = in.v + i * in.v_stride;
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n, products += 2 * delta_block, with_s += 2 * width) {
        const float decay = in.decays[(i + n) * in.gate_stride];
        g *= decay;
        // The row's own change has not decayed; rows after it have none yet.
        decay_of = Simd::keep_lanes(Simd::mul(decay_of, Simd::set(decay)), 0, t + n - 1, 1);
        Simd::store(of_k[n], Simd::mul(Simd::sub(Simd::set(0), decay_of), Simd::load(products)));  // to be taken away
        Simd::store(of_q[n], Simd::mul(decay_of, Simd::load(products + delta_block)));
#pragma GCC unroll 8
        for (int w = 0; w < W; ++w) {
          const F value = Simd::load_n(v + n * in.v_stride + w * 16, in.columns - w * 16);
          rest[n][w] = Simd::sub(value, Simd::mul(Simd::set(g), Simd::load(with_s + w * 16)));
          o[n][w] = Simd::mul(Simd::set(g), Simd::load(with_s + width + w * 16));
        }
      }
      for (int s = 0; s < t; ++s) {
        F change[W];
#pragma GCC unroll 8
        for (int w = 0; w < W; ++w) change[w] = Simd::load(changes + s * width + w * 16);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) add_change(of_k[n][s], of_q[n][s], change, rest[n], o[n]);
      }
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        const F beta = Simd::set(in.betas[(i + n) * in.gate_stride]);
#pragma GCC unroll 8
        for (int w = 0; w < W; ++w) {
          rest[n][w] = Simd::mul(beta, rest[n][w]);
          Simd::store(changes + (t + n) * width + w * 16, rest[n][w]);
          o[n][w] = Simd::fma(Simd::set(of_q[n][t + n]), rest[n][w], o[n][w]);
          Simd::store_n(v + n * in.v_stride + w * 16, o[n][w], in.columns - w * 16);
        }
#pragma GCC unroll 8
        for (int later = n + 1; later < N; ++later) add_change(of_k[later][t + n], of_q[later][t + n], rest[n], rest[later], o[later]);
      }
    }

    [[gnu::always_inline]] static inline void add_change(float of_k, float of_q, const F (&change)[W], F (&rest)[W], F (&o)[W]) {
      const F share_k = Simd::set(of_k), share_q = Simd::set(of_q);
#pragma GCC unroll 8
      for (int w = 0; w < W; ++w) {
        rest[w] = Simd::fma(share_k, change[w], rest[w]);
        o[w] = Simd::fma(share_q, change[w], o[w]);
      }
    }

    void run_rows(int begun, int rows, const RowInputs &in) {
      constexpr int N = Simd::strip_together;
      F decay_of = Simd::load(decays);  // D_ts of the row before
      float g = begun == 0 ? 1 : *decayed;
      for (int i = 0; i < rows;) {
        if ((begun + i) % N == 0 && i + N <= rows) {
          run_together<N>(begun + i, i, in, decay_of, g);
          i += N;
        } else {
          run_together<1>(begun + i, i, in, decay_of, g);
          i++;
        }
      }
      Simd::store(decays, decay_of);
      *decayed = g;
    }

    // S ← G S + Σ_s k_s ⊗ D_s δ_s
    void end_block(const bf16 *by_dim) {
      constexpr int R = Simd::strip_keys;
      for (int s = 0; s < delta_block; s += 2)
        for (int w = 0; w < W; ++w) {
          const float *even = changes + s * width + w * 16, *odd = even + width;
          Simd::store_pairs(shares + (s * W + 2 * w) * 16, Simd::mul(Simd::set(decays[s]), Simd::load(even)),
                            Simd::mul(Simd::set(decays[s + 1]), Simd::load(odd)));
        }
      const F factor = Simd::set(*decayed);
      for (int key = 0; key < dim; key += R) {
        F acc[R][W];
        float *at = state + key * width;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
          for (int w = 0; w < W; ++w) acc[r][w] = Simd::mul(factor, Simd::load(at + (r * W + w) * 16));
        dot_tile<Simd>(by_dim + key * delta_block, delta_block, shares, 32 * W, 32, delta_block / 2, acc);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
          for (int w = 0; w < W; ++w) Simd::store(at + (r * W + w) * 16, acc[r][w]);
#pragma GCC unroll 8
        for (int r = 0; r < R; r += 2)
#pragma GCC unroll 8
          for (int w = 0; w < W; ++w) Simd::store_pairs(rounded + ((key + r) * W + 2 * w) * 16, acc[r][w], acc[r + 1][w]);
      }
    }
  };

  template <int W>
  static void strip(const Task &task, const DeltaShape &shape, const DeltaRows &rows) {
    const int dim = shape.padded_key_dim(), columns = shape.value_dim - task.column;
    const int key_head = task.head / (shape.value_heads / shape.key_heads);
    const ptrdiff_t offset = static_cast<ptrdiff_t>(task.column) * (dim + delta_block) + task.column / 16 * 2 * delta_block;
    Strip<W> strip(task.blocks->group->state + task.head * shape.head_state() + offset, dim);
    for (const Block *block = task.blocks; block != task.blocks + task.count; ++block) {
      const ptrdiff_t first = static_cast<ptrdiff_t>(key_head) * rows.rows + block->first;
      tiles_of_rows<Simd::strip_rows, W>(2 * block->rows, rows.directions + first * 2 * dim, dim, strip.rounded, dim / 2,
                                         strip.recalled);
      const ptrdiff_t gates = static_cast<ptrdiff_t>(block->first) * shape.value_heads + task.head;
      float *v = rows.mixed + static_cast<ptrdiff_t>(block->first) * shape.conv_width() + 2 * shape.key_width();
      strip.run_rows(block->begun, block->rows,
                     {rows.products + first * 2 * delta_block, rows.betas + gates, rows.decays + gates, shape.value_heads,
                      v + task.head * shape.value_dim + task.column, shape.conv_width(), columns});
      if (block->ends()) strip.end_block(block->keys + (2 * key_head + 1) * shape.head_keys());
    }
  }

  template <int W>
  static void strip_of_vectors(int vectors, const Task &task, const DeltaShape &shape, const DeltaRows &rows) {
    if constexpr (W > 1)
      if (vectors < W) return strip_of_vectors<W - 1>(vectors, task, shape, rows);
    strip<W>(task, shape, rows);
  }

  static std::vector<Block> blocks_of(const DeltaGroup *groups, int count, const DeltaShape &shape, const DeltaRows &rows) {
    std::vector<Block> out;
    bf16 *keys = rows.blocks;
    for (const DeltaGroup *group = groups; group != groups + count; ++group) {
      int begun = *group->begun;
      for (int done = 0; done < group->rows; begun = 0) {
        const int rows_of = std::min(group->rows - done, delta_block - begun);
        out.push_back({group, group->first + done, rows_of, begun, keys});
        keys += 2 * shape.key_heads * shape.head_keys();
        done += rows_of;
      }
    }
    return out;
  }

  static void run(const DeltaGroup *groups, int count, const DeltaShape &shape, const DeltaRows &rows) {
    const std::vector<Block> blocks = blocks_of(groups, count, shape, rows);
    std::vector<Task> tasks;
    int64_t total_rows = 0;
    for (size_t end = blocks.size(), begin; end > 0; end = begin) {  // chunks of prompts come last, and take longest
      for (begin = end; begin > 0 && blocks[begin - 1].group == blocks[end - 1].group; --begin) total_rows += blocks[begin - 1].rows;
      for (int head = 0; head < shape.value_heads; ++head)
        for (int column = 0; column < shape.value_dim; column += strip_columns)
          tasks.push_back({&blocks[begin], static_cast<int>(end - begin), head, column});
    }
    const int pairs = static_cast<int>(blocks.size()) * shape.key_heads, total = static_cast<int>(tasks.size());
#pragma omp parallel if (total > 1 && total_rows * shape.value_heads * shape.head_state() * 3 >= parallel_multiplications)
    {
#pragma omp for schedule(static)
      for (int i = 0; i < pairs; ++i) multiply_keys(blocks[i / shape.key_heads], shape, rows, i % shape.key_heads);
#pragma omp for schedule(dynamic)
      for (int t = 0; t < total; ++t)
        strip_of_vectors<Simd::strip_vectors>(std::min(strip_columns, shape.value_dim - tasks[t].column + 15) / 16, tasks[t], shape,
                                              rows);
    }
    for (const Block &block : blocks) {
      *block.group->begun = (block.begun + block.rows) % delta_block;
      for (int head = 0; head < shape.key_heads && !block.ends(); ++head)
        std::memcpy(block.group->keys + head * shape.head_keys(), block.keys + 2 * head * shape.head_keys(),
                    sizeof(bf16) * shape.head_keys());
    }
  }
};

}  // namespace up::cpu
