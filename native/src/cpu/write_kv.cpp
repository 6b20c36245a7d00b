#include "write_kv.h"

#include <algorithm>
#include <cstring>

#include "kv_layout.h"
#include "parallel.h"

namespace up::cpu {

// Writes the rows [begin, end) of one group of 16, one head.
static void write_group(const bf16 *k, const bf16 *v, int begin, int end, int stride, int head, int head_dim,
                        const KvPages &pages) {
  const int group = begin / 16 * 16;
  bf16 *keys = key_page(pages, group) + group_offset(group, head, head_dim, pages.page_size);
  bf16 *values = keys + pages.page_elements;
  if (begin == group) {
    std::memset(keys, 0, sizeof(bf16) * 16 * head_dim);
    std::memset(values, 0, sizeof(bf16) * 16 * head_dim);
  }
  for (int row = begin; row < end; ++row, k += stride, v += stride) {
    const int slot = row % 16;
    for (int d = 0; d < head_dim; d += 2) {
      bf16 *pair = keys + (d / 2 * 16 + slot) * 2;
      pair[0] = k[d];
      pair[1] = k[d + 1];
    }
    bf16 *to = values + slot / 2 * head_dim * 2 + slot % 2;
    for (int d = 0; d < head_dim; ++d) to[2 * d] = v[d];
  }
}

void write_kv(const bf16 *k, const bf16 *v, int first, int rows, int kv_heads, int head_dim, const KvPages &pages) {
  if (rows <= 0) return;
  const int stride = kv_heads * head_dim;
  const int first_group = first / 16, groups = (first + rows - 1) / 16 - first_group + 1;
#pragma omp parallel for collapse(2) schedule(static) if (static_cast <int64_t>(rows) * stride >= parallel_elements)
  for (int head = 0; head < kv_heads; ++head)
    for (int g = 0; g < groups; ++g) {
      const int begin = std::max(first, (first_group + g) * 16);
      const int end = std::min(first + rows, (first_group + g + 1) * 16);
      const ptrdiff_t from = static_cast<ptrdiff_t>(begin - first) * stride + head * head_dim;
      write_group(k + from, v + from, begin, end, stride, head, head_dim, pages);
    }
}

}  // namespace up::cpu
