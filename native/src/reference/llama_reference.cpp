#include "reference/llama_reference.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>
#include <numeric>

namespace up::reference {
namespace {

std::vector<double> widen(std::span<const uint16_t> from) {
  std::vector<double> out;
  for (const uint16_t value : from) out.push_back(std::bit_cast<float>(static_cast<uint32_t>(value) << 16));
  return out;
}

double angle_per_position(const ModelConfig &config, int pair) {
  const RopeScaling &scaling = config.rope_scaling;
  const double inverse = 1 / std::pow(config.rope_theta, 2.0 * pair / config.head_dim);
  if (scaling.type == RopeScaling::Type::linear) return inverse / scaling.factor;
  if (scaling.type == RopeScaling::Type::none) return inverse;
  const double wavelength = 2 * std::numbers::pi / inverse;
  const double original = scaling.original_max_positions;
  if (wavelength < original / scaling.high_freq_factor) return inverse;
  if (wavelength > original / scaling.low_freq_factor) return inverse / scaling.factor;
  const double s = (original / wavelength - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1 - s) * inverse / scaling.factor + s * inverse;
}

// The rows of `keep`, in order.
std::vector<double> rows_of(const std::vector<double> &x, const std::vector<int32_t> &keep, int width) {
  std::vector<double> out;
  for (const int32_t row : keep) out.insert(out.end(), x.begin() + row * width, x.begin() + (row + 1) * width);
  return out;
}

// Attention of one query row of a head over keys 0 … last, as shares.
std::vector<double> shares(const double *q, const std::vector<double> &k, int kv_heads, int kv_head, int dim, int last,
                                  double scale) {
  std::vector<double> out;
  for (int key = 0; key <= last; key++) {
    double dot = 0;
    for (int i = 0; i < dim; i++) dot += q[i] * k[(static_cast<size_t>(key) * kv_heads + kv_head) * dim + i];
    out.push_back(dot * scale);
  }
  const double top = *std::max_element(out.begin(), out.end());
  double total = 0;
  for (double &value : out) total += value = std::exp(value - top);
  for (double &value : out) value /= total;
  return out;
}

}  // namespace

Llama::Llama(const Model &model) : config_(model.config()) {
  const auto read = [&](const std::string &name) { return widen(model.weight(name)); };
  embedding_ = read("model.embed_tokens.weight");
  final_norm_ = read("model.norm.weight");
  lm_head_ = widen(model.lm_head());
  for (int i = 0; i < config_.layers; i++) {
    const auto weight = [&](const char *name) { return read(layer_tensor(i, name) + ".weight"); };
    const auto bias = [&](const char *name, bool has) {
      return has ? read(layer_tensor(i, name) + ".bias") : std::vector<double>{};
    };
    const bool attention = config_.attention_bias;
    const bool mlp = config_.mlp_bias;
    layers_.push_back({weight("input_layernorm"), weight("post_attention_layernorm"), weight("self_attn.q_proj"),
                       weight("self_attn.k_proj"), weight("self_attn.v_proj"), weight("self_attn.o_proj"),
                       weight("mlp.gate_proj"), weight("mlp.up_proj"), weight("mlp.down_proj"),
                       bias("self_attn.q_proj", attention), bias("self_attn.k_proj", attention),
                       bias("self_attn.v_proj", attention), bias("self_attn.o_proj", attention),
                       bias("mlp.gate_proj", mlp), bias("mlp.up_proj", mlp), bias("mlp.down_proj", mlp)});
  }
}

Llama::Vector Llama::normed(const Vector &x, const Vector &weight) const {
  Vector out(x.size());
  const size_t width = weight.size();
  for (size_t row = 0; row * width < x.size(); row++) {
    double squares = 0;
    for (size_t i = 0; i < width; i++) squares += x[row * width + i] * x[row * width + i];
    const double scale = 1 / std::sqrt(squares / static_cast<double>(width) + config_.norm_eps);
    for (size_t i = 0; i < width; i++) out[row * width + i] = x[row * width + i] * scale * weight[i];
  }
  return out;
}

Llama::Vector Llama::linear(const Vector &x, const Vector &weight, const Vector &bias, int n, int k) const {
  const int rows = static_cast<int>(x.size()) / k;
  Vector out(static_cast<size_t>(rows) * static_cast<size_t>(n));
  for (int row = 0; row < rows; row++) {
    for (int j = 0; j < n; j++) {
      double sum = bias.empty() ? 0 : bias[static_cast<size_t>(j)];
      for (int i = 0; i < k; i++) sum += x[static_cast<size_t>(row * k + i)] * weight[static_cast<size_t>(j) * k + i];
      out[static_cast<size_t>(row) * n + j] = sum;
    }
  }
  return out;
}

void Llama::rotate(Vector &x, int heads, const std::vector<int32_t> &positions) const {
  const int dim = config_.head_dim;
  Vector angles;
  for (int i = 0; i < dim / 2; i++) angles.push_back(angle_per_position(config_, i));
  for (size_t row = 0; row < positions.size(); row++) {
    for (int head = 0; head < heads; head++) {
      double *at = &x[(row * heads + head) * dim];
      for (int i = 0; i < dim / 2; i++) {
        const double angle = positions[row] * angles[i];
        const double a = at[i];
        const double b = at[i + dim / 2];
        at[i] = a * std::cos(angle) - b * std::sin(angle);
        at[i + dim / 2] = b * std::cos(angle) + a * std::sin(angle);
      }
    }
  }
}

Selection Llama::select(const Vector &q, const Vector &k, int rows, const Schedule &schedule, const Drop &drop) const {
  Selection out;
  const int blocks = (rows + schedule.block - 1) / schedule.block;
  out.masses.assign(static_cast<size_t>(blocks), 0);
  for (int row = std::max(0, rows - schedule.last_q); row < rows; row++) {
    for (int head = 0; head < config_.heads; head++) {
      const double *query = &q[(static_cast<size_t>(row) * config_.heads + head) * config_.head_dim];
      const auto weights = shares(query, k, config_.kv_heads, head / (config_.heads / config_.kv_heads), config_.head_dim,
                                  row, config_.attention_scale);
      for (int key = 0; key <= row; key++) out.masses[key / schedule.block] += weights[key];
    }
  }
  if (drop.kept) {
    out.kept = *drop.kept;
    return out;
  }
  const auto is_forced = [&](int row) { return row < schedule.sink || row >= rows - schedule.last_q; };
  std::vector<int> order;
  std::vector<bool> stays(static_cast<size_t>(blocks), rows <= schedule.sink + schedule.last_q);
  double total = 0;
  for (int block = 0; block < blocks; block++) {
    bool whole = schedule.exclusive;
    for (int row = block * schedule.block; row < std::min(rows, (block + 1) * schedule.block); row++) whole &= is_forced(row);
    if (whole) {
      stays[block] = true;
    } else {
      order.push_back(block);
      total += out.masses[block];
    }
  }
  std::sort(order.begin(), order.end(), [&](int a, int b) {
    return out.masses[a] != out.masses[b] ? out.masses[a] > out.masses[b] : a > b;
  });
  double before = 0;
  for (const int block : order) {
    if (before > drop.p * total) break;
    stays[block] = true;
    before += out.masses[block];
  }
  for (int row = 0; row < rows; row++) {
    if (stays[row / schedule.block] || is_forced(row)) out.kept.push_back(row);
  }
  return out;
}

Output Llama::run(std::span<const int32_t> tokens, int prompt_length, const Schedule &schedule) const {
  const int hidden = config_.hidden_size;
  const int dim = config_.head_dim;
  const int group = config_.heads / config_.kv_heads;
  Output output;
  Vector x;
  for (const int32_t token : tokens) {
    x.insert(x.end(), embedding_.begin() + token * hidden, embedding_.begin() + (token + 1) * hidden);
  }
  std::vector<int32_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), 0);
  int prompt_rows = prompt_length;

  for (int index = 0; index < config_.layers; index++) {
    const Layer &layer = layers_[static_cast<size_t>(index)];
    const int rows = static_cast<int>(positions.size());
    const Vector in = normed(x, layer.attention_norm);
    Vector q = linear(in, layer.q, layer.q_bias, config_.query_width(), hidden);
    Vector k = linear(in, layer.k, layer.k_bias, config_.kv_width(), hidden);
    const Vector v = linear(in, layer.v, layer.v_bias, config_.kv_width(), hidden);
    rotate(q, config_.heads, positions);
    rotate(k, config_.kv_heads, positions);
    Vector attended(static_cast<size_t>(rows) * config_.query_width(), 0.0);
    for (int row = 0; row < rows; row++) {
      for (int head = 0; head < config_.heads; head++) {
        const size_t at = (static_cast<size_t>(row) * config_.heads + head) * dim;
        const auto weights = shares(&q[at], k, config_.kv_heads, head / group, dim, row, config_.attention_scale);
        for (int key = 0; key <= row; key++) {
          const double *value = &v[(static_cast<size_t>(key) * config_.kv_heads + head / group) * dim];
          for (int i = 0; i < dim; i++) attended[at + i] += weights[key] * value[i];
        }
      }
    }
    const Vector o = linear(attended, layer.o, layer.o_bias, hidden, config_.query_width());
    for (size_t i = 0; i < x.size(); i++) x[i] += o[i];
    const Vector middle = normed(x, layer.mlp_norm);
    Vector inner = linear(middle, layer.gate, layer.gate_bias, config_.intermediate_size, hidden);
    const Vector up = linear(middle, layer.up, layer.up_bias, config_.intermediate_size, hidden);
    for (size_t i = 0; i < inner.size(); i++) inner[i] = inner[i] / (1 + std::exp(-inner[i])) * up[i];
    const Vector down = linear(inner, layer.down, layer.down_bias, hidden, config_.intermediate_size);
    for (size_t i = 0; i < x.size(); i++) x[i] += down[i];

    for (const Drop &drop : schedule.drops) {
      if (drop.layer != index) continue;
      output.selections.push_back(select(q, k, prompt_rows, schedule, drop));
      std::vector<int32_t> keep = output.selections.back().kept;
      const int next_prompt_rows = static_cast<int>(keep.size());
      for (int row = prompt_rows; row < rows; row++) keep.push_back(row);
      x = rows_of(x, keep, hidden);
      std::vector<int32_t> kept_positions;
      for (const int32_t row : keep) kept_positions.push_back(positions[row]);
      positions = kept_positions;
      prompt_rows = next_prompt_rows;
    }
  }
  const Vector last(x.end() - hidden, x.end());
  output.logits = linear(normed(last, final_norm_), lm_head_, {}, config_.vocab_size, hidden);
  return output;
}

}  // namespace up::reference
