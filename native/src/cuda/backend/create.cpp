// create_backend of the exported table.
#include <cstdio>
#include <cstring>

#include "cuda/backend/cuda_backend.h"
#include "cuda/common/operators.h"

namespace up::cuda {

up_status create_backend(up_device_request *request, up_backend_error *error) {
  constexpr const char *phase = "make CUDA backend";
  const auto note = [&](up_status status, const char *where, const char *detail) {
    std::snprintf(error->phase, sizeof error->phase, "%s", where);
    std::snprintf(error->detail, sizeof error->detail, "%s", detail);
    return status;
  };
  if (std::strcmp(request->fingerprint, UP_BUILD_FINGERPRINT) != 0)
    return note(UP_DEVICE_LOST, phase, "libuniprefill_cuda.so is of another build than libuniprefill.so: build both anew");
  try {
    request->backend = std::make_unique<CudaBackend>(request->checkpoint, request->options, request->device);
    return UP_OK;
  } catch (const Failure &failure) {
    return note(failure.status, failure.phase.c_str(), failure.detail.c_str());
  } catch (const std::bad_alloc &) {
    return note(UP_OUT_OF_MEMORY, phase, "the host has no memory left");
  } catch (const std::exception &failure) {
    return note(UP_INTERNAL, phase, failure.what());
  }
}

}  // namespace up::cuda
