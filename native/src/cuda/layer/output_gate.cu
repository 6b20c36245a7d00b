// attended *= sigmoid(gate), in place.
#include <algorithm>

#include "cuda/common/dependent_launch.cuh"
#include "cuda/layer/activations.cuh"
#include "cuda/common/launch.h"
#include "cuda/common/operators.h"
#include "cuda/common/pieces.cuh"

namespace up::cuda {

namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads) output_gate(const __grid_constant__ up_output_gate p) {
  take_turn();
  const int each = p.head_dim / 8, pieces = p.heads * each;
  for (int row = blockIdx.y; row < p.rows; row += gridDim.y) {
    const int i = blockIdx.x * kThreads + threadIdx.x;
    if (i >= pieces) continue;
    const int head = i / each, at = 8 * (i % each);
    const T *gate = static_cast<const T *>(p.gate) + row * p.gate_row_stride + head * p.gate_head_stride + at;
    auto *attended = reinterpret_cast<uint4 *>(static_cast<T *>(p.attended) + row * p.attended_row_stride +
                                               head * p.attended_head_stride + at);
    float x[8], g[8];
    unpack8<T>(__ldcs(reinterpret_cast<const uint4 *>(gate)), g);
    unpack8<T>(*attended, x);
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] *= sigmoid(g[j]);
    *attended = pack8<T>(x);
  }
}

}  // namespace

up_status apply_gate(const up_output_gate *p, void *stream, up_backend_error *error) {
  if (p->rows == 0) return UP_OK;
  const auto queue = static_cast<cudaStream_t>(stream);
  const dim3 grid(static_cast<unsigned>(ceil_div(int64_t{p->heads} * p->head_dim / 8, kThreads)),
                  static_cast<unsigned>(std::min(p->rows, 65535)));
  if (p->dtype == UP_BF16)
    launch_dependent(output_gate<__nv_bfloat16>, grid, kThreads, 0, queue, *p);
  else
    launch_dependent(output_gate<__half>, grid, kThreads, 0, queue, *p);
  return check_launch("launch output gate", error);
}

}  // namespace up::cuda
