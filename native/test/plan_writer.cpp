#include "plan_writer.h"

void PlanWriter::add(up::Section section, std::initializer_list<int32_t> record) {
  (*this)[section].insert((*this)[section].end(), record);
}

bool PlanWriter::empty() const {
  for (const auto &section : sections) {
    if (!section.empty()) return false;
  }
  return true;
}

std::vector<int32_t> PlanWriter::words(uint64_t step_id) const {
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

void stop_test(const char *what) {
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

StepOutput read_result(const std::vector<int32_t> &words) {
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
