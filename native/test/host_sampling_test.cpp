// Tokens drawn on the host: what a backend remembers of them, and log-probabilities of tokens that are given.
#include <cmath>
#include <random>
#include <vector>

#include "abi/failure.h"
#include "check.h"
#include "sampling/host_sampling.h"

namespace {

constexpr int vocab = 40;

std::vector<float> random_logits(uint64_t seed, int rows) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> out;
  for (int i = 0; i < rows * vocab; i++) out.push_back(normal(random));
  return out;
}

up::Sampling penalised() {
  up::Sampling out;
  out.temperature = 0.8;
  out.frequency_penalty = 1.5;
  out.repetition_penalty = 1.3;
  out.seed = 7;
  out.min_tokens = 5;
  out.stop_tokens = {3, 9};
  return out;
}

// 12 tokens for a prompt; the list that the tasks bring lags `lag` behind, `fixed` brings the prompt alone for ever.
std::vector<int32_t> draw(int lag, bool fixed) {
  up::HostSampling host(vocab, 3);
  const up::Sampling sampling = penalised();
  const std::vector<int32_t> prompt = {1, 2, 3, 4};
  std::vector<int32_t> known = prompt, drawn;
  for (uint64_t index = 0; index < 12; index++) {
    host.begin();
    const std::vector<float> logits = random_logits(index, 2);
    // Another request of another slot draws in between.
    const up::SampleTask other{0, 2, &sampling, 5, index, {prompt.data(), 1}, 1, false};
    const up::SampleTask task{1, 1, &sampling, 9, index, known, 4, index == 3};
    host.sample({&other, 1}, logits);
    host.sample({&task, 1}, logits);
    const up::Outputs outputs = host.finish(11)->wait();
    CHECK(outputs.tokens.size() == 2 && outputs.tokens[1].slot == 1 && outputs.device_micros == 11);
    drawn.push_back(outputs.tokens[1].sample.token);
    CHECK(host.last_token(1) == drawn.back() && host.last_token(2) == outputs.tokens[0].sample.token);
    CHECK(outputs.logits.size() == (index == 3 ? 1 : 0));
    if (index == 3) CHECK(outputs.logits[0].values == std::vector<float>(logits.begin() + vocab, logits.end()));
    const int shown = std::max(0, static_cast<int>(drawn.size()) - lag);
    if (!fixed) {
      known = prompt;
      known.insert(known.end(), drawn.begin(), drawn.begin() + shown);
    }
  }
  return drawn;
}

void check_history() {
  const std::vector<int32_t> expected = draw(0, false);
  CHECK(draw(1, false) == expected && draw(2, false) == expected && draw(0, true) == expected);
  // Penalties have an effect here, else the test says nothing.
  up::Sampler sampler(vocab);
  const up::Sampling sampling = penalised();
  int changed = 0;
  std::vector<int32_t> tokens = {1, 2, 3, 4};
  for (size_t i = 0; i < expected.size(); i++) {
    const std::vector<float> logits = random_logits(i, 2);
    const std::vector<float> row(logits.begin() + vocab, logits.end());
    std::vector<int32_t> forgetful(tokens.begin(), tokens.begin() + 4);
    forgetful.resize(tokens.size(), 39);
    changed += sampler.sample(row, sampling, forgetful, 4).token != expected[i];
    CHECK(sampler.sample(row, sampling, tokens, 4).token == expected[i], "token %zu", i);
    tokens.push_back(expected[i]);
  }
  CHECK(changed > 0);
}

void check_sequences() {
  up::HostSampling host(vocab, 1);
  const up::Sampling sampling;
  const std::vector<float> logits = random_logits(1, 1);
  const int32_t prompt[1] = {0};
  const auto sample = [&](uint64_t sequence, uint64_t index) {
    const up::SampleTask task{0, 0, &sampling, sequence, index, prompt, 1, false};
    host.sample({&task, 1}, logits);
  };
  sample(1, 0);
  sample(1, 1);
  sample(2, 0);  // another request in the slot
  sample(2, 1);
  bool refused = false;
  try {
    sample(3, 1);  // a token that nobody has drawn
  } catch (const up::Failure &failure) {
    refused = failure.status == UP_INTERNAL;
  }
  CHECK(refused);
}

void check_logprobs() {
  up::HostSampling host(vocab, 1);
  std::vector<float> logits = random_logits(4, 3);
  double total = 0;
  for (int i = 0; i < vocab; i++) total += std::exp(static_cast<double>(logits[vocab + i]));
  logits[2 * vocab + 5] = NAN;
  const up::LogprobTask tasks[] = {{1, 0, 17, 12, 3}, {1, 0, 18, 0, 0}, {2, 0, 19, 0, 2}};
  host.logprobs(tasks, logits);
  const auto outputs = host.finish(0)->wait();
  CHECK(outputs.prompt_logprobs.size() == 3);
  const auto &first = outputs.prompt_logprobs[0];
  CHECK(first.slot == 0 && first.prompt_row == 17 && first.logprobs.size() == 4 && first.logprobs[0].first == 12);
  for (const auto &[token, logprob] : first.logprobs) {
    CHECK(std::fabs(logprob - (logits[vocab + token] - std::log(total))) < 1e-5, "token %d: %g", token, logprob);
  }
  CHECK(first.logprobs[1].second >= first.logprobs[2].second && first.logprobs[2].second >= first.logprobs[3].second);
  CHECK(outputs.prompt_logprobs[1].logprobs.size() == 1);
  CHECK(outputs.prompt_logprobs[2].logprobs.empty(), "log-probabilities of logits that are not finite");
}

}  // namespace

int main() {
  check_history();
  check_sequences();
  check_logprobs();
  return check_result();
}
