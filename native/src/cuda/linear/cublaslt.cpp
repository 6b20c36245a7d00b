#include "cuda/linear/cublaslt.h"

#include <dlfcn.h>

#include <cstdlib>

#include "abi/failure.h"

#if __has_include(<cublasLt.h>)
#include <cublasLt.h>
#endif

namespace up::cuda::lt {
namespace {

#if __has_include(<cublasLt.h>)
static_assert(sizeof(MatmulAlgo) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(HeuristicResult) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(HeuristicResult, workspace_bytes) == offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(HeuristicResult, status) == offsetof(cublasLtMatmulHeuristicResult_t, state));
static_assert(status_success == CUBLAS_STATUS_SUCCESS && compute_f32 == CUBLAS_COMPUTE_32F);
static_assert(operation_transposed == CUBLAS_OP_T);
static_assert(desc_transpose_a == CUBLASLT_MATMUL_DESC_TRANSA && desc_epilogue == CUBLASLT_MATMUL_DESC_EPILOGUE);
static_assert(desc_bias_pointer == CUBLASLT_MATMUL_DESC_BIAS_POINTER && desc_bias_type == CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE);
static_assert(desc_multiprocessors == CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET);
static_assert(desc_scale_a == CUBLASLT_MATMUL_DESC_A_SCALE_POINTER && desc_scale_b == CUBLASLT_MATMUL_DESC_B_SCALE_POINTER);
static_assert(desc_scale_mode_a == CUBLASLT_MATMUL_DESC_A_SCALE_MODE && desc_scale_mode_b == CUBLASLT_MATMUL_DESC_B_SCALE_MODE);
static_assert(scale_of_each_row == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F && desc_fast_sums == CUBLASLT_MATMUL_DESC_FAST_ACCUM);
static_assert(epilogue_bias == CUBLASLT_EPILOGUE_BIAS && layout_cols == CUBLASLT_MATRIX_LAYOUT_COLS);
static_assert(preference_workspace_bytes == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
static_assert(preference_reduction_schemes == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
static_assert(preference_alignment_a == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
static_assert(preference_alignment_a + 3 == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
static_assert(reduction_scheme_none == CUBLASLT_REDUCTION_SCHEME_NONE);
static_assert(algo_id == CUBLASLT_ALGO_CONFIG_ID && algo_tile == CUBLASLT_ALGO_CONFIG_TILE_ID);
static_assert(algo_split_k == CUBLASLT_ALGO_CONFIG_SPLITK_NUM && algo_stages == CUBLASLT_ALGO_CONFIG_STAGES_ID);
#endif

constexpr const char *phase = "load cuBLASLt";

template <class Function>
void find(void *library, const char *name, Function &out) {
  out = reinterpret_cast<Function>(dlsym(library, name));
  if (out == nullptr) fail(UP_DEVICE_LOST, phase, "the library has no function ", name, ": cuBLAS 13 is needed");
}

Functions load() {
  const char *given = std::getenv("UNIPREFILL_CUBLASLT");
  const bool chosen = given != nullptr && *given != '\0';
  void *library = dlopen(chosen ? given : "libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    fail(UP_DEVICE_LOST, phase, dlerror(), ": install cuBLAS 13 (package libcublas-13-0, or nvidia-cublas of PyPI) or set "
         "UNIPREFILL_CUBLASLT to the path of libcublasLt.so.13");
  }
  Functions f{};
#define UP_FIND(name) find(library, "cublasLt" #name, f.name)
  UP_FIND(GetVersion);
  UP_FIND(GetStatusString);
  UP_FIND(Create);
  UP_FIND(Destroy);
  UP_FIND(MatmulDescCreate);
  UP_FIND(MatmulDescDestroy);
  UP_FIND(MatmulDescSetAttribute);
  UP_FIND(MatrixLayoutCreate);
  UP_FIND(MatrixLayoutDestroy);
  UP_FIND(MatrixLayoutSetAttribute);
  UP_FIND(MatmulPreferenceCreate);
  UP_FIND(MatmulPreferenceDestroy);
  UP_FIND(MatmulPreferenceSetAttribute);
  UP_FIND(MatmulAlgoGetHeuristic);
  UP_FIND(MatmulAlgoCheck);
  UP_FIND(MatmulAlgoConfigGetAttribute);
  UP_FIND(Matmul);
#undef UP_FIND
  const size_t version = f.GetVersion();
  f.version = text(version / 10000, '.', version / 100 % 100, '.', version % 100);
  if (version / 10000 != 13) fail(UP_DEVICE_LOST, phase, "version ", f.version, ": 13 is needed");
  return f;
}

}  // namespace

const Functions &functions() {
  static const Functions loaded = load();
  return loaded;
}

}  // namespace up::cuda::lt
