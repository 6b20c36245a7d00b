#include "runner/slot.h"

namespace up {

int Slot::position(int i, int row) const {
  const SegmentState &state = segment(i);
  if (row >= state.set_rows) return prompt_length + row - state.set_rows;
  return state.positions.empty() ? row : state.positions[static_cast<size_t>(row)];
}

int Slot::parent(int i, int row) const {
  const SegmentState &state = segment(i);
  if (row >= state.set_rows) return segment(i - 1).set_rows + row - state.set_rows;
  return state.kept[static_cast<size_t>(row)];
}

void Slot::apply_bitmap(int i, std::span<const uint32_t> bitmap, const Schedule &schedule) {
  SegmentState &next = segment(i + 1);
  next.kept = kept_indices(bitmap, schedule.shape(segment(i).set_rows));
  next.positions.clear();
  for (const int32_t row : next.kept) next.positions.push_back(position(i, row));
  next.set_rows = static_cast<int>(next.kept.size());
}

}  // namespace up
