// How a backend's memory is shared out before any of it is taken.
#pragma once

#include "cuda/backend/activations.h"
#include "device_backend.h"

namespace up::cuda {

constexpr size_t upload_ring_bytes = 64 << 20;

// Masses, and what goes with them, that several ranks add up at a time: those of the longest selection, and of several shorter ones.
int64_t mass_integers(const ModelTable &model, const BackendOptions &options);

// All that is neither weights nor slabs.
size_t workspace_bytes(const ModelTable &model, const BackendOptions &options, const ActivationSizes &sizes);

// The slabs asked for, or as many as fit. Fails with UP_OUT_OF_MEMORY, listing what is needed and what there is, when it does not
// fit, or not even a page of every table would.
int count_slabs(Device &device, const ModelTable &model, const BackendOptions &options, const DeviceOptions &device_options,
                const ActivationSizes &sizes, size_t weight_bytes);

}  // namespace up::cuda
