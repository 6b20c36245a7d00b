// Matrix products with weights through cuBLASLt: out = in · Wᵀ (+ out) (+ bias), bf16 with f32 accumulation.
//
// An algorithm is chosen once for every shape of weights and bucket of row counts, among those that sum a product's terms in
// one go (no split of K, no reduction afterwards), and kept: so the same rows give the same bits in every run, whatever the
// number of rows in their step, as long as it lies in the same bucket.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "cuda/backend/device.h"
#include "cuda/backend/device_weights.h"
#include "cuda/linear/cublaslt.h"

namespace up::cuda {

struct Product {
  const Matrix *weights;
  const void *in;  // [rows, k] bf16
  int64_t in_stride;
  int rows;
  void *out;  // [rows, n]
  int64_t out_stride;
  bool out_f32 = false;     // otherwise bf16
  bool accumulate = false;  // adds to what is there
};

class Matmul {
 public:
  static constexpr size_t workspace_bytes = 32 << 20;

  explicit Matmul(Device &device);
  ~Matmul();
  Matmul(const Matmul &) = delete;
  Matmul &operator=(const Matmul &) = delete;

  void run(const Product &product);
  const std::string &version() const { return lt_.version; }

  // The row count that stands for `rows` and its neighbours.
  static int bucket(int rows);

 private:
  // (n, k, in stride, out stride, f32 out, accumulate, bias)
  using Key = std::tuple<int, int, int64_t, int64_t, bool, bool, bool>;
  struct Shape;

  Shape &shape(const Product &product);
  const lt::MatmulAlgo &algorithm(Shape &shape, const Product &product);
  void check(int status, const char *what, const Product &product);

  Device &device_;
  const lt::Functions &lt_;
  lt::Handle handle_ = nullptr;
  DeviceBuffer workspace_;
  std::map<Key, std::unique_ptr<Shape>> shapes_;
};

}  // namespace up::cuda
