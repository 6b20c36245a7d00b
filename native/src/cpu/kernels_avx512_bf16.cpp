// GCC 12's own intrinsics pass an undefined vector where a mask makes it irrelevant (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#include <omp.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <vector>

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,avx2")

#include "kernel_table.h"
#include "simd_avx512.h"

namespace up::cpu {

static constexpr Kernels table = kernel_table<Avx512>("avx512bf16");

const Kernels *avx512_bf16_kernels() {
  const bool runs = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512bf16");
  return runs ? &table : nullptr;
}

}  // namespace up::cpu
