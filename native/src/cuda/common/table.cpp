// The one symbol of libuniprefill_cuda.so.
#include "cuda/common/launch.h"
#include "cuda/common/operators.h"

namespace up::cuda {

namespace {

up_status available(up_backend_error *error) {
  constexpr const char *phase = "look for a device";
  int devices = 0;
  if (up_status s = check(cudaGetDeviceCount(&devices), phase, error); s != UP_OK) return s;
  if (devices == 0) return fail(error, UP_DEVICE_LOST, phase, "no CUDA device");
  int device = 0, major = 0, minor = 0;
  if (up_status s = check(cudaGetDevice(&device), phase, error); s != UP_OK) return s;
  if (up_status s = check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), phase, error); s != UP_OK)
    return s;
  if (up_status s = check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), phase, error); s != UP_OK)
    return s;
  if (major != 9 || minor != 0)
    return fail(error, UP_DEVICE_LOST, phase, "device %d has compute capability %d.%d: these kernels are for 9.0", device, major,
                minor);
  return UP_OK;
}

#define UP_TEXT_OF(x) #x
#define UP_TEXT(x) UP_TEXT_OF(x)

constexpr up_backend_table table{UP_BACKEND_ABI,
                                 "cuda " UP_TEXT(CUDART_VERSION) " sm_90a",
                                 available,
                                 selection_workspace,
                                 select,
                                 gather_rows,
                                 prefill_attention_workspace,
                                 attend_prefill,
                                 decode_attention_workspace,
                                 attend_decode,
                                 normalise,
                                 rotate_and_write,
                                 activate,
                                 embed,
                                 sampler_workspace,
                                 sample,
                                 sparse_attention_workspace,
                                 attend_sparse,
                                 add_normed,
                                 apply_gate,
                                 edit_logits,
                                 delta_prepare,
                                 delta_prefill_workspace,
                                 recur_prefill,
                                 recur_decode,
                                 normalise_gated,
                                 route,
                                 moe_workspace,
                                 run_experts,
                                 create_backend};

}  // namespace

}  // namespace up::cuda

extern "C" UP_API const up_backend_table *up_cuda_backend(void) { return &up::cuda::table; }
