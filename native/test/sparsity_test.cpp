// Which blocks of keys a block of rows reads: the rule against a plain sort, the kernels' choice against double precision and under
// threads and cuts, and rows that read chosen blocks alone against those that have no others.
#include "selection/sparsity.h"

#include "backend_harness.h"
#include "kernel_inputs.h"
#include "random_checkpoint.h"
#include "random_specs.h"

namespace {

using up::sparse_key_rows;
using up::sparse_query_rows;
using up::sparse_samples;

bool has(const uint32_t *bitmap, int block) { return (bitmap[block / 32] >> (block % 32) & 1) != 0; }

uint64_t q32(double p) { return static_cast<uint64_t>(std::ldexp(p, 32)); }

// The most massive first, until they have enough together.
void check_rule(Random &random) {
  for (int turn = 0; turn < 400; ++turn) {
    const int blocks = random.integer(2, turn % 4 == 0 ? 4 : 200);
    std::vector<uint32_t> masses(static_cast<size_t>(blocks));
    const int kinds = random.one_of({1, 5, 1 << 20});  // the sum stays below 2³²
    for (uint32_t &mass : masses) mass = static_cast<uint32_t>(random.integer(0, kinds));
    const uint64_t p = q32(random.one_of({0.01, 0.3, 0.5, 0.9, 0.999}));
    std::vector<uint32_t> bitmap(static_cast<size_t>(up::sparse_words(blocks * sparse_key_rows)), 0xdeadbeef);
    up::choose_key_blocks(masses, p, bitmap.data());
    std::vector<uint32_t> sorted = masses;
    std::sort(sorted.rbegin(), sorted.rend());
    const uint64_t total = std::accumulate(masses.begin(), masses.end(), uint64_t{0});
    uint64_t sum = 0;
    uint32_t least = UINT32_MAX;
    for (size_t i = 0; i < sorted.size() && static_cast<unsigned __int128>(sum) << 32 < static_cast<unsigned __int128>(total) * p; ++i)
      sum += least = sorted[i];
    for (int block = 0; block < blocks; ++block) {
      const bool always = block < up::sparse_sink_blocks || block >= blocks - up::sparse_own_blocks;
      CHECK(has(bitmap.data(), block) == (always || (least != UINT32_MAX && masses[static_cast<size_t>(block)] >= least)),
            "turn %d: block %d of %d with %u of %llu, p %llu", turn, block, blocks, masses[static_cast<size_t>(block)],
            static_cast<unsigned long long>(total), static_cast<unsigned long long>(p));
    }
    for (int bit = blocks; bit < 32 * static_cast<int>(bitmap.size()); ++bit) CHECK(!has(bitmap.data(), bit), "turn %d: bit %d", turn, bit);
    up::keep_key_blocks(blocks, bitmap.data());
    for (int bit = 0; bit < 32 * static_cast<int>(bitmap.size()); ++bit) CHECK(has(bitmap.data(), bit) == (bit < blocks));
  }
}

// Query rows [first, first + 128 · blocks) and all keys up to them.
struct Sampled {
  AttentionShape shape;
  int first, blocks;
  Cache cache;
  std::vector<bf16> queries;  // [128 · blocks, heads, head_dim]

  Sampled(Random &random, const Kernels &table, AttentionShape shape, int first, int blocks, int page_size)
      : shape(shape),
        first(first),
        blocks(blocks),
        cache(random, first + blocks * sparse_query_rows, shape.kv_heads, shape.head_dim, page_size),
        queries(random.bf16s(static_cast<size_t>(blocks) * sparse_query_rows * shape.heads * shape.head_dim)) {
    cache.write(table, 0, cache.rows);
  }

  int words(int count) const { return up::sparse_words(first + count * sparse_query_rows); }
  std::vector<uint32_t> choose(const Kernels &table, double p) const {
    std::vector<uint32_t> out(static_cast<size_t>(shape.kv_heads) * blocks * words(blocks), 0xdeadbeef);
    table.sparse_keys(queries.data(), first, blocks, cache.pages(), shape, q32(p), out.data());
    return out;
  }
  // Masses of the blocks that the rows of a block see, of the query heads of one KV head.
  std::vector<double> masses(int block, int kv_head) const {
    const int group = shape.heads / shape.kv_heads, end = first + (block + 1) * sparse_query_rows;
    std::vector<double> out(end / sparse_key_rows), weight(end);
    for (int h = kv_head * group; h < (kv_head + 1) * group; ++h)
      for (int q = 15; q < sparse_query_rows; q += 16) {
        const int local = block * sparse_query_rows + q, row = first + local;
        const bf16 *query = &queries[(static_cast<size_t>(local) * shape.heads + h) * shape.head_dim];
        double top = -INFINITY, total = 0;
        for (int j = 0; j <= row; ++j) top = std::max(top, weight[j] = reference_score(query, cache.key(j, kv_head), shape));
        for (int j = 0; j <= row; ++j) total += weight[j] = std::exp(weight[j] - top);
        for (int j = 0; j <= row; ++j) out[j / sparse_key_rows] += weight[j] / total;
      }
    return out;
  }
};

// Every block that is read for its mass has no less than any that is not, and what is read has the share that was asked for.
void check_choice(const Kernels &table, const Sampled &c, double p) {
  const std::vector<uint32_t> bitmaps = c.choose(table, p);
  for (int kv_head = 0; kv_head < c.shape.kv_heads; ++kv_head)
    for (int block = 0; block < c.blocks; ++block) {
      const uint32_t *bitmap = &bitmaps[(static_cast<size_t>(kv_head) * c.blocks + block) * c.words(c.blocks)];
      const std::vector<double> masses = c.masses(block, kv_head);
      const int count = static_cast<int>(masses.size());
      double least = INFINITY, most = 0, read = 0, total = 0;
      for (int b = 0; b < count; ++b) {
        const bool always = b < up::sparse_sink_blocks || b >= count - up::sparse_own_blocks;
        total += masses[b];
        if (has(bitmap, b)) read += masses[b];
        if (has(bitmap, b) && !always) least = std::min(least, masses[b]);
        if (!has(bitmap, b)) most = std::max(most, masses[b]);
        CHECK(!always || has(bitmap, b), "%s: block %d of %d is not read", table.name, b, count);
      }
      const double unit = 1e-5 * total;
      CHECK(least >= most - unit, "%s heads %d/%d dim %d, rows from %d: read %g, left out %g of %g", table.name, c.shape.heads,
            c.shape.kv_heads, c.shape.head_dim, c.first + block * sparse_query_rows, least, most, total);
      CHECK(read >= p * total - unit, "%s: %g of %g are read", table.name, read, total);
      // Without the least of them it would not be enough.
      if (least < INFINITY) {
        double above = 0;
        for (const double mass : masses) above += mass > least + unit ? mass : 0;
        CHECK(above < p * total + unit, "%s: more is read than was asked for: %g of %g without the least", table.name, above, total);
      }
    }
}

void check_same_bits(const Kernels &table, const Sampled &c) {
  const std::vector<uint32_t> expected = c.choose(table, 0.5);
  for (const int threads : {1, 2, 3}) {
    const Threads scope(threads);
    CHECK(c.choose(table, 0.5) == expected, "%s: %d threads", table.name, threads);
  }
  // Each block by itself.
  for (int block = 0; block < c.blocks; ++block) {
    const int first = c.first + block * sparse_query_rows, words = up::sparse_words(first + sparse_query_rows);
    std::vector<uint32_t> alone(static_cast<size_t>(c.shape.kv_heads) * words);
    const size_t at = static_cast<size_t>(block) * sparse_query_rows * c.shape.heads * c.shape.head_dim;
    table.sparse_keys(c.queries.data() + at, first, 1, c.cache.pages(), c.shape, q32(0.5), alone.data());
    for (int kv_head = 0; kv_head < c.shape.kv_heads; ++kv_head)
      CHECK(same_bits(&alone[static_cast<size_t>(kv_head) * words],
                      &expected[(static_cast<size_t>(kv_head) * c.blocks + block) * c.words(c.blocks)], static_cast<size_t>(words)),
            "%s: block %d by itself", table.name, block);
  }
}

// Scores that are not finite leave nothing out, of their KV head's rows alone.
void check_not_finite(const Kernels &table, Random &random) {
  Sampled c(random, table, {2, 2, 32, 4.0f, 0}, 1024, 1, 128);
  const std::vector<uint32_t> finite = c.choose(table, 0.5);
  c.queries[static_cast<size_t>(31) * 2 * 32] = bf16_nan;  // row 31, the first head
  const std::vector<uint32_t> bad = c.choose(table, 0.5);
  const int words = c.words(1), blocks = c.cache.rows / sparse_key_rows;
  for (int block = 0; block < blocks; ++block) {
    CHECK(has(bad.data(), block), "%s: block %d", table.name, block);
    CHECK(has(&bad[words], block) == has(&finite[words], block), "%s: the other head's block %d", table.name, block);
  }
}

// The first block of rows leaves keys out: as if the values there were any others, and as a softmax of the rest.
void check_attention(const Kernels &table, Random &random) {
  Sampled c(random, table, {4, 2, 32, 0.3f, 0}, 512, 1, 64);
  const int rows = sparse_query_rows, words = c.words(1);
  std::vector<int32_t> hi(rows);
  std::iota(hi.begin(), hi.end(), c.first);
  std::vector<uint32_t> bitmaps(2 * static_cast<size_t>(words), 0);
  for (const int block : {0, 1, 5, 8, 9}) bitmaps[0] |= 1u << block;
  for (const int block : {0, 1, 2, 3, 8, 9}) bitmaps[static_cast<size_t>(words)] |= 1u << block;
  std::vector<bf16> output(c.queries.size(), bf16_nan);
  Attention group{.rows = rows, .queries = c.queries.data(), .kv = c.cache.pages(), .lo = nullptr, .hi = hi.data(), .output = output.data()};
  group.bitmaps = bitmaps.data();
  group.sparse_blocks = 1;
  group.words = words;
  table.attend(&group, 1, c.shape);
  for (int q = 0; q < rows; ++q)
    for (int h = 0; h < 4; ++h) {
      const uint32_t *bitmap = &bitmaps[static_cast<size_t>(h / 2 * words)];
      const size_t at = (static_cast<size_t>(q) * 4 + h) * 32;
      double total = 0;
      std::vector<double> expected(32, 0), magnitude(32, 0);
      for (int j = 0; j <= hi[q]; ++j) {
        if (!has(bitmap, j / sparse_key_rows)) continue;
        const double weight = std::exp(reference_score(&c.queries[at], c.cache.key(j, h / 2), c.shape));
        total += weight;
        for (int d = 0; d < 32; ++d) {
          expected[d] += weight * from_bf16(c.cache.value(j, h / 2)[d]);
          magnitude[d] += weight * std::fabs(from_bf16(c.cache.value(j, h / 2)[d]));
        }
      }
      for (int d = 0; d < 32; ++d) {
        const double got = from_bf16(output[at + d]), value = expected[d] / total;
        CHECK(std::fabs(got - value) <= 0x1p-8 * (1.1 * magnitude[d] / total + std::fabs(value)) + 1e-6, "%s: row %d head %d: %g, not %g",
              table.name, q, h, got, value);
      }
    }
}

// One layer, so that a block that lies at the cut moves the rows that read it and no others.
void check_backends(up_kernels kernels, uint64_t seed) {
  RandomSpec spec(seed);
  up::ModelTable model = spec.model({up::Mixer::full}, false);
  up::AttentionSpec &a = model.layers[0].attention;
  a.scale = 8 / std::sqrt(static_cast<float>(a.head_dim));  // so that keys differ in what they are worth
  model.embedding_scale = 0.1f;                             // and attention is much of what comes out
  const TemporaryDirectory directory;
  const auto checkpoint = random_checkpoint(directory, model, seed);
  const HarnessLimits limits{.prefill_p = 0.6};
  const auto token_of = [](int slot, int row) { return (slot * 31 + row * row * 7 + row * 13) % 150; };
  const std::vector<Chunk> whole{{0, 0, 900}};
  BackendHarness reference(checkpoint, {}, seed, false, make_reference, {}, limits);
  BackendHarness all(checkpoint, {}, seed, false, make_reference);
  BackendHarness cpu(checkpoint, {}, seed, false, make_cpu(kernels, 2), {}, limits);
  const auto vocab = static_cast<size_t>(model.vocab_size);
  const auto row = [&](const std::vector<float> &logits, int i) {
    return std::vector<float>(logits.begin() + static_cast<ptrdiff_t>(i * vocab), logits.begin() + static_cast<ptrdiff_t>((i + 1) * vocab));
  };
  const std::vector<float> expected = reference.step(whole, token_of), got = cpu.step(whole, token_of), dense = all.step(whole, token_of);
  int far = 0, sparse = 0;
  for (int i = 0; i < 900; i++) {
    far += relative_error(row(got, i), row(expected, i)) > 0.03;
    sparse += relative_error(row(dense, i), row(expected, i)) > 0.03;
  }
  CHECK(far <= 10, "kernels %d, seed %d: %d of 900 rows are far from the reference", kernels, static_cast<int>(seed), far);
  CHECK(sparse > 400, "kernels %d, seed %d: nothing is left out but in %d rows", kernels, static_cast<int>(seed), sparse);
  // Cut otherwise, with another prompt beside it: the same bits.
  BackendHarness cut(checkpoint, {}, seed + 1, true, make_cpu(kernels, 1), {}, limits);
  std::vector<float> again;
  for (const auto &[first, rows] : {std::pair{0, 128}, {128, 384}, {512, 256}, {768, 132}}) {
    const std::vector<float> logits = cut.step({{1, first, rows}, {0, first, rows}}, token_of);
    again.insert(again.end(), logits.begin() + static_cast<ptrdiff_t>(rows * vocab), logits.end());
  }
  CHECK(again == got, "kernels %d, seed %d: cut otherwise, other bits", kernels, static_cast<int>(seed));
}

}  // namespace

int main() {
  Random random(5);
  check_rule(random);
  for (const Kernels *table : kernel_tables()) {
    for (const int first : {0, 128, 896, 2048}) {
      const int kv_heads = random.integer(1, 3), group = random.integer(1, 5), dim = 16 * random.integer(1, 6);
      const Sampled c(random, *table, {kv_heads * group, kv_heads, dim, random.one_of({0.05f, 0.5f}), random.one_of({0.0f, 20.0f})}, first,
                      random.integer(1, 3), random.one_of({64, 128, 192}));
      for (const double p : {0.1, 0.5, 0.95}) check_choice(*table, c, p);
      check_same_bits(*table, c);
    }
    check_not_finite(*table, random);
    check_attention(*table, random);
  }
  check_backends(UP_KERNELS_PORTABLE, 1);
  if (avx2_kernels() != nullptr) check_backends(UP_KERNELS_AVX2, 2);
  if (avx512_bf16_kernels() != nullptr) check_backends(UP_KERNELS_AVX512_BF16, 3);
  return check_result();
}
