#include "kernels.h"

namespace up::cpu {

const Kernels *avx2_kernels() { return nullptr; }

}  // namespace up::cpu
