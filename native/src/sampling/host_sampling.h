// What a step puts out, drawn and gathered on the host: for backends whose logits lie there.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend.h"
#include "sampling/sampler.h"

namespace up {

class HostSampling {
 public:
  HostSampling(int vocab_size, int slots);

  // Forgets what a step before has put out, which may have failed.
  void begin();
  // `logits`: rows of the vocabulary's size.
  void sample(std::span<const SampleTask> tasks, std::span<const float> logits);
  void logprobs(std::span<const LogprobTask> tasks, std::span<const float> logits);
  int32_t last_token(int slot) const { return slots_[static_cast<size_t>(slot)].last_token; }
  // What the step has put out; at once, since all of it is there.
  std::unique_ptr<PendingOutputs> finish(int64_t micros, const KeyBlocks &key_blocks = {});

 private:
  // Tokens sampled for a sequence that the tasks' own list need not hold yet: output tokens from index `first` on.
  struct Recent {
    int32_t last_token = 0;
    uint64_t sequence = 0;
    uint64_t first = 0;
    std::vector<int32_t> tokens;
  };

  std::span<const float> row(std::span<const float> logits, int index) const;
  std::span<const int32_t> missing(const SampleTask &task);

  size_t vocab_size_;
  Sampler sampler_;
  std::vector<Recent> slots_;
  Outputs outputs_;
};

}  // namespace up
