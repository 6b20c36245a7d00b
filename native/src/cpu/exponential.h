// 2^x, e^x and what is made of them by polynomials, the same bits on every path of one instruction set.
#pragma once

#include "kernels.h"

namespace up::cpu {

constexpr float log2_e = 1.44269504f;

// 2^r for r in [0, 1]: minimax with the constant term held at 1, relative error 2.0e-9 before rounding.
template <class Simd>
[[gnu::always_inline]] inline typename Simd::F exp2_fraction(typename Simd::F r) {
  typename Simd::F p = Simd::set(0x1.c54174p-13f);
  p = Simd::fma(p, r, Simd::set(0x1.46d64ep-10f));
  p = Simd::fma(p, r, Simd::set(0x1.3d0b92p-7f));
  p = Simd::fma(p, r, Simd::set(0x1.c68912p-5f));
  p = Simd::fma(p, r, Simd::set(0x1.ebfd58p-3f));
  p = Simd::fma(p, r, Simd::set(0x1.62e42cp-1f));
  return Simd::fma(p, r, Simd::set(1.0f));
}

// 2^x: exactly 1 at 0, 0 at -∞, NaN at NaN.
template <class Simd>
[[gnu::always_inline]] inline typename Simd::F exp2(typename Simd::F x) {
  return Simd::scale_by_power(exp2_fraction<Simd>(Simd::fraction(x)), x);
}

// e^x: exactly 1 at 0, 0 at -∞, +∞ from 89, NaN at NaN.
template <class Simd>
[[gnu::always_inline]] inline typename Simd::F exp(typename Simd::F x) {
  x = Simd::min(Simd::set(140), Simd::max(Simd::set(-140), x));
  const typename Simd::F n = Simd::floor(Simd::mul(x, Simd::set(log2_e)));
  // ln 2 in two parts; n times the first, of 15 bits, is exact.
  typename Simd::F r = Simd::fma(n, Simd::set(-0x1.62e4p-1f), x);
  r = Simd::fma(n, Simd::set(-0x1.7f7d1cp-20f), r);
  return Simd::scale_by_power(exp2_fraction<Simd>(Simd::mul(r, Simd::set(log2_e))), n);
}

// log(1 + e^x), relative error about 2e-7 where x > −80, 0 at -∞.
template <class Simd>
[[gnu::always_inline]] inline typename Simd::F softplus(typename Simd::F x) {
  using F = typename Simd::F;
  const F zero = Simd::set(0);
  const F y = exp<Simd>(Simd::sub(zero, Simd::max(Simd::sub(zero, x), x)));
  // log(1 + y) / y for y in [0, 1]: minimax, relative error 4.7e-9 before rounding.
  F p = Simd::set(-0x1.a9334ap-9f);
  p = Simd::fma(p, y, Simd::set(0x1.453efep-6f));
  p = Simd::fma(p, y, Simd::set(-0x1.d29cbap-5f));
  p = Simd::fma(p, y, Simd::set(0x1.b25358p-4f));
  p = Simd::fma(p, y, Simd::set(-0x1.397560p-3f));
  p = Simd::fma(p, y, Simd::set(0x1.92f696p-3f));
  p = Simd::fma(p, y, Simd::set(-0x1.ff0f88p-3f));
  p = Simd::fma(p, y, Simd::set(0x1.554c80p-2f));
  p = Simd::fma(p, y, Simd::set(-0x1.ffffbep-2f));
  p = Simd::fma(p, y, Simd::set(1.0f));
  return Simd::fma(p, y, Simd::max(zero, x));
}

// tanh(x), absolute error about 1e-7.
template <class Simd>
[[gnu::always_inline]] inline typename Simd::F tanh(typename Simd::F x) {
  const typename Simd::F one = Simd::set(1);
  const typename Simd::F e = exp<Simd>(Simd::add(x, x));
  return Simd::sub(one, Simd::div(Simd::set(2), Simd::add(e, one)));
}

}  // namespace up::cpu
