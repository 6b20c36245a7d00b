// Bytes of a StepPlan and of a StepResult, as packages/scheduler/src/Codec.ts writes and reads them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace up {

// In the order of the encoding, which is also the order in which they are applied.
enum class Section { leaves, retains, trims, window_frees, drops, maps, grants, copies, states, joins, items, samples };
constexpr int section_count = 12;

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
  // Fails with UP_INVALID_PLAN on anything but the bytes of one plan: magic, version, section lengths, checksum.
  Plan(const uint8_t *bytes, size_t count);

  uint64_t step_id() const { return step_id_; }
  int32_t checksum() const { return words_.back(); }
  const Records &operator[](Section section) const { return sections_[static_cast<size_t>(section)]; }

 private:
  std::vector<int32_t> words_;
  uint64_t step_id_ = 0;
  std::vector<Records> sections_;
};

// What a step produced; lists of integer records as packages/scheduler/src/StepResult.ts describes them.
struct ResultSections {
  std::vector<int32_t> tokens;
  std::vector<int32_t> selections;
  std::vector<int32_t> logprobs;
  std::vector<int32_t> logits;
  std::vector<int32_t> ranks;

  void clear();
  std::vector<int32_t> encode(uint64_t step_id, int32_t device_micros) const;
};

constexpr int32_t token_stop = 1;
constexpr int32_t token_non_finite = 2;
constexpr int32_t selection_fallback = 1;
constexpr int32_t selection_replayed = 2;

// FNV-1a over 32-bit words.
uint32_t checksum_words(std::span<const int32_t> words);

}  // namespace up
