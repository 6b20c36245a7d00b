// RMSNorm with what stands before it in a layer: the gather of the rows kept and the residual sum. One pass: a row stays in
// registers between its sum of squares and its output.
#include "cuda/common/dependent_launch.cuh"
#include "cuda/common/launch.h"
#include "cuda/common/operators.h"
#include "cuda/common/pieces.cuh"

namespace up::cuda {

namespace {

// A block has one row at a time, a thread up to `Pieces` pieces of 8 elements.
template <class T, int Pieces>
__global__ void rms_norm(const __grid_constant__ up_rms_norm p) {
  take_turn();
  __shared__ float parts[32];
  const int rows = p.count == nullptr ? p.rows : min(max(*p.count, 0), p.rows);
  const int pieces = p.width / 8, lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    const int source = p.indices == nullptr ? row : min(max(p.indices[row], 0), p.source_rows - 1);
    const auto *input = reinterpret_cast<const uint4 *>(static_cast<const T *>(p.input) + source * p.input_stride);
    const auto *addend = reinterpret_cast<const uint4 *>(static_cast<const T *>(p.addend) + row * p.addend_stride);
    auto *sum = reinterpret_cast<uint4 *>(static_cast<T *>(p.sum) + row * p.sum_stride);
    auto *output = reinterpret_cast<uint4 *>(static_cast<T *>(p.output) + row * p.output_stride);
    uint4 x[Pieces], y[Pieces];
#pragma unroll
    for (int i = 0; i < Pieces; ++i) {
      const int at = threadIdx.x + i * blockDim.x;
      x[i] = y[i] = make_uint4(0, 0, 0, 0);
      if (at < pieces) {
        x[i] = input[at];
        if (p.addend != nullptr) y[i] = addend[at];
      }
    }
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < Pieces; ++i) {
      const int at = threadIdx.x + i * blockDim.x;
      float a[8];
      unpack8<T>(x[i], a);
      if (p.addend != nullptr) {
        float b[8];
        unpack8<T>(y[i], b);
#pragma unroll
        for (int j = 0; j < 8; ++j) a[j] += b[j];
        x[i] = pack8<T>(a);
        unpack8<T>(x[i], a);
      }
      if (p.sum != nullptr && at < pieces) sum[at] = x[i];
#pragma unroll
      for (int j = 0; j < 8; ++j) squares = fmaf(a[j], a[j], squares);
    }
    if (p.output == nullptr) continue;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
    if (lane == 0) parts[warp] = squares;
    __syncthreads();
    float total = 0.0f;
    for (int i = 0; i < warps; ++i) total += parts[i];
    __syncthreads();
    const float inverse = rsqrtf(total / static_cast<float>(p.width) + p.eps);
#pragma unroll
    for (int i = 0; i < Pieces; ++i) {
      const int at = threadIdx.x + i * blockDim.x;
      if (at >= pieces) continue;
      float a[8], w[8];
      unpack8<T>(x[i], a);
      unpack8<T>(__ldg(static_cast<const uint4 *>(p.weight) + at), w);
#pragma unroll
      for (int j = 0; j < 8; ++j) a[j] = a[j] * inverse * (p.weight_offset + w[j]);
      output[at] = pack8<T>(a);
    }
  }
}

template <class T>
up_status launch(const up_rms_norm &p, cudaStream_t stream, up_backend_error *error) {
  constexpr const char *phase = "launch RMS norm";
  const int pieces = p.width / 8;
  const unsigned blocks = static_cast<unsigned>(p.rows < 65536 ? p.rows : 65536);
  // Few pieces a thread keep the block busy on short rows, more of them the memory on long ones.
  const int each = pieces <= 64 ? 1 : pieces <= 2048 ? 4 : 0;
  const int threads = each == 0 ? 0 : static_cast<int>(ceil_div(ceil_div(pieces, each), 32) * 32);
  if (each == 1)
    launch_dependent(rms_norm<T, 1>, blocks, threads, 0, stream, p);
  else if (each == 4)
    launch_dependent(rms_norm<T, 4>, blocks, threads, 0, stream, p);
  else
    return fail(error, UP_INVALID_ARGUMENT, phase, "width %d: at most 16384", p.width);
  return check_launch(phase, error);
}

}  // namespace

up_status normalise(const up_rms_norm *p, void *stream, up_backend_error *error) {
  if (p->rows == 0) return UP_OK;
  const auto queue = static_cast<cudaStream_t>(stream);
  return p->dtype == UP_BF16 ? launch<__nv_bfloat16>(*p, queue, error) : launch<__half>(*p, queue, error);
}

}  // namespace up::cuda
