// Steps of whole prompts and of the same rows cut otherwise, and how far what they give is from what it should be.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>

#include "../backend_harness.h"
#include "../random_checkpoint.h"
#include "device_backend.h"

inline constexpr up::ElementBytes cuda_elements{2, 2, 2};

inline std::unique_ptr<up::Backend> make_cuda(std::shared_ptr<const up::Checkpoint> checkpoint, const up::BackendOptions &options) {
  return up::make_device_backend(checkpoint, options, {});
}

inline int32_t token_of(int slot, int row) { return (slot * 31 + row * row * 7 + row * 13) % 150; }

using Steps = std::vector<std::vector<Chunk>>;
using Rows = std::map<std::pair<int, int>, std::vector<float>>;

// Logits by slot and row.
inline Rows run(BackendHarness &harness, const Steps &steps) {
  Rows out;
  const auto vocab = static_cast<size_t>(harness.model().vocab_size);
  for (const std::vector<Chunk> &step : steps) {
    const std::vector<float> logits = harness.step(step, token_of);
    size_t at = 0;
    for (const auto &[slot, first, rows] : step) {
      for (int row = first; row < first + rows; row++, at += vocab)
        out[{slot, row}].assign(logits.begin() + static_cast<ptrdiff_t>(at), logits.begin() + static_cast<ptrdiff_t>(at + vocab));
    }
  }
  return out;
}

inline constexpr int prompt_rows[3] = {300, 130, 20};
inline constexpr int decoded_rows = 12;

// Three requests, each whole, then decoded together and, for the last rows, two by two: every bucket of rows comes three times or
// more, so that it is launched, captured and replayed.
inline Steps whole() {
  Steps out;
  for (int slot = 0; slot < 3; slot++) out.push_back({{slot, 0, prompt_rows[slot]}});
  for (int i = 0; i < decoded_rows; i++) {
    std::vector<Chunk> step;
    for (int slot = 0; slot < (i < decoded_rows / 2 ? 3 : 2); slot++) step.push_back({slot, prompt_rows[slot] + i, 1});
    out.push_back(step);
  }
  return out;
}

// The same rows, cut and mixed.
inline Steps mixed(uint64_t seed) {
  std::mt19937_64 random(seed);
  int last[3] = {}, next[3] = {};
  for (const auto &step : whole())
    for (const auto &[slot, first, rows] : step) last[slot] = first + rows;
  Steps out;
  while (next[0] < last[0] || next[1] < last[1] || next[2] < last[2]) {
    std::vector<Chunk> step;
    for (const int slot : {2, 0, 1}) {
      const int most = std::min(last[slot] - next[slot], static_cast<int>(random() % 3 == 0 ? 1 : 150));
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

inline double worst_error(const Rows &got, const Rows &expected, double share) {
  std::vector<double> errors;
  for (const auto &[at, logits] : expected) {
    const double error = relative_error(got.at(at), logits);
    errors.push_back(std::isnan(error) ? INFINITY : error);
  }
  std::sort(errors.begin(), errors.end());
  if (!std::isfinite(errors.back())) return INFINITY;
  return errors[static_cast<size_t>(share * static_cast<double>(errors.size() - 1))];
}
