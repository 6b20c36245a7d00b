// The CPU backend: layers on the kernels of one instruction set.
//
// Residual stream, sums and carries are f32; what goes into a matrix product or into attention is bf16. A row's results do
// not depend on the rows beside it, see kernels.h.
#pragma once

#include <memory>

#include "backend.h"
#include "uniprefill/runner.h"

namespace up {

constexpr ElementBytes cpu_element_bytes{.kv = 2, .carry = 4, .conv = 4};

// `threads` of every step; 0: the processors of this process. The weights are copied, packed for the kernels.
// Fails with UP_INVALID_ARGUMENT where this processor does not have the kernels asked for.
std::unique_ptr<Backend> make_cpu_backend(std::shared_ptr<const Checkpoint> checkpoint, const BackendOptions &options,
                                          up_kernels kernels, int threads);

}  // namespace up
