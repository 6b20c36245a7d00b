// Drawing the next token from a row of logits.
//
// In this order: bias and masks, penalties, temperature, top-k, min-p, top-p, draw. Everything after the logits is in
// double precision and in the order of token ids, so a seed gives the same token everywhere.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "sampling/sampling.h"

namespace up {

// Log-probabilities of `token`, then of the `count` most likely ones; of equals the lower id first. Empty unless all logits
// are finite.
std::vector<std::pair<int32_t, float>> log_probabilities(std::span<const float> logits, int32_t token, int count);

class Sampler {
 public:
  explicit Sampler(int vocab_size);

  // The output so far is what `tokens` has after the prompt's `prompt_length`, then `recent`.
  Sample sample(std::span<const float> logits, const Sampling &sampling, std::span<const int32_t> tokens,
                int prompt_length, std::span<const int32_t> recent = {});

 private:
  using Tokens = std::span<const int32_t>;

  void mask_stops(const Sampling &sampling);
  void penalise(const Sampling &sampling, Tokens prompt, Tokens output, Tokens recent);
  int32_t draw(const Sampling &sampling, double uniform);

  std::vector<double> scores_;       // [vocab], −∞ where masked
  std::vector<uint32_t> in_output_;  // [vocab] counts, all 0 between calls
  std::vector<uint8_t> in_prompt_;   // [vocab], all 0 between calls
  std::vector<double> weights_;
  std::vector<int32_t> candidates_;
};

}  // namespace up
