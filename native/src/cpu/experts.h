// Mixture of experts: which experts a row goes to, and the sum of what they answer.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "gates.h"
#include "parallel.h"

namespace up::cpu {

template <class Simd>
struct Route {
  using F = typename Simd::F;

  // Σ e^(logit − top) over all experts.
  static float sum_of_powers(const float *logits, int experts, float top) {
    F sum = Simd::set(0);
    for (int e = 0; e < experts; e += 16) {
      const F power = exp<Simd>(Simd::sub(Simd::load_n(logits + e, experts - e), Simd::set(top)));
      sum = Simd::add(sum, Simd::keep_lanes(power, 0, experts - e - 1, 0));
    }
    return Simd::sum(sum);
  }

  // The greatest of `logits` in order, the first of equals first. A NaN is less than everything.
  static void choose(const float *logits, int experts, int top_k, int32_t *chosen) {
    const auto greater = [logits](int a, int b) {
      return logits[a] > logits[b] || (logits[a] == logits[a] && logits[b] != logits[b]);
    };
    int count = 0;
    for (int e = 0; e < experts; ++e) {
      if (count == top_k && !greater(e, chosen[count - 1])) continue;
      int at = count < top_k ? count++ : count - 1;
      for (; at > 0 && greater(e, chosen[at - 1]); --at) chosen[at] = chosen[at - 1];
      chosen[at] = e;
    }
  }

  static void run(const float *logits, int rows, int experts, int top_k, bool renormalise, int32_t *chosen,
                  float *weights) {
#pragma omp parallel for schedule(static) if (static_cast <int64_t>(rows) * experts >= parallel_elements)
    for (int row = 0; row < rows; ++row) {
      const float *from = logits + static_cast<ptrdiff_t>(row) * experts;
      int32_t *experts_of_row = chosen + static_cast<ptrdiff_t>(row) * top_k;
      float *to = weights + static_cast<ptrdiff_t>(row) * top_k;
      choose(from, experts, top_k, experts_of_row);
      const float top = from[experts_of_row[0]];
      float sum = 0;
      for (int i = 0; i < top_k; ++i) {
        alignas(64) float lanes[16];
        Simd::store(lanes, exp<Simd>(Simd::set(from[experts_of_row[i]] - top)));
        to[i] = lanes[0];
        sum += to[i];
      }
      if (!renormalise) sum = sum_of_powers(from, experts, top);
      for (int i = 0; i < top_k; ++i) to[i] /= sum;
    }
  }
};

template <class Simd>
void combine(const float *parts, const int32_t *places, const float *weights, int top_k, const float *shared,
             const float *shared_gates, int rows, int width, bool accumulate, float *out) {
  using F = typename Simd::F;
#pragma omp parallel for schedule(static) if (static_cast <int64_t>(rows) * width * top_k >= parallel_elements)
  for (int row = 0; row < rows; ++row) {
    const int32_t *place = places + static_cast<ptrdiff_t>(row) * top_k;
    const float *weight = weights + static_cast<ptrdiff_t>(row) * top_k;
    float *to = out + static_cast<ptrdiff_t>(row) * width;
    F shared_weight = Simd::set(0);
    if (shared) shared_weight = sigmoid<Simd>(Simd::set(shared_gates[row]));
    for (int i = 0; i < width; i += 16) {
      const int n = width - i;
      F sum = Simd::set(0);
      for (int rank = 0; rank < top_k; ++rank) {
        const F part = Simd::load_n(parts + static_cast<ptrdiff_t>(place[rank]) * width + i, n);
        sum = Simd::fma(Simd::set(weight[rank]), part, sum);
      }
      if (shared) sum = Simd::fma(shared_weight, Simd::load_n(shared + static_cast<ptrdiff_t>(row) * width + i, n), sum);
      Simd::store_n(to + i, accumulate ? Simd::add(Simd::load_n(to + i, n), sum) : sum, n);
    }
  }
}

}  // namespace up::cpu
