// What benchmarks of kernels share: random data, medians, a line of results.
#pragma once

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "../src/cpu/bf16.h"
#include "../src/cpu/kernels.h"

using namespace up::cpu;

static std::mt19937 generator(1);

static inline std::vector<float> random_floats(size_t n) {
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float &value : x) value = normal(generator);
  return x;
}

static inline std::vector<bf16> random_bf16(size_t n) {
  std::vector<bf16> x(n);
  const std::vector<float> values = random_floats(n);
  for (size_t i = 0; i < n; ++i) x[i] = to_bf16(values[i]);
  return x;
}

// Median seconds of a run, over about half a second.
static inline double median_seconds(const std::function<void()> &run) {
  using clock = std::chrono::steady_clock;
  run();
  std::vector<double> seconds;
  for (double total = 0; (total < 0.5 || seconds.size() < 5) && seconds.size() < 2000; total += seconds.back()) {
    const auto start = clock::now();
    run();
    seconds.push_back(std::chrono::duration<double>(clock::now() - start).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
  return seconds[seconds.size() / 2];
}

static inline void print(const Kernels &table, const char *what, double seconds, double flop, double bytes) {
  std::printf("%-13s %-46s %10.1f us", table.name, what, seconds * 1e6);
  if (flop > 0) std::printf("  %7.1f GFLOP/s", flop / seconds * 1e-9);
  if (bytes > 0) std::printf("  %7.1f GB/s", bytes / seconds * 1e-9);
  std::printf("\n");
  std::fflush(stdout);
}

// Calls `bench` with the tables that are named, or all that the processor runs.
static inline void for_each_table(int count, char **names, void (*bench)(const Kernels &)) {
  for (const Kernels *table : {portable_kernels(), avx2_kernels(), avx512_bf16_kernels()})
    if (table && (count < 2 || std::any_of(names + 1, names + count,
                                           [&](const char *name) { return std::strcmp(name, table->name) == 0; })))
      bench(*table);
}
