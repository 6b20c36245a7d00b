// Slabs and states in doubles. What was never written is NaN.
#pragma once

#include <span>
#include <vector>

#include "backend.h"
#include "reference/reference_weights.h"

namespace up::reference {

class Memory {
 public:
  Memory(const ModelTable &model, const BackendOptions &options);

  void change(const MemoryChanges &changes);

  // K or V of one row in one layer, [kv_heads · head_dim], of the slot's table of that layer.
  enum class Part { keys, values };
  double *kv(int slot, int layer, Part part, int row);
  // One element of a carry row.
  double &carry(int slot, int segment, int row, int element);

  struct DeltaState {
    Vector conv;   // [conv_kernel − 1, conv_width]: the inputs before
    Vector state;  // [value_heads, key_dim, value_dim]
  };
  DeltaState &delta(int slot, int layer);

 private:
  Vector &slab(int slot, int table, int index);
  std::vector<DeltaState> zero_states() const;

  const ModelTable &model_;
  const BackendOptions &options_;
  size_t slab_elements_;
  std::vector<Vector> slabs_;                    // empty until they are used
  std::vector<std::vector<DeltaState>> states_;  // [state slots][layers]
};

}  // namespace up::reference
