// When a kernel is worth a parallel region, which costs some microseconds: below this much work it runs on the calling
// thread.
#pragma once

#include <cstdint>

namespace up::cpu {

constexpr int64_t parallel_multiplications = 1 << 17;  // of a matrix product
constexpr int64_t parallel_elements = 1 << 14;         // of an elementwise kernel, in or out

}  // namespace up::cpu
