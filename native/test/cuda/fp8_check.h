// The CUDA backend with the matrices of layers in eight bits.
#pragma once

#include "../check.h"
#include "backend_runs.h"

// What bf16 tells apart from double precision rounds to neighbours there, so that two right results are some way from each other: but nearer
// than the reference in 16 bits is.
inline void check_fp8(const char *what, up::ModelTable table, uint64_t seed) {
  table.hidden_size = 1024;
  for (up::LayerSpec &layer : table.layers) layer.mlp.inner = 2048;
  const TemporaryDirectory directory, plain_directory;
  const auto plain_checkpoint = random_checkpoint(plain_directory, table, seed);
  table.quantization = up::Quantization::fp8;
  const auto checkpoint = random_checkpoint(directory, table, seed);
  BackendHarness reference(checkpoint, {}, seed, true, make_reference), plain(plain_checkpoint, {}, seed, true, make_reference);
  const Rows expected = run(reference, whole());
  const double in_16_bits = worst_error(run(plain, whole()), expected, 0.5);
  BackendHarness cuda(checkpoint, {}, seed + 1, false, make_cuda, cuda_elements), other(checkpoint, {}, seed + 2, true, make_cuda, cuda_elements);
  const Rows got = run(cuda, whole());
  BackendHarness again(checkpoint, {}, seed + 1, false, make_cuda, cuda_elements);
  CHECK(run(again, whole()) == got, "%s seed %d: the same steps, other bits", what, static_cast<int>(seed));
  const double error = worst_error(got, expected, 0.5), cut = worst_error(run(other, mixed(seed)), expected, 0.5);
  // What bf16 loses on a device by itself is most of it where experts, which stay in 16 bits, are the model's larger part.
  const double most = std::max(0.8 * in_16_bits, 0.01);
  CHECK(error <= most, "%s seed %d: relative error %g, of 16 bits %g", what, static_cast<int>(seed), error, in_16_bits);
  CHECK(cut <= most, "%s seed %d: relative error %g of rows cut otherwise, of 16 bits %g", what, static_cast<int>(seed), cut, in_16_bits);
  std::printf("ok %-8s seed %d: %.4f whole, %.4f cut, %.4f of 16 bits\n", what, static_cast<int>(seed), error, cut, in_16_bits);
}
