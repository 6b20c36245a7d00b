// A drop schedule, as every selection of a runner follows it.
#pragma once

#include <vector>

#include "memory/layout.h"
#include "selection/selection.h"
#include "uniprefill/runner.h"

namespace up {

struct Schedule {
  std::vector<int> drop_layers;
  up_rule rule = UP_RULE_EXCLUSIVE;
  int block = 64;
  int sink = 0;
  int last_q = 0;
  bool window_by_original = false;

  int selections() const { return static_cast<int>(drop_layers.size()); }
  SelectionShape shape(int rows) const { return {rows, block, sink, last_q}; }
};

constexpr int max_last_q = 512;

// Fails with UP_INVALID_ARGUMENT naming the field and its value; also when the layout's segments are others.
Schedule read_schedule(const up_drop_schedule &schedule, const Layout &layout);

}  // namespace up
