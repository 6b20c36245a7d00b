// Gated DeltaNet of the CPU backend.
#include "cpu/cpu_layers.h"
#include "cpu/tile_groups.h"

namespace up::cpu {

void CpuBackend::recur(Rows tile, int layer, const RowTable &rows) {
  const DeltaShape shape = delta_shape(spec(layer).delta);
  const LayerWeights &w = weights(layer);
  const DeltaWeights vectors{w.conv.data(), w.decay.data(), w.dt_bias.data(), w.delta_norm.data()};
  std::vector<DeltaGroup> groups;
  for_each_group(rows, tile, [&](int slot, int first, int count) {
    const int state_slot = (*options_.state_slots_of)[static_cast<size_t>(slot)];
    groups.push_back(states_.group(state_slot, layer, first - tile.begin, count));
  });
  const DeltaRows work{.rows = tile.count,
                       .mixed = convolved_.get(),
                       .betas = betas_.get(),
                       .decays = decays_.get(),
                       .directions = directions_.get(),
                       .products = products_.get(),
                       .blocks = blocks_.get()};
  const int count = static_cast<int>(groups.size());
  kernels_.delta_inputs(projected_.get(), groups.data(), count, shape, vectors, work);
  kernels_.delta_recur(groups.data(), count, shape, work);
  kernels_.delta_outputs(projected_.get(), tile.count, shape, vectors, work.mixed, attended(tile.begin, layer));
}

}  // namespace up::cpu
