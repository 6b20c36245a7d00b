// The CPU backend against the reference backend, and its own promise: chunks, tiles, pages, threads and neighbours change no bit.
#include <algorithm>
#include <cmath>
#include <map>

#include "backend_harness.h"
#include "check.h"
#include "cpu/cpu_weights.h"
#include "cpu/kernels.h"
#include "random_checkpoint.h"
#include "random_specs.h"

namespace {

struct Kind {
  up_kernels kernels;
  const char *name;
};

std::vector<Kind> kinds() {
  std::vector<Kind> out{{UP_KERNELS_PORTABLE, "portable"}};
  if (up::cpu::avx2_kernels() != nullptr) out.push_back({UP_KERNELS_AVX2, "avx2"});
  if (up::cpu::avx512_bf16_kernels() != nullptr) out.push_back({UP_KERNELS_AVX512_BF16, "avx512-bf16"});
  return out;
}

int32_t token_of(int slot, int row) { return (slot * 31 + row * row * 7 + row * 13) % 150; }

using Steps = std::vector<std::vector<Chunk>>;

// Logits by slot and row.
std::map<std::pair<int, int>, std::vector<float>> run(BackendHarness &harness, const Steps &steps) {
  std::map<std::pair<int, int>, std::vector<float>> out;
  const auto vocab = static_cast<size_t>(harness.model().vocab_size);
  for (const std::vector<Chunk> &step : steps) {
    const std::vector<float> logits = harness.step(step, token_of);
    size_t at = 0;
    for (const auto &[slot, first, rows] : step) {
      for (int row = first; row < first + rows; row++, at += vocab) {
        out[{slot, row}].assign(logits.begin() + static_cast<ptrdiff_t>(at), logits.begin() + static_cast<ptrdiff_t>(at + vocab));
      }
    }
  }
  return out;
}

// Three requests, each whole.
Steps whole() { return {{{0, 0, 150}}, {{1, 0, 70}}, {{2, 0, 20}}}; }

// The same rows, cut and mixed.
Steps mixed(uint64_t seed) {
  std::mt19937_64 random(seed);
  const int rows[3] = {150, 70, 20};
  int next[3] = {};
  Steps out;
  while (next[0] < rows[0] || next[1] < rows[1] || next[2] < rows[2]) {
    std::vector<Chunk> step;
    for (const int slot : {2, 0, 1}) {
      const int most = std::min(rows[slot] - next[slot], static_cast<int>(random() % 3 == 0 ? 1 : 60));
      if (most <= 0 || random() % 4 == 0) continue;
      const int count = 1 + static_cast<int>(random() % static_cast<uint64_t>(most));
      step.push_back({slot, next[slot], count});
      next[slot] += count;
    }
    std::stable_sort(step.begin(), step.end(), [](const Chunk &a, const Chunk &b) { return (a.rows == 1) > (b.rows == 1); });
    if (!step.empty()) out.push_back(step);
  }
  return out;
}

// `share` of the rows are within `tolerance` of the reference: the rest is for rows whose norm or router sits on the edge.
void check_model(const char *what, const up::ModelTable &table, uint64_t seed, double share, double tolerance) {
  const TemporaryDirectory directory;
  const auto checkpoint = random_checkpoint(directory, table, seed, seed % 2 == 0);
  BackendHarness reference(checkpoint, {}, seed, true, make_reference);
  const auto expected = run(reference, mixed(seed));
  for (const auto &[kernels, name] : kinds()) {
    BackendHarness cpu(checkpoint, {}, seed + 1, false, make_cpu(kernels, 2));
    const auto got = run(cpu, whole());
    std::vector<double> errors;
    for (const auto &[at, logits] : expected) {
      const double error = relative_error(got.at(at), logits);
      errors.push_back(std::isnan(error) ? INFINITY : error);
    }
    std::sort(errors.begin(), errors.end());
    const double error = errors[static_cast<size_t>(share * static_cast<double>(errors.size()))];
    CHECK(error <= tolerance && std::isfinite(errors.back()), "%s %s seed %d: relative error %g, at worst %g", what, name,
          static_cast<int>(seed), error, errors.back());
    for (int variant = 0; variant < 3; variant++) {
      BackendHarness other(checkpoint, {}, seed + 2 + static_cast<uint64_t>(variant), variant > 0, make_cpu(kernels, 1 + variant));
      CHECK(run(other, mixed(seed * 3 + static_cast<uint64_t>(variant))) == got, "%s %s seed %d variant %d: other bits", what, name,
            static_cast<int>(seed), variant);
    }
  }
}

// With the matrices of layers in eight bits. What bf16 tells apart from double precision rounds to neighbours there, so that two right
// results are some way from each other: but nearer than the reference in 16 bits is.
void check_fp8(const char *what, up::ModelTable table, uint64_t seed) {
  table.hidden_size = 64;
  for (up::LayerSpec &layer : table.layers) layer.mlp.inner = 96;
  const TemporaryDirectory directory, plain_directory;
  const auto plain_checkpoint = random_checkpoint(plain_directory, table, seed);
  table.quantization = up::Quantization::fp8;
  const auto checkpoint = random_checkpoint(directory, table, seed);
  BackendHarness reference(checkpoint, {}, seed, true, make_reference), plain(plain_checkpoint, {}, seed, true, make_reference);
  const auto expected = run(reference, whole()), in_16_bits = run(plain, whole());
  const auto median = [&](const std::map<std::pair<int, int>, std::vector<float>> &got) {
    std::vector<double> errors;
    for (const auto &[at, logits] : expected) errors.push_back(relative_error(got.at(at), logits));
    std::nth_element(errors.begin(), errors.begin() + static_cast<ptrdiff_t>(errors.size() / 2), errors.end());
    return errors[errors.size() / 2];
  };
  for (const auto &[kernels, name] : kinds()) {
    BackendHarness cpu(checkpoint, {}, seed + 1, false, make_cpu(kernels, 2)), other(checkpoint, {}, seed + 2, true, make_cpu(kernels, 1));
    const auto got = run(cpu, whole());
    CHECK(median(got) <= 0.8 * median(in_16_bits), "%s %s seed %d: relative error %g, of 16 bits %g", what, name, static_cast<int>(seed),
          median(got), median(in_16_bits));
    CHECK(run(other, mixed(seed)) == got, "%s %s seed %d: other bits", what, name, static_cast<int>(seed));
  }
}

// Which matrices of a layer are rounded: errors alone do not tell where one of several is not.
void check_rounded_matrices(uint64_t seed) {
  using up::MatrixKind;
  RandomSpec spec(seed);
  for (const bool moe : {false, true}) {
    up::ModelTable table = spec.model({up::Mixer::full, up::Mixer::delta}, moe);
    table.quantization = up::Quantization::fp8;
    table.hidden_size = 64;
    for (up::LayerSpec &layer : table.layers) layer.mlp.inner = 96;
    const TemporaryDirectory directory;
    const auto checkpoint = random_checkpoint(directory, table, seed);
    const up::cpu::CpuWeights weights = up::cpu::pack_weights(*checkpoint, *up::cpu::portable_kernels(), {false, false});
    for (size_t i = 0; i < weights.layers.size(); i++) {
      for (const MatrixKind kind : {MatrixKind::qkv, MatrixKind::o, MatrixKind::delta_in, MatrixKind::delta_out, MatrixKind::gate_up,
                                    MatrixKind::down, MatrixKind::shared_gate_up, MatrixKind::shared_down}) {
        const up::cpu::Linear &linear = weights.layers[i][kind];
        const bool fits = linear.n > 0 && linear.n % 16 == 0 && linear.k % 16 == 0;
        CHECK(linear.fp8 == fits, "layer %d, matrix %d [%d, %d]", static_cast<int>(i), static_cast<int>(kind), linear.n, linear.k);
      }
      CHECK(!weights.layers[i][MatrixKind::router].fp8 && !weights.layers[i][MatrixKind::shared_gate].fp8);
      for (const auto *experts : {&weights.layers[i].expert_gate_up, &weights.layers[i].expert_down})
        for (const up::cpu::Linear &expert : *experts) CHECK(!expert.fp8);
    }
    CHECK(!weights.lm_head.fp8);
  }
}

}  // namespace

int main() {
  check_rounded_matrices(1);
  using enum up::Mixer;
  for (uint64_t seed = 1; seed <= 6; seed++) {
    RandomSpec spec(seed);
    check_model("full", spec.model({full}, false), seed, 0.9, 0.01);
    check_model("sliding", spec.model({sliding}, false), seed, 0.9, 0.01);
    check_model("delta", spec.model({delta}, false), seed, 0.9, 0.01);
    check_model("experts", spec.model({full}, true), seed, 0.9, 0.01);
    check_fp8("fp8", spec.model({full}, false), seed);
    check_model("hybrid", spec.model({sliding, delta, full, delta, full}, seed % 2 == 0), seed, 0.5, 0.03);
  }
  return check_result();
}
