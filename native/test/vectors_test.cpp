// The test vectors that other engines are given (native/vectors), against the reference operators of the C ABI and every CPU kernel.
// cuda/vectors_check.cpp holds the CUDA operators to the same files.
#include "vectors.h"

#include "kernel_inputs.h"

namespace {

using namespace vectors;

void check_rule(const Json &c) {
  const up::SelectionShape shape{integer(c, "rows"), integer(c, "block"), integer(c, "sink"), integer(c, "lastQ")};
  const std::vector<uint64_t> masses = unsigned_list(at(c, "masses"));
  const auto bitmap = up::select_blocks(masses, unsigned_of(at(c, "pQ32")), rule_of(c), shape);
  CHECK(bitmap == list<uint32_t>(c, "bitmap"), "rule, %s", at(c, "name").string.c_str());
}

void check_operator(const Select &c) {
  std::vector<uint64_t> masses(c.masses.size(), 7);
  std::vector<uint32_t> bitmap(c.bitmap.size(), 7);
  std::vector<int32_t> kept(static_cast<size_t>(c.rows), -7);
  const int32_t length = c.rows;
  int32_t kept_length = -1, fallback = -1;
  up_selection p = c.params();
  p.queries = c.queries.data();
  p.keys = dense(c.keys.data(), c.rows, c.shape);
  p.lengths = &length;
  p.p_q32 = &c.p_q32;
  p.masses = masses.data();
  p.bitmaps = bitmap.data();
  p.kept = kept.data();
  p.kept_lengths = &kept_length;
  p.fallbacks = &fallback;
  CHECK(up_select(UP_REFERENCE, &p, nullptr, 0, nullptr) == UP_OK, "%s: %s", c.name, up_last_error().detail);
  c.check_masses(masses, 1e-9, "up_select");
  c.check_cut(bitmap, kept, kept_length, fallback, "up_select");
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
  const auto bitmap = up::select_blocks(masses, c.p_q32, rule_of(c.json), c.selection_shape());
  CHECK(bitmap == c.bitmap, "%s by %s", c.name, table.name);
}

// In doubles, and with inputs and outputs in bf16; as prefill, and one request a row as decode.
void check_operator(const Attend &c) {
  const std::vector<double> queries = as_doubles(c.queries), keys = as_doubles(c.keys), values = as_doubles(c.values);
  const std::vector<int32_t> starts{0, c.query_rows};
  std::vector<double> output(c.expected.size(), -7);
  auto p = c.params<up_prefill_attention>(UP_F64);
  p.queries = queries.data();
  p.keys = dense(keys.data(), c.key_rows, c.shape);
  p.values = dense(values.data(), c.key_rows, c.shape);
  p.output = output.data();
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

  const std::vector<int32_t> end = c.ends();
  auto d = c.params<up_decode_attention>(UP_F64);
  const std::vector<double> prefilled = output;
  std::fill(output.begin(), output.end(), -7);
  d.queries = queries.data();
  d.output = output.data();
  d.requests = c.query_rows;
  d.begin = c.lo.data();
  d.end = end.data();
  const std::vector<int32_t> rows(c.lo.size(), 0);  // the keys are one request's
  d.keys = dense(keys.data(), c.key_rows, c.shape);
  d.values = dense(values.data(), c.key_rows, c.shape);
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
  const Json selection = read(UP_VECTORS, "selection.json"), attention = read(UP_VECTORS, "attention.json");
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
