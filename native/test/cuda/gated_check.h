// The CUDA backend's MLPs in one kernel: steps of many rows use it, steps of few do not, and the logits are the same but for what attention
// of rows cut otherwise rounds otherwise.
#pragma once

#include "../check.h"
#include "backend_runs.h"

inline void check_gated(const char *what, up::ModelTable table, uint64_t seed) {
  table.hidden_size = 1024;
  for (up::LayerSpec &layer : table.layers) (layer.mlp.is_moe() ? layer.mlp.shared_inner : layer.mlp.inner) = 4096;
  const TemporaryDirectory directory;
  const auto checkpoint = random_checkpoint(directory, table, seed);
  const HarnessLimits limits{2100, 4096, 0};
  BackendHarness many(checkpoint, {}, seed, false, make_cuda, cuda_elements, limits), few(checkpoint, {}, seed + 1, false, make_cuda, cuda_elements, limits);
  const Rows got = run(many, {{{0, 0, 1061}, {1, 0, 1024}}, {{0, 1061, 1023}}, {{0, 2084, 1}, {1, 1024, 1}}});
  const Rows cut = run(few, {{{0, 0, 1000}}, {{0, 1000, 61}, {1, 0, 900}}, {{1, 900, 124}}, {{0, 1061, 1023}}, {{0, 2084, 1}, {1, 1024, 1}}});
  const auto tiles = static_cast<int64_t>(table.layers.size());
  const double error = worst_error(got, cut, 0.9);
  CHECK(many.backend().tile_rows() >= 2085, "%s: tiles have %d rows", what, many.backend().tile_rows());
  CHECK(many.backend().gated_kernels() == tiles && few.backend().gated_kernels() == 0, "%s seed %d: %lld and %lld of %lld tiles in one kernel, %s",
        what, static_cast<int>(seed), static_cast<long long>(many.backend().gated_kernels()), static_cast<long long>(few.backend().gated_kernels()),
        static_cast<long long>(tiles), many.backend().name().c_str());
  CHECK(error <= 0.02, "%s seed %d: relative error %g", what, static_cast<int>(seed), error);
  std::printf("ok %-8s seed %d: %lld tiles in one kernel, %.4f from the library's\n", what, static_cast<int>(seed),
              static_cast<long long>(tiles), error);
}
