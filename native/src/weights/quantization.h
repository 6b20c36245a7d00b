// Eight-bit floats (e4m3: 4 bits of exponent, 3 of mantissa, at most 448) for the matrix products of layers.
//
// Weights have a scale for every output, made when they are loaded, activations one for every row. Scales are powers of two: they
// lose nothing, so that a backend without such products computes the same with rounded values in bf16, which hold them exactly.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "weights/matrices.h"

namespace up {

constexpr float fp8_largest = 448;

// Whether a matrix [n, k] of this kind is multiplied in e4m3. Not the embedding and lm_head, routers and gates of experts, which decide
// more than they cost; nor a matrix whose sides are no multiples of 16.
bool is_fp8(Quantization quantization, MatrixKind kind, int n, int k);

// The least power of two by which values of at most this size are divided to fit; NaN where they are not finite, 1 of zeros.
float fp8_scale(float largest);

// Every value as e4m3 with the row's scale has it, ties to even.
void round_to_fp8(std::span<uint16_t> bf16_row);
void round_to_fp8(std::span<double> row);

// Row-major copy of a matrix with its rows rounded.
inline std::vector<uint16_t> gather_fp8(const MatrixRows &rows) {
  std::vector<uint16_t> out = rows.gather();
  const auto k = static_cast<size_t>(rows.k);
#pragma omp parallel for schedule(static)
  for (int row = 0; row < rows.n; row++) round_to_fp8(std::span(out).subspan(static_cast<size_t>(row) * k, k));
  return out;
}

}  // namespace up
