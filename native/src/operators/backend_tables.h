// The tables behind up_backend.
#pragma once

#include "backend.h"

namespace up {

// The backend's table. Fails when it cannot be loaded or cannot run here; the CUDA library is looked for once, in
// UNIPREFILL_CUDA_LIBRARY if that is set, else beside this library, else where the loader looks.
const up_backend_table &backend_table(const up_backend &backend);

// Plain loops in double precision on host memory.
const up_backend_table &reference_table();

}  // namespace up
