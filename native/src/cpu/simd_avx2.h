// Sixteen f32 lanes as two AVX2 registers; the members are described at Portable.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "kernels.h"

namespace up::cpu {

struct Avx2 {
  struct F {
    __m256 low, high;
  };
  struct Pair {
    __m256 even, odd;
  };
  struct Pairs {
    F even, odd;
  };

  // 8 accumulators, 4 registers of weights, 2 broadcasts: 14 of 16 registers.
  static constexpr int tile_rows = 4;
  static constexpr int tile_vectors = 1;
  // Of DeltaRecurrence: vectors of a strip, rows and keys that are multiplied with it at once, rows that change it together.
  static constexpr int strip_vectors = 1;
  static constexpr int strip_rows = 4;
  static constexpr int strip_keys = 4;
  static constexpr int strip_together = 2;

  static __m256i lanes() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  static __m256i before(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lanes()); }

  static F set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static F load_n(const float *p, int n) {
    return {_mm256_maskload_ps(p, before(n)), _mm256_maskload_ps(p + 8, before(n - 8))};
  }
  static void store(float *p, F x) {
    _mm256_storeu_ps(p, x.low);
    _mm256_storeu_ps(p + 8, x.high);
  }
  static void store_n(float *p, F x, int n) {
    _mm256_maskstore_ps(p, before(n), x.low);
    _mm256_maskstore_ps(p + 8, before(n - 8), x.high);
  }
  // Rounded bf16 bits in the low half of each 32-bit lane.
  static __m256i rounded(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
  }
  static void store_bf16(bf16 *p, F x) {
    const __m256i packed = _mm256_packus_epi32(rounded(x.low), rounded(x.high));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm256_permute4x64_epi64(packed, 0xd8));
  }
  static void store_bf16_n(bf16 *p, F x, int n) {
    alignas(32) bf16 all[16];
    store_bf16(all, x);
    std::memcpy(p, all, sizeof(bf16) * (n < 16 ? n : 16));
  }

  static __m256i pair_bits(__m256 even, __m256 odd) {
    return _mm256_or_si256(rounded(even), _mm256_slli_epi32(rounded(odd), 16));
  }
  static void store_pairs(bf16 *p, F even, F odd) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), pair_bits(even.low, odd.low));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p + 16), pair_bits(even.high, odd.high));
  }

  static F add(F a, F b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static F sub(F a, F b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
  static F mul(F a, F b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static F div(F a, F b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
  static F fma(F a, F b, F c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static F max(F a, F b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
  static F min(F a, F b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
  static F floor(F x) { return {_mm256_floor_ps(x.low), _mm256_floor_ps(x.high)}; }
  static F fraction(F x) {
    x = max(set(-200), x);
    return sub(x, floor(x));
  }
  static __m256 scale_by_power(__m256 x, __m256 power) {
    const __m256 n = _mm256_max_ps(_mm256_min_ps(_mm256_floor_ps(power), _mm256_set1_ps(128)), _mm256_set1_ps(-127));
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  }
  static F scale_by_power(F x, F power) {
    return {scale_by_power(x.low, power.low), scale_by_power(x.high, power.high)};
  }

  static float sum(F x) {
    const __m256 eight = _mm256_add_ps(x.low, x.high);
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
  }
  static float greatest(F x) {
    const __m256 eight = _mm256_max_ps(x.low, x.high);
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
  }
  static bool any_greater(F a, F b) {
    const __m256 low = _mm256_cmp_ps(a.low, b.low, _CMP_GT_OQ), high = _mm256_cmp_ps(a.high, b.high, _CMP_GT_OQ);
    return _mm256_movemask_ps(_mm256_or_ps(low, high)) != 0;
  }
  static bool all_finite(F x) {
    const __m256 zero = _mm256_setzero_ps();
    const __m256 low = _mm256_cmp_ps(_mm256_sub_ps(x.low, x.low), zero, _CMP_EQ_OQ);
    const __m256 high = _mm256_cmp_ps(_mm256_sub_ps(x.high, x.high), zero, _CMP_EQ_OQ);
    return _mm256_movemask_ps(_mm256_and_ps(low, high)) == 0xff;
  }
  static __m256 keep_lanes(__m256 x, int first, int last, float other) {
    const __m256i drop = _mm256_or_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(first), lanes()),
                                         _mm256_cmpgt_epi32(lanes(), _mm256_set1_epi32(last)));
    return _mm256_blendv_ps(x, _mm256_set1_ps(other), _mm256_castsi256_ps(drop));
  }
  static F keep_lanes(F x, int first, int last, float other) {
    return {keep_lanes(x.low, first, last, other), keep_lanes(x.high, first - 8, last - 8, other)};
  }
  static __m256 flush(__m256 x) {
    const __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
    return _mm256_and_ps(x, _mm256_cmp_ps(size, _mm256_set1_ps(0x1p-126f), _CMP_NLT_UQ));
  }
  static F flush(F x) { return {flush(x.low), flush(x.high)}; }

  // bf16 bits are the upper half of an f32.
  static __m256 even(__m256i pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
  static __m256 odd(__m256i pairs) {
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000))));
  }
  static Pair pair(const bf16 *p) {
    int bits;
    std::memcpy(&bits, p, sizeof bits);
    const __m256i all = _mm256_set1_epi32(bits);
    return {even(all), odd(all)};
  }
  static Pairs pairs(const bf16 *p) {
    const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p + 16));
    return {{even(low), even(high)}, {odd(low), odd(high)}};
  }
  static F dot(F sum, Pair a, const Pairs &b) {
    sum = {_mm256_fmadd_ps(a.even, b.even.low, sum.low), _mm256_fmadd_ps(a.even, b.even.high, sum.high)};
    return {_mm256_fmadd_ps(a.odd, b.odd.low, sum.low), _mm256_fmadd_ps(a.odd, b.odd.high, sum.high)};
  }
};

}  // namespace up::cpu
