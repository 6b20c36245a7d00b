// What a layer of Gated DeltaNet and a mixture of experts cost beside their matrix products.
//
//   layers_bench [table …]     tables by name, default all the processor runs
//
// Floors. The recurrence is three FMAs for each element of the state and row, 6 flop: at the two 512-bit FMAs a cycle of the
// processors that the AVX-512 kernels are for that is 64 flop a cycle and core, what vdpbf16ps gives at one a cycle, so its
// GFLOP/s compare with gemm's. Experts cannot be faster than their weights are read (GB/s) or than gemm multiplies.
#include "bench.h"

namespace {

constexpr int tile_rows = 512;

double gemm_seconds(const Kernels &table, int m, int n, int k, int slices) {
  const std::vector<bf16> a = random_bf16(static_cast<size_t>(m) * k), weight = random_bf16(static_cast<size_t>(n) * k);
  std::vector<char> packed(table.packed_bytes(n, k));
  table.pack(weight.data(), n, k, packed.data());
  std::vector<float> out(static_cast<size_t>(m) * n);
  return median_seconds([&] { table.gemm(a.data(), k, m, packed.data(), n, k, slices, false, out.data(), n); });
}

struct DeltaTimes {
  double inputs, recur, outputs;
  double total() const { return inputs + recur + outputs; }
};

// Equal groups of one tile.
DeltaTimes bench_delta(const Kernels &table, const DeltaShape &shape, int groups, int rows_each) {
  const int rows = groups * rows_each;
  const std::vector<float> projected = random_floats(static_cast<size_t>(rows) * shape.projected_width());
  std::vector<float> conv = random_floats(static_cast<size_t>(shape.conv_kernel) * shape.conv_width());
  std::vector<float> decay(shape.value_heads), dt_bias = random_floats(shape.value_heads), norm = random_floats(shape.value_dim);
  for (int h = 0; h < shape.value_heads; ++h) decay[h] = -std::exp(-2.0f + 0.5f * h / shape.value_heads);
  const DeltaWeights weights{conv.data(), decay.data(), dt_bias.data(), norm.data()};
  std::vector<std::vector<float>> convs(groups), states(groups);
  std::vector<std::vector<bf16>> keys(groups);
  std::vector<int32_t> begun(groups, 0);
  std::vector<DeltaGroup> list;
  for (int g = 0; g < groups; ++g) {
    convs[g].resize(static_cast<size_t>(shape.conv_kernel - 1) * shape.conv_width());
    states[g].resize(shape.value_heads * shape.head_state());
    keys[g].resize(shape.key_heads * shape.head_keys());
    list.push_back({g * rows_each, rows_each, convs[g].data(), states[g].data(), keys[g].data(), &begun[g]});
  }
  std::vector<float> mixed(static_cast<size_t>(rows) * shape.conv_width()), betas(static_cast<size_t>(rows) * shape.value_heads);
  std::vector<float> decays(betas.size()), products(static_cast<size_t>(rows) * shape.key_heads * 2 * delta_block);
  std::vector<bf16> out(static_cast<size_t>(rows) * shape.value_width());
  std::vector<bf16> directions(static_cast<size_t>(rows) * shape.key_heads * 2 * shape.padded_key_dim());
  std::vector<bf16> blocks(rows * shape.key_heads * 2 * shape.head_keys());
  const DeltaRows work{rows, mixed.data(), betas.data(), decays.data(), directions.data(), products.data(), blocks.data()};
  const auto inputs = [&] { table.delta_inputs(projected.data(), list.data(), groups, shape, weights, work); };
  DeltaTimes times{};
  times.inputs = median_seconds(inputs);
  // The recurrence overwrites its values with outputs: real ones again before each run.
  times.recur = median_seconds([&] {
                  inputs();
                  table.delta_recur(list.data(), groups, shape, work);
                }) -
                times.inputs;
  times.outputs = median_seconds([&] { table.delta_outputs(projected.data(), rows, shape, weights, mixed.data(), out.data()); });
  char what[64];
  const auto line = [&](const char *part, double seconds, double flop, double bytes) {
    std::snprintf(what, sizeof what, "delta %s %d/%d, %d x %d rows", part, shape.key_heads, shape.value_heads, groups, rows_each);
    print(table, what, seconds, flop, bytes);
  };
  const double state = static_cast<double>(shape.value_heads) * shape.key_dim * shape.value_dim;
  line("inputs", times.inputs, 0, 8.0 * rows * shape.conv_width());
  line("recur", times.recur, 6 * state * rows, rows_each == 1 ? 8 * state * groups : 0);
  line("outputs", times.outputs, 0, 10.0 * rows * shape.value_width());
  return times;
}

// needle-qwen at 8,192 rows: hidden 256, 12 delta layers of 1 key and 2 value heads, 4 attention layers, MLP of 512.
void bench_needle_qwen(const Kernels &table) {
  constexpr int tiles = 8192 / tile_rows, delta_layers = 12, attention_layers = 4;
  const DeltaTimes delta = bench_delta(table, {1, 2, 128, 128, 4, 1e-6f}, 1, tile_rows);
  const auto gemm = [&](int n, int k, int slices) { return gemm_seconds(table, tile_rows, n, k, slices); };
  const double mlp = gemm(1024, 256, 1) + gemm(256, 512, 4);
  const double delta_layer = gemm(772, 256, 1) + gemm(256, 256, 4) + mlp;
  const double attention_layer = gemm(1536, 256, 1) + gemm(256, 512, 4) + mlp;
  const double products = tiles * (delta_layers * delta_layer + attention_layers * attention_layer);
  const double recurrence = tiles * delta_layers * delta.recur, rest = tiles * delta_layers * delta.total() - recurrence;
  std::printf("%-13s needle-qwen, 8192 rows: products %.1f ms, recurrence %.1f ms (%.1f%%), convolution and gates %.1f ms (%.1f%%)\n",
              table.name, products * 1e3, recurrence * 1e3, 100 * recurrence / products, rest * 1e3, 100 * rest / products);
}

// Experts as CpuBackend computes them: `rows` rows, each to top_k of them in equal shares.
void bench_experts(const Kernels &table, int rows, int hidden, int inner, int experts, int top_k) {
  const int pairs = rows * top_k, used = std::min(experts, pairs);
  const std::vector<bf16> weight = random_bf16(static_cast<size_t>(2 * inner) * hidden), x = random_bf16(static_cast<size_t>(pairs) * hidden);
  std::vector<char> up(table.packed_bytes(2 * inner, hidden) * experts), down(table.packed_bytes(hidden, inner) * experts);
  for (int e = 0; e < experts; ++e) {
    table.pack(weight.data(), 2 * inner, hidden, &up[e * table.packed_bytes(2 * inner, hidden)]);
    table.pack(weight.data(), hidden, inner, &down[e * table.packed_bytes(hidden, inner)]);
  }
  std::vector<float> gated(static_cast<size_t>(pairs) * 2 * inner), parts(static_cast<size_t>(pairs) * hidden);
  std::vector<bf16> activated(static_cast<size_t>(pairs) * inner);
  std::vector<float> sums(static_cast<size_t>(rows) * hidden), weights = random_floats(pairs), logits = random_floats(static_cast<size_t>(rows) * experts);
  std::vector<int32_t> places(pairs), chosen(pairs);
  std::iota(places.begin(), places.end(), 0);
  std::vector<GemmPart> first, second;
  for (int u = 0; u < used; ++u) {
    const int e = u * (experts / used), begin = static_cast<int>(static_cast<int64_t>(pairs) * u / used);
    const int count = static_cast<int>(static_cast<int64_t>(pairs) * (u + 1) / used) - begin;
    first.push_back({&x[static_cast<size_t>(begin) * hidden], count, &up[e * table.packed_bytes(2 * inner, hidden)], &gated[static_cast<size_t>(begin) * 2 * inner]});
    second.push_back({&activated[static_cast<size_t>(begin) * inner], count, &down[e * table.packed_bytes(hidden, inner)], &parts[static_cast<size_t>(begin) * hidden]});
  }
  char what[64];
  const auto line = [&](const char *part, double seconds, double flop, double bytes) {
    std::snprintf(what, sizeof what, "experts %s %d of %d, %d x %d x %d", part, top_k, experts, rows, hidden, inner);
    print(table, what, seconds, flop, bytes);
  };
  const double flop = 2.0 * pairs * hidden * inner, bytes = 2.0 * used * hidden * inner;
  line("route", median_seconds([&] { table.route(logits.data(), rows, experts, top_k, true, chosen.data(), weights.data()); }), 0, 4.0 * rows * experts);
  line("up", median_seconds([&] { table.gemm_parts(first.data(), used, 2 * inner, hidden, 1); }), 2 * flop, 2 * bytes);
  line("silu", median_seconds([&] { table.silu_mul(gated.data(), pairs, inner, activated.data()); }), 0, 10.0 * pairs * inner);
  line("down", median_seconds([&] { table.gemm_parts(second.data(), used, hidden, inner, 4); }), flop, bytes);
  line("sum", median_seconds([&] {
         table.combine(parts.data(), places.data(), weights.data(), top_k, nullptr, nullptr, rows, hidden, true, sums.data());
       }),
       0, 4.0 * pairs * hidden);
}

void bench(const Kernels &table) {
  bench_needle_qwen(table);
  bench_delta(table, {16, 32, 128, 128, 4, 1e-6f}, 1, tile_rows);
  bench_delta(table, {1, 2, 128, 128, 4, 1e-6f}, 64, 1);
  bench_experts(table, tile_rows, 256, 128, 16, 4);
  bench_experts(table, tile_rows, 2048, 512, 128, 8);
  bench_experts(table, 1, 2048, 512, 128, 8);
}

}  // namespace

int main(int count, char **names) {
  std::printf("%d threads\n", omp_get_max_threads());
  for_each_table(count, names, bench);
}
