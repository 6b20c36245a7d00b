// Where rows of a paged or strided K or V lie, on the device.
#pragma once

#include "cuda/common/hopper.cuh"
#include "cuda/common/tensor_map.h"

namespace up::cuda {

struct KvPlace {
  int row;   // within the page, or within the request when strided
  int page;  // or the request; always within the pool
};

__device__ __forceinline__ KvPlace kv_place(const KvTable &table, int request, int row) {
  if (table.table_rows != nullptr) request = min(max(__ldg(table.table_rows + request), 0), table.table_count - 1);
  if (table.pages == nullptr) return {row, min(request, table.page_count - 1)};
  const int page = __ldg(table.pages + request * table.pages_stride + (row >> table.page_shift));
  return {row & ((1 << table.page_shift) - 1), min(max(page, 0), table.page_count - 1)};
}

// Copies rows first … first + TileRows - 1 of one head to `target`, [panels][TileRows][64] swizzled, but only the boxes
// that hold rows < end; kv_tile_bytes will arrive. Call from a whole warp: a lane has a box, since finding its page takes longer
// than a copy may.
template <int TileRows, int Panels>
__device__ __forceinline__ void copy_kv_tile(uint8_t *target, const CUtensorMap *map, const KvTable &table,
                                             uint64_t *barrier, int request, int head, int first, int end) {
  const int done = static_cast<int>(threadIdx.x % 32) << table.box_shift;
  if (done >= TileRows || first + done >= end) return;
  const KvPlace place = kv_place(table, request, first + done);
#pragma unroll
  for (int panel = 0; panel < Panels; ++panel)
    copy_tile(target + panel * TileRows * 128 + done * 128, map, barrier, 0, place.row, panel, head, place.page);
}

template <int TileRows, int Panels>
__device__ __forceinline__ uint32_t kv_tile_bytes(const KvTable &table, int first, int end) {
  const int boxes = (min(TileRows, end - first) + (1 << table.box_shift) - 1) >> table.box_shift;
  return static_cast<uint32_t>((boxes << table.box_shift) * Panels * 128);
}

}  // namespace up::cuda
