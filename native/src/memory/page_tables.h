// The page tables of all slots: which slabs hold their rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace up {

// The slabs of one table, page after page. Pages given back at the front keep their numbers and hold −1, so that row r lives in
// page r / page_size still.
using PageTable = std::vector<int32_t>;

struct PageTables {
  PageTables(int slots, int tables) : tables(tables), lists(static_cast<size_t>(slots) * static_cast<size_t>(tables)) {}

  PageTable &of(int slot, int table) { return lists[index(slot, table)]; }
  const PageTable &of(int slot, int table) const { return lists[index(slot, table)]; }

  int tables;  // of a slot
  std::vector<PageTable> lists;

 private:
  size_t index(int slot, int table) const {
    return static_cast<size_t>(slot) * static_cast<size_t>(tables) + static_cast<size_t>(table);
  }
};

}  // namespace up
