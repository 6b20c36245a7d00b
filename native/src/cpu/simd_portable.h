// Sixteen f32 lanes in plain C++.
#pragma once

#include <cmath>
#include <cstring>

#include "bf16.h"

namespace up::cpu {

// What every Simd type offers: F, 16 f32 lanes; Pair, two bf16 values broadcast to all lanes; Pairs, 16 pairs of bf16
// values. Functions that end in `_n` touch the first n lanes only (n may exceed 16).
struct Portable {
  struct F {
    float lane[16];
  };
  struct Pair {
    float even, odd;
  };
  struct Pairs {
    float even[16], odd[16];
  };

  // The register tile of dot_tile: rows × (vectors · 16 columns).
  static constexpr int tile_rows = 4;
  static constexpr int tile_vectors = 1;
  // Of DeltaRecurrence: vectors of a strip, rows and keys that are multiplied with it at once, rows that change it together.
  static constexpr int strip_vectors = 1;
  static constexpr int strip_rows = 4;
  static constexpr int strip_keys = 4;
  static constexpr int strip_together = 1;

  static F set(float x) {
    F r;
    for (float &lane : r.lane) lane = x;
    return r;
  }
  static F load(const float *p) {
    F r;
    std::memcpy(r.lane, p, sizeof r.lane);
    return r;
  }
  static F load_n(const float *p, int n) {
    F r;
    for (int i = 0; i < 16; ++i) r.lane[i] = i < n ? p[i] : 0;
    return r;
  }
  static void store(float *p, const F &x) { std::memcpy(p, x.lane, sizeof x.lane); }
  static void store_n(float *p, const F &x, int n) {
    for (int i = 0; i < 16 && i < n; ++i) p[i] = x.lane[i];
  }
  static void store_bf16(bf16 *p, const F &x) {
    for (int i = 0; i < 16; ++i) p[i] = to_bf16(x.lane[i]);
  }
  static void store_bf16_n(bf16 *p, const F &x, int n) {
    for (int i = 0; i < 16 && i < n; ++i) p[i] = to_bf16(x.lane[i]);
  }

  // 16 pairs (even[i], odd[i]).
  static void store_pairs(bf16 *p, const F &even, const F &odd) {
    for (int i = 0; i < 16; ++i) {
      p[2 * i] = to_bf16(even.lane[i]);
      p[2 * i + 1] = to_bf16(odd.lane[i]);
    }
  }

  static F add(const F &a, const F &b) {
    F r;
    for (int i = 0; i < 16; ++i) r.lane[i] = a.lane[i] + b.lane[i];
    return r;
  }
  static F sub(const F &a, const F &b) {
    F r;
    for (int i = 0; i < 16; ++i) r.lane[i] = a.lane[i] - b.lane[i];
    return r;
  }
  static F mul(const F &a, const F &b) {
    F r;
    for (int i = 0; i < 16; ++i) r.lane[i] = a.lane[i] * b.lane[i];
    return r;
  }
  static F div(const F &a, const F &b) {
    F r;
    for (int i = 0; i < 16; ++i) r.lane[i] = a.lane[i] / b.lane[i];
    return r;
  }
  // a · b + c
  static F fma(const F &a, const F &b, const F &c) { return add(mul(a, b), c); }
  // The greater; b where either is NaN.
  static F max(const F &a, const F &b) {
    F r;
    for (int i = 0; i < 16; ++i) r.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return r;
  }
  // The smaller; b where either is NaN.
  static F min(const F &a, const F &b) {
    F r;
    for (int i = 0; i < 16; ++i) r.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
    return r;
  }
  // |x| < 2²².
  static F floor(const F &x) {
    F r;
    for (int i = 0; i < 16; ++i) {
      const float nearest = (x.lane[i] + 12582912.0f) - 12582912.0f;
      r.lane[i] = nearest > x.lane[i] ? nearest - 1 : nearest;
    }
    return r;
  }
  // x - floor(x); of less than -200, anything from 0 to 1.
  static F fraction(const F &x) {
    const F bounded = max(set(-200), x);
    return sub(bounded, floor(bounded));
  }
  // x · 2^floor(power): 0 where power < -126, infinite where power ≥ 128.
  static F scale_by_power(const F &x, const F &power) {
    const F n = floor(min(set(128), max(set(-127), power)));
    F r;
    for (int i = 0; i < 16; ++i) {
      const uint32_t bits = static_cast<uint32_t>(n.lane[i] == n.lane[i] ? static_cast<int>(n.lane[i]) + 127 : 127)
                            << 23;
      float scale;
      std::memcpy(&scale, &bits, sizeof scale);
      r.lane[i] = x.lane[i] * scale;
    }
    return r;
  }

  static float sum(const F &x) {
    float s[8];
    for (int i = 0; i < 8; ++i) s[i] = x.lane[i] + x.lane[i + 8];
    for (int i = 0; i < 4; ++i) s[i] += s[i + 4];
    return (s[0] + s[2]) + (s[1] + s[3]);
  }
  static float greatest(const F &x) {
    float m = x.lane[0];
    for (int i = 1; i < 16; ++i) m = x.lane[i] > m ? x.lane[i] : m;
    return m;
  }
  static bool any_greater(const F &a, const F &b) {
    bool any = false;
    for (int i = 0; i < 16; ++i) any |= a.lane[i] > b.lane[i];
    return any;
  }
  static bool all_finite(const F &x) {
    bool all = true;
    for (int i = 0; i < 16; ++i) all &= x.lane[i] - x.lane[i] == 0;
    return all;
  }
  // Lanes outside [first, last] replaced by `other`.
  static F keep_lanes(const F &x, int first, int last, float other) {
    F r;
    for (int i = 0; i < 16; ++i) r.lane[i] = i >= first && i <= last ? x.lane[i] : other;
    return r;
  }
  // Denormals replaced by 0.
  static F flush(const F &x) {
    F r;
    for (int i = 0; i < 16; ++i) r.lane[i] = std::fabs(x.lane[i]) < 1.17549435e-38f ? 0 : x.lane[i];
    return r;
  }

  static Pair pair(const bf16 *p) { return {from_bf16(p[0]), from_bf16(p[1])}; }
  static Pairs pairs(const bf16 *p) {
    Pairs r;
    for (int i = 0; i < 16; ++i) {
      r.even[i] = from_bf16(p[2 * i]);
      r.odd[i] = from_bf16(p[2 * i + 1]);
    }
    return r;
  }
  // sum + the dot product of each lane's pair with `a`
  static F dot(const F &sum, const Pair &a, const Pairs &b) {
    F r;
    for (int i = 0; i < 16; ++i) r.lane[i] = (sum.lane[i] + a.even * b.even[i]) + a.odd * b.odd[i];
    return r;
  }
};

}  // namespace up::cpu
