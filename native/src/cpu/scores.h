// Scaled scores of a tile of keys, in units of log 2.
#pragma once

#include "dot_tile.h"
#include "exponential.h"
#include "kv_layout.h"

namespace up::cpu {

// scores[r, key] = q_r · k for the 64 keys of a tile; `queries` [R, head_dim] are consecutive.
template <class Simd, int R>
[[gnu::always_inline]] inline void dot_keys(const bf16 *queries, int head_dim, const bf16 *keys,
                                            float (*scores)[tile_keys]) {
  constexpr int W = Simd::tile_vectors;
#pragma GCC unroll 1
  for (int first = 0; first < tile_keys / 16; first += W) {
    typename Simd::F acc[R][W];
    zero_tile<Simd>(acc);
    dot_tile<Simd>(queries, head_dim, keys + static_cast<ptrdiff_t>(first) * 16 * head_dim, 32, head_dim * 16,
                   head_dim / 2, acc);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < W; ++v) Simd::store(scores[r] + (first + v) * 16, acc[r][v]);
  }
}

// From a dot product to a score whose power of two is the softmax numerator.
template <class Simd>
struct ScoreScale {
  float factor;  // log2(e) · scale without a cap
  float cap;     // log2(e) · soft_cap, or 0
  float inner;   // scale / soft_cap

  explicit ScoreScale(const AttentionShape &shape)
      : factor(shape.scale * log2_e),
        cap(shape.soft_cap * log2_e),
        inner(shape.soft_cap == 0 ? 0 : shape.scale / shape.soft_cap) {}

  [[gnu::always_inline]] typename Simd::F operator()(typename Simd::F dot) const {
    if (cap == 0) return Simd::mul(dot, Simd::set(factor));
    return Simd::mul(Simd::set(cap), tanh<Simd>(Simd::mul(dot, Simd::set(inner))));
  }
};

}  // namespace up::cpu
