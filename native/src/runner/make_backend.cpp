#include "runner/make_backend.h"

#include <omp.h>

#include "abi/failure.h"
#include "cpu/cpu_backend.h"
#include "device_backend.h"
#include "reference/reference_backend.h"

namespace up {

ElementBytes element_bytes(const up_device &device) {
  switch (raw_value(device)) {
    case UP_DEVICE_CPU: return cpu_element_bytes;
    case UP_DEVICE_REFERENCE: return reference_element_bytes;
    case UP_DEVICE_CUDA: return {2, 2, 2};
    default: fail(UP_INVALID_ARGUMENT, "check options", "device is ", raw_value(device), ", 0 to 2 was expected");
  }
}

std::unique_ptr<Backend> make_backend(const std::shared_ptr<const Checkpoint> &checkpoint, const BackendOptions &options,
                                      const up_runner_options &runner) {
  // Read as a number first: a caller in C may have written anything there.
  if (const int kernels = raw_value(runner.kernels); kernels < UP_KERNELS_AUTO || kernels > UP_KERNELS_AVX512_BF16) {
    fail(UP_INVALID_ARGUMENT, "choose kernels", "kernels is ", kernels, ", 0 to 3 was expected");
  }
  const int rank = options.ranks ? options.ranks->shard().rank : 0;
  switch (runner.device) {
    case UP_DEVICE_CPU: return make_cpu_backend(checkpoint, options, runner.kernels, omp_get_max_threads());
    case UP_DEVICE_REFERENCE:
      if (options.ranks) fail(UP_INVALID_ARGUMENT, "make backend", "the reference has one rank, tensor_parallel_size is ", options.ranks->shard().size);
      return make_reference_backend(checkpoint, options);
    case UP_DEVICE_CUDA: return make_device_backend(checkpoint, options, {runner.device_index + rank, runner.memory_fraction, {}});
  }
  fail(UP_INVALID_ARGUMENT, "make backend", "device is ", raw_value(runner.device));
}

}  // namespace up
