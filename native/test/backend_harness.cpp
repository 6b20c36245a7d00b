#include "backend_harness.h"

up::Layout make_layout(const up::ModelTable &model, const std::vector<int> &drop_layers, int page_size,
                       int layers_per_slab, const up::ElementBytes &elements) {
  up::Layout out;
  out.page_size = page_size;
  out.places.resize(model.layers.size());
  int first = 0;
  for (size_t s = 0; s <= drop_layers.size(); s++) {
    const int last = s < drop_layers.size() ? drop_layers[s] : model.layer_count() - 1;
    up::Segment segment{first, last, {}, -1};
    for (const up::Mixer mixer : {up::Mixer::full, up::Mixer::sliding}) {
      std::vector<int> layers;
      int window = 0;
      for (int layer = first; layer <= last; layer++) {
        if (model.layer(layer).mixer != mixer) continue;
        layers.push_back(layer);
        window = model.layer(layer).attention.window;
      }
      if (layers.empty()) continue;
      const int table = static_cast<int>(out.tables.size());
      const int slabs = (static_cast<int>(layers.size()) + layers_per_slab - 1) / layers_per_slab;
      for (size_t i = 0; i < layers.size(); i++) {
        const int within = static_cast<int>(i) % layers_per_slab;
        const int64_t page = int64_t{page_size} * model.layer(layers[i]).attention.kv_width();
        out.places[static_cast<size_t>(layers[i])] = {table, static_cast<int>(i) / layers_per_slab, 2 * within * page};
        out.slab_bytes = std::max(out.slab_bytes, 4 * layers_per_slab * page);
      }
      segment.attention.push_back(table);
      out.tables.push_back(
          {static_cast<int>(s), mixer == up::Mixer::full ? up::TableKind::full : up::TableKind::sliding, layers, window, layers_per_slab, slabs});
    }
    out.segments.push_back(segment);
    first = last + 1;
  }
  if (out.slab_bytes == 0) out.slab_bytes = 4096;
  for (size_t s = 0; s < drop_layers.size(); s++) {
    out.segments[s].carry = static_cast<int>(out.tables.size());
    const int64_t page = int64_t{page_size} * model.hidden_size * elements.carry;
    const int slabs = static_cast<int>((page + out.slab_bytes - 1) / out.slab_bytes);
    out.tables.push_back({static_cast<int>(s), up::TableKind::carry, {}, 0, layers_per_slab, slabs});
  }
  for (const up::LayerSpec &layer : model.layers) {
    if (layer.mixer == up::Mixer::delta) out.state_slot_bytes += up::delta_state_bytes(layer.delta, elements.conv);
  }
  return out;
}

BackendHarness::BackendHarness(std::shared_ptr<const up::Checkpoint> checkpoint, const std::vector<int> &drop_layers, uint64_t seed, bool random_tiles,
               const Make &make, const up::ElementBytes &elements, const HarnessLimits &limits)
    : checkpoint_(std::move(checkpoint)),
      random_(seed),
      random_tiles_(random_tiles),
      is_sparse_(limits.prefill_p > 0),
      layout_(make_layout(model(), drop_layers, 64 << (seed % 2), 1 + static_cast<int>(seed % 3), elements)),
      tables_(slots, static_cast<int>(layout_.tables.size())),
      state_slots_(slots) {
  constexpr int slabs = 4096;
  free_.resize(slabs);
  std::iota(free_.begin(), free_.end(), 0);
  std::shuffle(free_.begin(), free_.end(), random_);
  std::iota(state_slots_.rbegin(), state_slots_.rend(), 0);
  up::BackendOptions options;
  options.layout = layout_;
  options.slabs = slabs;
  options.slots = slots;
  options.state_slots = 2 * slots;
  options.max_rows = limits.max_rows;
  options.max_tokens = limits.max_tokens;
  options.prefill_p_q32 = static_cast<uint64_t>(std::ldexp(limits.prefill_p, 32));
  options.last_q = last_q;
  options.split_layers.assign(model().layers.size(), false);
  for (const int layer : drop_layers) options.split_layers[static_cast<size_t>(layer)] = true;
  options.tables = &tables_;
  options.state_slots_of = &state_slots_;
  backend_ = make(checkpoint_, options);
  for (const int slot : state_slots_) changes_.states.push_back({up::MemoryChanges::StateChange::zero, slot, slot});
}

int32_t BackendHarness::grant() {
  const int32_t slab = free_.back();
  free_.pop_back();
  return slab;
}

void BackendHarness::reserve(int slot, int table, int rows) {
  const auto needed = static_cast<size_t>(layout_.pages_for(rows)) * static_cast<size_t>(layout_.table(table).slabs_per_page);
  auto &list = tables_.of(slot, table);
  while (list.size() < needed) {
    changes_.tables.push_back({slot, table, static_cast<int>(list.size()), grant()});
    list.push_back(changes_.tables.back().slab);
  }
}

void BackendHarness::begin() {
  backend_->begin(changes_);
  changes_ = {};
}

up::RowTable BackendHarness::row_table(const std::vector<Chunk> &chunks, int segment) {
  up::RowTable out;
  out.segment = segment;
  const int window = layout_.window_of(segment);
  for (const auto &[slot, first, rows] : chunks) {
    out.groups.push_back({slot, out.rows(), rows});
    if (is_sparse_) out.sparse_blocks.push_back(first % up::sparse_query_rows == 0 ? rows / up::sparse_query_rows : 0);
    if (rows == 1 && out.decode_rows == static_cast<int>(out.groups.size()) - 1) out.decode_rows++;
    for (int i = first; i < first + rows; i++) {
      out.positions.push_back(i);
      out.places.push_back(i);
      if (window > 0) out.first_visible.push_back(std::max(0, i - window + 1));
    }
    for (const int table : layout_.segment(segment).attention) reserve(slot, table, first + rows);
  }
  return out;
}

void BackendHarness::attention(int layer, const up::RowTable &rows) {
  const up::LayerSpec &spec = model().layer(layer);
  for_each_tile(rows.rows(), backend_->tile_rows(), [&](up::Rows tile) {
    backend_->norm(tile, layer, up::Norm::input);
    backend_->linear(tile, layer, up::MatrixKind::qkv);
    backend_->rotate_and_write(tile, layer, up::MatrixKind::qkv, rows);
  });
  backend_->attend(layer, rows);
  for_each_tile(rows.rows(), backend_->tile_rows(), [&](up::Rows tile) {
    if (spec.attention.output_gate) backend_->apply_gate(tile, layer);
    backend_->linear(tile, layer, up::MatrixKind::o);
    if (spec.post_norms) backend_->add_normed(tile, layer, up::Norm::post_attention);
  });
}

void BackendHarness::delta(int layer, const up::RowTable &rows) {
  for_each_tile(rows.rows(), backend_->tile_rows(), [&](up::Rows tile) {
    backend_->norm(tile, layer, up::Norm::input);
    backend_->linear(tile, layer, up::MatrixKind::delta_in);
    backend_->recur(tile, layer, rows);
    backend_->linear(tile, layer, up::MatrixKind::delta_out);
  });
}

void BackendHarness::mlp(int layer, int rows) {
  const up::LayerSpec &spec = model().layer(layer);
  for_each_tile(rows, backend_->tile_rows(), [&](up::Rows tile) {
    backend_->norm(tile, layer, up::Norm::mlp);
    if (spec.mlp.is_moe()) {
      backend_->experts(tile, layer);
    } else {
      backend_->gate_and_up(tile, layer);
      backend_->linear(tile, layer, up::MatrixKind::down);
    }
    if (spec.post_norms) backend_->add_normed(tile, layer, up::Norm::post_mlp);
  });
}

void BackendHarness::layer(int layer, const up::RowTable &rows) {
  if (model().layer(layer).is_attention()) attention(layer, rows);
  else delta(layer, rows);
  mlp(layer, rows.rows());
}

std::vector<float> BackendHarness::logits(int rows) {
  static const up::Sampling greedy;
  static const int32_t none = 0;
  for_each_tile(rows, backend_->logits_rows(), [&](up::Rows tile) {
    backend_->norm(tile, -1, up::Norm::final);
    backend_->linear(tile, -1, up::MatrixKind::lm_head);
    std::vector<up::SampleTask> tasks;
    for (int i = 0; i < tile.count; i++) tasks.push_back({i, 0, &greedy, ++sequence_, 0, {&none, 0}, 0, true});
    backend_->sample(tasks);
  });
  std::vector<float> out;
  for (const auto &row : backend_->finish()->wait().logits) out.insert(out.end(), row.values.begin(), row.values.end());
  return out;
}

BackendHarness::Make make_cpu(up_kernels kernels, int threads) {
  return [=](std::shared_ptr<const up::Checkpoint> checkpoint, const up::BackendOptions &options) {
    return up::make_cpu_backend(std::move(checkpoint), options, kernels, threads);
  };
}

std::unique_ptr<up::Backend> make_reference(std::shared_ptr<const up::Checkpoint> checkpoint, const up::BackendOptions &options) {
  return up::make_reference_backend(std::move(checkpoint), options);
}

double relative_error(const std::vector<float> &a, const std::vector<float> &b) {
  double error = 0, size = 0;
  for (size_t i = 0; i < a.size(); i++) {
    error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    size += static_cast<double>(b[i]) * b[i];
  }
  return a.size() == b.size() && size > 0 ? std::sqrt(error / size) : INFINITY;
}
