// Adds the splits of each request, weighted by their sums of exponentials, in the order of their keys.
#include "decode_attention.h"
#include "hopper.cuh"

namespace up::cuda {

namespace {

// A block has one (head, request), a thread two neighbouring columns.
template <class T, int D>
__global__ void __launch_bounds__(D / 2) decode_combine(const __grid_constant__ DecodeArguments a) {
  const int request = blockIdx.y, head = blockIdx.x, column = 2 * threadIdx.x;
  const DecodeRange range = decode_range(a, request);
  if (range.splits == 1) return;
  T *output = static_cast<T *>(a.output) + request * a.output_row_stride + head * a.output_head_stride;
  auto *cell = reinterpret_cast<uint32_t *>(output + column);
  if (range.splits == 0) {
    *cell = 0;
    return;
  }
  __shared__ int parts[D / 2];
  int before = 0;
  for (int i = threadIdx.x; i < request; i += D / 2) before += decode_range(a, i).splits;
  parts[threadIdx.x] = before;
  __syncthreads();
  for (int half = D / 4; half > 0; half /= 2) {
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    __syncthreads();
  }
  const int64_t first = int64_t{parts[0]} * a.heads + head;
  float top = negative_infinity();
  for (int i = 0; i < range.splits; ++i) top = fmaxf(top, a.logs[first + int64_t{i} * a.heads]);
  float x = 0.0f, y = 0.0f, sum = 0.0f;
#pragma unroll 4
  for (int i = 0; i < range.splits; ++i) {
    const int64_t at = first + int64_t{i} * a.heads;
    const float weight = exp2_fast(a.logs[at] - top);
    const float2 value = *reinterpret_cast<const float2 *>(a.partial + at * D + column);
    x = fmaf(weight, value.x, x);
    y = fmaf(weight, value.y, y);
    sum += weight;
  }
  *cell = Element<T>::pack(x / sum, y / sum);
}

template <class T>
void launch(const up_decode_attention &p, const DecodeArguments &a, cudaStream_t stream) {
  const dim3 grid(p.heads, p.requests);
  if (p.head_dim == 64) decode_combine<T, 64><<<grid, 32, 0, stream>>>(a);
  if (p.head_dim == 128) decode_combine<T, 128><<<grid, 64, 0, stream>>>(a);
  if (p.head_dim == 256) decode_combine<T, 256><<<grid, 128, 0, stream>>>(a);
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
