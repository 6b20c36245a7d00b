// What a plan asks to be computed, once its other sections have been applied.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "backend.h"

namespace up {

// Rows of a prompt: a chunk.
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

struct StepWork {
  MemoryChanges memory;
  std::unordered_map<int, int32_t> forced;  // slot → token that it goes on from instead of its last sampled one
  std::vector<Item> items;
  std::vector<FirstToken> samples;  // in the plan's order
};

}  // namespace up
