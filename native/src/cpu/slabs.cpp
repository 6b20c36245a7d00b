#include "cpu/slabs.h"

#include <algorithm>
#include <cstring>

#include "abi/failure.h"
#include "cpu/cpu_backend.h"

namespace up::cpu {

Slabs::Slabs(const Layout &layout, const ModelTable &model, const PageTables &tables, int slabs)
    : layout_(layout),
      tables_(tables),
      carry_bytes_(int64_t{model.carry_width()} * cpu_element_bytes.carry),
      memory_("slabs", slabs, layout.slab_bytes) {
  if (layout.slab_bytes % cpu_element_bytes.kv != 0) {
    fail(UP_INVALID_ARGUMENT, "reserve memory", "layout.slabBytes is ", layout.slab_bytes, ", no whole number of elements");
  }
  for (const LayerSpec &layer : model.layers) {
    page_elements_.push_back(layer.is_attention() ? int64_t{layout.page_size} * layer.attention.kv_width() : 0);
  }
}

void Slabs::copy(const std::vector<std::pair<int32_t, int32_t>> &copies) {
  for (const auto &[source, target] : copies) {
    std::memcpy(memory_.block(target), memory_.block(source), static_cast<size_t>(memory_.block_bytes()));
  }
}

KvPages Slabs::pages(int slot, int table, int layer) const {
  const LayerPlace &place = layout_.place(layer);
  return {.slabs = tables_.of(slot, table).data() + place.slab,
          .slabs_per_page = layout_.table(table).slabs_per_page,
          .page_size = layout_.page_size,
          .base = memory_.base() + place.offset * cpu_element_bytes.kv,
          .slab_bytes = layout_.slab_bytes,
          .page_elements = page_elements_[static_cast<size_t>(layer)]};
}

// A carry page is its slabs' bytes one after another, so a row may continue in the next slab.
template <class Copy>
void Slabs::for_pieces(int slot, int table, int row, Copy &&copy) const {
  const PageTable &pages = tables_.of(slot, table);
  const int64_t slab_bytes = layout_.slab_bytes;
  const int first = row / layout_.page_size * layout_.table(table).slabs_per_page;
  int64_t at = int64_t{row % layout_.page_size} * carry_bytes_;
  for (int64_t done = 0; done < carry_bytes_;) {
    const int64_t offset = at % slab_bytes;
    const int64_t count = std::min(carry_bytes_ - done, slab_bytes - offset);
    const int32_t slab = pages[static_cast<size_t>(first + at / slab_bytes)];
    copy(memory_.block(slab) + offset, done, static_cast<size_t>(count));
    at += count;
    done += count;
  }
}

void Slabs::write_carry(int slot, int table, int row, const float *source) {
  const auto *from = reinterpret_cast<const std::byte *>(source);
  for_pieces(slot, table, row, [&](std::byte *place, int64_t done, size_t count) { std::memcpy(place, from + done, count); });
}

void Slabs::read_carry(int slot, int table, int row, float *target) const {
  auto *to = reinterpret_cast<std::byte *>(target);
  for_pieces(slot, table, row, [&](const std::byte *place, int64_t done, size_t count) { std::memcpy(to + done, place, count); });
}

}  // namespace up::cpu
