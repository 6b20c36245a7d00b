// The layers of a Llama model over a block of rows.
//
// Rows enter as the residual stream and are advanced in place. A layer may be asked for keys and values only, for
// queries only, or for both: select-then-attend computes them for different rows at a drop layer, and the last layer
// needs queries of the sampled rows alone.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "runner/page_table.h"
#include "runner/rope.h"
#include "runner/weights.h"

namespace up {

// Consecutive rows of a block that belong to one page table.
struct Span {
  const PageTable *table;
  int rows;
};

struct Block {
  int rows = 0;
  float *x = nullptr;           // [rows, hidden], the residual stream
  const float *cos = nullptr;   // [rows, head_dim / 2]
  const float *sin = nullptr;
  const int32_t *last = nullptr;  // [rows] last visible row of the span's table; a row that is written has its own index
  std::vector<Span> spans;

  // Rows [begin, begin + count) as a block of one span.
  Block slice(int begin, int count, const PageTable *table, int hidden, int half) const;
};

enum class Part { keys_values, queries, both };

class Forward {
 public:
  // `capacity`: most rows of a block. Fails with std::bad_alloc.
  Forward(std::shared_ptr<const Model> model, const cpu::Kernels &kernels, const std::vector<bool> &split_layers,
          int capacity);

  int capacity() const { return capacity_; }
  const ModelConfig &config() const { return model_->config(); }
  const cpu::Kernels &kernels() const { return kernels_; }
  cpu::AttentionShape attention_shape() const { return shape_; }

  // x[i] = embedding of tokens[i], [rows, hidden].
  void embed(const int32_t *tokens, int rows, float *x) const;

  // Part keys_values writes K and V of the rows and leaves x as it is; queries and both advance x through the layer.
  void layer(int layer, const Block &block, Part part);

  // Rotated queries of a layer, [rows, heads, head_dim], valid until the next call.
  const cpu::bf16 *queries(int layer, const Block &block);

  // Logits of rows x [rows, hidden], [rows, vocab]; rows ≤ capacity.
  void logits(const float *x, int rows, float *out);

 private:
  void apply(const Linear &linear, const cpu::bf16 *in, int rows, bool accumulate, float *out, int ldo) const;
  void project(int layer, const Block &block, Part part);
  void attend(int layer, const Block &block);
  void mlp(int layer, const Block &block);

  std::shared_ptr<const Model> model_;
  const cpu::Kernels &kernels_;
  int capacity_;
  cpu::AttentionShape shape_;
  Weights weights_;
  AlignedArray<cpu::bf16> normed_;   // [capacity, hidden]
  AlignedArray<float> projected_;    // [capacity, (heads + 2 kv_heads) · head_dim]
  AlignedArray<cpu::bf16> q_;        // [capacity, heads · head_dim]
  AlignedArray<cpu::bf16> k_;        // [capacity, kv_heads · head_dim]
  AlignedArray<cpu::bf16> v_;        // [capacity, kv_heads · head_dim]
  AlignedArray<cpu::bf16> attended_;  // [capacity, heads · head_dim]
  AlignedArray<float> gate_up_;      // [capacity, 2 · intermediate]
  AlignedArray<cpu::bf16> inner_;    // [capacity, intermediate]
  std::vector<cpu::Attention> groups_;
};

}  // namespace up
