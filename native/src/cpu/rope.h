// Rotary position embedding, behind the norm of each head where there is one.
#pragma once

#include <omp.h>

#include <algorithm>

#include "kernels.h"
#include "parallel.h"
#include "rms_norm.h"

namespace up::cpu {

template <class Simd>
void round_rows(const float *x, int ldx, int rows, int width, bf16 *out) {
#pragma omp parallel for schedule(static) if (static_cast <int64_t>(rows) * width >= parallel_elements)
  for (int row = 0; row < rows; ++row) {
    const float *from = x + static_cast<ptrdiff_t>(row) * ldx;
    bf16 *to = out + static_cast<ptrdiff_t>(row) * width;
    for (int i = 0; i < width; i += 16) Simd::store_bf16_n(to + i, Simd::load_n(from + i, width - i), width - i);
  }
}

// One head of a row.
template <class Simd, bool normed>
[[gnu::always_inline]] inline void rope_head(const float *from, const Heads &heads, int half, const float *cos,
                                             const float *sin, bf16 *to) {
  using F = typename Simd::F;
  F factor = Simd::set(1);
  if constexpr (normed) factor = rms_factor<Simd>(from, heads.dim, heads.eps);
  const auto element = [&](int at, int n) {
    const F x = Simd::load_n(from + at, n);
    if constexpr (normed) return Simd::mul(Simd::mul(x, factor), Simd::load_n(heads.norm + at, n));
    return x;
  };
  for (int i = 0; i < half; i += 16) {
    const int n = half - i;
    const F c = Simd::load_n(cos + i, n), s = Simd::load_n(sin + i, n);
    const F first = element(i, n), second = element(half + i, n);
    const F minus_second = Simd::sub(Simd::set(0), second);
    Simd::store_bf16_n(to + i, Simd::fma(first, c, Simd::mul(minus_second, s)), n);
    Simd::store_bf16_n(to + half + i, Simd::fma(second, c, Simd::mul(first, s)), n);
  }
  for (int i = 2 * half; i < heads.dim; i += 16) Simd::store_bf16_n(to + i, element(i, heads.dim - i), heads.dim - i);
}

template <class Simd>
void rope(const float *x, int ldx, int rows, const Heads &heads, const Rotation &rotation, bf16 *out) {
  const int half = rotation.dim / 2, width = heads.count * heads.dim;
#pragma omp parallel for schedule(static) if (static_cast <int64_t>(rows) * width >= parallel_elements)
  for (int row = 0; row < rows; ++row) {
    const float *from = x + static_cast<ptrdiff_t>(row) * ldx;
    bf16 *to = out + static_cast<ptrdiff_t>(row) * width;
    const ptrdiff_t angles = static_cast<ptrdiff_t>(rotation.positions[row]) * half;
    const float *cos = rotation.cos + angles, *sin = rotation.sin + angles;
    for (int head = 0; head < heads.count; ++head, from += heads.dim, to += heads.dim)
      if (heads.norm)
        rope_head<Simd, true>(from, heads, half, cos, sin, to);
      else
        rope_head<Simd, false>(from, heads, half, cos, sin, to);
  }
}

}  // namespace up::cpu
