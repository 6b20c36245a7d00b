// Puts the parts of prefill attention together, weighted by their sums of exponentials, in the order of their keys.
#include "cuda/attention/prefill_attention.h"
#include "cuda/common/fragments.cuh"

namespace up::cuda {

namespace {

constexpr int kJoinRows = 8;  // of a block, a warp each

// One row of one head, by one warp.
template <class T, int D>
__device__ void join_row(const PrefillSchedule &schedule, const PrefillJoin &join, int row, int head, int heads, int lane, T *output) {
  constexpr int kColumns = D / 32;  // of a lane
  const auto place = [&](int part) { return (static_cast<int64_t>(join.first_part + part) * heads + head) * kPrefillRows + row; };

  float top = negative_infinity();
  for (int part = lane; part < join.parts; part += 32) top = fmaxf(top, schedule.logs[place(part)]);
  for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
  float values[kColumns] = {}, sum = 0.0f;
  if (top != negative_infinity()) {
    for (int part = 0; part < join.parts; ++part) {
      const float weight = exp2_fast(schedule.logs[place(part)] - top);
      const float *partial = schedule.partial + place(part) * D + lane * kColumns;
      sum += weight;
#pragma unroll
      for (int i = 0; i < kColumns; i += 2) {
        const float2 pair = *reinterpret_cast<const float2 *>(partial + i);
        values[i] = fmaf(weight, pair.x, values[i]);
        values[i + 1] = fmaf(weight, pair.y, values[i + 1]);
      }
    }
  }
  const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
  auto *target = reinterpret_cast<uint32_t *>(output + lane * kColumns);
#pragma unroll
  for (int i = 0; i < kColumns; i += 2) target[i / 2] = Element<T>::pack(values[i] * inverse, values[i + 1] * inverse);
}

template <class T, int D>
__global__ void __launch_bounds__(32 * kJoinRows) prefill_join(const PrefillSchedule schedule, T *output, int64_t row_stride,
                                                               int64_t head_stride, int heads) {
  const int row = blockIdx.x * kJoinRows + threadIdx.x / 32, head = blockIdx.y, lane = threadIdx.x % 32;
  const int joins = schedule.counts[2];
  for (int i = 0; i < joins; ++i) {
    const PrefillJoin join = schedule.joins[i];
    if (row >= join.rows) continue;
    T *const target = output + (join.first_row + row) * row_stride + head * head_stride;
    join_row<T, D>(schedule, join, row, head, heads, lane, target);
  }
}

template <class T, int D>
void launch(const up_prefill_attention &p, const PrefillSchedule &schedule, cudaStream_t stream) {
  const dim3 grid(kPrefillRows / kJoinRows, p.heads);
  prefill_join<T, D><<<grid, 32 * kJoinRows, 0, stream>>>(schedule, static_cast<T *>(p.output), p.output_row_stride,
                                                          p.output_head_stride, p.heads);
}

template <class T>
void launch(const up_prefill_attention &p, const PrefillSchedule &schedule, cudaStream_t stream) {
  if (p.head_dim == 64) launch<T, 64>(p, schedule, stream);
  if (p.head_dim == 128) launch<T, 128>(p, schedule, stream);
  if (p.head_dim == 256) launch<T, 256>(p, schedule, stream);
}

}  // namespace

up_status launch_prefill_join(const up_prefill_attention &p, const PrefillSchedule &schedule, cudaStream_t stream,
                              up_backend_error *error) {
  if (prefill_part_capacity(p) < 2) return UP_OK;
  if (p.dtype == UP_BF16)
    launch<__nv_bfloat16>(p, schedule, stream);
  else
    launch<__half>(p, schedule, stream);
  return check_launch("launch prefill join", error);
}

}  // namespace up::cuda
