// GFLOP/s of each kernel of each instruction set, medians over random data.
//
//   kernels_bench [table …]     tables by name, default all the processor runs
#include "bench.h"

namespace {

void bench_gemm(const Kernels &table, int m, int n, int k, int slices) {
  const std::vector<bf16> a = random_bf16(static_cast<size_t>(m) * k), weight = random_bf16(static_cast<size_t>(n) * k);
  std::vector<char> packed(table.packed_bytes(n, k));
  table.pack(weight.data(), n, k, packed.data());
  std::vector<float> out(static_cast<size_t>(m) * n);
  const double seconds =
      median_seconds([&] { table.gemm(a.data(), k, m, packed.data(), n, k, slices, false, out.data(), n); });
  char what[64];
  std::snprintf(what, sizeof what, "gemm m %d n %d k %d slices %d", m, n, k, slices);
  print(table, what, seconds, 2.0 * m * n * k, m <= 16 ? packed.size() : 0);
}

// Keys and values of `rows` rows in pages of `page_size`.
struct Cache {
  std::vector<bf16> pool;
  std::vector<int32_t> slabs;
  int page_size;
  int64_t page_elements;

  Cache(const Kernels &table, int rows, const AttentionShape &shape, int page)
      : page_size(page), page_elements(static_cast<int64_t>(page) * shape.kv_heads * shape.head_dim) {
    for (int p = 0; p * page < rows; ++p) slabs.push_back(p);
    pool.resize(2 * page_elements * slabs.size());
    const size_t elements = static_cast<size_t>(shape.kv_heads) * shape.head_dim * rows;
    const std::vector<bf16> keys = random_bf16(elements), values = random_bf16(elements);
    table.write_kv(keys.data(), values.data(), 0, rows, shape.kv_heads, shape.head_dim, pages());
  }
  KvPages pages() const {
    auto *base = reinterpret_cast<std::byte *>(const_cast<bf16 *>(pool.data()));
    return {slabs.data(), 1, page_size, base, static_cast<int64_t>(2 * sizeof(bf16)) * page_elements, page_elements};
  }
};

// `groups` equal groups, each the last `q_rows` of `rows` rows, causal.
void bench_attend(const Kernels &table, const AttentionShape &shape, int rows, int q_rows, int groups) {
  const Cache cache(table, rows, shape, 256);
  const size_t size = static_cast<size_t>(q_rows) * shape.heads * shape.head_dim;
  const std::vector<bf16> queries = random_bf16(size);
  std::vector<bf16> output(size * groups);
  std::vector<int32_t> hi(q_rows);
  for (int i = 0; i < q_rows; ++i) hi[i] = rows - q_rows + i;
  std::vector<Attention> attention(groups);
  for (int g = 0; g < groups; ++g)
    attention[g] = {q_rows, queries.data(), cache.pages(), nullptr, hi.data(), output.data() + g * size};
  const double seconds = median_seconds([&] { table.attend(attention.data(), groups, shape); });
  const double keys = static_cast<double>(q_rows) * (rows - q_rows) + 0.5 * q_rows * (q_rows + 1);
  char what[64];
  std::snprintf(what, sizeof what, "attend %d/%d d %d, %d x %d rows of %d", shape.heads, shape.kv_heads, shape.head_dim,
                groups, q_rows, rows);
  print(table, what, seconds, 4.0 * keys * shape.heads * shape.head_dim * groups,
        q_rows == 1 ? 4.0 * groups * rows * shape.kv_heads * shape.head_dim : 0);
}

// A prompt of `rows` rows in groups of 512, as a dense prefill attends.
void bench_prefill_attend(const Kernels &table, const AttentionShape &shape, int rows) {
  constexpr int chunk = 512;
  const Cache cache(table, rows, shape, 256);
  const std::vector<bf16> queries = random_bf16(static_cast<size_t>(chunk) * shape.heads * shape.head_dim);
  std::vector<bf16> output(queries.size());
  std::vector<int32_t> hi(chunk);
  const double seconds = median_seconds([&] {
    for (int first = 0; first < rows; first += chunk) {
      for (int i = 0; i < chunk; ++i) hi[i] = first + i;
      const Attention group{chunk, queries.data(), cache.pages(), nullptr, hi.data(), output.data()};
      table.attend(&group, 1, shape);
    }
  });
  char what[64];
  std::snprintf(what, sizeof what, "attend %d/%d d %d, %d rows causal by %d", shape.heads, shape.kv_heads,
                shape.head_dim, rows, chunk);
  print(table, what, seconds, 2.0 * rows * (rows + 1.0) * shape.heads * shape.head_dim, 0);
}

void bench_score(const Kernels &table, const AttentionShape &shape, int rows, int q_rows) {
  const Cache cache(table, rows, shape, 256);
  const std::vector<bf16> queries = random_bf16(static_cast<size_t>(q_rows) * shape.heads * shape.head_dim);
  std::vector<uint64_t> masses((rows + 63) / 64);
  const double seconds =
      median_seconds([&] { table.score(queries.data(), q_rows, cache.pages(), rows, 64, shape, masses.data()); });
  char what[64];
  std::snprintf(what, sizeof what, "score %d/%d d %d, %d of %d rows", shape.heads, shape.kv_heads, shape.head_dim,
                q_rows, rows);
  print(table, what, seconds, 2.0 * q_rows * rows * shape.heads * shape.head_dim, 0);
}

void bench_rows(const Kernels &table, int rows, int width, int inner, const AttentionShape &shape) {
  char what[64];
  const std::vector<float> x = random_floats(static_cast<size_t>(rows) * width), weight = random_floats(width);
  std::vector<bf16> out(static_cast<size_t>(rows) * std::max({width, inner, shape.heads * shape.head_dim}));
  std::snprintf(what, sizeof what, "rms_norm %d x %d", rows, width);
  print(table, what, median_seconds([&] { table.rms_norm(x.data(), rows, width, weight.data(), 1e-6f, out.data()); }),
        0, 6.0 * rows * width);

  const std::vector<float> gate_up = random_floats(static_cast<size_t>(rows) * 2 * inner);
  std::snprintf(what, sizeof what, "silu_mul %d x %d", rows, inner);
  print(table, what, median_seconds([&] { table.silu_mul(gate_up.data(), rows, inner, out.data()); }), 0,
        10.0 * rows * inner);

  const int q_width = shape.heads * shape.head_dim;
  const std::vector<float> q = random_floats(static_cast<size_t>(rows) * q_width);
  const std::vector<float> angles = random_floats(static_cast<size_t>(rows) * shape.head_dim / 2);
  std::vector<int32_t> positions(rows);
  std::iota(positions.begin(), positions.end(), 0);
  const Rotation rotation{shape.head_dim, angles.data(), angles.data(), positions.data()};
  std::snprintf(what, sizeof what, "rope %d x %d x %d", rows, shape.heads, shape.head_dim);
  print(table, what, median_seconds([&] {
          table.rope(q.data(), q_width, rows, {shape.heads, shape.head_dim, nullptr, 0}, rotation, out.data());
        }),
        0, 6.0 * rows * q_width);

  const Cache cache(table, rows, shape, 256);
  const int kv_width = shape.kv_heads * shape.head_dim;
  const std::vector<bf16> k = random_bf16(static_cast<size_t>(rows) * kv_width);
  std::snprintf(what, sizeof what, "write_kv %d x %d x %d", rows, shape.kv_heads, shape.head_dim);
  print(table, what, median_seconds([&] {
          table.write_kv(k.data(), k.data(), 0, rows, shape.kv_heads, shape.head_dim, cache.pages());
        }),
        0, 8.0 * rows * kv_width);
}

void bench(const Kernels &table) {
  const AttentionShape shape{4, 2, 64, 0.125f, 0};
  for (const int k : {256, 384, 512, 640})
    for (const int n : {512, 1280}) bench_gemm(table, 512, n, k, 4);
  bench_gemm(table, 512, 1280, 512, 1);
  bench_gemm(table, 2048, 4096, 4096, 4);
  for (const int m : {1, 2, 8, 64}) bench_gemm(table, m, 1280, 512, 4);
  bench_gemm(table, 1, 16384, 4096, 4);
  bench_prefill_attend(table, shape, 8192);
  bench_attend(table, shape, 8192, 512, 1);
  bench_attend(table, {32, 8, 128, 0.088f, 0}, 4096, 128, 1);
  bench_attend(table, {8, 4, 256, 0.0625f, 50}, 2048, 128, 1);
  bench_attend(table, shape, 8192, 1, 1);
  bench_attend(table, shape, 8192, 1, 16);
  bench_score(table, shape, 8192, 128);
  bench_rows(table, 512, 512, 1280, shape);
}

}  // namespace

int main(int count, char **names) {
  std::printf("%d threads\n", omp_get_max_threads());
  for_each_table(count, names, bench);
}
