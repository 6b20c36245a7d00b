// SiLU and tanh-GELU of the gate, times the other half.
#include <algorithm>

#include "cuda/common/dependent_launch.cuh"
#include "cuda/layer/activations.cuh"
#include "cuda/common/launch.h"
#include "cuda/common/operators.h"
#include "cuda/common/pieces.cuh"

namespace up::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kPieces = 2;  // of each half, a thread

template <class T, up_activation Activation>
__global__ void __launch_bounds__(kThreads) gated_activation(const __grid_constant__ up_gated_activation p) {
  take_turn();
  const int pieces = p.inner / 8;
  const int first = blockIdx.x * kThreads * kPieces + threadIdx.x;
  for (int row = blockIdx.y; row < p.rows; row += gridDim.y) {
    const T *input = static_cast<const T *>(p.input) + row * p.input_stride;
    const auto *gate = reinterpret_cast<const uint4 *>(input), *up = reinterpret_cast<const uint4 *>(input + p.inner);
    auto *output = reinterpret_cast<uint4 *>(static_cast<T *>(p.output) + row * p.output_stride);
    uint4 g[kPieces], u[kPieces];
#pragma unroll
    for (int i = 0; i < kPieces; ++i)
      if (first + i * kThreads < pieces) {
        g[i] = __ldcs(gate + first + i * kThreads);
        u[i] = __ldcs(up + first + i * kThreads);
      }
#pragma unroll
    for (int i = 0; i < kPieces; ++i)
      if (first + i * kThreads < pieces) {
        float a[8], b[8];
        unpack8<T>(g[i], a);
        unpack8<T>(u[i], b);
#pragma unroll
        for (int j = 0; j < 8; ++j) a[j] = activate<Activation>(a[j]) * b[j];
        output[first + i * kThreads] = pack8<T>(a);
      }
  }
}

template <class T>
up_status launch(const up_gated_activation &p, cudaStream_t stream, up_backend_error *error) {
  const dim3 grid(static_cast<unsigned>(ceil_div(p.inner / 8, kThreads * kPieces)),
                  static_cast<unsigned>(std::min(p.rows, 65535)));
  if (p.activation == UP_SILU)
    launch_dependent(gated_activation<T, UP_SILU>, grid, kThreads, 0, stream, p);
  else
    launch_dependent(gated_activation<T, UP_GELU_TANH>, grid, kThreads, 0, stream, p);
  return check_launch("launch gated activation", error);
}

}  // namespace

up_status activate(const up_gated_activation *p, void *stream, up_backend_error *error) {
  if (p->rows == 0 || p->inner == 0) return UP_OK;
  const auto queue = static_cast<cudaStream_t>(stream);
  return p->dtype == UP_BF16 ? launch<__nv_bfloat16>(*p, queue, error) : launch<__half>(*p, queue, error);
}

}  // namespace up::cuda
