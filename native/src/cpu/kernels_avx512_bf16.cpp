#include "kernels.h"

namespace up::cpu {

const Kernels *avx512_bf16_kernels() { return nullptr; }

}  // namespace up::cpu
