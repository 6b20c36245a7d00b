// Matrix products with weights through cuBLASLt: out = in · Wᵀ (+ out) (+ bias), bf16 with f32 accumulation. Rows that are multiplied
// with e4m3 weights are rounded to e4m3 first.
//
// An algorithm is chosen once for every shape of weights and bucket of row counts, among those that sum a product's terms in
// one go (no split of K, no reduction afterwards), and kept. tune() chooses by time, since cuBLASLt's own first choice is up to
// 16% slower than its best at 16,384 rows. What is timed has been seen to give the same bits for the same row as most others do,
// over all buckets, or as the first choice does where a bucket has none of those: so neither a noisy clock nor, where it can be helped, the
// number of rows in a step decides what a row comes to.
//
// Up to 64 rows are multiplied by a kernel of our own (few_rows.h) where it takes the shape. Where it does not, what serves 64 rows
// competes as well: cuBLASLt's choices for fewer are up to six times slower.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <tuple>
#include <vector>

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
  const float *in_scales = nullptr;  // [rows] where `in` is in e4m3
};

class Matmul {
 public:
  static constexpr size_t workspace_bytes = 32 << 20;

  // `rounded`: room for rows in e4m3, rounded_bytes() of the most there will be; null where no weights are.
  // `spared`: multiprocessors that products of more than 512 rows leave to what runs beside them.
  Matmul(Device &device, std::byte *rounded, int spared);
  ~Matmul();
  Matmul(const Matmul &) = delete;
  Matmul &operator=(const Matmul &) = delete;

  void run(const Product &product);
  // Where `rows` rows in e4m3 go, and their scales: for those who round what a product takes themselves (Product::in_scales). They stay
  // until the next product with e4m3 weights.
  struct Rounded {
    uint8_t *values;
    float *scales;
  };
  Rounded rounded(int rows) const;
  // Chooses the algorithms for products like this one, with its rows at most, by timing them on `weights` in turn. Writes to
  // the product's output.
  void tune(const Product &product, std::span<const Matrix> weights);
  const std::string &version() const { return lt_.version; }
  // That products of many rows run on; 0: all.
  int most_multiprocessors() const { return most_multiprocessors_; }

  static size_t rounded_bytes(int rows, int k);
  // The row count that stands for `rows` and its neighbours.
  static int bucket(int rows);
  // The fewest rows of a bucket.
  static int least_rows(int bucket);

 private:
  // (n, k, in stride, out stride, f32 out, accumulate, bias, e4m3)
  using Key = std::tuple<int, int, int64_t, int64_t, bool, bool, bool, bool>;
  struct Shape;

  // The product with its rows in e4m3 where its weights are.
  Product with_rounded_rows(const Product &product);

  Shape &shape(const Product &product);
  void set_scales(Shape &shape, const Product &product);
  bool serves(Shape &shape, const Product &product, const lt::MatmulAlgo &algorithm, int rows);
  // What can be run for every row count of a bucket, cuBLASLt's first choice first; at least one.
  std::vector<lt::MatmulAlgo> candidates(Shape &shape, const Product &product, int bucket);
  void run(Shape &shape, const Product &product, const lt::MatmulAlgo &algorithm);
  // A hash of the first row of the product, without what was there before.
  uint64_t first_row(Shape &shape, Product product, const lt::MatmulAlgo &algorithm);
  void check(int status, const char *what, const Product &product);

  Device &device_;
  const lt::Functions &lt_;
  const int most_multiprocessors_;  // 0: all
  lt::Handle handle_ = nullptr;
  DeviceBuffer workspace_;
  std::byte *const rounded_;
  std::map<Key, std::unique_ptr<Shape>> shapes_;
};

}  // namespace up::cuda
