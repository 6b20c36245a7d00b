#include "runner/page_table.h"

#include <algorithm>
#include <cstring>

namespace up {

PageTable::PageTable(const Layout &layout, const ModelConfig &config, int table, SlabPool &pool)
    : table_(layout.tables[static_cast<size_t>(table)]),
      page_size_(layout.page_size),
      layers_per_slab_(layout.layers_per_slab),
      slab_bytes_(layout.slab_bytes),
      row_bytes_(int64_t{config.hidden_size} * 4),
      kv_elements_(static_cast<size_t>(layout.page_size) * static_cast<size_t>(config.kv_width())),
      pool_(pool),
      k_pages_(static_cast<size_t>(table_.layers)),
      v_pages_(static_cast<size_t>(table_.layers)) {}

int PageTable::shared_slab(int first, int end) const {
  if (end <= first) return -1;
  const int begin_slab = first / page_size_ * table_.slabs_per_page;
  const int end_slab = ((end - 1) / page_size_ + 1) * table_.slabs_per_page;
  for (int i = begin_slab; i < end_slab; i++) {
    if (!pool_[slab(i)].is_writable()) return slab(i);
  }
  return -1;
}

int PageTable::filled_pages() const {
  int count = 0;
  while (count < slab_count() && is_filled(count)) count++;
  return count / table_.slabs_per_page;
}

// A slab holds [layer of the slab][K page, V page]; a page of L layers is L / layers_per_slab slabs.
void PageTable::append(int slab, bool filled) {
  const int within = slab_count() % table_.slabs_per_page;
  slabs_.push_back(slab);
  filled_.push_back(filled);
  if (table_.kind == TableKind::carry) return;
  auto *base = reinterpret_cast<cpu::bf16 *>(pool_.bytes(slab));
  for (int i = 0; i < layers_per_slab_; i++) {
    const auto layer = static_cast<size_t>(within * layers_per_slab_ + i);
    k_pages_[layer].push_back(base + 2 * static_cast<size_t>(i) * kv_elements_);
    v_pages_[layer].push_back(base + (2 * static_cast<size_t>(i) + 1) * kv_elements_);
  }
}

void PageTable::pop() {
  slabs_.pop_back();
  filled_.pop_back();
  if (table_.kind == TableKind::carry) return;
  const int within = slab_count() % table_.slabs_per_page;
  for (int i = 0; i < layers_per_slab_; i++) {
    const auto layer = static_cast<size_t>(within * layers_per_slab_ + i);
    k_pages_[layer].pop_back();
    v_pages_[layer].pop_back();
  }
}

cpu::KvPages PageTable::pages_of(int layer) const {
  const auto index = static_cast<size_t>(layer - table_.first_layer);
  return {k_pages_[index].data(), v_pages_[index].data(), page_size_};
}

// A carry page is its slabs' bytes one after another, so a row may continue in the next slab.
template <class Copy>
void PageTable::for_pieces(int row, Copy &&copy) const {
  int64_t at = int64_t{row % page_size_} * row_bytes_;
  const int first_slab = row / page_size_ * table_.slabs_per_page;
  for (int64_t done = 0; done < row_bytes_;) {
    const int64_t offset = at % slab_bytes_;
    const int64_t count = std::min(row_bytes_ - done, slab_bytes_ - offset);
    copy(pool_.bytes(slab(first_slab + static_cast<int>(at / slab_bytes_))) + offset, done, static_cast<size_t>(count));
    at += count;
    done += count;
  }
}

void PageTable::write_rows(int first, int rows, const float *source) {
  for (int i = 0; i < rows; i++) {
    const auto *from = reinterpret_cast<const std::byte *>(source) + i * row_bytes_;
    for_pieces(first + i, [&](std::byte *place, int64_t done, size_t count) { std::memcpy(place, from + done, count); });
  }
}

void PageTable::read_row(int row, float *target) const {
  auto *to = reinterpret_cast<std::byte *>(target);
  for_pieces(row, [&](const std::byte *place, int64_t done, size_t count) { std::memcpy(to + done, place, count); });
}

}  // namespace up
