// What a runner remembers from step to step.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "runner/layout.h"
#include "runner/slab_pool.h"
#include "runner/slot.h"

namespace up {

struct RunnerState {
  RunnerState(Layout layout, int slabs) : layout(std::move(layout)), pool(slabs, this->layout.slab_bytes) {}

  Layout layout;
  Schedule schedule;
  int vocab_size = 0;
  int max_rows_per_step = 0;
  int max_tokens = 0;
  SlabPool pool;
  std::vector<Slot> slots;
  std::vector<int32_t> decode_set;  // slots, in the order in which their tokens are returned
  uint64_t last_step = 0;

  void join_decode(int slot);
  // The last member takes the place of the one that leaves.
  void leave_decode(int slot);
  // Gives back all that a slot owns and forgets it.
  void close(int slot);
};

}  // namespace up
