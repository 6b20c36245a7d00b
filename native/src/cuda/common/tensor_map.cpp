#include "cuda/common/tensor_map.h"

#include <algorithm>
#include <bit>

namespace up::cuda {

namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's encoder without linking the driver, so that the library loads where there is none.
Encode encoder() {
  static const Encode function = [] {
    void *address = nullptr;
    cudaDriverEntryPointQueryResult found{};
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &address, 12000, cudaEnableDefault, &found) !=
            cudaSuccess ||
        found != cudaDriverEntryPointSuccess)
      address = nullptr;
    return reinterpret_cast<Encode>(address);
  }();
  return function;
}

}  // namespace

up_status encode_map(CUtensorMap *map, up_dtype dtype, int head_dim, const Tensor &tensor, int box_rows, const char *phase,
                     up_backend_error *error) {
  const Encode encode = encoder();
  if (encode == nullptr) return fail(error, UP_DEVICE_LOST, phase, "the driver has no cuTensorMapEncodeTiled (CUDA 12 or later)");
  const int64_t strides[3] = {tensor.row_stride, tensor.head_stride, tensor.outer_stride};
  const int64_t extents[3] = {tensor.rows, tensor.heads, tensor.outer};
  // The stride of a dimension of extent 1 is never used, but the encoder looks at it.
  int64_t bytes[3];
  for (int i = 0; i < 3; ++i) {
    bytes[i] = extents[i] == 1 ? int64_t{2} * head_dim : 2 * strides[i];
    if (bytes[i] % 16 != 0 || bytes[i] <= 0)
      return fail(error, UP_INVALID_ARGUMENT, phase, "%s stride %lld elements: must be a positive multiple of 8",
                  i == 0 ? "row" : i == 1 ? "head" : "page", static_cast<long long>(strides[i]));
  }
  const cuuint64_t size[5] = {64, static_cast<cuuint64_t>(tensor.rows), static_cast<cuuint64_t>(head_dim / 64),
                              static_cast<cuuint64_t>(tensor.heads), static_cast<cuuint64_t>(tensor.outer)};
  const cuuint64_t stride[4] = {static_cast<cuuint64_t>(bytes[0]), 128, static_cast<cuuint64_t>(bytes[1]),
                                static_cast<cuuint64_t>(bytes[2])};
  const cuuint32_t box[5] = {64, static_cast<cuuint32_t>(box_rows), 1, 1, 1};
  const cuuint32_t step[5] = {1, 1, 1, 1, 1};
  const CUresult result =
      encode(map, dtype == UP_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 5,
             const_cast<void *>(tensor.data), size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    return fail(error, UP_INVALID_ARGUMENT, phase,
                "the tensor map was refused (%d): %lld rows × %lld heads × %lld, strides %lld, %lld, %lld", result,
                static_cast<long long>(tensor.rows), static_cast<long long>(tensor.heads),
                static_cast<long long>(tensor.outer), static_cast<long long>(tensor.row_stride),
                static_cast<long long>(tensor.head_stride), static_cast<long long>(tensor.outer_stride));
  return UP_OK;
}

int kv_box_rows(const up_kv &kv, int tile_rows) {
  return kv.pages == nullptr ? tile_rows : std::min(kv.page_size, tile_rows);
}

up_status encode_kv_map(CUtensorMap *map, up_dtype dtype, int head_dim, int kv_heads, int max_rows, const up_kv &kv,
                        int tile_rows, const char *phase, up_backend_error *error) {
  const Tensor tensor{kv.data,       kv.pages == nullptr ? max_rows : kv.page_size, kv_heads, kv.page_count,
                      kv.row_stride, kv.head_stride,                                kv.page_stride};
  return encode_map(map, dtype, head_dim, tensor, kv_box_rows(kv, tile_rows), phase, error);
}

KvTable kv_table(const up_kv &kv, int tile_rows) {
  return {kv.pages,       kv.pages_stride,
          kv.table_rows,  kv.table_count,
          kv.page_count,  kv.pages == nullptr ? 0 : std::countr_zero(unsigned(kv.page_size)),
          std::countr_zero(unsigned(kv_box_rows(kv, tile_rows)))};
}

}  // namespace up::cuda
