// Root-mean-square normalisation of rows.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "kernels.h"
#include "parallel.h"

namespace up::cpu {

// 1 / sqrt(mean(x²) + eps) of one row.
template <class Simd>
[[gnu::always_inline]] inline typename Simd::F rms_factor(const float *x, int width, float eps) {
  typename Simd::F squares = Simd::set(0);
  for (int i = 0; i < width; i += 16) {
    const typename Simd::F v = Simd::load_n(x + i, width - i);
    squares = Simd::fma(v, v, squares);
  }
  return Simd::set(1.0f / std::sqrt(Simd::sum(squares) / static_cast<float>(width) + eps));
}

template <class Simd>
void rms_norm(const float *x, int rows, int width, const float *weight, float eps, bf16 *out) {
  using F = typename Simd::F;
#pragma omp parallel for schedule(static) if (static_cast <int64_t>(rows) * width >= parallel_elements)
  for (int row = 0; row < rows; ++row) {
    const float *from = x + static_cast<ptrdiff_t>(row) * width;
    bf16 *to = out + static_cast<ptrdiff_t>(row) * width;
    const F factor = rms_factor<Simd>(from, width, eps);
    for (int i = 0; i < width; i += 16) {
      const F v = Simd::mul(Simd::load_n(from + i, width - i), factor);
      Simd::store_bf16_n(to + i, Simd::mul(v, Simd::load_n(weight + i, width - i)), width - i);
    }
  }
}

template <class Simd>
void add_rms_norm(const float *x, int rows, int width, const float *weight, float eps, float *sum) {
  using F = typename Simd::F;
#pragma omp parallel for schedule(static) if (static_cast <int64_t>(rows) * width >= parallel_elements)
  for (int row = 0; row < rows; ++row) {
    const float *from = x + static_cast<ptrdiff_t>(row) * width;
    float *to = sum + static_cast<ptrdiff_t>(row) * width;
    const F factor = rms_factor<Simd>(from, width, eps);
    for (int i = 0; i < width; i += 16) {
      const F v = Simd::mul(Simd::load_n(from + i, width - i), factor);
      const F normed = Simd::mul(v, Simd::load_n(weight + i, width - i));
      Simd::store_n(to + i, Simd::add(Simd::load_n(to + i, width - i), normed), width - i);
    }
  }
}

}  // namespace up::cpu
