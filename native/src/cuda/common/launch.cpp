#include "cuda/common/launch.h"

#include <cstdarg>
#include <cstdio>
#include <mutex>
#include <set>
#include <utility>

namespace up::cuda {

up_status fail(up_backend_error *error, up_status status, const char *phase, const char *format, ...) {
  if (error != nullptr) {
    std::snprintf(error->phase, sizeof error->phase, "%s", phase);
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(error->detail, sizeof error->detail, format, arguments);
    va_end(arguments);
  }
  return status;
}

up_status check(cudaError_t result, const char *phase, up_backend_error *error) {
  if (result == cudaSuccess) return UP_OK;
  up_status status = UP_LAUNCH_FAILED;
  switch (result) {
    case cudaErrorMemoryAllocation:
      status = UP_OUT_OF_MEMORY;
      break;
    // These stay with the context: nothing more can run in this process.
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorECCUncorrectable:
    case cudaErrorNoDevice:
    case cudaErrorDevicesUnavailable:
    case cudaErrorInsufficientDriver:
      status = UP_DEVICE_LOST;
      break;
    default:
      break;
  }
  return fail(error, status, phase, "%s: %s", cudaGetErrorName(result), cudaGetErrorString(result));
}

int multiprocessors() {
  int device = 0;
  int count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess || count < 1) return 1;
  return count;
}

up_status allow_shared_memory(const void *kernel, int bytes, const char *phase, up_backend_error *error) {
  static std::mutex mutex;
  static std::set<std::pair<const void *, int>> raised;
  int device = 0;
  if (up_status status = check(cudaGetDevice(&device), phase, error); status != UP_OK) return status;
  const std::lock_guard lock(mutex);
  if (raised.contains({kernel, device})) return UP_OK;
  if (up_status status =
          check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), phase, error);
      status != UP_OK)
    return status;
  raised.insert({kernel, device});
  return UP_OK;
}

}  // namespace up::cuda
