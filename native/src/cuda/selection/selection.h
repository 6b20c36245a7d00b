// Selection in five launches, all on lengths that only the device knows:
//   score      log2 of the exponential sum of every (head, block, query), one pass over the keys
//   normalise  log2 of every (head, query)'s whole sum, from those; tests finiteness
//   mass       Σ over queries of 2^(block − whole), to fixed point, added over heads as integers
//   cut        the blocks that the rule keeps
//   compact    the rows kept, ascending, and their number
// Every sum has an order that depends on the request alone, so a request's masses do not depend on its batch.
#pragma once

#include "cuda/common/launch.h"
#include "cuda/common/tensor_map.h"

namespace up::cuda {

constexpr int kSelectionQueries = 128;
constexpr int kSelectionBlock = 64;

// Parts of the caller's workspace.
struct SelectionScratch {
  float *sums;       // [requests, heads, blocks, 128] log2 of a block's sum of exponentials
  float *wholes;     // [requests, heads, 128] log2 of a query's sum over all blocks
  int32_t *broken;   // [requests, heads, 4] 1 where a score of these 32 queries is not finite
  uint64_t *masses;  // [requests, blocks]; the caller's own array where one is given
};

struct SelectionShape {
  int requests, heads, kv_heads, head_dim, max_rows, blocks, sink, last_q;
  bool exclusive;
};

// The request's length and query count, clamped to what the arrays hold.
struct SelectionRows {
  int rows, queries, blocks;
};

inline SelectionShape selection_shape(const up_selection &p) {
  return {p.requests, p.heads, p.kv_heads, p.head_dim, p.max_rows, static_cast<int>(ceil_div(p.max_rows, kSelectionBlock)),
          p.sink, p.last_q, p.rule == UP_RULE_EXCLUSIVE};
}

#ifdef __CUDACC__
__device__ __forceinline__ SelectionRows selection_rows(const SelectionShape &shape, const int32_t *lengths, int request) {
  const int rows = min(max(lengths[request], 0), shape.max_rows);
  return {rows, min(rows, shape.last_q), (rows + kSelectionBlock - 1) / kSelectionBlock};
}
#endif

// `every`: rows from one query to the next; 1 of a selection, whose queries are the request's last rows.
up_status launch_selection_score(const up_selection &p, int every, const SelectionScratch &scratch, cudaStream_t stream,
                                 up_backend_error *error);
up_status launch_selection_normalise(const up_selection &p, const SelectionScratch &scratch, cudaStream_t stream,
                                     up_backend_error *error);
up_status launch_selection_mass(const up_selection &p, const SelectionScratch &scratch, cudaStream_t stream,
                                up_backend_error *error);
up_status launch_selection_cut(const up_selection &p, const SelectionScratch &scratch, cudaStream_t stream,
                               up_backend_error *error);

// Score, normalise and mass alone, for masses that are summed over ranks before they are cut. `parts`: where it left masses and broken.
up_status select_masses(const up_selection &p, void *workspace, size_t workspace_bytes, SelectionScratch *parts, void *stream,
                        up_backend_error *error);
// Score and normalise alone, of queries that are the request's last row and every so many before it.
up_status score_samples(const up_selection &p, void *workspace, size_t workspace_bytes, int every, SelectionScratch *parts, void *stream,
                        up_backend_error *error);
// Cut and compact alone. `broken`: as in SelectionScratch. Writes over the masses of a request that is broken.
up_status select_cut(const up_selection &p, uint64_t *masses, const int32_t *broken, void *stream, up_backend_error *error);

}  // namespace up::cuda
