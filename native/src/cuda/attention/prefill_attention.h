// Prefill attention in three launches: a schedule of work items, longest first; a persistent kernel that carries them out; and
// one that joins the items whose keys were divided, where there are too few rows to keep the device busy otherwise.
#pragma once

#include "cuda/common/launch.h"
#include "cuda/common/tensor_map.h"

namespace up::cuda {

constexpr int kPrefillRows = 128;  // query rows of an item

// Up to 128 consecutive query rows of one request, and the keys that they see or a part of those; every head has its own copy
// of the work.
struct PrefillItem {
  int request;
  int first_row;  // in the batch
  int rows;
  int key_rows;               // keys that some row of the request sees: K and V are finite below it
  int tile_begin, tile_end;   // key tiles that some row sees, or the part of them
  int block;                  // of 128 rows, counted from the request's first
  int full_begin[2];          // of each half of 64 rows: tiles that all its rows see whole
  int full_end[2];
  int part;                   // where the result of a part of the keys goes; -1: these are all
};

// Items whose keys were divided among neighbouring parts.
struct PrefillJoin {
  int first_row, rows, first_part, parts;
};

struct PrefillSchedule {
  int *starts;  // [requests + 1] blocks of rows before a request
  int *counts;  // {items, next item to take, joins, items before those that come last}
  PrefillItem *items;
  PrefillJoin *joins;
  float *partial;  // [parts, heads, 128, head_dim]
  float *logs;     // [parts, heads, 128]: log2 of the sums of exponentials
};

struct PrefillArguments {
  PrefillSchedule schedule;
  KvTable keys, values;
  const int32_t *lo;  // nullptr: 0
  const int32_t *hi;
  void *output;
  int64_t output_row_stride, output_head_stride;
  int heads, group;  // group: query heads of a KV head
  int max_key_rows;
  float scale, soft_cap;
  // Sparse attention alone.
  const int32_t *block_starts;
  const uint32_t *bitmaps;
  int query_blocks, words;
};

// Parts there can be at most, so that those of all heads are a few for each multiprocessor.
int64_t prefill_part_capacity(const up_prefill_attention &p);
// Items there can be at most.
int64_t prefill_item_capacity(const up_prefill_attention &p);

// `divide`: keys may be divided.
up_status launch_prefill_schedule(const up_prefill_attention &p, const PrefillSchedule &schedule, int tile_keys, bool divide,
                                  cudaStream_t stream, up_backend_error *error);
up_status launch_prefill_join(const up_prefill_attention &p, const PrefillSchedule &schedule, cudaStream_t stream,
                              up_backend_error *error);

// The kernel itself, one translation unit a head size; `sparse` is nullptr where no keys are left out.
up_status launch_prefill_d64(const up_prefill_attention &p, const up_sparse_attention *sparse, const PrefillSchedule &schedule,
                            cudaStream_t stream, up_backend_error *error);
up_status launch_prefill_d128(const up_prefill_attention &p, const up_sparse_attention *sparse, const PrefillSchedule &schedule,
                            cudaStream_t stream, up_backend_error *error);
up_status launch_prefill_d256(const up_prefill_attention &p, const up_sparse_attention *sparse, const PrefillSchedule &schedule,
                            cudaStream_t stream, up_backend_error *error);

}  // namespace up::cuda
