// Writing rows of keys and values into pages; see KvPages for the layout.
#pragma once

#include "kernels.h"

namespace up::cpu {

void write_kv(const bf16 *k, const bf16 *v, int first, int rows, int kv_heads, int head_dim, const KvPages &pages);

}  // namespace up::cpu
