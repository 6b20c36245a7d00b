#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "../src/cpu/kernels.h"
#include "check.h"

static void check_avx2();

int main() {
  if (up::cpu::avx2_kernels())
    check_avx2();
  else
    std::puts("skipped: no AVX2 + FMA here");
  return check_result();
}

#pragma GCC target("avx2,fma")

#include "../src/cpu/simd_avx2.h"
#include "exponential_cases.h"

static void check_avx2() { check_exponential<up::cpu::Avx2>(); }
