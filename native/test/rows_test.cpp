// The kernels that work row by row: rms_norm, silu_mul, rope, write_kv.
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

void check_silu_mul(const Kernels &table, Random &random, int rows, int inner) {
  std::vector<float> in = random.floats(static_cast<size_t>(rows) * 2 * inner, 5);
  in[0] = 200;  // far out on both sides, and 0
  in[1] = -200;
  in[2] = 0;
  std::vector<bf16> out(static_cast<size_t>(rows) * inner + 16, bf16_nan), alone(out.size() - 16, bf16_nan);
  table.silu_mul(in.data(), rows, inner, out.data());
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < inner; ++i) {
      const double gate = in[r * 2 * inner + i],
                   expected = gate / (1 + std::exp(-gate)) * in[r * 2 * inner + inner + i];
      CHECK(rounds_to(out[r * inner + i], expected), "%s silu_mul inner %d [%d, %d] gate %g: %g, not %g", table.name,
            inner, r, i, gate, from_bf16(out[r * inner + i]), expected);
    }
    table.silu_mul(&in[r * 2 * inner], 1, inner, &alone[r * inner]);
  }
  CHECK(same_bits(out.data(), alone.data(), alone.size()), "%s silu_mul rows %d inner %d", table.name, rows, inner);
  for (int i = 0; i < 16; ++i)
    CHECK(out[alone.size() + i] == bf16_nan, "%s silu_mul wrote beyond its rows", table.name);
}

void check_rope(const Kernels &table, Random &random, int rows, int heads, int head_dim) {
  const int width = heads * head_dim, half = head_dim / 2, ldx = width + random.one_of({0, 8});
  const std::vector<float> x = random.floats(static_cast<size_t>(rows) * ldx),
                           angle = random.floats(static_cast<size_t>(rows) * half, 3);
  std::vector<float> cosines, sines;
  for (const float a : angle) {
    cosines.push_back(std::cos(a));
    sines.push_back(std::sin(a));
  }
  std::vector<bf16> out(static_cast<size_t>(rows) * width + 16, bf16_nan), alone(out.size() - 16, bf16_nan);
  table.rope(x.data(), ldx, rows, heads, head_dim, cosines.data(), sines.data(), out.data());
  for (int r = 0; r < rows; ++r) {
    for (int h = 0; h < heads; ++h)
      for (int i = 0; i < half; ++i) {
        const double first = x[r * ldx + h * head_dim + i], second = x[r * ldx + h * head_dim + half + i];
        const double c = cosines[r * half + i], s = sines[r * half + i];
        const double expected[2] = {first * c - second * s, second * c + first * s};
        for (int part = 0; part < 2; ++part) {
          const float got = from_bf16(out[r * width + h * head_dim + part * half + i]);
          // The two products may cancel: an f32 rounding of each besides the one to bf16.
          CHECK(std::fabs(got - expected[part]) <= std::fabs(expected[part]) * 0x1p-8 * 1.02 + 1e-6,
                "%s rope dim %d [%d, %d, %d]: %g, not %g", table.name, head_dim, r, h, part * half + i, got,
                expected[part]);
        }
      }
    table.rope(&x[r * ldx], ldx, 1, heads, head_dim, &cosines[r * half], &sines[r * half], &alone[r * width]);
  }
  CHECK(same_bits(out.data(), alone.data(), alone.size()), "%s rope rows %d heads %d dim %d", table.name, rows, heads,
        head_dim);
  for (int i = 0; i < 16; ++i) CHECK(out[alone.size() + i] == bf16_nan, "%s rope wrote beyond its rows", table.name);
  table.rope(x.data(), ldx, rows, heads, head_dim, nullptr, nullptr, out.data());
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < width; ++i)
      CHECK(out[r * width + i] == to_bf16(x[r * ldx + i]), "%s rope without angles [%d, %d]", table.name, r, i);
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
  table.rope(x, 16, 1, 1, 16, nullptr, nullptr, out);
  for (int i = 0; i < 16; ++i) CHECK(out[i] == expected[i], "%s: %08x rounds to %04x", table.name, cases[i], out[i]);
  x[3] = not_a_number;
  table.rope(x, 16, 1, 1, 16, nullptr, nullptr, out);
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
    for (int r = 0; r < static_cast<int>(cache.k_pages.size()) * page_size; ++r)
      for (int h = 0; h < kv_heads; ++h)
        for (int d = 0; d < head_dim; ++d) {
          const int slot = r % page_size, head = h * page_size * head_dim;
          const bf16 k =
              cache.k_pages[r / page_size][head + ((slot / 16 * head_dim / 2 + d / 2) * 16 + slot % 16) * 2 + d % 2];
          const bf16 v = cache.v_pages[r / page_size][head + (slot / 2 * head_dim + d) * 2 + slot % 2];
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
      check_silu_mul(*table, random, random.integer(1, 40), width);
    }
    check_rms_norm(*table, random, 70, 640);  // large enough for a parallel region
    check_silu_mul(*table, random, 70, 640);
    for (const int head_dim : {16, 32, 48, 64, 256})
      check_rope(*table, random, random.integer(1, 40), random.integer(1, 5), head_dim);
    check_rope(*table, random, 90, 4, 64);
    check_rounding(*table);
    for (const int page_size : {64, 128, 192})
      check_write_kv(*table, random, random.integer(100, 300), random.integer(1, 3), 16 * random.integer(1, 5),
                     page_size);
    check_write_kv(*table, random, 200, 2, 64, 256);
  }
  return check_result();
}
