// Matrices that a published checkpoint has in e4m3, as the values that they stand for.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "weights/safetensors.h"

namespace up {

// The name of the scales of matrix `name` among `tensors`: name + "_scale" or name + "_scale_inv", whichever is there; empty where neither
// is. Values are multiplied with both.
std::string scales_of(const std::string &name, const std::unordered_map<std::string, Tensor> &tensors);

// bf16 of `matrix` [n, k], in e4m3, times its scales (F32 or BF16): one of all, one a row, or one for each block of 128 × 128. Fails with UP_CORRUPT_FILE
// where they have another shape, with UP_UNSUPPORTED_DTYPE.
std::vector<uint16_t> widen_eight_bits(const Tensor &matrix, const Tensor &scales);

}  // namespace up
