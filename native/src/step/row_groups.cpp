#include "step/row_groups.h"

#include <algorithm>
#include <numeric>

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
  const auto add_visible = [&](const Slot &slot, int begin, int end) {
    for (int row = begin; window > 0 && !entering && row < end; row++) {
      out.first_visible.push_back(slot.first_visible(segment, row, window, books_.schedule.window_by_original));
    }
  };
  for (const Group &group : groups_) {
    if (group.rows == 0) continue;
    const Slot &slot = books_.slot(group.slot);
    out.groups.push_back({group.slot, out.rows(), group.rows});
    if (books_.limits.sparse_prefill && !entering) out.sparse_blocks.push_back(sparse_blocks(group, slot.set_rows(segment)));
    if (group.kind == Group::Kind::decode) {
      out.positions.push_back(slot.length(0));
      out.places.push_back(slot.length(segment));
      add_visible(slot, out.places.back(), out.places.back() + 1);
      out.decode_rows++;
    } else if (entering && group.kind == Group::Kind::dropping) {
      slot.add_positions(segment + 1, group.begin, group.end(), out.positions);
      slot.add_parents(segment + 1, group.begin, group.end(), out.places);
    } else {
      slot.add_positions(segment, group.begin, group.end(), out.positions);
      const size_t at = out.places.size();
      out.places.resize(at + static_cast<size_t>(group.rows));
      std::iota(out.places.begin() + static_cast<std::ptrdiff_t>(at), out.places.end(), group.begin);
      add_visible(slot, group.begin, group.end());
    }
  }
  if (std::all_of(out.sparse_blocks.begin(), out.sparse_blocks.end(), [](int32_t blocks) { return blocks == 0; })) out.sparse_blocks.clear();
  return out;
}

}  // namespace up
