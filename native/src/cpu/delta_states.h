// The states of delta layers, one block of memory a state slot.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend.h"
#include "cpu/kernels.h"
#include "cpu/reserved_memory.h"
#include "weights/model_table.h"

namespace up::cpu {

DeltaShape delta_shape(const DeltaSpec &spec);

class DeltaStates {
 public:
  DeltaStates(const ModelTable &model, int state_slots);

  void change(std::span<const MemoryChanges::State> changes);
  // Rows [first, first + rows) of a tile, with the state of a layer that they go on.
  DeltaGroup group(int state_slot, int layer, int first, int rows) const;

 private:
  struct Place {  // offsets in a block, in bytes
    int64_t begun, conv, keys, state;
  };
  std::vector<Place> places_;  // [layers]
  ReservedMemory memory_;
};

}  // namespace up::cpu
