// The launch of few_rows.cu.
#pragma once

#include "cuda/common/launch.h"

namespace up::cuda {

struct FewRowsArguments {
  void *out;
  int64_t out_stride;
  const void *bias;  // nullptr: none
  int rows, n;
  int blocks;  // of 128 bytes of K
  int splits;  // of K: 1, 2, 4 or 8
  bool accumulate;
  const float *weight_scales, *in_scales;  // of eight-bit operands, [n] and [rows]; null of bf16
};

struct FewRowsTensors {
  const void *weights;
  const void *in;
  int64_t in_stride;  // in pairs of bytes
};

up_status launch_few_rows(const FewRowsArguments &a, const FewRowsTensors &t, bool f32, cudaStream_t stream, up_backend_error *error);

}  // namespace up::cuda
