// Drawing the next token from a row of logits.
//
// In this order: bias and masks, penalties, temperature, top-k, min-p, top-p, draw. Everything after the logits is in
// double precision and in the order of token ids, so a seed gives the same token everywhere.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "uniprefill.h"

namespace up {

struct Sampling {
  double temperature = 0;
  int top_k = 0;
  double top_p = 1;
  double min_p = 0;
  double frequency_penalty = 0;
  double presence_penalty = 0;
  double repetition_penalty = 1;
  uint64_t seed = 0;
  int min_tokens = 0;
  int logprobs = -1;
  bool restricted = false;  // whether only `allowed` may be sampled
  std::vector<int32_t> stop_tokens;
  std::vector<std::pair<int32_t, float>> bias;
  std::vector<int32_t> allowed;

  bool is_stop(int32_t token) const;
};

constexpr int max_logprobs = 1024;

// Fails with UP_INVALID_ARGUMENT naming the field and its value.
Sampling read_sampling(const up_sampling &parameters, int vocab_size);

struct Sample {
  int32_t token = 0;
  bool non_finite = false;  // the logits held a NaN or an infinity; token is 0
  // The sampled token first, then the most likely ones; empty unless asked for, or when the logits are not finite.
  std::vector<std::pair<int32_t, float>> logprobs;
};

// A number in [0, 1) that depends on the seed and the index of the output token alone.
double uniform_draw(uint64_t seed, uint64_t index);

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
