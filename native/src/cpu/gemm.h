// out = a · weightᵀ with bf16 operands and f32 sums.
//
// A packed weight is a row of panels of 16·W output columns (the last may have fewer vectors), each
// [k / 2][columns][2], zero beyond n. A task is one panel times a chunk of rows: the panel stays in the L2 cache while
// the rows pass, R at a time, through the register tile.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstring>

#include "dot_tile.h"
#include "parallel.h"

namespace up::cpu {

constexpr int gemm_chunk_rows = 96;

template <class Simd>
struct Gemm {
  using F = typename Simd::F;
  static constexpr int panel_columns = 16 * Simd::tile_vectors;

  static int padded(int n) { return (n + 15) / 16 * 16; }

  static size_t packed_bytes(int n, int k) { return sizeof(bf16) * static_cast<size_t>(padded(n)) * k; }

  static void pack(const bf16 *weight, int n, int k, void *packed) {
    const int panels = (n + panel_columns - 1) / panel_columns;
#pragma omp parallel for schedule(static) if (static_cast <int64_t>(n) * k >= parallel_multiplications)
    for (int panel = 0; panel < panels; ++panel) {
      const int first = panel * panel_columns, columns = std::min(panel_columns, padded(n) - first);
      bf16 *to = static_cast<bf16 *>(packed) + static_cast<size_t>(first) * k;
      for (int c = 0; c < columns; ++c) {
        const bf16 *from = weight + static_cast<size_t>(first + c) * k;
        for (int p = 0; p < k / 2; ++p) {
          bf16 *pair = to + (static_cast<size_t>(p) * columns + c) * 2;
          pair[0] = first + c < n ? from[2 * p] : 0;
          pair[1] = first + c < n ? from[2 * p + 1] : 0;
        }
      }
    }
  }

  // One register tile: R rows × W vectors of columns, of which `columns` exist.
  template <int R, int W>
  static void tile(const bf16 *a, int lda, const bf16 *panel, int k, int slices, bool accumulate, float *out, int ldo,
                   int columns) {
    const int slice = k / slices;
    F total[R][W];
    zero_tile<Simd>(total);
    dot_tile<Simd>(a, lda, panel, W * 32, 32, slice / 2, total);
    for (int begin = slice; begin < k; begin += slice) {
      F acc[R][W];
      zero_tile<Simd>(acc);
      dot_tile<Simd>(a + begin, lda, panel + static_cast<size_t>(begin) * W * 16, W * 32, 32, slice / 2, acc);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < W; ++v) total[r][v] = Simd::add(total[r][v], acc[r][v]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < W; ++v) {
        float *to = out + static_cast<ptrdiff_t>(r) * ldo + v * 16;
        const int n = columns - v * 16;
        if (n >= 16)
          Simd::store(to, accumulate ? Simd::add(Simd::load(to), total[r][v]) : total[r][v]);
        else
          Simd::store_n(to, accumulate ? Simd::add(Simd::load_n(to, n), total[r][v]) : total[r][v], n);
      }
  }

  template <int R, int W>
  static void tile_of_rows(int rows, const bf16 *a, int lda, const bf16 *panel, int k, int slices, bool accumulate,
                           float *out, int ldo, int columns) {
    if constexpr (R > 1)
      if (rows < R) return tile_of_rows<R - 1, W>(rows, a, lda, panel, k, slices, accumulate, out, ldo, columns);
    tile<R, W>(a, lda, panel, k, slices, accumulate, out, ldo, columns);
  }

  template <int W>
  static void rows_by_panel(int vectors, const bf16 *a, int lda, int m, const bf16 *panel, int k, int slices,
                            bool accumulate, float *out, int ldo, int columns) {
    if constexpr (W > 1)
      if (vectors < W) return rows_by_panel<W - 1>(vectors, a, lda, m, panel, k, slices, accumulate, out, ldo, columns);
    // Tiles of equal height: 8 rows are 4 + 4, not 6 + 2.
    const int tiles = (m + Simd::tile_rows - 1) / Simd::tile_rows;
    for (int t = 0; t < tiles; ++t) {
      const int row = static_cast<int>(static_cast<int64_t>(m) * t / tiles);
      const int end = static_cast<int>(static_cast<int64_t>(m) * (t + 1) / tiles);
      tile_of_rows<Simd::tile_rows, W>(end - row, a + static_cast<ptrdiff_t>(row) * lda, lda, panel, k, slices,
                                       accumulate, out + static_cast<ptrdiff_t>(row) * ldo, ldo, columns);
    }
  }

  static void gemm(const bf16 *a, int lda, int m, const void *packed, int n, int k, int slices, bool accumulate,
                   float *out, int ldo) {
    const int panels = (n + panel_columns - 1) / panel_columns;
    const int chunks = (m + gemm_chunk_rows - 1) / gemm_chunk_rows;
#pragma omp parallel for schedule(dynamic) if (static_cast <int64_t>(m) * n * k >= parallel_multiplications)
    for (int64_t task = 0; task < static_cast<int64_t>(panels) * chunks; ++task) {
      const int column = static_cast<int>(task / chunks) * panel_columns;
      const int row = static_cast<int>(task % chunks) * gemm_chunk_rows;
      const int vectors = std::min(panel_columns, padded(n) - column) / 16;
      rows_by_panel<Simd::tile_vectors>(
          vectors, a + static_cast<ptrdiff_t>(row) * lda, lda, std::min(gemm_chunk_rows, m - row),
          static_cast<const bf16 *>(packed) + static_cast<size_t>(column) * k, k, slices, accumulate,
          out + static_cast<ptrdiff_t>(row) * ldo + column, ldo, std::min(panel_columns, n - column));
    }
  }
};

}  // namespace up::cpu
