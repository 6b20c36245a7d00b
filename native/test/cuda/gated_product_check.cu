// multiply_gated() against sums that are exact, over shapes that leave tiles, clusters and bands of rows partly empty: operands are small
// whole numbers. Rows of results lie further apart than they are wide, and what is between them stays as it was. Needs a device.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "cpu/bf16.h"
#include "cuda/linear/gated_product.h"

namespace {

using up::cpu::from_bf16;
using up::cpu::to_bf16;

constexpr uint16_t untouched = 0xffff;

double activated(up_activation activation, double x) {
  if (activation == UP_SILU) return x / (1 + std::exp(-x));
  return x / 2 * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

template <class T>
T *to_device(const std::vector<T> &host) {
  T *device = nullptr;
  cudaMalloc(&device, host.size() * sizeof(T));
  cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice);
  return device;
}

}  // namespace

int main() {
  struct Case {
    int rows, inner, k;
  };
  // The last ones have more tiles than a device has multiprocessors, in several bands.
  const Case cases[] = {{1, 8, 64},      {63, 136, 128},  {128, 128, 256},  {129, 120, 320},  {256, 704, 64},
                        {257, 264, 192}, {511, 1016, 64}, {2049, 256, 128}, {4500, 648, 64}, {2300, 4104, 64}};
  int failures = 0, number = 0;
  std::mt19937 random(7);
  for (const Case &c : cases) {
    const up_activation activation = number++ % 2 == 0 ? UP_SILU : UP_GELU_TANH;
    const int in_stride = c.k + 8 * (number % 3), out_stride = 2 * c.inner;
    const auto size = [](int64_t a, int64_t b) { return static_cast<size_t>(a * b); };
    std::vector<uint16_t> in(size(c.rows, in_stride), untouched), weights(size(2 * c.inner, c.k)), out(size(c.rows, out_stride), untouched);
    std::vector<int> left(size(c.rows, c.k)), right(weights.size());
    for (int row = 0; row < c.rows; row++)
      for (int i = 0; i < c.k; i++) {
        left[size(row, c.k) + static_cast<size_t>(i)] = static_cast<int>(random() % 5) - 2;
        in[size(row, in_stride) + static_cast<size_t>(i)] = to_bf16(static_cast<float>(left[size(row, c.k) + static_cast<size_t>(i)]) / 4);
      }
    for (size_t i = 0; i < weights.size(); i++) {
      right[i] = static_cast<int>(random() % 5) - 2;
      weights[i] = to_bf16(static_cast<float>(right[i]) / 4);
    }
    uint16_t *const device_in = to_device(in), *const device_weights = to_device(weights), *const device_out = to_device(out);
    const up::cuda::GatedProduct p{device_in, in_stride, device_weights, device_out, out_stride, c.rows, c.inner, c.k, activation};
    up_backend_error error{};
    const bool taken = up::cuda::takes_gated_product(p), launched = up::cuda::multiply_gated(&p, nullptr, &error) == UP_OK;
    const cudaError_t result = cudaDeviceSynchronize();
    cudaMemcpy(out.data(), device_out, out.size() * sizeof out[0], cudaMemcpyDeviceToHost);
    int64_t wrong = 0, written = 0;
    for (int row = 0; row < c.rows; row++) {
      for (int column = 0; column < c.inner; column++) {
        int sums[2] = {};
        for (int half = 0; half < 2; half++) {
          const int *const a = &left[size(row, c.k)], *const b = &right[size(column + half * c.inner, c.k)];
          for (int i = 0; i < c.k; i++) sums[half] += a[i] * b[i];
        }
        const double gate = from_bf16(to_bf16(static_cast<float>(sums[0]) / 16)), up = from_bf16(to_bf16(static_cast<float>(sums[1]) / 16));
        const double want = activated(activation, gate) * up, got = from_bf16(out[size(row, out_stride) + static_cast<size_t>(column)]);
        wrong += std::fabs(got - want) <= 0.004 * std::fabs(want) + 1e-6 ? 0 : 1;
      }
      for (int column = c.inner; column < out_stride; column++) written += out[size(row, out_stride) + static_cast<size_t>(column)] != untouched;
    }
    const bool ok = taken && launched && result == cudaSuccess && wrong == 0 && written == 0;
    std::printf("%s %d rows of %d, %d deep: %lld wrong, %lld written beside, %s\n", ok ? "ok" : "FAILED", c.rows, c.inner, c.k,
                static_cast<long long>(wrong), static_cast<long long>(written), cudaGetErrorString(result));
    failures += ok ? 0 : 1;
    for (void *each : {static_cast<void *>(device_in), static_cast<void *>(device_weights), static_cast<void *>(device_out)}) cudaFree(each);
  }
  return failures == 0 ? 0 : 1;
}
