// Rotary position embedding.
#pragma once

#include <omp.h>

#include <algorithm>

#include "kernels.h"
#include "parallel.h"

namespace up::cpu {

template <class Simd>
void rope(const float *x, int ldx, int rows, int heads, int head_dim, const float *cos, const float *sin, bf16 *out) {
  using F = typename Simd::F;
  const int half = head_dim / 2;
#pragma omp parallel for schedule(static) if (static_cast <int64_t>(rows) * heads * head_dim >= parallel_elements)
  for (int row = 0; row < rows; ++row) {
    const float *from = x + static_cast<ptrdiff_t>(row) * ldx;
    bf16 *to = out + static_cast<ptrdiff_t>(row) * heads * head_dim;
    if (!cos) {
      for (int i = 0; i < heads * head_dim; i += 16)
        Simd::store_bf16_n(to + i, Simd::load_n(from + i, heads * head_dim - i), heads * head_dim - i);
      continue;
    }
    const float *row_cos = cos + static_cast<ptrdiff_t>(row) * half,
                *row_sin = sin + static_cast<ptrdiff_t>(row) * half;
    for (int head = 0; head < heads; ++head, from += head_dim, to += head_dim)
      for (int i = 0; i < half; i += 16) {
        const int n = half - i;
        const F c = Simd::load_n(row_cos + i, n), s = Simd::load_n(row_sin + i, n);
        const F first = Simd::load_n(from + i, n), second = Simd::load_n(from + half + i, n);
        const F minus_second = Simd::sub(Simd::set(0), second);
        Simd::store_bf16_n(to + i, Simd::fma(first, c, Simd::mul(minus_second, s)), n);
        Simd::store_bf16_n(to + half + i, Simd::fma(second, c, Simd::mul(first, s)), n);
      }
  }
}

}  // namespace up::cpu
