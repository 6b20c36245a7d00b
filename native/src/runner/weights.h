// A model's weights in the layout of one kernel table.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cpu/kernels.h"
#include "model/model.h"

namespace up {

// 64-byte aligned memory that is not initialised.
template <class Element>
class AlignedArray {
 public:
  AlignedArray() = default;
  explicit AlignedArray(size_t count)
      : data_(static_cast<Element *>(::operator new(count * sizeof(Element), std::align_val_t{64}))) {}
  Element *get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(Element *p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  std::unique_ptr<Element, Free> data_;
};

// y = x · weightᵀ + bias
struct Linear {
  AlignedArray<std::byte> packed;
  int n = 0;
  int k = 0;
  int slices = 1;
  std::vector<float> bias;  // [n], or empty
};

struct LayerWeights {
  std::vector<float> attention_norm;  // [hidden]
  std::vector<float> mlp_norm;        // [hidden]
  // [Q | K | V] as one matrix, or Q and [K | V] apart where a layer computes them for different rows.
  bool split = false;
  Linear qkv;
  Linear q;
  Linear kv;
  Linear o;
  Linear gate_up;  // [gate | up]
  Linear down;
};

struct Weights {
  std::span<const uint16_t> embedding;  // [vocab, hidden] bf16, in the mapped file
  std::vector<LayerWeights> layers;
  std::vector<float> final_norm;
  Linear lm_head;
};

// `split_layers[layer]`: whether Q and [K | V] are packed apart.
Weights pack_weights(const Model &model, const cpu::Kernels &kernels, const std::vector<bool> &split_layers);

}  // namespace up
