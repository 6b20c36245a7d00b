// Segments, page tables and the slab size they share, as packages/model/src/KvLayout.ts made them.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "weights/model_table.h"

namespace up {

enum class TableKind { full = 0, sliding = 1, carry = 2 };

struct Table {
  int segment = 0;
  TableKind kind = TableKind::full;
  std::vector<int> layers;  // whose K/V it holds, ascending; a carry has none
  int window = 0;           // rows that a sliding layer sees
  int layers_per_slab = 0;
  int slabs_per_page = 0;
};

struct Segment {
  int first_layer = 0;
  int last_layer = 0;
  std::vector<int> attention;  // its tables of K/V, full before sliding
  int carry = -1;              // its carry table, −1 in the last segment
};

// Where a layer's K and V lie: in slab `slab` of each page of table `table`, at `offset` elements, K before V.
struct LayerPlace {
  int table = -1;
  int slab = 0;
  int64_t offset = 0;
};

struct Layout {
  int page_size = 0;
  int64_t slab_bytes = 0;
  int64_t state_slot_bytes = 0;
  std::vector<Segment> segments;
  std::vector<Table> tables;
  std::vector<LayerPlace> places;  // [layers]; table −1 of a layer without K/V

  int last_segment() const { return static_cast<int>(segments.size()) - 1; }
  int segment_of(int layer) const;
  const Segment &segment(int index) const { return segments[static_cast<size_t>(index)]; }
  const Table &table(int index) const { return tables[static_cast<size_t>(index)]; }
  const LayerPlace &place(int layer) const { return places[static_cast<size_t>(layer)]; }
  int pages_for(int rows) const { return (rows + page_size - 1) / page_size; }
  bool has_states() const { return state_slot_bytes > 0; }
  // The window of the segment's sliding layers, 0 without any.
  int window_of(int segment) const;
};

constexpr size_t layout_max_bytes = 1 << 20;

// Bytes of an element of K or V, of a carry row, and of a convolution's state.
struct ElementBytes {
  int kv = 2;
  int carry = 4;
  int conv = 4;
};

// Bytes of a state slot: every delta layer's recurrent state in f32 and its convolution state, each layer rounded up to 256.
int64_t delta_state_bytes(const DeltaSpec &delta, int conv_element_bytes);

// Fails with UP_INVALID_ARGUMENT, naming the numbers, when the layout is not one of this model with these elements: a layer in no table
// or two, pages smaller than their rows, states of another size.
Layout parse_layout(std::string_view json, const ModelTable &model, const ElementBytes &elements);

}  // namespace up
