// Which request a row of the batch belongs to, and which rows a request has, on the device. Numbers that lie stay in bounds.
#pragma once

#include <cstdint>

namespace up::cuda {

struct RowRange {
  int begin, end;
};

__device__ __forceinline__ RowRange row_range(const int32_t *row_starts, int request, int max_rows) {
  const int begin = min(max(row_starts[request], 0), max_rows);
  return {begin, min(max(row_starts[request + 1], begin), max_rows)};
}

// The last request that begins at or before `row`, found by the whole block; the same for all threads.
__device__ __forceinline__ int request_of_row(const int32_t *row_starts, int requests, int row) {
  int before = 0;
  for (int first = 1; first < requests; first += blockDim.x) {
    const int i = first + threadIdx.x;
    before += __syncthreads_count(i < requests && row_starts[i] <= row);
  }
  return before;
}

}  // namespace up::cuda
