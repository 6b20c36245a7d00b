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

// K of the page that `row` lives in.
static inline bf16 *key_page(const KvPages &pages, int row) {
  const int32_t slab = pages.slabs[static_cast<ptrdiff_t>(row / pages.page_size) * pages.slabs_per_page];
  return reinterpret_cast<bf16 *>(pages.base + slab * pages.slab_bytes);
}

// Values lie page_elements behind keys.
static inline const bf16 *key_group(const KvPages &pages, int row, int head, int head_dim) {
  return key_page(pages, row) + group_offset(row, head, head_dim, pages.page_size);
}

}  // namespace up::cpu
