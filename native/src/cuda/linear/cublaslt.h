// The part of cuBLASLt's interface that is used here, declared by us and looked up at run time, so that the library builds
// and loads where cuBLASLt is not installed. Where its own header is found, cublaslt.cpp compares every number below with it.
#pragma once

#include <cuda_runtime_api.h>
#include <library_types.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace up::cuda::lt {

using Handle = struct HandleContents *;
using MatmulDesc = struct MatmulDescContents *;
using MatrixLayout = struct MatrixLayoutContents *;
using MatmulPreference = struct MatmulPreferenceContents *;

struct MatmulAlgo {
  uint64_t data[8];
};

struct HeuristicResult {
  MatmulAlgo algo;
  size_t workspace_bytes;
  int status;
  float waves;
  int reserved[4];
};

constexpr int status_success = 0;
constexpr int compute_f32 = 68;
constexpr int32_t operation_transposed = 1;

constexpr int desc_transpose_a = 3;
constexpr int desc_epilogue = 7;
constexpr int desc_bias_pointer = 8;
constexpr int desc_multiprocessors = 15;
constexpr int desc_scale_a = 17;
constexpr int desc_scale_b = 18;
constexpr int desc_fast_sums = 25;
constexpr int desc_bias_type = 26;
constexpr int desc_scale_mode_a = 31;
constexpr int desc_scale_mode_b = 32;
constexpr int32_t scale_of_each_row = 3;
constexpr uint32_t epilogue_bias = 4;

constexpr int layout_cols = 3;

constexpr int preference_workspace_bytes = 1;
constexpr int preference_reduction_schemes = 3;
constexpr int preference_alignment_a = 5;  // of B, C and D: the three that follow
constexpr uint32_t reduction_scheme_none = 0;

constexpr int algo_id = 0;
constexpr int algo_tile = 1;
constexpr int algo_split_k = 2;
constexpr int algo_stages = 6;

struct Functions {
  size_t (*GetVersion)();
  const char *(*GetStatusString)(int status);
  int (*Create)(Handle *handle);
  int (*Destroy)(Handle handle);
  int (*MatmulDescCreate)(MatmulDesc *desc, int compute, cudaDataType scale);
  int (*MatmulDescDestroy)(MatmulDesc desc);
  int (*MatmulDescSetAttribute)(MatmulDesc desc, int attribute, const void *value, size_t bytes);
  int (*MatrixLayoutCreate)(MatrixLayout *layout, cudaDataType type, uint64_t rows, uint64_t cols, int64_t stride);
  int (*MatrixLayoutDestroy)(MatrixLayout layout);
  int (*MatrixLayoutSetAttribute)(MatrixLayout layout, int attribute, const void *value, size_t bytes);
  int (*MatmulPreferenceCreate)(MatmulPreference *preference);
  int (*MatmulPreferenceDestroy)(MatmulPreference preference);
  int (*MatmulPreferenceSetAttribute)(MatmulPreference preference, int attribute, const void *value, size_t bytes);
  int (*MatmulAlgoGetHeuristic)(Handle handle, MatmulDesc desc, MatrixLayout a, MatrixLayout b, MatrixLayout c, MatrixLayout d,
                                MatmulPreference preference, int wanted, HeuristicResult *results, int *found);
  int (*MatmulAlgoCheck)(Handle handle, MatmulDesc desc, MatrixLayout a, MatrixLayout b, MatrixLayout c, MatrixLayout d,
                         const MatmulAlgo *algo, HeuristicResult *result);
  int (*MatmulAlgoConfigGetAttribute)(const MatmulAlgo *algo, int attribute, void *value, size_t bytes, size_t *written);
  int (*Matmul)(Handle handle, MatmulDesc desc, const void *alpha, const void *a, MatrixLayout a_layout, const void *b,
                MatrixLayout b_layout, const void *beta, const void *c, MatrixLayout c_layout, void *d, MatrixLayout d_layout,
                const MatmulAlgo *algo, void *workspace, size_t workspace_bytes, cudaStream_t stream);
  std::string version;  // "13.1.0"
};

// Loads the library once: UNIPREFILL_CUBLASLT if that is set, else libcublasLt.so.13 where the loader looks. Fails with
// UP_DEVICE_LOST, saying what is missing and what to do.
const Functions &functions();

}  // namespace up::cuda::lt
