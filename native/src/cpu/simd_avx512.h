// Sixteen f32 lanes of AVX-512 with BF16; the members are described at Portable.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "kernels.h"

namespace up::cpu {

struct Avx512 {
  using F = __m512;
  using Pair = __m512i;
  using Pairs = __m512i;

  // 24 accumulators, 4 vectors of weights, a broadcast: 29 of 32 registers.
  static constexpr int tile_rows = 6;
  static constexpr int tile_vectors = 4;
  // Of DeltaRecurrence: vectors of a strip, rows and keys that are multiplied with it at once, rows that change it together.
  static constexpr int strip_vectors = 2;
  static constexpr int strip_rows = 8;
  static constexpr int strip_keys = 8;
  static constexpr int strip_together = 4;

  static __mmask16 first_lanes(int n) { return n >= 16 ? 0xffff : static_cast<__mmask16>((1u << n) - 1); }

  static F set(float x) { return _mm512_set1_ps(x); }
  static F load(const float *p) { return _mm512_loadu_ps(p); }
  static F load_n(const float *p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
  static void store(float *p, F x) { _mm512_storeu_ps(p, x); }
  static void store_n(float *p, F x, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), x); }
  static void store_bf16(bf16 *p, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), (__m256i)_mm512_cvtneps_pbh(x));
  }
  static void store_bf16_n(bf16 *p, F x, int n) {
    _mm256_mask_storeu_epi16(p, first_lanes(n), (__m256i)_mm512_cvtneps_pbh(x));
  }

  static void store_pairs(bf16 *p, F even, F odd) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19,
                                           3, 18, 2, 17, 1, 16, 0);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even)));
  }

  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F floor(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
  static F fraction(F x) { return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
  // Unlike the other instruction sets, this one also yields denormals.
  static F scale_by_power(F x, F power) { return _mm512_scalef_ps(x, power); }

  static float sum(F x) { return _mm512_reduce_add_ps(x); }
  static float greatest(F x) { return _mm512_reduce_max_ps(x); }
  static bool any_greater(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
  static bool all_finite(F x) {
    return _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(__builtin_inff()), _CMP_LT_OQ) == 0xffff;
  }
  static F keep_lanes(F x, int first, int last, float other) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __mmask16 keep = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(first)) &
                           _mm512_cmple_epi32_mask(lane, _mm512_set1_epi32(last));
    return _mm512_mask_blend_ps(keep, _mm512_set1_ps(other), x);
  }
  static F flush(F x) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(0x1p-126f), _CMP_NLT_UQ), x);
  }

  static Pair pair(const bf16 *p) {
    int bits;
    std::memcpy(&bits, p, sizeof bits);
    return _mm512_set1_epi32(bits);
  }
  static Pairs pairs(const bf16 *p) { return _mm512_loadu_si512(p); }
  static F dot(F sum, Pair a, Pairs b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
};

}  // namespace up::cpu
