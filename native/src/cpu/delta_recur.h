// The recurrence of Gated DeltaNet, row after row:
//
//   S ← S · decay;  S += k ⊗ β (v − Sᵀk);  o = Sᵀq
//
// A task takes a strip of a value head's columns, which no other column touches, through all rows of a group: 64 columns
// of 128 keys are 32 KB and stay in the L1 cache. One pass over the strip ends a row (S += k ⊗ δ, o = Sᵀq) and begins the
// next (Sᵀ of its k), so each element is read and written once a row. The state is kept divided by the product of the
// decays since it was settled (see DeltaGroup): three FMAs an element, and a fourth operation only in the rows where that product
// would fall below 2⁻⁴⁰.
//
// A state lies strip by strip, [key_dim][columns of the strip], the last strip's columns rounded up to 16.
#pragma once

#include <omp.h>

#include <algorithm>
#include <vector>

#include "dot_tile.h"
#include "parallel.h"

namespace up::cpu {

constexpr float least_scale = 0x1p-40f;

template <class Simd>
struct DeltaRecurrence {
  using F = typename Simd::F;
  static constexpr int strip_columns = 16 * Simd::state_vectors;

  struct Task {
    const DeltaGroup *group;
    int head;
    int column;
  };

  // One pass: S += k ⊗ δ (of S · factor where the state is settled), o += Sᵀq, m += Sᵀ of the next row's k.
  template <int W, bool settle>
  [[gnu::always_inline]] static inline void pass(float *state, int key_dim, const float *k, const float *q,
                                                 const float *next, F factor, const F (&delta)[W], F (&o)[W], F (&m)[W]) {
    for (int i = 0; i < key_dim; ++i, state += 16 * W) {
      const F ki = Simd::set(k[i]), qi = Simd::set(q[i]), ni = Simd::set(next[i]);
#pragma GCC unroll 8
      for (int w = 0; w < W; ++w) {
        F s = Simd::load(state + w * 16);
        if constexpr (settle) s = Simd::mul(s, factor);
        s = Simd::fma(ki, delta[w], s);
        Simd::store(state + w * 16, s);
        o[w] = Simd::fma(qi, s, o[w]);
        m[w] = Simd::fma(ni, s, m[w]);
      }
    }
  }

  template <int W>
  static void strip(const Task &task, const DeltaShape &shape, const DeltaRows &rows) {
    const DeltaGroup &group = *task.group;
    const int key_dim = shape.key_dim, columns = shape.value_dim - task.column;
    const ptrdiff_t width = shape.conv_width();
    const int key_head = task.head / (shape.value_heads / shape.key_heads);
    float *state = group.state + task.head * shape.head_state() + static_cast<ptrdiff_t>(key_dim) * task.column;
    const float *q = rows.mixed + group.first * width + key_head * key_dim, *k = q + shape.key_width();
    float *v = rows.mixed + group.first * width + 2 * shape.key_width() + task.head * shape.value_dim + task.column;
    const ptrdiff_t gate = static_cast<ptrdiff_t>(group.first) * shape.value_heads + task.head;
    const float *beta = rows.betas + gate, *scale = rows.decays + gate;

    F m[W];
#pragma GCC unroll 8
    for (int w = 0; w < W; ++w) m[w] = Simd::set(0);
    for (int i = 0; i < key_dim; ++i) {
      const F ki = Simd::set(k[i]);
#pragma GCC unroll 8
      for (int w = 0; w < W; ++w) m[w] = Simd::fma(ki, Simd::load(state + static_cast<ptrdiff_t>(i) * 16 * W + w * 16), m[w]);
    }
    for (int row = 0; row < group.rows; ++row, q += width, k += width, v += width, beta += shape.value_heads, scale += shape.value_heads) {
      const bool settle = *scale < least_scale;
      const F before = Simd::set(*scale), after = settle ? Simd::set(1) : before;
      const F share = Simd::div(Simd::set(*beta), after);
      F delta[W], o[W];
#pragma GCC unroll 8
      for (int w = 0; w < W; ++w) {
        const F rest = Simd::sub(Simd::load_n(v + w * 16, columns - w * 16), Simd::mul(before, m[w]));
        delta[w] = Simd::mul(share, rest);
        o[w] = m[w] = Simd::set(0);
      }
      const float *next = row + 1 < group.rows ? k + width : k;
      if (settle)
        pass<W, true>(state, key_dim, k, q, next, before, delta, o, m);
      else
        pass<W, false>(state, key_dim, k, q, next, before, delta, o, m);
#pragma GCC unroll 8
      for (int w = 0; w < W; ++w) Simd::store_n(v + w * 16, Simd::mul(after, o[w]), columns - w * 16);
    }
  }

  template <int W>
  static void strip_of_vectors(int vectors, const Task &task, const DeltaShape &shape, const DeltaRows &rows) {
    if constexpr (W > 1)
      if (vectors < W) return strip_of_vectors<W - 1>(vectors, task, shape, rows);
    strip<W>(task, shape, rows);
  }

  // Turns each row's decay into the product that the state of the row before has to be multiplied with.
  static void accumulate_scales(const DeltaGroup &group, int value_heads, float *decays) {
    for (int h = 0; h < value_heads; ++h) {
      double scale = group.scales[h];
      for (int row = group.first; row < group.first + group.rows; ++row) {
        float &decay = decays[static_cast<ptrdiff_t>(row) * value_heads + h];
        scale *= static_cast<double>(decay);
        decay = static_cast<float>(scale);
        if (decay < least_scale) scale = 1;
      }
      group.scales[h] = scale;
    }
  }

  static void run(const DeltaGroup *groups, int count, const DeltaShape &shape, const DeltaRows &rows) {
    std::vector<Task> tasks;
    int64_t multiplications = 0;
    for (const DeltaGroup *group = groups + count; group-- != groups;) {  // chunks of prompts come last, and take longest
      if (group->rows == 0) continue;
      accumulate_scales(*group, shape.value_heads, rows.decays);
      multiplications += group->rows * shape.value_heads * shape.head_state() * 3;
      for (int head = 0; head < shape.value_heads; ++head)
        for (int column = 0; column < shape.value_dim; column += strip_columns) tasks.push_back({group, head, column});
    }
    const int total = static_cast<int>(tasks.size());
#pragma omp parallel for schedule(dynamic) if (total > 1 && multiplications >= parallel_multiplications)
    for (int t = 0; t < total; ++t)
      strip_of_vectors<Simd::state_vectors>(std::min(strip_columns, shape.value_dim - tasks[t].column + 15) / 16,
                                            tasks[t], shape, rows);
  }
};

}  // namespace up::cpu
