// Products that share their shapes, as the experts of a layer do: every panel and chunk of rows of each is a task.
#pragma once

#include <omp.h>

#include <algorithm>
#include <vector>

#include "gemm.h"

namespace up::cpu {

template <class Simd>
void gemm_parts(const GemmPart *parts, int count, int n, int k, int slices) {
  using G = Gemm<Simd>;
  struct Task {
    const GemmPart *part;
    int column, row;
  };
  std::vector<Task> tasks;
  int64_t rows = 0;
  for (const GemmPart *part = parts; part != parts + count; ++part) {
    rows += part->m;
    for (int column = 0; column < n; column += G::panel_columns)
      for (int row = 0; row < part->m; row += gemm_chunk_rows) tasks.push_back({part, column, row});
  }
  const int64_t total = static_cast<int64_t>(tasks.size());
#pragma omp parallel for schedule(dynamic, 4) if (rows * n * k >= parallel_multiplications)
  for (int64_t i = 0; i < total; ++i) {
    const auto [part, column, row] = tasks[i];
    G::template rows_by_panel<Simd::tile_vectors>(
        std::min(G::panel_columns, G::padded(n) - column) / 16, part->a + static_cast<ptrdiff_t>(row) * k, k,
        std::min(gemm_chunk_rows, part->m - row), static_cast<const bf16 *>(part->packed) + static_cast<size_t>(column) * k,
        k, slices, false, part->out + static_cast<ptrdiff_t>(row) * n + column, n, std::min(G::panel_columns, n - column));
  }
}

}  // namespace up::cpu
