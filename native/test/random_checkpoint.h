// Models of random weights for any table of layers.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "temporary_directory.h"
#include "weights/checkpoint.h"

class RandomTensors {
 public:
  explicit RandomTensors(uint64_t seed) : random_(seed) {}

  void add(const std::string &name, const std::vector<int64_t> &shape, double mean, double deviation);

  // The bytes of a safetensors file.
  std::string bytes() const;

 private:
  std::mt19937_64 random_;
  std::ostringstream header_;
  std::string data_;
};

// Fills in the names of a table's tensors, writes the tensors into `directory`, and maps them. `biases`: of q, k, v and o.
std::shared_ptr<const up::Checkpoint> random_checkpoint(const TemporaryDirectory &directory, up::ModelTable model,
                                                        uint64_t seed, bool biases = false);
