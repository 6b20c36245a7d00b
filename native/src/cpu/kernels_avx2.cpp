#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <vector>

#pragma GCC target("avx2,fma")

#include "kernel_table.h"
#include "simd_avx2.h"

namespace up::cpu {

static constexpr Kernels table = kernel_table<Avx2>("avx2");

const Kernels *avx2_kernels() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &table : nullptr;
}

}  // namespace up::cpu
