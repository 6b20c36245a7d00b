#include "plan/schedule.h"

#include "abi/failure.h"

namespace up {
namespace {

constexpr const char *phase = "check schedule";

template <class... Parts>
[[noreturn]] void refuse(const Parts &...detail) {
  fail(UP_INVALID_ARGUMENT, phase, detail...);
}

}  // namespace

Schedule read_schedule(const up_drop_schedule &from, const Layout &layout) {
  Schedule out;
  const int count = from.size == 0 ? 0 : from.drop_layer_count;
  if (count != layout.last_segment()) {
    refuse("drop_layer_count is ", count, ", the layout has ", layout.last_segment() + 1, " segments");
  }
  if (count == 0) return out;
  require_struct(&from, "schedule");
  require_pointer(from.drop_layers, "schedule.drop_layers");
  for (int i = 0; i < count; i++) {
    const int layer = from.drop_layers[i];
    if (layer != layout.segment(i).last_layer) {
      refuse("drop_layers[", i, "] is ", layer, ", segment ", i, " of the layout ends with layer ", layout.segment(i).last_layer);
    }
    out.drop_layers.push_back(layer);
  }
  const int rule = raw_value(from.rule);
  if (rule != UP_RULE_EXCLUSIVE && rule != UP_RULE_REFERENCE) {
    refuse("rule is ", rule, ", 0 (exclusive) or 1 (reference) was expected");
  }
  if (from.block < 16 || from.block % 16 != 0 || layout.page_size % from.block != 0) {
    refuse("block is ", from.block, ", a multiple of 16 that divides the page size ", layout.page_size, " was expected");
  }
  if (from.sink < 0) refuse("sink is ", from.sink, ", an integer ≥ 0 was expected");
  if (from.last_q < 1 || from.last_q > max_last_q) {
    refuse("last_q is ", from.last_q, ", an integer from 1 to ", max_last_q, " was expected");
  }
  out.rule = from.rule;
  out.block = from.block;
  out.sink = from.sink;
  out.last_q = from.last_q;
  out.window_by_original = from.window_by_original != 0;
  return out;
}

}  // namespace up
