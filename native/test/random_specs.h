// Small models of every layer kind.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "weights/model_table.h"

struct RandomSpec {
  std::mt19937_64 random;

  explicit RandomSpec(uint64_t seed) : random(seed) {}

  int integer(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); }
  bool coin() { return integer(0, 1) == 1; }
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[integer(0, static_cast<int>(values.size()) - 1)];
  }

  up::NormSpec norm() { return {one_of({1e-6f, 1e-5f}), one_of({0.0f, 1.0f})}; }

  up::AttentionSpec attention(up::Mixer mixer, int kv_width);

  up::DeltaSpec delta();

  up::MlpSpec mlp(bool moe);

  up::LayerSpec layer(up::Mixer mixer, bool moe, int kv_width);

  up::ModelTable model(const std::vector<up::Mixer> &mixers, bool moe);
};
