// score against double-precision softmax; its bits under threads and pages; scores that are not finite.
#include "kernel_inputs.h"

namespace {

constexpr double unit = 0x1p40;

struct Case {
  AttentionShape shape;
  Cache cache;
  int q_rows, block;
  std::vector<bf16> queries;  // [q_rows, heads, head_dim]

  Case(Random &random, const Kernels &table, AttentionShape shape, int rows, int q_rows, int block, int page_size)
      : shape(shape),
        cache(random, rows, shape.kv_heads, shape.head_dim, page_size),
        q_rows(q_rows),
        block(block),
        queries(random.bf16s(static_cast<size_t>(q_rows) * shape.heads * shape.head_dim)) {
    cache.write(table, 0, rows);
  }

  int blocks() const { return (cache.rows + block - 1) / block; }

  bool score(const Kernels &table, std::vector<uint64_t> &masses) const {
    masses.assign(blocks() + 1, UINT64_MAX);
    return table.score(queries.data(), q_rows, cache.pages(), cache.rows, block, shape, masses.data());
  }

  std::vector<double> reference() const {
    std::vector<double> mass(blocks(), 0), weight(cache.rows);
    for (int q = 0; q < q_rows; ++q)
      for (int h = 0; h < shape.heads; ++h) {
        const int row = cache.rows - q_rows + q, kv = h / (shape.heads / shape.kv_heads);
        const bf16 *query = &queries[(static_cast<size_t>(q) * shape.heads + h) * shape.head_dim];
        double top = -INFINITY, total = 0;
        for (int j = 0; j <= row; ++j) top = std::max(top, weight[j] = reference_score(query, cache.key(j, kv), shape));
        for (int j = 0; j <= row; ++j) total += weight[j] = std::exp(weight[j] - top);
        for (int j = 0; j <= row; ++j) mass[j / block] += weight[j] / total;
      }
    return mass;
  }
};

void check_values(const Kernels &table, const Case &c) {
  std::vector<uint64_t> masses;
  CHECK(c.score(table, masses), "%s: finite scores called not finite", table.name);
  const std::vector<double> expected = c.reference();
  for (int b = 0; b < c.blocks(); ++b)
    // f32 all the way: scores of a few units are off by 1e-6 of themselves, and so are their powers.
    CHECK(std::fabs(masses[b] / unit - expected[b]) <= 1e-5 * expected[b] + 1e-9,
          "%s heads %d/%d dim %d, %d of %d rows, block %d of %d: %.9g, not %.9g", table.name, c.shape.heads,
          c.shape.kv_heads, c.shape.head_dim, c.q_rows, c.cache.rows, b, c.block, masses[b] / unit, expected[b]);
  CHECK(masses[c.blocks()] == UINT64_MAX, "%s: wrote beyond the last block", table.name);
}

void check_same_bits(const Kernels &table, Random &random, Case &c) {
  std::vector<uint64_t> expected, masses;
  c.score(table, expected);
  for (const int threads : {1, 2, 3}) {
    const Threads scope(threads);
    c.score(table, masses);
    CHECK(masses == expected, "%s: %d threads", table.name, threads);
  }
  // Heads add as integers: the heads of each key-value head alone, together.
  std::vector<uint64_t> sum(c.blocks() + 1, 0);
  sum.back() = UINT64_MAX;
  const int group = c.shape.heads / c.shape.kv_heads;
  for (int h = 0; h < c.shape.heads; ++h) {
    Case one(random, table, {1, 1, c.shape.head_dim, c.shape.scale, c.shape.soft_cap}, c.cache.rows, c.q_rows, c.block,
             64);
    for (int q = 0; q < c.q_rows; ++q)
      std::copy_n(&c.queries[(static_cast<size_t>(q) * c.shape.heads + h) * c.shape.head_dim], c.shape.head_dim,
                  &one.queries[static_cast<size_t>(q) * c.shape.head_dim]);
    for (int j = 0; j < c.cache.rows; ++j)
      std::copy_n(c.cache.key(j, h / group), c.shape.head_dim,
                  &one.cache.keys[static_cast<size_t>(j) * c.shape.head_dim]);
    one.cache.write(table, 0, c.cache.rows);
    one.score(table, masses);
    for (int b = 0; b < c.blocks(); ++b) sum[b] += masses[b];
  }
  CHECK(sum == expected, "%s: the sum over heads differs", table.name);
}

void check_not_finite(const Kernels &table, Random &random) {
  for (const bf16 bad : {static_cast<bf16>(0x7f80), static_cast<bf16>(0xff80), bf16_nan}) {
    Case c(random, table, {2, 1, 32, 0.2f, 0}, 100, 20, 64, 64);
    std::vector<uint64_t> masses;
    CHECK(c.score(table, masses));
    c.queries[c.queries.size() - 5] = bad;
    CHECK(!c.score(table, masses), "%s: query %x", table.name, bad);
  }
  Case c(random, table, {2, 1, 32, 0.2f, 0}, 100, 20, 64, 64);
  std::vector<uint64_t> masses;
  c.cache.keys[99 * 32] = bf16_nan;  // seen by the last query only
  c.cache.write(table, 0, 100);
  CHECK(!c.score(table, masses), "%s: last key", table.name);
  // What no query sees does not count.
  Case hidden(random, table, {2, 1, 32, 0.2f, 0}, 100, 20, 64, 64);
  hidden.cache.clear(random);
  hidden.cache.write(table, 0, 100);
  CHECK(hidden.score(table, masses), "%s: rows never written", table.name);
  // Finite operands, infinite scores.
  Case large(random, table, {1, 1, 32, 1, 0}, 100, 20, 64, 64);
  for (bf16 &x : large.queries) x = 0x7f00;
  for (bf16 &x : large.cache.keys) x = 0x7f00;
  large.cache.write(table, 0, 100);
  CHECK(!large.score(table, masses), "%s: overflow", table.name);
}

// Queries before row 0 do not exist.
void check_more_queries_than_rows(const Kernels &table, Random &random) {
  Case c(random, table, {4, 2, 32, 0.2f, 0}, 40, 40, 16, 64);
  std::vector<uint64_t> expected, masses;
  c.score(table, expected);
  const std::vector<bf16> extra = random.bf16s(static_cast<size_t>(10) * 4 * 32);
  c.queries.insert(c.queries.begin(), extra.begin(), extra.end());
  c.q_rows = 50;
  CHECK(c.score(table, masses));
  CHECK(masses == expected, "%s", table.name);
}

}  // namespace

int main() {
  for (const Kernels *table : kernel_tables()) {
    Random random(13);
    for (const int rows : {1, 15, 16, 17, 63, 64, 65, 130, 300, 500}) {
      const int kv_heads = random.integer(1, 2), group = random.integer(1, 8), dim = 16 * random.integer(1, 8);
      const AttentionShape shape{kv_heads * group, kv_heads, dim, 1.0f / std::sqrt(static_cast<float>(dim)),
                                 random.one_of({0.0f, 2.0f})};
      for (const int block : {1, 7, 16, 64, 100, 128})
        check_values(*table, Case(random, *table, shape, rows, random.integer(1, std::min(rows, 70)), block,
                                  random.one_of({64, 192})));
      Case c(random, *table, shape, rows, std::min(rows, 30), 64, 128);
      check_same_bits(*table, random, c);
    }
    check_values(*table, Case(random, *table, {2, 1, 64, 5.0f, 0}, 700, 128, 64, 64));  // sharp: most shares are 0
    check_not_finite(*table, random);
    check_more_queries_than_rows(*table, random);
  }
  return check_result();
}
