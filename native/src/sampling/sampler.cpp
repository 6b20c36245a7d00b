#include "sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>

#include "abi/failure.h"

namespace up {
namespace {

constexpr double masked = -std::numeric_limits<double>::infinity();

template <class Value>
void require(bool holds, const char *field, Value value, const char *expected) {
  if (!holds) fail(UP_INVALID_ARGUMENT, "check sampling", field, " is ", value, ", ", expected, " was expected");
}

std::vector<int32_t> read_tokens(const int32_t *tokens, int count, const char *field, int vocab_size) {
  if (count > 0) require_pointer(tokens, field);
  for (int i = 0; i < count; i++) {
    if (tokens[i] < 0 || tokens[i] >= vocab_size) {
      fail(UP_INVALID_ARGUMENT, "check sampling", field, "[", i, "] is ", tokens[i], ", the vocabulary has ", vocab_size);
    }
  }
  return {tokens, tokens + count};
}

}  // namespace

bool Sampling::is_stop(int32_t token) const {
  return std::find(stop_tokens.begin(), stop_tokens.end(), token) != stop_tokens.end();
}

Sampling read_sampling(const up_sampling &p, int vocab_size) {
  require(std::isfinite(p.temperature) && p.temperature >= 0, "temperature", p.temperature, "a number ≥ 0");
  require(p.top_k >= 0, "top_k", p.top_k, "an integer ≥ 0");
  require(p.top_p > 0 && p.top_p <= 1, "top_p", p.top_p, "a number in (0, 1]");
  require(p.min_p >= 0 && p.min_p <= 1, "min_p", p.min_p, "a number in [0, 1]");
  require(std::isfinite(p.frequency_penalty), "frequency_penalty", p.frequency_penalty, "a finite number");
  require(std::isfinite(p.presence_penalty), "presence_penalty", p.presence_penalty, "a finite number");
  require(std::isfinite(p.repetition_penalty) && p.repetition_penalty > 0, "repetition_penalty", p.repetition_penalty,
          "a number above 0");
  require(p.min_tokens >= 0, "min_tokens", p.min_tokens, "an integer ≥ 0");
  require(p.logprobs >= -1 && p.logprobs <= max_logprobs, "logprobs", p.logprobs, "an integer from -1 to 1024");
  for (const auto &[count, least, field] :
       {std::tuple{p.stop_count, 0, "stop_count"}, {p.bias_count, 0, "bias_count"}, {p.allowed_count, -1, "allowed_count"}}) {
    require(count >= least && count <= vocab_size, field, count, "a count within the vocabulary");
  }
  require(p.allowed_count != 0, "allowed_count", 0, "-1, or at least one token");

  Sampling out;
  out.temperature = p.temperature;
  out.top_k = p.top_k;
  out.top_p = p.top_p;
  out.min_p = p.min_p;
  out.frequency_penalty = p.frequency_penalty;
  out.presence_penalty = p.presence_penalty;
  out.repetition_penalty = p.repetition_penalty;
  out.seed = p.seed;
  out.min_tokens = p.min_tokens;
  out.logprobs = p.logprobs;
  out.stop_tokens = read_tokens(p.stop_tokens, p.stop_count, "stop_tokens", vocab_size);
  if (p.bias_count > 0) require_pointer(p.bias_values, "bias_values");
  const std::vector<int32_t> biased = read_tokens(p.bias_tokens, p.bias_count, "bias_tokens", vocab_size);
  for (size_t i = 0; i < biased.size(); i++) {
    require(std::isfinite(p.bias_values[i]), "bias_values", p.bias_values[i], "a finite number");
    out.bias.emplace_back(biased[i], p.bias_values[i]);
  }
  out.restricted = p.allowed_count > 0;
  if (out.restricted) out.allowed = read_tokens(p.allowed_tokens, p.allowed_count, "allowed_tokens", vocab_size);
  return out;
}

// Two rounds of the finaliser of splitmix64, keyed by the seed, over the counter.
double uniform_draw(uint64_t seed, uint64_t index) {
  const auto mix = [](uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  };
  const uint64_t bits = mix(mix(seed + 0x9e3779b97f4a7c15ull) + (index + 1) * 0x9e3779b97f4a7c15ull);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

Sampler::Sampler(int vocab_size)
    : scores_(static_cast<size_t>(vocab_size)),
      in_output_(static_cast<size_t>(vocab_size)),
      in_prompt_(static_cast<size_t>(vocab_size)) {}

// Where nothing but stop tokens may be sampled, the mask gives way.
void Sampler::mask_stops(const Sampling &sampling) {
  std::vector<double> before;
  for (const int32_t token : sampling.stop_tokens) {
    before.push_back(scores_[static_cast<size_t>(token)]);
    scores_[static_cast<size_t>(token)] = masked;
  }
  if (std::any_of(scores_.begin(), scores_.end(), [](double score) { return score != masked; })) return;
  for (size_t i = before.size(); i-- > 0;) scores_[static_cast<size_t>(sampling.stop_tokens[i])] = before[i];
}

// Repetition counts prompt and output, frequency and presence the output alone.
void Sampler::penalise(const Sampling &sampling, Tokens prompt, Tokens output, Tokens recent) {
  if (sampling.repetition_penalty == 1 && sampling.frequency_penalty == 0 && sampling.presence_penalty == 0) return;
  for (const int32_t token : prompt) in_prompt_[static_cast<size_t>(token)] = 1;
  for (const Tokens &part : {output, recent}) {
    for (const int32_t token : part) in_output_[static_cast<size_t>(token)]++;
  }
  // Each token once: what it was counted with is cleared as it is used.
  for (const Tokens &part : {prompt, output, recent}) {
    for (const int32_t token : part) {
      const auto at = static_cast<size_t>(token);
      const uint32_t count = in_output_[at];
      if (count == 0 && in_prompt_[at] == 0) continue;
      double &score = scores_[at];
      score = score > 0 ? score / sampling.repetition_penalty : score * sampling.repetition_penalty;
      score -= sampling.frequency_penalty * count;
      if (count > 0) score -= sampling.presence_penalty;
      in_output_[at] = 0;
      in_prompt_[at] = 0;
    }
  }
}

int32_t Sampler::draw(const Sampling &sampling, double uniform) {
  const auto likelier = [this](int32_t a, int32_t b) {
    const double score_a = scores_[static_cast<size_t>(a)];
    const double score_b = scores_[static_cast<size_t>(b)];
    return score_a != score_b ? score_a > score_b : a < b;
  };
  candidates_.clear();
  for (size_t token = 0; token < scores_.size(); token++) {
    if (scores_[token] != masked) candidates_.push_back(static_cast<int32_t>(token));
  }
  const int32_t best = *std::min_element(candidates_.begin(), candidates_.end(), likelier);
  if (sampling.temperature == 0) return best;

  const auto weight = [&, top = scores_[static_cast<size_t>(best)]](int32_t token) {
    return std::exp((scores_[static_cast<size_t>(token)] - top) / sampling.temperature);
  };
  if (sampling.top_k > 0 && static_cast<size_t>(sampling.top_k) < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + sampling.top_k, candidates_.end(), likelier);
    candidates_.resize(static_cast<size_t>(sampling.top_k));
  }
  // Weights are relative to the likeliest token's, so min-p compares them as they are.
  if (sampling.min_p > 0) std::erase_if(candidates_, [&](int32_t token) { return weight(token) < sampling.min_p; });
  if (sampling.top_p < 1) {
    std::sort(candidates_.begin(), candidates_.end(), likelier);
    double total = 0;
    for (const int32_t token : candidates_) total += weight(token);
    double before = 0;
    size_t count = 0;
    while (count < candidates_.size() && (count == 0 || before < sampling.top_p * total)) {
      before += weight(candidates_[count++]);
    }
    candidates_.resize(count);
  }
  std::sort(candidates_.begin(), candidates_.end());
  weights_.clear();
  double total = 0;
  for (const int32_t token : candidates_) {
    weights_.push_back(weight(token));
    total += weights_.back();
  }
  const double target = uniform * total;
  double before = 0;
  for (size_t i = 0; i < candidates_.size(); i++) {
    before += weights_[i];
    if (target < before) return candidates_[i];
  }
  return best;
}

// Of the distribution that the model gave: bias, masks and penalties do not show.
std::vector<std::pair<int32_t, float>> log_probabilities(std::span<const float> logits, int32_t token, int count) {
  if (!std::all_of(logits.begin(), logits.end(), [](float logit) { return std::isfinite(logit); })) return {};
  const double top = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const float logit : logits) total += std::exp(logit - top);
  const double log_total = top + std::log(total);
  std::vector<std::pair<int32_t, float>> out;
  const auto add = [&](int32_t each) {
    out.emplace_back(each, static_cast<float>(logits[static_cast<size_t>(each)] - log_total));
  };
  add(token);
  if (count <= 0) return out;
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto listed = std::min(order.size(), static_cast<size_t>(count));
  std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(listed), order.end(), [&](int32_t a, int32_t b) {
    const float logit_a = logits[static_cast<size_t>(a)];
    const float logit_b = logits[static_cast<size_t>(b)];
    return logit_a != logit_b ? logit_a > logit_b : a < b;
  });
  for (size_t i = 0; i < listed; i++) add(order[i]);
  return out;
}

Sample Sampler::sample(std::span<const float> logits, const Sampling &sampling, std::span<const int32_t> tokens,
                       int prompt_length, std::span<const int32_t> recent) {
  Sample out;
  for (const float logit : logits) {
    if (!std::isfinite(logit)) {
      out.non_finite = true;
      return out;
    }
  }
  if (sampling.restricted) {
    std::fill(scores_.begin(), scores_.end(), masked);
    for (const int32_t token : sampling.allowed) scores_[static_cast<size_t>(token)] = logits[static_cast<size_t>(token)];
  } else {
    std::copy(logits.begin(), logits.end(), scores_.begin());
  }
  for (const auto &[token, bias] : sampling.bias) scores_[static_cast<size_t>(token)] += bias;
  const auto prompt = tokens.first(static_cast<size_t>(prompt_length));
  const auto output = tokens.subspan(static_cast<size_t>(prompt_length));
  const size_t output_length = output.size() + recent.size();
  if (output_length < static_cast<size_t>(sampling.min_tokens)) {
    mask_stops(sampling);
  }
  penalise(sampling, prompt, output, recent);
  out.token = draw(sampling, uniform_draw(sampling.seed, output_length));
  if (sampling.logprobs >= 0) out.logprobs = log_probabilities(logits, out.token, sampling.logprobs);
  return out;
}

}  // namespace up
