// Accuracy and exact values of the exponential of one SIMD type. Included after `#pragma GCC target`, see
// kernel_table.h.
#pragma once

#include "../src/cpu/exponential.h"
#include "check.h"

// Error of `got` in units of the last place of `expected`.
static inline double ulps(float got, double expected) {
  const double unit = std::ldexp(1.0, std::ilogb(expected) - 23);
  return std::fabs(got - expected) / unit;
}

template <class Simd>
static void check_exponential() {
  using F = typename Simd::F;
  alignas(64) float x[16], power[16], natural[16], tangent[16], soft[16];
  double worst_power = 0, worst_natural = 0, worst_tangent = 0, worst_soft = 0;
  // Every 16 neighbours of a grid over the range of normal results.
  for (int step = 0; step < 40000; ++step) {
    for (int i = 0; i < 16; ++i) x[i] = -86.0f + 0.0043f * static_cast<float>(step) + 0.00026f * static_cast<float>(i);
    const F v = Simd::load(x);
    Simd::store(power, up::cpu::exp2<Simd>(v));
    Simd::store(natural, up::cpu::exp<Simd>(v));
    Simd::store(tangent, up::cpu::tanh<Simd>(v));
    Simd::store(soft, up::cpu::softplus<Simd>(v));
    for (int i = 0; i < 16; ++i) {
      worst_power = std::fmax(worst_power, ulps(power[i], std::exp2(static_cast<double>(x[i]))));
      worst_natural = std::fmax(worst_natural, ulps(natural[i], std::exp(static_cast<double>(x[i]))));
      worst_tangent = std::fmax(worst_tangent, std::fabs(tangent[i] - std::tanh(static_cast<double>(x[i]))));
      const double softplus = std::log1p(std::exp(static_cast<double>(x[i])));
      if (x[i] > -80) worst_soft = std::fmax(worst_soft, std::fabs(soft[i] / softplus - 1));
    }
  }
  CHECK(worst_power <= 1.5, "2^x is off by %g ulp", worst_power);
  CHECK(worst_natural <= 2, "e^x is off by %g ulp", worst_natural);
  CHECK(worst_tangent <= 2e-7, "tanh is off by %g", worst_tangent);
  CHECK(worst_soft <= 4e-7, "softplus is off by %g", worst_soft);

  const float infinity = __builtin_inff(), nan = __builtin_nanf("");
  const float special[16] = {0, -0.0f, -infinity, -1e30f, -200, nan, 1, -1, 126, -126, 10, -10, 3, -3, 0.5f, -0.5f};
  const float exact[16] = {1, 1, 0, 0, 0, nan, 2, 0.5f, 0x1p126f, 0x1p-126f, 1024, 0x1p-10f, 8, 0.125f, -1, -1};
  Simd::store(power, up::cpu::exp2<Simd>(Simd::load(special)));
  for (int i = 0; i < 14; ++i)
    CHECK(power[i] == exact[i] || (std::isnan(exact[i]) && std::isnan(power[i])), "2^%g is %g", special[i], power[i]);
  Simd::store(natural, up::cpu::exp<Simd>(Simd::load(special)));
  CHECK(natural[0] == 1 && natural[1] == 1 && natural[2] == 0 && natural[3] == 0 && natural[4] == 0 &&
        std::isnan(natural[5]));
  const float large[16] = {89, 100, 1e30f, infinity};
  Simd::store(natural, up::cpu::exp<Simd>(Simd::load(large)));
  for (int i = 0; i < 4; ++i) CHECK(natural[i] == infinity, "e^%g is %g", large[i], natural[i]);
  Simd::store(soft, up::cpu::softplus<Simd>(Simd::load(special)));
  CHECK(soft[2] == 0 && std::isnan(soft[5]), "softplus of -∞ is %g, of NaN %g", soft[2], soft[5]);
  Simd::store(soft, up::cpu::softplus<Simd>(Simd::load(large)));
  CHECK(soft[0] == 89 && soft[2] == 1e30f && soft[3] == infinity, "softplus of 89, 1e30 and ∞: %g %g %g", soft[0], soft[2], soft[3]);
}
