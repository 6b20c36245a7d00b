// Gated DeltaNet and mixture of experts on the reference backend: what must hold whatever the numbers are, and what is refused.
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "uniprefill.h"

namespace {

std::mt19937_64 bits(5);

std::vector<double> normal(size_t count, double spread = 1) {
  std::normal_distribution<double> numbers(0, spread);
  std::vector<double> x(count);
  for (double &each : x) each = numbers(bits);
  return x;
}

void expect_error(up_status got, std::initializer_list<const char *> words) {
  CHECK(got == UP_INVALID_ARGUMENT, "status %d", got);
  const std::string detail = up_last_error().detail;
  for (const char *word : words) CHECK(detail.find(word) != std::string::npos, "'%s' lacks '%s'", detail.c_str(), word);
}

// One request of a Gated DeltaNet layer: rows of q|k|v and gates, and a pool of three states.
struct Delta {
  static constexpr int key_heads = 2, value_heads = 4, key_dim = 8, value_dim = 6;
  static constexpr int wide = 2 * key_heads * key_dim + value_heads * value_dim, size = value_heads * key_dim * value_dim;
  int rows;
  std::vector<double> x, out;
  std::vector<float> decay, beta, states;

  explicit Delta(int rows) : rows(rows), x(normal(static_cast<size_t>(rows * wide))) {
    out.assign(static_cast<size_t>(rows * value_heads * value_dim), -1);
    states.assign(3 * size, 0.25f);
    std::uniform_real_distribution<float> uniform(0, 1);
    for (int i = 0; i < rows * value_heads; i++) {
      decay.push_back(-uniform(bits));
      beta.push_back(uniform(bits));
    }
  }

  // Rows first … first + count - 1, from the state in slot `source` to that in `target`, with a snapshot after `snapshot` rows.
  void run(int first, int count, int32_t source, int32_t target, int32_t snapshot = 0, int32_t snapshot_slot = -1) {
    const int32_t starts[2] = {0, count}, snapshot_starts[2] = {0, 1};
    up_delta_prefill p{};
    p.size = sizeof p;
    p.dtype = UP_F64;
    p.requests = 1;
    p.max_rows = count;
    p.key_heads = key_heads;
    p.value_heads = value_heads;
    p.key_dim = key_dim;
    p.value_dim = value_dim;
    p.normalise = 1;
    p.norm_eps = 1e-6f;
    p.scale = 0.5f;
    p.queries = x.data() + first * wide;
    p.keys = x.data() + first * wide + key_heads * key_dim;
    p.values = x.data() + first * wide + 2 * key_heads * key_dim;
    p.query_row_stride = p.key_row_stride = p.value_row_stride = wide;
    p.decay = decay.data() + first * value_heads;
    p.beta = beta.data() + first * value_heads;
    p.row_starts = starts;
    p.states = {states.data(), size, 3, 1, &source, &target, snapshot_starts, &snapshot, &snapshot_slot};
    p.output = out.data() + first * value_heads * value_dim;
    p.output_row_stride = value_heads * value_dim;
    CHECK(up_recur_prefill(UP_REFERENCE, &p, nullptr, 0, nullptr) == UP_OK, "%s", up_last_error().detail);
  }
  std::vector<float> state(int slot) const { return {states.begin() + slot * size, states.begin() + (slot + 1) * size}; }
};

double distance(const std::vector<float> &a, const std::vector<float> &b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); i++) most = std::max(most, std::abs(double(a[i]) - double(b[i])));
  return most;
}

void recurrence_goes_on_where_it_stopped() {
  Delta whole(150), parts = whole;
  whole.run(0, 150, 0, 1, 128, 2);
  parts.run(0, 128, 0, 2);
  parts.run(128, 22, 2, 1);
  double most = 0;
  for (size_t i = 0; i < whole.out.size(); i++) most = std::max(most, std::abs(whole.out[i] - parts.out[i]));
  CHECK(most < 1e-6, "outputs differ by %g", most);
  CHECK(distance(whole.state(1), parts.state(1)) < 1e-6);
  CHECK(distance(whole.state(2), parts.state(2)) < 1e-6, "the snapshot is the state after 128 rows");
  CHECK(distance(whole.state(0), std::vector<float>(Delta::size, 0.25f)) == 0, "the source is read only");
}

// A key that is written with β = 1 and asked for at once gives its value back, whatever the state was.
void a_key_gives_its_value_back() {
  Delta d(1);
  std::copy_n(d.x.begin() + Delta::key_heads * Delta::key_dim, Delta::key_heads * Delta::key_dim, d.x.begin());
  for (float &each : d.beta) each = 1;
  d.run(0, 1, 0, 0);
  for (int i = 0; i < Delta::value_heads * Delta::value_dim; i++) {
    const double value = d.x[static_cast<size_t>(2 * Delta::key_heads * Delta::key_dim + i)];
    CHECK(std::abs(d.out[static_cast<size_t>(i)] - 0.5 * value) < 1e-5, "%g of %g", d.out[static_cast<size_t>(i)], value);
  }
}

void decode_is_prefill_of_one_row() {
  Delta prefill(3), decode = prefill;
  for (int row = 0; row < 3; row++) {
    prefill.run(row, 1, row == 0 ? -1 : 1, 1);
    const int32_t source = row == 0 ? -1 : 1, target = 1;
    up_delta_decode p{};
    p.size = sizeof p;
    p.dtype = UP_F64;
    p.requests = 1;
    p.key_heads = Delta::key_heads;
    p.value_heads = Delta::value_heads;
    p.key_dim = Delta::key_dim;
    p.value_dim = Delta::value_dim;
    p.normalise = 1;
    p.norm_eps = 1e-6f;
    p.scale = 0.5f;
    p.queries = decode.x.data() + row * Delta::wide;
    p.keys = decode.x.data() + row * Delta::wide + Delta::key_heads * Delta::key_dim;
    p.values = decode.x.data() + row * Delta::wide + 2 * Delta::key_heads * Delta::key_dim;
    p.query_row_stride = p.key_row_stride = p.value_row_stride = Delta::wide;
    p.decay = decode.decay.data() + row * Delta::value_heads;
    p.beta = decode.beta.data() + row * Delta::value_heads;
    p.states = {decode.states.data(), Delta::size, 3, 0, &source, &target, nullptr, nullptr, nullptr};
    p.output = decode.out.data() + row * Delta::value_heads * Delta::value_dim;
    p.output_row_stride = Delta::value_heads * Delta::value_dim;
    CHECK(up_recur_decode(UP_REFERENCE, &p, nullptr) == UP_OK, "%s", up_last_error().detail);
  }
  CHECK(prefill.out == decode.out);
  CHECK(prefill.states == decode.states);
}

// The convolution of a request cut anywhere, in place in its slot, is that of the whole.
void convolution_goes_on_where_it_stopped() {
  constexpr int rows = 9, channels = 8, kernel = 4, past = (kernel - 1) * channels;
  const std::vector<double> x = normal(rows * channels), weight = normal(channels * kernel);
  const auto run = [&](const std::vector<int> &cuts) {
    std::vector<double> out(rows * channels, -1), states(2 * past, 7);
    std::fill_n(states.begin(), past, 0.5);
    const int32_t slot = 0;
    int first = 0;
    for (const int end : cuts) {
      const int32_t starts[2] = {0, end - first};
      up_delta_input p{};
      p.size = sizeof p;
      p.dtype = UP_F64;
      p.requests = 1;
      p.max_rows = end - first;
      p.channels = channels;
      p.kernel = kernel;
      p.input = x.data() + first * channels;
      p.weight = weight.data();
      p.row_starts = starts;
      p.states = {states.data(), past, 2, 0, &slot, &slot, nullptr, nullptr, nullptr};
      p.output = out.data() + first * channels;
      p.input_row_stride = p.output_row_stride = channels;
      CHECK(up_delta_prepare(UP_REFERENCE, &p, nullptr) == UP_OK, "%s", up_last_error().detail);
      first = end;
    }
    out.insert(out.end(), states.begin(), states.end());
    return out;
  };
  const std::vector<double> whole = run({rows});
  CHECK(run({1, 2, 3, 7, rows}) == whole);
  CHECK(std::equal(whole.end() - 2 * past, whole.end() - past, x.end() - past), "the state is the last inputs");
  CHECK(std::all_of(whole.end() - past, whole.end(), [](double each) { return each == 7; }), "other slots stay");
}

struct Experts {
  static constexpr int rows = 3, hidden = 6, inner = 5, experts = 4, top_k = 2;
  std::vector<double> x = normal(rows * hidden), gate_up = normal(experts * 2 * inner * hidden), down = normal(experts * hidden * inner);
  std::vector<double> out = std::vector<double>(rows * hidden, -1);
  std::vector<int32_t> chosen = {3, 1, 0, 3, 2, 2};
  std::vector<float> weights = {0.5f, 0.25f, 1, 2, 0.5f, 0.5f};

  up_status run() {
    up_moe p{};
    p.size = sizeof p;
    p.dtype = UP_F64;
    p.rows = rows;
    p.hidden = hidden;
    p.inner = inner;
    p.experts = experts;
    p.top_k = top_k;
    p.input = x.data();
    p.chosen = chosen.data();
    p.weights = weights.data();
    p.gate_up = gate_up.data();
    p.down = down.data();
    p.output = out.data();
    p.input_stride = p.output_stride = hidden;
    return up_run_experts(UP_REFERENCE, &p, nullptr, 0, nullptr);
  }
};

void experts_are_added_by_weight() {
  Experts both;
  CHECK(both.run() == UP_OK, "%s", up_last_error().detail);
  std::vector<double> sum(both.out.size(), 0);
  for (int k = 0; k < Experts::top_k; k++) {
    Experts one = both;
    for (int row = 0; row < Experts::rows; row++) one.chosen[static_cast<size_t>(row * Experts::top_k + 1 - k)] = -1;
    CHECK(one.run() == UP_OK);
    for (size_t i = 0; i < sum.size(); i++) sum[i] += one.out[i];
  }
  for (size_t i = 0; i < sum.size(); i++) CHECK(std::abs(sum[i] - both.out[i]) < 1e-9);
  // Row 2 chose one expert twice with half the weight each.
  Experts once = both;
  once.chosen[5] = -1;
  once.weights[4] = 1;
  CHECK(once.run() == UP_OK);
  for (int i = 0; i < Experts::hidden; i++)
    CHECK(std::abs(once.out[static_cast<size_t>(2 * Experts::hidden + i)] - both.out[static_cast<size_t>(2 * Experts::hidden + i)]) < 1e-9);
}

void router_takes_the_likeliest() {
  const std::vector<float> logits = {1, 3, 2, 3, 0, 0, 0, 0, NAN, 1, 1, 1};
  std::vector<int32_t> chosen(6, -9);
  std::vector<float> weights(6, -9);
  up_moe_router p{};
  p.size = sizeof p;
  p.dtype = UP_F32;
  p.rows = 3;
  p.experts = 4;
  p.top_k = 2;
  p.renormalise = 1;
  p.logits = logits.data();
  p.logits_stride = 4;
  p.chosen = chosen.data();
  p.weights = weights.data();
  CHECK(up_route(UP_REFERENCE, &p, nullptr) == UP_OK, "%s", up_last_error().detail);
  CHECK((chosen == std::vector<int32_t>{1, 3, 0, 1, 0, 1}), "equals go to the lower number");
  CHECK(weights[0] == 0.5f && weights[2] == 0.5f && std::isnan(weights[4]));
  p.renormalise = 0;
  CHECK(up_route(UP_REFERENCE, &p, nullptr) == UP_OK);
  CHECK(weights[2] == 0.25f);
}

void bad_arguments_are_named() {
  alignas(16) static unsigned char memory[64];
  const auto *indices = reinterpret_cast<const int32_t *>(memory);
  up_delta_prefill d{};
  d.size = sizeof d;
  d.dtype = UP_BF16;
  d.requests = d.max_rows = 1;
  d.key_heads = 2;
  d.value_heads = 3;
  d.scale = 1;
  d.key_dim = d.value_dim = 128;
  expect_error(up_recur_prefill(UP_CUDA, &d, memory, 64, nullptr), {"value_heads", "3", "2"});
  d.value_heads = 4;
  d.key_dim = 96;
  expect_error(up_recur_prefill(UP_CUDA, &d, memory, 64, nullptr), {"key_dim", "96"});
  d.key_dim = 128;
  d.queries = d.keys = d.values = memory;
  d.query_row_stride = d.key_row_stride = 256;
  d.value_row_stride = 100;
  expect_error(up_recur_prefill(UP_CUDA, &d, memory, 64, nullptr), {"value_row_stride", "100", "8"});
  d.value_row_stride = d.output_row_stride = 512;
  d.decay = d.beta = reinterpret_cast<const float *>(memory);
  d.states = {memory, 1024, 0, 0, indices, indices, nullptr, nullptr, nullptr};
  expect_error(up_recur_prefill(UP_CUDA, &d, memory, 64, nullptr), {"states.slots", "0"});
  d.states.slots = 1;
  d.states.snapshots = 2;
  expect_error(up_recur_prefill(UP_CUDA, &d, memory, 64, nullptr), {"states.snapshot_starts", "NULL"});

  up_delta_input c{};
  c.size = sizeof c;
  c.dtype = UP_BF16;
  c.channels = 8;
  c.kernel = 5;
  expect_error(up_delta_prepare(UP_CUDA, &c, nullptr), {"kernel", "5", "4"});

  up_moe_router r{};
  r.size = sizeof r;
  r.rows = 1;
  r.experts = 4;
  r.top_k = 5;
  expect_error(up_route(UP_CUDA, &r, nullptr), {"top_k", "5", "4"});

  up_moe m{};
  m.size = sizeof m;
  m.dtype = UP_BF16;
  m.rows = 1;
  m.experts = 2;
  m.top_k = 1;
  m.hidden = 96;
  expect_error(up_run_experts(UP_CUDA, &m, memory, 64, nullptr), {"hidden", "96", "64"});

  up_gated_norm n{};
  n.size = sizeof n;
  n.dtype = UP_BF16;
  n.heads = 1;
  n.head_dim = 80;
  expect_error(up_normalise_gated(UP_CUDA, &n, nullptr), {"head_dim", "80"});
}

}  // namespace

int main() {
  recurrence_goes_on_where_it_stopped();
  a_key_gives_its_value_back();
  decode_is_prefill_of_one_row();
  convolution_goes_on_where_it_stopped();
  experts_are_added_by_weight();
  router_takes_the_likeliest();
  bad_arguments_are_named();
  return check_result();
}
