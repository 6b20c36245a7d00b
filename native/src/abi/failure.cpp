#include "abi/failure.h"

#include <cstdio>

namespace up {
namespace {

struct LastError {
  up_status status = UP_OK;
  char operation[64] = "";
  char phase[128] = "";
  char detail[1024] = "";
};

thread_local LastError last_error;

}  // namespace

void record_error(up_status status, const char *operation, const char *phase, const char *detail) noexcept {
  last_error.status = status;
  std::snprintf(last_error.operation, sizeof last_error.operation, "%s", operation);
  std::snprintf(last_error.phase, sizeof last_error.phase, "%s", phase);
  std::snprintf(last_error.detail, sizeof last_error.detail, "%s", detail);
}

}  // namespace up

extern "C" {

int32_t up_abi_version(void) { return UP_ABI_VERSION; }

up_error up_last_error(void) {
  const up::LastError &error = up::last_error;
  return {error.status, error.operation, error.phase, error.detail};
}

const char *up_status_name(int32_t status) {
  switch (status) {
    case UP_OK: return "UP_OK";
    case UP_INVALID_ARGUMENT: return "UP_INVALID_ARGUMENT";
    case UP_UNSUPPORTED_MODEL: return "UP_UNSUPPORTED_MODEL";
    case UP_UNSUPPORTED_DTYPE: return "UP_UNSUPPORTED_DTYPE";
    case UP_CORRUPT_FILE: return "UP_CORRUPT_FILE";
    case UP_OUT_OF_MEMORY: return "UP_OUT_OF_MEMORY";
    case UP_DEVICE_LOST: return "UP_DEVICE_LOST";
    case UP_LAUNCH_FAILED: return "UP_LAUNCH_FAILED";
    case UP_INTERNAL: return "UP_INTERNAL";
    case UP_INVALID_PLAN: return "UP_INVALID_PLAN";
    default: return "UP_UNKNOWN";
  }
}

}  // extern "C"
