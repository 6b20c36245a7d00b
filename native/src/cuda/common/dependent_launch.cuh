// Launches of short kernels that follow one another, as in a decode step: a kernel is brought to the multiprocessors while the one
// before it still runs, and waits there for what that one writes.
//
// For that a kernel calls start_next_kernel() and, before it touches memory that others write, wait_for_kernel_before(), in
// every block: the next one waits for this one's end alone.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "cuda/common/hopper.cuh"

namespace up::cuda {

__device__ __forceinline__ void take_turn() {
  start_next_kernel();
  wait_for_kernel_before();
}

// The error is the caller's to ask for, as after <<<>>>.
template <class... Parameters, class... Arguments>
void launch_dependent(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                      Arguments &&...arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

}  // namespace up::cuda
