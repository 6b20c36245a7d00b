// The parts of a step's groups that lie in one tile.
#pragma once

#include <algorithm>

#include "backend.h"

namespace up::cpu {

// visit(slot, first, rows) for each, in order; `first` counts rows of the step.
template <class Visit>
void for_each_group(const RowTable &table, Rows tile, Visit &&visit) {
  auto group = std::upper_bound(table.groups.begin(), table.groups.end(), tile.begin,
                                [](int row, const RowGroup &each) { return row < each.first; });
  if (group != table.groups.begin()) --group;
  for (; group != table.groups.end() && group->first < tile.end(); ++group) {
    const int first = std::max(group->first, tile.begin);
    const int end = std::min(group->first + group->rows, tile.end());
    if (first < end) visit(group->slot, first, end - first);
  }
}

}  // namespace up::cpu
