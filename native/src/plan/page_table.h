// One page table of one slot: its slabs, page after page, and where each layer's K and V lie in them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/kernels.h"
#include "model/config.h"
#include "runner/layout.h"
#include "runner/slab_pool.h"

namespace up {

class PageTable {
 public:
  PageTable(const Layout &layout, const ModelConfig &config, int table, SlabPool &pool);

  int slab_count() const { return static_cast<int>(slabs_.size()); }
  int slab(int index) const { return slabs_[static_cast<size_t>(index)]; }
  int slabs_per_page() const { return table_.slabs_per_page; }
  bool is_whole() const { return slab_count() % table_.slabs_per_page == 0; }
  int pages() const { return slab_count() / table_.slabs_per_page; }
  // Rows that its pages have room for.
  int64_t capacity() const { return int64_t{pages()} * page_size_; }
  // The first slab of rows [first, end) that this table does not own alone, -1 when it owns them all. Requires: their
  // pages are there.
  int shared_slab(int first, int end) const;
  // Pages from the front whose content was there before the slot computed anything: mapped or copied ones.
  int filled_pages() const;

  // `filled`: the slab brings rows with it.
  void append(int slab, bool filled);
  void set_filled(int index, bool filled) { filled_[static_cast<size_t>(index)] = filled; }
  bool is_filled(int index) const { return filled_[static_cast<size_t>(index)] != 0; }
  void pop();

  // K/V of a layer that this table holds.
  cpu::KvPages pages_of(int layer) const;

  // Carry rows, [rows × hidden] f32.
  void write_rows(int first, int rows, const float *source);
  void read_row(int row, float *target) const;

 private:
  template <class Copy>
  void for_pieces(int row, Copy &&copy) const;

  Table table_;
  int page_size_;
  int layers_per_slab_;
  int64_t slab_bytes_;
  int64_t row_bytes_;     // of a carry row
  size_t kv_elements_;    // of K (and of V) of one layer in one page
  SlabPool &pool_;
  std::vector<int32_t> slabs_;
  std::vector<uint8_t> filled_;
  // [layer of the table][page]
  std::vector<std::vector<cpu::bf16 *>> k_pages_;
  std::vector<std::vector<cpu::bf16 *>> v_pages_;
};

}  // namespace up
