// Sigmoid, and the two activations of gated MLPs.
#pragma once

#include "operators/backend.h"
#include "cuda/common/hopper.cuh"

namespace up::cuda {

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + exp2_fast(-x * kLog2E)); }

template <up_activation Activation>
__device__ __forceinline__ float activate(float x) {
  if constexpr (Activation == UP_SILU) return x * sigmoid(x);
  // x · (1 + tanh u) / 2 = x · sigmoid(2u)
  return x * sigmoid(2.0f * 0.7978845608028654f * fmaf(0.044715f * x * x, x, x));
}

}  // namespace up::cuda
