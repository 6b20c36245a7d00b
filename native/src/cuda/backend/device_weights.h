// A checkpoint's matrices and vectors on the device, in one allocation: in bf16, but for the matrices of layers in e4m3 where the model
// is quantised.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cuda/backend/device.h"
#include "weights/checkpoint.h"
#include "weights/matrices.h"

namespace up::cuda {

// Rows [n, k] of bf16, or of e4m3 with a scale each; bias [n] or nullptr.
struct Matrix {
  const std::byte *data = nullptr;
  int n = 0;
  int k = 0;
  const uint16_t *bias = nullptr;
  const float *scales = nullptr;  // [n] of e4m3

  // Rows [begin, begin + count) of it.
  Matrix rows(int begin, int count) const {
    return {data + static_cast<int64_t>(begin) * k * (scales == nullptr ? 2 : 1), count, k, bias == nullptr ? nullptr : bias + begin,
            scales == nullptr ? nullptr : scales + begin};
  }
};

struct LayerWeights {
  const uint16_t *input_norm = nullptr;
  const uint16_t *post_attention_norm = nullptr;
  const uint16_t *mlp_norm = nullptr;
  const uint16_t *post_mlp_norm = nullptr;
  Matrix qkv;  // [Q | gate? | K | V]: q and kv are rows of it
  const uint16_t *q_norm = nullptr;
  const uint16_t *k_norm = nullptr;
  Matrix o;

  // Gated DeltaNet
  Matrix delta_in;   // [q | k | v | z | b | a]
  Matrix delta_out;
  const uint16_t *conv = nullptr;   // [conv width, kernel]
  const float *a_log = nullptr;     // [value heads]
  const float *dt_bias = nullptr;   // [value heads]
  const uint16_t *delta_norm = nullptr;

  Matrix gate_up;
  Matrix down;

  // Experts
  Matrix router;  // [experts, hidden], and the gate of the shared expert as one more row
  const uint16_t *expert_gate_up = nullptr;  // [experts, 2 · inner, hidden]
  const uint16_t *expert_down = nullptr;     // [experts, hidden, inner]
  Matrix shared_gate_up;
  Matrix shared_down;
};

class DeviceWeights {
 public:
  using Progress = std::function<void(int64_t done, int64_t all)>;

  // Finds out how much room they take; load() brings them to the device, reading the mapped files with several threads, and
  // calls `progress` from its own.
  explicit DeviceWeights(const Checkpoint &checkpoint);
  ~DeviceWeights();
  void load(Device &device, const Progress &progress);

  const LayerWeights &layer(int index) const { return layers_[static_cast<size_t>(index)]; }
  const uint16_t *embedding() const { return reinterpret_cast<const uint16_t *>(embedding_.data); }
  const uint16_t *final_norm() const { return final_norm_; }
  const Matrix &lm_head() const { return lm_head_; }
  size_t bytes() const { return bytes_; }

 private:
  class Planner;
  // Rounds weights while they are uploaded.
  void load_rounded(Device &device, const Progress &progress);

  std::unique_ptr<Planner> planner_;  // until they are loaded
  size_t bytes_ = 0;
  std::vector<LayerWeights> layers_;
  Matrix embedding_;
  const uint16_t *final_norm_ = nullptr;
  Matrix lm_head_;
  DeviceBuffer memory_;
};

}  // namespace up::cuda
