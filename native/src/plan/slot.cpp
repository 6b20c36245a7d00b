#include "runner/slot.h"

namespace up {

int Slot::position(int i, int row) const {
  const SegmentState &state = segment(i);
  if (row >= state.set_rows) return prompt_length + row - state.set_rows;
  return state.positions.empty() ? row : state.positions[static_cast<size_t>(row)];
}

bool Slot::carries_decode(const Layout &layout) const {
  const int carry = layout.segments[0].carry;
  return drops && carry >= 0 && tables[static_cast<size_t>(carry)].capacity() > length(0);
}

int Slot::parent(int i, int row) const {
  const SegmentState &state = segment(i);
  if (row >= state.set_rows) return segment(i - 1).set_rows + row - state.set_rows;
  return state.kept[static_cast<size_t>(row)];
}

const char *Slot::adoption_fault(const Slot &source) const {
  if (adopted || segment(0).computed > 0) return "has rows of its own";
  for (const PageTable &table : tables) {
    if (table.slab_count() > 0) return "has pages of its own";
  }
  // The source has sampled nothing yet: its tokens are those that it was opened with.
  if (tokens != source.tokens || prompt_length != source.prompt_length) return "holds other tokens";
  if (drops != source.drops || p_q32 != source.p_q32) return "drops otherwise";
  for (size_t i = 1; drops && i < segments.size(); i++) {
    if (!segments[i].is_known()) break;
    if (!source.segments[i].is_known() || segments[i].kept != source.segments[i].kept) return "brings other selections";
  }
  return nullptr;
}

void Slot::apply_bitmap(int i, std::span<const uint32_t> bitmap, const Schedule &schedule) {
  SegmentState &next = segment(i + 1);
  next.kept = kept_indices(bitmap, schedule.shape(segment(i).set_rows));
  next.positions.clear();
  for (const int32_t row : next.kept) next.positions.push_back(position(i, row));
  next.set_rows = static_cast<int>(next.kept.size());
}

}  // namespace up
