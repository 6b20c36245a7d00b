#include "cuda/linear/matmul.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "abi/fnv.h"
#include "cuda/linear/few_rows.h"
#include "cuda/linear/round_rows.h"

namespace up::cuda {
namespace {

// Below it cuBLASLt knows nothing good without a split of K but what serves so many.
constexpr int few_rows = 64;
// Above it a product may leave some multiprocessors to others.
constexpr int many_rows = 512;

}  // namespace

// cuBLASLt's matrices are column-major: a row-major [rows, k] is a [k, rows] there. So the product asked of it is
// outᵀ [n, rows] = op(W) [n, k] · inᵀ [k, rows].
struct Matmul::Shape {
  const lt::Functions &lt;
  lt::MatmulDesc desc = nullptr;
  lt::MatrixLayout weights = nullptr, in = nullptr, out = nullptr;
  lt::MatmulPreference preference = nullptr;
  std::map<int, lt::MatmulAlgo> algorithms;  // by bucket
  const int32_t most_multiprocessors;        // of products of many rows; 0: all
  int32_t multiprocessors = 0;               // that the descriptor says

  Shape(const lt::Functions &lt, int most_multiprocessors) : lt(lt), most_multiprocessors(most_multiprocessors) {}
  ~Shape() {
    if (preference != nullptr) lt.MatmulPreferenceDestroy(preference);
    for (lt::MatrixLayout each : {weights, in, out})
      if (each != nullptr) lt.MatrixLayoutDestroy(each);
    if (desc != nullptr) lt.MatmulDescDestroy(desc);
  }
  Shape(const Shape &) = delete;
  Shape &operator=(const Shape &) = delete;

  int set_rows(int rows) {
    const int32_t wanted = rows > many_rows ? most_multiprocessors : 0;
    if (wanted != multiprocessors) {
      const int status = lt.MatmulDescSetAttribute(desc, lt::desc_multiprocessors, &wanted, sizeof wanted);
      if (status != lt::status_success) return status;
      multiprocessors = wanted;
    }
    const auto cols = static_cast<uint64_t>(rows);
    const int status = lt.MatrixLayoutSetAttribute(in, lt::layout_cols, &cols, sizeof cols);
    return status != lt::status_success ? status : lt.MatrixLayoutSetAttribute(out, lt::layout_cols, &cols, sizeof cols);
  }
};

Matmul::Matmul(Device &device, std::byte *rounded, int spared)
    : device_(device),
      lt_(lt::functions()),
      most_multiprocessors_(spared == 0 ? 0 : device.multiprocessors() - spared),
      workspace_(device, workspace_bytes, "the workspace of cuBLASLt"),
      rounded_(rounded) {
  const int status = lt_.Create(&handle_);
  if (status != lt::status_success) fail(UP_DEVICE_LOST, "open cuBLASLt", lt_.GetStatusString(status));
}

Matmul::~Matmul() {
  shapes_.clear();
  if (handle_ != nullptr) lt_.Destroy(handle_);
}

size_t Matmul::rounded_bytes(int rows, int k) {
  const auto count = static_cast<size_t>(rows);
  return aligned_bytes(count * sizeof(float)) + aligned_bytes(count * static_cast<size_t>(k));
}

Matmul::Rounded Matmul::rounded(int rows) const {
  return {reinterpret_cast<uint8_t *>(rounded_ + aligned_bytes(static_cast<size_t>(rows) * sizeof(float))), reinterpret_cast<float *>(rounded_)};
}

Product Matmul::with_rounded_rows(const Product &p) {
  if (p.weights->scales == nullptr || p.in_scales != nullptr) return p;
  const int k = p.weights->k;
  const auto [values, scales] = rounded(p.rows);
  launch_round_rows(static_cast<const uint16_t *>(p.in), p.in_stride, p.rows, k, values, scales, device_.stream());
  device_.check_launch("round rows");
  Product out = p;
  out.in = values;
  out.in_stride = k;
  out.in_scales = scales;
  return out;
}

int Matmul::bucket(int rows) {
  for (int each = 8; each <= 256; each *= 2)
    if (rows <= each) return each;
  // 3 · 2ⁿ and 2ⁿ
  for (int each = 256;; each *= 2) {
    if (rows <= each + each / 2) return each + each / 2;
    if (rows <= 2 * each) return 2 * each;
  }
}

int Matmul::least_rows(int bucket) {
  if (bucket <= 8) return 1;
  if (bucket <= 256) return bucket / 2 + 1;
  return bucket / (bucket % 3 == 0 ? 3 : 4) * (bucket % 3 == 0 ? 2 : 3) + 1;
}

void Matmul::check(int status, const char *what, const Product &p) {
  if (status == lt::status_success) return;
  fail(UP_LAUNCH_FAILED, "multiply matrices", what, ": ", lt_.GetStatusString(status), ", rows ", p.rows, " · [", p.weights->n, ", ",
       p.weights->k, "]ᵀ, strides ", p.in_stride, " and ", p.out_stride);
}

Matmul::Shape &Matmul::shape(const Product &p) {
  const bool bias = p.weights->bias != nullptr, fp8 = p.in_scales != nullptr;
  const Key key{p.weights->n, p.weights->k, p.in_stride, p.out_stride, p.out_f32, p.accumulate, bias, fp8};
  std::unique_ptr<Shape> &slot = shapes_[key];
  if (slot) return *slot;
  auto made = std::make_unique<Shape>(lt_, most_multiprocessors_);
  const auto n = static_cast<uint64_t>(p.weights->n), k = static_cast<uint64_t>(p.weights->k);
  const cudaDataType out_type = p.out_f32 ? CUDA_R_32F : CUDA_R_16BF;
  check(lt_.MatmulDescCreate(&made->desc, lt::compute_f32, CUDA_R_32F), "descriptor", p);
  const int32_t transposed = lt::operation_transposed;
  check(lt_.MatmulDescSetAttribute(made->desc, lt::desc_transpose_a, &transposed, sizeof transposed), "descriptor", p);
  if (bias) {
    const uint32_t epilogue = lt::epilogue_bias;
    const int32_t type = CUDA_R_16BF;
    check(lt_.MatmulDescSetAttribute(made->desc, lt::desc_epilogue, &epilogue, sizeof epilogue), "epilogue", p);
    check(lt_.MatmulDescSetAttribute(made->desc, lt::desc_bias_type, &type, sizeof type), "epilogue", p);
  }
  if (fp8) {
    for (const int mode : {lt::desc_scale_mode_a, lt::desc_scale_mode_b})
      check(lt_.MatmulDescSetAttribute(made->desc, mode, &lt::scale_of_each_row, sizeof lt::scale_of_each_row), "scales", p);
    set_scales(*made, p);
    // Sums within the matrix units, some 14 bits: a tenth and more faster, and they lose less than a tenth of what rounding to e4m3 does.
    const int8_t fast = 1;
    check(lt_.MatmulDescSetAttribute(made->desc, lt::desc_fast_sums, &fast, sizeof fast), "sums", p);
  }
  const cudaDataType type = fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
  check(lt_.MatrixLayoutCreate(&made->weights, type, k, n, p.weights->k), "layout", p);
  check(lt_.MatrixLayoutCreate(&made->in, type, k, 1, p.in_stride), "layout", p);
  check(lt_.MatrixLayoutCreate(&made->out, out_type, n, 1, p.out_stride), "layout", p);
  check(lt_.MatmulPreferenceCreate(&made->preference), "preference", p);
  const auto prefer = [&](int attribute, const auto &value) {
    check(lt_.MatmulPreferenceSetAttribute(made->preference, attribute, &value, sizeof value), "preference", p);
  };
  prefer(lt::preference_workspace_bytes, uint64_t{workspace_bytes});
  prefer(lt::preference_reduction_schemes, lt::reduction_scheme_none);
  // Tiles of rows and parts of [Q | K | V] begin at any row, so pointers are aligned as rows are.
  const auto aligned = [](int64_t row_bytes) { return static_cast<uint32_t>(std::gcd<int64_t, int64_t>(row_bytes, 256)); };
  const int64_t bytes = fp8 ? 1 : 2;
  prefer(lt::preference_alignment_a, aligned(bytes * p.weights->k));
  prefer(lt::preference_alignment_a + 1, aligned(bytes * p.in_stride));
  for (const int c_or_d : {2, 3}) prefer(lt::preference_alignment_a + c_or_d, aligned((p.out_f32 ? 4 : 2) * p.out_stride));
  slot = std::move(made);
  return *slot;
}

void Matmul::set_scales(Shape &shape, const Product &p) {
  const void *const weights = p.weights->scales, *const in = p.in_scales;
  check(lt_.MatmulDescSetAttribute(shape.desc, lt::desc_scale_a, &weights, sizeof weights), "scales", p);
  check(lt_.MatmulDescSetAttribute(shape.desc, lt::desc_scale_b, &in, sizeof in), "scales", p);
}

bool Matmul::serves(Shape &shape, const Product &p, const lt::MatmulAlgo &algorithm, int rows) {
  check(shape.set_rows(rows), "layout", p);
  lt::HeuristicResult result{};
  return lt_.MatmulAlgoCheck(handle_, shape.desc, shape.weights, shape.in, shape.out, shape.out, &algorithm, &result) ==
             lt::status_success &&
         result.workspace_bytes <= workspace_bytes;
}

std::vector<lt::MatmulAlgo> Matmul::candidates(Shape &shape, const Product &p, int bucket) {
  // Some algorithms take the most rows of a bucket, but not a single one.
  const int least = least_rows(bucket);
  std::vector<lt::MatmulAlgo> out;
  const auto add = [&](int rows) {
    constexpr int wanted = 8;
    check(shape.set_rows(rows), "layout", p);
    lt::HeuristicResult results[wanted]{};
    int found = 0;
    check(lt_.MatmulAlgoGetHeuristic(handle_, shape.desc, shape.weights, shape.in, shape.out, shape.out, shape.preference, wanted,
                                     results, &found),
          "choice of an algorithm", p);
    for (int i = 0; i < found; i++) {
      int32_t split = 1;
      size_t written = 0;
      lt_.MatmulAlgoConfigGetAttribute(&results[i].algo, lt::algo_split_k, &split, sizeof split, &written);
      if (results[i].status == lt::status_success && results[i].workspace_bytes <= workspace_bytes && split <= 1 &&
          serves(shape, p, results[i].algo, least) && serves(shape, p, results[i].algo, bucket))
        out.push_back(results[i].algo);
    }
  };
  if (bucket < few_rows) add(few_rows);
  add(bucket);
  if (out.empty()) add(least);
  if (out.empty()) {
    fail(UP_LAUNCH_FAILED, "multiply matrices", "cuBLASLt ", lt_.version, " has no algorithm without a split of K for ", bucket, " rows · [",
         p.weights->n, ", ", p.weights->k, "]ᵀ");
  }
  return out;
}

void Matmul::run(Shape &with, const Product &p, const lt::MatmulAlgo &algorithm) {
  if (p.weights->bias != nullptr) {
    const void *bias = p.weights->bias;
    check(lt_.MatmulDescSetAttribute(with.desc, lt::desc_bias_pointer, &bias, sizeof bias), "bias", p);
  }
  if (p.in_scales != nullptr) set_scales(with, p);
  check(with.set_rows(p.rows), "layout", p);
  const float alpha = 1, beta = p.accumulate ? 1 : 0;
  check(lt_.Matmul(handle_, with.desc, &alpha, p.weights->data, with.weights, p.in, with.in, &beta, p.out, with.out, p.out, with.out,
                   &algorithm, workspace_.as<>(), workspace_bytes, device_.stream()),
        "product", p);
  device_.check_launch("multiply matrices");
}

void Matmul::run(const Product &product) {
  if (product.rows == 0) return;
  const Product p = with_rounded_rows(product);
  if (takes_few_rows(p)) return multiply_few_rows(device_, p);
  Shape &with = shape(p);
  const int rows = bucket(p.rows);
  auto found = with.algorithms.find(rows);
  if (found == with.algorithms.end()) found = with.algorithms.emplace(rows, candidates(with, p, rows).front()).first;
  run(with, p, found->second);
}

uint64_t Matmul::first_row(Shape &shape, Product product, const lt::MatmulAlgo &algorithm) {
  product.accumulate = false;
  run(shape, product, algorithm);
  std::vector<uint16_t> row(static_cast<size_t>(product.weights->n) * (product.out_f32 ? 2 : 1));
  device_.copy_out(row.data(), product.out, row.size() * sizeof row[0], "compare matrix products");
  device_.wait("compare matrix products");
  Fnv hash;
  for (const uint16_t value : row) hash.add(value);
  return hash.value();
}

void Matmul::tune(const Product &product, std::span<const Matrix> weights) {
  constexpr const char *phase = "time matrix products";
  struct Candidate {
    lt::MatmulAlgo algorithm;
    uint64_t bits;  // of its first row
    float milliseconds = INFINITY;
  };
  const Product example = with_rounded_rows(product);
  Shape &with = shape(example);
  const Event begin(device_, true), end(device_, true);
  const auto of_bucket = [&](int bucket) {
    Product p = example;
    p.rows = std::min(bucket, example.rows);
    return p;
  };
  std::map<int, std::vector<Candidate>> buckets;
  std::map<uint64_t, int> votes;
  for (int rows = 1; rows <= example.rows; rows = bucket(rows) + 1) {
    const int most = bucket(rows);
    if (with.algorithms.contains(most) || takes_few_rows(of_bucket(most))) continue;
    for (const lt::MatmulAlgo &algorithm : candidates(with, example, most)) {
      buckets[most].push_back({algorithm, first_row(with, of_bucket(most), algorithm)});
      votes[buckets[most].back().bits]++;
    }
  }
  const auto usual = std::max_element(votes.begin(), votes.end(), [](const auto &a, const auto &b) { return a.second < b.second; });
  size_t turn = 0;
  for (auto &[most, all] : buckets) {
    const bool is_there = std::any_of(all.begin(), all.end(), [&](const Candidate &each) { return each.bits == usual->first; });
    const uint64_t bits = is_there ? usual->first : all.front().bits;
    std::erase_if(all, [&](const Candidate &each) { return each.bits != bits; });
    // Rounds go through all of them, so that a chip that grows hot slows all; short products are timed several at once.
    Product p = of_bucket(most);
    const int times = most <= 512 ? 8 : most <= 2048 ? 2 : 1;
    for (int round = 0; round < 3 && all.size() > 1; round++) {
      for (Candidate &each : all) {
        device_.check(cudaEventRecord(begin.get(), device_.stream()), phase);
        for (int i = 0; i < times; i++) {
          p.weights = &weights[turn++ % weights.size()];
          run(with, p, each.algorithm);
        }
        device_.check(cudaEventRecord(end.get(), device_.stream()), phase);
        device_.wait(end.get(), phase);
        float milliseconds = 0;
        device_.check(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), phase);
        each.milliseconds = std::min(each.milliseconds, milliseconds);
      }
    }
    // An earlier one is as good when it is as fast but for noise.
    const auto faster = [](const Candidate &a, const Candidate &b) { return a.milliseconds < b.milliseconds; };
    const float enough = std::min_element(all.begin(), all.end(), faster)->milliseconds * 1.01f;
    const auto chosen = std::find_if(all.begin(), all.end(), [&](const Candidate &each) { return each.milliseconds <= enough; });
    with.algorithms.emplace(most, chosen->algorithm);
  }
}

}  // namespace up::cuda
