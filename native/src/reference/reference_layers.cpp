#include "reference/reference_layers.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

namespace up::reference {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double silu(double x) { return x * sigmoid(x); }

double activation(Activation kind, double x) {
  if (kind == Activation::silu) return silu(x);
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}

void normalise(double *x, int width, const Vector &weight, const NormSpec &spec) {
  double squares = 0;
  for (int i = 0; i < width; i++) squares += x[i] * x[i];
  const double scale = 1 / std::sqrt(squares / width + spec.eps);
  for (int i = 0; i < width; i++) x[i] *= scale * (spec.offset + weight[static_cast<size_t>(i)]);
}

void rotate(double *head, const std::vector<double> &frequencies, int position) {
  const size_t half = frequencies.size();
  for (size_t i = 0; i < half; i++) {
    const double angle = position * frequencies[i];
    const double a = head[i];
    const double b = head[i + half];
    head[i] = a * std::cos(angle) - b * std::sin(angle);
    head[i + half] = b * std::cos(angle) + a * std::sin(angle);
  }
}

Vector attention_shares(const double *query, const double *const *keys, int count, int offset, const AttentionSpec &spec) {
  Vector out;
  for (int j = 0; j < count; j++) {
    const double *k = keys[j] + offset;
    double score = 0;
    for (int i = 0; i < spec.head_dim; i++) score += query[i] * k[i];
    score *= spec.scale;
    if (spec.soft_cap > 0) score = spec.soft_cap * std::tanh(score / spec.soft_cap);
    out.push_back(score);
  }
  const double top = *std::max_element(out.begin(), out.end());
  double total = 0;
  for (double &value : out) total += value = std::exp(value - top);
  for (double &value : out) value /= total;
  return out;
}

namespace {

// Causal convolution of one row with the rows before it, SiLU; the row joins those before.
Vector convolve(const double *inputs, const DeltaSpec &spec, const Vector &taps, Vector &before) {
  const auto width = static_cast<size_t>(spec.conv_width());
  const auto kernel = static_cast<size_t>(spec.conv_kernel);
  before.insert(before.end(), inputs, inputs + width);
  Vector out(width, 0.0);
  for (size_t c = 0; c < width; c++) {
    for (size_t j = 0; j < kernel; j++) out[c] += before[j * width + c] * taps[c * kernel + j];
    out[c] = silu(out[c]);
  }
  before.erase(before.begin(), before.begin() + static_cast<ptrdiff_t>(width));
  return out;
}

void to_length(double *x, int dim, double length) {
  double squares = 0;
  for (int i = 0; i < dim; i++) squares += x[i] * x[i];
  for (int i = 0; i < dim; i++) x[i] *= length / std::sqrt(squares + 1e-6);
}

// S ← S · decay; S += k ⊗ β (v − Sᵀk); o = Sᵀq, of one value head.
void recur_head(const double *q, const double *k, const double *v, double beta, double decay, int key_dim, int value_dim,
                double *state, double *o) {
  Vector change(v, v + value_dim);
  std::fill_n(o, value_dim, 0.0);
  for (int i = 0; i < key_dim; i++) {
    for (int j = 0; j < value_dim; j++) {
      state[i * value_dim + j] *= decay;
      change[static_cast<size_t>(j)] -= state[i * value_dim + j] * k[i];
    }
  }
  for (int i = 0; i < key_dim; i++) {
    for (int j = 0; j < value_dim; j++) {
      state[i * value_dim + j] += k[i] * beta * change[static_cast<size_t>(j)];
      o[j] += state[i * value_dim + j] * q[i];
    }
  }
}

}  // namespace

void delta_row(const double *projected, const DeltaSpec &spec, const Weights &weights, int layer, Memory::DeltaState &state,
               double *out) {
  Vector mixed = convolve(projected, spec, weights.vector(layer, "conv"), state.conv);
  double *q = mixed.data();
  double *k = q + spec.key_width();
  const double *v = k + spec.key_width();
  const double *z = projected + spec.conv_width();
  const double *b = z + spec.value_width();
  const double *a = b + spec.value_heads;
  for (int head = 0; head < spec.key_heads; head++) {
    to_length(q + head * spec.key_dim, spec.key_dim, 1 / std::sqrt(spec.key_dim));
    to_length(k + head * spec.key_dim, spec.key_dim, 1);
  }
  const int share = spec.value_heads / spec.key_heads;
  const NormSpec norm{spec.norm_eps, 0};
  for (int head = 0; head < spec.value_heads; head++) {
    const auto h = static_cast<size_t>(head);
    const double rate = std::exp(weights.vector(layer, "aLog")[h]);
    const double decay = std::exp(-rate * std::log1p(std::exp(a[head] + weights.vector(layer, "dtBias")[h])));
    const int key_at = head / share * spec.key_dim;
    const int value_at = head * spec.value_dim;
    double *o = out + value_at;
    recur_head(q + key_at, k + key_at, v + value_at, sigmoid(b[head]), decay, spec.key_dim, spec.value_dim,
               &state.state[h * static_cast<size_t>(spec.key_dim * spec.value_dim)], o);
    normalise(o, spec.value_dim, weights.vector(layer, "deltaNorm"), norm);
    for (int i = 0; i < spec.value_dim; i++) o[i] *= silu(z[value_at + i]);
  }
}

namespace {

Vector gated_mlp(const double *normed, const Matrix &gate_up, const Matrix &down, Activation kind) {
  const Vector gated = gate_up.times(normed, 1);
  const size_t inner = gated.size() / 2;
  Vector product(inner);
  for (size_t i = 0; i < inner; i++) product[i] = activation(kind, gated[i]) * gated[inner + i];
  return down.times(product.data(), 1);
}

}  // namespace

Vector expert_row(const double *normed, const MlpSpec &spec, const Weights &weights, int layer) {
  Vector shares = weights.matrix(layer, MatrixKind::router).times(normed, 1);
  std::vector<int> order(shares.size());
  std::iota(order.begin(), order.end(), 0);
  const auto share = [&](int expert) -> double & { return shares[static_cast<size_t>(expert)]; };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return share(a) > share(b); });
  const double top = share(order[0]);
  double total = 0;
  for (double &value : shares) total += value = std::exp(value - top);
  order.resize(static_cast<size_t>(spec.top_k));
  if (spec.renormalise) total = std::accumulate(order.begin(), order.end(), 0.0, [&](double sum, int e) { return sum + share(e); });
  Vector out(static_cast<size_t>(weights.matrix(layer, MatrixKind::expert_down, 0).n), 0.0);
  const auto add = [&](const Vector &part, double weight) {
    for (size_t i = 0; i < out.size(); i++) out[i] += weight * part[i];
  };
  for (const int expert : order) {
    add(gated_mlp(normed, weights.matrix(layer, MatrixKind::expert_gate_up, expert),
                  weights.matrix(layer, MatrixKind::expert_down, expert), spec.activation),
        share(expert) / total);
  }
  if (spec.shared_inner > 0) {
    add(gated_mlp(normed, weights.matrix(layer, MatrixKind::shared_gate_up), weights.matrix(layer, MatrixKind::shared_down),
                  spec.activation),
        sigmoid(weights.matrix(layer, MatrixKind::shared_gate).times(normed, 1)[0]));
  }
  return out;
}

}  // namespace up::reference
