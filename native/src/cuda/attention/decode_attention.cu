// One split of keys for the query heads of one KV head: bound by memory, so everything here serves the stream of tiles.
//
// A block is persistent: one warp copies tiles of 64 keys and values through a ring that runs on across items, four warps
// take 16 keys of every tile each. The group's heads (up to 16) are the rows of m16n8k16 products; each warp keeps a softmax and an
// accumulator of its own, merged at the end of the split. A step's items are found from split counts that every block
// adds up for itself, so device-side lengths need no launch of their own.
#include <algorithm>

#include "cuda/common/dependent_launch.cuh"
#include "cuda/attention/decode_attention.h"
#include "cuda/common/fragments.cuh"
#include "cuda/common/kv_rows.cuh"

namespace up::cuda {

namespace {

constexpr int kTile = 64;
constexpr int kComputeWarps = 4;
constexpr int kThreads = 32 * (kComputeWarps + 1);
constexpr float kSlack = 8.0f;

template <int D>
struct Shared {
  static constexpr int kStages = D == 64 ? 4 : 3;
  static constexpr int kBytes = kTile * D * 2;
  alignas(1024) uint8_t keys[kStages][kBytes];
  alignas(1024) uint8_t values[kStages][kBytes];
  float merged[kDecodeHeads][D];
  float tops[kComputeWarps][kDecodeHeads];
  float sums[kComputeWarps][kDecodeHeads];
  uint64_t full[kStages], empty[kStages];
  int scratch[kThreads / 32];
  int counts[kDecodeRequests + 1];
};

struct Item {
  int request, kv_head, subgroup, split_slot;  // split_slot: index among all splits of the step
  int begin, end;                              // keys
  bool only;                                   // the request has no other split
};

__device__ __forceinline__ Item find_item(const DecodeArguments &a, const int *counts, int index) {
  const int columns = a.kv_heads * a.subgroups;
  const int slot = index / columns, column = index % columns;
  int request = 0;
  for (int step = kDecodeRequests; step > 0; step /= 2)
    if (request + step < a.requests && counts[request + step] <= slot) request += step;
  const DecodeRange range = decode_range(a, request);
  const int split = range.first_split + slot - counts[request];
  return {request,
          column / a.subgroups,
          column % a.subgroups,
          slot,
          max(range.begin, split * kSplitKeys),
          min(range.end, (split + 1) * kSplitKeys),
          range.splits == 1};
}

template <int D>
__device__ __forceinline__ void decode_copy(Shared<D> &shared, const DecodeArguments &a, const CUtensorMap *key_map,
                                            const CUtensorMap *value_map) {
  Ring<Shared<D>::kStages> stage;
  const int items = shared.counts[a.requests] * a.kv_heads * a.subgroups;
  for (int index = blockIdx.x; index < items; index += gridDim.x) {
    const Item item = find_item(a, shared.counts, index);
    for (int first = item.begin / kTile * kTile; first < item.end; first += kTile) {
      barrier_wait(&shared.empty[stage.slot], stage.parity ^ 1);
      uint64_t *full = &shared.full[stage.slot];
      if (threadIdx.x % 32 == 0)
        barrier_expect(full, kv_tile_bytes<kTile, D / 64>(a.keys, first, item.end) +
                                 kv_tile_bytes<kTile, D / 64>(a.values, first, item.end));
      __syncwarp();
      copy_kv_tile<kTile, D / 64>(shared.keys[stage.slot], key_map, a.keys, full, item.request, item.kv_head, first, item.end);
      copy_kv_tile<kTile, D / 64>(shared.values[stage.slot], value_map, a.values, full, item.request, item.kv_head, first,
                                  item.end);
      stage.advance();
    }
  }
}

// Rows of a thread are lane / 4 and that + 8, as in the products' accumulators.
template <class T, int D>
struct Warp {
  uint32_t queries[D / 16][4];
  float o[D / 8][4];
  float top[2], sum[2];

  __device__ __forceinline__ void start(const DecodeArguments &a, const Item &item) {
    const int lane = threadIdx.x % 32;
    const int first = item.kv_head * a.group + item.subgroup * kDecodeHeads;
    const int heads = min(kDecodeHeads, a.group - item.subgroup * kDecodeHeads);
    const T *base = static_cast<const T *>(a.queries) + item.request * a.query_row_stride;
#pragma unroll
    for (int k = 0; k < D / 16; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int head = lane / 4 + 8 * (i % 2), column = 16 * k + 2 * (lane % 4) + 8 * (i / 2);
        queries[k][i] =
            head < heads ? *reinterpret_cast<const uint32_t *>(base + (first + head) * a.query_head_stride + column) : 0u;
      }
#pragma unroll
    for (int j = 0; j < D / 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) o[j][i] = 0.0f;
    top[0] = top[1] = negative_infinity();
    sum[0] = sum[1] = 0.0f;
  }

  // 16 keys of a tile, from row `row` of it; `first` is that row's key.
  __device__ __forceinline__ void step(const DecodeArguments &a, uint32_t keys, uint32_t values, int row, int first,
                                       const Item &item, float factor, float cap_factor) {
    const int lane = threadIdx.x % 32;
    float s[2][4] = {};
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      uint32_t b[4];
      load_matrices(b, swizzled(keys + (k / 4) * kTile * 128, row + lane % 8 + 8 * (lane / 16), 2 * (k % 4) + lane / 8 % 2));
      mma16<T>(s[0], queries[k], b[0], b[1]);
      mma16<T>(s[1], queries[k], b[2], b[3]);
    }
    const bool border = first < item.begin || first + 16 > item.end;
    bool visible[2][2];
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int key = first + 8 * n + 2 * (lane % 4) + e;
        visible[n][e] = !border || (key >= item.begin && key < item.end);
      }
    if (a.soft_cap > 0) {
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) s[n][i] = soft_capped(s[n][i] * a.scale, a.soft_cap, cap_factor);
    }
    float scale[2];
    bool rescale = false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = negative_infinity();
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float &x = s[n][2 * half + e];
          x = visible[n][e] ? x : negative_infinity();
          most = fmaxf(most, x);
        }
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
      const float old = top[half];
      scale[half] = 1.0f;
      if ((most - old) * factor > kSlack || old == negative_infinity()) {
        top[half] = most;
        scale[half] = old == negative_infinity() ? 0.0f : exp2_fast((old - most) * factor);
        rescale = true;
      }
      const float reference = top[half] == negative_infinity() ? 0.0f : top[half] * factor;
      float part = 0.0f;
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float &x = s[n][2 * half + e];
          x = exp2_fast(fmaf(x, factor, -reference));
          part += x;
        }
      sum[half] = sum[half] * scale[half] + part;
    }
    if (__any_sync(~0u, rescale)) {
#pragma unroll
      for (int j = 0; j < D / 8; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) o[j][i] *= scale[i / 2];
    }
    const uint32_t p[4] = {Element<T>::pack(s[0][0], s[0][1]), Element<T>::pack(s[0][2], s[0][3]),
                           Element<T>::pack(s[1][0], s[1][1]), Element<T>::pack(s[1][2], s[1][3])};
    // What lies beside the interval may be anything, and 0 · NaN is NaN.
    uint32_t mask[2];
#pragma unroll
    for (int n = 0; n < 2; ++n) mask[n] = (visible[n][0] ? 0x0000ffffu : 0u) | (visible[n][1] ? 0xffff0000u : 0u);
#pragma unroll
    for (int j = 0; j < D / 16; ++j) {
      uint32_t b[4];
      load_matrices_transposed(b, swizzled(values + (j / 4) * kTile * 128, row + lane % 16, 2 * (j % 4) + lane / 16));
      mma16<T>(o[2 * j], p, b[0] & mask[0], b[1] & mask[1]);
      mma16<T>(o[2 * j + 1], p, b[2] & mask[0], b[3] & mask[1]);
    }
  }
};

// Adds the four warps' accumulators in order and writes the split's result, or the request's when it has one split.
template <class T, int D>
__device__ __forceinline__ void finish_item(Shared<D> &shared, const DecodeArguments &a, const Item &item, Warp<T, D> &w,
                                            float factor) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const auto all_warps = [] { named_sync(1, 32 * kComputeWarps); };
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = w.sum[half];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (lane % 4 == 0) {
      shared.tops[warp][lane / 4 + 8 * half] = w.top[half];
      shared.sums[warp][lane / 4 + 8 * half] = sum;
    }
  }
  all_warps();
  float scale[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    float top = negative_infinity();
    for (int i = 0; i < kComputeWarps; ++i) top = fmaxf(top, shared.tops[i][row]);
    scale[half] = w.top[half] == negative_infinity() ? 0.0f : exp2_fast((w.top[half] - top) * factor);
  }
  for (int turn = 0; turn < kComputeWarps; ++turn) {
    if (turn == warp) {
#pragma unroll
      for (int j = 0; j < D / 8; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          auto *cell = reinterpret_cast<float2 *>(&shared.merged[lane / 4 + 8 * half][8 * j + 2 * (lane % 4)]);
          float2 value = turn == 0 ? make_float2(0.0f, 0.0f) : *cell;
          value.x += w.o[j][2 * half] * scale[half];
          value.y += w.o[j][2 * half + 1] * scale[half];
          *cell = value;
        }
    }
    all_warps();
  }
  const int first = item.kv_head * a.group + item.subgroup * kDecodeHeads;
  const int heads = min(kDecodeHeads, a.group - item.subgroup * kDecodeHeads);
  constexpr int kPairs = D / 2;
  for (int i = threadIdx.x; i < heads * kPairs; i += 32 * kComputeWarps) {
    const int row = i / kPairs, column = 2 * (i % kPairs);
    float top = negative_infinity(), sum = 0.0f;
    for (int j = 0; j < kComputeWarps; ++j) top = fmaxf(top, shared.tops[j][row]);
    for (int j = 0; j < kComputeWarps; ++j)
      sum += shared.tops[j][row] == negative_infinity() ? 0.0f : shared.sums[j][row] * exp2_fast((shared.tops[j][row] - top) * factor);
    const float x = shared.merged[row][column] / sum, y = shared.merged[row][column + 1] / sum;
    const int head = first + row;
    if (item.only) {
      *reinterpret_cast<uint32_t *>(static_cast<T *>(a.output) + item.request * a.output_row_stride +
                                    head * a.output_head_stride + column) = Element<T>::pack(x, y);
    } else {
      const int64_t cell = static_cast<int64_t>(item.split_slot) * a.heads + head;
      *reinterpret_cast<float2 *>(a.partial + cell * D + column) = make_float2(x, y);
      if (column == 0) a.logs[cell] = top * factor + log2_fast(sum);
    }
  }
  all_warps();
}

template <class T, int D>
__global__ void __launch_bounds__(kThreads)
    decode_splits(const __grid_constant__ DecodeArguments a, const __grid_constant__ CUtensorMap key_map,
                  const __grid_constant__ CUtensorMap value_map) {
  take_turn();
  extern __shared__ __align__(1024) uint8_t memory[];
  auto &shared = *reinterpret_cast<Shared<D> *>(memory);
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shared<D>::kStages; ++i) {
      barrier_init(&shared.full[i], 1);
      barrier_init(&shared.empty[i], kComputeWarps);
    }
    barrier_init_fence();
  }
  count_splits(a, shared.counts, shared.scratch);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp == kComputeWarps) {
    decode_copy<D>(shared, a, &key_map, &value_map);
    return;
  }
  const float factor = (a.soft_cap > 0 ? 1.0f : a.scale) * kLog2E;
  const float cap_factor = a.soft_cap > 0 ? 2.0f * kLog2E / a.soft_cap : 0.0f;
  const int items = shared.counts[a.requests] * a.kv_heads * a.subgroups;
  Ring<Shared<D>::kStages> stage;
  Warp<T, D> w;
  for (int index = blockIdx.x; index < items; index += gridDim.x) {
    const Item item = find_item(a, shared.counts, index);
    w.start(a, item);
    for (int first = item.begin / kTile * kTile; first < item.end; first += kTile) {
      barrier_wait(&shared.full[stage.slot], stage.parity);
      const int row = 16 * warp;
      if (first + row < item.end && first + row + 16 > item.begin)
        w.step(a, shared_address(shared.keys[stage.slot]), shared_address(shared.values[stage.slot]), row, first + row, item,
               factor, cap_factor);
      __syncwarp();
      if (lane == 0) barrier_arrive(&shared.empty[stage.slot]);
      stage.advance();
    }
    finish_item<T, D>(shared, a, item, w, factor);
  }
}

template <class T, int D>
up_status launch(const up_decode_attention &p, const DecodeArguments &a, cudaStream_t stream, up_backend_error *error) {
  constexpr const char *phase = "launch decode attention";
  CUtensorMap key_map, value_map;
  if (up_status s = encode_kv_map(&key_map, p.dtype, D, p.kv_heads, p.max_key_rows, p.keys, kTile, "map keys", error);
      s != UP_OK)
    return s;
  if (up_status s = encode_kv_map(&value_map, p.dtype, D, p.kv_heads, p.max_key_rows, p.values, kTile, "map values", error);
      s != UP_OK)
    return s;
  const auto kernel = decode_splits<T, D>;
  constexpr int bytes = sizeof(Shared<D>);
  if (up_status s = allow_shared_memory(reinterpret_cast<const void *>(kernel), bytes, phase, error); s != UP_OK) return s;
  const int64_t most = int64_t{p.requests} * ceil_div(p.max_key_rows, kSplitKeys) * a.kv_heads * a.subgroups;
  constexpr int resident = D == 256 ? 1 : D == 128 ? 2 : 3;  // what shared memory allows
  const int blocks = static_cast<int>(std::min<int64_t>(most, int64_t{resident} * multiprocessors()));
  launch_dependent(kernel, blocks, kThreads, bytes, stream, a, key_map, value_map);
  return check_launch(phase, error);
}

template <class T>
up_status launch(const up_decode_attention &p, const DecodeArguments &a, cudaStream_t stream, up_backend_error *error) {
  switch (p.head_dim) {
    case 64:
      return launch<T, 64>(p, a, stream, error);
    case 128:
      return launch<T, 128>(p, a, stream, error);
    default:
      return launch<T, 256>(p, a, stream, error);
  }
}

}  // namespace

up_status launch_decode_splits(const up_decode_attention &p, const DecodeArguments &a, cudaStream_t stream,
                               up_backend_error *error) {
  return p.dtype == UP_BF16 ? launch<__nv_bfloat16>(p, a, stream, error) : launch<__half>(p, a, stream, error);
}

}  // namespace up::cuda
