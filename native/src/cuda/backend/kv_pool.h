// Slabs on the device and the page tables that say which slot's rows they hold.
//
// Inside a page, K and then V of a layer are [kv_heads][rows of the page][head_dim]: a head's rows lie together, so that a tile of keys
// is one run of memory. Cells of the page tables are [table][slab of a page][slot][page]; what attention needs of a layer is one
// [slot][page] plane. One more slab than there are holds zeros for ever: cells without a slab point there, so that a window's first tile
// may begin in a page that was given back.
#pragma once

#include <span>
#include <vector>

#include "backend.h"
#include "cuda/backend/row_kernels.h"
#include "cuda/backend/upload_ring.h"
#include "uniprefill/operators.h"

namespace up::cuda {

class KvPool {
 public:
  // Bytes of page tables; what is left of the device's memory decides how many slabs there are.
  static size_t table_bytes(const BackendOptions &options);

  KvPool(Device &device, const ModelTable &model, const BackendOptions &options, int slabs);

  int slabs() const { return slabs_; }
  size_t bytes() const { return memory_.bytes(); }

  // Tables, then copies, then states.
  void apply(const MemoryChanges &changes, UploadRing &ring);

  // A layer's K or V, request b's being those of slot slots[b] (on the device).
  up_kv keys(int layer, const int32_t *slots) const { return plane(layer, false, slots); }
  up_kv values(int layer, const int32_t *slots) const { return plane(layer, true, slots); }
  // The same of one slot, as the only request.
  up_kv keys_of(int layer, int slot) const;
  CarryPages carry(int segment) const;
  int drop_layer(int segment) const { return layout_.segment(segment).last_layer; }
  std::byte *base() const { return memory_.as(); }

  // A delta layer's recurrent states (f32) and, behind each, its convolution's (bf16), of requests whose state slots are given.
  up_states states(int layer, const int32_t *state_slots) const;
  up_states conv_states(int layer, const int32_t *state_slots) const;
  size_t state_bytes() const { return states_.bytes(); }

 private:
  up_kv plane(int layer, bool values, const int32_t *slots) const;
  int32_t cell(int table, int slab_of_page, int slot, int page) const;

  Device &device_;
  const ModelTable &model_;
  const Layout layout_;
  const int slabs_, slots_, pages_;
  std::vector<int64_t> first_cells_;  // [tables]
  DeviceBuffer tables_;
  DeviceBuffer memory_;
  const int state_slots_;
  std::vector<size_t> state_offsets_;  // [layers] of a delta layer's state in a state slot
  DeviceBuffer states_;
  std::vector<TableCell> cells_;      // that change in a step
  std::vector<uint32_t> numbers_;     // [cells of the tables] number of its last change, counted over all steps
  uint32_t first_number_ = 1;         // of the step at hand
};

}  // namespace up::cuda
