// Gates: of feed-forward layers (SwiGLU, GeGLU) and of attention's output; and the cap of logits.
#pragma once

#include <omp.h>

#include <algorithm>

#include "bf16.h"
#include "exponential.h"
#include "parallel.h"

namespace up::cpu {

template <class Simd>
struct Silu {
  // x / (1 + e^−x)
  [[gnu::always_inline]] static inline typename Simd::F apply(typename Simd::F x) {
    const typename Simd::F e = exp<Simd>(Simd::sub(Simd::set(0), x));
    return Simd::div(x, Simd::add(Simd::set(1), e));
  }
};

template <class Simd>
struct Gelu {
  // ½ x (1 + tanh(y)) = x / (1 + e^−2y), y = √(2/π) (x + 0.044715 x³): keeps its digits where tanh nears −1.
  [[gnu::always_inline]] static inline typename Simd::F apply(typename Simd::F x) {
    using F = typename Simd::F;
    const F cube = Simd::mul(Simd::mul(x, x), x);
    const F y = Simd::mul(Simd::fma(cube, Simd::set(0.044715f), x), Simd::set(-1.5957691216f));
    return Simd::div(x, Simd::add(Simd::set(1), exp<Simd>(y)));
  }
};

template <class Simd, template <class> class Activation>
void gated_mul(const float *in, int rows, int inner, bf16 *out) {
  using F = typename Simd::F;
#pragma omp parallel for schedule(static) if (static_cast <int64_t>(rows) * inner >= parallel_elements)
  for (int row = 0; row < rows; ++row) {
    const float *gate = in + static_cast<ptrdiff_t>(row) * 2 * inner, *up = gate + inner;
    bf16 *to = out + static_cast<ptrdiff_t>(row) * inner;
    for (int i = 0; i < inner; i += 16) {
      const F g = Simd::load_n(gate + i, inner - i), u = Simd::load_n(up + i, inner - i);
      Simd::store_bf16_n(to + i, Simd::mul(Activation<Simd>::apply(g), u), inner - i);
    }
  }
}

template <class Simd>
[[gnu::always_inline]] inline typename Simd::F sigmoid(typename Simd::F x) {
  const typename Simd::F e = exp<Simd>(Simd::sub(Simd::set(0), x));
  return Simd::div(Simd::set(1), Simd::add(Simd::set(1), e));
}

template <class Simd>
void sigmoid_mul(const bf16 *gates, int64_t n, bf16 *x) {
#pragma omp parallel for schedule(static) if (n >= parallel_elements)
  for (int64_t begin = 0; begin < n; begin += 16) {
    const int count = static_cast<int>(std::min<int64_t>(16, n - begin));
    float gate[16] = {}, value[16] = {};
    for (int i = 0; i < count; ++i) {
      gate[i] = from_bf16(gates[begin + i]);
      value[i] = from_bf16(x[begin + i]);
    }
    Simd::store_bf16_n(x + begin, Simd::mul(Simd::load(value), sigmoid<Simd>(Simd::load(gate))), count);
  }
}

template <class Simd>
void soft_cap(float *x, int64_t n, float cap) {
  const typename Simd::F size = Simd::set(cap), inverse = Simd::set(1 / cap);
#pragma omp parallel for schedule(static) if (n >= parallel_elements)
  for (int64_t i = 0; i < n; i += 16) {
    const int count = static_cast<int>(std::min<int64_t>(16, n - i));
    const typename Simd::F share = tanh<Simd>(Simd::mul(Simd::load_n(x + i, count), inverse));
    Simd::store_n(x + i, Simd::mul(size, share), count);
  }
}

}  // namespace up::cpu
