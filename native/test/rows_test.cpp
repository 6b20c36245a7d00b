// The kernels that work row by row: norms, gates, rope, write_kv.
#include "kernel_inputs.h"

namespace {

void check_rms_norm(const Kernels &table, Random &random, int rows, int width) {
  const std::vector<float> x = random.floats(static_cast<size_t>(rows) * width, 3), weight = random.floats(width);
  std::vector<bf16> out(x.size() + 16, bf16_nan), alone(x.size(), bf16_nan);
  const float eps = random.one_of({1e-6f, 1.0f});
  table.rms_norm(x.data(), rows, width, weight.data(), eps, out.data());
  for (int r = 0; r < rows; ++r) {
    double squares = 0;
    for (int i = 0; i < width; ++i) squares += static_cast<double>(x[r * width + i]) * x[r * width + i];
    const double factor = 1 / std::sqrt(squares / width + eps);
    for (int i = 0; i < width; ++i)
      CHECK(rounds_to(out[r * width + i], x[r * width + i] * factor * weight[i]),
            "%s rms_norm width %d [%d, %d]: %g, not %g", table.name, width, r, i, from_bf16(out[r * width + i]),
            x[r * width + i] * factor * weight[i]);
    const Threads scope(r % 3 + 1);
    table.rms_norm(&x[r * width], 1, width, weight.data(), eps, &alone[r * width]);
  }
  CHECK(same_bits(out.data(), alone.data(), alone.size()), "%s rms_norm rows %d width %d", table.name, rows, width);
  for (int i = 0; i < 16; ++i) CHECK(out[x.size() + i] == bf16_nan, "%s rms_norm wrote beyond its rows", table.name);
}

// Adds what rms_norm rounds.
void check_add_rms_norm(const Kernels &table, Random &random, int rows, int width) {
  const std::vector<float> x = random.floats(static_cast<size_t>(rows) * width, 3), weight = random.floats(width);
  const std::vector<float> before = random.floats(x.size() + 16);
  std::vector<float> sum = before, alone = before;
  table.add_rms_norm(x.data(), rows, width, weight.data(), 1e-6f, sum.data());
  for (int r = 0; r < rows; ++r) {
    double squares = 0;
    for (int i = 0; i < width; ++i) squares += static_cast<double>(x[r * width + i]) * x[r * width + i];
    const double factor = 1 / std::sqrt(squares / width + 1e-6);
    for (int i = 0; i < width; ++i) {
      const double normed = x[r * width + i] * factor * weight[i], expected = before[r * width + i] + normed;
      CHECK(std::fabs(sum[r * width + i] - expected) <= 1e-6 * (std::fabs(normed) + std::fabs(expected)),
            "%s add_rms_norm width %d [%d, %d]: %g, not %g", table.name, width, r, i, sum[r * width + i], expected);
    }
    const Threads scope(r % 3 + 1);
    table.add_rms_norm(&x[r * width], 1, width, weight.data(), 1e-6f, &alone[r * width]);
  }
  CHECK(same_bits(sum.data(), alone.data(), sum.size()), "%s add_rms_norm rows %d width %d", table.name, rows, width);
}

double silu(double x) { return x / (1 + std::exp(-x)); }
double gelu(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }

void check_gated_mul(const Kernels &table, Random &random, int rows, int inner, const char *name,
                     void (*run)(const float *, int, int, bf16 *), double (*activation)(double)) {
  std::vector<float> in = random.floats(static_cast<size_t>(rows) * 2 * inner, 5);
  in[0] = 200;  // far out on both sides, and 0
  in[1] = -200;
  in[2] = 0;
  in[3] = -6;  // where 1 + tanh has lost its digits
  std::vector<bf16> out(static_cast<size_t>(rows) * inner + 16, bf16_nan), alone(out.size() - 16, bf16_nan);
  run(in.data(), rows, inner, out.data());
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < inner; ++i) {
      const double gate = in[r * 2 * inner + i], expected = activation(gate) * in[r * 2 * inner + inner + i];
      // The oracle's own 1 + tanh has lost its digits where its result is below 1e-9.
      CHECK(rounds_to(out[r * inner + i], expected) || (std::fabs(expected) < 1e-9 && std::fabs(from_bf16(out[r * inner + i])) < 1e-9),
            "%s %s inner %d [%d, %d] gate %g: %g, not %g", table.name, name, inner, r, i, gate, from_bf16(out[r * inner + i]), expected);
    }
    run(&in[r * 2 * inner], 1, inner, &alone[r * inner]);
  }
  CHECK(same_bits(out.data(), alone.data(), alone.size()), "%s %s rows %d inner %d", table.name, name, rows, inner);
  for (int i = 0; i < 16; ++i) CHECK(out[alone.size() + i] == bf16_nan, "%s %s wrote beyond its rows", table.name, name);
  in[2] = not_a_number;
  std::vector<bf16> spoilt(out.size(), bf16_nan);
  run(in.data(), rows, inner, spoilt.data());
  CHECK(std::isnan(from_bf16(spoilt[2])), "%s %s: NaN became %g", table.name, name, from_bf16(spoilt[2]));
  spoilt[2] = out[2];
  CHECK(same_bits(spoilt.data(), out.data(), out.size()), "%s %s: a NaN spread", table.name, name);
}

void check_sigmoid_mul(const Kernels &table, Random &random, int n) {
  const std::vector<bf16> gates = random.bf16s(n, 5), before = random.bf16s(n + 16);
  std::vector<bf16> x = before, parts = before;
  table.sigmoid_mul(gates.data(), n, x.data());
  for (int i = 0; i < n; ++i) {
    const double expected = from_bf16(before[i]) / (1 + std::exp(-static_cast<double>(from_bf16(gates[i]))));
    CHECK(rounds_to(x[i], expected), "%s sigmoid_mul [%d] gate %g: %g, not %g", table.name, i, from_bf16(gates[i]),
          from_bf16(x[i]), expected);
  }
  for (int at = 0; at < n;) {
    const int count = std::min(n - at, random.integer(1, 50));
    table.sigmoid_mul(&gates[at], count, &parts[at]);
    at += count;
  }
  CHECK(same_bits(x.data(), parts.data(), x.size()), "%s sigmoid_mul n %d", table.name, n);
}

void check_soft_cap(const Kernels &table, Random &random, int n) {
  const std::vector<float> before = random.floats(n + 16, 40);
  std::vector<float> x = before, parts = before;
  table.soft_cap(x.data(), n, 30);
  for (int i = 0; i < n + 16; ++i) {
    const double expected = i < n ? 30 * std::tanh(before[i] / 30.0) : before[i];
    CHECK(std::fabs(x[i] - expected) <= 1e-5, "%s soft_cap of %g: %g, not %g", table.name, before[i], x[i], expected);
  }
  for (int at = 0; at < n; at += 7) table.soft_cap(&parts[at], std::min(7, n - at), 30);
  CHECK(same_bits(x.data(), parts.data(), x.size()), "%s soft_cap n %d", table.name, n);
}

void check_rope(const Kernels &table, Random &random, int rows, int heads, int head_dim, int rotated, bool normed) {
  const int width = heads * head_dim, half = rotated / 2, ldx = width + random.one_of({0, 8});
  constexpr int max_position = 20;
  const std::vector<float> x = random.floats(static_cast<size_t>(rows) * ldx),
                           angle = random.floats(static_cast<size_t>(max_position) * half, 3);
  std::vector<float> cosines, sines, weight = random.floats(head_dim);
  for (const float a : angle) {
    cosines.push_back(std::cos(a));
    sines.push_back(std::sin(a));
  }
  std::vector<int32_t> positions;
  for (int r = 0; r < rows; ++r) positions.push_back(random.integer(0, max_position - 1));
  const Heads shape{heads, head_dim, normed ? weight.data() : nullptr, 1e-5f};
  std::vector<bf16> out(static_cast<size_t>(rows) * width + 16, bf16_nan), alone(out.size() - 16, bf16_nan);
  table.rope(x.data(), ldx, rows, shape, {rotated, cosines.data(), sines.data(), positions.data()}, out.data());
  for (int r = 0; r < rows; ++r) {
    for (int h = 0; h < heads; ++h) {
      std::vector<double> head(&x[r * ldx + h * head_dim], &x[r * ldx + h * head_dim] + head_dim);
      double squares = 0;
      for (const double value : head) squares += value * value;
      if (normed)
        for (int i = 0; i < head_dim; ++i) head[i] *= weight[i] / std::sqrt(squares / head_dim + 1e-5);
      std::vector<double> expected = head;
      for (int i = 0; i < half; ++i) {
        const double c = cosines[positions[r] * half + i], s = sines[positions[r] * half + i];
        expected[i] = head[i] * c - head[half + i] * s;
        expected[half + i] = head[half + i] * c + head[i] * s;
      }
      for (int i = 0; i < head_dim; ++i) {
        const float got = from_bf16(out[r * width + h * head_dim + i]);
        // The two products may cancel: an f32 rounding of each besides the one to bf16.
        CHECK(std::fabs(got - expected[i]) <= std::fabs(expected[i]) * 0x1p-8 * 1.02 + 2e-6,
              "%s rope dim %d of %d normed %d [%d, %d, %d]: %g, not %g", table.name, rotated, head_dim, normed, r, h, i, got,
              expected[i]);
      }
    }
    table.rope(&x[r * ldx], ldx, 1, shape, {rotated, cosines.data(), sines.data(), &positions[r]}, &alone[r * width]);
  }
  CHECK(same_bits(out.data(), alone.data(), alone.size()), "%s rope rows %d heads %d dim %d", table.name, rows, heads,
        head_dim);
  for (int i = 0; i < 16; ++i) CHECK(out[alone.size() + i] == bf16_nan, "%s rope wrote beyond its rows", table.name);
  table.round_rows(x.data(), ldx, rows, width, out.data());
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < width; ++i)
      CHECK(out[r * width + i] == to_bf16(x[r * ldx + i]), "%s round_rows [%d, %d]", table.name, r, i);
}

// Ties go to even, and a carry goes into the exponent.
void check_rounding(const Kernels &table) {
  const uint32_t cases[16] = {0x3f808000, 0x3f818000, 0x3f808001, 0x3f807fff, 0x3fffffff, 0xbf808000,
                              0xbf818000, 0x7f7f7fff, 0x00000000, 0x80000000, 0x7f800000, 0xff800000,
                              0x3f800000, 0x42f6e979, 0xc2f6e979, 0x7f7fffff};
  const bf16 expected[16] = {0x3f80, 0x3f82, 0x3f81, 0x3f80, 0x4000, 0xbf80, 0xbf82, 0x7f7f,
                             0x0000, 0x8000, 0x7f80, 0xff80, 0x3f80, 0x42f7, 0xc2f7, 0x7f80};
  float x[16];
  std::memcpy(x, cases, sizeof x);
  bf16 out[16];
  table.round_rows(x, 16, 1, 16, out);
  for (int i = 0; i < 16; ++i) CHECK(out[i] == expected[i], "%s: %08x rounds to %04x", table.name, cases[i], out[i]);
  x[3] = not_a_number;
  table.round_rows(x, 16, 1, 16, out);
  CHECK(std::isnan(from_bf16(out[3])), "%s: NaN rounds to %04x", table.name, out[3]);
}

// Every row where the layout says, zeros to the end of the last group of 16, nothing else touched.
void check_write_kv(const Kernels &table, Random &random, int rows, int kv_heads, int head_dim, int page_size) {
  Cache cache(random, rows, kv_heads, head_dim, page_size);
  for (int row = 0; row < rows;) {
    const int count = std::min(rows - row, random.integer(1, 40));
    cache.write(table, row, count);
    row += count;
    const int end = (row + 15) / 16 * 16;
    for (int r = 0; r < cache.page_count() * page_size; ++r)
      for (int h = 0; h < kv_heads; ++h)
        for (int d = 0; d < head_dim; ++d) {
          const int slot = r % page_size, head = h * page_size * head_dim;
          const bf16 k =
              cache.k_page(r / page_size)[head + ((slot / 16 * head_dim / 2 + d / 2) * 16 + slot % 16) * 2 + d % 2];
          const bf16 v = cache.v_page(r / page_size)[head + (slot / 2 * head_dim + d) * 2 + slot % 2];
          const bool written = r < row;
          const bf16 rest = r < end ? 0 : bf16_nan;
          CHECK(k == (written ? cache.key(r, h)[d] : rest) && v == (written ? cache.value(r, h)[d] : rest),
                "%s write_kv heads %d dim %d page %d, %d rows written: row %d head %d dim %d is %04x, %04x", table.name,
                kv_heads, head_dim, page_size, row, r, h, d, k, v);
        }
  }
}

}  // namespace

int main() {
  for (const Kernels *table : kernel_tables()) {
    Random random(17);
    for (const int width : {8, 16, 24, 136, 512}) {
      check_rms_norm(*table, random, random.integer(1, 40), width);
      check_add_rms_norm(*table, random, random.integer(1, 40), width);
      check_gated_mul(*table, random, random.integer(1, 40), width, "silu_mul", table->silu_mul, silu);
      check_gated_mul(*table, random, random.integer(1, 40), width, "gelu_mul", table->gelu_mul, gelu);
      check_sigmoid_mul(*table, random, random.integer(1, 40) * width);
      check_soft_cap(*table, random, random.integer(1, 5) * width);
    }
    check_rms_norm(*table, random, 70, 640);  // large enough for a parallel region
    check_add_rms_norm(*table, random, 120, 640);
    check_gated_mul(*table, random, 120, 640, "silu_mul", table->silu_mul, silu);
    check_gated_mul(*table, random, 120, 640, "gelu_mul", table->gelu_mul, gelu);
    check_sigmoid_mul(*table, random, 70000);
    check_soft_cap(*table, random, 70001);
    for (const int head_dim : {16, 32, 48, 64, 256})
      for (const bool normed : {false, true})
        check_rope(*table, random, random.integer(1, 40), random.integer(1, 5), head_dim,
                   head_dim / random.one_of({1, 2, 4}), normed);
    check_rope(*table, random, 90, 4, 256, 64, true);
    check_rounding(*table);
    for (const int page_size : {64, 128, 192})
      check_write_kv(*table, random, random.integer(100, 300), random.integer(1, 3), 16 * random.integer(1, 5),
                     page_size);
    check_write_kv(*table, random, 200, 2, 64, 256);
  }
  return check_result();
}
