// A mixture of experts in five launches, all on choices that only the device knows:
//   count     how many choices of each expert every 1,024 of them hold
//   place     the choices sorted by expert, stable; where each expert's begin, and its tiles of 128 rows
//   up        activation(x Gᵀ) ∘ (x Uᵀ) of every choice, rows of x gathered on the way to shared memory
//   down      that times Dᵀ
//   combine   every row's top_k results, weighted and added in the order of k, and the shared expert's
// A choice's arithmetic does not depend on which choices share its tile, so nothing depends on the batch.
//
// Floor, 8,192 rows × top 8 of 256 experts, 2,048 × 512: 412 GFLOP, 0.53 ms at 780 TFLOP/s. Weights are 1.61 GB and results 0.27 GB,
// which pass twice: 2.3 GB with the rest, 0.53 ms at 4.3 TB/s and 0.77 ms at 3.0 TB/s, so a tile's weights must come from the
// second-level cache when its neighbours have read them: tiles of one expert and the same columns follow each other, and blocks of
// threads take them in that order, one at a time. (Handed out in advance, blocks drift apart and read weights again; two blocks that
// multicast weights to each other keep too few bytes on their way.)
#pragma once

#include "cuda/common/launch.h"

namespace up::cuda {

constexpr int kTileRows = 128;
constexpr int kSortEntries = 1024;  // choices that a block sorts
constexpr int kMostExperts = 1024;

// Parts of the caller's workspace.
struct MoeScratch {
  int32_t *counts;     // [blocks of choices, experts]
  int32_t *starts;     // [experts + 1] choices before each expert, sorted
  int32_t *tiles;      // [experts + 1] tiles before each expert
  int32_t *rows;       // [choices] the row of each sorted choice
  int32_t *places;     // [rows, top_k] where a choice lies among the sorted; -1: nowhere
  int32_t *taken;      // [2] the next tile of each product
  void *inner;         // [choices, inner]
  void *results;       // [choices, hidden]
};

inline int64_t moe_choices(const up_moe &p) { return int64_t{p.rows} * p.top_k; }

up_status launch_moe_sort(const up_moe &p, const MoeScratch &scratch, cudaStream_t stream, up_backend_error *error);
up_status launch_moe_products(const up_moe &p, const MoeScratch &scratch, cudaStream_t stream, up_backend_error *error);
up_status launch_moe_combine(const up_moe &p, const MoeScratch &scratch, cudaStream_t stream, up_backend_error *error);

}  // namespace up::cuda
