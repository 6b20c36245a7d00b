// Attention of the CPU backend: rotation, pages, softmax, and the scores of a selection.
#include <algorithm>

#include "cpu/cpu_layers.h"
#include "cpu/tile_groups.h"
#include "selection/sparsity.h"

namespace up::cpu {
namespace {

AttentionShape attention_shape(const AttentionSpec &spec) {
  return {spec.heads, spec.kv_heads, spec.head_dim, spec.scale, spec.soft_cap};
}

}  // namespace

Rotation CpuBackend::rotation(Rows tile, int layer, const RowTable &rows) {
  RopeTable &rope = ropes_[static_cast<size_t>(rope_of_[static_cast<size_t>(layer)])];
  const int32_t *positions = rows.positions.data() + tile.begin;
  rope.reserve(*std::max_element(positions, positions + tile.count) + 1);
  return {spec(layer).attention.rope.dim, rope.cos(0), rope.sin(0), positions};
}

void CpuBackend::rotate_and_write(Rows tile, int layer, MatrixKind kind, const RowTable &rows) {
  if (tile.count == 0) return;
  const AttentionSpec &a = spec(layer).attention;
  const Rotation angles = rotation(tile, layer, rows);
  const int query_width = a.query_width();
  const int queries = (a.output_gate ? 2 : 1) * query_width;
  const int keys = 2 * a.kv_width();
  const int ldp = (kind == MatrixKind::kv ? 0 : queries) + (kind == MatrixKind::q ? 0 : keys);
  const float *projected = projected_.get();
  const float eps = a.qk_norm_spec.eps;
  if (kind != MatrixKind::kv) {
    const Heads heads{a.heads, a.head_dim, a.qk_norm ? weights(layer).q_norm.data() : nullptr, eps};
    const size_t at = area(tile.begin, query_width);
    kernels_.rope(projected, ldp, tile.count, heads, angles, queries_.get() + at);
    if (a.output_gate) kernels_.round_rows(projected + query_width, ldp, tile.count, query_width, gates_.get() + at);
    projected += queries;
  }
  if (kind == MatrixKind::q) return;
  const Heads heads{a.kv_heads, a.head_dim, a.qk_norm ? weights(layer).k_norm.data() : nullptr, eps};
  kernels_.rope(projected, ldp, tile.count, heads, angles, keys_.get());
  kernels_.round_rows(projected + a.kv_width(), ldp, tile.count, a.kv_width(), values_.get());
  const int table = options_.layout.place(layer).table;
  for_each_group(rows, tile, [&](int slot, int first, int count) {
    const size_t at = area(first - tile.begin, a.kv_width());
    kernels_.write_kv(keys_.get() + at, values_.get() + at, rows.places[static_cast<size_t>(first)], count, a.kv_heads,
                      a.head_dim, slabs_.pages(slot, table, layer));
  });
}

void CpuBackend::attend(int layer, const RowTable &rows) {
  const AttentionSpec &a = spec(layer).attention;
  const int table = options_.layout.place(layer).table;
  const bool sliding = spec(layer).mixer == Mixer::sliding;
  attention_.clear();
  bitmaps_.clear();
  for (size_t i = 0; i < rows.groups.size(); i++) {
    const auto &[slot, first, count] = rows.groups[i];
    const size_t at = area(first, a.query_width());
    attention_.push_back({.rows = count,
                          .queries = queries_.get() + at,
                          .kv = slabs_.pages(slot, table, layer),
                          .lo = sliding ? rows.first_visible.data() + first : nullptr,
                          .hi = rows.places.data() + first,
                          .output = attended_.get() + at});
    if (rows.sparse_blocks.empty() || rows.sparse_blocks[i] == 0 || sliding) continue;
    Attention &sparse = attention_.back();
    const int place = rows.places[static_cast<size_t>(first)];
    sparse.sparse_blocks = rows.sparse_blocks[i];
    sparse.words = sparse_words(place + sparse.sparse_blocks * sparse_query_rows);
    bitmaps_.emplace_back(static_cast<size_t>(a.kv_heads) * static_cast<size_t>(sparse.sparse_blocks) * static_cast<size_t>(sparse.words));
    kernels_.sparse_keys(sparse.queries, place, sparse.sparse_blocks, sparse.kv, attention_shape(a), options_.prefill_p_q32,
                         bitmaps_.back().data());
    sparse.bitmaps = bitmaps_.back().data();
    key_blocks_.read += count_key_blocks(bitmaps_.back());
    for (int block = 0; block < sparse.sparse_blocks; block++)
      key_blocks_.seen += int64_t{a.kv_heads} * (place + (block + 1) * sparse_query_rows) / sparse_key_rows;
  }
  kernels_.attend(attention_.data(), static_cast<int>(attention_.size()), attention_shape(a));
}

void CpuBackend::apply_gate(Rows tile, int layer) {
  const int width = spec(layer).attention.query_width();
  kernels_.sigmoid_mul(gates_.get() + area(tile.begin, width), int64_t{tile.count} * width, attended(tile.begin, layer));
}

std::vector<SelectionOutcome> CpuBackend::select(int layer, std::span<const SelectionTask> tasks, up_rule rule) {
  const AttentionSpec &a = spec(layer).attention;
  std::vector<SelectionOutcome> out;
  for (const SelectionTask &task : tasks) {
    const auto started = std::chrono::steady_clock::now();
    const SelectionShape &shape = task.shape;
    masses_.assign(static_cast<size_t>(shape.blocks()) + 1, 0);
    const bool own_finite =
        kernels_.score(queries_.get() + area(task.first, a.query_width()), task.query_rows, slabs_.pages(task.slot, task.table, layer),
                       shape.rows, shape.block, attention_shape(a), masses_.data());
    masses_.back() = own_finite ? 0 : 1;
    if (options_.ranks) options_.ranks->sum(masses_);
    const bool finite = masses_.back() == 0;
    masses_.pop_back();
    out.push_back({finite ? select_blocks(masses_, task.p_q32, rule, shape) : full_bitmap(shape), finite});
    const auto taken = std::chrono::steady_clock::now() - started;
    out.back().micros = std::max<int64_t>(1, std::chrono::duration_cast<std::chrono::microseconds>(taken).count());
  }
  return out;
}

}  // namespace up::cpu
