// GCC 12's own intrinsics pass an undefined vector where a mask makes it irrelevant (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cmath>
#include <cstring>

#include "../src/cpu/kernels.h"
#include "check.h"

static void check_avx512();

int main() {
  if (up::cpu::avx512_bf16_kernels())
    check_avx512();
  else
    std::puts("skipped: no AVX-512 BF16 here");
  return check_result();
}

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,avx2")

#include "../src/cpu/simd_avx512.h"
#include "exponential_cases.h"

static void check_avx512() { check_exponential<up::cpu::Avx512>(); }
