// Decode attention in two launches: keys in fixed splits of 1,024, counted from key 0, then the splits of a request combined.
// A request's arithmetic depends on its own interval alone.
#pragma once

#include "cuda/common/launch.h"
#include "cuda/common/tensor_map.h"

namespace up::cuda {

constexpr int kSplitKeys = 1024;
constexpr int kDecodeHeads = 16;       // query heads of one KV head that share a matrix product
constexpr int kDecodeRequests = 1024;  // the split counts of a step are kept in shared memory

struct DecodeArguments {
  KvTable keys, values;
  const void *queries;
  int64_t query_row_stride, query_head_stride;
  const int32_t *begin;  // nullptr: 0
  const int32_t *end;
  void *output;
  int64_t output_row_stride, output_head_stride;
  float *partial;  // [splits over all requests, heads, head_dim]: outputs of single splits
  float *logs;     // [splits over all requests, heads]: log2 of their sums of exponentials
  int requests, max_key_rows, heads, kv_heads, group, subgroups;
  float scale, soft_cap;
};

// Keys of a request after clamping, and the splits that hold them.
struct DecodeRange {
  int begin, end, first_split, splits;
};

#ifdef __CUDACC__
__device__ __forceinline__ DecodeRange decode_range(const DecodeArguments &a, int request) {
  const int begin = a.begin == nullptr ? 0 : max(a.begin[request], 0);
  const int end = min(a.end[request], a.max_key_rows);
  if (begin >= end) return {0, 0, 0, 0};
  const int first = begin / kSplitKeys;
  return {begin, end, first, (end - 1) / kSplitKeys + 1 - first};
}

// Splits of the requests before each one, in order, for all threads of a block of `Warps` warps: counts[i] for i ≤ requests.
template <int Warps>
__device__ __forceinline__ void count_splits(const DecodeArguments &a, int *counts, int (&scratch)[Warps]) {
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  int before = 0;
  for (int first = 0; first < a.requests; first += blockDim.x) {
    const int request = first + thread;
    const int own = request < a.requests ? decode_range(a, request).splits : 0;
    int through = own;
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(~0u, through, step);
      if (lane >= step) through += other;
    }
    if (lane == 31) scratch[warp] = through;
    __syncthreads();
    int total = 0;
#pragma unroll
    for (int i = 0; i < Warps; ++i) {
      if (i < warp) through += scratch[i];
      total += scratch[i];
    }
    if (request < a.requests) counts[request] = before + through - own;
    before += total;
    __syncthreads();
  }
  if (thread == 0) counts[a.requests] = before;
  __syncthreads();
}
#endif

up_status launch_decode_splits(const up_decode_attention &p, const DecodeArguments &a, cudaStream_t stream,
                               up_backend_error *error);
up_status launch_decode_combine(const up_decode_attention &p, const DecodeArguments &a, cudaStream_t stream,
                                up_backend_error *error);

}  // namespace up::cuda
