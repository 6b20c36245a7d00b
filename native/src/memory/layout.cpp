#include "memory/layout.h"

#include <algorithm>

#include "weights/json_fields.h"

namespace up {
namespace {

constexpr const char *phase = "read layout";
constexpr int max_page_size = 4096;

template <class... Parts>
[[noreturn]] void refuse(const Parts &...detail) {
  fail(UP_INVALID_ARGUMENT, phase, detail...);
}

Table read_table(const Fields &from, int layers, int segments, int layers_per_slab) {
  Table out;
  out.segment = from.integer("segment", 0, segments - 1);
  out.kind = static_cast<TableKind>(from.choice("kind", {"full", "sliding", "carry"}));
  for (const Json &layer : from.array("layers")) {
    if (!layer.is_integer || layer.integer < 0 || layer.integer >= layers) {
      refuse(from.path(), ".layers holds ", layer.describe(), ", the model has ", layers, " layers");
    }
    out.layers.push_back(static_cast<int>(layer.integer));
  }
  out.window = from.integer("window", 0, INT32_MAX);
  // Rows of another size than most fill a slab with fewer layers.
  out.layers_per_slab = from.has("layersPerSlab") ? from.integer("layersPerSlab", 1, layers) : layers_per_slab;
  out.slabs_per_page = from.integer("slabsPerPage", 1, 1 << 20);
  return out;
}

// K/V elements of a row in one layer.
int row_width(const ModelTable &model, int layer) { return model.layer(layer).attention.kv_width(); }

void place_layers(Layout &layout, const ModelTable &model, const ElementBytes &elements) {
  layout.places.assign(static_cast<size_t>(model.layer_count()), {});
  for (size_t t = 0; t < layout.tables.size(); t++) {
    const Table &table = layout.tables[t];
    if (table.kind == TableKind::carry) {
      const int64_t page = int64_t{layout.page_size} * model.carry_width() * elements.carry;
      if (table.slabs_per_page * layout.slab_bytes < page) {
        refuse("tables[", t, "]: ", table.slabs_per_page, " slabs of ", layout.slab_bytes, " bytes hold no page of ", page);
      }
      continue;
    }
    for (size_t i = 0; i < table.layers.size(); i++) {
      const int layer = table.layers[i];
      const Mixer mixer = table.kind == TableKind::full ? Mixer::full : Mixer::sliding;
      LayerPlace &place = layout.places[static_cast<size_t>(layer)];
      if (model.layer(layer).mixer != mixer || place.table >= 0 || layout.segment_of(layer) != table.segment) {
        refuse("tables[", t, "]: layer ", layer, " is not one of segment ", table.segment, "'s of this kind, or in two tables");
      }
      if (model.layer(layer).attention.window != table.window) {
        refuse("tables[", t, "]: layer ", layer, " has a window of ", model.layer(layer).attention.window, " rows, its table one of ",
               table.window);
      }
      if (row_width(model, layer) != row_width(model, table.layers[0])) {
        refuse("tables[", t, "]: rows of layer ", layer, " have ", row_width(model, layer), " elements, those of layer ",
               table.layers[0], " ", row_width(model, table.layers[0]));
      }
      const int64_t page_elements = int64_t{layout.page_size} * row_width(model, layer);
      const int within = static_cast<int>(i) % table.layers_per_slab;
      place = {static_cast<int>(t), static_cast<int>(i) / table.layers_per_slab, 2 * within * page_elements};
      if (place.slab >= table.slabs_per_page || (place.offset + 2 * page_elements) * elements.kv > layout.slab_bytes) {
        refuse("tables[", t, "]: a page of ", table.slabs_per_page, " slabs of ", layout.slab_bytes, " bytes does not hold layer ",
               layer);
      }
    }
  }
  for (int layer = 0; layer < model.layer_count(); layer++) {
    if (model.layer(layer).is_attention() && layout.place(layer).table < 0) refuse("layer ", layer, " is in no table");
  }
}

// A row sees one interval of a segment's keys in every sliding layer, so these share a window.
void require_one_window(const Layout &layout) {
  for (int s = 0; s <= layout.last_segment(); s++) {
    int window = 0;
    for (const int t : layout.segment(s).attention) {
      const int own = layout.table(t).window;
      if (own > 0 && window > 0 && own != window) {
        fail(UP_UNSUPPORTED_MODEL, phase, "the sliding layers of one segment have windows of ", window, " and of ", own, " rows");
      }
      window = std::max(window, own);
    }
  }
}

}  // namespace

int Layout::segment_of(int layer) const {
  int segment = 0;
  while (layer > segments[static_cast<size_t>(segment)].last_layer) segment++;
  return segment;
}

int Layout::window_of(int index) const {
  int window = 0;
  for (const int t : segment(index).attention) window = std::max(window, table(t).window);
  return window;
}

int64_t delta_state_bytes(const DeltaSpec &d, int conv_element_bytes) {
  const int64_t state = int64_t{d.value_heads} * d.key_dim * d.value_dim * 4;
  const int64_t conv = int64_t{d.conv_kernel - 1} * d.conv_width() * conv_element_bytes;
  return (state + conv + 255) / 256 * 256;
}

Layout parse_layout(std::string_view json, const ModelTable &model, const ElementBytes &elements) {
  const Json document = parse_json("layout", json, layout_max_bytes);
  const Fields root(document, "layout", phase);
  const int layers = model.layer_count();
  Layout out;
  out.page_size = root.integer("pageSize", 64, max_page_size);
  if (out.page_size % 64 != 0) refuse("layout.pageSize is ", out.page_size, ", no multiple of 64");
  const int layers_per_slab = root.integer("layersPerSlab", 1, layers);
  const double bytes = root.number("slabBytes");
  if (!(bytes >= 1 && bytes <= 0x1p40)) refuse("layout.slabBytes is ", bytes);
  out.slab_bytes = static_cast<int64_t>(bytes);
  int next = 0;
  for (const Json &item : root.array("segments")) {
    const Fields from(item, text("segments[", out.segments.size(), ']'), phase);
    Segment segment;
    segment.first_layer = from.integer("firstLayer", next, next);
    segment.last_layer = from.integer("lastLayer", next, layers - 1);
    next = segment.last_layer + 1;
    out.segments.push_back(std::move(segment));
  }
  if (next != layers) refuse("the segments end with layer ", next - 1, ", the model has ", layers, " layers");
  for (const Json &item : root.array("tables")) {
    const size_t t = out.tables.size();
    out.tables.push_back(read_table(Fields(item, text("tables[", t, ']'), phase), layers, out.last_segment() + 1, layers_per_slab));
    Segment &segment = out.segments[static_cast<size_t>(out.tables[t].segment)];
    if (out.tables[t].kind != TableKind::carry) {
      segment.attention.push_back(static_cast<int>(t));
      continue;
    }
    if (segment.carry >= 0) refuse("segments[", out.tables[t].segment, "] has two carry tables");
    segment.carry = static_cast<int>(t);
  }
  for (int s = 0; s <= out.last_segment(); s++) {
    const Segment &segment = out.segment(s);
    if ((segment.carry >= 0) != (s < out.last_segment())) refuse("segments[", s, "] has ", segment.carry < 0 ? "no" : "a", " carry table");
    if (s < out.last_segment() && model.layer(segment.last_layer).mixer != Mixer::full) {
      refuse("segments[", s, "] ends with layer ", segment.last_layer, ", which is not full attention and may not drop");
    }
  }
  place_layers(out, model, elements);
  require_one_window(out);
  for (const LayerSpec &layer : model.layers) {
    if (layer.mixer == Mixer::delta) out.state_slot_bytes += delta_state_bytes(layer.delta, elements.conv);
  }
  if (root.number("stateSlotBytes") != static_cast<double>(out.state_slot_bytes)) {
    refuse("layout.stateSlotBytes is ", root.number("stateSlotBytes"), ", the model's states have ", out.state_slot_bytes);
  }
  return out;
}

}  // namespace up
