// The operator level of the C ABI where there is no device: what it refuses, and what the reference backend computes.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "uniprefill/operators.h"

namespace {

constexpr uint64_t one_q32 = uint64_t{1} << 32;

void expect_error(up_status got, up_status expected, std::initializer_list<const char *> words) {
  CHECK(got == expected, "status %d, expected %d", got, expected);
  if (got == UP_OK) return;
  const std::string detail = up_last_error().detail;
  for (const char *word : words) CHECK(detail.find(word) != std::string::npos, "'%s' lacks '%s'", detail.c_str(), word);
}

// Random f64 queries and keys of a few requests, one of them strided without pages.
struct Selecting {
  int rows, heads = 4, kv_heads = 2, head_dim = 8, last_q = 128;
  std::vector<double> queries, keys;
  std::vector<uint64_t> masses, p_q32{one_q32 / 2};
  std::vector<uint32_t> bitmaps;
  std::vector<int32_t> kept, lengths, kept_lengths{-1}, fallbacks{-1};
  up_selection p{};

  explicit Selecting(int rows, double spread = 1) : rows(rows), lengths{rows} {
    std::mt19937_64 bits(static_cast<uint64_t>(rows));
    std::normal_distribution<double> normal(0, spread);
    queries.resize(static_cast<size_t>(last_q * heads * head_dim));
    keys.resize(static_cast<size_t>(rows * kv_heads * head_dim));
    for (double &x : queries) x = normal(bits);
    for (double &x : keys) x = normal(bits);
    const size_t blocks = static_cast<size_t>((rows + 63) / 64);
    masses.assign(blocks, 77);
    bitmaps.assign((blocks + 31) / 32, ~0u);
    kept.assign(static_cast<size_t>(rows), -7);
    p.size = sizeof p;
    p.dtype = UP_F64;
    p.requests = 1;
    p.heads = heads;
    p.kv_heads = kv_heads;
    p.head_dim = head_dim;
    p.max_rows = rows;
    p.block = 64;
    p.sink = 128;
    p.last_q = last_q;
    p.rule = UP_RULE_EXCLUSIVE;
    p.scale = 0.35f;
    p.queries = queries.data();
    p.query_request_stride = last_q * heads * head_dim;
    p.query_row_stride = heads * head_dim;
    p.query_head_stride = head_dim;
    p.keys.data = keys.data();
    p.keys.page_stride = int64_t{rows} * kv_heads * head_dim;
    p.keys.row_stride = kv_heads * head_dim;
    p.keys.head_stride = head_dim;
    p.keys.page_count = 1;
    p.lengths = lengths.data();
    p.p_q32 = p_q32.data();
    p.masses = masses.data();
    p.bitmaps = bitmaps.data();
    p.kept = kept.data();
    p.kept_lengths = kept_lengths.data();
    p.fallbacks = fallbacks.data();
  }
  up_status run() const { return up_select(UP_REFERENCE, &p, nullptr, 0, nullptr); }
  bool bit(int block) const { return bitmaps[static_cast<size_t>(block / 32)] >> (block % 32) & 1; }
  std::vector<int32_t> kept_rows() const { return {kept.begin(), kept.begin() + kept_lengths[0]}; }
};

void masses_add_up() {
  for (const int rows : {1, 64, 129, 700}) {
    Selecting s(rows);
    CHECK(s.run() == UP_OK, "%s", up_last_error().detail);
    const double total = static_cast<double>(std::accumulate(s.masses.begin(), s.masses.end(), uint64_t{0}));
    const double expected = std::ldexp(s.heads * std::min(rows, s.last_q), 40);
    CHECK(std::abs(total - expected) < 1e-9 * expected, "%d rows: total %g, expected %g", rows, total, expected);
    CHECK(s.fallbacks[0] == 0);
  }
}

void rule_keeps_what_it_says() {
  Selecting s(1000);
  for (const uint64_t p : {uint64_t{0}, one_q32 / 3, one_q32 * 9 / 10, one_q32}) {
    s.p_q32[0] = p;
    CHECK(s.run() == UP_OK);
    // Blocks 2 … 13 are in question: 0 and 1 are the sink; 14 and 15 hold rows 896 … 999, all among the last 128.
    std::vector<uint64_t> kept_masses, dropped_masses;
    uint64_t total = 0;
    for (int b = 2; b < 14; b++) {
      (s.bit(b) ? kept_masses : dropped_masses).push_back(s.masses[static_cast<size_t>(b)]);
      total += s.masses[static_cast<size_t>(b)];
    }
    CHECK(!kept_masses.empty());
    std::sort(kept_masses.begin(), kept_masses.end());
    for (const uint64_t dropped : dropped_masses) CHECK(dropped <= kept_masses[0]);
    const uint64_t kept_sum = std::accumulate(kept_masses.begin(), kept_masses.end(), uint64_t{0});
    const auto threshold = static_cast<uint64_t>(static_cast<unsigned __int128>(total) * p >> 32);
    CHECK(kept_sum - kept_masses[0] <= threshold, "the last block kept had more than p before it");
    CHECK(dropped_masses.empty() || kept_sum > threshold, "a block was dropped with at most p before it");
    if (p == 0) CHECK(kept_masses.size() == 1);
    if (p == one_q32) CHECK(dropped_masses.empty());
    std::vector<int32_t> expected;
    for (int row = 0; row < 1000; row++)
      if (row < 128 || row >= 872 || s.bit(row / 64)) expected.push_back(row);
    CHECK(s.kept_rows() == expected);
  }
}

void short_and_broken_requests_keep_all() {
  Selecting shorter(256);
  shorter.p_q32[0] = 0;
  CHECK(shorter.run() == UP_OK);
  CHECK(shorter.kept_lengths[0] == 256);
  for (const double bad : {double(NAN), double(INFINITY), -double(INFINITY)}) {
    Selecting broken(900);
    broken.p_q32[0] = 0;
    broken.queries[5] = bad;
    CHECK(broken.run() == UP_OK);
    CHECK(broken.kept_lengths[0] == 900 && broken.fallbacks[0] == 1);
  }
  Selecting wild(300);
  wild.lengths[0] = 1 << 30;
  CHECK(wild.run() == UP_OK);
  CHECK(wild.kept_lengths[0] <= 300);
  wild.lengths[0] = -5;
  CHECK(wild.run() == UP_OK);
  CHECK(wild.kept_lengths[0] == 0);
}

// Attention over values that are all the same gives that value; over one key, its value; over none, zeros.
void attention_is_an_average() {
  constexpr int keys = 40, heads = 4, kv_heads = 2, d = 8;
  std::mt19937 bits(3);
  std::normal_distribution<double> normal;
  std::vector<double> q(3 * heads * d), k(keys * kv_heads * d), v(keys * kv_heads * d, 2.5), out(3 * heads * d, -1);
  for (double &x : q) x = normal(bits);
  for (double &x : k) x = normal(bits);
  v[(7 * kv_heads + 1) * d + 3] = 9;  // key 7, KV head 1: seen only by rows that see key 7
  const std::vector<int32_t> starts{0, 3}, lo{8, 7, 5}, hi{39, 7, 4};
  up_prefill_attention p{};
  p.size = sizeof p;
  p.dtype = UP_F64;
  p.requests = 1;
  p.max_query_rows = 3;
  p.max_key_rows = keys;
  p.heads = heads;
  p.kv_heads = kv_heads;
  p.head_dim = d;
  p.scale = 0.5f;
  p.soft_cap = 30;
  p.queries = q.data();
  p.query_row_stride = p.output_row_stride = heads * d;
  p.query_head_stride = p.output_head_stride = d;
  p.keys = {k.data(), nullptr, 0, keys * kv_heads * d, kv_heads * d, d, 0, 1, nullptr, 0};
  p.values = p.keys;
  p.values.data = v.data();
  p.row_starts = starts.data();
  p.lo = lo.data();
  p.hi = hi.data();
  p.output = out.data();
  CHECK(up_attend_prefill(UP_REFERENCE, &p, nullptr, 0, nullptr) == UP_OK, "%s", up_last_error().detail);
  for (int i = 0; i < heads * d; i++) {
    CHECK(std::abs(out[static_cast<size_t>(i)] - 2.5) < 1e-12);
    CHECK(out[static_cast<size_t>(heads * d + i)] == (i >= 2 * d && i % d == 3 ? 9 : 2.5));
    CHECK(out[static_cast<size_t>(2 * heads * d + i)] == 0);
  }

  up_decode_attention one{};
  one.size = sizeof one;
  one.dtype = UP_F64;
  one.requests = 3;
  one.max_key_rows = keys;
  one.heads = heads;
  one.kv_heads = kv_heads;
  one.head_dim = d;
  one.scale = 0.5f;
  one.soft_cap = 30;
  one.queries = q.data();
  one.query_row_stride = one.output_row_stride = heads * d;
  one.query_head_stride = one.output_head_stride = d;
  const std::vector<int32_t> begin{8, 7, 5}, end{40, 8, 5};
  std::vector<double> decoded(out.size(), -1);
  one.keys = p.keys;
  one.values = p.values;
  one.keys.page_count = one.values.page_count = 1;  // requests beyond the pool are clamped to its last
  one.begin = begin.data();
  one.end = end.data();
  one.output = decoded.data();
  CHECK(up_attend_decode(UP_REFERENCE, &one, nullptr, 0, nullptr) == UP_OK, "%s", up_last_error().detail);
  CHECK(decoded == out);
}

// Pages in any order, in bf16 and f16, give what the same rows give without pages, in f64.
void pages_and_dtypes_agree() {
  for (const up_dtype dtype : {UP_BF16, UP_F16}) {
    Selecting s(500);
    // Numbers that every dtype holds exactly.
    for (double &x : s.queries) x = std::round(x * 8) / 8;
    for (double &x : s.keys) x = std::round(x * 8) / 8;
    CHECK(s.run() == UP_OK);
    const std::vector<uint64_t> expected = s.masses;
    const auto narrow = [&](double x) {
      const float f = static_cast<float>(x);
      uint32_t bits;
      std::memcpy(&bits, &f, 4);
      if (dtype == UP_BF16) return static_cast<uint16_t>(bits >> 16);
      if (f == 0) return static_cast<uint16_t>(bits >> 16 & 0x8000);
      return static_cast<uint16_t>((bits >> 16 & 0x8000) | ((bits >> 13 & 0x3ffff) - (112 << 10)));
    };
    std::vector<uint16_t> queries(s.queries.size());
    for (size_t i = 0; i < queries.size(); i++) queries[i] = narrow(s.queries[i]);
    constexpr int page = 32, pages = 16;
    std::vector<int32_t> table(pages);
    for (int i = 0; i < pages; i++) table[static_cast<size_t>(i)] = (7 * i + 3) % pages;
    const int page_elements = page * s.kv_heads * s.head_dim;
    std::vector<uint16_t> pool(static_cast<size_t>(pages * page_elements), 0x7fff);
    for (int row = 0; row < s.rows; row++)
      for (int i = 0; i < s.kv_heads * s.head_dim; i++) {
        const int head = i / s.head_dim, at = table[static_cast<size_t>(row / page)] * page_elements +
                                              head * page * s.head_dim + row % page * s.head_dim + i % s.head_dim;
        pool[static_cast<size_t>(at)] = narrow(s.keys[static_cast<size_t>(row * s.kv_heads * s.head_dim + i)]);
      }
    s.p.dtype = dtype;
    s.p.queries = queries.data();
    // Request 0 uses the table's second row; the first leads nowhere.
    std::vector<int32_t> rows(static_cast<size_t>(pages), -1);
    rows.insert(rows.end(), table.begin(), table.end());
    const int32_t second = 1;
    s.p.keys = {pool.data(), rows.data(), pages, page_elements, s.head_dim, page * s.head_dim, page, pages, &second, 2};
    CHECK(s.run() == UP_OK, "%s", up_last_error().detail);
    CHECK(s.masses == expected);
  }
}

void bad_arguments_are_named() {
  alignas(16) static unsigned char memory[64];
  const auto selection = [](const std::function<void(up_selection &)> &spoil) {
    up_selection p{};
    p.size = sizeof p;
    p.dtype = UP_BF16;
    p.requests = 1;
    p.heads = 8;
    p.kv_heads = 2;
    p.head_dim = 128;
    p.max_rows = 1000;
    p.block = 64;
    p.sink = p.last_q = 128;
    p.scale = 0.1f;
    p.queries = p.keys.data = memory;
    p.query_request_stride = p.query_row_stride = p.query_head_stride = 128;
    p.keys.page_stride = p.keys.row_stride = p.keys.head_stride = 128;
    p.keys.page_count = 1;
    p.lengths = p.kept = p.kept_lengths = reinterpret_cast<int32_t *>(memory);
    p.p_q32 = reinterpret_cast<uint64_t *>(memory);
    p.bitmaps = reinterpret_cast<uint32_t *>(memory);
    spoil(p);
    return up_select(UP_CUDA, &p, memory, sizeof memory, nullptr);
  };
  expect_error(up_select(UP_CUDA, nullptr, nullptr, 0, nullptr), UP_INVALID_ARGUMENT, {"NULL"});
  CHECK(std::strcmp(up_last_error().operation, "up_select") == 0);
  expect_error(selection([](auto &p) { p.size = 8; }), UP_INVALID_ARGUMENT, {"size", "8"});
  expect_error(selection([](auto &p) { p.dtype = UP_F32; }), UP_UNSUPPORTED_DTYPE, {"dtype", "0"});
  expect_error(selection([](auto &p) { p.dtype = static_cast<up_dtype>(9); }), UP_UNSUPPORTED_DTYPE, {"dtype", "9"});
  expect_error(selection([](auto &p) { p.rule = static_cast<up_rule>(5); }), UP_INVALID_ARGUMENT, {"rule", "5"});
  expect_error(selection([](auto &p) { p.requests = -1; }), UP_INVALID_ARGUMENT, {"requests", "-1"});
  expect_error(selection([](auto &p) { p.heads = 7; }), UP_INVALID_ARGUMENT, {"heads", "7", "2"});
  expect_error(selection([](auto &p) { p.head_dim = 96; }), UP_INVALID_ARGUMENT, {"head_dim", "96", "128"});
  expect_error(selection([](auto &p) { p.block = 32; }), UP_INVALID_ARGUMENT, {"block", "32", "64"});
  expect_error(selection([](auto &p) { p.last_q = 129; }), UP_INVALID_ARGUMENT, {"last_q", "129", "128"});
  expect_error(selection([](auto &p) { p.scale = NAN; }), UP_INVALID_ARGUMENT, {"scale", "nan"});
  expect_error(selection([](auto &p) { p.soft_cap = -1; }), UP_INVALID_ARGUMENT, {"soft_cap", "-1"});
  expect_error(selection([](auto &p) { p.queries = nullptr; }), UP_INVALID_ARGUMENT, {"queries", "NULL"});
  expect_error(selection([](auto &p) { p.queries = memory + 2; }), UP_INVALID_ARGUMENT, {"queries", "2", "16"});
  expect_error(selection([](auto &p) { p.keys.row_stride = 100; }), UP_INVALID_ARGUMENT, {"keys.row_stride", "100", "8"});
  expect_error(selection([](auto &p) { p.keys.page_count = 0; }), UP_INVALID_ARGUMENT, {"keys.page_count", "0"});
  expect_error(selection([](auto &p) {
                 p.keys.pages = reinterpret_cast<int32_t *>(memory);
                 p.keys.page_size = 48;
               }),
               UP_INVALID_ARGUMENT, {"page_size", "48"});
  expect_error(selection([](auto &p) {
                 p.keys.pages = reinterpret_cast<int32_t *>(memory);
                 p.keys.page_size = 64;
                 p.keys.pages_stride = 15;
               }),
               UP_INVALID_ARGUMENT, {"pages_stride", "15", "16", "1000"});

  up_gather gather{};
  gather.size = sizeof gather;
  gather.max_rows = gather.source_rows = 4;
  gather.row_bytes = 24;
  expect_error(up_gather_rows(UP_CUDA, &gather, nullptr), UP_INVALID_ARGUMENT, {"row_bytes", "24", "16"});

  up_rms_norm norm{};
  norm.size = sizeof norm;
  norm.dtype = UP_BF16;
  norm.rows = 2;
  norm.width = 12;
  expect_error(up_normalise(UP_CUDA, &norm, nullptr), UP_INVALID_ARGUMENT, {"width", "12", "8"});

  up_sampler sampler{};
  sampler.size = sizeof sampler;
  sampler.rows = 1;
  sampler.vocab_size = 10;
  sampler.logprob_count = 33;
  size_t bytes = 1;
  expect_error(up_sampler_workspace(UP_CUDA, &sampler, &bytes), UP_INVALID_ARGUMENT, {"logprob_count", "33", "32"});
  expect_error(up_sampler_workspace(UP_REFERENCE, &sampler, &bytes), UP_INVALID_ARGUMENT, {"backend"});
  expect_error(up_backend_available(static_cast<up_backend>(9)), UP_INVALID_ARGUMENT, {"backend", "9"});
}

// An empty batch is no error, and needs no memory and no device.
void empty_batches_pass() {
  for (const up_backend backend : {UP_REFERENCE, UP_CUDA}) {
    up_decode_attention p{};
    p.size = sizeof p;
    p.dtype = UP_BF16;
    p.max_key_rows = 10;
    p.heads = p.kv_heads = 1;
    p.head_dim = 64;
    p.scale = 1;
    size_t bytes = 1;
    CHECK(up_decode_attention_workspace(backend, &p, &bytes) == UP_OK && bytes == 0, "%s", up_last_error().detail);
    CHECK(up_attend_decode(backend, &p, nullptr, 0, nullptr) == UP_OK);
  }
}

// With or without a device: usable, or an error that says what is missing.
void cuda_says_what_is_missing() {
  CHECK(up_backend_available(UP_REFERENCE) == UP_OK);
  const up_status status = up_backend_available(UP_CUDA);
  CHECK(status == UP_OK || (status == UP_DEVICE_LOST && std::strlen(up_last_error().detail) > 10), "status %d: %s", status,
        up_last_error().detail);
}

}  // namespace

int main() {
  masses_add_up();
  rule_keeps_what_it_says();
  short_and_broken_requests_keep_all();
  attention_is_an_average();
  pages_and_dtypes_agree();
  bad_arguments_are_named();
  empty_batches_pass();
  cuda_says_what_is_missing();
  return check_result();
}
