// Gated DeltaNet.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cuda/backend/layer_operations.h"
#include "cuda/backend/parameters.h"
#include "cuda/common/operators.h"

namespace up::cuda {

void LayerOperations::recur(Rows tile, int layer, const DeviceRows &rows, UploadRing &ring) {
  const DeltaScratch scratch(model_.layer(layer).delta, tile.count, rows.decode_rows + rows.prefill_groups);
  if (tile.begin == 0) return recur_rows(layer, rows, tile, rows.all_starts, scratch);
  // Starts count from the tile's first row; groups that lie beside it have no rows in it.
  std::vector<int32_t> starts(static_cast<size_t>(rows.decode_rows + rows.prefill_groups) + 1);
  const auto before = [&](int32_t start) { return std::clamp(start - tile.begin, 0, tile.count); };
  std::transform(rows.host_starts.begin(), rows.host_starts.end(), starts.begin(), before);
  recur_rows(layer, rows, tile, ring.upload(std::span<const int32_t>(starts)), scratch);
}

void LayerOperations::recur_rows(int layer, const DeviceRows &rows, Rows tile, const int32_t *starts, const DeltaScratch &scratch) {
  const DeltaSpec &d = model_.layer(layer).delta;
  const LayerWeights &w = weights_.layer(layer);
  const int64_t stride = projected_stride(w.delta_in.n);
  const auto *projected = activations_.scratch.as<const uint16_t>();
  auto *const convolved = activations_.scratch.as<uint16_t>(scratch.convolved);
  auto *const decay = activations_.scratch.as<float>(scratch.decay);
  auto *const beta = activations_.scratch.as<float>(scratch.beta);
  const int decode_rows = std::clamp(rows.decode_rows - tile.begin, 0, tile.count);

  auto in = parameters<up_delta_input>();
  in.requests = rows.decode_rows + rows.prefill_groups;
  in.max_rows = tile.count;
  in.channels = d.conv_width();
  in.kernel = d.conv_kernel;
  in.input = projected;
  in.input_row_stride = stride;
  in.weight = w.conv;
  in.row_starts = starts;
  in.states = pool_.conv_states(layer, rows.states);
  in.output = convolved;
  in.output_row_stride = d.conv_width();
  in.heads = d.value_heads;
  in.beta_input = projected + d.conv_width() + d.value_width();
  in.decay_input = projected + d.conv_width() + d.value_width() + d.value_heads;
  in.beta_input_stride = in.decay_input_stride = stride;
  in.a_log = w.a_log;
  in.dt_bias = w.dt_bias;
  in.decay = decay;
  in.beta = beta;
  device_.run(delta_prepare, &in);

  const auto shared = [&](auto &p) {
    p.key_heads = d.key_heads;
    p.value_heads = d.value_heads;
    p.key_dim = d.key_dim;
    p.value_dim = d.value_dim;
    p.normalise = 1;
    p.norm_eps = 1e-6f;
    p.scale = 1 / std::sqrt(static_cast<float>(d.key_dim));
    p.queries = convolved;
    p.keys = convolved + d.key_width();
    p.values = convolved + 2 * d.key_width();
    p.query_row_stride = p.key_row_stride = p.value_row_stride = d.conv_width();
    p.decay = decay;
    p.beta = beta;
    p.output = attended(layer, tile.begin);
    p.output_row_stride = d.value_width();
  };
  if (decode_rows > 0) {
    auto p = parameters<up_delta_decode>();
    shared(p);
    p.requests = decode_rows;
    p.states = pool_.states(layer, rows.states + tile.begin);
    device_.run(recur_decode, &p);
  }
  if (rows.prefill_groups > 0) {
    auto p = parameters<up_delta_prefill>();
    shared(p);
    p.requests = rows.prefill_groups;
    p.max_rows = tile.count;
    p.row_starts = starts + rows.decode_rows;
    p.states = pool_.states(layer, rows.states + rows.decode_rows);
    device_.run(recur_prefill, &p, activations_.scratch.as<void>(scratch.workspace), activations_.scratch.bytes() - scratch.workspace);
  }

  auto norm = parameters<up_gated_norm>();
  norm.rows = tile.count;
  norm.heads = d.value_heads;
  norm.head_dim = d.value_dim;
  norm.eps = d.norm_eps;
  norm.input = norm.output = attended(layer, tile.begin);
  norm.input_row_stride = norm.output_row_stride = d.value_width();
  norm.gate = projected + d.conv_width();
  norm.gate_row_stride = stride;
  norm.weight = w.delta_norm;
  device_.run(normalise_gated, &norm);
}

}  // namespace up::cuda
