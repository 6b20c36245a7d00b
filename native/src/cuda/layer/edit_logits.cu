// Soft-cap, masks and added values of logits, in place.
#include <algorithm>

#include "cuda/common/dtype.cuh"
#include "cuda/common/launch.h"
#include "cuda/layer/logit_edits.cuh"
#include "cuda/common/operators.h"

namespace up::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kTokens = 8192;  // of a row, a block

template <class T>
__global__ void __launch_bounds__(kThreads) edit(const __grid_constant__ up_logit_edit p) {
  const int row = blockIdx.y, first = blockIdx.x * kTokens, last = min(first + kTokens, p.vocab_size);
  T *logits = static_cast<T *>(p.logits) + row * p.logits_stride;
  const LogitEdits edits(p.edits, row, p.vocab_size);
  if (p.soft_cap > 0 || edits.mask != nullptr) {
    const float cap_factor = p.soft_cap > 0 ? 2.0f * kLog2E / p.soft_cap : 0.0f;
    for (int i = first + threadIdx.x; i < last; i += kThreads) {
      float x = static_cast<float>(logits[i]);
      if (p.soft_cap > 0) x = soft_capped(x, p.soft_cap, cap_factor);
      logits[i] = static_cast<T>(edits.allowed(i) ? x : negative_infinity());
    }
    __syncthreads();
  }
  edits.add(first, last, [&](int token, float value) {
    logits[token] = static_cast<T>(static_cast<float>(logits[token]) + value);
  });
}

template <class T>
void launch(const up_logit_edit &p, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(ceil_div(p.vocab_size, kTokens)), static_cast<unsigned>(p.rows));
  edit<T><<<grid, kThreads, 0, stream>>>(p);
}

}  // namespace

up_status edit_logits(const up_logit_edit *p, void *stream, up_backend_error *error) {
  constexpr const char *phase = "launch edits of logits";
  if (p->rows == 0) return UP_OK;
  const auto queue = static_cast<cudaStream_t>(stream);
  return with_element_type(p->dtype, phase, error, [&](auto element) {
    launch<typename decltype(element)::type>(*p, queue);
    return check_launch(phase, error);
  });
}

}  // namespace up::cuda
