// Gated DeltaNet in double precision, row by row.
#include "operators/reference_operators.h"

namespace up::reference {
namespace {

// Element 0 of a slot's state, or -1 where the list names none.
int64_t state_index(const up_states &s, const int32_t *slots, int request) {
  return slots[request] < 0 || slots[request] >= s.slots ? -1 : slots[request] * s.stride;
}

// Calls leave(target) for the request's snapshots that are due after `rows` rows.
template <class Leave>
void take_snapshots(const up_states &s, int request, int rows, Leave leave) {
  if (s.snapshots == 0 || rows % 64 != 0 || rows == 0) return;
  const int end = std::clamp(s.snapshot_starts[request + 1], 0, s.snapshots);
  for (int i = std::clamp(s.snapshot_starts[request], 0, s.snapshots); i < end; i++)
    if (s.snapshot_rows[i] == rows)
      if (const int64_t target = state_index(s, s.snapshot_slots, i); target >= 0) leave(target);
}

struct Rows {
  int begin, end;
};

Rows rows_of(const int32_t *row_starts, int request, int max_rows) {
  const int begin = std::clamp(row_starts[request], 0, max_rows);
  return {begin, std::clamp(row_starts[request + 1], begin, max_rows)};
}

// One value head's state [key_dim][value_dim], and what a row does to it.
struct State {
  int key_dim, value_dim;
  std::vector<double> s;

  State(int key_dim, int value_dim) : key_dim(key_dim), value_dim(value_dim), s(static_cast<size_t>(key_dim * value_dim)) {}
  void read(const up_states &states, int64_t index) {
    for (size_t i = 0; i < s.size(); i++)
      s[i] = index < 0 ? 0 : static_cast<const float *>(states.data)[index + static_cast<int64_t>(i)];
  }
  void write(const up_states &states, int64_t index) const {
    for (size_t i = 0; i < s.size(); i++)
      static_cast<float *>(states.data)[index + static_cast<int64_t>(i)] = static_cast<float>(s[i]);
  }
  // Returns o.
  std::vector<double> step(const std::vector<double> &q, const std::vector<double> &k, const std::vector<double> &v, double decay,
                           double beta) {
    std::vector<double> o(static_cast<size_t>(value_dim));
    for (int j = 0; j < value_dim; j++) {
      double seen = 0;
      for (int i = 0; i < key_dim; i++) {
        double &each = s[static_cast<size_t>(i * value_dim + j)];
        each *= std::exp(decay);
        seen += each * k[static_cast<size_t>(i)];
      }
      const double change = beta * (v[static_cast<size_t>(j)] - seen);
      for (int i = 0; i < key_dim; i++) {
        double &each = s[static_cast<size_t>(i * value_dim + j)];
        each += k[static_cast<size_t>(i)] * change;
        o[static_cast<size_t>(j)] += each * q[static_cast<size_t>(i)];
      }
    }
    return o;
  }
};

template <class Delta>
std::vector<double> read_key(const Delta &p, const void *data, int64_t first) {
  std::vector<double> x(static_cast<size_t>(p.key_dim));
  double squares = 0;
  for (int i = 0; i < p.key_dim; i++) {
    x[static_cast<size_t>(i)] = element(data, p.dtype, first + i);
    squares += x[static_cast<size_t>(i)] * x[static_cast<size_t>(i)];
  }
  if (p.normalise)
    for (double &each : x) each /= std::sqrt(squares + p.norm_eps);
  return x;
}

template <class Delta>
void recur(const Delta &p, State &state, int row, int head) {
  const int key_head = head / (p.value_heads / p.key_heads);
  std::vector<double> q = read_key(p, p.queries, row * p.query_row_stride + int64_t{key_head} * p.key_dim);
  for (double &each : q) each *= p.scale;
  const std::vector<double> k = read_key(p, p.keys, row * p.key_row_stride + int64_t{key_head} * p.key_dim);
  std::vector<double> v(static_cast<size_t>(p.value_dim));
  for (int j = 0; j < p.value_dim; j++)
    v[static_cast<size_t>(j)] = element(p.values, p.dtype, row * p.value_row_stride + int64_t{head} * p.value_dim + j);
  const int64_t gate = int64_t{row} * p.value_heads + head;
  const std::vector<double> o = state.step(q, k, v, p.decay[gate], p.beta[gate]);
  for (int j = 0; j < p.value_dim; j++)
    store_element(p.output, p.dtype, row * p.output_row_stride + int64_t{head} * p.value_dim + j, o[static_cast<size_t>(j)]);
}

}  // namespace

up_status delta_prepare(const up_delta_input *p, void *, up_backend_error *) {
  const int past = p->kernel - 1;
  for (int request = 0; request < p->requests; request++) {
    const Rows rows = rows_of(p->row_starts, request, p->max_rows);
    if (rows.begin == rows.end) continue;
    for (int channel = 0; channel < p->channels; channel++) {
      // The inputs of this channel, the state's before the rows'.
      std::vector<double> x;
      const int64_t source = state_index(p->states, p->states.source_slots, request);
      for (int t = 0; t < past; t++)
        x.push_back(source < 0 ? 0 : element(p->states.data, p->dtype, source + int64_t{t} * p->channels + channel));
      const auto leave = [&](int64_t target) {
        for (int t = 0; t < past; t++)
          store_element(p->states.data, p->dtype, target + int64_t{t} * p->channels + channel,
                        x[x.size() - static_cast<size_t>(past) + static_cast<size_t>(t)]);
      };
      for (int row = rows.begin; row < rows.end; row++) {
        x.push_back(element(p->input, p->dtype, row * p->input_row_stride + channel));
        double sum = 0;
        for (int t = 0; t < p->kernel; t++)
          sum += element(p->weight, p->dtype, int64_t{channel} * p->kernel + t) *
                 x[x.size() - static_cast<size_t>(p->kernel) + static_cast<size_t>(t)];
        store_element(p->output, p->dtype, row * p->output_row_stride + channel, activated(UP_SILU, sum));
        take_snapshots(p->states, request, row + 1 - rows.begin, leave);
      }
      if (const int64_t target = state_index(p->states, p->states.target_slots, request); target >= 0) leave(target);
    }
    for (int row = rows.begin; row < rows.end; row++)
      for (int head = 0; head < p->heads; head++) {
        const double a = element(p->decay_input, p->dtype, row * p->decay_input_stride + head) + p->dt_bias[head];
        const double b = element(p->beta_input, p->dtype, row * p->beta_input_stride + head);
        const int64_t at = int64_t{row} * p->heads + head;
        const double softplus = a > 20 ? a : std::log1p(std::exp(a));
        p->decay[at] = static_cast<float>(-std::exp(static_cast<double>(p->a_log[head])) * softplus);
        p->beta[at] = static_cast<float>(rounded(p->dtype, sigmoid(b)));
      }
  }
  return UP_OK;
}

up_status recur_prefill(const up_delta_prefill *p, void *, size_t, void *, up_backend_error *) {
  const int64_t head_elements = int64_t{p->key_dim} * p->value_dim;
  State state(p->key_dim, p->value_dim);
  for (int request = 0; request < p->requests; request++) {
    const Rows rows = rows_of(p->row_starts, request, p->max_rows);
    if (rows.begin == rows.end) continue;
    for (int head = 0; head < p->value_heads; head++) {
      const int64_t source = state_index(p->states, p->states.source_slots, request);
      state.read(p->states, source < 0 ? source : source + head * head_elements);
      const auto leave = [&](int64_t target) { state.write(p->states, target + head * head_elements); };
      for (int row = rows.begin; row < rows.end; row++) {
        recur(*p, state, row, head);
        take_snapshots(p->states, request, row + 1 - rows.begin, leave);
      }
      if (const int64_t target = state_index(p->states, p->states.target_slots, request); target >= 0) leave(target);
    }
  }
  return UP_OK;
}

up_status recur_decode(const up_delta_decode *p, void *, up_backend_error *) {
  const int64_t head_elements = int64_t{p->key_dim} * p->value_dim;
  State state(p->key_dim, p->value_dim);
  for (int request = 0; request < p->requests; request++)
    for (int head = 0; head < p->value_heads; head++) {
      const int64_t source = state_index(p->states, p->states.source_slots, request);
      const int64_t target = state_index(p->states, p->states.target_slots, request);
      state.read(p->states, source < 0 ? source : source + head * head_elements);
      recur(*p, state, request, head);
      if (target >= 0) state.write(p->states, target + head * head_elements);
    }
  return UP_OK;
}

up_status normalise_gated(const up_gated_norm *p, void *, up_backend_error *) {
  for (int row = 0; row < p->rows; row++)
    for (int head = 0; head < p->heads; head++) {
      const int64_t inside = int64_t{head} * p->head_dim;
      double squares = 0;
      for (int i = 0; i < p->head_dim; i++) {
        const double x = element(p->input, p->dtype, row * p->input_row_stride + inside + i);
        squares += x * x;
      }
      const double inverse = 1 / std::sqrt(squares / p->head_dim + p->eps);
      for (int i = 0; i < p->head_dim; i++) {
        const double x = rounded(p->dtype, element(p->input, p->dtype, row * p->input_row_stride + inside + i) * inverse);
        const double gate = activated(UP_SILU, element(p->gate, p->dtype, row * p->gate_row_stride + inside + i));
        store_element(p->output, p->dtype, row * p->output_row_stride + inside + i, x * element(p->weight, p->dtype, i) * gate);
      }
    }
  return UP_OK;
}

}  // namespace up::reference
