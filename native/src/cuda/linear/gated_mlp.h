// The first half of gated MLPs, activation(in · Gᵀ) · (in · Uᵀ): in one kernel (gated_product.cu), or by the library's product and an
// activation.
//
// The kernel is used for many rows of 16-bit weights, if it comes to the library's bits for every shape of weights that a model has: so the
// number of rows in a step decides nothing.
#pragma once

#include <span>
#include <string>

#include "cuda/backend/device.h"
#include "cuda/linear/matmul.h"

namespace up::cuda {

struct GatedMlp {
  const Matrix *weights;  // [2 · inner, k]: gate before up
  const uint16_t *in;     // [rows, k]
  int rows;
  up_activation activation;
  uint16_t *out;  // [rows, inner], 2 · inner apart; the library's product also writes what is between
};

class GatedMlps {
 public:
  // With fewer rows, tiles of the kernel leave multiprocessors idle, and the library's smaller ones are faster.
  static constexpr int least_rows = 1024;

  GatedMlps(Device &device, Matmul &matmul) : device_(device), matmul_(matmul) {}

  // Has run() use the kernel if it takes all of these and the first row of each comes to the same bits both ways. Writes to out.
  void choose(std::span<const GatedMlp> examples);
  bool is_chosen() const { return is_chosen_; }
  // The weights whose bits differ, "[28672, 4096]"; empty where none do.
  const std::string &differing() const { return differing_; }

  void run(const GatedMlp &p);
  void in_one_kernel(const GatedMlp &p);
  void by_library(const GatedMlp &p);
  // How many times run() has used the kernel.
  int64_t kernels() const { return kernels_; }

 private:
  Device &device_;
  Matmul &matmul_;
  bool is_chosen_ = false;
  std::string differing_;
  int64_t kernels_ = 0;
};

}  // namespace up::cuda
