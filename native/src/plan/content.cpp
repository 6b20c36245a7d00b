#include "plan/content.h"

#include "abi/failure.h"

namespace up {
namespace {

constexpr const char *phase = "check content";

template <class... Parts>
[[noreturn]] void refuse(const Parts &...detail) {
  fail(UP_INVALID_ARGUMENT, phase, detail...);
}

void read_tokens(const up_content &from, const ContentLimits &limits, Content &out) {
  if (from.token_count < 1 || from.token_count > limits.max_tokens) {
    refuse("token_count is ", from.token_count, ", a slot holds 1 to ", limits.max_tokens);
  }
  if (from.prompt_length < 1 || from.prompt_length > from.token_count) {
    refuse("prompt_length is ", from.prompt_length, " of ", from.token_count, " tokens");
  }
  require_pointer(from.tokens, "tokens");
  out.tokens.assign(from.tokens, from.tokens + from.token_count);
  for (size_t i = 0; i < out.tokens.size(); i++) {
    if (out.tokens[i] < 0 || out.tokens[i] >= limits.vocab_size) {
      refuse("tokens[", i, "] is ", out.tokens[i], ", the vocabulary has ", limits.vocab_size);
    }
  }
  out.prompt_length = from.prompt_length;
}

// Each bitmap is over the set that the one before leaves.
void read_bitmaps(const up_content &from, const Schedule &schedule, Content &out) {
  const int selections = out.drops ? schedule.selections() : 0;
  if (from.bitmap_count < 0 || from.bitmap_count > selections) {
    refuse("bitmap_count is ", from.bitmap_count, ", this request has ", selections, " selections");
  }
  if (from.bitmap_count == 0) return;
  require_pointer(from.bitmap_words, "bitmap_words");
  require_pointer(from.bitmaps, "bitmaps");
  const uint32_t *words = from.bitmaps;
  int rows = out.prompt_length;
  for (int i = 0; i < from.bitmap_count; i++) {
    const SelectionShape shape = schedule.shape(rows);
    if (from.bitmap_words[i] != shape.words()) {
      refuse("bitmap ", i, " has ", from.bitmap_words[i], " words, ", shape.rows, " rows need ", shape.words());
    }
    std::vector<uint32_t> bitmap(words, words + shape.words());
    const int used = shape.blocks() % 32;
    if (used != 0 && bitmap.back() >> used != 0) refuse("bitmap ", i, " sets bits beyond its ", shape.blocks(), " blocks");
    words += shape.words();
    rows = static_cast<int>(kept_indices(bitmap, shape).size());
    out.bitmaps.push_back(std::move(bitmap));
  }
}

}  // namespace

Content read_content(const up_content &from, const Schedule &schedule, const ContentLimits &limits) {
  Content out;
  read_tokens(from, limits, out);
  out.drops = from.drops != 0 && schedule.selections() > 0;
  if (out.drops) {
    require_pointer(from.p_q32, "p_q32");
    out.p_q32.assign(from.p_q32, from.p_q32 + schedule.selections());
    for (size_t i = 0; i < out.p_q32.size(); i++) {
      if (out.p_q32[i] > uint64_t{1} << 32) refuse("p_q32[", i, "] is ", out.p_q32[i], ", at most ", uint64_t{1} << 32);
    }
  }
  read_bitmaps(from, schedule, out);
  out.score_decided = from.score_decided != 0;
  out.sampling = read_sampling(from.sampling, limits.vocab_size);
  out.return_logits = from.return_logits != 0;
  if (from.prompt_logprobs < -1 || from.prompt_logprobs > max_logprobs) {
    refuse("prompt_logprobs is ", from.prompt_logprobs, ", an integer from -1 to ", max_logprobs, " was expected");
  }
  if (from.prompt_logprobs >= 0 && out.drops) {
    refuse("prompt_logprobs is ", from.prompt_logprobs, " in a request that drops: rows that are dropped have no logits");
  }
  out.prompt_logprobs = from.prompt_logprobs;
  return out;
}

void ContentStore::put(int32_t id, Content content) {
  if (id < 1) refuse("id is ", id, ", a number above 0 was expected");
  auto stored = std::make_shared<const Content>(std::move(content));
  const std::lock_guard lock(mutex_);
  if (!contents_.emplace(id, std::move(stored)).second) refuse("content ", id, " is there already");
}

void ContentStore::forget(int32_t id) {
  const std::lock_guard lock(mutex_);
  contents_.erase(id);
}

std::shared_ptr<const Content> ContentStore::take(int32_t id) {
  const std::lock_guard lock(mutex_);
  const auto found = contents_.find(id);
  if (found == contents_.end()) return nullptr;
  auto out = std::move(found->second);
  contents_.erase(found);
  return out;
}

std::shared_ptr<const Content> StepContents::take(int rank, int32_t id) {
  const std::lock_guard lock(mutex_);
  if (!takers_.emplace(rank, id).second) return nullptr;
  const auto [at, fresh] = taken_.try_emplace(id);
  if (fresh) at->second = store_.take(id);
  return at->second;
}

}  // namespace up
