#include "kernel_table.h"
#include "simd_portable.h"

namespace up::cpu {

const Kernels *portable_kernels() {
  static constexpr Kernels table = kernel_table<Portable>("portable");
  return &table;
}

}  // namespace up::cpu
