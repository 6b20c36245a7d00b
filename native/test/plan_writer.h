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
  void add(up::Section section, std::initializer_list<int32_t> record);
  int count(up::Section section) { return static_cast<int>((*this)[section].size()) / up::section_width(section); }
  bool empty() const;
  std::vector<int32_t> words(uint64_t step_id) const;
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

[[noreturn]] void stop_test(const char *what);

StepOutput read_result(const std::vector<int32_t> &words);
