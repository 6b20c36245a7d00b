// Which blocks of keys blocks of 128 query rows read (selection/sparsity.h), in three launches: the selection's scores and sums of every
// 16th row, 128 of these to a request, and from them a bitmap for each block of query rows and KV head.
#pragma once

#include "cuda/selection/selection.h"

namespace up::cuda {

// A block of threads has the masses of all blocks of keys in shared memory.
constexpr int kSparseKeyBlocks = 50 * 1024;

struct SparseKeys {
  // Requests of sampled rows of one prompt: all have last_q of them, a multiple of 8, and 2,048 rows lie between one's first and the
  // next one's. lengths: the last sampled row's place + 1.
  up_selection sampled;
  int first_block;  // of query rows, counted from the segment's first row
  uint64_t p_q32;
  uint32_t *bitmaps;  // [kv_heads, query_blocks, words]; those of the first request's first block for its first KV head
  int query_blocks, words;
  unsigned long long *counts;  // blocks of keys that are read, and that are seen: added to
};

// Workspace as of a selection.
up_status choose_sparse_keys(const SparseKeys &p, void *workspace, size_t workspace_bytes, void *stream, up_backend_error *error);

}  // namespace up::cuda
