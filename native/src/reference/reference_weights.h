// A model's weights as doubles.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "weights/checkpoint.h"
#include "weights/matrices.h"

namespace up::reference {

using Vector = std::vector<double>;

// y = x · weightᵀ + bias
struct Matrix {
  int n = 0;
  int k = 0;
  Vector columns;  // [k, n]: weights of one input beside each other
  Vector bias;     // [n], or empty
  bool fp8 = false;  // weights are rounded to e4m3, and x is

  // [rows, n] of x [rows, k]
  Vector times(const double *x, int rows) const;
};

class Weights {
 public:
  explicit Weights(const Checkpoint &checkpoint);

  // Layer −1: of the model.
  const Matrix &matrix(int layer, MatrixKind kind, int expert = -1) const { return matrices_.at({layer, kind, expert}); }
  const Vector &vector(int layer, const std::string &role) const { return vectors_.at({layer, role}); }
  const Vector &embedding() const { return embedding_; }

 private:
  struct Key {
    int layer;
    MatrixKind kind;
    int expert;
    auto operator<=>(const Key &) const = default;
  };

  void add(const Checkpoint &checkpoint, int layer, MatrixKind kind, int expert = -1);
  void add_layer(const Checkpoint &checkpoint, int layer);

  std::map<Key, Matrix> matrices_;
  std::map<std::pair<int, std::string>, Vector> vectors_;
  Vector embedding_;
};

}  // namespace up::reference
