#include "runner/forward.h"

#include <bit>

namespace up {
namespace {

size_t area(int rows, int width) { return static_cast<size_t>(rows) * static_cast<size_t>(width); }

void add_bias(const std::vector<float> &bias, int rows, float *out, int ldo) {
  for (int row = 0; row < rows; row++) {
    float *to = out + area(row, ldo);
    for (size_t i = 0; i < bias.size(); i++) to[i] += bias[i];
  }
}

}  // namespace

Block Block::slice(int begin, int count, const PageTable *table, int hidden, int half) const {
  return {count, x + area(begin, hidden), cos + area(begin, half), sin + area(begin, half), last + begin,
          {{table, count}}};
}

Forward::Forward(std::shared_ptr<const Model> model, const cpu::Kernels &kernels,
                 const std::vector<bool> &split_layers, int capacity)
    : model_(std::move(model)),
      kernels_(kernels),
      capacity_(capacity),
      weights_(pack_weights(*model_, kernels, split_layers)) {
  const ModelConfig &c = config();
  shape_ = {c.heads, c.kv_heads, c.head_dim, c.attention_scale, 0};
  normed_ = AlignedArray<cpu::bf16>(area(capacity, c.hidden_size));
  projected_ = AlignedArray<float>(area(capacity, c.query_width() + 2 * c.kv_width()));
  q_ = AlignedArray<cpu::bf16>(area(capacity, c.query_width()));
  k_ = AlignedArray<cpu::bf16>(area(capacity, c.kv_width()));
  v_ = AlignedArray<cpu::bf16>(area(capacity, c.kv_width()));
  attended_ = AlignedArray<cpu::bf16>(area(capacity, c.query_width()));
  gate_up_ = AlignedArray<float>(area(capacity, 2 * c.intermediate_size));
  inner_ = AlignedArray<cpu::bf16>(area(capacity, c.intermediate_size));
}

void Forward::embed(const int32_t *tokens, int rows, float *x) const {
  const auto hidden = static_cast<size_t>(config().hidden_size);
  for (int row = 0; row < rows; row++) {
    const uint16_t *from = &weights_.embedding[static_cast<size_t>(tokens[row]) * hidden];
    float *to = x + static_cast<size_t>(row) * hidden;
    for (size_t i = 0; i < hidden; i++) to[i] = std::bit_cast<float>(static_cast<uint32_t>(from[i]) << 16);
  }
}

void Forward::apply(const Linear &linear, const cpu::bf16 *in, int rows, bool accumulate, float *out, int ldo) const {
  kernels_.gemm(in, linear.k, rows, linear.packed.get(), linear.n, linear.k, linear.slices, accumulate, out, ldo);
  if (!linear.bias.empty()) add_bias(linear.bias, rows, out, ldo);
}

// Fills projected_ with [Q | K | V], or the half that is asked for, and q_, k_, v_ from it.
void Forward::project(int layer, const Block &block, Part part) {
  const ModelConfig &c = config();
  const LayerWeights &w = weights_.layers[static_cast<size_t>(layer)];
  const int width = c.query_width() + 2 * c.kv_width();
  float *projected = projected_.get();
  kernels_.rms_norm(block.x, block.rows, c.hidden_size, w.attention_norm.data(), c.norm_eps, normed_.get());
  if (!w.split) {
    apply(w.qkv, normed_.get(), block.rows, false, projected, width);
  } else {
    if (part != Part::keys_values) apply(w.q, normed_.get(), block.rows, false, projected, width);
    if (part != Part::queries) apply(w.kv, normed_.get(), block.rows, false, projected + c.query_width(), width);
  }
  if (part != Part::keys_values) {
    kernels_.rope(projected, width, block.rows, c.heads, c.head_dim, block.cos, block.sin, q_.get());
  }
  if (part != Part::queries) {
    const float *keys = projected + c.query_width();
    kernels_.rope(keys, width, block.rows, c.kv_heads, c.head_dim, block.cos, block.sin, k_.get());
    kernels_.rope(keys + c.kv_width(), width, block.rows, c.kv_heads, c.head_dim, nullptr, nullptr, v_.get());
  }
}

void Forward::attend(int layer, const Block &block) {
  const ModelConfig &c = config();
  groups_.clear();
  int begin = 0;
  for (const Span &span : block.spans) {
    const size_t at = area(begin, c.query_width());
    groups_.push_back({span.rows, q_.get() + at, span.table->pages_of(layer), nullptr, block.last + begin,
                       attended_.get() + at});
    begin += span.rows;
  }
  kernels_.attend(groups_.data(), static_cast<int>(groups_.size()), shape_);
  apply(weights_.layers[static_cast<size_t>(layer)].o, attended_.get(), block.rows, true, block.x, c.hidden_size);
}

void Forward::mlp(int layer, const Block &block) {
  const ModelConfig &c = config();
  const LayerWeights &w = weights_.layers[static_cast<size_t>(layer)];
  kernels_.rms_norm(block.x, block.rows, c.hidden_size, w.mlp_norm.data(), c.norm_eps, normed_.get());
  apply(w.gate_up, normed_.get(), block.rows, false, gate_up_.get(), 2 * c.intermediate_size);
  kernels_.silu_mul(gate_up_.get(), block.rows, c.intermediate_size, inner_.get());
  apply(w.down, inner_.get(), block.rows, true, block.x, c.hidden_size);
}

void Forward::layer(int layer, const Block &block, Part part) {
  const ModelConfig &c = config();
  project(layer, block, part);
  if (part != Part::queries) {
    int begin = 0;
    for (const Span &span : block.spans) {
      const size_t at = area(begin, c.kv_width());
      kernels_.write_kv(k_.get() + at, v_.get() + at, block.last[begin], span.rows, c.kv_heads, c.head_dim,
                        span.table->pages_of(layer));
      begin += span.rows;
    }
  }
  if (part == Part::keys_values) return;
  attend(layer, block);
  mlp(layer, block);
}

const cpu::bf16 *Forward::queries(int layer, const Block &block) {
  project(layer, block, Part::queries);
  return q_.get();
}

void Forward::logits(const float *x, int rows, float *out) {
  const ModelConfig &c = config();
  kernels_.rms_norm(x, rows, c.hidden_size, weights_.final_norm.data(), c.norm_eps, normed_.get());
  apply(weights_.lm_head, normed_.get(), rows, false, out, c.vocab_size);
}

}  // namespace up
