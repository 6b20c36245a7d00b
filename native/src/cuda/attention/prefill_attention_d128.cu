#include "cuda/attention/prefill_attention.cuh"

namespace up::cuda {

up_status launch_prefill_d128(const up_prefill_attention &p, const PrefillSchedule &schedule, cudaStream_t stream,
                            up_backend_error *error) {
  return p.dtype == UP_BF16 ? launch_prefill<__nv_bfloat16, 128>(p, schedule, stream, error)
                            : launch_prefill<__half, 128>(p, schedule, stream, error);
}

}  // namespace up::cuda
