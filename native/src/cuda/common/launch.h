// What every operator's host side shares: turning CUDA errors into statuses with text, and facts about the device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "operators/backend.h"

namespace up::cuda {

// Fills `error` (printf style, cut to fit) and returns `status`.
up_status fail(up_backend_error *error, up_status status, const char *phase, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

// UP_OK for cudaSuccess; otherwise the status that fits, with the error's name and text.
up_status check(cudaError_t result, const char *phase, up_backend_error *error);

// The last launch's own error.
inline up_status check_launch(const char *phase, up_backend_error *error) { return check(cudaGetLastError(), phase, error); }

// Multiprocessors of the current device.
int multiprocessors();

// Raises a kernel's dynamic shared memory limit, once a device.
up_status allow_shared_memory(const void *kernel, int bytes, const char *phase, up_backend_error *error);

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace up::cuda
