// Matrix products of few rows (up to 64), as decode steps have them: bound by reading the weights once.
//
// cuBLASLt's kernels read them at 1.6 to 2.5 TB/s where a copy on the same chip makes 3.0; and without a split of K it has nothing
// good for tall weights. Here K is split over a cluster of blocks, whose sums meet in shared memory in a fixed order; and what does
// not depend on the kernel before, the weights, is on its way before that one has ended.
#pragma once

#include "cuda/linear/matmul.h"

namespace up::cuda {

constexpr int most_few_rows = 64;

// Whether the kernel takes this product: K a multiple of 64, or of 128 of eight-bit values, rows that begin on 16 bytes.
bool takes_few_rows(const Product &product);

void multiply_few_rows(Device &device, const Product &product);

}  // namespace up::cuda
