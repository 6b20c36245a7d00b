// A model's weights in the layout of one kernel table.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "cpu/aligned_array.h"
#include "cpu/kernels.h"
#include "weights/checkpoint.h"
#include "weights/matrices.h"

namespace up::cpu {

// y = x · weightᵀ + bias
struct Linear {
  AlignedArray<std::byte> packed;  // slice after slice where the sum is one over ranks
  int n = 0;  // 0: the layer has none
  int k = 0;
  int slices = 1;  // of this rank
  size_t slice_bytes = 0;  // of each in `packed`, of a sum over ranks; 0: packed as one
  std::vector<float> bias;  // [n], or empty
  bool fp8 = false;  // weights are rounded to e4m3, and what they are multiplied with is to be

  std::byte *slice(int index) const { return packed.get() + slice_bytes * static_cast<size_t>(index); }
};

struct LayerWeights {
  // Norms as factors, offset included.
  std::vector<float> input_norm, post_attention_norm, mlp_norm, post_mlp_norm;  // [hidden]
  std::vector<float> q_norm, k_norm;                                            // [head_dim]
  std::vector<float> conv, decay, dt_bias, delta_norm;                          // as DeltaWeights has them
  std::array<Linear, static_cast<size_t>(MatrixKind::lm_head)> linears;         // of all kinds but the experts' and lm_head
  std::vector<Linear> expert_gate_up, expert_down;                              // [experts]

  const Linear &operator[](MatrixKind kind) const { return linears[static_cast<size_t>(kind)]; }
};

struct CpuWeights {
  std::span<const uint16_t> embedding;  // [vocab, hidden] bf16, in the mapped file
  std::vector<LayerWeights> layers;
  std::vector<float> final_norm;
  Linear lm_head;
};

// `split_layers[layer]`: whether Q and [K | V] are packed apart. Fails with UP_UNSUPPORTED_MODEL for shapes that the kernels do
// not compute.
CpuWeights pack_weights(const Checkpoint &checkpoint, const Kernels &kernels, const std::vector<bool> &split_layers);

}  // namespace up::cpu
