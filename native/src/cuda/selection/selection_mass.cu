// From log sums per (head, block, query) to the fixed-point mass of each block.
#include <algorithm>

#include "cuda/common/hopper.cuh"
#include "cuda/selection/selection.h"

namespace up::cuda {

namespace {

constexpr int kNormaliseThreads = 1024;
constexpr int kSlices = 32;        // interleaved shares of a query's blocks, added in order
constexpr int kMassThreads = 256;
constexpr int kMassBlocks = 64;    // of one head, a thread block
constexpr float kFixedOne = 1099511627776.0f;  // 2^40

// Sums over the blocks: one warp-wide column of 32 queries, 32 slices of blocks. Also clears the masses.
__global__ void __launch_bounds__(kNormaliseThreads)
    selection_normalise(const SelectionShape shape, const int32_t *lengths, const SelectionScratch scratch) {
  __shared__ float tops[kSlices][33], values[kSlices][33];
  const int request = blockIdx.z, head = blockIdx.y, quarter = blockIdx.x;
  const int lane = threadIdx.x % 32, slice = threadIdx.x / 32, query = 32 * quarter + lane;
  const SelectionRows rows = selection_rows(shape, lengths, request);
  if (head == 0 && quarter == 0)
    for (int i = threadIdx.x; i < shape.blocks; i += kNormaliseThreads)
      scratch.masses[static_cast<int64_t>(request) * shape.blocks + i] = 0;

  const int64_t column = static_cast<int64_t>(request) * shape.heads + head;
  const float *sums = scratch.sums + column * shape.blocks * kSelectionQueries + query;
  constexpr int kBatch = 8;
  float top = negative_infinity(), value = 0.0f;
  for (int first = slice; first < rows.blocks; first += kBatch * kSlices) {
    float x[kBatch];
    float most = top;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int block = first + i * kSlices;
      x[i] = block < rows.blocks ? sums[static_cast<int64_t>(block) * kSelectionQueries] : negative_infinity();
      most = fmaxf(most, x[i]);
    }
    const float reference = most == negative_infinity() ? 0.0f : most;
    value *= exp2_fast(top - reference);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) value += exp2_fast(x[i] - reference);
    top = most;
  }
  tops[slice][lane] = top;
  values[slice][lane] = value;
  __syncthreads();
  if (slice != 0) return;
  for (int i = 0; i < kSlices; ++i) top = fmaxf(top, tops[i][lane]);
  const float reference = top == negative_infinity() ? 0.0f : top;
  value = 0.0f;
  for (int i = 0; i < kSlices; ++i) value += values[i][lane] * exp2_fast(tops[i][lane] - reference);
  const float whole = top + log2_fast(value);
  const bool used = query < rows.queries;
  scratch.wholes[column * kSelectionQueries + query] = whole;
  // A query always sees itself, so its sum is finite unless a score is not.
  const bool broken = __any_sync(~0u, used && !isfinite(whole));
  if (lane == 0) scratch.broken[column * 4 + quarter] = broken;
}

// A warp sums one block at a time: four queries a lane, then the lanes as a tree.
__global__ void __launch_bounds__(kMassThreads)
    selection_mass(const SelectionShape shape, const int32_t *lengths, const SelectionScratch scratch) {
  const int request = blockIdx.z, head = blockIdx.y;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const SelectionRows rows = selection_rows(shape, lengths, request);
  const int begin = blockIdx.x * kMassBlocks, end = min(begin + kMassBlocks, rows.blocks);
  if (begin >= end) return;
  const int64_t column = static_cast<int64_t>(request) * shape.heads + head;
  const float4 whole = reinterpret_cast<const float4 *>(scratch.wholes + column * kSelectionQueries)[lane];
  const float4 *sums = reinterpret_cast<const float4 *>(scratch.sums + column * shape.blocks * kSelectionQueries) + lane;
  const int query = 4 * lane;
#pragma unroll 2
  for (int block = begin + warp; block < end; block += kMassThreads / 32) {
    const float4 x = sums[static_cast<int64_t>(block) * (kSelectionQueries / 4)];
    float mass = query < rows.queries ? exp2_fast(x.x - whole.x) : 0.0f;
    mass += query + 1 < rows.queries ? exp2_fast(x.y - whole.y) : 0.0f;
    mass += query + 2 < rows.queries ? exp2_fast(x.z - whole.z) : 0.0f;
    mass += query + 3 < rows.queries ? exp2_fast(x.w - whole.w) : 0.0f;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) mass += __shfl_xor_sync(~0u, mass, step);
    if (lane == 0) {
      const unsigned long long fixed = isfinite(mass) ? __float2ull_rn(mass * kFixedOne) : 0;
      atomicAdd(reinterpret_cast<unsigned long long *>(scratch.masses) + static_cast<int64_t>(request) * shape.blocks + block,
                fixed);
    }
  }
}

}  // namespace

up_status launch_selection_normalise(const up_selection &p, const SelectionScratch &scratch, cudaStream_t stream,
                                     up_backend_error *error) {
  const SelectionShape shape = selection_shape(p);
  selection_normalise<<<dim3(kSelectionQueries / 32, p.heads, p.requests), kNormaliseThreads, 0, stream>>>(shape, p.lengths,
                                                                                                          scratch);
  return check_launch("launch selection normalise", error);
}

up_status launch_selection_mass(const up_selection &p, const SelectionScratch &scratch, cudaStream_t stream,
                                up_backend_error *error) {
  const SelectionShape shape = selection_shape(p);
  const dim3 grid(static_cast<unsigned>(ceil_div(shape.blocks, kMassBlocks)), p.heads, p.requests);
  selection_mass<<<grid, kMassThreads, 0, stream>>>(shape, p.lengths, scratch);
  return check_launch("launch selection mass", error);
}

}  // namespace up::cuda
