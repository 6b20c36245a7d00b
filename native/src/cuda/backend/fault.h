// Faults on demand, for tests of what happens then: UNIPREFILL_CUDA_FAULT = alloc:N | launch:N | lost:N makes the Nth
// allocation or operator of the process fail, or the device be gone when the Nth step is waited for.
#pragma once

namespace up::cuda {

enum class Fault { alloc, launch, lost };

// Whether this call is the one that was asked for.
bool fault_due(Fault fault);

}  // namespace up::cuda
