// Gated MLPs and mixtures of experts.
#include <algorithm>
#include <vector>

#include "cuda/backend/layer_operations.h"
#include "cuda/backend/parameters.h"
#include "cuda/common/operators.h"
#include "cuda/linear/round_rows.h"

namespace up::cuda {
namespace {

up_activation activation_of(const MlpSpec &mlp) { return mlp.activation == Activation::silu ? UP_SILU : UP_GELU_TANH; }

}  // namespace

void LayerOperations::gate_and_up(Rows tile, int layer) {
  if (peers_ == nullptr) add_all_due();
  const MlpSpec &mlp = model_.layer(layer).mlp;
  const LayerWeights &w = weights_.layer(layer);
  if (w.down.scales == nullptr) return gated_.run(gated_mlp(w.gate_up, tile, mlp, activations_.scratch.as<uint16_t>()));
  const int64_t stride = 2 * int64_t{mlp.inner};
  matmul_.run({&w.gate_up, normed(tile.begin), hidden_, tile.count, activations_.scratch.as(), stride});
  const auto [values, scales] = matmul_.rounded(tile.count);
  launch_activate_and_round(activation_of(mlp), activations_.scratch.as<const uint16_t>(), stride, tile.count, mlp.inner, values, scales,
                            device_.stream());
  device_.check_launch("activate and round");
}

GatedMlp LayerOperations::gated_mlp(const Matrix &weights, Rows tile, const MlpSpec &mlp, uint16_t *out) const {
  return {&weights, normed(tile.begin), tile.count, activation_of(mlp), out};
}

void LayerOperations::choose_gated_products() {
  const Rows tile{0, GatedMlps::least_rows};
  if (activations_.sizes.tile_rows < tile.count) return;
  std::vector<GatedMlp> examples;
  for (int layer = 0; layer < model_.layer_count(); layer++) {
    const LayerWeights &w = weights_.layer(layer);
    const MlpSpec &mlp = model_.layer(layer).mlp;
    if (mlp.is_moe() && mlp.shared_inner == 0) continue;
    const Matrix &weights = mlp.is_moe() ? w.shared_gate_up : w.gate_up;
    const auto same = [&](const GatedMlp &each) { return each.weights->n == weights.n && each.weights->k == weights.k; };
    if (weights.scales == nullptr && std::none_of(examples.begin(), examples.end(), same))
      examples.push_back(gated_mlp(weights, tile, mlp, activations_.scratch.as<uint16_t>()));
  }
  gated_.choose(examples);
}

void LayerOperations::experts(Rows tile, int layer) {
  if (peers_ == nullptr) add_all_due();
  const LayerSpec &spec = model_.layer(layer);
  const MlpSpec &m = spec.mlp;
  const LayerWeights &w = weights_.layer(layer);
  const ExpertScratch scratch(m, hidden_, tile.count);
  const DeviceBuffer &memory = activations_.scratch;
  const bool has_shared = m.shared_inner > 0;
  auto *const logits = memory.as<uint16_t>(scratch.router);
  const int64_t logits_row = projected_stride(w.router.n);
  matmul_.run({&w.router, normed(tile.begin), hidden_, tile.count, logits, logits_row});

  auto route = parameters<up_moe_router>();
  route.rows = tile.count;
  route.experts = m.experts;
  route.top_k = m.top_k;
  route.renormalise = m.renormalise ? 1 : 0;
  route.logits = logits;
  route.logits_stride = logits_row;
  route.chosen = memory.as<int32_t>(scratch.chosen);
  route.weights = memory.as<float>(scratch.weights);
  device_.run(cuda::route, &route);

  auto p = parameters<up_moe>();
  if (has_shared) {
    auto *const inner = memory.as<uint16_t>(scratch.shared_inner);
    auto *const out = memory.as<uint16_t>(scratch.shared);
    gated_.run(gated_mlp(w.shared_gate_up, tile, m, inner));
    matmul_.run({&w.shared_down, inner, 2 * int64_t{m.shared_inner}, tile.count, out, hidden_});
    p.shared = out;
    p.shared_stride = hidden_;
    p.shared_gate = logits + m.experts;
    p.shared_gate_stride = logits_row;
  }
  p.activation = activation_of(m);
  p.rows = tile.count;
  p.hidden = hidden_;
  p.inner = m.inner;
  p.experts = m.experts;
  p.top_k = m.top_k;
  p.input = normed(tile.begin);
  p.input_stride = hidden_;
  p.chosen = route.chosen;
  p.weights = route.weights;
  p.gate_up = w.expert_gate_up;
  p.down = w.expert_down;
  p.output = peers_ != nullptr ? peers_->part(1, tile.begin) : activations_.mixed.as<uint16_t>();
  p.output_stride = hidden_;
  device_.run(run_experts, &p, memory.as<void>(scratch.workspace), memory.bytes() - scratch.workspace);
  put_out(tile, layer, 1);
}

}  // namespace up::cuda
