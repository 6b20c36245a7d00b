// Attention layers between their matrix products, and selections.
#include <algorithm>

#include "cuda/attention/decode_attention.h"
#include "cuda/backend/layer_operations.h"
#include "cuda/backend/parameters.h"
#include "cuda/common/operators.h"
#include "cuda/selection/sparse_keys.h"
#include "selection/sparsity.h"

namespace up::cuda {

uint16_t *LayerOperations::queries(int layer, int row) const {
  return activations_.queries.as<uint16_t>() + int64_t{row} * model_.layer(layer).attention.query_width();
}
uint16_t *LayerOperations::gates(int layer, int row) const {
  return activations_.gates.as<uint16_t>() + int64_t{row} * model_.layer(layer).attention.query_width();
}
uint16_t *LayerOperations::attended(int layer, int row) const {
  const LayerSpec &spec = model_.layer(layer);
  const int width = spec.is_attention() ? spec.attention.query_width() : spec.delta.value_width();
  return activations_.attended.as<uint16_t>() + int64_t{row} * width;
}

void LayerOperations::rotate_and_write(Rows tile, int layer, MatrixKind kind, const DeviceRows &rows) {
  const AttentionSpec &a = model_.layer(layer).attention;
  const LayerWeights &w = weights_.layer(layer);
  const bool with_queries = kind != MatrixKind::kv, with_keys = kind != MatrixKind::q;
  const int64_t stride = projected_stride(matrix(layer, kind).n);
  const auto *projected = activations_.scratch.as<const uint16_t>();
  const int query_columns = with_queries ? a.query_width() * (a.output_gate ? 2 : 1) : 0;
  auto p = parameters<up_rope_write>();
  p.rows = tile.count;
  p.heads = with_queries ? a.heads : 0;
  p.kv_heads = with_keys ? a.kv_heads : 0;
  p.head_dim = a.head_dim;
  p.rotary_dim = a.rope.dim;
  p.positions_limit = max_tokens_;
  p.requests = slots_;
  p.max_key_rows = max_tokens_;
  const Angles &turned = angles(a.rope);
  p.cosines = turned.cosines;
  p.sines = turned.sines;
  p.positions = rows.positions + tile.begin;
  p.kv_requests = rows.slots + tile.begin;
  p.kv_rows = rows.places + tile.begin;
  p.queries = projected;
  p.query_row_stride = stride;
  p.query_head_stride = a.head_dim;
  p.query_output = queries(layer, tile.begin);
  p.query_output_row_stride = a.query_width();
  p.keys = projected + query_columns;
  p.key_row_stride = stride;
  p.values = projected + query_columns + a.kv_width();
  p.value_row_stride = stride;
  p.key_cache = pool_.keys(layer, nullptr);
  p.value_cache = pool_.values(layer, nullptr);
  p.query_norm = w.q_norm;
  p.key_norm = w.k_norm;
  p.norm_eps = a.qk_norm_spec.eps;
  p.norm_weight_offset = a.qk_norm_spec.offset;
  device_.run(cuda::rotate_and_write, &p);
  if (with_queries && a.output_gate) {
    const size_t width = static_cast<size_t>(a.query_width()) * 2;
    device_.check(cudaMemcpy2DAsync(gates(layer, tile.begin), width, projected + a.query_width(), static_cast<size_t>(stride) * 2, width,
                                    static_cast<size_t>(tile.count), cudaMemcpyDeviceToDevice, device_.stream()),
                  "keep gates");
  }
}

void LayerOperations::attend(int layer, const DeviceRows &rows, bool any_length) {
  if (rows.decode_rows > 0) attend_decode(layer, rows, any_length);
  if (rows.prefill_groups > 0) attend_prefill(layer, rows);
}

void LayerOperations::attend_decode(int layer, const DeviceRows &rows, bool any_length) {
  const LayerSpec &spec = model_.layer(layer);
  const AttentionSpec &a = spec.attention;
  auto p = parameters<up_decode_attention>();
  p.max_key_rows = any_length ? max_tokens_ : rows.decode_keys;
  p.heads = a.heads;
  p.kv_heads = a.kv_heads;
  p.head_dim = a.head_dim;
  p.scale = a.scale;
  p.soft_cap = a.soft_cap;
  p.query_row_stride = p.output_row_stride = a.query_width();
  p.query_head_stride = p.output_head_stride = a.head_dim;
  // As many requests a call as the workspace has room for.
  p.requests = 1;
  const size_t one = device_.workspace(decode_attention_workspace, p);
  const auto fitting = std::max<size_t>(1, activations_.scratch.bytes() / std::max<size_t>(one, 1));
  const int most = static_cast<int>(std::min<size_t>(fitting, kDecodeRequests));
  for (int first = 0; first < rows.decode_rows; first += most) {
    p.requests = std::min(most, rows.decode_rows - first);
    p.queries = queries(layer, first);
    p.output = attended(layer, first);
    p.keys = pool_.keys(layer, rows.slots + first);
    p.values = pool_.values(layer, rows.slots + first);
    p.begin = spec.mixer == Mixer::sliding ? rows.first_visible + first : nullptr;
    p.end = rows.ends + first;
    device_.run(cuda::attend_decode, &p, activations_.scratch.as<void>(), activations_.scratch.bytes());
  }
}

void LayerOperations::attend_prefill(int layer, const DeviceRows &rows) {
  const LayerSpec &spec = model_.layer(layer);
  const AttentionSpec &a = spec.attention;
  auto p = parameters<up_prefill_attention>();
  p.requests = rows.prefill_groups;
  p.max_query_rows = rows.rows;
  p.max_key_rows = rows.prefill_keys;
  p.heads = a.heads;
  p.kv_heads = a.kv_heads;
  p.head_dim = a.head_dim;
  p.scale = a.scale;
  p.soft_cap = a.soft_cap;
  p.queries = queries(layer, 0);
  p.output = attended(layer, 0);
  p.query_row_stride = p.output_row_stride = a.query_width();
  p.query_head_stride = p.output_head_stride = a.head_dim;
  p.keys = pool_.keys(layer, rows.group_slots);
  p.values = pool_.values(layer, rows.group_slots);
  p.row_starts = rows.row_starts;
  p.lo = spec.mixer == Mixer::sliding ? rows.first_visible : nullptr;
  p.hi = rows.places;
  if (!rows.sparse.empty() && spec.mixer == Mixer::full) return attend_sparse(layer, rows, p);
  device_.run(cuda::attend_prefill, &p, activations_.scratch.as<void>(), activations_.scratch.bytes());
}

void LayerOperations::attend_sparse(int layer, const DeviceRows &rows, const up_prefill_attention &attention) {
  const AttentionSpec &a = model_.layer(layer).attention;
  const int words = sparse_words(attention.max_key_rows);
  const size_t head_words = static_cast<size_t>(rows.bitmaps) * static_cast<size_t>(words);
  const size_t bitmap_bytes = aligned_bytes(static_cast<size_t>(a.kv_heads) * head_words * sizeof(uint32_t));
  auto *const bitmaps = activations_.scratch.as<uint32_t>();
  void *const workspace = activations_.scratch.as<void>(bitmap_bytes);
  const size_t workspace_bytes = activations_.scratch.bytes() - bitmap_bytes;
  device_.check(cudaMemsetAsync(bitmaps, 0xff, bitmap_bytes, device_.stream()), "read all keys");

  constexpr int request_blocks = kSelectionQueries / sparse_samples, request_rows = request_blocks * sparse_query_rows;
  auto sampled = parameters<up_selection>();
  sampled.heads = a.heads;
  sampled.kv_heads = a.kv_heads;
  sampled.head_dim = a.head_dim;
  sampled.block = sparse_key_rows;
  sampled.scale = a.scale;
  sampled.soft_cap = a.soft_cap;
  sampled.query_row_stride = int64_t{sparse_sample_every} * a.query_width();
  sampled.query_head_stride = a.head_dim;
  sampled.query_request_stride = int64_t{request_rows} * a.query_width();
  for (const DeviceRows::SparseGroup &group : rows.sparse) {
    // Whole requests, as many at once as the workspace has room for, then what is left.
    for (int block = 0; block < group.blocks;) {
      const int left = group.blocks - block, first_request = block / request_blocks;
      sampled.last_q = std::min(left, request_blocks) * sparse_samples;
      sampled.requests = 1;
      sampled.max_rows = group.place + group.blocks * sparse_query_rows;
      const size_t one = device_.workspace(selection_workspace, sampled);
      sampled.requests = std::clamp(static_cast<int>(workspace_bytes / one), 1, std::max(1, left / request_blocks));
      sampled.queries = queries(layer, group.first + block * sparse_query_rows + sparse_sample_every - 1);
      sampled.keys = pool_.keys(layer, group.slots + first_request);
      sampled.lengths = group.lengths + first_request;
      const SparseKeys keys{sampled, group.place / sparse_query_rows + block, prefill_p_q32_,
                            bitmaps + static_cast<size_t>(group.first_bitmap + block) * static_cast<size_t>(words), rows.bitmaps, words,
                            key_blocks_.as<unsigned long long>()};
      device_.run(choose_sparse_keys, keys, workspace, workspace_bytes);
      block += sampled.requests * sampled.last_q / sparse_samples;
    }
  }

  up_sparse_attention p{};
  p.size = sizeof p;
  p.attention = attention;
  p.query_blocks = rows.bitmaps;
  p.block_starts = rows.bitmap_starts;
  p.bitmaps = bitmaps;
  device_.run(cuda::attend_sparse, &p, workspace, workspace_bytes);
}

void LayerOperations::apply_gate(Rows tile, int layer) {
  const AttentionSpec &a = model_.layer(layer).attention;
  auto p = parameters<up_output_gate>();
  p.rows = tile.count;
  p.heads = a.heads;
  p.head_dim = a.head_dim;
  p.gate = gates(layer, tile.begin);
  p.gate_row_stride = p.attended_row_stride = a.query_width();
  p.gate_head_stride = p.attended_head_stride = a.head_dim;
  p.attended = attended(layer, tile.begin);
  device_.run(cuda::apply_gate, &p);
}

up_selection LayerOperations::selection(int layer, int slot, int first_query, int query_rows, const up::SelectionShape &shape,
                                        const int32_t *length) const {
  const AttentionSpec &a = model_.layer(layer).attention;
  if (shape.block != 64) up::fail(UP_INVALID_ARGUMENT, "select", "block is ", shape.block, ": the CUDA backend has 64");
  auto p = parameters<up_selection>();
  p.requests = 1;
  p.heads = a.heads;
  p.kv_heads = a.kv_heads;
  p.head_dim = a.head_dim;
  p.max_rows = shape.rows;
  p.block = shape.block;
  p.sink = shape.sink;
  p.last_q = query_rows;
  p.scale = a.scale;
  p.soft_cap = a.soft_cap;
  p.queries = queries(layer, first_query);
  p.query_row_stride = a.query_width();
  p.query_head_stride = a.head_dim;
  p.query_request_stride = query_rows * p.query_row_stride;
  p.keys = pool_.keys_of(layer, slot);
  p.lengths = length;
  return p;
}

void LayerOperations::select(int layer, int slot, int first_query, int query_rows, const up::SelectionShape &shape, up_rule rule,
                             const int32_t *length, const uint64_t *p_q32, uint32_t *bitmap, int32_t *kept_length,
                             int32_t *fallback) {
  up_selection p = selection(layer, slot, first_query, query_rows, shape, length);
  p.rule = rule;
  p.p_q32 = p_q32;
  p.bitmaps = bitmap;
  p.kept_lengths = kept_length;
  p.fallbacks = fallback;
  const size_t workspace = aligned_bytes(device_.workspace(selection_workspace, p));
  p.kept = activations_.scratch.as<int32_t>(workspace);
  device_.run(cuda::select, &p, activations_.scratch.as<void>(), workspace);
}

void LayerOperations::select_masses(int layer, int slot, int first_query, int query_rows, const up::SelectionShape &shape,
                                    const int32_t *length, uint64_t *masses) {
  up_selection p = selection(layer, slot, first_query, query_rows, shape, length);
  p.masses = masses;
  const size_t workspace = aligned_bytes(device_.workspace(selection_workspace, p));
  SelectionScratch parts{};
  device_.run(cuda::select_masses, p, activations_.scratch.as<void>(), workspace, &parts);
  device_.check(cudaMemcpyAsync(masses + shape.blocks(), parts.broken, static_cast<size_t>(p.heads) * 4 * sizeof(int32_t),
                                cudaMemcpyDeviceToDevice, device_.stream()),
                "mark scores");
}

void LayerOperations::select_cut(int layer, int slot, const up::SelectionShape &shape, int query_rows, up_rule rule,
                                 const int32_t *length, const uint64_t *p_q32, uint64_t *masses, uint32_t *bitmap,
                                 int32_t *kept_length, int32_t *fallback) {
  up_selection p = selection(layer, slot, 0, query_rows, shape, length);
  p.rule = rule;
  p.p_q32 = p_q32;
  p.bitmaps = bitmap;
  p.kept_lengths = kept_length;
  p.fallbacks = fallback;
  p.kept = activations_.scratch.as<int32_t>();
  device_.run(cuda::select_cut, p, masses, reinterpret_cast<const int32_t *>(masses + shape.blocks()));
}

}  // namespace up::cuda
