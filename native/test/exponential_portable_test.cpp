#include <cmath>
#include <cstring>

#include "../src/cpu/simd_portable.h"
#include "exponential_cases.h"

int main() {
  check_exponential<up::cpu::Portable>();
  return check_result();
}
