// Mixture of experts of the CPU backend: rows are put in the order of their experts, so that each expert's weights are
// read once a tile.
#include <algorithm>
#include <cstring>

#include "cpu/cpu_layers.h"
#include "cpu/parallel.h"

namespace up::cpu {

// Chooses the experts of a tile's rows and gives every (row, rank) its place, expert after expert, row after row.
void CpuBackend::route_rows(int rows, int layer) {
  const MlpSpec &mlp = spec(layer).mlp;
  const int pairs = rows * mlp.top_k;
  apply(weights(layer)[MatrixKind::router], normed_.get(), rows, false, experts_.router.get(), mlp.experts);
  kernels_.route(experts_.router.get(), rows, mlp.experts, mlp.top_k, mlp.renormalise, experts_.chosen.get(),
                 experts_.weights.get());
  const int32_t *chosen = experts_.chosen.get();
  int32_t *places = experts_.places.get();
  std::vector<int> next(static_cast<size_t>(mlp.experts) + 1);
  for (int i = 0; i < pairs; i++) next[static_cast<size_t>(chosen[i]) + 1]++;
  experts_.ranges.clear();
  for (int expert = 0, begin = 0; expert < mlp.experts; expert++) {
    const int end = begin + next[static_cast<size_t>(expert) + 1];
    next[static_cast<size_t>(expert) + 1] = end;
    if (begin < end) experts_.ranges.push_back({expert, begin, end});
    begin = end;
  }
  for (int i = 0; i < pairs; i++) places[i] = next[static_cast<size_t>(chosen[i])]++;
  const int hidden = model_.hidden_size;
#pragma omp parallel for schedule(static) if (int64_t{pairs} * hidden >= parallel_elements)
  for (int i = 0; i < pairs; i++) {
    std::memcpy(experts_.rows.get() + area(places[i], hidden), normed_.get() + area(i / mlp.top_k, hidden),
                sizeof(bf16) * static_cast<size_t>(hidden));
  }
}

void CpuBackend::experts(Rows tile, int layer) {
  const MlpSpec &mlp = spec(layer).mlp;
  const LayerWeights &w = weights(layer);
  const int hidden = model_.hidden_size;
  route_rows(tile.count, layer);
  std::vector<GemmPart> up, down;
  for (const auto &[expert, begin, end] : experts_.ranges) {
    up.push_back({experts_.rows.get() + area(begin, hidden), end - begin, w.expert_gate_up[static_cast<size_t>(expert)].packed.get(),
                  experts_.gated.get() + area(begin, 2 * mlp.inner)});
    down.push_back({experts_.inner.get() + area(begin, mlp.inner), end - begin,
                    w.expert_down[static_cast<size_t>(expert)].packed.get(), experts_.out.get() + area(begin, hidden)});
  }
  const int parts = static_cast<int>(up.size());
  const Linear &first_up = w.expert_gate_up.front(), &first_down = w.expert_down.front();
  kernels_.gemm_parts(up.data(), parts, first_up.n, first_up.k, first_up.slices);
  activate_rows(tile.count * mlp.top_k, mlp, mlp.inner, experts_.gated.get(), experts_.inner.get());
  if (!options_.ranks) {
    kernels_.gemm_parts(down.data(), parts, first_down.n, first_down.k, first_down.slices);
  } else {
    const int pairs = tile.count * mlp.top_k, k = first_down.k / first_down.slices;
    const auto product = [&](int slice, float *to) {
      // Each slice's columns by themselves, which is how gemm_parts takes them.
      bf16 *const columns = experts_.slice.get();
      for (int i = 0; i < pairs; i++) std::copy_n(experts_.inner.get() + area(i, mlp.inner) + slice * k, k, columns + area(i, k));
      for (size_t p = 0; p < down.size(); p++) {
        const auto &[expert, begin, end] = experts_.ranges[p];
        down[p] = {columns + area(begin, k), end - begin, w.expert_down[static_cast<size_t>(expert)].slice(slice), to + area(begin, hidden)};
      }
      kernels_.gemm_parts(down.data(), parts, first_down.n, k, 1);
    };
    sum_over_ranks(first_down.slices, product, area(pairs, hidden), false, experts_.out.get());
  }
  if (mlp.shared_inner > 0) {
    const Linear &gate_up = w[MatrixKind::shared_gate_up];
    apply(gate_up, normed_.get(), tile.count, false, experts_.gated.get(), gate_up.n);
    activate_rows(tile.count, mlp, mlp.shared_inner, experts_.gated.get(), experts_.inner.get());
    apply(w[MatrixKind::shared_down], experts_.inner.get(), tile.count, false, experts_.shared.get(), hidden);
    apply(w[MatrixKind::shared_gate], normed_.get(), tile.count, false, experts_.shared_gates.get(), 1);
  }
  kernels_.combine(experts_.out.get(), experts_.places.get(), experts_.weights.get(), mlp.top_k,
                   mlp.shared_inner > 0 ? experts_.shared.get() : nullptr, experts_.shared_gates.get(), tile.count, hidden, !spec(layer).post_norms, sum_target(tile, layer));
}

}  // namespace up::cpu
