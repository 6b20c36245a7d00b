#include "plan/slot.h"

#include <algorithm>
#include <numeric>

namespace up {
namespace {

void add_counting(int begin, int end, std::vector<int32_t> &to) {
  const size_t at = to.size();
  to.resize(at + static_cast<size_t>(std::max(0, end - begin)));
  std::iota(to.begin() + static_cast<std::ptrdiff_t>(at), to.end(), begin);
}

// values[begin, end), and counting on from `after` behind them.
void add_values(const std::vector<int32_t> &values, int begin, int end, int after, std::vector<int32_t> &to) {
  const int size = static_cast<int>(values.size()), first = std::min(begin, size);
  to.insert(to.end(), values.begin() + first, values.begin() + std::clamp(end, first, size));
  add_counting(after + std::max(begin, size) - size, after + std::max(end, size) - size, to);
}

}  // namespace

int Slot::set_rows(int i) const {
  while (!segment(i).is_known()) i--;
  return segment(i).set_rows;
}

bool Slot::is_untouched() const {
  return decoded == 0 && std::all_of(segments.begin(), segments.end(), [](const SegmentState &s) { return s.computed == 0; });
}

int Slot::position(int i, int row) const {
  const SegmentState &state = segment(i);
  if (row >= state.set_rows) return content->prompt_length + row - state.set_rows;
  return state.positions.empty() ? row : state.positions[static_cast<size_t>(row)];
}

int Slot::parent(int i, int row) const {
  const SegmentState &state = segment(i);
  if (row >= state.set_rows) return segment(i - 1).set_rows + row - state.set_rows;
  return state.kept[static_cast<size_t>(row)];
}

void Slot::add_positions(int i, int begin, int end, std::vector<int32_t> &to) const {
  const std::vector<int32_t> &positions = segment(i).positions;
  // A set of all rows is of the whole prompt.
  if (positions.empty()) add_counting(begin, end, to);
  else add_values(positions, begin, end, content->prompt_length, to);
}

void Slot::add_parents(int i, int begin, int end, std::vector<int32_t> &to) const {
  add_values(segment(i).kept, begin, end, segment(i - 1).set_rows, to);
}

int Slot::first_visible(int i, int row, int window, bool by_original) const {
  const int by_kept = std::max(0, row - window + 1);
  if (!by_original || segment(i).positions.empty()) return by_kept;
  // Kept rows are at least as far apart as their positions say, so the window is no longer than by rows.
  int low = by_kept;
  int high = row;
  const int first = position(i, row) - window + 1;
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (position(i, middle) < first) low = middle + 1;
    else high = middle;
  }
  return low;
}

const char *Slot::adoption_fault(const Slot &source) const {
  if (adopted || !is_untouched()) return "has rows of its own";
  if (content->tokens != source.content->tokens || content->prompt_length != source.content->prompt_length) {
    return "holds other tokens";
  }
  if (content->drops != source.content->drops || content->p_q32 != source.content->p_q32) return "drops otherwise";
  for (size_t i = 1; drops() && i < segments.size(); i++) {
    if (!segments[i].is_known()) break;
    if (!source.segments[i].is_known() || segments[i].kept != source.segments[i].kept) return "brings other selections";
  }
  return nullptr;
}

void Slot::apply_bitmap(int i, std::span<const uint32_t> bitmap, const Schedule &schedule) {
  SegmentState &next = segment(i + 1);
  next.kept = kept_indices(bitmap, schedule.shape(segment(i).set_rows));
  const std::vector<int32_t> &positions = segment(i).positions;
  next.positions = next.kept;
  if (!positions.empty()) {
    for (int32_t &row : next.positions) row = positions[static_cast<size_t>(row)];
  }
  next.set_rows = static_cast<int>(next.kept.size());
}

}  // namespace up
