// The first half of a gated MLP in one kernel: out = activation(in · Gᵀ) · (in · Uᵀ) of bf16 rows, where [G | U] are the rows of one matrix.
//
// A library's product writes gate and up, and an activation reads them again: at 8,192 rows of 14,336 columns that is 0.7 GB and
// 0.26 of 2.8 ms. Gate and up are rounded to bf16 here as well, and summed in the order in which the library sums, so that
// a row comes to the same bits either way; LayerOperations::tune uses it only where that is so.
#pragma once

#include "cuda/common/launch.h"

namespace up::cuda {

struct GatedProduct {
  const void *in;  // [rows, k], bf16
  int64_t in_stride;
  const void *weights;  // [2 · inner, k], bf16: gate before up
  void *out;            // [rows, inner], bf16
  int64_t out_stride;
  int rows, inner, k;
  up_activation activation;
  int most_multiprocessors = 0;  // 0: all
};

// Whether the kernel takes these: K a multiple of 64, inner of 8, rows that begin on 16 bytes.
bool takes_gated_product(const GatedProduct &p);

up_status multiply_gated(const GatedProduct *product, void *stream, up_backend_error *error);

}  // namespace up::cuda
