// Norm and rotary embedding of queries and keys, and the write of keys and values into their caches, in one pass over Q, K and V.
#include <algorithm>

#include "cuda/common/dependent_launch.cuh"
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

// Divides a head's elements by their root mean square, times the weights. The `lanes` neighbouring lanes of a head hold 16
// elements each, x from `first` and y from `second` on.
template <class T>
__device__ __forceinline__ void normalise_head(float (&x)[8], float (&y)[8], int first, int second, int lanes,
                                               const void *weight, const up_rope_write &p) {
  float squares = 0.0f;
#pragma unroll
  for (int j = 0; j < 8; ++j) squares = fmaf(x[j], x[j], fmaf(y[j], y[j], squares));
  for (int step = lanes / 2; step > 0; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
  if (weight == nullptr) return;
  const float inverse = rsqrtf(squares / static_cast<float>(p.head_dim) + p.norm_eps);
  float w[8], v[8];
  unpack8<T>(__ldg(reinterpret_cast<const uint4 *>(static_cast<const T *>(weight) + first)), w);
  unpack8<T>(__ldg(reinterpret_cast<const uint4 *>(static_cast<const T *>(weight) + second)), v);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    x[j] *= inverse * (p.norm_weight_offset + w[j]);
    y[j] *= inverse * (p.norm_weight_offset + v[j]);
  }
}

__device__ __forceinline__ void load8(float (&x)[8], const float *source) {
#pragma unroll
  for (int j = 0; j < 2; ++j)
    *reinterpret_cast<float4 *>(x + 4 * j) = __ldg(reinterpret_cast<const float4 *>(source) + j);
}

// A block has one row; a thread takes 16 elements of a head: 8 and their partners, or 16 neighbours that are not rotated.
template <class T, bool Normed>
__global__ void __launch_bounds__(kThreads) rope_write(const __grid_constant__ Arguments a) {
  take_turn();
  const up_rope_write &p = a.p;
  const int each = p.head_dim / 16, rotated = p.rotary_dim / 16, lane = threadIdx.x % 32;
  const int total = (p.heads + 2 * p.kv_heads) * each;
  for (int row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const int position = min(max(p.positions[row], 0), p.positions_limit - 1);
    const int kv_row = p.kv_rows[row];
    const int request = p.kv_requests == nullptr ? 0 : p.kv_requests[row];
    const bool stored = kv_row >= 0 && kv_row < p.max_key_rows && request >= 0 && request < p.requests;
    // Whole warps go round, since the lanes of a head exchange sums.
    for (int i = threadIdx.x; i - lane < total; i += kThreads) {
      const int head = i / each, part = i % each;
      const bool is_query = head < p.heads, is_value = head >= p.heads + p.kv_heads;
      const bool wanted = i < total && (is_query || stored);
      if (!Normed && !wanted) continue;
      const int kv_head = is_value ? head - p.heads - p.kv_heads : head - p.heads;
      const T *source = nullptr;
      T *target = nullptr;
      if (wanted && is_query) {
        source = static_cast<const T *>(p.queries) + row * p.query_row_stride + head * p.query_head_stride;
        target = static_cast<T *>(p.query_output) + row * p.query_output_row_stride + head * p.head_dim;
      } else if (wanted && is_value) {
        source = static_cast<const T *>(p.values) + row * p.value_row_stride + kv_head * p.head_dim;
        target = cache_row<T>(p.value_cache, a.values, request, kv_row, kv_head);
      } else if (wanted) {
        source = static_cast<const T *>(p.keys) + row * p.key_row_stride + kv_head * p.head_dim;
        target = cache_row<T>(p.key_cache, a.keys, request, kv_row, kv_head);
      }
      const bool turn = !is_value && part < rotated;
      const int first = turn ? 8 * part : 16 * part, second = turn ? first + p.rotary_dim / 2 : first + 8;
      uint4 low = make_uint4(0, 0, 0, 0), high = low;
      if (wanted) {
        low = *reinterpret_cast<const uint4 *>(source + first);
        high = *reinterpret_cast<const uint4 *>(source + second);
      }
      const void *weight = Normed && wanted && !is_value ? (is_query ? p.query_norm : p.key_norm) : nullptr;
      if (Normed || turn) {
        float x[8], y[8];
        unpack8<T>(low, x);
        unpack8<T>(high, y);
        if (Normed) normalise_head<T>(x, y, first, second, each, weight, p);
        if (wanted && turn) {
          float c[8], s[8];
          const int64_t at = static_cast<int64_t>(position) * (p.rotary_dim / 2) + first;
          load8(c, p.cosines + at);
          load8(s, p.sines + at);
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            const float u = x[j] * c[j] - y[j] * s[j], v = y[j] * c[j] + x[j] * s[j];
            x[j] = u;
            y[j] = v;
          }
        }
        if (turn || weight != nullptr) {
          low = pack8<T>(x);
          high = pack8<T>(y);
        }
      }
      if (!wanted) continue;
      *reinterpret_cast<uint4 *>(target + first) = low;
      *reinterpret_cast<uint4 *>(target + second) = high;
    }
  }
}

template <class T>
void launch(const Arguments &a, cudaStream_t stream) {
  const unsigned blocks = static_cast<unsigned>(std::min(a.p.rows, 65536));
  if (a.p.query_norm != nullptr || a.p.key_norm != nullptr)
    launch_dependent(rope_write<T, true>, blocks, kThreads, 0, stream, a);
  else
    launch_dependent(rope_write<T, false>, blocks, kThreads, 0, stream, a);
}

}  // namespace

up_status rotate_and_write(const up_rope_write *p, void *stream, up_backend_error *error) {
  if (p->rows == 0) return UP_OK;
  Arguments arguments{*p, kv_table(p->key_cache, 1), kv_table(p->value_cache, 1)};
  if (p->query_head_stride == 0) arguments.p.query_head_stride = p->head_dim;
  const auto queue = static_cast<cudaStream_t>(stream);
  if (p->dtype == UP_BF16)
    launch<__nv_bfloat16>(arguments, queue);
  else
    launch<__half>(arguments, queue);
  return check_launch("launch RoPE and KV write", error);
}

}  // namespace up::cuda
