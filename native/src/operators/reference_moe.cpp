// Mixture of experts in double precision.
#include <numeric>

#include "operators/reference_operators.h"

namespace up::reference {

up_status route(const up_moe_router *p, void *, up_backend_error *) {
  for (int row = 0; row < p->rows; row++) {
    std::vector<double> x(static_cast<size_t>(p->experts));
    bool finite = true;
    for (int e = 0; e < p->experts; e++) {
      x[static_cast<size_t>(e)] = element(p->logits, p->dtype, row * p->logits_stride + e);
      finite = finite && std::isfinite(x[static_cast<size_t>(e)]);
    }
    std::vector<int> order(x.size());
    std::iota(order.begin(), order.end(), 0);
    if (finite)
      std::stable_sort(order.begin(), order.end(),
                       [&](int a, int b) { return x[static_cast<size_t>(a)] > x[static_cast<size_t>(b)]; });
    const double most = x[static_cast<size_t>(order[0])];
    double total = 0, kept = 0;
    for (const double each : x) total += std::exp(each - most);
    for (int k = 0; k < p->top_k; k++) kept += std::exp(x[static_cast<size_t>(order[static_cast<size_t>(k)])] - most);
    for (int k = 0; k < p->top_k; k++) {
      const int expert = order[static_cast<size_t>(k)];
      const double weight = std::exp(x[static_cast<size_t>(expert)] - most) / (p->renormalise ? kept : total);
      p->chosen[int64_t{row} * p->top_k + k] = expert;
      p->weights[int64_t{row} * p->top_k + k] = finite ? static_cast<float>(weight) : NAN;
    }
  }
  return UP_OK;
}

up_status run_experts(const up_moe *p, void *, size_t, void *, up_backend_error *) {
  const auto product = [&](const void *matrix, int64_t row, const std::vector<double> &x) {
    double sum = 0;
    const int64_t first = row * static_cast<int64_t>(x.size());
    for (size_t i = 0; i < x.size(); i++) sum += element(matrix, p->dtype, first + static_cast<int64_t>(i)) * x[i];
    return sum;
  };
  std::vector<double> x(static_cast<size_t>(p->hidden)), inner(static_cast<size_t>(p->inner)), y(x.size());
  for (int row = 0; row < p->rows; row++) {
    for (int i = 0; i < p->hidden; i++) x[static_cast<size_t>(i)] = element(p->input, p->dtype, row * p->input_stride + i);
    std::fill(y.begin(), y.end(), 0.0);
    for (int k = 0; k < p->top_k; k++) {
      const int64_t expert = p->chosen[int64_t{row} * p->top_k + k];
      if (expert < 0 || expert >= p->experts) continue;
      for (int64_t i = 0; i < p->inner; i++)
        inner[static_cast<size_t>(i)] = activated(p->activation, product(p->gate_up, expert * 2 * p->inner + i, x)) *
                                        product(p->gate_up, expert * 2 * p->inner + p->inner + i, x);
      const double weight = p->weights[int64_t{row} * p->top_k + k];
      for (int i = 0; i < p->hidden; i++) y[static_cast<size_t>(i)] += weight * product(p->down, expert * p->hidden + i, inner);
    }
    if (p->shared != nullptr) {
      const double gate = p->shared_gate == nullptr ? 1 : sigmoid(element(p->shared_gate, p->dtype, row * p->shared_gate_stride));
      for (int i = 0; i < p->hidden; i++)
        y[static_cast<size_t>(i)] += gate * element(p->shared, p->dtype, row * p->shared_stride + i);
    }
    for (int i = 0; i < p->hidden; i++) store_element(p->output, p->dtype, row * p->output_stride + i, y[static_cast<size_t>(i)]);
  }
  return UP_OK;
}

}  // namespace up::reference
