// The gate of a SwiGLU feed-forward layer.
#pragma once

#include <omp.h>

#include <algorithm>

#include "exponential.h"
#include "parallel.h"

namespace up::cpu {

template <class Simd>
void silu_mul(const float *in, int rows, int inner, bf16 *out) {
  using F = typename Simd::F;
#pragma omp parallel for schedule(static) if (static_cast <int64_t>(rows) * inner >= parallel_elements)
  for (int row = 0; row < rows; ++row) {
    const float *gate = in + static_cast<ptrdiff_t>(row) * 2 * inner, *up = gate + inner;
    bf16 *to = out + static_cast<ptrdiff_t>(row) * inner;
    for (int i = 0; i < inner; i += 16) {
      const F g = Simd::load_n(gate + i, inner - i), u = Simd::load_n(up + i, inner - i);
      const F e = exp<Simd>(Simd::sub(Simd::set(0), g));
      const F silu = Simd::div(g, Simd::add(Simd::set(1), e));
      Simd::store_bf16_n(to + i, Simd::mul(silu, u), inner - i);
    }
  }
}

}  // namespace up::cpu
