// GatedMlps: one kernel against the library's product and an activation, bit by bit, over shapes of weights, row counts and numbers of
// multiprocessors. Where the comparison of one row, which is made when a model is loaded, says that bits are the same, all of all rows are; for
// shapes that models have it must say so. Needs a device and cuBLASLt.
//
//   cuda_gated_bits_check [SEED]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "cuda/backend/row_kernels.h"
#include "cuda/linear/gated_mlp.h"

namespace {

using namespace up::cuda;

struct Case {
  const char *model;  // null: a random shape, whose bits may be others
  int inner, k;
  int rows[2];
  int spared;  // multiprocessors
};

// Columns [0, inner) of rows that lie 2 · inner apart.
std::vector<uint16_t> results(Device &device, const GatedMlp &p) {
  const size_t inner = static_cast<size_t>(p.weights->n) / 2, rows = static_cast<size_t>(p.rows);
  std::vector<uint16_t> out(rows * inner);
  device.check(cudaMemcpy2DAsync(out.data(), 2 * inner, p.out, 4 * inner, 2 * inner, rows, cudaMemcpyDeviceToHost, device.stream()), "compare");
  device.wait("compare");
  return out;
}

bool check(Device &device, const Case &c, up_activation activation) {
  Matmul matmul(device, nullptr, c.spared);
  GatedMlps gated(device, matmul);
  const int most = std::max({c.rows[0], c.rows[1], GatedMlps::least_rows});
  const auto count = [](int64_t a, int64_t b) { return static_cast<size_t>(a * b); };
  const DeviceBuffer weights(device, 2 * count(2 * c.inner, c.k), "weights"), in(device, 2 * count(most, c.k), "rows");
  const DeviceBuffer out(device, 2 * count(most, 2 * c.inner), "results");
  launch_fill_random(weights.as(), 2 * int64_t{c.inner} * c.k, device.stream());
  launch_fill_random(in.as(), int64_t{most} * c.k, device.stream());
  const Matrix matrix{weights.as(), 2 * c.inner, c.k};
  matmul.tune({&matrix, in.as(), c.k, most, out.as(), 2 * c.inner}, {&matrix, 1});
  const auto of_rows = [&](int rows) { return GatedMlp{&matrix, in.as<const uint16_t>(), rows, activation, out.as<uint16_t>()}; };
  const GatedMlp example = of_rows(GatedMlps::least_rows);
  gated.choose({&example, 1});
  const char *const name = c.model != nullptr ? c.model : "random";
  if (!gated.is_chosen()) {
    const bool ok = c.model == nullptr;
    std::printf("%s %s: %d of %d, %d multiprocessors left: not chosen, %s differs\n", ok ? "ok" : "FAILED", name, c.inner, c.k, c.spared,
                gated.differing().empty() ? "nothing" : gated.differing().c_str());
    return ok;
  }
  bool ok = true;
  int64_t kernels = 0;
  for (const int rows : c.rows) {
    const GatedMlp p = of_rows(rows);
    std::vector<uint16_t> both[2];
    for (int way = 0; way < 2; way++) {
      device.clear(out.as(), 0xff, out.bytes(), "poison");
      if (way == 0)
        gated.run(p);
      else
        gated.by_library(p);
      both[way] = results(device, p);
    }
    kernels += rows >= GatedMlps::least_rows;
    size_t differ = 0, kinds = 0;
    for (size_t i = 0; i < both[0].size(); i++) differ += both[0][i] != both[1][i];
    for (size_t i = 1; i < both[0].size(); i++) kinds += both[0][i] != both[0][i - 1];
    const bool same = differ == 0 && kinds > both[0].size() / 2 && gated.kernels() == kernels;
    std::printf("%s %s: %d rows of %d, %d deep, %s, %d multiprocessors left: %zu of %zu differ\n", same ? "ok" : "FAILED", name, rows, c.inner, c.k,
                activation == UP_SILU ? "SiLU" : "GELU", c.spared, differ, both[0].size());
    ok &= same;
  }
  std::fflush(stdout);
  return ok;
}

}  // namespace

int main(int argc, char **argv) {
  const auto seed = argc > 1 ? static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10)) : std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  const auto between = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  const auto ragged = [&] { return between(GatedMlps::least_rows, 5000); };
  std::vector<Case> cases{{"Llama-3.1-8B", 14336, 4096, {ragged(), 1024}, 0},   {"its half", 7168, 4096, {ragged(), 1025}, 8},
                          {"Qwen3.5-9B", 12288, 4096, {ragged(), 2048}, 0},     {"Gemma-3-12B", 15360, 3840, {ragged(), 1152}, 0},
                          {nullptr, 640, 256, {ragged(), 1023}, 0}};
  for (int i = 0; i < 12; i++)
    cases.push_back({nullptr, 8 * between(1, 400), 64 * between(1, 40), {ragged(), GatedMlps::least_rows + i}, i % 3 == 2 ? 2 * between(1, 30) : 0});
  int failures = 0, number = 0;
  try {
    Device device(0);
    for (const Case &c : cases) failures += check(device, c, number++ % 2 == 0 ? UP_SILU : UP_GELU_TANH) ? 0 : 1;
  } catch (const up::Failure &failure) {
    std::printf("FAILED: %s: %s: %s\n", up_status_name(failure.status), failure.phase.c_str(), failure.detail.c_str());
    return 1;
  }
  std::printf("%zu shapes, %d failed\n", cases.size(), failures);
  return failures == 0 ? 0 : 1;
}
