// One row of the gated delta rule a request: reads and writes every state once, and nothing else of that size.
//
// Floor, 64 requests × 32 value heads of 128 × 128: 134 MB read and as much written, 62 µs at 4.3 TB/s.
//
// A block has 64 value dims of one head: 8 KB of state a warp, all of it in flight before the first use. Both Sᵀk and Sᵀq come
// from the state as it was, o = e^g Sᵀq + (q·k) u, so one exchange between the warps is enough.
#include "cuda/delta/delta.h"
#include "cuda/common/pieces.cuh"
#include "cuda/delta/states.cuh"

namespace up::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kColumns = 64;             // value dims of a block
constexpr int kLanes = kColumns / 4;     // threads of a row of the state
constexpr int kRows = kThreads / kLanes;  // rows of the state that are touched at once

// Divides a head's DK elements, DK / 32 a lane, by their length when asked to.
template <class T, int DK>
__device__ __forceinline__ void load_key(float (&x)[DK / 32], const void *source, int64_t at, const up_delta_decode &p) {
  const T *first = static_cast<const T *>(source) + at + threadIdx.x % 32 * (DK / 32);
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < DK / 32; i += 2) {
    const float2 pair = Element<T>::unpack(__ldg(reinterpret_cast<const uint32_t *>(first + i)));
    x[i] = pair.x;
    x[i + 1] = pair.y;
    squares = fmaf(pair.x, pair.x, fmaf(pair.y, pair.y, squares));
  }
  if (!p.normalise) return;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
  const float inverse = rsqrtf(squares + p.norm_eps);
#pragma unroll
  for (int i = 0; i < DK / 32; ++i) x[i] *= inverse;
}

template <class T, int DK>
__global__ void __launch_bounds__(kThreads) delta_decode(const __grid_constant__ up_delta_decode p) {
  constexpr int kEach = DK / kRows;  // rows of the state a thread
  __shared__ float keys[DK], queries[DK];
  __shared__ float4 seen[kRows][kLanes], asked[kRows][kLanes];
  const int request = blockIdx.y, parts = p.value_dim / kColumns;
  const int head = blockIdx.x / parts, lane = threadIdx.x % kLanes, first = threadIdx.x / kLanes;
  const int column = blockIdx.x % parts * kColumns + 4 * lane, key_head = head / (p.value_heads / p.key_heads);
  const int64_t inside = static_cast<int64_t>(head) * DK * p.value_dim + column;
  const float *source = state_of<float>(p.states, p.states.source_slots, request);
  float *target = state_of<float>(p.states, p.states.target_slots, request);
  float4 s[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i)
    s[i] = source == nullptr
               ? make_float4(0.0f, 0.0f, 0.0f, 0.0f)
               : __ldcs(reinterpret_cast<const float4 *>(source + inside + static_cast<int64_t>(first + i * kRows) * p.value_dim));
  const uint2 values = __ldg(reinterpret_cast<const uint2 *>(static_cast<const T *>(p.values) + request * p.value_row_stride +
                                                             static_cast<int64_t>(head) * p.value_dim + column));
  const int64_t gate = static_cast<int64_t>(request) * p.value_heads + head;
  const float grown = exp2_fast(p.decay[gate] * kLog2E), beta = p.beta[gate];

  float k[DK / 32], q[DK / 32], product = 0.0f;
  load_key<T, DK>(k, p.keys, request * p.key_row_stride + static_cast<int64_t>(key_head) * DK, p);
  load_key<T, DK>(q, p.queries, request * p.query_row_stride + static_cast<int64_t>(key_head) * DK, p);
#pragma unroll
  for (int i = 0; i < DK / 32; ++i) {
    q[i] *= p.scale;
    product = fmaf(k[i], q[i], product);
    if (threadIdx.x < 32) {
      keys[threadIdx.x * (DK / 32) + i] = k[i];
      queries[threadIdx.x * (DK / 32) + i] = q[i];
    }
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) product += __shfl_xor_sync(~0u, product, step);
  __syncthreads();

  const auto add = [](float4 &sum, float factor, const float4 &x) {
    sum.x = fmaf(factor, x.x, sum.x);
    sum.y = fmaf(factor, x.y, sum.y);
    sum.z = fmaf(factor, x.z, sum.z);
    sum.w = fmaf(factor, x.w, sum.w);
  };
  float4 sum_k = make_float4(0.0f, 0.0f, 0.0f, 0.0f), sum_q = sum_k;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    add(sum_k, keys[first + i * kRows], s[i]);
    add(sum_q, queries[first + i * kRows], s[i]);
  }
  seen[first][lane] = sum_k;
  asked[first][lane] = sum_q;
  __syncthreads();
  sum_k = seen[0][lane];
  sum_q = asked[0][lane];
#pragma unroll
  for (int i = 1; i < kRows; ++i) {
    add(sum_k, 1.0f, seen[i][lane]);
    add(sum_q, 1.0f, asked[i][lane]);
  }
  const float2 v0 = Element<T>::unpack(values.x), v1 = Element<T>::unpack(values.y);
  const float4 change = make_float4(beta * (v0.x - grown * sum_k.x), beta * (v0.y - grown * sum_k.y),
                                    beta * (v1.x - grown * sum_k.z), beta * (v1.y - grown * sum_k.w));
  if (target != nullptr) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int row = first + i * kRows;
      float4 next = make_float4(grown * s[i].x, grown * s[i].y, grown * s[i].z, grown * s[i].w);
      add(next, keys[row], change);
      __stcs(reinterpret_cast<float4 *>(target + inside + static_cast<int64_t>(row) * p.value_dim), next);
    }
  }
  if (first == 0) {
    float4 o = make_float4(grown * sum_q.x, grown * sum_q.y, grown * sum_q.z, grown * sum_q.w);
    add(o, product, change);
    *reinterpret_cast<uint2 *>(static_cast<T *>(p.output) + request * p.output_row_stride +
                               static_cast<int64_t>(head) * p.value_dim + column) =
        make_uint2(Element<T>::pack(o.x, o.y), Element<T>::pack(o.z, o.w));
  }
}

template <class T>
void launch(const up_delta_decode &p, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(p.value_heads * (p.value_dim / kColumns)), static_cast<unsigned>(p.requests));
  if (p.key_dim == 64)
    delta_decode<T, 64><<<grid, kThreads, 0, stream>>>(p);
  else
    delta_decode<T, 128><<<grid, kThreads, 0, stream>>>(p);
}

}  // namespace

up_status launch_delta_decode(const up_delta_decode &p, cudaStream_t stream, up_backend_error *error) {
  if (p.dtype == UP_BF16)
    launch<__nv_bfloat16>(p, stream);
  else
    launch<__half>(p, stream);
  return check_launch("launch delta decode", error);
}

}  // namespace up::cuda
