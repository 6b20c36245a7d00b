// Attention mass of blocks of keys under the last query rows.
//
// Per head, pass one gives each (query, block) the greatest score and the sum of powers relative to it; a query's
// denominator is their sum over blocks in order; pass two adds each block's share over queries in order. No score
// outlives its tile.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <vector>

#include "scores.h"

namespace up::cpu {

constexpr float mass_unit = 0x1p40f;

template <class Simd>
struct Score {
  using F = typename Simd::F;

  // Per query, [queries, blocks padded to 16]: the greatest score of a block, and Σ 2^(score - greatest).
  struct BlockSums {
    int stride;
    std::vector<float> greatest, sum;

    BlockSums(int queries, int blocks)
        : stride((blocks + 15) / 16 * 16),
          greatest(static_cast<size_t>(queries) * stride, -FLT_MAX),
          sum(static_cast<size_t>(queries) * stride, 0.0f) {}
  };

  // Adds the keys [first_key, last_key] of a tile to the sums of their blocks.
  [[gnu::always_inline]] static inline bool add_row(const float *dots, const ScoreScale<Simd> &scale, int first_key,
                                                    int last_key, int block, float *greatest, float *sum) {
    F score[tile_keys / 16];
    bool finite = true;
#pragma GCC unroll 8
    for (int v = 0; v < tile_keys / 16; ++v) {
      score[v] = scale(Simd::load(dots + v * 16));
      finite &= Simd::all_finite(Simd::keep_lanes(score[v], 0, last_key - first_key - v * 16, 0));
    }
    for (int b = first_key / block; b <= last_key / block; ++b) {
      const int from = b * block - first_key, to = std::min(from + block - 1, last_key - first_key);
      F part[tile_keys / 16];
#pragma GCC unroll 8
      for (int v = 0; v < tile_keys / 16; ++v)
        part[v] = Simd::keep_lanes(score[v], from - v * 16, to - v * 16, -INFINITY);
      const float top = Simd::greatest(Simd::max(Simd::max(part[0], part[1]), Simd::max(part[2], part[3])));
      const float reference = top > greatest[b] ? top : greatest[b];
      F powers = Simd::set(0);
#pragma GCC unroll 8
      for (int v = 0; v < tile_keys / 16; ++v)
        powers = Simd::add(powers, exp2<Simd>(Simd::sub(part[v], Simd::set(reference))));
      const float before = power(greatest[b] - reference) * sum[b];
      sum[b] = before + Simd::sum(powers);
      greatest[b] = reference;
    }
    return finite;
  }

  static float power(float x) {
    alignas(64) float lanes[16];
    Simd::store(lanes, exp2<Simd>(Simd::set(x)));
    return lanes[0];
  }

  // The first query's row, and how far the next one's is.
  struct QueryRows {
    int first, step;
  };

  // R queries against the tile of keys from `first_key` on.
  template <int R>
  static bool strip(const bf16 *queries, int head_dim, QueryRows rows, const bf16 *keys, int first_key, int block,
                    const ScoreScale<Simd> &scale, BlockSums &sums, int query) {
    alignas(64) float dots[R][tile_keys];
    dot_keys<Simd, R>(queries, head_dim, keys, dots);
    bool finite = true;
    for (int r = 0; r < R; ++r) {
      const int last = std::min(rows.first + r * rows.step, first_key + tile_keys - 1);
      if (last < first_key) continue;
      const size_t at = static_cast<size_t>(query + r) * sums.stride;
      finite &= add_row(dots[r], scale, first_key, last, block, &sums.greatest[at], &sums.sum[at]);
    }
    return finite;
  }

  template <int R>
  static bool strip_of_rows(int count, const bf16 *queries, int head_dim, QueryRows rows, const bf16 *keys, int first_key,
                            int block, const ScoreScale<Simd> &scale, BlockSums &sums, int query) {
    if constexpr (R > 1)
      if (count < R)
        return strip_of_rows<R - 1>(count, queries, head_dim, rows, keys, first_key, block, scale, sums, query);
    return strip<R>(queries, head_dim, rows, keys, first_key, block, scale, sums, query);
  }

  // Replaces each (query, block) sum by the block's share of the query.
  static void normalise(BlockSums &sums, int query, int blocks) {
    float *greatest = &sums.greatest[static_cast<size_t>(query) * sums.stride];
    float *sum = &sums.sum[static_cast<size_t>(query) * sums.stride];
    const float top = *std::max_element(greatest, greatest + blocks);
    F total = Simd::set(0);
    for (int b = 0; b < blocks; b += 16) {
      const F share = Simd::mul(Simd::load(sum + b), exp2<Simd>(Simd::sub(Simd::load(greatest + b), Simd::set(top))));
      Simd::store(sum + b, share);
      total = Simd::add(total, share);
    }
    const F factor = Simd::set(1.0f / Simd::sum(total));
    for (int b = 0; b < blocks; b += 16) Simd::store(sum + b, Simd::mul(Simd::load(sum + b), factor));
  }

  // Adds one head's masses.
  static bool head(const bf16 *queries, int q_rows, const KvPages &pages, int rows, int block,
                   const AttentionShape &shape, int head, uint64_t *masses) {
    const int head_dim = shape.head_dim, blocks = (rows + block - 1) / block;
    const ScoreScale<Simd> scale(shape);
    const int skipped = std::max(0, q_rows - rows);  // queries before row 0 see nothing
    queries += static_cast<ptrdiff_t>(skipped) * shape.heads * head_dim;
    q_rows -= skipped;
    std::vector<bf16> packed(static_cast<size_t>(q_rows) * head_dim);
    for (int q = 0; q < q_rows; ++q)
      std::memcpy(&packed[static_cast<size_t>(q) * head_dim],
                  queries + (static_cast<ptrdiff_t>(q) * shape.heads + head) * head_dim, sizeof(bf16) * head_dim);
    BlockSums sums(q_rows, blocks);
    bool finite = true;
    for (int key = 0; key < rows; key += tile_keys) {
      const bf16 *keys = key_group(pages, key, head / (shape.heads / shape.kv_heads), head_dim);
      for (int q = 0; q < q_rows; q += Simd::tile_rows)
        finite &= strip_of_rows<Simd::tile_rows>(q_rows - q, &packed[static_cast<size_t>(q) * head_dim], head_dim,
                                                 {rows - q_rows + q, 1}, keys, key, block, scale, sums, q);
    }
    if (!finite) return false;
    for (int q = 0; q < q_rows; ++q) normalise(sums, q, blocks);
    for (int b = 0; b < blocks; b += 16) {
      F mass = Simd::set(0);
      for (int q = 0; q < q_rows; ++q)
        mass = Simd::add(mass, Simd::load(&sums.sum[static_cast<size_t>(q) * sums.stride + b]));
      alignas(64) float lanes[16];
      Simd::store(lanes, mass);
      for (int i = 0; i < 16 && b + i < blocks; ++i) masses[b + i] += static_cast<uint64_t>(lanes[i] * mass_unit);
    }
    return true;
  }

  static bool score(const bf16 *queries, int q_rows, const KvPages &keys, int rows, int block,
                    const AttentionShape &shape, uint64_t *masses) {
    const int blocks = (rows + block - 1) / block;
    std::fill_n(masses, blocks, 0);
    bool finite = true;
#pragma omp parallel reduction(&& : finite)
    {
      std::vector<uint64_t> own(blocks, 0);
#pragma omp for schedule(dynamic)
      for (int h = 0; h < shape.heads; ++h)
        finite = head(queries, q_rows, keys, rows, block, shape, h, own.data()) && finite;
#pragma omp critical
      for (int b = 0; b < blocks; ++b) masses[b] += own[b];
    }
    return finite;
  }
};

}  // namespace up::cpu
