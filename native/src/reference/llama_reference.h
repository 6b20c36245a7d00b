// A Llama forward pass in double precision with plain loops: the whole prompt at once, no pages, no chunks, no kernels. The
// oracle of the runner.
//
// It drops tokens in the order of the method's source: a drop layer is computed for all rows, and then the rows that were
// not kept are thrown away.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "model/model.h"

namespace up::reference {

struct Drop {
  int layer;
  double p;
  // Indices into the set before it that stay; absent: selected here.
  std::optional<std::vector<int32_t>> kept;
};

struct Schedule {
  std::vector<Drop> drops;
  bool exclusive = true;
  int block = 64;
  int sink = 128;
  int last_q = 128;
};

struct Selection {
  std::vector<double> masses;  // of each block, summed over heads and queries
  std::vector<int32_t> kept;   // indices into the set before
};

struct Output {
  std::vector<double> logits;  // of the last row
  std::vector<Selection> selections;
};

// The weights as doubles.
class Llama {
 public:
  explicit Llama(const Model &model);

  // `tokens`: the prompt's `prompt_length`, then output tokens, which are rows of every set.
  Output run(std::span<const int32_t> tokens, int prompt_length, const Schedule &schedule) const;

 private:
  using Vector = std::vector<double>;
  struct Layer {
    Vector attention_norm, mlp_norm, q, k, v, o, gate, up, down;
    Vector q_bias, k_bias, v_bias, o_bias, gate_bias, up_bias, down_bias;  // empty without
  };

  Vector normed(const Vector &x, const Vector &weight) const;
  Vector linear(const Vector &x, const Vector &weight, const Vector &bias, int n, int k) const;
  void rotate(Vector &x, int heads, const std::vector<int32_t> &positions) const;
  Selection select(const Vector &q, const Vector &k, int rows, const Schedule &schedule, const Drop &drop) const;

  ModelConfig config_;
  Vector embedding_, final_norm_, lm_head_;
  std::vector<Layer> layers_;
};

}  // namespace up::reference
