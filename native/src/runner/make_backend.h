// The backend that a runner's options ask for.
#pragma once

#include <memory>

#include "backend.h"
#include "uniprefill/runner.h"

namespace up {

// Element sizes that a device's layouts are made of.
ElementBytes element_bytes(const up_device &device);

// Fails with UP_INVALID_ARGUMENT for a device or kernels that this library or machine does not have.
std::unique_ptr<Backend> make_backend(const std::shared_ptr<const Checkpoint> &checkpoint, const BackendOptions &options,
                                      const up_runner_options &runner);

}  // namespace up
