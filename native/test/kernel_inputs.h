// Random inputs of kernel tests, and what every kernel test does with them.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "../src/cpu/bf16.h"
#include "../src/cpu/kernels.h"
#include "check.h"

using namespace up::cpu;

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr bf16 bf16_nan = 0x7fff;

// The tables that this processor runs.
static inline std::vector<const Kernels *> kernel_tables() {
  std::vector<const Kernels *> tables;
  for (const Kernels *table : {portable_kernels(), avx2_kernels(), avx512_bf16_kernels()})
    if (table) tables.push_back(table);
  return tables;
}

struct Random {
  std::mt19937 engine;

  explicit Random(unsigned seed) : engine(seed) {}

  // In [low, high].
  int integer(int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine); }
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[integer(0, static_cast<int>(values.size()) - 1)];
  }
  std::vector<float> floats(size_t n, float deviation = 1) {
    std::normal_distribution<float> normal(0, deviation);
    std::vector<float> x(n);
    for (float &value : x) value = normal(engine);
    return x;
  }
  std::vector<bf16> bf16s(size_t n, float deviation = 1) {
    std::vector<bf16> x;
    for (const float value : floats(n, deviation)) x.push_back(to_bf16(value));
    return x;
  }
};

// Sets the number of threads for as long as it lives.
struct Threads {
  int before = omp_get_max_threads();
  explicit Threads(int threads) { omp_set_num_threads(threads); }
  ~Threads() { omp_set_num_threads(before); }
};

template <class T>
static bool same_bits(const T *a, const T *b, size_t n) {
  return std::memcmp(a, b, n * sizeof(T)) == 0;
}

// One rounding to bf16 is within 2⁻⁸ of its value; 2 % more for the f32 arithmetic before it.
static inline bool rounds_to(bf16 got, double expected) {
  return std::fabs(from_bf16(got) - expected) <= std::fabs(expected) * 0x1p-8 * 1.02 + 1e-30;
}

// Keys and values of one slot, with a page table in random order over pages that held NaN before.
struct Cache {
  int rows, kv_heads, head_dim, page_size;
  std::vector<bf16> keys, values;  // [rows, kv_heads, head_dim]
  std::vector<bf16> k_pool, v_pool;
  std::vector<bf16 *> k_pages, v_pages;

  Cache(Random &random, int rows, int kv_heads, int head_dim, int page_size)
      : rows(rows),
        kv_heads(kv_heads),
        head_dim(head_dim),
        page_size(page_size),
        keys(random.bf16s(static_cast<size_t>(rows) * kv_heads * head_dim)),
        values(random.bf16s(static_cast<size_t>(rows) * kv_heads * head_dim)) {
    clear(random);
  }

  size_t page_elements() const { return static_cast<size_t>(page_size) * kv_heads * head_dim; }

  // Forgets what is written: NaN everywhere, the pages in a new order.
  void clear(Random &random) {
    const int pages = (rows + page_size - 1) / page_size;
    k_pool.assign(page_elements() * pages, bf16_nan);
    v_pool.assign(page_elements() * pages, bf16_nan);
    k_pages.clear();
    for (int p = 0; p < pages; ++p) k_pages.push_back(k_pool.data() + p * page_elements());
    std::shuffle(k_pages.begin(), k_pages.end(), random.engine);
    v_pages.clear();
    for (int p = 0; p < pages; ++p) v_pages.push_back(v_pool.data() + p * page_elements());
    std::shuffle(v_pages.begin(), v_pages.end(), random.engine);
  }

  void write(const Kernels &table, int first, int count) {
    const size_t at = static_cast<size_t>(first) * kv_heads * head_dim;
    table.write_kv(keys.data() + at, values.data() + at, first, count, kv_heads, head_dim, pages());
  }

  KvPages pages() const { return {k_pages.data(), v_pages.data(), page_size}; }

  const bf16 *key(int row, int head) const {
    return keys.data() + (static_cast<size_t>(row) * kv_heads + head) * head_dim;
  }
  const bf16 *value(int row, int head) const {
    return values.data() + (static_cast<size_t>(row) * kv_heads + head) * head_dim;
  }
};

// scale · q·k, capped.
static inline double reference_score(const bf16 *query, const bf16 *key, const AttentionShape &shape) {
  double dot = 0;
  for (int d = 0; d < shape.head_dim; ++d) dot += static_cast<double>(from_bf16(query[d])) * from_bf16(key[d]);
  dot *= shape.scale;
  return shape.soft_cap == 0 ? dot : shape.soft_cap * std::tanh(dot / shape.soft_cap);
}
