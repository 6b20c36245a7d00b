// Adds the splits of each request, weighted by their sums of exponentials, in the order of their keys.
#include "cuda/common/dependent_launch.cuh"
#include "cuda/attention/decode_attention.h"
#include "cuda/common/hopper.cuh"

namespace up::cuda {

namespace {

constexpr int kSlices = 8;  // interleaved shares of the splits, added in order

// A block has one (head, request): kSlices × (head_dim / 2) threads, each with two neighbouring columns of its share.
template <class T, int D>
__global__ void __launch_bounds__(kSlices * D / 2) decode_combine(const __grid_constant__ DecodeArguments a) {
  take_turn();
  __shared__ int parts[kSlices * D / 64];
  __shared__ float2 values[kSlices][D / 2];
  __shared__ float sums[kSlices];
  const int request = blockIdx.y, head = blockIdx.x;
  const int pair = threadIdx.x % (D / 2), slice = threadIdx.x / (D / 2);
  const DecodeRange range = decode_range(a, request);
  if (range.splits == 1) return;
  T *output = static_cast<T *>(a.output) + request * a.output_row_stride + head * a.output_head_stride;
  auto *cell = reinterpret_cast<uint32_t *>(output) + pair;
  if (range.splits == 0) {
    if (slice == 0) *cell = 0;
    return;
  }
  int before = 0;
  for (int i = threadIdx.x; i < request; i += blockDim.x) before += decode_range(a, i).splits;
  for (int step = 16; step > 0; step /= 2) before += __shfl_xor_sync(~0u, before, step);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = before;
  __syncthreads();
  before = 0;
  for (int i = 0; i < kSlices * D / 64; ++i) before += parts[i];

  const float *logs = a.logs + int64_t{before} * a.heads + head;
  const auto *partial = reinterpret_cast<const float2 *>(a.partial + (int64_t{before} * a.heads + head) * D) + pair;
  float top = negative_infinity();
  for (int i = threadIdx.x % 32; i < range.splits; i += 32) top = fmaxf(top, logs[int64_t{i} * a.heads]);
  for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
  float x = 0.0f, y = 0.0f, sum = 0.0f;
#pragma unroll 4
  for (int i = slice; i < range.splits; i += kSlices) {
    const float weight = exp2_fast(logs[int64_t{i} * a.heads] - top);
    const float2 value = partial[int64_t{i} * a.heads * (D / 2)];
    x = fmaf(weight, value.x, x);
    y = fmaf(weight, value.y, y);
    sum += weight;
  }
  values[slice][pair] = make_float2(x, y);
  if (pair == 0) sums[slice] = sum;
  __syncthreads();
  if (slice != 0) return;
  for (int i = 1; i < kSlices; ++i) {
    x += values[i][pair].x;
    y += values[i][pair].y;
    sum += sums[i];
  }
  *cell = Element<T>::pack(x / sum, y / sum);
}

template <class T>
void launch(const up_decode_attention &p, const DecodeArguments &a, cudaStream_t stream) {
  const dim3 grid(p.heads, p.requests);
  if (p.head_dim == 64) launch_dependent(decode_combine<T, 64>, grid, kSlices * 32, 0, stream, a);
  if (p.head_dim == 128) launch_dependent(decode_combine<T, 128>, grid, kSlices * 64, 0, stream, a);
  if (p.head_dim == 256) launch_dependent(decode_combine<T, 256>, grid, kSlices * 128, 0, stream, a);
}

}  // namespace

up_status launch_decode_combine(const up_decode_attention &p, const DecodeArguments &a, cudaStream_t stream,
                                up_backend_error *error) {
  if (p.dtype == UP_BF16)
    launch<__nv_bfloat16>(p, a, stream);
  else
    launch<__half>(p, a, stream);
  return check_launch("launch decode combine", error);
}

}  // namespace up::cuda
