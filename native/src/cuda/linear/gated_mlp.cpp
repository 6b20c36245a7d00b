#include "cuda/linear/gated_mlp.h"

#include <vector>

#include "cuda/backend/parameters.h"
#include "cuda/common/operators.h"
#include "cuda/linear/gated_product.h"

namespace up::cuda {
namespace {

GatedProduct product_of(const GatedMlp &p, const Matmul &matmul) {
  const Matrix &w = *p.weights;
  return {p.in, w.k, w.data, p.out, w.n, p.rows, w.n / 2, w.k, p.activation, matmul.most_multiprocessors()};
}

}  // namespace

void GatedMlps::choose(std::span<const GatedMlp> examples) {
  constexpr const char *phase = "compare gated products";
  is_chosen_ = false;
  differing_.clear();
  for (const GatedMlp &p : examples) {
    if (p.weights->scales != nullptr || p.weights->bias != nullptr || !takes_gated_product(product_of(p, matmul_))) return;
    std::vector<uint16_t> rows[2];
    for (auto &each : rows) {
      each.resize(static_cast<size_t>(p.weights->n / 2));
      if (&each == rows)
        by_library(p);
      else
        in_one_kernel(p);
      device_.copy_out(each.data(), p.out, each.size() * sizeof each[0], phase);
      device_.wait(phase);
    }
    if (rows[0] != rows[1]) differing_ = text('[', p.weights->n, ", ", p.weights->k, ']');
    if (!differing_.empty()) return;
  }
  is_chosen_ = !examples.empty();
}

void GatedMlps::run(const GatedMlp &p) {
  const bool is_kernel = is_chosen_ && p.rows >= least_rows && p.weights->scales == nullptr;
  if (!is_kernel) return by_library(p);
  kernels_++;
  in_one_kernel(p);
}

void GatedMlps::in_one_kernel(const GatedMlp &p) {
  const GatedProduct whole = product_of(p, matmul_);
  device_.run(multiply_gated, &whole);
}

void GatedMlps::by_library(const GatedMlp &p) {
  const Matrix &w = *p.weights;
  matmul_.run({&w, p.in, w.k, p.rows, p.out, w.n});
  auto activation = parameters<up_gated_activation>();
  activation.activation = p.activation;
  activation.rows = p.rows;
  activation.inner = w.n / 2;
  activation.input = activation.output = p.out;  // over the gate
  activation.input_stride = activation.output_stride = w.n;
  device_.run(cuda::activate, &activation);
}

}  // namespace up::cuda
