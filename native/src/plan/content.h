// What a request is, apart from the plans that carry it; and the store where contents wait to be opened.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "plan/schedule.h"
#include "sampling/sampling.h"

namespace up {

struct Content {
  std::vector<int32_t> tokens;  // the prompt, then output so far
  int prompt_length = 0;
  bool drops = false;
  std::vector<uint64_t> p_q32;                 // [drop layers], of a request that drops
  std::vector<std::vector<uint32_t>> bitmaps;  // selections already decided; applied again
  bool score_decided = false;  // they are scored all the same, for the time that it takes
  Sampling sampling;
  bool return_logits = false;
  int prompt_logprobs = -1;

  int outputs() const { return static_cast<int>(tokens.size()) - prompt_length; }
};

struct ContentLimits {
  int vocab_size = 0;
  int max_tokens = 0;
};

// Fails with UP_INVALID_ARGUMENT naming the field and the numbers.
Content read_content(const up_content &from, const Schedule &schedule, const ContentLimits &limits);

// May be used from any thread.
class ContentStore {
 public:
  // Fails with UP_INVALID_ARGUMENT when the id is not positive or taken.
  void put(int32_t id, Content content);
  void forget(int32_t id);
  // Takes a content out; null when there is none of that id.
  std::shared_ptr<const Content> take(int32_t id);

 private:
  std::mutex mutex_;
  std::unordered_map<int32_t, std::shared_ptr<const Content>> contents_;
};

// How a plan takes the contents that it opens.
using TakeContent = std::function<std::shared_ptr<const Content>(int32_t id)>;

// What one step takes out of a store: each rank takes a content once, and all take the same.
class StepContents {
 public:
  explicit StepContents(ContentStore &store) : store_(store) {}
  std::shared_ptr<const Content> take(int rank, int32_t id);

 private:
  ContentStore &store_;
  std::mutex mutex_;
  std::unordered_map<int32_t, std::shared_ptr<const Content>> taken_;  // by the first rank
  std::set<std::pair<int, int32_t>> takers_;
};

}  // namespace up
