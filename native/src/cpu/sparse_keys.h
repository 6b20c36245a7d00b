// Which blocks of keys each block of 128 query rows reads (selection/sparsity.h), by the scores of every 16th row.
#pragma once

#include "score.h"
#include "selection/sparsity.h"

namespace up::cpu {

template <class Simd>
struct SparseKeys {
  using Sums = typename Score<Simd>::BlockSums;

  // One block of query rows, from row `first` of the segment on, and one KV head.
  static void choose(const bf16 *queries, int first, const KvPages &keys, const AttentionShape &shape, int kv_head, uint64_t p_q32,
                     uint32_t *bitmap) {
    const int head_dim = shape.head_dim, heads_per_kv = shape.heads / shape.kv_heads;
    const int blocks = (first + sparse_query_rows) / sparse_key_rows;
    const ScoreScale<Simd> scale(shape);
    std::vector<uint32_t> masses(static_cast<size_t>(blocks), 0);
    bf16 packed[sparse_samples * max_head_dim];
    bool finite = true;
    for (int h = 0; h < heads_per_kv; ++h) {
      const int head = kv_head * heads_per_kv + h;
      for (int q = 0; q < sparse_samples; ++q) {
        const ptrdiff_t row = sparse_sample_every * (q + 1) - 1;
        std::memcpy(packed + q * head_dim, queries + (row * shape.heads + head) * head_dim, sizeof(bf16) * head_dim);
      }
      Sums sums(sparse_samples, blocks);
      for (int key = 0; key < blocks * sparse_key_rows; key += tile_keys) {
        const bf16 *tile = key_group(keys, key, kv_head, head_dim);
        for (int q = 0; q < sparse_samples; q += Simd::tile_rows)
          finite &= Score<Simd>::template strip_of_rows<Simd::tile_rows>(
              sparse_samples - q, packed + q * head_dim, head_dim, {first + sparse_sample_every * (q + 1) - 1, sparse_sample_every}, tile,
              key, sparse_key_rows, scale, sums, q);
      }
      if (!finite) return keep_key_blocks(blocks, bitmap);
      for (int q = 0; q < sparse_samples; ++q) Score<Simd>::normalise(sums, q, blocks);
      for (int b = 0; b < blocks; ++b) {
        float mass = 0;
        for (int q = 0; q < sparse_samples; ++q) mass += sums.sum[static_cast<size_t>(q) * sums.stride + b];
        masses[static_cast<size_t>(b)] += static_cast<uint32_t>(mass * sparse_unit);
      }
    }
    choose_key_blocks(masses, p_q32, bitmap);
  }

  static void run(const bf16 *queries, int first, int blocks, const KvPages &keys, const AttentionShape &shape, uint64_t p_q32,
                  uint32_t *bitmaps) {
    const int words = sparse_words(first + blocks * sparse_query_rows);
    const int total = shape.kv_heads * blocks;
#pragma omp parallel for schedule(dynamic)
    for (int i = total - 1; i >= 0; --i) {
      const int block = i % blocks;
      choose(queries + static_cast<ptrdiff_t>(block) * sparse_query_rows * shape.heads * shape.head_dim,
             first + block * sparse_query_rows, keys, shape, i / blocks, p_q32, bitmaps + static_cast<ptrdiff_t>(i) * words);
    }
  }
};

}  // namespace up::cpu
