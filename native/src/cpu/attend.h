// Softmax attention over paged keys and values.
//
// A task is a tile of query rows of one key-value head; the query heads that share it are rows of the tile. It walks
// tiles of 64 keys counted from row 0, each staying in the L1 cache while strips of R query rows pass: scores into a
// small buffer, powers of two rounded to bf16, then their product with the values added to the strip's f32 output.
//
// A row's reference exponent moves only when a score exceeds it by 8, so that rescaling is rare; a tile that a row does
// not see leaves its state untouched. Both depend on the row alone.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "scores.h"
#include "selection/sparsity.h"

namespace up::cpu {

constexpr int attend_task_rows = 48;
// Powers up to 2⁸ are summed before a row's reference moves.
constexpr float attend_headroom = 8;

// Query rows [begin, end) of one key-value head of a group, counted as row · heads_per_kv + head.
struct AttendTask {
  const Attention *group;
  int head;
  int begin, end;
};

// Query rows of a task, packed.
struct AttendRows {
  alignas(64) bf16 queries[attend_task_rows * max_head_dim];  // [row, head_dim]
  alignas(64) float output[attend_task_rows * max_head_dim];  // [row, head_dim], not yet divided by the sums
  alignas(64) float sums[attend_task_rows][16];               // 16 partial sums of powers
  float reference[attend_task_rows];                          // exponent that scores are relative to
  int lo[attend_task_rows], hi[attend_task_rows];             // visible keys, inclusive
  const uint32_t *blocks[attend_task_rows];                   // those of 64 that are visible, or nullptr for all
};

template <class Simd>
struct Attend {
  using F = typename Simd::F;

  // Turns one row of dot products with the keys from `first_key` on into powers of two in bf16.
  [[gnu::always_inline]] static inline void softmax_row(const float *dots, const ScoreScale<Simd> &scale, int first_key,
                                                        AttendRows &rows, int row, int head_dim, bf16 *powers) {
    F score[tile_keys / 16];
#pragma GCC unroll 8
    for (int v = 0; v < tile_keys / 16; ++v) score[v] = scale(Simd::load(dots + v * 16));
    const int lo = rows.lo[row] - first_key, hi = rows.hi[row] - first_key;
    if (lo > 0 || hi < tile_keys - 1) {
#pragma GCC unroll 8
      for (int v = 0; v < tile_keys / 16; ++v)
        score[v] = Simd::keep_lanes(score[v], lo - v * 16, hi - v * 16, -INFINITY);
    }
    const F top = Simd::max(Simd::max(score[0], score[1]), Simd::max(score[2], score[3]));
    if (Simd::any_greater(top, Simd::set(rows.reference[row] + attend_headroom))) [[unlikely]]
      raise_reference(Simd::greatest(top), rows, row, head_dim);
    const F reference = Simd::set(rows.reference[row]);
    F sum = Simd::load(rows.sums[row]);
#pragma GCC unroll 8
    for (int v = 0; v < tile_keys / 16; ++v) {
      const F power = exp2<Simd>(Simd::sub(score[v], reference));
      sum = Simd::add(sum, power);
      Simd::store_bf16(powers + v * 16, power);
    }
    Simd::store(rows.sums[row], sum);
  }

  [[gnu::noinline]] static void raise_reference(float reference, AttendRows &rows, int row, int head_dim) {
    const F factor = exp2<Simd>(Simd::sub(Simd::set(rows.reference[row]), Simd::set(reference)));
    rows.reference[row] = reference;
    Simd::store(rows.sums[row], Simd::mul(Simd::load(rows.sums[row]), factor));
    // Denormals would be flushed by the next product or not, depending on how many keys other rows see.
    for (float *out = rows.output + row * head_dim, *end = out + head_dim; out != end; out += 16)
      Simd::store(out, Simd::flush(Simd::mul(Simd::load(out), factor)));
  }

  // output[r, 16·W dims] += powers · values.
  template <int R, int W>
  [[gnu::always_inline]] static inline void add_values(const bf16 *powers, const bf16 *values, int head_dim, int keys,
                                                       float *output) {
    F acc[R][W];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < W; ++v) acc[r][v] = Simd::load(output + r * head_dim + v * 16);
    dot_tile<Simd>(powers, tile_keys, values, head_dim * 2, 32, keys / 2, acc);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < W; ++v) Simd::store(output + r * head_dim + v * 16, acc[r][v]);
  }

  template <int R, int W>
  [[gnu::always_inline]] static inline void add_remaining_values(int vectors, const bf16 *powers, const bf16 *values,
                                                                 int head_dim, int keys, float *output) {
    if constexpr (W > 0) {
      if (vectors == W) return add_values<R, W>(powers, values, head_dim, keys, output);
      add_remaining_values<R, W - 1>(vectors, powers, values, head_dim, keys, output);
    }
  }

  static bool sees_block(const uint32_t *blocks, int first_key) {
    static_assert(tile_keys == sparse_key_rows);
    const int block = first_key / tile_keys;
    return blocks == nullptr || (blocks[block / 32] >> (block % 32) & 1) != 0;
  }

  // One strip of R rows from `row` on against one tile of keys.
  template <int R>
  static void strip(AttendRows &rows, int row, const bf16 *keys, const bf16 *values, int first_key, int head_dim,
                    const ScoreScale<Simd> &scale) {
    unsigned seen = 0;
    int last = -1;
    for (int r = 0; r < R; ++r)
      if (rows.lo[row + r] < first_key + tile_keys && rows.hi[row + r] >= first_key && sees_block(rows.blocks[row + r], first_key)) {
        seen |= 1u << r;
        last = std::max(last, rows.hi[row + r]);
      }
    if (seen == 0) return;
    alignas(64) float dots[R][tile_keys];
    alignas(64) bf16 powers[R][tile_keys];
    dot_keys<Simd, R>(rows.queries + row * head_dim, head_dim, keys, dots);
    for (int r = 0; r < R; ++r)
      if (seen >> r & 1)
        softmax_row(dots[r], scale, first_key, rows, row + r, head_dim, powers[r]);
      else
        std::memset(powers[r], 0, sizeof powers[r]);
    // Groups of 16 beyond the last visible key may never have been written; zero times NaN is NaN.
    const int visible = std::min(tile_keys, (last - first_key) / 16 * 16 + 16);
    constexpr int W = Simd::tile_vectors;
    float *output = rows.output + row * head_dim;
    int dim = 0;
    for (; dim + W * 16 <= head_dim; dim += W * 16)
      add_values<R, W>(powers[0], values + dim * 2, head_dim, visible, output + dim);
    if (dim < head_dim)
      add_remaining_values<R, W - 1>((head_dim - dim) / 16, powers[0], values + dim * 2, head_dim, visible,
                                     output + dim);
  }

  template <int R>
  static void strip_of_rows(int count, AttendRows &rows, int row, const bf16 *keys, const bf16 *values, int first_key,
                            int head_dim, const ScoreScale<Simd> &scale) {
    if constexpr (R > 1)
      if (count < R) return strip_of_rows<R - 1>(count, rows, row, keys, values, first_key, head_dim, scale);
    strip<R>(rows, row, keys, values, first_key, head_dim, scale);
  }

  // Rounds output / sum to bf16; zeros for a row that saw no key.
  static void finish_row(const AttendRows &rows, int row, int head_dim, bf16 *to) {
    const float sum = Simd::sum(Simd::load(rows.sums[row]));
    const F factor = Simd::set(sum == 0 ? 0 : 1 / sum);
    for (int d = 0; d < head_dim; d += 16) {
      // Adding +0 gives a zero one sign, whatever products of zero went into it.
      const F out = Simd::mul(Simd::load(rows.output + row * head_dim + d), factor);
      Simd::store_bf16(to + d, Simd::add(out, Simd::set(0)));
    }
  }

  static void run(const AttendTask &task, const AttentionShape &shape) {
    const Attention &group = *task.group;
    const int head_dim = shape.head_dim, heads_per_kv = shape.heads / shape.kv_heads, count = task.end - task.begin;
    const ScoreScale<Simd> scale(shape);
    AttendRows rows;
    int first = INT32_MAX, last = -1;
    for (int i = 0; i < count; ++i) {
      const int row = (task.begin + i) / heads_per_kv,
                head = task.head * heads_per_kv + (task.begin + i) % heads_per_kv;
      std::memcpy(rows.queries + i * head_dim,
                  group.queries + (static_cast<ptrdiff_t>(row) * shape.heads + head) * head_dim,
                  sizeof(bf16) * head_dim);
      rows.lo[i] = group.lo ? group.lo[row] : 0;
      rows.hi[i] = group.hi[row];
      const int block = row / sparse_query_rows;
      rows.blocks[i] = block < group.sparse_blocks
                           ? group.bitmaps + (static_cast<ptrdiff_t>(task.head) * group.sparse_blocks + block) * group.words
                           : nullptr;
      rows.reference[i] = -FLT_MAX;
      first = std::min(first, rows.lo[i]);
      last = std::max(last, rows.hi[i]);
    }
    std::memset(rows.output, 0, sizeof(float) * count * head_dim);
    std::memset(rows.sums, 0, sizeof(float) * 16 * count);
    const int strips = (count + Simd::tile_rows - 1) / Simd::tile_rows;
    for (int key = first / tile_keys * tile_keys; key <= last; key += tile_keys) {
      const bf16 *keys = key_group(group.kv, key, task.head, head_dim);
      const bf16 *values = keys + group.kv.page_elements;
      for (int s = 0; s < strips; ++s) {
        const int begin = count * s / strips, end = count * (s + 1) / strips;
        strip_of_rows<Simd::tile_rows>(end - begin, rows, begin, keys, values, key, head_dim, scale);
      }
    }
    for (int i = 0; i < count; ++i) {
      const int row = (task.begin + i) / heads_per_kv,
                head = task.head * heads_per_kv + (task.begin + i) % heads_per_kv;
      finish_row(rows, i, head_dim, group.output + (static_cast<ptrdiff_t>(row) * shape.heads + head) * head_dim);
    }
  }

  static void attend(const Attention *groups, int count, const AttentionShape &shape) {
    const int heads_per_kv = shape.heads / shape.kv_heads;
    std::vector<AttendTask> tasks;
    int64_t multiplications = 0;
    for (int g = 0; g < count; ++g) {
      const int keys = groups[g].rows > 0 ? groups[g].hi[groups[g].rows - 1] + 1 : 0;
      multiplications += int64_t{2} * groups[g].rows * shape.heads * keys * shape.head_dim;
      const int rows = groups[g].rows * heads_per_kv, tiles = (rows + attend_task_rows - 1) / attend_task_rows;
      for (int head = 0; head < shape.kv_heads; ++head)
        for (int t = tiles - 1; t >= 0; --t)  // later rows see more keys: longest first
          tasks.push_back({&groups[g], head, t * attend_task_rows, std::min(rows, (t + 1) * attend_task_rows)});
    }
    const int total = static_cast<int>(tasks.size());
#pragma omp parallel for schedule(dynamic) if (total > 1 && multiplications >= parallel_multiplications)
    for (int t = 0; t < total; ++t) run(tasks[t], shape);
  }
};

}  // namespace up::cpu
