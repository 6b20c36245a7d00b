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

    // δ and o of a block's rows from row `begun` on. `products`: of each row's k, then of its q, with the block's keys.
    void run_rows(int begun, int rows, const float *products, const float *betas, const float *row_decays, int gate_stride, float *v,
                  ptrdiff_t v_stride, int columns) {
      F decay_of = Simd::load(decays), last[W];  // D_ts of the row before, and its δ
      float g = begun == 0 ? 1 : *decayed;
#pragma GCC unroll 8
      for (int w = 0; w < W; ++w) last[w] = Simd::load(changes + (begun == 0 ? 0 : begun - 1) * width + w * 16);
      for (int i = 0; i < rows; ++i, v += v_stride, products += 2 * delta_block) {
        const int t = begun + i;
        const float decay = row_decays[static_cast<ptrdiff_t>(i) * gate_stride];
        alignas(64) float of_k[delta_block], of_q[delta_block];
        g *= decay;
        // The row's own change has not decayed; rows after it have none yet.
        decay_of = Simd::keep_lanes(Simd::mul(decay_of, Simd::set(decay)), 0, t - 1, 1);
        Simd::store(of_k, Simd::mul(decay_of, Simd::load(products)));
        Simd::store(of_q, Simd::mul(decay_of, Simd::load(products + delta_block)));
        const float *with_s = recalled + i * 2 * width;
        F rest[W], o[W];
#pragma GCC unroll 8
        for (int w = 0; w < W; ++w) {
          const F factor = Simd::set(g);
          rest[w] = Simd::sub(Simd::load_n(v + w * 16, columns - w * 16), Simd::mul(factor, Simd::load(with_s + w * 16)));
          o[w] = Simd::mul(factor, Simd::load(with_s + width + w * 16));
        }
        for (int s = 0; s < t - 1; ++s) {
          const F share_k = Simd::set(-of_k[s]), share_q = Simd::set(of_q[s]);
#pragma GCC unroll 8
          for (int w = 0; w < W; ++w) {
            const F change = Simd::load(changes + s * width + w * 16);
            rest[w] = Simd::fma(share_k, change, rest[w]);
            o[w] = Simd::fma(share_q, change, o[w]);
          }
        }
#pragma GCC unroll 8
        for (int w = 0; w < W; ++w) {
          if (t > 0) {
            rest[w] = Simd::fma(Simd::set(-of_k[t - 1]), last[w], rest[w]);
            o[w] = Simd::fma(Simd::set(of_q[t - 1]), last[w], o[w]);
          }
          last[w] = Simd::mul(Simd::set(betas[static_cast<ptrdiff_t>(i) * gate_stride]), rest[w]);
          Simd::store(changes + t * width + w * 16, last[w]);
          Simd::store_n(v + w * 16, Simd::fma(Simd::set(of_q[t]), last[w], o[w]), columns - w * 16);
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
      strip.run_rows(block->begun, block->rows, rows.products + first * 2 * delta_block, rows.betas + gates, rows.decays + gates,
                     shape.value_heads, v + task.head * shape.value_dim + task.column, shape.conv_width(), columns);
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
