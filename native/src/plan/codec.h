// Bytes of a StepPlan and of a StepResult, as packages/scheduler/src/Codec.ts writes and reads them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "abi/failure.h"

namespace up {

// A section's number is its id in the encoding, and its place in the order in which sections are applied.
enum class Section {
  retains = 1,
  leaves,
  closes,
  opens,
  trims,
  window_frees,
  evictions,
  maps,
  grants,
  copies,
  states,
  joins,
  items,
  samples,
};
constexpr int last_section = static_cast<int>(Section::samples);

std::string_view section_name(Section section);
int section_width(Section section);

// One section's records, each `width` integers.
struct Records {
  Section section;
  int width;
  std::span<const int32_t> data;

  int count() const { return static_cast<int>(data.size()) / width; }
  const int32_t *record(int index) const { return &data[static_cast<size_t>(index) * static_cast<size_t>(width)]; }
};

class Plan {
 public:
  // Fails with UP_INVALID_PLAN on anything but the bytes of one plan: magic, version, section ids and lengths, checksum.
  Plan(const uint8_t *bytes, size_t count);

  uint64_t step_id() const { return step_id_; }
  int32_t checksum() const { return words_.back(); }
  const Records &operator[](Section section) const { return sections_[static_cast<size_t>(section)]; }

 private:
  std::vector<int32_t> words_;
  uint64_t step_id_ = 0;
  std::vector<Records> sections_;  // by id; empty where the plan has none
};

// Fails with UP_INVALID_PLAN naming section, record and numbers.
template <class... Parts>
[[noreturn]] void refuse_record(Section section, int record, const Parts &...detail) {
  fail(UP_INVALID_PLAN, "check plan", section_name(section), '[', record, "]: ", detail...);
}

// What a step produced; lists of integer records as packages/scheduler/src/StepResult.ts describes them.
struct ResultSections {
  std::vector<int32_t> tokens;
  std::vector<int32_t> selections;
  std::vector<int32_t> logprobs;
  std::vector<int32_t> logits;
  std::vector<int32_t> ranks;
  std::vector<int32_t> failures;
  std::vector<int32_t> prompt_logprobs;
  std::vector<int32_t> selection_micros;

  std::vector<int32_t> encode(uint64_t step_id, int32_t device_micros) const;
};

constexpr int32_t token_stop = 1;
constexpr int32_t selection_fallback = 1;
constexpr int32_t selection_replayed = 2;
constexpr int32_t failure_non_finite = 1;

// FNV-1a over 32-bit words.
uint32_t checksum_words(std::span<const int32_t> words);

}  // namespace up
