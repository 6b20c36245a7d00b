// Checks what a plan asks to be computed, once its memory sections have been applied: everything that execution then
// relies on.
#pragma once

#include <vector>

#include "runner/runner_state.h"
#include "runner/step_codec.h"

namespace up {

// A piece of prefill.
struct Item {
  int slot;
  int first_row;
  int rows;
  int first_segment;
  int last_segment;
};

// A first token for `slot` from the last row of an item; a slot other than the item's goes on from its prefill.
struct FirstToken {
  int item;
  int slot;
};

// A token that a member of the decode set goes on from instead of its last sampled one.
struct ForcedToken {
  int slot;
  int token;
};

struct StepWork {
  std::vector<Item> items;
  std::vector<FirstToken> samples;  // in the plan's order
  std::vector<ForcedToken> forced;
};

// Fails with UP_INVALID_PLAN naming section, record and numbers.
StepWork check_work(const RunnerState &state, const Plan &plan);

}  // namespace up
