// How the next token of a request is drawn, and what a draw gives.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "uniprefill/runner.h"

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

}  // namespace up
