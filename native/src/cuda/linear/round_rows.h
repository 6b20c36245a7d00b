// Rows of bf16 as e4m3 with a scale each (weights/quantization.h).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "uniprefill/operators.h"

namespace up::cuda {

// out [rows, width] and scales [rows] of in; width a multiple of 16 up to 65,536, rows of `in` begin on 16 bytes. Errors are the
// caller's to ask for.
void launch_round_rows(const uint16_t *in, int64_t in_stride, int rows, int width, uint8_t *out, float *scales, cudaStream_t stream);

// The same of activation(gate) · up, rows [gate | up] of 2 · inner, which is rounded to bf16 first.
void launch_activate_and_round(up_activation activation, const uint16_t *in, int64_t in_stride, int rows, int inner, uint8_t *out,
                               float *scales, cudaStream_t stream);

}  // namespace up::cuda
