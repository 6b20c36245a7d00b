#include "plan/codec.h"

#include <cstring>

namespace up {
namespace {

constexpr uint32_t plan_magic = 0x4c505055;    // "UPPL"
constexpr uint32_t result_magic = 0x52535055;  // "UPSR"
constexpr int32_t format_version = 2;
constexpr size_t header_words = 6;
constexpr size_t max_plan_words = size_t{1} << 28;

struct SectionForm {
  std::string_view name;
  int width;
};

constexpr SectionForm forms[last_section + 1] = {
    {"", 1},          {"retains", 1}, {"leaves", 1}, {"closes", 1}, {"opens", 2},  {"trims", 3}, {"windowFrees", 3},
    {"evictions", 1}, {"maps", 3},    {"grants", 3}, {"copies", 2}, {"states", 3}, {"joins", 2}, {"items", 5},
    {"samples", 2},
};

template <class... Parts>
[[noreturn]] void refuse(const Parts &...detail) {
  fail(UP_INVALID_PLAN, "decode plan", detail...);
}

}  // namespace

std::string_view section_name(Section section) { return forms[static_cast<size_t>(section)].name; }
int section_width(Section section) { return forms[static_cast<size_t>(section)].width; }

uint32_t checksum_words(std::span<const int32_t> words) {
  uint32_t hash = 0x811c9dc5;
  for (const int32_t word : words) hash = (hash ^ static_cast<uint32_t>(word)) * 0x01000193;
  return hash;
}

Plan::Plan(const uint8_t *bytes, size_t count) {
  if (count % 4 != 0) refuse(count, " bytes is not a whole number of words");
  const size_t words = count / 4;
  if (words < header_words + 1 || words > max_plan_words) {
    refuse(words, " words, a plan has from ", header_words + 1, " to ", max_plan_words);
  }
  words_.resize(words);
  std::memcpy(words_.data(), bytes, count);
  if (static_cast<uint32_t>(words_[0]) != plan_magic) {
    refuse("magic is ", static_cast<uint32_t>(words_[0]), ", expected ", plan_magic);
  }
  if (words_[1] != format_version) refuse("version is ", words_[1], ", this library reads ", format_version);
  const uint32_t checksum = checksum_words(std::span(words_).first(words - 1));
  if (checksum != static_cast<uint32_t>(words_.back())) {
    refuse("checksum is ", static_cast<uint32_t>(words_.back()), ", its bytes give ", checksum);
  }
  step_id_ = static_cast<uint32_t>(words_[2]) | static_cast<uint64_t>(static_cast<uint32_t>(words_[3])) << 32;
  if (words_[4] != 0) refuse("word 4 is ", words_[4], ", expected 0");
  for (int id = 0; id <= last_section; id++) sections_.push_back({static_cast<Section>(id), forms[id].width, {}});
  size_t at = header_words;
  int before = 0;
  for (int32_t i = 0; i < words_[5]; i++) {
    if (words - 1 - at < 2) refuse(words_[5], " sections, the words of ", i, " are there");
    const int32_t id = words_[at++];
    const int32_t length = words_[at++];
    if (id < 1 || id > last_section) refuse("section ", id, " is not known to this library");
    if (id <= before) refuse("section ", forms[id].name, " comes after section ", forms[before].name);
    before = id;
    const SectionForm &form = forms[id];
    const size_t left = words - 1 - at;
    if (length < 1 || static_cast<size_t>(length) > left) {
      refuse("section ", form.name, " claims ", length, " integers, ", left, " are left");
    }
    if (length % form.width != 0) refuse("section ", form.name, " has ", length, " integers, records have ", form.width);
    sections_[static_cast<size_t>(id)].data = std::span<const int32_t>(words_).subspan(at, static_cast<size_t>(length));
    at += static_cast<size_t>(length);
  }
  if (at != words - 1) refuse(words - 1 - at, " words after the last section");
}

std::vector<int32_t> ResultSections::encode(uint64_t step_id, int32_t device_micros) const {
  std::vector<int32_t> words = {static_cast<int32_t>(result_magic), format_version, static_cast<int32_t>(step_id),
                                static_cast<int32_t>(step_id >> 32), device_micros, 0};
  int32_t id = 0;
  for (const auto *section : {&tokens, &selections, &logprobs, &logits, &ranks, &failures, &prompt_logprobs, &selection_micros}) {
    id++;
    if (section->empty()) continue;
    words[5]++;
    words.push_back(id);
    words.push_back(static_cast<int32_t>(section->size()));
    words.insert(words.end(), section->begin(), section->end());
  }
  words.push_back(static_cast<int32_t>(checksum_words(words)));
  return words;
}

}  // namespace up
