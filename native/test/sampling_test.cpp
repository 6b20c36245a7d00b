// Drawing tokens: the order of the filters, penalties, masks, and draws that depend on seed and index alone.
#include <cmath>
#include <limits>
#include <map>

#include "abi/failure.h"
#include "check.h"
#include "sampling/sampler.h"

namespace {

constexpr int vocab = 8;
const std::vector<float> logits = {1.0f, 3.0f, 2.0f, 3.0f, -1.0f, 0.5f, 2.5f, -2.0f};

up_sampling parameters() {
  up_sampling out{};
  out.top_p = 1;
  out.repetition_penalty = 1;
  out.allowed_count = -1;
  out.logprobs = -1;
  return out;
}

up::Sample sample(const up_sampling &p, const std::vector<int32_t> &tokens = {0}, int prompt = 1,
                  const std::vector<float> &row = logits) {
  up::Sampler sampler(vocab);
  return sampler.sample(row, up::read_sampling(p, vocab), tokens, prompt);
}

void check_greedy() {
  up_sampling p = parameters();
  CHECK(sample(p).token == 1, "the lowest id of a tie");
  const int32_t tokens[] = {1, 3};
  const float values[] = {-0.75f, -0.25f};
  p.bias_count = 2;
  p.bias_tokens = tokens;
  p.bias_values = values;
  CHECK(sample(p).token == 3);
  const int32_t allowed[] = {4, 7, 2};
  p.allowed_count = 3;
  p.allowed_tokens = allowed;
  CHECK(sample(p).token == 2);
  const int32_t stops[] = {2, 3};
  p.stop_count = 2;
  p.stop_tokens = stops;
  p.min_tokens = 2;
  CHECK(sample(p, {0, 5}).token == 4, "one output token: stop tokens are masked");
  CHECK(sample(p, {0, 5, 5}).token == 2, "two output tokens: they are not");
  p.allowed_count = 1;
  p.allowed_tokens = stops;
  CHECK(sample(p).token == 2, "the mask gives way where nothing else may be sampled");
}

void check_penalties() {
  up_sampling p = parameters();
  p.repetition_penalty = 2;
  // Prompt {1}, output {3}: both halve; token 6 (2.5) is now the largest.
  CHECK(sample(p, {1, 3}).token == 6);
  // A negative logit is multiplied: token 4 (-1) falls below 7 (-2) only beyond a factor of 2.
  const int32_t low[] = {4, 7};
  p.allowed_count = 2;
  p.allowed_tokens = low;
  p.repetition_penalty = 1.5;
  CHECK(sample(p, {4}).token == 4);
  p.repetition_penalty = 2.5;
  CHECK(sample(p, {4}).token == 7);
  // Frequency and presence count the output alone.
  p = parameters();
  p.frequency_penalty = 0.2f;
  CHECK(sample(p, {1, 1, 1, 1}, 4).token == 1);
  CHECK(sample(p, {0, 1, 3}).token == 1);
  CHECK(sample(p, {0, 1, 1, 1, 3}).token == 3);
  p = parameters();
  p.presence_penalty = 0.6f;
  CHECK(sample(p, {0, 1, 3, 3, 3}).token == 6);
  CHECK(sample(p, {0, 1}).token == 3);
}

// Frequencies of many draws, one per output index.
std::map<int, double> frequencies(up_sampling p, const std::vector<float> &row = logits) {
  std::map<int, double> out;
  constexpr int draws = 20000;
  up::Sampler sampler(vocab);
  const up::Sampling sampling = up::read_sampling(p, vocab);
  std::vector<int32_t> tokens = {0};
  for (int i = 0; i < draws; i++) {
    const int token = sampler.sample(row, sampling, tokens, 1).token;
    out[token] += 1.0 / draws;
    tokens.push_back(token);
  }
  return out;
}

double share(const std::vector<int> &among, int token, double temperature) {
  double total = 0;
  for (const int other : among) total += std::exp(logits[static_cast<size_t>(other)] / temperature);
  return std::exp(logits[static_cast<size_t>(token)] / temperature) / total;
}

void check_distribution(const up_sampling &p, const std::vector<int> &among, const char *what) {
  const auto found = frequencies(p);
  CHECK(found.size() == among.size(), "%s: %zu tokens drawn, expected %zu", what, found.size(), among.size());
  for (const int token : among) {
    const double expected = share(among, token, p.temperature);
    const double frequency = found.contains(token) ? found.at(token) : 0;
    // Four standard deviations of 20,000 draws.
    CHECK(std::abs(frequency - expected) < 4 * std::sqrt(expected / 20000), "%s: token %d drawn %.4f, expected %.4f", what,
          token, frequency, expected);
  }
}

void check_filters() {
  up_sampling p = parameters();
  p.temperature = 0.8f;
  p.seed = 7;
  check_distribution(p, {0, 1, 2, 3, 4, 5, 6, 7}, "temperature");
  p.top_k = 3;
  check_distribution(p, {1, 3, 6}, "top-k");
  p.top_k = 0;
  p.min_p = 0.4f;  // exp((2.5 - 3) / 0.8) = 0.535, exp(-1 / 0.8) = 0.287
  check_distribution(p, {1, 3, 6}, "min-p");
  p.min_p = 0;
  p.top_p = 0.6f;  // shares 0.326, 0.326: the second one starts below 0.6 and passes it
  check_distribution(p, {1, 3}, "top-p");
  p.top_p = 0.01f;
  check_distribution(p, {1}, "a tiny top-p keeps one");
  p.top_p = 0.5f;
  p.top_k = 2;  // of the two left each has half, so the second starts at 0.5
  check_distribution(p, {1}, "top-p after top-k");
  p = parameters();
  p.temperature = 1e-30f;
  CHECK(frequencies(p).size() == 2, "a tiny temperature leaves the ties");
}

void check_draws() {
  up_sampling p = parameters();
  p.temperature = 1;
  std::vector<int> first;
  for (uint64_t seed : {1ull, 1ull, 2ull, 0xffffffffffffffffull}) {
    p.seed = seed;
    std::vector<int> drawn;
    std::vector<int32_t> tokens = {0, 1};
    for (int i = 0; i < 64; i++) {
      drawn.push_back(sample(p, tokens, 2).token);
      tokens.push_back(3);  // what was sampled before does not matter
    }
    if (first.empty()) first = drawn;
    CHECK((drawn == first) == (seed == 1), "seed %lu", static_cast<unsigned long>(seed));
  }
  double sum = 0;
  for (uint64_t i = 0; i < 10000; i++) {
    const double uniform = up::uniform_draw(3, i);
    CHECK(uniform >= 0 && uniform < 1);
    sum += uniform;
  }
  CHECK(std::abs(sum / 10000 - 0.5) < 0.012);
  CHECK(up::uniform_draw(0, 0) == up::uniform_draw(0, 0) && up::uniform_draw(0, 0) != up::uniform_draw(0, 1));
}

void check_logprobs() {
  up_sampling p = parameters();
  p.logprobs = 3;
  const int32_t allowed[] = {0};
  p.allowed_count = 1;
  p.allowed_tokens = allowed;
  const auto found = sample(p).logprobs;
  CHECK(found.size() == 4 && found[0].first == 0 && found[1].first == 1 && found[2].first == 3 && found[3].first == 6);
  const std::vector<int> all = {0, 1, 2, 3, 4, 5, 6, 7};
  for (const auto &[token, logprob] : found) CHECK(std::abs(logprob - std::log(share(all, token, 1))) < 1e-6);
  p.logprobs = 100;
  CHECK(sample(p).logprobs.size() == 9);
  p.logprobs = 0;
  CHECK(sample(p).logprobs.size() == 1);
}

void check_non_finite() {
  up_sampling p = parameters();
  p.logprobs = 2;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    std::vector<float> row = logits;
    row[5] = bad;
    const up::Sample found = sample(p, {0}, 1, row);
    CHECK(found.non_finite && found.token == 0 && found.logprobs.empty());
  }
}

void check_refused(up_sampling p, const char *expected) {
  try {
    up::read_sampling(p, vocab);
    CHECK(false, "accepted: %s", expected);
  } catch (const up::Failure &failure) {
    CHECK(failure.status == UP_INVALID_ARGUMENT);
    CHECK(failure.detail.find(expected) != std::string::npos, "expected \"%s\", got \"%s\"", expected, failure.detail.c_str());
  }
}

void check_ranges() {
  const auto with = [](auto change) {
    up_sampling p = parameters();
    change(p);
    return p;
  };
  static const int32_t beyond[] = {3, 8};
  static const float infinite[] = {1, std::numeric_limits<float>::infinity()};
  static const int32_t inside[] = {3, 4};
  check_refused(with([](auto &p) { p.temperature = -0.5f; }), "temperature is -0.5");
  check_refused(with([](auto &p) { p.temperature = NAN; }), "temperature is nan");
  check_refused(with([](auto &p) { p.top_k = -1; }), "top_k is -1");
  check_refused(with([](auto &p) { p.top_p = 0; }), "top_p is 0");
  check_refused(with([](auto &p) { p.top_p = 1.5f; }), "top_p is 1.5");
  check_refused(with([](auto &p) { p.min_p = -0.25f; }), "min_p is -0.25");
  check_refused(with([](auto &p) { p.frequency_penalty = NAN; }), "frequency_penalty is nan");
  check_refused(with([](auto &p) { p.presence_penalty = -INFINITY; }), "presence_penalty is -inf");
  check_refused(with([](auto &p) { p.repetition_penalty = 0; }), "repetition_penalty is 0");
  check_refused(with([](auto &p) { p.min_tokens = -3; }), "min_tokens is -3");
  check_refused(with([](auto &p) { p.logprobs = -2; }), "logprobs is -2");
  check_refused(with([](auto &p) { p.logprobs = 2000; }), "logprobs is 2000");
  check_refused(with([](auto &p) { p.allowed_count = 0; }), "allowed_count is 0");
  check_refused(with([](auto &p) { p.stop_count = -1; }), "stop_count is -1");
  check_refused(with([](auto &p) { p.stop_count = 2; p.stop_tokens = beyond; }), "stop_tokens[1] is 8, the vocabulary has 8");
  check_refused(with([](auto &p) { p.stop_count = 2; }), "stop_tokens is NULL");
  check_refused(with([](auto &p) { p.allowed_count = 2; p.allowed_tokens = beyond; }), "allowed_tokens[1] is 8");
  check_refused(with([](auto &p) { p.bias_count = 2; p.bias_tokens = inside; p.bias_values = infinite; }), "bias_values is inf");
}

}  // namespace

int main() {
  check_greedy();
  check_penalties();
  check_filters();
  check_draws();
  check_logprobs();
  check_non_finite();
  check_ranges();
  return check_result();
}
