#include "cpu/delta_states.h"

#include <cstring>

namespace up::cpu {
namespace {

constexpr int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// Bytes of a layer's parts.
int64_t begun_bytes() { return aligned(sizeof(int32_t)); }
int64_t conv_bytes(const DeltaShape &shape) {
  return aligned(int64_t{shape.conv_kernel - 1} * shape.conv_width() * int64_t{sizeof(float)});
}
int64_t keys_bytes(const DeltaShape &shape) { return aligned(shape.key_heads * shape.head_keys() * int64_t{sizeof(bf16)}); }
int64_t state_bytes(const DeltaShape &shape) { return aligned(shape.value_heads * shape.head_state() * int64_t{sizeof(float)}); }

int64_t block_bytes(const ModelTable &model) {
  int64_t out = 0;
  for (const LayerSpec &layer : model.layers) {
    if (layer.mixer != Mixer::delta) continue;
    const DeltaShape shape = delta_shape(layer.delta);
    out += begun_bytes() + conv_bytes(shape) + keys_bytes(shape) + state_bytes(shape);
  }
  return out;
}

}  // namespace

DeltaShape delta_shape(const DeltaSpec &spec) {
  return {spec.key_heads, spec.value_heads, spec.key_dim, spec.value_dim, spec.conv_kernel, spec.norm_eps};
}

DeltaStates::DeltaStates(const ModelTable &model, int state_slots) : memory_("state slots", state_slots, block_bytes(model)) {
  int64_t at = 0;
  for (const LayerSpec &layer : model.layers) {
    if (layer.mixer != Mixer::delta) {
      places_.push_back({});
      continue;
    }
    const DeltaShape shape = delta_shape(layer.delta);
    const int64_t conv = at + begun_bytes();
    const int64_t keys = conv + conv_bytes(shape);
    const int64_t state = keys + keys_bytes(shape);
    places_.push_back({at, conv, keys, state});
    at = state + state_bytes(shape);
  }
}

void DeltaStates::change(std::span<const MemoryChanges::State> changes) {
  const auto bytes = static_cast<size_t>(memory_.block_bytes());
  if (bytes == 0) return;  // a model without recurrent layers
  for (const auto &[change, source, target] : changes) {
    std::byte *block = memory_.block(target);
    if (change == MemoryChanges::StateChange::copy) std::memcpy(block, memory_.block(source), bytes);
    else std::memset(block, 0, bytes);
  }
}

DeltaGroup DeltaStates::group(int state_slot, int layer, int first, int rows) const {
  const Place &place = places_[static_cast<size_t>(layer)];
  std::byte *block = memory_.block(state_slot);
  return {.first = first,
          .rows = rows,
          .conv = reinterpret_cast<float *>(block + place.conv),
          .state = reinterpret_cast<float *>(block + place.state),
          .keys = reinterpret_cast<bf16 *>(block + place.keys),
          .begun = reinterpret_cast<int32_t *>(block + place.begun)};
}

}  // namespace up::cpu
