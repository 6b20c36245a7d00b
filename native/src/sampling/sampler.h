// Drawing the next token from a row of logits.
//
// In this order: bias and masks, penalties, temperature, top-k, min-p, top-p, draw. Everything after the logits is in
// double precision and in the order of token ids, so a seed gives the same token everywhere.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sampling/sampling.h"

namespace up {

class Sampler {
 public:
  explicit Sampler(int vocab_size);

  // `tokens`: the prompt's `prompt_length`, then the output so far.
  Sample sample(std::span<const float> logits, const Sampling &sampling, std::span<const int32_t> tokens,
                int prompt_length);

 private:
  void mask_stops(const Sampling &sampling);
  void penalise(const Sampling &sampling, std::span<const int32_t> tokens, int prompt_length);
  int32_t draw(const Sampling &sampling, double uniform);
  void report(std::span<const float> logits, const Sampling &sampling, Sample &sample) const;

  std::vector<double> scores_;       // [vocab], −∞ where masked
  std::vector<uint32_t> in_output_;  // [vocab] counts, all 0 between calls
  std::vector<uint8_t> in_prompt_;   // [vocab], all 0 between calls
  std::vector<double> weights_;
  std::vector<int32_t> candidates_;
};

}  // namespace up
