// Descriptions of tensors for the copy engine (TMA), made on the host and passed to kernels by value.
//
// All maps here have five dimensions, (64 elements, rows, panels of 64 elements, heads, pages or requests), and the 128-byte
// swizzle; one copy brings 64 elements × `box_rows` rows. Rows beyond `rows` arrive as zeros.
#pragma once

#include <cuda.h>

#include "cuda/common/launch.h"

namespace up::cuda {

struct Tensor {
  const void *data;
  int64_t rows, heads, outer;                      // extents
  int64_t row_stride, head_stride, outer_stride;  // elements
};

up_status encode_map(CUtensorMap *map, up_dtype dtype, int head_dim, const Tensor &tensor, int box_rows, const char *phase,
                     up_backend_error *error);

// Rows that one copy of K or V brings, when a tile has `tile_rows`: pages may be smaller than tiles.
int kv_box_rows(const up_kv &kv, int tile_rows);

up_status encode_kv_map(CUtensorMap *map, up_dtype dtype, int head_dim, int kv_heads, int max_rows, const up_kv &kv,
                        int tile_rows, const char *phase, up_backend_error *error);

// What a kernel needs beside the map to find row r of request b.
struct KvTable {
  const int32_t *pages;  // nullptr: strided
  int64_t pages_stride;
  const int32_t *table_rows;  // nullptr: a request's own number
  int table_count;
  int page_count;
  int page_shift;  // log2 of a page's rows
  int box_shift;   // log2 of the rows that one copy brings
};

KvTable kv_table(const up_kv &kv, int tile_rows);

}  // namespace up::cuda
