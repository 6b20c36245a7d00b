// One pass: a row stays in registers between its largest value and its rounded ones.
#include <cuda_fp8.h>

#include "cuda/common/dependent_launch.cuh"
#include "cuda/common/launch.h"
#include "cuda/common/pieces.cuh"
#include "cuda/layer/activations.cuh"
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

// A row as it is.
struct Plain {
  static __device__ __forceinline__ uint4 piece(const uint4 *row, int at, int) { return row[at]; }
};

// Activation of its first half, times the other one.
template <up_activation Activation>
struct Gated {
  static __device__ __forceinline__ uint4 piece(const uint4 *row, int at, int pieces) {
    float a[8], b[8];
    unpack8<__nv_bfloat16>(__ldcs(row + at), a);
    unpack8<__nv_bfloat16>(__ldcs(row + pieces + at), b);
#pragma unroll
    for (int j = 0; j < 8; ++j) a[j] = activate<Activation>(a[j]) * b[j];
    return pack8<__nv_bfloat16>(a);
  }
};

// A block has one row at a time, a thread up to `Pieces` pieces of 8 elements.
template <class Source, int Pieces>
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
      x[i] = at < pieces ? Source::piece(input, at, pieces) : make_uint4(0, 0, 0, 0);
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

template <class Source, int Pieces>
void launch(const uint16_t *in, int64_t in_stride, int rows, int width, uint8_t *out, float *scales, cudaStream_t stream) {
  const auto threads = static_cast<unsigned>(ceil_div(ceil_div(width / 8, Pieces), 32) * 32);
  const auto blocks = static_cast<unsigned>(rows < 65536 ? rows : 65536);
  launch_dependent(round_rows<Source, Pieces>, blocks, threads, 0, stream, in, in_stride, rows, width, out, scales);
}

template <class Source>
void launch(const uint16_t *in, int64_t in_stride, int rows, int width, uint8_t *out, float *scales, cudaStream_t stream) {
  if (rows == 0) return;
  if (width <= 4096)
    launch<Source, 2>(in, in_stride, rows, width, out, scales, stream);
  else if (width <= 16384)
    launch<Source, 4>(in, in_stride, rows, width, out, scales, stream);
  else
    launch<Source, 8>(in, in_stride, rows, width, out, scales, stream);
}

}  // namespace

void launch_round_rows(const uint16_t *in, int64_t in_stride, int rows, int width, uint8_t *out, float *scales, cudaStream_t stream) {
  launch<Plain>(in, in_stride, rows, width, out, scales, stream);
}

void launch_activate_and_round(up_activation activation, const uint16_t *in, int64_t in_stride, int rows, int inner, uint8_t *out,
                               float *scales, cudaStream_t stream) {
  if (activation == UP_SILU)
    launch<Gated<UP_SILU>>(in, in_stride, rows, inner, out, scales, stream);
  else
    launch<Gated<UP_GELU_TANH>>(in, in_stride, rows, inner, out, scales, stream);
}

}  // namespace up::cuda
