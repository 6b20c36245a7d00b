// What goes into the recurrence of Gated DeltaNet, and what comes of its outputs.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "gates.h"
#include "parallel.h"
#include "rms_norm.h"

namespace up::cpu {

// Rows of a group that a thread takes at once, and channels that pass them while their inputs stay in the L1 cache.
constexpr int delta_piece_rows = 32;
constexpr int conv_channels = 512;

template <class Simd>
struct DeltaInputs {
  using F = typename Simd::F;

  // Causal convolution of channels [begin, end) of one row, then SiLU. inputs[j]: the row that tap j sees; kernel 0: `taps_of` many.
  template <int kernel>
  static void convolve(const float *const *inputs, const float *taps, int width, int taps_of, int begin, int end, float *out) {
    const int count = kernel ? kernel : taps_of;
    int c = begin;
    for (; c + 16 <= end; c += 16) {
      F sum = Simd::mul(Simd::load(inputs[0] + c), Simd::load(taps + c));
      for (int j = 1; j < count; ++j)
        sum = Simd::fma(Simd::load(inputs[j] + c), Simd::load(taps + static_cast<ptrdiff_t>(j) * width + c), sum);
      Simd::store(out + c, Silu<Simd>::apply(sum));
    }
    if (c == end) return;
    const int n = end - c;
    F sum = Simd::mul(Simd::load_n(inputs[0] + c, n), Simd::load_n(taps + c, n));
    for (int j = 1; j < count; ++j)
      sum = Simd::fma(Simd::load_n(inputs[j] + c, n), Simd::load_n(taps + static_cast<ptrdiff_t>(j) * width + c, n), sum);
    Simd::store_n(out + c, Silu<Simd>::apply(sum), n);
  }

  // to = x · scale / |x|, zeros up to a whole vector.
  static void normalise(const float *x, int dim, float scale, bf16 *to) {
    F squares = Simd::set(0);
    for (int i = 0; i < dim; i += 16) {
      const F v = Simd::load_n(x + i, dim - i);
      squares = Simd::fma(v, v, squares);
    }
    const F factor = Simd::set(scale / std::sqrt(Simd::sum(squares) + 1e-6f));
    for (int i = 0; i < dim; i += 16) {
      const F v = Simd::keep_lanes(Simd::mul(Simd::load_n(x + i, dim - i), factor), 0, dim - i - 1, 0);
      Simd::store_bf16(to + i, v);
    }
  }

  // β of b, and the decay of a, both [value_heads].
  static void gates(const float *b, const float *a, const DeltaShape &shape, const DeltaWeights &weights, float *betas,
                    float *decays) {
    for (int h = 0; h < shape.value_heads; h += 16) {
      const int n = shape.value_heads - h;
      Simd::store_n(betas + h, sigmoid<Simd>(Simd::load_n(b + h, n)), n);
      const F step = softplus<Simd>(Simd::add(Simd::load_n(a + h, n), Simd::load_n(weights.dt_bias + h, n)));
      Simd::store_n(decays + h, exp<Simd>(Simd::mul(Simd::load_n(weights.decay + h, n), step)), n);
    }
  }

  // Rows [begin, end) of a group.
  static void piece(const float *projected, const DeltaGroup &group, int begin, int end, const DeltaShape &shape,
                    const DeltaWeights &weights, const DeltaRows &rows) {
    const int width = shape.conv_width(), kernel = shape.conv_kernel, history = kernel - 1;
    const ptrdiff_t stride = shape.projected_width();
    const float *first = projected + group.first * stride;
    for (int c = 0; c < width; c += conv_channels)
      for (int row = begin; row < end; ++row) {
        const float *inputs[max_conv_kernel];
        for (int j = 0; j < kernel; ++j) {
          const int at = row - history + j;
          inputs[j] = at < 0 ? group.conv + static_cast<ptrdiff_t>(history + at) * width : first + at * stride;
        }
        (kernel == 4 ? convolve<4> : convolve<0>)(inputs, weights.conv, width, kernel, c, std::min(width, c + conv_channels),
                                                  rows.mixed + static_cast<ptrdiff_t>(group.first + row) * width);
      }
    for (int row = begin; row < end; ++row) {
      const ptrdiff_t at = group.first + row;
      const float *q = rows.mixed + at * width, *k = q + shape.key_width();
      const int dim = shape.padded_key_dim();
      for (int h = 0; h < shape.key_heads; ++h, q += shape.key_dim, k += shape.key_dim) {
        bf16 *to = rows.directions + (static_cast<ptrdiff_t>(h) * rows.rows + at) * 2 * dim;
        normalise(k, shape.key_dim, 1, to);
        normalise(q, shape.key_dim, 1 / std::sqrt(static_cast<float>(shape.key_dim)), to + dim);
      }
      const float *b = projected + (at + 1) * stride - 2 * shape.value_heads;
      gates(b, b + shape.value_heads, shape, weights, rows.betas + at * shape.value_heads,
            rows.decays + at * shape.value_heads);
    }
  }

  // The last inputs become the state: what is left of the old one moves to the front.
  static void move_conv_state(const float *projected, const DeltaGroup &group, const DeltaShape &shape) {
    const int width = shape.conv_width(), history = shape.conv_kernel - 1;
    const int kept = std::max(0, history - group.rows);
    std::memmove(group.conv, group.conv + static_cast<ptrdiff_t>(history - kept) * width,
                 sizeof(float) * static_cast<size_t>(kept) * width);
    for (int i = kept; i < history; ++i)
      std::memcpy(group.conv + static_cast<ptrdiff_t>(i) * width,
                  projected + static_cast<ptrdiff_t>(group.first + group.rows - history + i) * shape.projected_width(),
                  sizeof(float) * width);
  }

  static void run(const float *projected, const DeltaGroup *groups, int count, const DeltaShape &shape,
                  const DeltaWeights &weights, const DeltaRows &rows) {
    struct Piece {
      const DeltaGroup *group;
      int begin, end;
    };
    std::vector<Piece> pieces;
    int64_t total = 0;
    for (const DeltaGroup *group = groups; group != groups + count; ++group) {
      total += group->rows;
      for (int row = 0; row < group->rows; row += delta_piece_rows)
        pieces.push_back({group, row, std::min(group->rows, row + delta_piece_rows)});
    }
#pragma omp parallel for schedule(static) if (total * shape.conv_width() >= parallel_elements)
    for (size_t i = 0; i < pieces.size(); ++i)
      piece(projected, *pieces[i].group, pieces[i].begin, pieces[i].end, shape, weights, rows);
    for (const DeltaGroup *group = groups; group != groups + count; ++group) move_conv_state(projected, *group, shape);
  }
};

template <class Simd>
void delta_outputs(const float *projected, int rows, const DeltaShape &shape, const DeltaWeights &weights,
                   const float *mixed, bf16 *out) {
  using F = typename Simd::F;
  const int dim = shape.value_dim, width = shape.value_width();
#pragma omp parallel for schedule(static) if (static_cast <int64_t>(rows) * width >= parallel_elements)
  for (int row = 0; row < rows; ++row) {
    const float *z = projected + static_cast<ptrdiff_t>(row) * shape.projected_width() + shape.conv_width();
    const float *o = mixed + static_cast<ptrdiff_t>(row) * shape.conv_width() + 2 * shape.key_width();
    bf16 *to = out + static_cast<ptrdiff_t>(row) * width;
    for (int h = 0; h < shape.value_heads; ++h, z += dim, o += dim, to += dim) {
      const F factor = rms_factor<Simd>(o, dim, shape.norm_eps);
      for (int i = 0; i < dim; i += 16) {
        const int n = dim - i;
        const F normed = Simd::mul(Simd::mul(Simd::load_n(o + i, n), factor), Simd::load_n(weights.norm + i, n));
        Simd::store_bf16_n(to + i, Simd::mul(normed, Silu<Simd>::apply(Simd::load_n(z + i, n))), n);
      }
    }
  }
}

}  // namespace up::cpu
