// Rotary embedding of queries and keys, and the write of keys and values into their caches, in one pass over Q, K and V.
#include <algorithm>

#include "cuda/common/kv_rows.cuh"
#include "cuda/common/launch.h"
#include "cuda/common/operators.h"
#include "cuda/common/pieces.cuh"

namespace up::cuda {

namespace {

constexpr int kThreads = 256;

struct Arguments {
  up_rope_write p;
  KvTable keys, values;
};

template <class T>
__device__ __forceinline__ T *cache_row(const up_kv &kv, const KvTable &table, int request, int row, int head) {
  const KvPlace place = kv_place(table, request, row);
  return static_cast<T *>(const_cast<void *>(kv.data)) + place.page * kv.page_stride + place.row * kv.row_stride +
         head * kv.head_stride;
}

// A block has one row; a thread takes 16 elements of a head: 8 and their partners, or 16 neighbours that are not rotated.
template <class T>
__global__ void __launch_bounds__(kThreads) rope_write(const __grid_constant__ Arguments a) {
  const up_rope_write &p = a.p;
  const int each = p.head_dim / 16, rotated = p.rotary_dim / 16;
  const int total = (p.heads + 2 * p.kv_heads) * each;
  for (int row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const int position = min(max(p.positions[row], 0), p.positions_limit - 1);
    const int kv_row = p.kv_rows[row];
    const int request = p.kv_requests == nullptr ? 0 : p.kv_requests[row];
    const bool stored = kv_row >= 0 && kv_row < p.max_key_rows && request >= 0 && request < p.requests;
    for (int i = threadIdx.x; i < total; i += kThreads) {
      const int head = i / each, part = i % each;
      const bool is_query = head < p.heads, is_value = head >= p.heads + p.kv_heads;
      if (!is_query && !stored) continue;
      const int kv_head = is_value ? head - p.heads - p.kv_heads : head - p.heads;
      const T *source;
      T *target;
      if (is_query) {
        source = static_cast<const T *>(p.queries) + row * p.query_row_stride + head * p.head_dim;
        target = static_cast<T *>(p.query_output) + row * p.query_output_row_stride + head * p.head_dim;
      } else if (is_value) {
        source = static_cast<const T *>(p.values) + row * p.value_row_stride + kv_head * p.head_dim;
        target = cache_row<T>(p.value_cache, a.values, request, kv_row, kv_head);
      } else {
        source = static_cast<const T *>(p.keys) + row * p.key_row_stride + kv_head * p.head_dim;
        target = cache_row<T>(p.key_cache, a.keys, request, kv_row, kv_head);
      }
      const bool turn = !is_value && part < rotated;
      const int first = turn ? 8 * part : 16 * part, second = turn ? first + p.rotary_dim / 2 : first + 8;
      uint4 low = *reinterpret_cast<const uint4 *>(source + first), high = *reinterpret_cast<const uint4 *>(source + second);
      if (turn) {
        float x[8], y[8], c[8], s[8];
        const int64_t at = static_cast<int64_t>(position) * (p.rotary_dim / 2) + first;
        unpack8<T>(low, x);
        unpack8<T>(high, y);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          *reinterpret_cast<float4 *>(c + 4 * j) = __ldg(reinterpret_cast<const float4 *>(p.cosines + at) + j);
          *reinterpret_cast<float4 *>(s + 4 * j) = __ldg(reinterpret_cast<const float4 *>(p.sines + at) + j);
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float u = x[j] * c[j] - y[j] * s[j], v = y[j] * c[j] + x[j] * s[j];
          x[j] = u;
          y[j] = v;
        }
        low = pack8<T>(x);
        high = pack8<T>(y);
      }
      *reinterpret_cast<uint4 *>(target + first) = low;
      *reinterpret_cast<uint4 *>(target + second) = high;
    }
  }
}

}  // namespace

up_status rotate_and_write(const up_rope_write *p, void *stream, up_backend_error *error) {
  if (p->rows == 0) return UP_OK;
  const Arguments arguments{*p, kv_table(p->key_cache, 1), kv_table(p->value_cache, 1)};
  const auto queue = static_cast<cudaStream_t>(stream);
  const unsigned blocks = static_cast<unsigned>(std::min(p->rows, 65536));
  if (p->dtype == UP_BF16)
    rope_write<__nv_bfloat16><<<blocks, kThreads, 0, queue>>>(arguments);
  else
    rope_write<__half><<<blocks, kThreads, 0, queue>>>(arguments);
  return check_launch("launch RoPE and KV write", error);
}

}  // namespace up::cuda
