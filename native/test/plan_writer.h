// Writes StepPlans and reads StepResults, as packages/scheduler/src/Codec.ts does.
#pragma once

#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "plan/codec.h"

struct PlanWriter {
  std::vector<int32_t> sections[up::last_section + 1];

  std::vector<int32_t> &operator[](up::Section section) { return sections[static_cast<size_t>(section)]; }
  void add(up::Section section, std::initializer_list<int32_t> record) {
    (*this)[section].insert((*this)[section].end(), record);
  }
  int count(up::Section section) { return static_cast<int>((*this)[section].size()) / up::section_width(section); }
  bool empty() const {
    for (const auto &section : sections) {
      if (!section.empty()) return false;
    }
    return true;
  }
  std::vector<int32_t> words(uint64_t step_id) const {
    std::vector<int32_t> out = {0x4c505055, 2, static_cast<int32_t>(step_id), static_cast<int32_t>(step_id >> 32), 0, 0};
    for (int id = 1; id <= up::last_section; id++) {
      const std::vector<int32_t> &data = sections[id];
      if (data.empty()) continue;
      out[5]++;
      out.push_back(id);
      out.push_back(static_cast<int32_t>(data.size()));
      out.insert(out.end(), data.begin(), data.end());
    }
    out.push_back(static_cast<int32_t>(up::checksum_words(out)));
    return out;
  }
};

using Logprobs = std::vector<std::pair<int32_t, float>>;

struct StepOutput {
  up_status status = UP_OK;
  std::string error;  // "phase: detail"
  uint64_t step_id = 0;
  int32_t plan_checksum = 0;
  std::map<int, int32_t> tokens;
  std::map<int, int32_t> token_flags;
  std::map<int, int32_t> failures;
  std::map<int, std::vector<float>> logits;
  std::map<int, Logprobs> logprobs;
  std::map<int, std::map<int, Logprobs>> prompt_logprobs;  // slot → prompt row
  struct Selection {
    int slot, segment, flags;
    std::vector<uint32_t> bitmap;
  };
  std::vector<Selection> selections;
  struct SelectionTime {
    int slot, segment, micros;
  };
  std::vector<SelectionTime> selection_micros;
};

[[noreturn]] inline void stop_test(const char *what) {
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

inline StepOutput read_result(const std::vector<int32_t> &words) {
  const size_t end_of_sections = words.size() - 1;
  if (words.size() < 7 || words[0] != 0x52535055 || words[1] != 2 ||
      static_cast<uint32_t>(words.back()) != up::checksum_words({words.data(), end_of_sections})) {
    stop_test("the result's bytes do not hold together");
  }
  StepOutput out;
  out.step_id = static_cast<uint32_t>(words[2]) | static_cast<uint64_t>(static_cast<uint32_t>(words[3])) << 32;
  const auto pairs = [](const int32_t *from, int count) {
    Logprobs list;
    for (int i = 0; i < count; i++) list.emplace_back(from[2 * i], std::bit_cast<float>(from[2 * i + 1]));
    return list;
  };
  size_t at = 6;
  int before = 0;
  for (int i = 0; i < words[5]; i++) {
    const int id = words[at];
    const int32_t *record = &words[at + 2];
    const int32_t *end = record + words[at + 1];
    if (id <= before || record == end || end > &words[end_of_sections]) stop_test("a section of the result is out of place");
    before = id;
    at += 2 + static_cast<size_t>(words[at + 1]);
    while (record < end) {
      switch (id) {
        case 1:
          out.tokens[record[0]] = record[1];
          out.token_flags[record[0]] = record[2];
          record += 3;
          break;
        case 2:
          out.selections.push_back({record[0], record[1], record[2], {record + 4, record + 4 + record[3]}});
          record += 4 + record[3];
          break;
        case 3:
          out.logprobs[record[0]] = pairs(record + 2, record[1]);
          record += 2 + 2 * record[1];
          break;
        case 4:
          for (int k = 0; k < record[1]; k++) out.logits[record[0]].push_back(std::bit_cast<float>(record[2 + k]));
          record += 2 + record[1];
          break;
        case 5: out.plan_checksum = *record++; break;
        case 6:
          out.failures[record[0]] = record[1];
          record += 2;
          break;
        case 7:
          out.prompt_logprobs[record[0]][record[1]] = pairs(record + 3, record[2]);
          record += 3 + 2 * record[2];
          break;
        case 8:
          out.selection_micros.push_back({record[0], record[1], record[2]});
          record += 3;
          break;
        default: stop_test("a section of the result is unknown");
      }
    }
  }
  if (at != end_of_sections) stop_test("the result has words after its sections");
  return out;
}
