// Where requests' recurrent states lie, on the device.
#pragma once

#include "operators/backend.h"

namespace up::cuda {

// The slot's state, or nullptr where the list names none.
template <class T>
__device__ __forceinline__ T *state_of(const up_states &s, const int32_t *slots, int request) {
  const int slot = slots[request];
  return slot < 0 || slot >= s.slots ? nullptr : static_cast<T *>(s.data) + slot * s.stride;
}

// Snapshots [begin, end) of a request.
struct SnapshotRange {
  int begin, end;
};

__device__ __forceinline__ SnapshotRange snapshot_range(const up_states &s, int request) {
  if (s.snapshots == 0) return {0, 0};
  const int begin = min(max(s.snapshot_starts[request], 0), s.snapshots);
  return {begin, min(max(s.snapshot_starts[request + 1], begin), s.snapshots)};
}

}  // namespace up::cuda
