// The backend that lives in libuniprefill_cuda.so, and how it comes over the boundary between the two libraries.
//
// Both are built from one tree, and what crosses are C++ objects: the checkpoint and options on the way in, a Backend on the way
// out. Neither library needs a symbol of the other: virtual functions are called through their table, and the few functions of
// weights/ and memory/ that the backend calls are compiled into its own library as well. A Failure thrown there is caught here
// because exceptions are matched by the names of their types, which hidden visibility leaves alone. Since nothing but the layout of
// classes holds the two together, UP_BACKEND_ABI is not enough: both must have been compiled from the same headers, which a
// fingerprint of them (UP_BUILD_FINGERPRINT, made by CMake) tells.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "backend.h"

namespace up {

struct DeviceOptions {
  int index = 0;
  // Of the device's memory, what the backend may take in all where it is to count the slabs itself.
  double memory_fraction = 0.9;
  // Called while weights are on their way, by the thread that makes the backend, with bytes; may be empty.
  std::function<void(int64_t done, int64_t all)> progress;
};

// Loads libuniprefill_cuda.so where it is not loaded yet. Slabs 0: as many as fit. Fails with UP_DEVICE_LOST where there is no
// device, driver, cuBLASLt or library of this build; UP_OUT_OF_MEMORY with the numbers; UP_UNSUPPORTED_MODEL naming what has no kernel.
std::unique_ptr<Backend> make_device_backend(const std::shared_ptr<const Checkpoint> &checkpoint, const BackendOptions &options,
                                             const DeviceOptions &device);

}  // namespace up

// What the table's create_backend is given, and gives back.
struct up_device_request {
  const char *fingerprint;
  const std::shared_ptr<const up::Checkpoint> &checkpoint;
  const up::BackendOptions &options;
  const up::DeviceOptions &device;
  std::unique_ptr<up::Backend> backend;
};
