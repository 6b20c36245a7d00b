// The matrices that a runner multiplies with, put together from a checkpoint's tensors.
//
// Several tensors become one matrix where they share their input ([Q | K | V], [gate | up]), and layouts that only
// checkpoints have (queries and gates by turns, projections grouped by key head) are put in order here, once for all backends. So is
// what a rank has of them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "weights/checkpoint.h"

namespace up {

enum class MatrixKind {
  qkv,      // [Q | gate? | K | V]
  q,        // [Q | gate?]
  kv,       // [K | V]
  o,
  delta_in,   // [q | k | v | z | b | a]
  delta_conv,  // [q | k | v] channels, taps each
  delta_out,
  gate_up,  // [gate | up]
  down,
  router,
  expert_gate_up,  // of one expert
  expert_down,
  shared_gate_up,
  shared_down,
  shared_gate,  // [1, hidden]
  lm_head,
};

// Rows [n, k] of bf16 where they lie in mapped files: piece after piece, each a run of whole rows. Of a rank's part of a sum (o,
// delta_out, down …) the bias is whole: it is added once, to the sum.
struct MatrixRows {
  int n = 0;
  int k = 0;
  std::vector<std::span<const uint16_t>> pieces;
  std::vector<float> bias;  // [n], or empty

  // Row-major copy.
  std::vector<uint16_t> gather() const;
};

// `expert`: of the kinds that have one for each.
MatrixRows matrix_rows(const Checkpoint &checkpoint, int layer, MatrixKind kind, int expert = -1);

// A delta layer's vector of one value a value head ("aLog", "dtBias"), of the rank's heads.
std::vector<float> delta_head_vector(const Checkpoint &checkpoint, int layer, const std::string &role);

}  // namespace up
