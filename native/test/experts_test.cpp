// Mixtures of experts: routing, products in parts and the sum over experts, against double loops and row by row.
#include "kernel_inputs.h"

namespace {

void check_route(const Kernels &table, Random &random, int rows, int experts, int top_k, bool renormalise) {
  std::vector<float> logits = random.floats(static_cast<size_t>(rows) * experts, 3);
  for (float &logit : logits)  // many equals
    if (random.integer(0, 2) == 0) logit = std::round(logit);
  std::vector<int32_t> chosen(static_cast<size_t>(rows) * top_k + 1, -7), alone(top_k);
  std::vector<float> weights(chosen.size(), not_a_number), alone_weights(top_k);
  table.route(logits.data(), rows, experts, top_k, renormalise, chosen.data(), weights.data());
  for (int r = 0; r < rows; ++r) {
    const float *of_row = &logits[static_cast<size_t>(r) * experts];
    std::vector<int> order(experts);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return of_row[a] > of_row[b]; });
    double total = 0;
    for (int i = 0; i < (renormalise ? top_k : experts); ++i) total += std::exp(static_cast<double>(of_row[order[i]]));
    for (int i = 0; i < top_k; ++i) {
      const double expected = std::exp(static_cast<double>(of_row[order[i]])) / total;
      CHECK(chosen[r * top_k + i] == order[i], "%s route %d of %d, row %d rank %d: %d, not %d", table.name, top_k, experts, r, i,
            chosen[r * top_k + i], order[i]);
      CHECK(std::fabs(weights[r * top_k + i] - expected) <= 2e-6 * expected, "%s route row %d rank %d: %g, not %g", table.name, r, i,
            weights[r * top_k + i], expected);
    }
    table.route(of_row, 1, experts, top_k, renormalise, alone.data(), alone_weights.data());
    CHECK(same_bits(alone_weights.data(), &weights[r * top_k], top_k), "%s route %d of %d, row %d alone", table.name, top_k, experts, r);
  }
  CHECK(chosen.back() == -7 && std::isnan(weights.back()), "%s route wrote beyond its rows", table.name);
}

// Whatever the logits are, experts are real ones and differ, and other rows do not notice.
void check_route_not_finite(const Kernels &table, Random &random) {
  constexpr int experts = 20, top_k = 4;
  std::vector<float> logits = random.floats(3 * experts);
  std::vector<int32_t> before(3 * top_k), after(3 * top_k);
  std::vector<float> weights(3 * top_k), spoilt(3 * top_k);
  table.route(logits.data(), 3, experts, top_k, true, before.data(), weights.data());
  for (const float bad : {not_a_number, HUGE_VALF, -HUGE_VALF}) {
    for (const int count : {1, experts - 2, experts}) {
      std::vector<float> x = logits;
      std::fill_n(x.begin() + experts, count, bad);
      table.route(x.data(), 3, experts, top_k, true, after.data(), spoilt.data());
      std::vector<int32_t> sorted(after.begin() + top_k, after.begin() + 2 * top_k);
      std::sort(sorted.begin(), sorted.end());
      CHECK(sorted[0] >= 0 && sorted[3] < experts && std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end(),
            "%s: %d logits of %g: experts %d %d %d %d", table.name, count, bad, sorted[0], sorted[1], sorted[2], sorted[3]);
      CHECK(same_bits(spoilt.data(), weights.data(), top_k) && same_bits(&spoilt[2 * top_k], &weights[2 * top_k], top_k),
            "%s: %d logits of %g reached other rows", table.name, count, bad);
    }
  }
}

// Each part as gemm computes it, on any number of threads.
void check_parts(const Kernels &table, Random &random, int n, int k, int slices) {
  struct Part {
    std::vector<bf16> a, weight;
    std::vector<char> packed;
    std::vector<float> out, expected;
  };
  std::vector<Part> parts;
  for (const int m : {1, 130, 0, 7, 96, 97, random.integer(1, 40)}) {
    Part part{random.bf16s(static_cast<size_t>(m) * k), random.bf16s(static_cast<size_t>(n) * k), {}, {}, {}};
    part.packed.resize(table.packed_bytes(n, k));
    table.pack(part.weight.data(), n, k, part.packed.data());
    part.expected.resize(static_cast<size_t>(m) * n);
    table.gemm(part.a.data(), k, m, part.packed.data(), n, k, slices, false, part.expected.data(), n);
    part.out.assign(part.expected.size() + 1, not_a_number);
    parts.push_back(std::move(part));
  }
  for (const int threads : {1, 2, 3}) {
    const Threads scope(threads);
    std::vector<GemmPart> list;
    for (Part &part : parts)
      list.push_back({part.a.data(), static_cast<int>(part.expected.size()) / n, part.packed.data(), part.out.data()});
    table.gemm_parts(list.data(), static_cast<int>(list.size()), n, k, slices);
    for (const Part &part : parts)
      CHECK(same_bits(part.out.data(), part.expected.data(), part.expected.size()) && std::isnan(part.out.back()),
            "%s gemm_parts m %zu n %d k %d slices %d, %d threads", table.name, part.expected.size() / n, n, k, slices, threads);
  }
}

void check_combine(const Kernels &table, Random &random, int rows, int width, int top_k, bool has_shared, bool accumulate) {
  const std::vector<float> parts = random.floats(static_cast<size_t>(rows) * top_k * width),
                           shared = random.floats(static_cast<size_t>(rows) * width), gates = random.floats(rows, 3);
  const std::vector<float> weights = random.floats(static_cast<size_t>(rows) * top_k);
  std::vector<int32_t> places(static_cast<size_t>(rows) * top_k);
  std::iota(places.begin(), places.end(), 0);
  std::shuffle(places.begin(), places.end(), random.engine);
  const std::vector<float> before = random.floats(static_cast<size_t>(rows) * width + 16);
  std::vector<float> out = before, alone = before;
  const auto run = [&](int first, int count, std::vector<float> &to) {
    table.combine(parts.data(), &places[first * top_k], &weights[first * top_k], top_k, has_shared ? &shared[first * width] : nullptr,
                  &gates[first], count, width, accumulate, &to[static_cast<size_t>(first) * width]);
  };
  run(0, rows, out);
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < width; ++i) {
      double expected = accumulate ? before[r * width + i] : 0, size = std::fabs(expected);
      for (int rank = 0; rank < top_k; ++rank) {
        const double part = static_cast<double>(weights[r * top_k + rank]) * parts[static_cast<size_t>(places[r * top_k + rank]) * width + i];
        expected += part;
        size += std::fabs(part);
      }
      if (has_shared) {
        const double part = shared[r * width + i] / (1 + std::exp(-static_cast<double>(gates[r])));
        expected += part;
        size += std::fabs(part);
      }
      CHECK(std::fabs(out[r * width + i] - expected) <= 1e-6 * size, "%s combine top %d width %d [%d, %d]: %g, not %g", table.name,
            top_k, width, r, i, out[r * width + i], expected);
    }
    run(r, 1, alone);
  }
  CHECK(same_bits(out.data(), alone.data(), out.size()), "%s combine top %d width %d", table.name, top_k, width);
}

}  // namespace

int main() {
  for (const Kernels *table : kernel_tables()) {
    Random random(29);
    for (const int experts : {1, 5, 16, 33, 256})
      for (const bool renormalise : {false, true})
        check_route(*table, random, random.integer(1, 40), experts, random.integer(1, std::min(experts, 10)), renormalise);
    check_route(*table, random, 300, 256, 8, false);
    check_route_not_finite(*table, random);
    for (const int slices : {1, 4}) {
      check_parts(*table, random, 70, 8 * random.integer(1, 12), slices);
      check_parts(*table, random, 200, 256, slices);
    }
    for (const bool accumulate : {false, true})
      for (const bool shared : {false, true}) {
        check_combine(*table, random, random.integer(1, 30), random.one_of({8, 17, 64}), random.integer(1, 9), shared, accumulate);
        check_combine(*table, random, 60, 600, 3, shared, accumulate);
      }
  }
  return check_result();
}
