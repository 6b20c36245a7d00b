#include "weights/quantization.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace up {
namespace {

float widen(uint16_t value) { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); }
uint16_t narrow(float value) { return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16); }

// Three bits of mantissa; below 2⁻⁶ the steps stay 2⁻⁹. Adding 1.5 · 2ⁿ⁺²³ and taking it away rounds to steps of 2ⁿ.
float round_scaled(float value) {
  const uint32_t exponent = std::bit_cast<uint32_t>(value) >> 23 & 0xff;
  const float step = std::bit_cast<float>((std::max(exponent, 127u - 6) + 20) << 23) * 1.5f;
  return value + step - step;
}

}  // namespace

bool is_fp8(Quantization quantization, MatrixKind kind, int n, int k) {
  if (quantization != Quantization::fp8 || n % 16 != 0 || k % 16 != 0) return false;
  switch (kind) {
    case MatrixKind::qkv:
    case MatrixKind::q:
    case MatrixKind::kv:
    case MatrixKind::o:
    case MatrixKind::delta_in:
    case MatrixKind::delta_out:
    case MatrixKind::gate_up:
    case MatrixKind::down:
    case MatrixKind::shared_gate_up:
    case MatrixKind::shared_down: return true;
    default: return false;
  }
}

float fp8_scale(float largest) {
  if (!std::isfinite(largest)) return std::numeric_limits<float>::quiet_NaN();
  if (largest == 0) return 1;
  // 448 is 1.75 · 2⁸. Far from what a float can be, so that dividing by it is exact.
  const auto bits = std::bit_cast<uint32_t>(largest);
  const int exponent = static_cast<int>(bits >> 23) - 127 - 8 + ((bits & 0x7fffff) > 0x600000 ? 1 : 0);
  return std::ldexp(1.0f, std::clamp(exponent, -120, 120));
}

void round_to_fp8(std::span<uint16_t> row) {
  float largest = 0;
  bool finite = true;
  for (const uint16_t each : row) {
    largest = std::max(largest, std::abs(widen(each)));
    finite &= (each & 0x7f80) != 0x7f80;
  }
  if (!finite) {
    std::ranges::fill(row, uint16_t{0x7fc0});
    return;
  }
  const float scale = fp8_scale(largest), inverse = 1 / scale;
  for (uint16_t &each : row) each = narrow(round_scaled(widen(each) * inverse) * scale);
}

void round_to_fp8(std::span<double> row) {
  double largest = 0;
  for (const double each : row) largest = std::isfinite(each) ? std::max(largest, std::abs(each)) : std::numeric_limits<double>::infinity();
  const double scale = fp8_scale(static_cast<float>(largest));
  for (double &each : row) {
    const double scaled = each / scale, size = std::abs(scaled);
    int exponent = 0;
    std::frexp(size, &exponent);  // size is in [2^(exponent − 1), 2^exponent)
    const double step = std::ldexp(1.0, std::max(exponent - 1, -6) - 3);
    each = std::nearbyint(scaled / step) * step * scale;
  }
}

}  // namespace up
