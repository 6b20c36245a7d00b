#include "reference/reference_memory.h"

#include <limits>

#include "abi/failure.h"
#include "reference/reference_backend.h"

namespace up::reference {

Memory::Memory(const ModelTable &model, const BackendOptions &options)
    : model_(model),
      options_(options),
      slab_elements_(static_cast<size_t>(options.layout.slab_bytes / reference_element_bytes.kv)),
      slabs_(static_cast<size_t>(options.slabs)),
      states_(static_cast<size_t>(options.state_slots)) {}

std::vector<Memory::DeltaState> Memory::zero_states() const {
  std::vector<DeltaState> out;
  for (const LayerSpec &layer : model_.layers) {
    const DeltaSpec &d = layer.delta;
    if (layer.mixer != Mixer::delta) {
      out.push_back({});
      continue;
    }
    out.push_back({Vector(static_cast<size_t>((d.conv_kernel - 1) * d.conv_width()), 0.0),
                   Vector(static_cast<size_t>(d.value_heads * d.key_dim * d.value_dim), 0.0)});
  }
  return out;
}

void Memory::change(const MemoryChanges &changes) {
  for (const auto &[source, target] : changes.copies) slabs_[static_cast<size_t>(target)] = slabs_[static_cast<size_t>(source)];
  for (const auto &[change, source, target] : changes.states) {
    const bool zero = change == MemoryChanges::StateChange::zero;
    states_[static_cast<size_t>(target)] = zero ? zero_states() : states_[static_cast<size_t>(source)];
  }
}

Vector &Memory::slab(int slot, int table, int index) {
  const PageTable &pages = options_.tables->of(slot, table);
  if (index < 0 || static_cast<size_t>(index) >= pages.size() || pages[static_cast<size_t>(index)] < 0) {
    fail(UP_INTERNAL, "compute", "table ", table, " of slot ", slot, " has no slab ", index);
  }
  Vector &out = slabs_[static_cast<size_t>(pages[static_cast<size_t>(index)])];
  if (out.empty()) out.assign(slab_elements_, std::numeric_limits<double>::quiet_NaN());
  return out;
}

double *Memory::kv(int slot, int layer, Part part, int row) {
  const Layout &layout = options_.layout;
  const LayerPlace &place = layout.place(layer);
  const int width = model_.layer(layer).attention.kv_width();
  const int page = row / layout.page_size;
  Vector &elements = slab(slot, place.table, page * layout.table(place.table).slabs_per_page + place.slab);
  const int64_t skipped = part == Part::values ? int64_t{layout.page_size} * width : 0;
  return &elements[static_cast<size_t>(place.offset + skipped + int64_t{row % layout.page_size} * width)];
}

// A carry page is its slabs one after another.
double &Memory::carry(int slot, int segment, int row, int element) {
  const Layout &layout = options_.layout;
  const int table = layout.segment(segment).carry;
  const int64_t of_slab = layout.slab_bytes / reference_element_bytes.carry;
  const int64_t at = int64_t{row % layout.page_size} * model_.hidden_size + element;
  const int first = row / layout.page_size * layout.table(table).slabs_per_page;
  return slab(slot, table, first + static_cast<int>(at / of_slab))[static_cast<size_t>(at % of_slab)];
}

Memory::DeltaState &Memory::delta(int slot, int layer) {
  const int state_slot = (*options_.state_slots_of)[static_cast<size_t>(slot)];
  if (state_slot < 0 || states_[static_cast<size_t>(state_slot)].empty()) {
    fail(UP_INTERNAL, "compute", "slot ", slot, " has no state, or one that was never zeroed: ", state_slot);
  }
  return states_[static_cast<size_t>(state_slot)][static_cast<size_t>(layer)];
}

}  // namespace up::reference
