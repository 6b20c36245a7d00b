// RMSNorm of every head, times SiLU of its gate. Bound by memory: a thread has 8 elements of a head, two heads in flight.
#include <algorithm>

#include "cuda/common/dependent_launch.cuh"
#include "cuda/layer/activations.cuh"
#include "cuda/common/launch.h"
#include "cuda/common/operators.h"
#include "cuda/common/pieces.cuh"

namespace up::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kInFlight = 2;

template <class T, int D>
__global__ void __launch_bounds__(kThreads) gated_norm(const __grid_constant__ up_gated_norm p) {
  take_turn();
  constexpr int kLanes = D / 8;  // of a head
  constexpr int kHeads = kThreads / kLanes;
  const int at = 8 * (threadIdx.x % kLanes);
  float w[8];
  unpack8<T>(__ldg(reinterpret_cast<const uint4 *>(static_cast<const T *>(p.weight) + at)), w);
  const int64_t total = static_cast<int64_t>(p.rows) * p.heads;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kHeads * kInFlight; first < total;
       first += static_cast<int64_t>(gridDim.x) * kHeads * kInFlight) {
    uint4 x[kInFlight], z[kInFlight];
    int64_t target[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int64_t head = first + i * kHeads + threadIdx.x / kLanes;
      x[i] = z[i] = make_uint4(0, 0, 0, 0);
      target[i] = -1;
      if (head >= total) continue;
      const int64_t row = head / p.heads, inside = head % p.heads * D + at;
      x[i] = *reinterpret_cast<const uint4 *>(static_cast<const T *>(p.input) + row * p.input_row_stride + inside);
      z[i] = __ldcs(reinterpret_cast<const uint4 *>(static_cast<const T *>(p.gate) + row * p.gate_row_stride + inside));
      target[i] = row * p.output_row_stride + inside;
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      float a[8], g[8];
      unpack8<T>(x[i], a);
      unpack8<T>(z[i], g);
      float squares = 0.0f;
#pragma unroll
      for (int j = 0; j < 8; ++j) squares = fmaf(a[j], a[j], squares);
#pragma unroll
      for (int step = kLanes / 2; step > 0; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
      const float inverse = rsqrtf(squares / static_cast<float>(D) + p.eps);
#pragma unroll
      for (int j = 0; j < 8; ++j) a[j] *= inverse;
      unpack8<T>(pack8<T>(a), a);
#pragma unroll
      for (int j = 0; j < 8; ++j) a[j] *= w[j] * activate<UP_SILU>(g[j]);
      if (target[i] >= 0) *reinterpret_cast<uint4 *>(static_cast<T *>(p.output) + target[i]) = pack8<T>(a);
    }
  }
}

template <class T>
up_status launch(const up_gated_norm &p, cudaStream_t stream, up_backend_error *error) {
  constexpr const char *phase = "launch gated norm";
  const int64_t needed = ceil_div(int64_t{p.rows} * p.heads * (p.head_dim / 8), int64_t{kThreads} * kInFlight);
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(needed, int64_t{multiprocessors()} * 64));
  if (p.head_dim == 64)
    launch_dependent(gated_norm<T, 64>, blocks, kThreads, 0, stream, p);
  else if (p.head_dim == 128)
    launch_dependent(gated_norm<T, 128>, blocks, kThreads, 0, stream, p);
  else if (p.head_dim == 256)
    launch_dependent(gated_norm<T, 256>, blocks, kThreads, 0, stream, p);
  else
    return fail(error, UP_INVALID_ARGUMENT, phase, "head_dim %d: 64, 128 and 256 are supported", p.head_dim);
  return check_launch(phase, error);
}

}  // namespace

up_status normalise_gated(const up_gated_norm *p, void *stream, up_backend_error *error) {
  if (p->rows == 0) return UP_OK;
  const auto queue = static_cast<cudaStream_t>(stream);
  return p->dtype == UP_BF16 ? launch<__nv_bfloat16>(*p, queue, error) : launch<__half>(*p, queue, error);
}

}  // namespace up::cuda
