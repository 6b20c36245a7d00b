// Rounding to e4m3 against the list of its values.
#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "check.h"
#include "cpu/bf16.h"
#include "weights/quantization.h"

namespace {

using up::cpu::from_bf16;
using up::cpu::to_bf16;

// What e4m3 has from 0 to 448, in order: the place of a value is its bits.
std::vector<double> values() {
  std::vector<double> out;
  for (int bits = 0; bits < 0x7f; bits++) {
    const int exponent = bits >> 3, mantissa = bits & 7;
    out.push_back(exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10));
  }
  return out;
}

double nearest(double value, const std::vector<double> &all) {
  const double size = std::abs(value);
  const auto above = static_cast<size_t>(std::lower_bound(all.begin(), all.end(), size) - all.begin());
  if (above == 0) return 0;
  const double low = all[above - 1], high = all[above];
  const bool up = size - low == high - size ? above % 2 == 0 : size - low > high - size;
  return std::copysign(up ? high : low, value);
}

// Rows whose values have many sizes, zeros and both signs among them.
void check_rows(uint64_t seed) {
  static const std::vector<double> all = values();
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  const float size = std::ldexp(1.0f, static_cast<int>(random() % 60) - 30);
  std::vector<uint16_t> row;
  for (int i = 0; i < 512; i++) {
    const float spread = std::ldexp(1.0f, -static_cast<int>(random() % 24));
    row.push_back(random() % 16 == 0 ? 0 : to_bf16(normal(random) * size * spread));
  }
  float largest = 0;
  for (const uint16_t each : row) largest = std::max(largest, std::abs(from_bf16(each)));
  const double scale = up::fp8_scale(largest);
  CHECK(largest <= 448 * scale && largest > 224 * scale, "seed %d: scale %g of %g", static_cast<int>(seed), scale, largest);
  std::vector<uint16_t> rounded = row;
  std::vector<double> wide(row.size());
  std::transform(row.begin(), row.end(), wide.begin(), [](uint16_t each) { return from_bf16(each); });
  up::round_to_fp8(std::span(rounded));
  up::round_to_fp8(std::span(wide));
  for (size_t i = 0; i < row.size(); i++) {
    const double expected = nearest(from_bf16(row[i]) / scale, all) * scale;
    CHECK(from_bf16(rounded[i]) == expected, "seed %d: %g became %g, not %g", static_cast<int>(seed), from_bf16(row[i]), from_bf16(rounded[i]), expected);
    CHECK(wide[i] == expected, "seed %d: %g became %g in double precision, not %g", static_cast<int>(seed), from_bf16(row[i]), wide[i], expected);
  }
  std::vector<uint16_t> again = rounded;
  up::round_to_fp8(std::span(again));
  CHECK(again == rounded, "seed %d: rounding twice changes values", static_cast<int>(seed));
}

}  // namespace

int main() {
  for (uint64_t seed = 0; seed < 400; seed++) check_rows(seed);
  // Ties: 8.5 and 9.5 sixteenths of the range, between neighbours.
  std::vector<uint16_t> ties{to_bf16(448), to_bf16(17), to_bf16(19), to_bf16(-17), to_bf16(0.0009765625f), to_bf16(0.0029296875f)};
  up::round_to_fp8(std::span(ties));
  const float expected[] = {448, 16, 20, -16, 0, 0.00390625f};
  for (size_t i = 0; i < ties.size(); i++) CHECK(from_bf16(ties[i]) == expected[i], "tie %d became %g", static_cast<int>(i), from_bf16(ties[i]));
  for (const float broken : {INFINITY, NAN}) {
    std::vector<uint16_t> row{to_bf16(1), 0, 0};
    row[1] = static_cast<uint16_t>(std::bit_cast<uint32_t>(broken) >> 16);
    up::round_to_fp8(std::span(row));
    for (const uint16_t each : row) CHECK(std::isnan(from_bf16(each)), "a row with %g is %g", broken, from_bf16(each));
  }
  std::vector<uint16_t> zeros(32);
  up::round_to_fp8(std::span(zeros));
  CHECK(zeros == std::vector<uint16_t>(32), "zeros are zeros");
  CHECK(up::is_fp8(up::Quantization::fp8, up::MatrixKind::down, 64, 96) && !up::is_fp8(up::Quantization::none, up::MatrixKind::down, 64, 96) &&
            !up::is_fp8(up::Quantization::fp8, up::MatrixKind::down, 64, 88) && !up::is_fp8(up::Quantization::fp8, up::MatrixKind::lm_head, 64, 96),
        "which matrices");
  return check_result();
}
