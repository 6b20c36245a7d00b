// An operator's parameters for bf16, everything else zero.
#pragma once

#include "uniprefill/operators.h"

namespace up::cuda {

template <class Parameters>
Parameters parameters() {
  Parameters p{};
  p.size = sizeof p;
  p.dtype = UP_BF16;
  return p;
}

}  // namespace up::cuda
