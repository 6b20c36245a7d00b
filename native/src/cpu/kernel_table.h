// The kernel table of one instruction set.
//
// Included last by a file that has put `#pragma GCC target` before it, so that everything here is compiled for that
// instruction set. All of it is templates over the Simd type (or has internal linkage), so no code for one processor
// can be linked in place of another's; the standard headers come before the pragma for the same reason.
#pragma once

#include "attend.h"
#include "delta_inputs.h"
#include "delta_recur.h"
#include "experts.h"
#include "gates.h"
#include "gemm.h"
#include "gemm_parts.h"
#include "rms_norm.h"
#include "rope.h"
#include "score.h"
#include "sparse_keys.h"
#include "write_kv.h"

namespace up::cpu {

template <class Simd>
constexpr Kernels kernel_table(const char *name) {
  return {.name = name,
          .packed_bytes = Gemm<Simd>::packed_bytes,
          .pack = Gemm<Simd>::pack,
          .gemm = Gemm<Simd>::gemm,
          .gemm_parts = gemm_parts<Simd>,
          .rms_norm = rms_norm<Simd>,
          .add_rms_norm = add_rms_norm<Simd>,
          .silu_mul = gated_mul<Simd, Silu>,
          .gelu_mul = gated_mul<Simd, Gelu>,
          .sigmoid_mul = sigmoid_mul<Simd>,
          .soft_cap = soft_cap<Simd>,
          .round_rows = round_rows<Simd>,
          .rope = rope<Simd>,
          .write_kv = write_kv,
          .attend = Attend<Simd>::attend,
          .score = Score<Simd>::score,
          .sparse_keys = SparseKeys<Simd>::run,
          .delta_inputs = DeltaInputs<Simd>::run,
          .delta_recur = DeltaRecurrence<Simd>::run,
          .delta_outputs = delta_outputs<Simd>,
          .route = Route<Simd>::run,
          .combine = combine<Simd>};
}

}  // namespace up::cpu
