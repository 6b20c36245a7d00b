// attend against double-precision softmax, and its promise: a query row's output depends on nothing but that row and
// the keys it sees.
#include "kernel_inputs.h"

namespace {

struct Case {
  AttentionShape shape;
  Cache cache;
  int q_rows;
  std::vector<bf16> queries;    // [q_rows, heads, head_dim]
  std::vector<int32_t> lo, hi;  // [q_rows]

  // The last `q_rows` of `rows` rows, each seeing at most `window` keys (0: all before it).
  Case(Random &random, AttentionShape shape, int rows, int q_rows, int page_size, int window)
      : shape(shape),
        cache(random, rows, shape.kv_heads, shape.head_dim, page_size),
        q_rows(q_rows),
        queries(random.bf16s(static_cast<size_t>(q_rows) * row_elements())) {
    for (int q = 0; q < q_rows; ++q) {
      hi.push_back(rows - q_rows + q);
      lo.push_back(window == 0 ? 0 : std::max(0, hi[q] - window + 1));
    }
  }

  size_t row_elements() const { return static_cast<size_t>(shape.heads) * shape.head_dim; }

  // A group of rows [first, first + rows).
  Attention group(int first, int rows, std::vector<bf16> &output, bool with_lo = true) const {
    return {rows,
            queries.data() + first * row_elements(),
            cache.pages(),
            with_lo ? lo.data() + first : nullptr,
            hi.data() + first,
            output.data() + first * row_elements()};
  }

  std::vector<bf16> attend(const Kernels &table, bool with_lo = true) const {
    std::vector<bf16> output(queries.size(), bf16_nan);
    const Attention whole = group(0, q_rows, output, with_lo);
    table.attend(&whole, 1, shape);
    return output;
  }
};

// `name` says in messages which case it is.
void check_values(const Kernels &table, const Case &c, const std::vector<bf16> &output, const char *name) {
  const AttentionShape &s = c.shape;
  double error = 0, size = 0;
  std::vector<double> weight(c.cache.rows), expected(s.head_dim), magnitude(s.head_dim);
  for (int q = 0; q < c.q_rows; ++q)
    for (int h = 0; h < s.heads; ++h) {
      const int kv = h / (s.heads / s.kv_heads);
      const size_t at = q * c.row_elements() + h * s.head_dim;
      double top = -INFINITY, total = 0;
      for (int j = c.lo[q]; j <= c.hi[q]; ++j) {
        weight[j] = reference_score(&c.queries[at], c.cache.key(j, kv), s);
        top = std::max(top, weight[j]);
      }
      for (int j = c.lo[q]; j <= c.hi[q]; ++j) total += weight[j] = std::exp(weight[j] - top);
      std::fill(expected.begin(), expected.end(), 0);
      std::fill(magnitude.begin(), magnitude.end(), 0);
      for (int j = c.lo[q]; j <= c.hi[q]; ++j)
        for (int d = 0; d < s.head_dim; ++d) {
          const double part = weight[j] / total * from_bf16(c.cache.value(j, kv)[d]);
          expected[d] += part;
          magnitude[d] += std::fabs(part);
        }
      for (int d = 0; d < s.head_dim; ++d) {
        const double got = from_bf16(output[at + d]);
        // Weights and result are each rounded to bf16, 2⁻⁸; the f32 scores before them add little.
        const double tolerance = 0x1p-8 * (1.1 * magnitude[d] + std::fabs(expected[d])) + 1e-6;
        CHECK(std::fabs(got - expected[d]) <= tolerance,
              "%s %s heads %d/%d dim %d, query %d of %d (keys %d to %d) head %d dim %d: %g, not %g", table.name, name,
              s.heads, s.kv_heads, s.head_dim, q, c.q_rows, c.lo[q], c.hi[q], h, d, got, expected[d]);
        error += (got - expected[d]) * (got - expected[d]);
        size += expected[d] * expected[d];
      }
    }
  CHECK(std::sqrt(error) <= 4e-3 * std::sqrt(size), "%s %s: relative error %g", table.name, name,
        std::sqrt(error / size));
}

// Rows alone, in random groups of one call, and on any number of threads: the same bits.
void check_grouping(const Kernels &table, Random &random, const Case &c) {
  const std::vector<bf16> whole = c.attend(table);
  for (const int threads : {1, 2, 3}) {
    const Threads scope(threads);
    for (const bool single : {true, false}) {
      std::vector<bf16> parts(whole.size(), bf16_nan);
      std::vector<Attention> groups;
      for (int row = 0; row < c.q_rows; row += groups.back().rows)
        groups.push_back(c.group(row, single ? 1 : std::min(c.q_rows - row, random.integer(1, 40)), parts));
      std::shuffle(groups.begin(), groups.end(), random.engine);
      table.attend(groups.data(), static_cast<int>(groups.size()), c.shape);
      CHECK(same_bits(whole.data(), parts.data(), whole.size()),
            "%s heads %d/%d dim %d cap %g, %d of %d rows, %d threads, single %d", table.name, c.shape.heads,
            c.shape.kv_heads, c.shape.head_dim, c.shape.soft_cap, c.q_rows, c.cache.rows, threads, single);
    }
  }
}

// Prefill in one call equals decoding: each row written, then attended, before the next exists; in other pages too.
void check_decoding(const Kernels &table, Random &random, Case &c) {
  const std::vector<bf16> whole = c.attend(table);
  const int first = c.cache.rows - c.q_rows;
  c.cache.clear(random);
  c.cache.write(table, 0, first);
  std::vector<bf16> output(whole.size(), bf16_nan);
  for (int q = 0; q < c.q_rows; ++q) {
    c.cache.write(table, first + q, 1);
    const Attention row = c.group(q, 1, output);
    table.attend(&row, 1, c.shape);
  }
  CHECK(same_bits(whole.data(), output.data(), whole.size()), "%s heads %d/%d dim %d, %d of %d rows, window from %d",
        table.name, c.shape.heads, c.shape.kv_heads, c.shape.head_dim, c.q_rows, c.cache.rows, c.lo.back());
}

// Pages before every row's window may be gone.
void check_freed_pages(const Kernels &table, Case &c) {
  const std::vector<bf16> before = c.attend(table);
  const int freed = *std::min_element(c.lo.begin(), c.lo.end()) / c.cache.page_size;
  CHECK(freed > 0);
  for (int p = 0; p < freed; ++p) c.cache.slabs[2 * p + 1] = INT32_MIN / 2;
  const std::vector<bf16> after = c.attend(table);
  CHECK(same_bits(before.data(), after.data(), before.size()), "%s", table.name);
}

// A row whose interval is empty gives zeros, and leaves its neighbours alone.
void check_empty_rows(const Kernels &table, Random &random) {
  Case c(random, {4, 2, 32, 0.2f, 0}, 150, 30, 64, 90);
  c.cache.write(table, 0, 150);
  std::vector<bf16> expected = c.attend(table);
  for (const int q : {0, 7, 29}) {
    c.lo[q] = c.hi[q] + 1;
    std::fill_n(expected.begin() + q * c.row_elements(), c.row_elements(), 0);
  }
  const std::vector<bf16> output = c.attend(table);
  CHECK(same_bits(expected.data(), output.data(), output.size()), "%s", table.name);
}

// Scores that grow along the keys move a row's reference again and again, by little and by much.
void check_growing_scores(const Kernels &table, Random &random) {
  for (const float scale : {0.05f, 1.0f, 20.0f}) {
    Case c(random, {4, 2, 32, scale, 0}, 300, 40, 64, 0);
    for (int j = 0; j < c.cache.rows; ++j)
      for (int i = 0; i < 64; ++i) {
        bf16 &key = c.cache.keys[j * 64 + i];
        key = to_bf16(from_bf16(key) * 0.02f * static_cast<float>(j));
      }
    c.cache.write(table, 0, c.cache.rows);
    check_values(table, c, c.attend(table), "growing");
    check_grouping(table, random, c);
  }
}

void check_table(const Kernels &table) {
  Random random(11);
  for (const int rows : {1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200})
    for (const int window : {0, 1, 40, 64}) {
      const int kv_heads = random.integer(1, 3), group = random.integer(1, 8), dim = 16 * random.integer(1, 6);
      const AttentionShape shape{kv_heads * group, kv_heads, dim, 1.0f / std::sqrt(static_cast<float>(dim)),
                                 random.one_of({0.0f, 0.0f, 2.0f})};
      Case c(random, shape, rows, random.integer(1, std::min(rows, 70)), random.one_of({64, 128, 192}), window);
      c.cache.write(table, 0, rows);
      check_values(table, c, c.attend(table), "random");
      check_grouping(table, random, c);
      check_decoding(table, random, c);
      if (window == 0) {
        const std::vector<bf16> with = c.attend(table), without = c.attend(table, false);
        CHECK(same_bits(with.data(), without.data(), with.size()), "%s: lo = nullptr is not lo = 0", table.name);
      }
    }
  for (const int dim : {16, 64, 128, 256}) {
    Case c(random, {8, 1, dim, 0.1f, 0}, 150, 100, 64, 0);
    c.cache.write(table, 0, 150);
    check_values(table, c, c.attend(table), "large");
    check_grouping(table, random, c);
  }
  Case sliding(random, {2, 1, 32, 0.2f, 30}, 400, 50, 64, 100);
  sliding.cache.write(table, 0, 400);
  check_values(table, sliding, sliding.attend(table), "sliding");
  check_freed_pages(table, sliding);
  check_empty_rows(table, random);
  check_growing_scores(table, random);
}

}  // namespace

int main() {
  for (const Kernels *table : kernel_tables()) check_table(*table);
  return check_result();
}
