// Segments, page tables and the slab size they share; the same numbers as packages/model/src/KvLayout.ts.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace up {

enum class TableKind { full = 0, sliding = 1, carry = 2 };

struct Table {
  int segment;
  TableKind kind;
  int first_layer;  // of the layers whose K/V it holds, which are consecutive; a carry has none
  int layers;
  int slabs_per_page;
};

struct Segment {
  int first_layer;
  int last_layer;
  int full;   // index of its table of K/V
  int carry;  // index of its carry table, or -1 in the last segment
};

struct Layout {
  int page_size = 0;
  int layers_per_slab = 0;
  int64_t slab_bytes = 0;
  std::vector<Segment> segments;
  std::vector<Table> tables;

  int last_segment() const { return static_cast<int>(segments.size()) - 1; }
  int segment_of(int layer) const;
  int pages_for(int rows) const { return (rows + page_size - 1) / page_size; }
};

// Requires: drop layers ascending, within the model, the last layer excluded; page_size a positive multiple of 64.
Layout make_layout(const ModelConfig &config, const std::vector<int> &drop_layers, int page_size);

}  // namespace up
