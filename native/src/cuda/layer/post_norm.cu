// x += norm(y), and the norm of what follows, in one pass: a row stays in registers between both sums of squares.
#include <algorithm>

#include "cuda/common/dependent_launch.cuh"
#include "cuda/common/launch.h"
#include "cuda/common/operators.h"
#include "cuda/common/pieces.cuh"

namespace up::cuda {

namespace {

// Sum over the block, the same for all threads; `parts` has a float for every warp.
__device__ __forceinline__ float block_sum(float value, float *parts) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0.0f;
  for (int i = 0; i < static_cast<int>(blockDim.x) / 32; ++i) total += parts[i];
  return total;
}

// A block has one row at a time, a thread up to `Pieces` pieces of 8 elements.
template <class T, int Pieces>
__global__ void post_norm(const __grid_constant__ up_post_norm p) {
  take_turn();
  __shared__ float parts[32];
  const int rows = p.count == nullptr ? p.rows : min(max(*p.count, 0), p.rows);
  const int pieces = p.width / 8;
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    const int source = p.indices == nullptr ? row : min(max(p.indices[row], 0), p.source_rows - 1);
    const auto *input = reinterpret_cast<const uint4 *>(static_cast<const T *>(p.input) + row * p.input_stride);
    const auto *residual = reinterpret_cast<const uint4 *>(static_cast<const T *>(p.residual) + source * p.residual_stride);
    auto *sum = reinterpret_cast<uint4 *>(static_cast<T *>(p.sum) + row * p.sum_stride);
    auto *output = reinterpret_cast<uint4 *>(static_cast<T *>(p.output) + row * p.output_stride);
    uint4 x[Pieces], y[Pieces];
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < Pieces; ++i) {
      const int at = threadIdx.x + i * blockDim.x;
      x[i] = y[i] = make_uint4(0, 0, 0, 0);
      if (at < pieces) {
        y[i] = input[at];
        x[i] = residual[at];
      }
      float a[8];
      unpack8<T>(y[i], a);
#pragma unroll
      for (int j = 0; j < 8; ++j) squares = fmaf(a[j], a[j], squares);
    }
    float inverse = rsqrtf(block_sum(squares, parts) / static_cast<float>(p.width) + p.eps);
    squares = 0.0f;
#pragma unroll
    for (int i = 0; i < Pieces; ++i) {
      const int at = threadIdx.x + i * blockDim.x;
      if (at >= pieces) continue;
      float a[8], b[8], w[8];
      unpack8<T>(y[i], a);
      unpack8<T>(x[i], b);
      unpack8<T>(__ldg(static_cast<const uint4 *>(p.weight) + at), w);
#pragma unroll
      for (int j = 0; j < 8; ++j) b[j] = fmaf(a[j] * inverse, p.weight_offset + w[j], b[j]);
      x[i] = pack8<T>(b);
      sum[at] = x[i];
      unpack8<T>(x[i], b);
#pragma unroll
      for (int j = 0; j < 8; ++j) squares = fmaf(b[j], b[j], squares);
    }
    if (p.next_weight == nullptr) continue;
    inverse = rsqrtf(block_sum(squares, parts) / static_cast<float>(p.width) + p.next_eps);
#pragma unroll
    for (int i = 0; i < Pieces; ++i) {
      const int at = threadIdx.x + i * blockDim.x;
      if (at >= pieces) continue;
      float a[8], w[8];
      unpack8<T>(x[i], a);
      unpack8<T>(__ldg(static_cast<const uint4 *>(p.next_weight) + at), w);
#pragma unroll
      for (int j = 0; j < 8; ++j) a[j] = a[j] * inverse * (p.next_weight_offset + w[j]);
      output[at] = pack8<T>(a);
    }
  }
}

template <class T>
up_status launch(const up_post_norm &p, cudaStream_t stream, up_backend_error *error) {
  constexpr const char *phase = "launch post norm";
  const int pieces = p.width / 8;
  const unsigned blocks = static_cast<unsigned>(std::min(p.rows, 65536));
  // As in the RMS norm: few pieces a thread on short rows, more of them on long ones.
  if (pieces > 2048) return fail(error, UP_INVALID_ARGUMENT, phase, "width %d: at most 16384", p.width);
  if (pieces <= 64)
    launch_dependent(post_norm<T, 1>, blocks, static_cast<unsigned>(ceil_div(pieces, 32) * 32), 0, stream, p);
  else
    launch_dependent(post_norm<T, 4>, blocks, static_cast<unsigned>(ceil_div(ceil_div(pieces, 4), 32) * 32), 0, stream, p);
  return check_launch(phase, error);
}

}  // namespace

up_status add_normed(const up_post_norm *p, void *stream, up_backend_error *error) {
  if (p->rows == 0) return UP_OK;
  const auto queue = static_cast<cudaStream_t>(stream);
  return p->dtype == UP_BF16 ? launch<__nv_bfloat16>(*p, queue, error) : launch<__half>(*p, queue, error);
}

}  // namespace up::cuda
