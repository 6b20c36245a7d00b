#include "cuda/attention/prefill_attention.cuh"

namespace up::cuda {

up_status launch_prefill_d128(const up_prefill_attention &p, const up_sparse_attention *sparse, const PrefillSchedule &schedule,
                            cudaStream_t stream, up_backend_error *error) {
  return launch_prefill<128>(p, sparse, schedule, stream, error);
}

}  // namespace up::cuda
