#include "layout_json.h"

#include <algorithm>
#include <sstream>

up::Layout make_layout(const RandomModel &m, const LayoutChoice &choice, const up::ElementBytes &elements) {
  up::Layout out;
  out.page_size = choice.page_size;
  const int layers = static_cast<int>(m.layers.size());
  const auto spec = [&](int layer) -> const up::LayerSpec & { return m.layers[static_cast<size_t>(layer)]; };
  int widest = 1;
  for (const up::LayerSpec &layer : m.layers) {
    if (layer.is_attention()) widest = std::max(widest, layer.attention.kv_width());
    else out.state_slot_bytes += up::delta_state_bytes(layer.delta, elements.conv);
  }
  const int layers_per_slab = std::min(choice.layers_per_slab, layers);
  out.slab_bytes = int64_t{2} * layers_per_slab * choice.page_size * widest * elements.kv;
  int first = 0;
  for (size_t s = 0; s <= choice.drop_layers.size(); s++) {
    up::Segment segment;
    segment.first_layer = first;
    segment.last_layer = s < choice.drop_layers.size() ? choice.drop_layers[s] : layers - 1;
    first = segment.last_layer + 1;
    for (const up::TableKind kind : {up::TableKind::full, up::TableKind::sliding}) {
      std::vector<int> widths;
      for (int layer = segment.first_layer; layer <= segment.last_layer; layer++) {
        const up::LayerSpec &l = spec(layer);
        if (!l.is_attention() || (l.mixer == up::Mixer::full) != (kind == up::TableKind::full)) continue;
        const int width = l.attention.kv_width();
        auto at = std::find(widths.begin(), widths.end(), width);
        if (at == widths.end()) {
          segment.attention.push_back(static_cast<int>(out.tables.size()));
          out.tables.push_back(
              {static_cast<int>(s), kind, {}, l.attention.window, std::min(layers, layers_per_slab * (widest / width)), 0});
          at = widths.insert(widths.end(), width);
        }
        const auto behind = static_cast<size_t>(widths.end() - at);
        out.tables[out.tables.size() - behind].layers.push_back(layer);
      }
    }
    out.segments.push_back(segment);
  }
  for (up::Table &table : out.tables) {
    table.slabs_per_page = (static_cast<int>(table.layers.size()) + table.layers_per_slab - 1) / table.layers_per_slab;
  }
  const int64_t carry = int64_t{choice.page_size} * m.hidden * elements.carry;
  for (size_t s = 0; s < choice.drop_layers.size(); s++) {
    out.segments[s].carry = static_cast<int>(out.tables.size());
    out.tables.push_back({static_cast<int>(s),
                          up::TableKind::carry,
                          {},
                          0,
                          layers_per_slab,
                          static_cast<int>((carry + out.slab_bytes - 1) / out.slab_bytes)});
  }
  return out;
}

std::string layout_json(const up::Layout &layout) {
  std::ostringstream out;
  out << "{\"pageSize\":" << layout.page_size << ",\"slabBytes\":" << layout.slab_bytes
      << ",\"layersPerSlab\":1,\"stateSlotBytes\":" << layout.state_slot_bytes << ",\"segments\":[";
  for (size_t s = 0; s < layout.segments.size(); s++) {
    const up::Segment &segment = layout.segments[s];
    const auto first = [&](up::TableKind kind) {
      for (const int t : segment.attention) {
        if (layout.table(t).kind == kind) return t;
      }
      return -1;
    };
    out << (s ? "," : "") << "{\"firstLayer\":" << segment.first_layer << ",\"lastLayer\":" << segment.last_layer
        << ",\"full\":" << first(up::TableKind::full) << ",\"sliding\":" << first(up::TableKind::sliding)
        << ",\"carry\":" << segment.carry << '}';
  }
  out << "],\"tables\":[";
  const char *kinds[] = {"full", "sliding", "carry"};
  for (size_t t = 0; t < layout.tables.size(); t++) {
    const up::Table &table = layout.tables[t];
    out << (t ? "," : "") << "{\"segment\":" << table.segment << ",\"kind\":\"" << kinds[static_cast<int>(table.kind)]
        << "\",\"layers\":[";
    for (size_t i = 0; i < table.layers.size(); i++) out << (i ? "," : "") << table.layers[i];
    out << "],\"window\":" << table.window << ",\"layersPerSlab\":" << table.layers_per_slab
        << ",\"slabsPerPage\":" << table.slabs_per_page << '}';
  }
  out << "]}";
  return out.str();
}
