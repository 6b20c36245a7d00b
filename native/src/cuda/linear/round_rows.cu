// One pass: a row stays in registers between its largest value and its rounded ones.
#include <cuda_fp8.h>

#include "cuda/common/dependent_launch.cuh"
#include "cuda/common/launch.h"
#include "cuda/common/pieces.cuh"
#include "cuda/linear/round_rows.h"

namespace up::cuda {

namespace {

// As fp8_scale() has it. Values that are not finite make their whole row so: NaN has the largest bits of all.
__device__ __forceinline__ int scale_exponent(uint32_t largest) {
  if (largest == 0) return 0;
  const int exponent = static_cast<int>(largest >> 23) - 127 - 8 + ((largest & 0x7fffff) > 0x600000 ? 1 : 0);
  return min(max(exponent, -120), 120);
}

__device__ __forceinline__ uint32_t pack4(float a, float b, float c, float d) {
  const uint32_t low = __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
  const uint32_t high = __nv_cvt_float2_to_fp8x2(make_float2(c, d), __NV_SATFINITE, __NV_E4M3);
  return low | high << 16;
}

// A block has one row at a time, a thread up to `Pieces` pieces of 8 elements.
template <int Pieces>
__global__ void round_rows(const uint16_t *in, int64_t in_stride, int rows, int width, uint8_t *out, float *scales) {
  take_turn();
  __shared__ uint32_t parts[32];
  const int pieces = width / 8;
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    const auto *input = reinterpret_cast<const uint4 *>(in + row * in_stride);
    auto *output = reinterpret_cast<uint2 *>(out + static_cast<int64_t>(row) * width);
    uint4 x[Pieces];
    uint32_t largest = 0;  // of two values at once, signs left out
#pragma unroll
    for (int i = 0; i < Pieces; ++i) {
      const int at = threadIdx.x + i * blockDim.x;
      x[i] = at < pieces ? input[at] : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < Pieces; ++i) {
      for (const uint32_t pair : {x[i].x, x[i].y, x[i].z, x[i].w}) largest = __vmaxu2(largest, pair & 0x7fff7fff);
    }
    largest = max(largest >> 16, largest & 0xffff);
    largest = __reduce_max_sync(~0u, largest);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = largest;
    __syncthreads();
    for (int i = 0; i < static_cast<int>(blockDim.x) / 32; ++i) largest = max(largest, parts[i]);
    const bool finite = largest < 0x7f80;
    const int exponent = scale_exponent(largest << 16);
    const float inverse = finite ? __int_as_float((127 - exponent) << 23) : __int_as_float(0x7fc00000);
#pragma unroll
    for (int i = 0; i < Pieces; ++i) {
      const int at = threadIdx.x + i * blockDim.x;
      if (at >= pieces) continue;
      float a[8];
      unpack8<__nv_bfloat16>(x[i], a);
#pragma unroll
      for (int j = 0; j < 8; ++j) a[j] *= inverse;
      output[at] = make_uint2(pack4(a[0], a[1], a[2], a[3]), pack4(a[4], a[5], a[6], a[7]));
    }
    if (threadIdx.x == 0) scales[row] = finite ? __int_as_float((127 + exponent) << 23) : __int_as_float(0x7fc00000);
  }
}

template <int Pieces>
void launch(const uint16_t *in, int64_t in_stride, int rows, int width, uint8_t *out, float *scales, cudaStream_t stream) {
  const auto threads = static_cast<unsigned>(ceil_div(ceil_div(width / 8, Pieces), 32) * 32);
  const auto blocks = static_cast<unsigned>(rows < 65536 ? rows : 65536);
  launch_dependent(round_rows<Pieces>, blocks, threads, 0, stream, in, in_stride, rows, width, out, scales);
}

}  // namespace

void launch_round_rows(const uint16_t *in, int64_t in_stride, int rows, int width, uint8_t *out, float *scales, cudaStream_t stream) {
  if (rows == 0) return;
  if (width <= 4096)
    launch<2>(in, in_stride, rows, width, out, scales, stream);
  else if (width <= 16384)
    launch<4>(in, in_stride, rows, width, out, scales, stream);
  else
    launch<8>(in, in_stride, rows, width, out, scales, stream);
}

}  // namespace up::cuda
