// When a kernel is worth a parallel region. Its threads sleep between regions (they would take a core from whoever else
// needs one), so a region costs some ten microseconds; below this much work a kernel runs on the calling thread.
#pragma once

#include <cstdint>

namespace up::cpu {

constexpr int64_t parallel_multiplications = 1 << 20;  // of a matrix product, or of attention
constexpr int64_t parallel_elements = 1 << 16;         // of an elementwise kernel, in or out

}  // namespace up::cpu
