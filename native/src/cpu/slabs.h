// The slabs of K, V and carry rows, addressed through page tables.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/reserved_memory.h"
#include "memory/layout.h"
#include "memory/page_tables.h"
#include "weights/model_table.h"

namespace up::cpu {

class Slabs {
 public:
  // Fails with UP_OUT_OF_MEMORY.
  Slabs(const Layout &layout, const ModelTable &model, const PageTables &tables, int slabs);

  void copy(const std::vector<std::pair<int32_t, int32_t>> &copies);
  // K/V of a layer, as a table of a slot holds them; valid until the page table changes.
  KvPages pages(int slot, int table, int layer) const;

  // One carry row, [carry_width] f32.
  void write_carry(int slot, int table, int row, const float *source);
  void read_carry(int slot, int table, int row, float *target) const;

 private:
  template <class Copy>
  void for_pieces(int slot, int table, int row, Copy &&copy) const;

  const Layout &layout_;
  const PageTables &tables_;
  int64_t carry_bytes_;                 // of a row
  std::vector<int64_t> page_elements_;  // [layers] of K, and of V
  ReservedMemory memory_;
};

}  // namespace up::cpu
