#include "step/row_groups.h"

#include <algorithm>

#include "selection/sparsity.h"

namespace up {

int RowGroups::rows() const {
  int count = 0;
  for (const Group &group : groups_) count += group.rows;
  return count;
}

int RowGroups::rows_before(Group::Kind kind) const {
  int count = 0;
  for (const Group &group : groups_) count += group.kind < kind ? group.rows : 0;
  return count;
}

std::vector<Group> RowGroups::take_from(Group::Kind kind) {
  const auto first = std::find_if(groups_.begin(), groups_.end(), [&](const Group &group) { return group.kind >= kind; });
  std::vector<Group> out(first, groups_.end());
  groups_.erase(first, groups_.end());
  return out;
}

RowTable RowGroups::table(int segment) const { return make_table(segment, false); }
RowTable RowGroups::entry_table(int segment) const { return make_table(segment, true); }

// Whole blocks of prompt rows. What is left of a prompt reads all keys, and so does output that was decoded, when it is computed again.
int RowGroups::sparse_blocks(const Group &group, int prompt_rows) {
  if (group.kind == Group::Kind::decode || group.begin % sparse_query_rows != 0) return 0;
  return std::max(0, std::min(group.end(), prompt_rows) - group.begin) / sparse_query_rows;
}

RowTable RowGroups::make_table(int segment, bool entering) const {
  RowTable out;
  out.segment = segment;
  const int window = books_.layout.window_of(segment);
  const auto rows = static_cast<size_t>(this->rows());
  out.positions.reserve(rows);
  out.places.reserve(rows);
  const auto add = [&](const Slot &slot, int position, int place) {
    out.positions.push_back(position);
    out.places.push_back(place);
    if (window > 0 && !entering) {
      out.first_visible.push_back(slot.first_visible(segment, place, window, books_.schedule.window_by_original));
    }
  };
  for (const Group &group : groups_) {
    if (group.rows == 0) continue;
    const Slot &slot = books_.slot(group.slot);
    out.groups.push_back({group.slot, out.rows(), group.rows});
    if (books_.limits.sparse_prefill && !entering) out.sparse_blocks.push_back(sparse_blocks(group, slot.set_rows(segment)));
    if (group.kind == Group::Kind::decode) {
      add(slot, slot.length(0), slot.length(segment));
      out.decode_rows++;
    } else if (entering && group.kind == Group::Kind::dropping) {
      for (int row = group.begin; row < group.end(); row++) add(slot, slot.position(segment + 1, row), slot.parent(segment + 1, row));
    } else {
      for (int row = group.begin; row < group.end(); row++) add(slot, slot.position(segment, row), row);
    }
  }
  return out;
}

}  // namespace up
