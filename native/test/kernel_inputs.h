// Random inputs of kernel tests, and what every kernel test does with them.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
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
  return n == 0 || std::memcmp(a, b, n * sizeof(T)) == 0;
}

// One rounding to bf16 is within 2⁻⁸ of its value; 2 % more for the f32 arithmetic before it.
static inline bool rounds_to(bf16 got, double expected) {
  return std::fabs(from_bf16(got) - expected) <= std::fabs(expected) * 0x1p-8 * 1.02 + 1e-30;
}

// Keys and values of one slot, with a page table in random order over slabs that held NaN before. The layer is the second one
// of each page's second slab, so that it lies neither at a page's beginning nor at a slab's.
struct Cache {
  int rows, kv_heads, head_dim, page_size;
  std::vector<bf16> keys, values;  // [rows, kv_heads, head_dim]
  std::vector<bf16> pool;
  std::vector<int32_t> slabs;  // two of each page

  Cache(Random &random, int rows, int kv_heads, int head_dim, int page_size)
      : rows(rows),
        kv_heads(kv_heads),
        head_dim(head_dim),
        page_size(page_size),
        keys(random.bf16s(static_cast<size_t>(rows) * kv_heads * head_dim)),
        values(random.bf16s(static_cast<size_t>(rows) * kv_heads * head_dim)) {
    clear(random);
  }

  int page_count() const { return (rows + page_size - 1) / page_size; }
  size_t page_elements() const { return static_cast<size_t>(page_size) * kv_heads * head_dim; }
  size_t slab_elements() const { return 4 * page_elements() + 6; }

  // Forgets what is written: NaN everywhere, the pages in a new order.
  void clear(Random &random) {
    pool.assign(slab_elements() * 2 * page_count(), bf16_nan);
    slabs.resize(2 * page_count());
    std::iota(slabs.begin(), slabs.end(), 0);
    std::shuffle(slabs.begin(), slabs.end(), random.engine);
  }

  void write(const Kernels &table, int first, int count) {
    const size_t at = static_cast<size_t>(first) * kv_heads * head_dim;
    table.write_kv(keys.data() + at, values.data() + at, first, count, kv_heads, head_dim, pages());
  }

  KvPages pages() const {
    auto *base = reinterpret_cast<std::byte *>(const_cast<bf16 *>(pool.data() + 2 * page_elements()));
    return {slabs.data() + 1, 2, page_size, base, static_cast<int64_t>(sizeof(bf16) * slab_elements()),
            static_cast<int64_t>(page_elements())};
  }

  const bf16 *k_page(int page) const { return pool.data() + slabs[2 * page + 1] * slab_elements() + 2 * page_elements(); }
  const bf16 *v_page(int page) const { return k_page(page) + page_elements(); }

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
