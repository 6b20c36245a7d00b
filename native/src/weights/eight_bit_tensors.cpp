#include "weights/eight_bit_tensors.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "abi/failure.h"

namespace up {
namespace {

constexpr const char *phase = "load weights";
constexpr int64_t block = 128;

std::array<float, 256> e4m3_values() {
  std::array<float, 256> out{};
  for (int bits = 0; bits < 256; bits++) {
    const int exponent = bits >> 3 & 15, mantissa = bits & 7;
    float size = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9) : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
    if ((bits & 0x7f) == 0x7f) size = std::numeric_limits<float>::quiet_NaN();
    out[static_cast<size_t>(bits)] = bits < 128 ? size : -size;
  }
  return out;
}

uint16_t to_bf16(float value) {
  if (std::isnan(value)) return 0x7fc0;
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

std::vector<float> read_scales(const Tensor &scales) {
  const bool wide = scales.dtype == "F32";
  if (!wide && scales.dtype != "BF16")
    fail(UP_UNSUPPORTED_DTYPE, phase, scales.file->path(), ": ", scales.name, ": dtype is ", scales.dtype, ", supported: F32 and BF16");
  std::vector<float> out(scales.bytes / (wide ? 4 : 2));
  for (size_t i = 0; i < out.size(); i++) {
    uint32_t bits = 0;
    std::memcpy(&bits, scales.data + i * (wide ? 4 : 2), wide ? 4 : 2);
    out[i] = std::bit_cast<float>(wide ? bits : bits << 16);
  }
  return out;
}

}  // namespace

std::string scales_of(const std::string &name, const std::unordered_map<std::string, Tensor> &tensors) {
  for (const char *suffix : {"_scale", "_scale_inv"}) {
    if (tensors.contains(name + suffix)) return name + suffix;
  }
  return {};
}

std::vector<uint16_t> widen_eight_bits(const Tensor &matrix, const Tensor &scales) {
  static const std::array<float, 256> values = e4m3_values();
  const int64_t n = matrix.shape[0], k = matrix.shape[1], across = (k + block - 1) / block;
  const std::vector<float> all = read_scales(scales);
  const bool one = all.size() == 1;
  const bool by_row = scales.shape == std::vector<int64_t>{n} || scales.shape == std::vector<int64_t>{n, 1};
  if (!one && !by_row && scales.shape != std::vector<int64_t>{(n + block - 1) / block, across}) {
    fail(UP_CORRUPT_FILE, phase, scales.file->path(), ": ", scales.name, ": shape is ", describe_shape(scales.shape), ", for ",
         describe_shape(matrix.shape), " one scale was expected, one a row, or ", describe_shape({(n + block - 1) / block, across}));
  }
  std::vector<uint16_t> out(static_cast<size_t>(n * k));
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < n; row++) {
    for (int64_t i = 0; i < k; i++) {
      const int64_t at = one ? 0 : by_row ? row : row / block * across + i / block;
      const auto place = static_cast<size_t>(row * k + i);
      out[place] = to_bf16(values[matrix.data[place]] * all[static_cast<size_t>(at)]);
    }
  }
  return out;
}

}  // namespace up
