// The reference backend: plain loops in double precision, the oracle of the others. Weights are rounded as their files have
// them, nothing else is.
#pragma once

#include <memory>

#include "backend.h"

namespace up {

// It stores doubles, and counts memory as the CPU backend does, so that both take the same plans.
constexpr ElementBytes reference_element_bytes{.kv = 2, .carry = 4, .conv = 4};

std::unique_ptr<Backend> make_reference_backend(std::shared_ptr<const Checkpoint> checkpoint, const BackendOptions &options);

}  // namespace up
