// The kernels that round rows to e4m3 against round_to_fp8(), every bit: rows of all widths that a launch tells apart, zeros, rows that
// are not finite. Needs a device.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "cpu/bf16.h"
#include "cuda/linear/round_rows.h"
#include "weights/quantization.h"

namespace {

using up::cpu::from_bf16;
using up::cpu::to_bf16;

double e4m3(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  if ((bits & 0x7f) == 0x7f) return NAN;
  const double size = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return bits < 128 ? size : -size;
}

constexpr int rows = 40;

// Rows that differ from what round_to_fp8 makes of `in`.
int wrong_rows(std::vector<uint16_t> in, int width, const uint8_t *device_values, const float *device_scales) {
  std::vector<uint8_t> values(in.size());
  std::vector<float> scales(rows);
  cudaMemcpy(values.data(), device_values, values.size(), cudaMemcpyDeviceToHost);
  cudaMemcpy(scales.data(), device_scales, scales.size() * sizeof(float), cudaMemcpyDeviceToHost);
  int wrong = 0;
  for (int row = 0; row < rows; row++) {
    const auto begin = static_cast<size_t>(row) * static_cast<size_t>(width);
    const std::span expected(in.data() + begin, static_cast<size_t>(width));
    up::round_to_fp8(expected);
    bool same = true;
    for (size_t i = 0; i < expected.size(); i++) {
      const double got = e4m3(values[begin + i]) * scales[static_cast<size_t>(row)], want = from_bf16(expected[i]);
      same &= got == want || (std::isnan(got) && std::isnan(want));
    }
    wrong += same ? 0 : 1;
  }
  return wrong;
}

}  // namespace

int main() {
  int failures = 0;
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  for (const int width : {16, 64, 272, 4096, 4112, 14336, 16384, 16400, 28672, 32768}) {
    // Rows lie further apart than they are wide; the second half is what the first one gates.
    const int64_t stride = 2 * width;
    std::vector<uint16_t> in(static_cast<size_t>(rows * stride)), plain;
    for (int row = 0; row < rows; row++) {
      const float size = std::ldexp(1.0f, static_cast<int>(random() % 40) - 20);
      for (int64_t i = 0; i < stride; i++)
        in[static_cast<size_t>(row * stride + i)] = to_bf16(normal(random) * (i < width ? size : 1.0f) * std::ldexp(1.0f, -static_cast<int>(random() % 20)));
      auto *const first = &in[static_cast<size_t>(row * stride)];
      if (row == 3) std::fill_n(first, width, uint16_t{0});
      if (row == 5) first[width - 1] = 0x7f80;
      if (row == 7) first[width / 2] = 0x7fc0;
      plain.insert(plain.end(), first, first + width);
    }
    uint16_t *device_in;
    uint8_t *values;
    float *scales;
    cudaMalloc(&device_in, in.size() * 2);
    cudaMalloc(&values, static_cast<size_t>(rows * width));
    cudaMalloc(&scales, rows * sizeof(float));
    cudaMemcpy(device_in, in.data(), in.size() * 2, cudaMemcpyHostToDevice);
    up::cuda::launch_round_rows(device_in, stride, rows, width, values, scales, nullptr);
    const int wrong = wrong_rows(plain, width, values, scales);
    // What the activation comes to is rounded as any other row: the row it rounds is near x · sigmoid(x) · y.
    up::cuda::launch_activate_and_round(UP_SILU, device_in, stride, rows, width, values, scales, nullptr);
    std::vector<uint8_t> got(static_cast<size_t>(rows * width));
    std::vector<float> got_scales(rows);
    cudaMemcpy(got.data(), values, got.size(), cudaMemcpyDeviceToHost);
    cudaMemcpy(got_scales.data(), scales, rows * sizeof(float), cudaMemcpyDeviceToHost);
    double off = 0;
    for (int row = 0; row < rows; row++) {
      if (row == 5 || row == 7) continue;
      double error = 0, norm = 1e-300;
      for (int i = 0; i < width; i++) {
        const double x = from_bf16(in[static_cast<size_t>(row * stride + i)]), y = from_bf16(in[static_cast<size_t>(row * stride + width + i)]);
        const double want = x / (1 + std::exp(-x)) * y, is = e4m3(got[static_cast<size_t>(row * width + i)]) * got_scales[static_cast<size_t>(row)];
        error += (is - want) * (is - want);
        norm += want * want;
      }
      off = std::fmax(off, std::sqrt(error / norm));
    }
    const cudaError_t result = cudaDeviceSynchronize();
    const bool ok = wrong == 0 && off <= 0.0625 && result == cudaSuccess;
    std::printf("%s width %d: %d rows differ, activation off by %.4f, %s\n", ok ? "ok" : "FAILED", width, wrong, off, cudaGetErrorString(result));
    failures += ok ? 0 : 1;
    for (void *each : {static_cast<void *>(device_in), static_cast<void *>(values), static_cast<void *>(scales)}) cudaFree(each);
  }
  return failures == 0 ? 0 : 1;
}
