// Cosines and sines of the rotary embedding, computed in double precision and rounded to f32, one row a position.
#pragma once

#include <vector>

#include "weights/model_table.h"

namespace up {

// Angle per position of each pair of dimensions, [dim / 2], after scaling.
std::vector<double> rope_frequencies(const RopeSpec &rope);

class RopeTable {
 public:
  explicit RopeTable(const RopeSpec &rope) : frequencies_(rope_frequencies(rope)) {}

  // Makes rows of positions below `positions` readable. Grows in steps, so it costs nothing when called every step.
  void reserve(int positions);
  int width() const { return static_cast<int>(frequencies_.size()); }
  const float *cos(int position) const { return &cos_[static_cast<size_t>(position) * frequencies_.size()]; }
  const float *sin(int position) const { return &sin_[static_cast<size_t>(position) * frequencies_.size()]; }

 private:
  std::vector<double> frequencies_;
  std::vector<float> cos_;
  std::vector<float> sin_;
  int positions_ = 0;
};

}  // namespace up
