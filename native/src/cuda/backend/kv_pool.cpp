#include "cuda/backend/kv_pool.h"

#include <algorithm>

namespace up::cuda {
namespace {

int64_t cell_count(const BackendOptions &options) {
  int64_t cells = 0;
  for (const Table &table : options.layout.tables)
    cells += int64_t{table.slabs_per_page} * options.slots * options.layout.pages_for(options.max_tokens);
  return cells;
}

}  // namespace

size_t KvPool::table_bytes(const BackendOptions &options) {
  const int64_t cells = cell_count(options);
  if (cells > INT32_MAX)
    fail(UP_INVALID_ARGUMENT, "make page tables", options.slots, " slots of ", options.max_tokens, " tokens have ", cells, " cells, at most ",
         INT32_MAX);
  return aligned_bytes(static_cast<size_t>(cells) * sizeof(int32_t));
}

KvPool::KvPool(Device &device, const ModelTable &model, const BackendOptions &options, int slabs)
    : device_(device),
      model_(model),
      layout_(options.layout),
      slabs_(slabs),
      slots_(options.slots),
      pages_(options.layout.pages_for(options.max_tokens)),
      tables_(device, table_bytes(options), "the page tables"),
      memory_(device, (static_cast<size_t>(slabs) + 1) * static_cast<size_t>(options.layout.slab_bytes), "the slabs"),
      state_slots_(options.state_slots),
      states_(device, static_cast<size_t>(options.state_slots) * static_cast<size_t>(options.layout.state_slot_bytes), "the states") {
  int64_t next = 0;
  for (const Table &table : layout_.tables) {
    first_cells_.push_back(next);
    next += int64_t{table.slabs_per_page} * slots_ * pages_;
  }
  size_t state = 0;
  for (const LayerSpec &layer : model.layers) {
    state_offsets_.push_back(state);
    if (!layer.is_attention()) state += static_cast<size_t>(delta_state_bytes(layer.delta, 2));
  }
  if (!states_.empty()) device_.clear(states_.as(), 0, states_.bytes(), "clear states");
  // Zeros also where nothing was written yet: masked keys are multiplied by 0, which garbage need not survive.
  device_.clear(memory_.as(), 0, memory_.bytes(), "clear slabs");
  numbers_.resize(static_cast<size_t>(next));
  std::vector<int32_t> none(static_cast<size_t>(next), slabs_);
  device_.check(cudaMemcpy(tables_.as(), none.data(), none.size() * sizeof none[0], cudaMemcpyHostToDevice), "clear page tables");
}

int32_t KvPool::cell(int table, int slab_of_page, int slot, int page) const {
  return static_cast<int32_t>(first_cells_[static_cast<size_t>(table)] + (int64_t{slab_of_page} * slots_ + slot) * pages_ + page);
}

void KvPool::apply(const MemoryChanges &changes, UploadRing &ring) {
  // The last change of a cell counts: a slot may be closed and opened again in one step.
  cells_.clear();
  if (first_number_ > UINT32_MAX - changes.tables.size()) {
    std::fill(numbers_.begin(), numbers_.end(), 0);
    first_number_ = 1;
  }
  for (const MemoryChanges::Entry &entry : changes.tables) {
    const int per_page = layout_.table(entry.table).slabs_per_page;
    const int32_t at = cell(entry.table, entry.index % per_page, entry.slot, entry.index / per_page);
    const int32_t slab = entry.slab < 0 ? slabs_ : entry.slab;
    uint32_t &number = numbers_[static_cast<size_t>(at)];
    if (number >= first_number_) {
      cells_[number - first_number_].slab = slab;
    } else {
      number = first_number_ + static_cast<uint32_t>(cells_.size());
      cells_.push_back({at, slab});
    }
  }
  first_number_ += static_cast<uint32_t>(cells_.size());
  for (size_t begin = 0; begin < cells_.size();) {
    const size_t count = std::min<size_t>(cells_.size() - begin, 1 << 16);
    const TableCell *part = ring.upload(std::span<const TableCell>(cells_).subspan(begin, count));
    launch_scatter(part, static_cast<int>(count), tables_.as<int32_t>(), device_.stream());
    device_.check_launch("change page tables");
    begin += count;
  }
  const auto bytes = static_cast<size_t>(layout_.slab_bytes);
  for (const auto &[source, target] : changes.copies)
    device_.copy(memory_.as(static_cast<size_t>(target) * bytes), memory_.as(static_cast<size_t>(source) * bytes), bytes, "copy slab");
  const auto state_bytes = static_cast<size_t>(layout_.state_slot_bytes);
  for (const MemoryChanges::State &each : changes.states) {
    std::byte *const target = states_.as(static_cast<size_t>(each.target) * state_bytes);
    if (each.change == MemoryChanges::StateChange::zero)
      device_.clear(target, 0, state_bytes, "clear state");
    else
      device_.copy(target, states_.as(static_cast<size_t>(each.source) * state_bytes), state_bytes, "copy state");
  }
}

up_states KvPool::states(int layer, const int32_t *state_slots) const {
  up_states out{};
  out.data = states_.as<void>(state_offsets_[static_cast<size_t>(layer)]);
  out.stride = layout_.state_slot_bytes / 4;
  out.slots = state_slots_;
  out.source_slots = out.target_slots = state_slots;
  return out;
}

up_states KvPool::conv_states(int layer, const int32_t *state_slots) const {
  const DeltaSpec &d = model_.layer(layer).delta;
  up_states out = states(layer, state_slots);
  out.data = static_cast<std::byte *>(out.data) + size_t{4} * static_cast<size_t>(d.value_heads) * static_cast<size_t>(d.key_dim * d.value_dim);
  out.stride = layout_.state_slot_bytes / 2;
  return out;
}

up_kv KvPool::plane(int layer, bool values, const int32_t *slots) const {
  const AttentionSpec &a = model_.layer(layer).attention;
  const LayerPlace &place = layout_.place(layer);
  const int64_t page_elements = int64_t{layout_.page_size} * a.kv_width();
  up_kv kv{};
  kv.data = memory_.as<const uint16_t>() + place.offset + (values ? page_elements : 0);
  kv.pages = tables_.as<const int32_t>() + cell(place.table, place.slab, 0, 0);
  kv.pages_stride = pages_;
  kv.page_stride = layout_.slab_bytes / 2;
  kv.row_stride = a.head_dim;
  kv.head_stride = int64_t{layout_.page_size} * a.head_dim;
  kv.page_size = layout_.page_size;
  kv.page_count = slabs_ + 1;
  kv.table_rows = slots;
  kv.table_count = slots_;
  return kv;
}

up_kv KvPool::keys_of(int layer, int slot) const {
  up_kv kv = plane(layer, false, nullptr);
  kv.pages += slot * kv.pages_stride;
  return kv;
}

CarryPages KvPool::carry(int segment) const {
  const int table = layout_.segment(segment).carry;
  return {{memory_.as()}, 1, layout_.slab_bytes, tables_.as<const int32_t>() + cell(table, 0, 0, 0), slots_, pages_, layout_.page_size};
}

}  // namespace up::cuda
