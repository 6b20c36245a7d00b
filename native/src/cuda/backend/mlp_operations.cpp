// Gated MLPs and mixtures of experts.
#include <algorithm>
#include <utility>
#include <vector>

#include "cuda/backend/layer_operations.h"
#include "cuda/backend/parameters.h"
#include "cuda/common/operators.h"
#include "cuda/linear/gated_product.h"
#include "cuda/linear/round_rows.h"

namespace up::cuda {
namespace {

// Below it tiles of gated_product.cu leave multiprocessors idle, and a library's smaller ones are faster.
constexpr int kGatedProductRows = 1024;

up_activation activation_of(const MlpSpec &mlp) { return mlp.activation == Activation::silu ? UP_SILU : UP_GELU_TANH; }

GatedProduct gated_product(const Matrix &weights, const uint16_t *in, int rows, up_activation activation, uint16_t *out, const Matmul &matmul) {
  return {in, weights.k, weights.data, out, weights.n, rows, weights.n / 2, weights.k, activation, matmul.most_multiprocessors()};
}

}  // namespace

void LayerOperations::gate_and_up(Rows tile, int layer) {
  if (peers_ == nullptr) add_all_due();
  const MlpSpec &mlp = model_.layer(layer).mlp;
  const LayerWeights &w = weights_.layer(layer);
  if (w.down.scales == nullptr) return gate_and_up(w.gate_up, tile, activation_of(mlp), activations_.scratch.as<uint16_t>());
  const int64_t stride = 2 * int64_t{mlp.inner};
  matmul_.run({&w.gate_up, normed(tile.begin), hidden_, tile.count, activations_.scratch.as(), stride});
  const auto [values, scales] = matmul_.rounded(tile.count);
  launch_activate_and_round(activation_of(mlp), activations_.scratch.as<const uint16_t>(), stride, tile.count, mlp.inner, values, scales,
                            device_.stream());
  device_.check_launch("activate and round");
}

void LayerOperations::gate_and_up(const Matrix &weights, Rows tile, up_activation activation, uint16_t *out) {
  const GatedProduct whole = gated_product(weights, normed(tile.begin), tile.count, activation, out, matmul_);
  const bool takes = has_gated_products_ && weights.scales == nullptr && tile.count >= kGatedProductRows;
  if (takes) return device_.run(multiply_gated, &whole);
  matmul_.run({&weights, normed(tile.begin), hidden_, tile.count, out, weights.n});
  auto p = parameters<up_gated_activation>();
  p.activation = activation;
  p.rows = tile.count;
  p.inner = whole.inner;
  p.input = p.output = out;  // over the gate
  p.input_stride = p.output_stride = weights.n;
  device_.run(cuda::activate, &p);
}

void LayerOperations::choose_gated_products() {
  constexpr const char *phase = "compare gated products";
  const Rows tile{0, kGatedProductRows};
  if (activations_.sizes.tile_rows < tile.count) return;
  std::vector<std::pair<int, int>> seen;
  for (int layer = 0; layer < model_.layer_count(); layer++) {
    const LayerWeights &w = weights_.layer(layer);
    const MlpSpec &mlp = model_.layer(layer).mlp;
    if (mlp.is_moe() && mlp.shared_inner == 0) continue;
    const Matrix &weights = mlp.is_moe() ? w.shared_gate_up : w.gate_up;
    if (weights.scales != nullptr || std::find(seen.begin(), seen.end(), std::pair(weights.n, weights.k)) != seen.end()) continue;
    seen.emplace_back(weights.n, weights.k);
    auto *const out = activations_.scratch.as<uint16_t>();
    const GatedProduct whole = gated_product(weights, normed(0), tile.count, activation_of(mlp), out, matmul_);
    if (weights.bias != nullptr || !takes_gated_product(whole)) return;
    std::vector<uint16_t> rows[2];
    for (auto &each : rows) {
      each.resize(static_cast<size_t>(whole.inner));
      if (&each == rows)
        gate_and_up(weights, tile, whole.activation, out);
      else
        device_.run(multiply_gated, &whole);
      device_.copy_out(each.data(), out, each.size() * sizeof each[0], phase);
      device_.wait(phase);
    }
    if (rows[0] != rows[1]) return;
  }
  has_gated_products_ = true;
}

void LayerOperations::experts(Rows tile, int layer) {
  if (peers_ == nullptr) add_all_due();
  const LayerSpec &spec = model_.layer(layer);
  const MlpSpec &m = spec.mlp;
  const LayerWeights &w = weights_.layer(layer);
  const ExpertScratch scratch(m, hidden_, tile.count);
  const DeviceBuffer &memory = activations_.scratch;
  const bool has_shared = m.shared_inner > 0;
  const up_activation activation = activation_of(m);
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
    gate_and_up(w.shared_gate_up, tile, activation, inner);
    matmul_.run({&w.shared_down, inner, 2 * int64_t{m.shared_inner}, tile.count, out, hidden_});
    p.shared = out;
    p.shared_stride = hidden_;
    p.shared_gate = logits + m.experts;
    p.shared_gate_stride = logits_row;
  }
  p.activation = activation;
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
