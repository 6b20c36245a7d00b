// Row gather: rows of 16-byte pieces, copied by warps that keep four pieces a lane in flight.
#include <algorithm>

#include "cuda/common/launch.h"
#include "cuda/common/operators.h"

namespace up::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kInFlight = 4;

__global__ void __launch_bounds__(kThreads) gather(const up_gather p, int chunk) {
  const int rows = min(max(*p.count, 0), p.max_rows);
  const int pieces = static_cast<int>(p.row_bytes / 16);
  const int chunks = (pieces + chunk - 1) / chunk;  // of a row; a warp takes one
  const int lane = threadIdx.x % 32;
  const int64_t work = static_cast<int64_t>(rows) * chunks;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / 32);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32; i < work; i += warps) {
    const int row = static_cast<int>(i / chunks), begin = static_cast<int>(i % chunks) * chunk;
    const int source_row = min(max(p.indices[row], 0), p.source_rows - 1);
    const auto *source =
        reinterpret_cast<const uint4 *>(static_cast<const uint8_t *>(p.source) + source_row * p.source_stride_bytes);
    auto *target = reinterpret_cast<uint4 *>(static_cast<uint8_t *>(p.target) + row * p.target_stride_bytes);
    const int end = min(begin + chunk, pieces);
    for (int at = begin + lane; at < end; at += 32 * kInFlight) {
      uint4 piece[kInFlight];
#pragma unroll
      for (int j = 0; j < kInFlight; ++j)
        if (at + 32 * j < end) piece[j] = __ldcs(source + at + 32 * j);
#pragma unroll
      for (int j = 0; j < kInFlight; ++j)
        if (at + 32 * j < end) __stcs(target + at + 32 * j, piece[j]);
    }
  }
}

}  // namespace

up_status gather_rows(const up_gather *p, void *stream, up_backend_error *error) {
  if (p->max_rows == 0 || p->row_bytes == 0) return UP_OK;
  constexpr int chunk = 32 * kInFlight;
  const int64_t warps = p->max_rows * ceil_div(p->row_bytes / 16, chunk);
  const int64_t blocks = std::min<int64_t>(ceil_div(warps, kThreads / 32), int64_t{multiprocessors()} * 32);
  gather<<<static_cast<unsigned>(blocks), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(*p, chunk);
  return check_launch("launch gather", error);
}

}  // namespace up::cuda
