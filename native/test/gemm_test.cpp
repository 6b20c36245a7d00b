// gemm against double-precision sums, and its promises: rows, threads and slices change no bit.
#include "kernel_inputs.h"

namespace {

struct Case {
  int m, n, k, slices, lda, ldo;
  std::vector<bf16> a, weight;

  Case(Random &random, int m, int n, int k, int slices)
      : m(m),
        n(n),
        k(k),
        slices(slices),
        lda(k + random.one_of({0, 8, 24})),
        ldo(n + random.one_of({0, 1, 5})),
        a(random.bf16s(static_cast<size_t>(m) * lda)),
        weight(random.bf16s(static_cast<size_t>(n) * k)) {}

  std::vector<char> pack(const Kernels &table) const {
    std::vector<char> packed(table.packed_bytes(n, k), '\xff');
    table.pack(weight.data(), n, k, packed.data());
    return packed;
  }
};

std::vector<float> poisoned(size_t n) { return std::vector<float>(n, not_a_number); }

void check_values(const Kernels &table, const Case &c) {
  const std::vector<char> packed = c.pack(table);
  std::vector<float> out = poisoned(static_cast<size_t>(c.m) * c.ldo);
  table.gemm(c.a.data(), c.lda, c.m, packed.data(), c.n, c.k, c.slices, false, out.data(), c.ldo);
  for (int i = 0; i < c.m; ++i) {
    for (int j = 0; j < c.n; ++j) {
      double sum = 0, size = 0;
      for (int x = 0; x < c.k; ++x) {
        const double product = static_cast<double>(from_bf16(c.a[i * c.lda + x])) * from_bf16(c.weight[j * c.k + x]);
        sum += product;
        size += std::fabs(product);
      }
      const float got = out[i * c.ldo + j];
      // An f32 sum of k products errs by at most k · 2⁻²⁴ of their sizes, typically by √k · 2⁻²⁴.
      CHECK(std::fabs(got - sum) <= 2e-6 * size, "%s m %d n %d k %d slices %d: out[%d, %d] = %g, not %g", table.name,
            c.m, c.n, c.k, c.slices, i, j, got, sum);
    }
    for (int j = c.n; j < c.ldo; ++j)
      CHECK(std::isnan(out[i * c.ldo + j]), "%s n %d: wrote column %d", table.name, c.n, j);
  }
}

void check_accumulate(const Kernels &table, Random &random, const Case &c) {
  const std::vector<char> packed = c.pack(table);
  const std::vector<float> before = random.floats(static_cast<size_t>(c.m) * c.ldo);
  std::vector<float> product = poisoned(before.size()), sum = before;
  table.gemm(c.a.data(), c.lda, c.m, packed.data(), c.n, c.k, c.slices, false, product.data(), c.ldo);
  table.gemm(c.a.data(), c.lda, c.m, packed.data(), c.n, c.k, c.slices, true, sum.data(), c.ldo);
  for (int i = 0; i < c.m; ++i)
    for (int j = 0; j < c.ldo; ++j) {
      const int at = i * c.ldo + j;
      CHECK(sum[at] == (j < c.n ? before[at] + product[at] : before[at]), "%s m %d n %d k %d: [%d, %d]", table.name,
            c.m, c.n, c.k, i, j);
    }
}

// Any split of the rows into calls, with any number of threads, gives the same bits.
void check_row_invariance(const Kernels &table, Random &random, const Case &c) {
  const std::vector<char> packed = c.pack(table);
  std::vector<float> whole(static_cast<size_t>(c.m) * c.ldo, 0);
  table.gemm(c.a.data(), c.lda, c.m, packed.data(), c.n, c.k, c.slices, false, whole.data(), c.ldo);
  for (const int threads : {1, 2, 3}) {
    const Threads scope(threads);
    for (const bool single : {true, false}) {
      std::vector<float> parts(whole.size(), 0);
      for (int row = 0; row < c.m;) {
        const int rows = single ? 1 : std::min(c.m - row, random.integer(1, 20));
        table.gemm(c.a.data() + static_cast<size_t>(row) * c.lda, c.lda, rows, packed.data(), c.n, c.k, c.slices, false,
                   parts.data() + static_cast<size_t>(row) * c.ldo, c.ldo);
        row += rows;
      }
      CHECK(same_bits(whole.data(), parts.data(), whole.size()), "%s m %d n %d k %d slices %d threads %d single %d",
            table.name, c.m, c.n, c.k, c.slices, threads, single);
    }
  }
}

// Four slices are four products of a quarter of k each, added in order: what ranks of a tensor-parallel group do.
void check_slices(const Kernels &table, const Case &c) {
  const std::vector<char> packed = c.pack(table);
  std::vector<float> whole(static_cast<size_t>(c.m) * c.n), sum(whole.size()), part(whole.size());
  table.gemm(c.a.data(), c.lda, c.m, packed.data(), c.n, c.k, 4, false, whole.data(), c.n);
  const int quarter = c.k / 4;
  for (int s = 0; s < 4; ++s) {
    std::vector<bf16> columns;
    for (int j = 0; j < c.n; ++j)
      columns.insert(columns.end(), &c.weight[j * c.k + s * quarter], &c.weight[j * c.k + s * quarter] + quarter);
    std::vector<char> slice(table.packed_bytes(c.n, quarter));
    table.pack(columns.data(), c.n, quarter, slice.data());
    table.gemm(c.a.data() + s * quarter, c.lda, c.m, slice.data(), c.n, quarter, 1, false, part.data(), c.n);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] = s == 0 ? part[i] : sum[i] + part[i];
  }
  CHECK(same_bits(whole.data(), sum.data(), sum.size()), "%s m %d n %d k %d", table.name, c.m, c.n, c.k);
}

}  // namespace

int main() {
  for (const Kernels *table : kernel_tables()) {
    Random random(7);
    for (const int m : {1, 2, 5, 6, 7, 12, 13, 95, 96, 97})
      for (const int n : {1, 15, 16, 17, 63, 64, 65, 100}) {
        const Case c(random, m, n, 8 * random.integer(1, 12), random.one_of({1, 4}));
        check_values(*table, c);
        check_accumulate(*table, random, c);
      }
    // Large enough for a parallel region and several chunks of rows.
    check_values(*table, Case(random, 210, 333, 320, 4));
    check_values(*table, Case(random, 33, 130, 2048, 1));
    for (int i = 0; i < 6; ++i) {
      const Case c(random, random.integer(1, 230), random.integer(1, 300), 32 * random.integer(1, 12),
                   random.one_of({1, 4}));
      check_row_invariance(*table, random, c);
      check_accumulate(*table, random, c);
      check_slices(*table, c);
    }
    check_slices(*table, Case(random, 3, 20, 8, 4));
  }
  return check_result();
}
