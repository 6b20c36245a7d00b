#include "sampling/host_sampling.h"

#include <utility>

#include "abi/failure.h"

namespace up {
namespace {

class Ready : public PendingOutputs {
 public:
  explicit Ready(Outputs outputs) : outputs_(std::move(outputs)) {}
  Outputs wait() override { return std::move(outputs_); }

 private:
  Outputs outputs_;
};

}  // namespace

HostSampling::HostSampling(int vocab_size, int slots)
    : vocab_size_(static_cast<size_t>(vocab_size)), sampler_(vocab_size), slots_(static_cast<size_t>(slots)) {}

void HostSampling::begin() { outputs_ = {}; }

std::span<const float> HostSampling::row(std::span<const float> logits, int index) const {
  return logits.subspan(static_cast<size_t>(index) * vocab_size_, vocab_size_);
}

// The output tokens that were sampled here and that the task's list does not hold yet.
std::span<const int32_t> HostSampling::missing(const SampleTask &task) {
  Recent &recent = slots_[static_cast<size_t>(task.slot)];
  const uint64_t known = task.tokens.size() - static_cast<size_t>(task.prompt_length);
  if (recent.sequence != task.sequence || known >= recent.first + recent.tokens.size()) {
    recent.sequence = task.sequence;
    recent.first = known;
    recent.tokens.clear();
  } else if (known > recent.first) {
    recent.tokens.erase(recent.tokens.begin(), recent.tokens.begin() + static_cast<ptrdiff_t>(known - recent.first));
    recent.first = known;
  }
  const uint64_t first = recent.first;
  if (known < first || task.index < known || task.index > first + recent.tokens.size()) {
    fail(UP_INTERNAL, "sample", "slot ", task.slot, " has ", task.index, " output tokens; ", known, " are given, and ",
         recent.tokens.size(), " from ", first, " on were sampled here");
  }
  recent.tokens.resize(task.index - first);
  return recent.tokens;
}

void HostSampling::sample(std::span<const SampleTask> tasks, std::span<const float> logits) {
  for (const SampleTask &task : tasks) {
    const auto values = row(logits, task.row);
    Sample drawn = sampler_.sample(values, *task.sampling, task.tokens, task.prompt_length, missing(task));
    Recent &recent = slots_[static_cast<size_t>(task.slot)];
    recent.tokens.push_back(drawn.token);
    recent.last_token = drawn.token;
    outputs_.tokens.push_back({task.slot, std::move(drawn)});
    if (task.return_logits) outputs_.logits.push_back({task.slot, {values.begin(), values.end()}});
  }
}

void HostSampling::logprobs(std::span<const LogprobTask> tasks, std::span<const float> logits) {
  for (const LogprobTask &task : tasks) {
    outputs_.prompt_logprobs.push_back(
        {task.slot, task.prompt_row, log_probabilities(row(logits, task.row), task.token, task.count)});
  }
}

std::unique_ptr<PendingOutputs> HostSampling::finish(int64_t micros, const KeyBlocks &key_blocks) {
  outputs_.device_micros = micros;
  outputs_.key_blocks = key_blocks;
  return std::make_unique<Ready>(std::exchange(outputs_, {}));
}

}  // namespace up
