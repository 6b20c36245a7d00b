// The one inner loop of every matrix product: a register tile of rows × vectors dot products over bf16 pairs.
#pragma once

#include <cstddef>

#include "kernels.h"

namespace up::cpu {

template <class Simd, int R, int W>
[[gnu::always_inline]] inline void zero_tile(typename Simd::F (&acc)[R][W]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < W; ++v) acc[r][v] = Simd::set(0);
}

// acc[r][v] += Σ_p a[r, pair p] · b[p, vector v], in order of p. Each (row, lane) is its own chain of sums, so a row's
// result does not depend on R.
//
//   a  R rows, `a_stride` elements apart, of `pairs` consecutive bf16 pairs
//   b  for each pair, `b_step` elements apart, W vectors of 16 pairs, `b_vector` elements apart
template <class Simd, int R, int W>
[[gnu::always_inline]] inline void dot_tile(const bf16 *a, ptrdiff_t a_stride, const bf16 *b, ptrdiff_t b_step,
                                            ptrdiff_t b_vector, int pairs, typename Simd::F (&acc)[R][W]) {
  for (int p = 0; p < pairs; ++p, a += 2, b += b_step) {
    typename Simd::Pairs w[W];
#pragma GCC unroll 16
    for (int v = 0; v < W; ++v) w[v] = Simd::pairs(b + v * b_vector);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const typename Simd::Pair x = Simd::pair(a + r * a_stride);
#pragma GCC unroll 16
      for (int v = 0; v < W; ++v) acc[r][v] = Simd::dot(acc[r][v], x, w[v]);
    }
  }
}

}  // namespace up::cpu
