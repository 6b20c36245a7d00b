// Softmax over the experts and the top k of them: a warp a row, its logits in registers.
#include <algorithm>

#include "cuda/common/dtype.cuh"
#include "cuda/common/launch.h"
#include "cuda/common/operators.h"
#include "cuda/common/hopper.cuh"

namespace up::cuda {

namespace {

constexpr int kThreads = 256;

// A lane has experts lane, lane + 32, …
template <class T, int Each>
__global__ void __launch_bounds__(kThreads) moe_route(const __grid_constant__ up_moe_router p) {
  const int lane = threadIdx.x % 32;
  for (int row = blockIdx.x * (kThreads / 32) + threadIdx.x / 32; row < p.rows; row += gridDim.x * (kThreads / 32)) {
    const T *logits = static_cast<const T *>(p.logits) + row * p.logits_stride;
    float x[Each];
    bool finite = true;
    float most = negative_infinity();
#pragma unroll
    for (int i = 0; i < Each; ++i) {
      const int expert = lane + 32 * i;
      x[i] = expert < p.experts ? static_cast<float>(logits[expert]) : negative_infinity();
      finite = finite && (expert >= p.experts || isfinite(x[i]));
      most = fmaxf(most, x[i]);
    }
    finite = __all_sync(~0u, finite);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < Each; ++i) total += expf(x[i] - most);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(~0u, total, step);
    // Lane k keeps the k-th choice.
    int mine = lane;
    float weight = 0.0f, kept = 0.0f;
    for (int k = 0; finite && k < p.top_k; ++k) {
      float best = negative_infinity();
      int expert = INT32_MAX;
#pragma unroll
      for (int i = 0; i < Each; ++i)
        if (x[i] > best) {
          best = x[i];
          expert = lane + 32 * i;
        }
#pragma unroll
      for (int step = 16; step > 0; step /= 2) {
        const float other = __shfl_xor_sync(~0u, best, step);
        const int other_expert = __shfl_xor_sync(~0u, expert, step);
        if (other > best || (other == best && other_expert < expert)) {
          best = other;
          expert = other_expert;
        }
      }
#pragma unroll
      for (int i = 0; i < Each; ++i)
        if (lane + 32 * i == expert) x[i] = negative_infinity();
      const float share = expf(best - most);
      kept += share;
      if (lane == k) {
        mine = expert;
        weight = share;
      }
    }
    if (lane >= p.top_k) continue;
    const int64_t at = static_cast<int64_t>(row) * p.top_k + lane;
    p.chosen[at] = mine;
    p.weights[at] = finite ? weight / (p.renormalise ? kept : total) : __int_as_float(0x7fffffff);
  }
}

template <class T>
void launch(const up_moe_router &p, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(ceil_div(p.rows, kThreads / 32), int64_t{multiprocessors()} * 16));
  if (p.experts <= 128)
    moe_route<T, 4><<<blocks, kThreads, 0, stream>>>(p);
  else if (p.experts <= 256)
    moe_route<T, 8><<<blocks, kThreads, 0, stream>>>(p);
  else if (p.experts <= 512)
    moe_route<T, 16><<<blocks, kThreads, 0, stream>>>(p);
  else
    moe_route<T, 32><<<blocks, kThreads, 0, stream>>>(p);
}

}  // namespace

up_status route(const up_moe_router *p, void *stream, up_backend_error *error) {
  constexpr const char *phase = "launch router";
  if (p->rows == 0) return UP_OK;
  if (p->experts > 1024) return fail(error, UP_INVALID_ARGUMENT, phase, "experts %d: at most 1024", p->experts);
  const auto queue = static_cast<cudaStream_t>(stream);
  return with_element_type(p->dtype, phase, error, [&](auto element) {
    launch<typename decltype(element)::type>(*p, queue);
    return check_launch(phase, error);
  });
}

}  // namespace up::cuda
