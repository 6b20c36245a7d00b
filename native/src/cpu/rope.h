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

template <class Simd, bool whole>
[[gnu::always_inline]] inline typename Simd::F load_part(const float *from, int n) {
  return whole ? Simd::load(from) : Simd::load_n(from, n);
}

template <class Simd, bool whole>
[[gnu::always_inline]] inline void store_part(bf16 *to, typename Simd::F x, int n) {
  if (whole) Simd::store_bf16(to, x);
  else Simd::store_bf16_n(to, x, n);
}

// One head of a row. `whole`: half of what turns is whole vectors.
template <class Simd, bool normed, bool whole>
[[gnu::always_inline]] inline void rope_head(const float *from, const Heads &heads, int half, const float *cos,
                                             const float *sin, bf16 *to) {
  using F = typename Simd::F;
  F factor = Simd::set(1);
  if constexpr (normed) factor = rms_factor<Simd>(from, heads.dim, heads.eps);
  const auto element = [&](int at, int n) {
    const F x = load_part<Simd, whole>(from + at, n);
    if constexpr (normed) return Simd::mul(Simd::mul(x, factor), load_part<Simd, whole>(heads.norm + at, n));
    return x;
  };
  for (int i = 0; i < half; i += 16) {
    const int n = half - i;
    const F c = load_part<Simd, whole>(cos + i, n), s = load_part<Simd, whole>(sin + i, n);
    const F first = element(i, n), second = element(half + i, n);
    const F minus_second = Simd::sub(Simd::set(0), second);
    store_part<Simd, whole>(to + i, Simd::fma(first, c, Simd::mul(minus_second, s)), n);
    store_part<Simd, whole>(to + half + i, Simd::fma(second, c, Simd::mul(first, s)), n);
  }
  for (int i = 2 * half; i < heads.dim; i += 16) store_part<Simd, whole>(to + i, element(i, heads.dim - i), heads.dim - i);
}

template <class Simd, bool normed, bool whole>
void rope_rows(const float *x, int ldx, int rows, const Heads &heads, const Rotation &rotation, bf16 *out) {
  const int half = rotation.dim / 2, width = heads.count * heads.dim;
#pragma omp parallel for schedule(static) if (static_cast <int64_t>(rows) * width >= parallel_elements)
  for (int row = 0; row < rows; ++row) {
    const float *from = x + static_cast<ptrdiff_t>(row) * ldx;
    bf16 *to = out + static_cast<ptrdiff_t>(row) * width;
    const ptrdiff_t angles = static_cast<ptrdiff_t>(rotation.positions[row]) * half;
    const float *cos = rotation.cos + angles, *sin = rotation.sin + angles;
    for (int head = 0; head < heads.count; ++head, from += heads.dim, to += heads.dim)
      rope_head<Simd, normed, whole>(from, heads, half, cos, sin, to);
  }
}

template <class Simd>
void rope(const float *x, int ldx, int rows, const Heads &heads, const Rotation &rotation, bf16 *out) {
  const bool whole = rotation.dim % 32 == 0 && heads.dim % 16 == 0;
  if (heads.norm)
    (whole ? rope_rows<Simd, true, true> : rope_rows<Simd, true, false>)(x, ldx, rows, heads, rotation, out);
  else
    (whole ? rope_rows<Simd, false, true> : rope_rows<Simd, false, false>)(x, ldx, rows, heads, rotation, out);
}

}  // namespace up::cpu
