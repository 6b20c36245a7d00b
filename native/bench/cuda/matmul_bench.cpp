// What cuBLASLt's choices are worth: for the matrices of a Llama 8B layer and several row counts, the time of its first algorithm
// without a split of K, of the best such one, and of the best of all; and how many different bits those without a split give for
// the same row, over all row counts.
//
//   matmul_bench [ROWS ...]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <vector>

#include "abi/failure.h"
#include "cuda/linear/cublaslt.h"

namespace lt = up::cuda::lt;

namespace {

void check(cudaError_t result) {
  if (result == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(result));
  std::exit(1);
}

void check(int status) {
  if (status == lt::status_success) return;
  std::fprintf(stderr, "%s\n", lt::functions().GetStatusString(status));
  std::exit(1);
}

struct Case {
  const char *name;
  int n, k;
  bool f32, accumulate;
};

// Random bits with exponents near 1, so that values are finite and differ.
void *random_memory(size_t bytes) {
  std::vector<uint16_t> block(1 << 20);
  uint32_t state = 12345;
  for (uint16_t &value : block) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<uint16_t>((state >> 16 & 0x807f) | ((0x78 + (state >> 8) % 6) << 7));
  }
  void *out = nullptr;
  check(cudaMalloc(&out, bytes));
  for (size_t at = 0; at < bytes; at += block.size() * 2)
    check(cudaMemcpy(static_cast<char *>(out) + at, block.data(), std::min(block.size() * 2, bytes - at), cudaMemcpyHostToDevice));
  return out;
}

constexpr size_t workspace_bytes = 32 << 20;
constexpr size_t weight_pool = size_t{1} << 30;

}  // namespace

int main(int argc, char **argv) {
  const lt::Functions &f = lt::functions();
  lt::Handle handle = nullptr;
  check(f.Create(&handle));
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0));
  std::printf("%s, cuBLASLt %s\n", properties.name, f.version.c_str());
  std::vector<int> row_counts;
  for (int i = 1; i < argc; i++) row_counts.push_back(std::atoi(argv[i]));
  if (row_counts.empty()) row_counts = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
  const int most = *std::max_element(row_counts.begin(), row_counts.end());
  void *weights = random_memory(weight_pool + (size_t{128256} * 4096 * 2));
  void *in = random_memory(static_cast<size_t>(most) * 14336 * 2);
  void *out = random_memory(static_cast<size_t>(most) * 28672 * 2 + size_t{256} * 128256 * 4);
  void *workspace = nullptr;
  check(cudaMalloc(&workspace, workspace_bytes));
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  for (const Case &c : {Case{"qkv", 6144, 4096, false, false}, {"o", 4096, 4096, false, true}, {"gate_up", 28672, 4096, false, false},
                        {"down", 4096, 14336, false, true}, {"lm_head", 128256, 4096, true, false}}) {
    std::map<uint64_t, int> bits;  // hashes of the first row's outputs, and how many algorithms gave them
    for (const int rows : row_counts) {
      if (c.f32 && rows > 256) continue;
      lt::MatmulDesc desc;
      lt::MatrixLayout w, x, y;
      const auto n = static_cast<uint64_t>(c.n), k = static_cast<uint64_t>(c.k), m = static_cast<uint64_t>(rows);
      check(f.MatmulDescCreate(&desc, lt::compute_f32, CUDA_R_32F));
      const int32_t transposed = lt::operation_transposed;
      check(f.MatmulDescSetAttribute(desc, lt::desc_transpose_a, &transposed, sizeof transposed));
      check(f.MatrixLayoutCreate(&w, CUDA_R_16BF, k, n, c.k));
      check(f.MatrixLayoutCreate(&x, CUDA_R_16BF, k, m, c.k));
      check(f.MatrixLayoutCreate(&y, c.f32 ? CUDA_R_32F : CUDA_R_16BF, n, m, c.n));
      const float alpha = 1, beta = c.accumulate ? 1 : 0;
      const size_t weight_bytes = n * k * 2;
      const size_t copies = std::max<size_t>(1, weight_pool / weight_bytes);
      const auto run = [&](const lt::MatmulAlgo &algo, size_t turn) {
        const void *a = static_cast<const char *>(weights) + turn % copies * weight_bytes;
        check(f.Matmul(handle, desc, &alpha, a, w, in, x, &beta, out, y, out, y, &algo, workspace, workspace_bytes, nullptr));
      };
      const auto time = [&](const lt::MatmulAlgo &algo) {
        std::vector<float> times;
        for (size_t i = 0; i < 3; i++) run(algo, i);
        const int repeats = rows <= 512 ? 15 : 5;
        for (int i = 0; i < repeats; i++) {
          check(cudaEventRecord(begin));
          run(algo, static_cast<size_t>(i) + 3);
          check(cudaEventRecord(end));
          check(cudaEventSynchronize(end));
          float ms = 0;
          check(cudaEventElapsedTime(&ms, begin, end));
          times.push_back(ms * 1000);
        }
        std::sort(times.begin(), times.end());
        return times[times.size() / 2];
      };
      float first = 0, best[2] = {1e9f, 1e9f};
      int found[2] = {0, 0}, best_at = 0, ids[2] = {0, 0};
      for (const int any : {0, 1}) {
        lt::MatmulPreference preference;
        check(f.MatmulPreferenceCreate(&preference));
        const uint64_t bytes = workspace_bytes;
        check(f.MatmulPreferenceSetAttribute(preference, lt::preference_workspace_bytes, &bytes, sizeof bytes));
        const uint32_t schemes = lt::reduction_scheme_none;
        if (any == 0) check(f.MatmulPreferenceSetAttribute(preference, lt::preference_reduction_schemes, &schemes, sizeof schemes));
        lt::HeuristicResult results[16]{};
        check(f.MatmulAlgoGetHeuristic(handle, desc, w, x, y, y, preference, 16, results, &found[any]));
        for (int i = 0; i < found[any]; i++) {
          if (any == 0) {
            const float none = 0;
            check(f.Matmul(handle, desc, &alpha, weights, w, in, x, &none, out, y, out, y, &results[i].algo, workspace, workspace_bytes, nullptr));
            std::vector<uint16_t> row(n * (c.f32 ? 2 : 1));
            check(cudaMemcpy(row.data(), out, row.size() * 2, cudaMemcpyDeviceToHost));
            uint64_t hash = 0xcbf29ce484222325ull;
            for (const uint16_t value : row) hash = (hash ^ value) * 0x100000001b3ull;
            bits[hash]++;
          }
          const float us = time(results[i].algo);
          if (any == 0 && i == 0) first = us;
          if (us < best[any]) {
            best[any] = us;
            if (any == 0) best_at = i;
            size_t written;
            f.MatmulAlgoConfigGetAttribute(&results[i].algo, lt::algo_tile, &ids[any], sizeof ids[any], &written);
          }
        }
        f.MatmulPreferenceDestroy(preference);
      }
      const double flop = 2.0 * c.n * c.k * rows;
      const double traffic = static_cast<double>(weight_bytes) + 2.0 * c.k * rows + (c.f32 ? 4.0 : 2.0) * c.n * rows;
      std::printf("%-8s %6d rows  first %9.1f us (%6.1f TFLOP/s, %5.2f TB/s)  best of %2d %9.1f (no. %d)  any of %2d %9.1f\n", c.name, rows, first,
                  flop / first * 1e-6, traffic / first * 1e-6, found[0], best[0], best_at, found[1], best[1]);
      std::fflush(stdout);
      f.MatmulDescDestroy(desc);
      for (lt::MatrixLayout each : {w, x, y}) f.MatrixLayoutDestroy(each);
    }
    std::printf("%-8s the first row's bits:", c.name);
    for (const auto &[hash, count] : bits) std::printf(" %d algorithms %016llx", count, static_cast<unsigned long long>(hash));
    std::printf("\n");
  }
  return 0;
}
