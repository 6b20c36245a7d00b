#include "reference/reference_weights.h"

#include <bit>

#include "weights/quantization.h"

namespace up::reference {
namespace {

double widen(uint16_t value) { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); }

}  // namespace

Vector Matrix::times(const double *x, int rows) const {
  const auto width = static_cast<size_t>(n);
  Vector rounded;
  if (fp8) {
    rounded.assign(x, x + static_cast<size_t>(rows) * static_cast<size_t>(k));
    for (int row = 0; row < rows; row++)
      round_to_fp8(std::span(rounded).subspan(static_cast<size_t>(row) * static_cast<size_t>(k), static_cast<size_t>(k)));
    x = rounded.data();
  }
  Vector out(static_cast<size_t>(rows) * width, 0.0);
#pragma omp parallel for schedule(static) if (int64_t{rows} * n * k > 100000)
  for (int row = 0; row < rows; row++) {
    double *to = &out[static_cast<size_t>(row) * width];
    for (int i = 0; i < k; i++) {
      const double factor = x[static_cast<size_t>(row) * static_cast<size_t>(k) + static_cast<size_t>(i)];
      const double *column = &columns[static_cast<size_t>(i) * width];
      for (size_t j = 0; j < width; j++) to[j] += factor * column[j];
    }
    for (size_t j = 0; j < bias.size(); j++) to[j] += bias[j];
  }
  return out;
}

void Weights::add(const Checkpoint &checkpoint, int layer, MatrixKind kind, int expert) {
  const MatrixRows rows = matrix_rows(checkpoint, layer, kind, expert);
  const bool fp8 = is_fp8(checkpoint.table().quantization, kind, rows.n, rows.k);
  const std::vector<uint16_t> values = fp8 ? gather_fp8(rows) : rows.gather();
  Matrix out{rows.n, rows.k, Vector(values.size()), Vector(rows.bias.begin(), rows.bias.end()), fp8};
  const auto n = static_cast<size_t>(rows.n);
  const auto k = static_cast<size_t>(rows.k);
  for (size_t j = 0; j < n; j++) {
    for (size_t i = 0; i < k; i++) out.columns[i * n + j] = widen(values[j * k + i]);
  }
  matrices_[{layer, kind, expert}] = std::move(out);
}

void Weights::add_layer(const Checkpoint &checkpoint, int layer) {
  const LayerSpec &spec = checkpoint.table().layer(layer);
  const auto add_all = [&](std::initializer_list<MatrixKind> kinds) {
    for (const MatrixKind kind : kinds) add(checkpoint, layer, kind);
  };
  for (const char *role :
       {"inputNorm", "postAttentionNorm", "mlpNorm", "postMlpNorm", "qNorm", "kNorm", "aLog", "dtBias", "deltaNorm"}) {
    if (!checkpoint.has(layer, role)) continue;
    const std::vector<float> values = checkpoint.vector(layer, role);
    vectors_[{layer, role}] = Vector(values.begin(), values.end());
  }
  if (spec.is_attention()) {
    add_all({MatrixKind::qkv, MatrixKind::q, MatrixKind::kv, MatrixKind::o});
  } else {
    add_all({MatrixKind::delta_in, MatrixKind::delta_out});
    Vector &taps = vectors_[{layer, "conv"}];
    for (const uint16_t value : matrix_rows(checkpoint, layer, MatrixKind::delta_conv).gather()) taps.push_back(widen(value));
  }
  if (!spec.mlp.is_moe()) {
    add_all({MatrixKind::gate_up, MatrixKind::down});
    return;
  }
  add(checkpoint, layer, MatrixKind::router);
  for (int expert = 0; expert < spec.mlp.experts; expert++) {
    add(checkpoint, layer, MatrixKind::expert_gate_up, expert);
    add(checkpoint, layer, MatrixKind::expert_down, expert);
  }
  if (spec.mlp.shared_inner > 0) add_all({MatrixKind::shared_gate_up, MatrixKind::shared_down, MatrixKind::shared_gate});
}

Weights::Weights(const Checkpoint &checkpoint) {
  for (const uint16_t value : checkpoint.matrix(-1, "embedding")) embedding_.push_back(widen(value));
  const std::vector<float> final_norm = checkpoint.vector(-1, "finalNorm");
  vectors_[{-1, "finalNorm"}] = Vector(final_norm.begin(), final_norm.end());
  add(checkpoint, -1, MatrixKind::lm_head);
  for (int layer = 0; layer < checkpoint.table().layer_count(); layer++) add_layer(checkpoint, layer);
}

}  // namespace up::reference
