// Kernels that exist for every element type of the operator interface.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/common/launch.h"

namespace up::cuda {

template <class T>
struct ElementType {
  using type = T;
};

// Calls `run` with the element type that `dtype` names, and returns what it returns; any other number is an error.
template <class Run>
up_status with_element_type(int dtype, const char *phase, up_backend_error *error, Run run) {
  switch (dtype) {
    case UP_F32: return run(ElementType<float>{});
    case UP_BF16: return run(ElementType<__nv_bfloat16>{});
    case UP_F16: return run(ElementType<__half>{});
    default: return fail(error, UP_UNSUPPORTED_DTYPE, phase, "dtype %d: f32 (0), bf16 (1) and f16 (2) are supported", dtype);
  }
}

}  // namespace up::cuda
