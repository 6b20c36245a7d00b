// The rest of a layer, and sparse attention, on the reference backend.
#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "uniprefill.h"

namespace {

std::mt19937_64 bits(11);

std::vector<double> normal(size_t count) {
  std::normal_distribution<double> numbers;
  std::vector<double> x(count);
  for (double &each : x) each = numbers(bits);
  return x;
}

double distance(const std::vector<double> &a, const std::vector<double> &b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); i++) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

// x += norm(y), then norm(x): two norms one after the other give the same.
void post_norm_is_two_norms() {
  constexpr int rows = 3, width = 16;
  const std::vector<double> y = normal(rows * width), residual = normal(rows * width), weight = normal(width), next = normal(width);
  std::vector<double> normed(y.size()), sum(y.size()), out(y.size()), expected_sum(y.size()), expected(y.size());
  up_rms_norm n{};
  n.size = sizeof n;
  n.dtype = UP_F64;
  n.rows = rows;
  n.width = width;
  n.eps = 1e-5f;
  n.weight_offset = 1;
  n.input = y.data();
  n.weight = weight.data();
  n.output = normed.data();
  n.input_stride = n.addend_stride = n.sum_stride = n.output_stride = width;
  CHECK(up_normalise(UP_REFERENCE, &n, nullptr) == UP_OK, "%s", up_last_error().detail);
  n.input = residual.data();
  n.addend = normed.data();
  n.sum = expected_sum.data();
  n.weight = next.data();
  n.output = expected.data();
  CHECK(up_normalise(UP_REFERENCE, &n, nullptr) == UP_OK);

  up_post_norm p{};
  p.size = sizeof p;
  p.dtype = UP_F64;
  p.rows = rows;
  p.width = width;
  p.eps = p.next_eps = 1e-5f;
  p.weight_offset = p.next_weight_offset = 1;
  p.input = y.data();
  p.weight = weight.data();
  p.residual = residual.data();
  p.sum = sum.data();
  p.next_weight = next.data();
  p.output = out.data();
  p.input_stride = p.residual_stride = p.sum_stride = p.output_stride = width;
  CHECK(up_add_normed(UP_REFERENCE, &p, nullptr) == UP_OK, "%s", up_last_error().detail);
  CHECK(sum == expected_sum && out == expected);
}

// Heads that are normalised and rotated keep the length √d; keys land in the table row that the request uses.
void heads_are_normalised_before_they_turn() {
  constexpr int d = 16, heads = 2, page = 16;
  const std::vector<double> projected = normal(2 * heads * d + 2 * d), ones(d, 1.0);
  std::vector<double> out(heads * d), keys(3 * page * d, -1), values(3 * page * d, -1);
  std::vector<float> cosines(10 * d / 2), sines(10 * d / 2);
  for (size_t i = 0; i < cosines.size(); i++) {
    cosines[i] = static_cast<float>(std::cos(0.3 * static_cast<double>(i)));
    sines[i] = static_cast<float>(std::sin(0.3 * static_cast<double>(i)));
  }
  const std::vector<int32_t> pages{0, 2}, table_rows{1};
  const int32_t position = 7, kv_row = 5;
  up_rope_write p{};
  p.size = sizeof p;
  p.dtype = UP_F64;
  p.rows = 1;
  p.heads = heads;
  p.kv_heads = 1;
  p.head_dim = d;
  p.rotary_dim = d;
  p.positions_limit = 10;
  p.requests = 1;
  p.max_key_rows = page;
  p.cosines = cosines.data();
  p.sines = sines.data();
  p.positions = &position;
  p.kv_rows = &kv_row;
  p.queries = projected.data();
  p.keys = projected.data() + 2 * heads * d;
  p.values = projected.data() + 2 * heads * d + d;
  p.query_row_stride = p.key_row_stride = p.value_row_stride = static_cast<int64_t>(projected.size());
  p.query_output = out.data();
  p.query_output_row_stride = heads * d;
  p.key_cache = {keys.data(), pages.data(), 1, page * d, d, page * d, page, 3, table_rows.data(), 2};
  p.value_cache = p.key_cache;
  p.value_cache.data = values.data();
  p.query_head_stride = 2 * d;  // a gate lies beside every query head
  p.query_norm = p.key_norm = ones.data();
  CHECK(up_rotate_and_write(UP_REFERENCE, &p, nullptr) == UP_OK, "%s", up_last_error().detail);
  const auto length = [](const double *x) {
    double squares = 0;
    for (int i = 0; i < d; i++) squares += x[i] * x[i];
    return squares;
  };
  for (int head = 0; head < heads; head++) CHECK(std::abs(length(out.data() + head * d) - d) < 1e-5);
  const size_t place = (2 * page + 5) * d;
  CHECK(std::abs(length(keys.data() + place) - d) < 1e-5, "the key is in page 2, which table row 1 names");
  CHECK(std::equal(values.begin() + place, values.begin() + place + d, projected.end() - d), "values stay as they are");
  CHECK(std::count(keys.begin(), keys.end(), -1.0) == static_cast<std::ptrdiff_t>(keys.size() - d));
}

void gate_and_activation() {
  const std::vector<double> gate{0, 100, -100, 0, 0, 0, 0, 0};
  std::vector<double> x{2, 3, 4, -2, 0, 1, 8, 6};
  up_output_gate p{};
  p.size = sizeof p;
  p.dtype = UP_F64;
  p.rows = p.heads = 1;
  p.head_dim = 8;
  p.gate = gate.data();
  p.attended = x.data();
  p.gate_row_stride = p.gate_head_stride = p.attended_row_stride = p.attended_head_stride = 8;
  CHECK(up_apply_gate(UP_REFERENCE, &p, nullptr) == UP_OK, "%s", up_last_error().detail);
  CHECK(distance(x, {1, 3, 0, -1, 0, 0.5, 4, 3}) < 1e-12);
}

void edits_forbid_and_add() {
  std::vector<float> logits{1, 2, 3, 4, 5, 6};
  const std::vector<int32_t> starts{0, 3}, tokens{1, 1, 9}, mask_rows{0};
  const std::vector<float> values{0.5f, 1, 100};
  const std::vector<uint32_t> masks{0b101110};
  up_logit_edit p{};
  p.size = sizeof p;
  p.dtype = UP_F32;
  p.rows = 1;
  p.vocab_size = 6;
  p.logits = logits.data();
  p.logits_stride = 6;
  p.edits = {starts.data(), tokens.data(), values.data(), 3, 1, mask_rows.data(), masks.data()};
  CHECK(up_edit_logits(UP_REFERENCE, &p, nullptr) == UP_OK, "%s", up_last_error().detail);
  CHECK((logits == std::vector<float>{-INFINITY, 3.5f, 3, 4, -INFINITY, 6}));
}

void embedding_follows_last_tokens() {
  const std::vector<double> table{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
  std::vector<double> out(16, -1);
  const std::vector<int32_t> tokens{1, -2}, last{1, 0};
  up_embedding p{};
  p.size = sizeof p;
  p.dtype = UP_F64;
  p.rows = 2;
  p.width = 8;
  p.vocab_size = 2;
  p.tokens = tokens.data();
  p.table = table.data();
  p.output = out.data();
  p.table_stride = p.output_stride = 8;
  p.last_tokens = last.data();
  p.slots = 2;
  CHECK(up_embed(UP_REFERENCE, &p, nullptr) == UP_OK, "%s", up_last_error().detail);
  CHECK(out[0] == 1 && out[8] == 0);
}

// All blocks seen is attention as it is; a block left out is as if its keys were not there; none gives zeros.
void sparse_attention_leaves_blocks_out() {
  constexpr int rows = 130, d = 8;
  const std::vector<double> q = normal(rows * d), k = normal(rows * d), v = normal(rows * d);
  std::vector<int32_t> hi(rows), lo(rows, 64);
  for (int i = 0; i < rows; i++) hi[static_cast<size_t>(i)] = i;
  const std::vector<int32_t> starts{0, rows}, place{1};
  std::vector<double> out(rows * d, -1), expected(rows * d, -1);
  up_prefill_attention a{};
  a.size = sizeof a;
  a.dtype = UP_F64;
  a.requests = 1;
  a.max_query_rows = a.max_key_rows = rows;
  a.heads = a.kv_heads = 1;
  a.head_dim = d;
  a.scale = 0.4f;
  a.queries = q.data();
  a.query_row_stride = a.query_head_stride = a.output_row_stride = a.output_head_stride = d;
  a.keys = {k.data(), nullptr, 0, rows * d, d, d, 0, 1, nullptr, 0};
  a.values = a.keys;
  a.values.data = v.data();
  a.row_starts = starts.data();
  a.hi = hi.data();
  a.output = expected.data();
  const auto attend = [&](std::vector<uint32_t> words) {
    up_sparse_attention s{};
    s.size = sizeof s;
    s.attention = a;
    s.attention.output = out.data();
    s.query_blocks = 3;
    s.block_starts = place.data();
    s.bitmaps = words.data();
    CHECK(up_attend_sparse(UP_REFERENCE, &s, nullptr, 0, nullptr) == UP_OK, "%s", up_last_error().detail);
  };
  CHECK(up_attend_prefill(UP_REFERENCE, &a, nullptr, 0, nullptr) == UP_OK);
  attend({0, 7, 7});
  CHECK(out == expected);
  a.lo = lo.data();
  CHECK(up_attend_prefill(UP_REFERENCE, &a, nullptr, 0, nullptr) == UP_OK);
  a.lo = nullptr;
  attend({0, 6, 6});
  CHECK(distance(out, expected) < 1e-12);
  attend({7, 0, 7});
  CHECK(std::all_of(out.begin(), out.begin() + 128 * d, [](double x) { return x == 0; }), "rows 0 … 127 see nothing");
  CHECK(std::any_of(out.begin() + 128 * d, out.end(), [](double x) { return x != 0; }));
}

}  // namespace

int main() {
  post_norm_is_two_norms();
  heads_are_normalised_before_they_turn();
  gate_and_activation();
  edits_forbid_and_add();
  embedding_follows_last_tokens();
  sparse_attention_leaves_blocks_out();
  return check_result();
}
