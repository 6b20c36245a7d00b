// Gated DeltaNet and mixture of experts for cuda_bounds.
#include "operator_bounds.h"

namespace bounds {

namespace {

// Lists of slots that mostly exist; `data` holds `slots` states of `size` elements of `element_bytes`.
up_states states(Round &r, int requests, int rows, int64_t size, int element_bytes) {
  up_states s{};
  s.slots = uniform(1, 4);
  s.stride = size;
  s.data = element_bytes == 2 ? r.numbers(s.slots * size) : r.floats(s.slots * size);
  s.source_slots = r.integers(requests, -1, s.slots);
  s.target_slots = r.integers(requests, -1, s.slots);
  s.snapshots = uniform(0, 5);
  if (s.snapshots == 0) return s;
  s.snapshot_starts = r.integers(requests + 1, 0, s.snapshots, uniform(0, 3) != 0);
  std::vector<uint8_t> content(static_cast<size_t>(s.snapshots) * 4);
  for (int i = 0; i < s.snapshots; ++i) {
    const int32_t length = 64 * uniform(0, rows / 64 + 1) + (uniform(0, 4) == 0 ? 1 : 0);
    std::copy_n(reinterpret_cast<const uint8_t *>(&length), 4, content.begin() + 4 * i);
  }
  s.snapshot_rows = static_cast<const int32_t *>(r.keep(content));
  s.snapshot_slots = r.integers(s.snapshots, -1, s.slots);
  return s;
}

}  // namespace

void delta_prepare(Round &r) {
  const int requests = uniform(1, 6), rows = uniform(1, 300), channels = 8 * uniform(1, 150), heads = uniform(0, 5);
  up_delta_input p{};
  p.size = sizeof p;
  p.dtype = UP_BF16;
  p.requests = requests;
  p.max_rows = rows;
  p.channels = channels;
  p.kernel = uniform(2, 4);
  p.input = r.numbers(int64_t{rows} * channels);
  p.weight = r.numbers(int64_t{channels} * p.kernel);
  p.row_starts = r.integers(requests + 1, 0, rows, uniform(0, 3) != 0);
  p.states = states(r, requests, rows, int64_t{p.kernel - 1} * channels, 2);
  p.output = r.bytes(int64_t{rows} * channels * 2);
  p.input_row_stride = p.output_row_stride = channels;
  p.heads = heads;
  if (heads > 0) {
    p.decay_input = r.numbers(int64_t{rows} * heads);
    p.beta_input = r.numbers(int64_t{rows} * heads);
    p.decay_input_stride = p.beta_input_stride = heads;
    p.a_log = r.floats(heads);
    p.dt_bias = r.floats(heads);
    p.decay = static_cast<float *>(r.bytes(int64_t{rows} * heads * 4));
    p.beta = static_cast<float *>(r.bytes(int64_t{rows} * heads * 4));
  }
  run(table->delta_prepare, p);

  up_gated_norm n{};
  n.size = sizeof n;
  n.dtype = UP_BF16;
  n.rows = rows;
  n.heads = uniform(1, 5);
  n.head_dim = pick({64, 128, 256});
  n.input_row_stride = n.gate_row_stride = n.output_row_stride = int64_t{n.heads} * n.head_dim;
  n.input = r.numbers(rows * n.input_row_stride);
  n.gate = r.numbers(rows * n.input_row_stride);
  n.weight = r.numbers(n.head_dim);
  n.output = r.bytes(rows * n.output_row_stride * 2);
  run(table->normalise_gated, n);
}

void delta_recurrence(Round &r) {
  const int requests = uniform(1, 5), rows = uniform(1, 400), key_heads = uniform(1, 2), value_heads = key_heads * uniform(1, 3);
  const int key_dim = pick({64, 128}), value_dim = pick({64, 128});
  const int64_t size = int64_t{value_heads} * key_dim * value_dim;
  up_delta_prefill p{};
  p.size = sizeof p;
  p.dtype = UP_BF16;
  p.requests = requests;
  p.max_rows = rows;
  p.key_heads = key_heads;
  p.value_heads = value_heads;
  p.key_dim = key_dim;
  p.value_dim = value_dim;
  p.normalise = uniform(0, 1);
  p.scale = 0.1f;
  p.query_row_stride = p.key_row_stride = int64_t{key_heads} * key_dim;
  p.value_row_stride = p.output_row_stride = int64_t{value_heads} * value_dim;
  p.queries = r.numbers(rows * p.query_row_stride);
  p.keys = r.numbers(rows * p.key_row_stride);
  p.values = r.numbers(rows * p.value_row_stride);
  p.decay = r.floats(int64_t{rows} * value_heads);
  p.beta = r.floats(int64_t{rows} * value_heads);
  p.row_starts = r.integers(requests + 1, 0, rows, uniform(0, 3) != 0);
  p.states = states(r, requests, rows, size, 4);
  p.output = r.bytes(rows * p.output_row_stride * 2);
  run(r, table->delta_prefill_workspace, table->recur_prefill, p);

  up_delta_decode d{};
  d.size = sizeof d;
  d.dtype = UP_BF16;
  d.requests = std::min(requests, rows);
  d.key_heads = key_heads;
  d.value_heads = value_heads;
  d.key_dim = key_dim;
  d.value_dim = value_dim;
  d.normalise = p.normalise;
  d.scale = 0.1f;
  d.queries = p.queries;
  d.keys = p.keys;
  d.values = p.values;
  d.query_row_stride = d.key_row_stride = p.key_row_stride;
  d.value_row_stride = d.output_row_stride = p.value_row_stride;
  d.decay = p.decay;
  d.beta = p.beta;
  d.states = p.states;
  d.output = p.output;
  run(table->recur_decode, d);
}

void experts(Round &r) {
  const int rows = uniform(1, 200), count = uniform(1, 40), top_k = uniform(1, std::min(count, 8));
  up_moe_router m{};
  m.size = sizeof m;
  m.dtype = UP_BF16;
  m.rows = rows;
  m.experts = count;
  m.top_k = top_k;
  m.renormalise = uniform(0, 1);
  m.logits = r.numbers(int64_t{rows} * count);
  m.logits_stride = count;
  m.chosen = static_cast<int32_t *>(r.bytes(int64_t{rows} * top_k * 4));
  m.weights = static_cast<float *>(r.bytes(int64_t{rows} * top_k * 4));
  run(table->route, m);

  up_moe p{};
  p.size = sizeof p;
  p.dtype = UP_BF16;
  p.activation = pick({UP_SILU, UP_GELU_TANH});
  p.rows = rows;
  p.hidden = 64 * uniform(1, 4);
  p.inner = 64 * uniform(1, 4);
  p.experts = count;
  p.top_k = top_k;
  p.input = r.numbers(int64_t{rows} * p.hidden);
  p.chosen = r.integers(int64_t{rows} * top_k, -1, count);
  p.weights = m.weights;
  p.gate_up = r.numbers(int64_t{count} * 2 * p.inner * p.hidden);
  p.down = r.numbers(int64_t{count} * p.hidden * p.inner);
  if (uniform(0, 1) == 0) {
    p.shared = r.numbers(int64_t{rows} * p.hidden);
    p.shared_gate = r.numbers(rows);
    p.shared_gate_stride = 1;
  }
  p.output = r.bytes(int64_t{rows} * p.hidden * 2);
  p.input_stride = p.shared_stride = p.output_stride = p.hidden;
  run(r, table->moe_workspace, table->run_experts, p);
}

}  // namespace bounds
