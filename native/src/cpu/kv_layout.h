// Where keys and values lie in a page.
#pragma once

#include "kernels.h"

namespace up::cpu {

// Keys of one step of attention. A page holds a whole number of them, so a tile never crosses a page.
constexpr int tile_keys = 64;

// Elements from the start of a page to the group of 16 rows that `row` begins; the same for K and V.
static inline ptrdiff_t group_offset(int row, int head, int head_dim, int page_size) {
  return (static_cast<ptrdiff_t>(head) * page_size + row % page_size) * head_dim;
}

static inline const bf16 *key_group(const KvPages &pages, int row, int head, int head_dim) {
  return pages.k_pages[row / pages.page_size] + group_offset(row, head, head_dim, pages.page_size);
}

static inline const bf16 *value_group(const KvPages &pages, int row, int head, int head_dim) {
  return pages.v_pages[row / pages.page_size] + group_offset(row, head, head_dim, pages.page_size);
}

}  // namespace up::cpu
