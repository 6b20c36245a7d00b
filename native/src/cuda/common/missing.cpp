// Operators whose kernels come later; models that need them are refused when they are loaded.
#include "cuda/common/launch.h"
#include "cuda/common/operators.h"

namespace up::cuda {
namespace {

up_status missing(up_backend_error *error) { return fail(error, UP_INVALID_ARGUMENT, "find a kernel", "this operator has none for CUDA"); }

}  // namespace

up_status route(const up_moe_router *, void *, up_backend_error *error) { return missing(error); }
up_status moe_workspace(const up_moe *, size_t *bytes, up_backend_error *) {
  *bytes = 0;
  return UP_OK;
}
up_status run_experts(const up_moe *, void *, size_t, void *, up_backend_error *error) { return missing(error); }

}  // namespace up::cuda
