#include "runner/layout.h"

#include <numeric>

namespace up {

int Layout::segment_of(int layer) const {
  int segment = 0;
  while (layer > segments[static_cast<size_t>(segment)].last_layer) segment++;
  return segment;
}

Layout make_layout(const ModelConfig &config, const std::vector<int> &drop_layers, int page_size) {
  const int64_t row_bytes = 2 * int64_t{config.kv_width()} * 2;  // K and V of one layer in bf16
  const int64_t carry_row_bytes = int64_t{config.hidden_size} * 4;
  const int drops = static_cast<int>(drop_layers.size());

  Layout layout;
  layout.page_size = page_size;
  int64_t layers_per_slab = 0;
  for (int i = 0; i <= drops; i++) {
    const int first = i == 0 ? 0 : drop_layers[static_cast<size_t>(i) - 1] + 1;
    const int last = i == drops ? config.layers - 1 : drop_layers[static_cast<size_t>(i)];
    layout.segments.push_back({first, last, i, i < drops ? drops + 1 + i : -1});
    layout.tables.push_back({i, TableKind::full, first, last - first + 1, 0});
    layers_per_slab = std::gcd(layers_per_slab, last - first + 1);
  }
  for (int i = 0; i < drops; i++) layout.tables.push_back({i, TableKind::carry, 0, 0, 0});
  if (drops > 0 && carry_row_bytes % row_bytes == 0) {
    layers_per_slab = std::gcd(layers_per_slab, carry_row_bytes / row_bytes);
  }
  layout.layers_per_slab = static_cast<int>(layers_per_slab);
  layout.slab_bytes = page_size * layers_per_slab * row_bytes;
  for (Table &table : layout.tables) {
    const int64_t row = table.kind == TableKind::carry ? carry_row_bytes : table.layers * row_bytes;
    table.slabs_per_page = static_cast<int>((page_size * row + layout.slab_bytes - 1) / layout.slab_bytes);
  }
  return layout;
}

}  // namespace up
