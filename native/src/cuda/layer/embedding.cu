// Token embedding, with the factor that Gemma puts on it.
#include <algorithm>

#include "cuda/common/launch.h"
#include "cuda/common/operators.h"
#include "cuda/common/pieces.cuh"

namespace up::cuda {

namespace {

constexpr int kThreads = 128;

template <class T>
__global__ void __launch_bounds__(kThreads) embedding(const __grid_constant__ up_embedding p) {
  const float scale = p.scale == 0.0f ? 1.0f : p.scale;
  for (int row = blockIdx.x; row < p.rows; row += gridDim.x) {
    int token = p.tokens[row];
    if (token < 0 && p.last_tokens != nullptr) token = p.last_tokens[min(~token, p.slots - 1)];
    token = min(max(token, 0), p.vocab_size - 1);
    const auto *source = reinterpret_cast<const uint4 *>(static_cast<const T *>(p.table) + token * p.table_stride);
    auto *target = reinterpret_cast<uint4 *>(static_cast<T *>(p.output) + row * p.output_stride);
    for (int at = threadIdx.x; at < p.width / 8; at += kThreads) {
      uint4 piece = __ldg(source + at);
      if (scale != 1.0f) {
        float x[8];
        unpack8<T>(piece, x);
#pragma unroll
        for (int j = 0; j < 8; ++j) x[j] *= scale;
        piece = pack8<T>(x);
      }
      target[at] = piece;
    }
  }
}

}  // namespace

up_status embed(const up_embedding *p, void *stream, up_backend_error *error) {
  if (p->rows == 0) return UP_OK;
  const auto queue = static_cast<cudaStream_t>(stream);
  const unsigned blocks = static_cast<unsigned>(std::min(p->rows, 65536));
  if (p->dtype == UP_BF16)
    embedding<__nv_bfloat16><<<blocks, kThreads, 0, queue>>>(*p);
  else
    embedding<__half><<<blocks, kThreads, 0, queue>>>(*p);
  return check_launch("launch embedding", error);
}

}  // namespace up::cuda
