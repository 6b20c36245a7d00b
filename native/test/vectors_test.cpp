// The test vectors that other engines are given (native/vectors), against the operators of the C ABI and every CPU kernel.
#include <fstream>
#include <sstream>
#include <string>

#include "kernel_inputs.h"
#include "selection/selection.h"
#include "uniprefill/operators.h"
#include "weights/json.h"

namespace {

using up::Json;

// ------------------------------------------------------------------------------------------------------- reading ------

Json read_vectors(const std::string &name) {
  const std::string file = std::string(UP_VECTORS) + "/" + name;
  std::ifstream in(file);
  CHECK(in.good(), "%s cannot be read", file.c_str());
  std::stringstream text;
  text << in.rdbuf();
  return up::parse_json(file, text.str(), 1 << 22);
}

const Json &at(const Json &of, const char *name) {
  const Json *found = of.find(name);
  if (found == nullptr) {
    std::fprintf(stderr, "no field %s\n", name);
    std::exit(1);
  }
  return *found;
}

int integer(const Json &of, const char *name) { return static_cast<int>(at(of, name).integer); }
float real(const Json &of, const char *name) { return static_cast<float>(at(of, name).number); }
uint64_t unsigned_of(const Json &text) { return std::stoull(text.string); }

std::vector<uint64_t> unsigned_list(const Json &list) {
  std::vector<uint64_t> out;
  for (const Json &item : list.items) out.push_back(unsigned_of(item));
  return out;
}

template <class T>
std::vector<T> list(const Json &of, const char *name) {
  std::vector<T> out;
  for (const Json &item : at(of, name).items) out.push_back(static_cast<T>(item.is_integer ? item.integer : item.number));
  return out;
}

up_rule rule_of(const Json &of) { return at(of, "rule").string == "reference" ? UP_RULE_REFERENCE : UP_RULE_EXCLUSIVE; }

// The tensors, as native/vectors/README.md says.
std::vector<bf16> tensor(int seed, size_t length) {
  std::vector<bf16> out(length);
  for (size_t i = 0; i < length; i++) {
    uint32_t h = static_cast<uint32_t>(seed) * 0x9e3779b9u + static_cast<uint32_t>(i);
    h = (h ^ h >> 16) * 0x85ebca6bu;
    h = (h ^ h >> 13) * 0xc2b2ae35u;
    h ^= h >> 16;
    out[i] = to_bf16(static_cast<float>(static_cast<int>(h >> 24) - 128) / 64);
  }
  return out;
}

// ----------------------------------------------------------------------------------------------------- selection ------

void check_rule(const Json &c) {
  const up::SelectionShape shape{integer(c, "rows"), integer(c, "block"), integer(c, "sink"), integer(c, "lastQ")};
  const std::vector<uint64_t> masses = unsigned_list(at(c, "masses"));
  const auto bitmap = up::select_blocks(masses, unsigned_of(at(c, "pQ32")), rule_of(c), shape);
  CHECK(bitmap == list<uint32_t>(c, "bitmap"), "rule, %s", at(c, "name").string.c_str());
}

struct Select {
  const Json &json;
  const char *name;
  int rows, last_q, block, q_rows;
  AttentionShape shape;
  std::vector<bf16> queries, keys;
  std::vector<uint64_t> masses;

  explicit Select(const Json &c)
      : json(c),
        name(at(c, "name").string.c_str()),
        rows(integer(c, "rows")),
        last_q(integer(c, "lastQ")),
        block(integer(c, "block")),
        q_rows(std::min(rows, last_q)),
        shape{integer(c, "heads"), integer(c, "kvHeads"), integer(c, "headDim"), real(c, "scale"), real(c, "softCap")},
        queries(tensor(integer(c, "seed"), static_cast<size_t>(last_q) * shape.heads * shape.head_dim)),
        keys(tensor(integer(c, "seed") + 1, static_cast<size_t>(rows) * shape.kv_heads * shape.head_dim)),
        masses(unsigned_list(at(c, "masses"))) {
    for (const Json &range : at(c, "found").items) {
      for (auto row = static_cast<int>(range.items[0].integer); row < range.items[1].integer; row++)
        for (int kv = 0; kv < shape.kv_heads; kv++) {
          const int head = kv * shape.heads / shape.kv_heads;
          std::copy_n(&queries[(static_cast<size_t>(row % last_q) * shape.heads + head) * shape.head_dim], shape.head_dim,
                      &keys[(static_cast<size_t>(row) * shape.kv_heads + kv) * shape.head_dim]);
        }
    }
    if (const int nan = integer(c, "nan"); nan >= 0) queries[static_cast<size_t>(nan)] = bf16_nan;
  }

  bool is_finite() const { return integer(json, "nan") < 0; }

  void check_masses(const std::vector<uint64_t> &got, double tolerance, const char *by) const {
    CHECK(got.size() == masses.size());
    for (size_t b = 0; b < masses.size() && is_finite(); b++) {
      const auto expected = static_cast<double>(masses[b]);
      CHECK(std::fabs(static_cast<double>(got[b]) - expected) <= tolerance * expected + 16, "%s by %s: mass of block %zu is %g, not %g",
            name, by, b, static_cast<double>(got[b]), expected);
    }
  }
};

void check_operator(const Select &c) {
  const int blocks = (c.rows + c.block - 1) / c.block;
  std::vector<uint64_t> masses(static_cast<size_t>(blocks), 7);
  std::vector<uint32_t> bitmap(static_cast<size_t>((blocks + 31) / 32), 7);
  std::vector<int32_t> kept(static_cast<size_t>(c.rows), -7);
  const int32_t length = c.rows;
  const uint64_t p_q32 = unsigned_of(at(c.json, "pQ32"));
  int32_t kept_length = -1, fallback = -1;
  up_selection p{};
  p.size = sizeof p;
  p.dtype = UP_BF16;
  p.requests = 1;
  p.heads = c.shape.heads;
  p.kv_heads = c.shape.kv_heads;
  p.head_dim = c.shape.head_dim;
  p.max_rows = c.rows;
  p.block = c.block;
  p.sink = integer(c.json, "sink");
  p.last_q = c.last_q;
  p.rule = rule_of(c.json);
  p.scale = c.shape.scale;
  p.soft_cap = c.shape.soft_cap;
  p.queries = c.queries.data();
  p.query_row_stride = c.shape.heads * c.shape.head_dim;
  p.query_request_stride = c.last_q * p.query_row_stride;
  p.query_head_stride = c.shape.head_dim;
  p.keys.data = c.keys.data();
  p.keys.row_stride = c.shape.kv_heads * c.shape.head_dim;
  p.keys.page_stride = c.rows * p.keys.row_stride;
  p.keys.head_stride = c.shape.head_dim;
  p.keys.page_count = 1;
  p.lengths = &length;
  p.p_q32 = &p_q32;
  p.masses = masses.data();
  p.bitmaps = bitmap.data();
  p.kept = kept.data();
  p.kept_lengths = &kept_length;
  p.fallbacks = &fallback;
  CHECK(up_select(UP_REFERENCE, &p, nullptr, 0, nullptr) == UP_OK, "%s: %s", c.name, up_last_error().detail);
  c.check_masses(masses, 1e-9, "up_select");
  // A block that is wholly forced is kept whether its bit is set or not; the operators set it under every rule.
  const up::SelectionShape shape{c.rows, c.block, p.sink, c.last_q};
  CHECK(up::kept_indices(bitmap, shape) == up::kept_indices(list<uint32_t>(c.json, "bitmap"), shape), "%s", c.name);
  CHECK(fallback == integer(c.json, "fallback"), "%s", c.name);
  std::vector<int32_t> expected;
  for (const Json &range : at(c.json, "kept").items)
    for (auto row = static_cast<int32_t>(range.items[0].integer); row < range.items[1].integer; row++) expected.push_back(row);
  kept.resize(static_cast<size_t>(std::max(kept_length, 0)));
  CHECK(kept == expected, "%s: %d rows kept", c.name, kept_length);
}

void check_kernel(const Kernels &table, const Select &c) {
  Random random(3);
  Cache cache(random, c.rows, c.shape.kv_heads, c.shape.head_dim, 64);
  cache.keys = c.keys;
  cache.write(table, 0, c.rows);
  std::vector<uint64_t> masses(c.masses.size());
  // Of a prompt shorter than lastQ there are `rows` queries, the first ones.
  const bool finite = table.score(c.queries.data(), c.q_rows, cache.pages(), c.rows, c.block, c.shape, masses.data());
  CHECK(finite == c.is_finite(), "%s by %s", c.name, table.name);
  if (!finite) return;
  c.check_masses(masses, 1e-5, table.name);
  const up::SelectionShape shape{c.rows, c.block, integer(c.json, "sink"), c.last_q};
  const auto bitmap = up::select_blocks(masses, unsigned_of(at(c.json, "pQ32")), rule_of(c.json), shape);
  CHECK(bitmap == list<uint32_t>(c.json, "bitmap"), "%s by %s", c.name, table.name);
}

// ----------------------------------------------------------------------------------------------------- attention ------

struct Attend {
  const Json &json;
  const char *name;
  int query_rows, key_rows;
  AttentionShape shape;
  std::vector<bf16> queries, keys, values;
  std::vector<int32_t> lo, hi;
  std::vector<double> expected;

  explicit Attend(const Json &c)
      : json(c),
        name(at(c, "name").string.c_str()),
        query_rows(integer(c, "queryRows")),
        key_rows(integer(c, "keyRows")),
        shape{integer(c, "heads"), integer(c, "kvHeads"), integer(c, "headDim"), real(c, "scale"), real(c, "softCap")},
        queries(tensor(integer(c, "seed"), static_cast<size_t>(query_rows) * shape.heads * shape.head_dim)),
        keys(tensor(integer(c, "seed") + 1, static_cast<size_t>(key_rows) * shape.kv_heads * shape.head_dim)),
        values(tensor(integer(c, "seed") + 2, keys.size())),
        lo(list<int32_t>(c, "lo")),
        hi(list<int32_t>(c, "hi")),
        expected(list<double>(c, "output")) {}

  template <class Params>
  Params params(const void *q, const void *k, const void *v, void *output, up_dtype dtype) const {
    Params p{};
    p.size = sizeof p;
    p.dtype = dtype;
    p.max_key_rows = key_rows;
    p.heads = shape.heads;
    p.kv_heads = shape.kv_heads;
    p.head_dim = shape.head_dim;
    p.scale = shape.scale;
    p.soft_cap = shape.soft_cap;
    p.queries = q;
    p.query_row_stride = p.output_row_stride = shape.heads * shape.head_dim;
    p.query_head_stride = p.output_head_stride = shape.head_dim;
    p.keys.data = k;
    p.keys.row_stride = shape.kv_heads * shape.head_dim;
    p.keys.page_stride = key_rows * p.keys.row_stride;
    p.keys.head_stride = shape.head_dim;
    p.keys.page_count = 1;
    p.values = p.keys;
    p.values.data = v;
    p.output = output;
    return p;
  }

  void check(const std::vector<double> &got, double tolerance, const char *by) const {
    CHECK(got.size() == expected.size(), "%s: %zu numbers", name, expected.size());
    double error = 0, size = 0;
    for (size_t i = 0; i < expected.size(); i++) {
      error += (got[i] - expected[i]) * (got[i] - expected[i]);
      size += expected[i] * expected[i];
    }
    CHECK(std::sqrt(error) <= tolerance * std::sqrt(size), "%s by %s: relative error %g", name, by, std::sqrt(error / size));
  }
};

std::vector<double> as_doubles(const std::vector<bf16> &x) {
  std::vector<double> out;
  for (const bf16 each : x) out.push_back(from_bf16(each));
  return out;
}

// In doubles, and with inputs and outputs in bf16; as prefill, and one request a row as decode.
void check_operator(const Attend &c) {
  const std::vector<double> queries = as_doubles(c.queries), keys = as_doubles(c.keys), values = as_doubles(c.values);
  const std::vector<int32_t> starts{0, c.query_rows};
  std::vector<double> output(c.expected.size(), -7);
  auto p = c.params<up_prefill_attention>(queries.data(), keys.data(), values.data(), output.data(), UP_F64);
  p.requests = 1;
  p.max_query_rows = c.query_rows;
  p.row_starts = starts.data();
  p.lo = c.lo.data();
  p.hi = c.hi.data();
  CHECK(up_attend_prefill(UP_REFERENCE, &p, nullptr, 0, nullptr) == UP_OK, "%s: %s", c.name, up_last_error().detail);
  c.check(output, 1e-6, "up_attend_prefill");

  std::vector<bf16> rounded(c.expected.size(), bf16_nan);
  p.dtype = UP_BF16;
  p.queries = c.queries.data();
  p.keys.data = c.keys.data();
  p.values.data = c.values.data();
  p.output = rounded.data();
  CHECK(up_attend_prefill(UP_REFERENCE, &p, nullptr, 0, nullptr) == UP_OK, "%s: %s", c.name, up_last_error().detail);
  c.check(as_doubles(rounded), 4e-3, "up_attend_prefill in bf16");

  std::vector<int32_t> end(c.hi);
  for (int32_t &each : end) each++;
  auto d = c.params<up_decode_attention>(queries.data(), keys.data(), values.data(), output.data(), UP_F64);
  const std::vector<double> prefilled = output;
  std::fill(output.begin(), output.end(), -7);
  d.requests = c.query_rows;
  d.begin = c.lo.data();
  d.end = end.data();
  const std::vector<int32_t> rows(c.lo.size(), 0);  // the keys are one request's
  d.keys.table_rows = d.values.table_rows = rows.data();
  d.keys.table_count = d.values.table_count = 1;
  CHECK(up_attend_decode(UP_REFERENCE, &d, nullptr, 0, nullptr) == UP_OK, "%s: %s", c.name, up_last_error().detail);
  CHECK(output == prefilled, "%s: decode differs from prefill", c.name);
}

void check_kernel(const Kernels &table, const Attend &c) {
  Random random(5);
  Cache cache(random, c.key_rows, c.shape.kv_heads, c.shape.head_dim, 64);
  cache.keys = c.keys;
  cache.values = c.values;
  cache.write(table, 0, c.key_rows);
  std::vector<bf16> output(c.expected.size(), 0);
  // The kernels are not asked for rows that see nothing: those before the first are looked at.
  int rows = 0;
  while (rows < c.query_rows && c.lo[static_cast<size_t>(rows)] <= c.hi[static_cast<size_t>(rows)]) rows++;
  const Attention group{rows, c.queries.data(), cache.pages(), c.lo.data(), c.hi.data(), output.data()};
  table.attend(&group, 1, c.shape);
  c.check(as_doubles(output), 5e-3, table.name);
}

}  // namespace

int main() {
  const Json selection = read_vectors("selection.json"), attention = read_vectors("attention.json");
  for (const Json &c : at(selection, "rule").items) check_rule(c);
  for (const Json &c : at(selection, "select").items) {
    const Select select(c);
    check_operator(select);
    for (const Kernels *table : kernel_tables()) check_kernel(*table, select);
  }
  for (const Json &c : at(attention, "attention").items) {
    const Attend attend(c);
    check_operator(attend);
    for (const Kernels *table : kernel_tables()) check_kernel(*table, attend);
  }
  return check_result();
}
