// What a scheduler knows of a slot: its request, what of it has been asked to be computed, and what is in its tables.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "memory/layout.h"
#include "runner/runner.h"
#include "selection/selection.h"

struct ScheduleSpec {
  std::vector<int32_t> layers;
  double p = 0.5;
  up_rule rule = UP_RULE_EXCLUSIVE;
  int block = 64;
  int sink = 64;
  int last_q = 64;
  bool window_by_original = false;

  uint64_t p_q32() const { return static_cast<uint64_t>(p * 4294967296.0 + 0.5); }
};

up_sampling greedy_sampling();

struct SlotSpec {
  std::vector<int32_t> tokens;  // the prompt, then output so far
  int prompt_length = 0;
  bool drops = false;
  std::vector<std::vector<uint32_t>> bitmaps;
  up_sampling sampling = greedy_sampling();
  int prompt_logprobs = -1;
};

SlotSpec prompt_of(const std::vector<int32_t> &tokens, bool drops);

// Fails with up::Failure.
void put_content(up::Runner &runner, int id, const SlotSpec &spec, const ScheduleSpec &schedule);

// A page table's slabs; those of the first `freed` pages are given back, and −1.
struct Pages {
  std::vector<int> slabs;
  int freed = 0;
};

// What the prefix cache knows of a prefix.
struct Prefix {
  int rows;
  std::vector<Pages> tables;  // empty: not part of it
  int state;                  // the state slot of its snapshot, −1 without
};

struct Progress {
  Progress() = default;
  Progress(const SlotSpec &spec, const ScheduleSpec &schedule, const up::Layout &layout);

  int prompt_length = 0;
  int outputs = 0;  // brought by the content
  bool drops = false;
  std::vector<std::vector<int>> sets;  // positions of the kept rows, of the segments known
  std::vector<std::vector<uint32_t>> bitmaps;
  // What plans have asked for, whether or not it is computed by now.
  int segment = 0;
  int computed = 0;
  bool prefilled = false;
  bool decoding = false;
  int decoded = 0;
  int state = -1;
  std::vector<Pages> tables;

  Pages &pages(int table) { return tables[static_cast<size_t>(table)]; }
  const Pages &pages(int table) const { return tables[static_cast<size_t>(table)]; }
  bool is_known(int s) const { return !drops || s < static_cast<int>(sets.size()); }
  // The last known set bounds those that are not known yet.
  const std::vector<int> &set(int s) const { return sets[std::min(drops ? static_cast<size_t>(s) : 0, sets.size() - 1)]; }
  int set_rows(int s) const { return static_cast<int>(set(s).size()); }
  // Rows to prefill in segment s.
  int rows_of(int s) const { return set_rows(s) + outputs; }
  bool is_done(int s) const { return is_known(s) && (prefilled || (drops && s < segment)); }
  // The first row that has not been asked for yet.
  int next_row(int s) const;
  int position(int s, int row) const;
  int first_visible(int s, int row, int window, bool by_original) const;
  // Tables whose pages a prefix consists of.
  bool is_shared_by_prefix(const up::Table &table) const;

  // A selection after segment s, unless the content brought it.
  void decide(int s, const std::vector<uint32_t> &bitmap, const ScheduleSpec &schedule);
  // Goes on from another slot's prefill, with tables and a state of its own.
  void adopt(const Progress &source);
};
