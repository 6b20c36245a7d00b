// The kernel table of one instruction set.
//
// Included last by a file that has put `#pragma GCC target` before it, so that everything here is compiled for that
// instruction set. All of it is templates over the Simd type (or has internal linkage), so no code for one processor
// can be linked in place of another's; the standard headers come before the pragma for the same reason.
#pragma once

#include "attend.h"
#include "gemm.h"
#include "rms_norm.h"
#include "rope.h"
#include "score.h"
#include "silu_mul.h"
#include "write_kv.h"

namespace up::cpu {

template <class Simd>
constexpr Kernels kernel_table(const char *name) {
  return {name,
          Gemm<Simd>::packed_bytes,
          Gemm<Simd>::pack,
          Gemm<Simd>::gemm,
          rms_norm<Simd>,
          silu_mul<Simd>,
          rope<Simd>,
          write_kv,
          Attend<Simd>::attend,
          Score<Simd>::score};
}

}  // namespace up::cpu
