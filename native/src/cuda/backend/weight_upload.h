// Brings pieces of host memory to the device: threads gather them into page-locked blocks, each with a stream of its own, so that
// reading files, copying and the transfer overlap.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "cuda/backend/device.h"

namespace up::cuda {

// A run of bytes on the device that is put together from pieces of host memory.
struct Transfer {
  std::byte *target;
  std::vector<std::span<const std::byte>> pieces;
};

// Returns when everything is there. `progress(done, all)` in bytes, from the calling thread.
void upload_all(Device &device, const std::vector<Transfer> &transfers,
                const std::function<void(int64_t, int64_t)> &progress);

}  // namespace up::cuda
