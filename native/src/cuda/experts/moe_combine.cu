// Every row's results, weighted and added in the order of its choices, and the shared expert's.
#include <algorithm>

#include "cuda/layer/activations.cuh"
#include "cuda/experts/moe.h"
#include "cuda/common/pieces.cuh"

namespace up::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kInFlight = 4;  // results loaded before the first is added

struct Arguments {
  up_moe p;
  const int32_t *places;
  const void *results;
};

// A thread has 8 columns of a row.
template <class T>
__global__ void __launch_bounds__(kThreads) moe_combine(const __grid_constant__ Arguments a) {
  const up_moe &p = a.p;
  const int column = 8 * (blockIdx.x * kThreads + threadIdx.x);
  if (column >= p.hidden) return;
  for (int row = blockIdx.y; row < p.rows; row += gridDim.y) {
    const int32_t *places = a.places + static_cast<int64_t>(row) * p.top_k;
    const float *weights = p.weights + static_cast<int64_t>(row) * p.top_k;
    float sum[8] = {};
    for (int first = 0; first < p.top_k; first += kInFlight) {
      uint4 pieces[kInFlight];
      float factors[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        const int place = first + i < p.top_k ? __ldg(places + first + i) : -1;
        factors[i] = 0.0f;
        pieces[i] = make_uint4(0, 0, 0, 0);
        if (place < 0) continue;
        factors[i] = __ldg(weights + first + i);
        pieces[i] = __ldcs(reinterpret_cast<const uint4 *>(static_cast<const T *>(a.results) +
                                                           static_cast<int64_t>(place) * p.hidden + column));
      }
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        float x[8];
        unpack8<T>(pieces[i], x);
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[j] = fmaf(factors[i], x[j], sum[j]);
      }
    }
    if (p.shared != nullptr) {
      const float gate =
          p.shared_gate == nullptr ? 1.0f
                                   : sigmoid(static_cast<float>(static_cast<const T *>(p.shared_gate)[row * p.shared_gate_stride]));
      float x[8];
      unpack8<T>(__ldcs(reinterpret_cast<const uint4 *>(static_cast<const T *>(p.shared) + row * p.shared_stride + column)), x);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[j] = fmaf(gate, x[j], sum[j]);
    }
    *reinterpret_cast<uint4 *>(static_cast<T *>(p.output) + row * p.output_stride + column) = pack8<T>(sum);
  }
}

}  // namespace

up_status launch_moe_combine(const up_moe &p, const MoeScratch &scratch, cudaStream_t stream, up_backend_error *error) {
  const Arguments arguments{p, scratch.places, scratch.results};
  const dim3 grid(static_cast<unsigned>(ceil_div(p.hidden / 8, kThreads)), static_cast<unsigned>(std::min(p.rows, 65535)));
  if (p.dtype == UP_BF16)
    moe_combine<__nv_bfloat16><<<grid, kThreads, 0, stream>>>(arguments);
  else
    moe_combine<__half><<<grid, kThreads, 0, stream>>>(arguments);
  return check_launch("launch combination of experts", error);
}

}  // namespace up::cuda
