// Prefill attention for sm_90a, after the shape of FlashAttention-3.
//
// A block is persistent and has three warpgroups. One gives its registers away and only issues tensor copies; each of the
// other two owns 64 of an item's 128 query rows, for one head. Key tiles of 128 rows (64 for head_dim 256, where shared memory
// allows no more: Q 64 KB + 2 × (K 32 KB + V 32 KB)) pass through rings of two slots, K and V apart, so that K of the next tile
// is needed no earlier than it is used. Within a warpgroup the scores of tile i + 1 are issued before the values of tile i, so
// that the softmax of i + 1 runs beside the latter; the two warpgroups take turns issuing (named barriers), so that one's
// softmax runs beside the other's products.
//
// A row's visible keys are one interval, so a tile is skipped, unmasked or masked by comparing its borders with the
// intervals of the first and last rows. Masked scores become -inf by selection and the values past the request's last key are
// zeroed in shared memory: nothing that lies in unused cache rows, NaN included, reaches a result.
//
// Sparse attention is the same kernel on tiles put together from the blocks of 64 keys that a bitmap lets through: the copy
// warp walks the bitmap and leaves beside each tile which blocks it holds.
#pragma once

#include "cuda/common/fragments.cuh"
#include "cuda/attention/prefill_copy.cuh"
#include "cuda/common/wgmma.cuh"

namespace up::cuda {

// Scores may exceed the row's reference by 2^8 before the accumulator is rescaled.
constexpr float kRescaleSlack = 8.0f;

// Rows of one thread: 16·warp + lane / 4, and that + 8.
struct RowPair {
  int lo[2], hi[2];
  float top[2];  // reference of the exponentials, in units of raw scores (after the soft-cap)
  float sum[2];  // this thread's part
};

// Turns raw scores into exponentials, updates the rows and returns in `scale` what the accumulator must be multiplied by.
// True when some row of the warp needs that.
template <int Keys>
__device__ __forceinline__ bool prefill_softmax(float (&s)[Keys / 2], RowPair &rows, float (&scale)[2],
                                                const int (&first_keys)[2], bool masked, int key_rows, float factor,
                                                float cap, float cap_factor, float raw_scale) {
  const int column = 2 * (threadIdx.x % 4);
  if (cap > 0) {
#pragma unroll
    for (int i = 0; i < Keys / 2; ++i) s[i] = soft_capped(s[i] * raw_scale, cap, cap_factor);
  }
  if (masked) {
#pragma unroll
    for (int i = 0; i < Keys / 2; ++i) {
      const int half = (i / 2) % 2, key = first_keys[i / 32] + column + (i / 4 % 8) * 8 + i % 2;
      s[i] = key >= rows.lo[half] && key <= min(rows.hi[half], key_rows - 1) ? s[i] : negative_infinity();
    }
  }
  bool rescale = false;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top = s[2 * half];
#pragma unroll
    for (int i = 0; i < Keys / 8; ++i) top = fmaxf(top, fmaxf(s[4 * i + 2 * half], s[4 * i + 2 * half + 1]));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    const float old = rows.top[half];
    scale[half] = 1.0f;
    if ((top - old) * factor > kRescaleSlack || old == negative_infinity()) {
      rows.top[half] = top;
      scale[half] = old == negative_infinity() ? 0.0f : exp2_fast((old - top) * factor);
      rescale = true;
    }
    const float reference = rows.top[half] == negative_infinity() ? 0.0f : rows.top[half] * factor;
    float sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < Keys / 8; ++i) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float &x = s[4 * i + 2 * half + e];
        x = exp2_fast(fmaf(x, factor, -reference));
        sum[e] += x;
      }
    }
    rows.sum[half] = rows.sum[half] * scale[half] + (sum[0] + sum[1]);
  }
  return __any_sync(~0u, rescale);
}

template <class T, int Keys>
__device__ __forceinline__ void pack_probabilities(uint32_t (&p)[Keys / 16][4], const float (&s)[Keys / 2]) {
#pragma unroll
  for (int k = 0; k < Keys / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) p[k][i] = Element<T>::pack(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
}

// The compiler makes four stores of some of these otherwise.
__device__ __forceinline__ void store_16(void *target, const uint32_t (&v)[4]) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(target), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]) : "memory");
}

// Writes a warp's 16 rows. Four lanes hold a row's columns in pairs; after the exchange each holds 8 neighbouring columns.
template <class T, int D>
__device__ __forceinline__ void store_rows(const float (&o)[D / 2], const float (&inverse)[2], T *output, int64_t row_stride,
                                           int first_row, int rows) {
  const int lane = threadIdx.x % 32, quad = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
#pragma unroll
    for (int j = 0; j < D / 32; ++j) {
      uint32_t v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = 4 * (4 * j + i) + 2 * half;
        v[i] = Element<T>::pack(o[at] * inverse[half], o[at + 1] * inverse[half]);
      }
      transpose_quad(v);
      if (row < rows)
        store_16(output + (first_row + row) * row_stride + (4 * j + quad) * 8, v);
    }
  }
}

// Writes a warp's 16 rows of a part as they are, and the logarithms of their sums of exponentials.
template <int D>
__device__ __forceinline__ void store_part(const float (&o)[D / 2], const float (&inverse)[2], const float (&log)[2], float *partial,
                                           float *logs, int first_row, int rows) {
  const int lane = threadIdx.x % 32, column = 2 * (lane % 4);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    if (row >= rows) continue;
    float *target = partial + static_cast<int64_t>(first_row + row) * D + column;
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
      const int at = 4 * j + 2 * half;
      *reinterpret_cast<float2 *>(target + 8 * j) = make_float2(o[at] * inverse[half], o[at + 1] * inverse[half]);
    }
    if (lane % 4 == 0) logs[first_row + row] = log[half];
  }
}

// Divides a warp's rows by their sums of exponentials and writes them, or the part of them that this is.
template <class T, int D, bool Sparse>
__device__ __forceinline__ void prefill_store(const PrefillArguments &a, const PrefillTask &task, int top_row,
                                              const float (&o)[D / 2], const float (&sums)[2], const float (&tops)[2],
                                              float factor) {
  float inverse[2], log[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = sums[half];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    inverse[half] = sum == 0.0f ? 0.0f : 1.0f / sum;
    log[half] = sum == 0.0f ? negative_infinity() : fmaf(tops[half], factor, log2f(sum));
  }
  const PrefillItem &item = task.item;
  // By a vote, so that the compiler knows it is the same for the warp; otherwise it waits for every matrix product.
  if (!Sparse && __any_sync(~0u, item.part >= 0)) {
    const int64_t place = (static_cast<int64_t>(item.part) * a.heads + task.head) * kPrefillRows;
    store_part<D>(o, inverse, log, a.schedule.partial + place * D, a.schedule.logs + place, top_row, item.rows - top_row);
  } else {
    T *output = static_cast<T *>(a.output) + task.head * a.output_head_stride;
    store_rows<T, D>(o, inverse, output, a.output_row_stride, item.first_row + top_row, item.rows - top_row);
  }
}

template <class T, int D, bool Sparse>
__device__ __forceinline__ void prefill_compute(PrefillShared<D> &shared, const PrefillArguments &a, int group_index) {
  using Shape = PrefillShape<D>;
  constexpr int Keys = Shape::kKeys;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const int top_row = kPrefillHalfRows * group_index + 16 * warp;  // of the warp, in an item
  const float cap = a.soft_cap;
  const float factor = (cap > 0 ? 1.0f : a.scale) * kLog2E;
  const float cap_factor = cap > 0 ? 2.0f * kLog2E / cap : 0.0f;
  const uint32_t queries = k_major(shared_address(shared.queries) + group_index * kPrefillHalfRows * 128);
  const uint32_t keys = k_major(shared_address(shared.keys));
  const uint32_t values = n_major(shared_address(shared.values), Keys * 128);
  Ring<kPrefillTasks> task;  // the next to take
  Ring<Shape::kStages> key_stage, value_stage;
  Ring<Shape::kQueryStages> query_stage;
  if (group_index == 1) named_arrive(1, 256);

  float o[D / 2];
  float s[Keys / 2];
  uint32_t p[Keys / 16][4];

  const auto issue_scores = [&] {
    const uint32_t rows = queries + query_stage.slot * (Shape::kQueryBytes >> 4);
    const uint32_t tile = keys + key_stage.slot * (Shape::kTileBytes >> 4);
    mma_pin(s);
    mma_begin();
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      const uint32_t panel = k / 4, inside = (k % 4) * 32;
      Mma<T, Keys>::shared(s, operand(rows, panel * kPrefillRows * 128 + inside),
                           operand(tile, panel * Keys * 128 + inside), k > 0);
    }
    mma_commit();
  };
  const auto issue_values = [&] {
    const uint32_t tile = values + value_stage.slot * (Shape::kTileBytes >> 4);
#pragma unroll
    for (int k = 0; k < Keys / 16; ++k)
      Mma<T, D>::registers(o, p[k], operand(tile, k * 2048));
    mma_commit();
  };
  const auto release = [&](uint64_t *barrier) {
    __syncwarp();
    if (lane == 0) barrier_arrive(barrier);
  };

  // The item at work: the slot of its task, its rows and its tiles.
  RowPair rows;
  int at, tile, tiles, tile_begin, full_begin, full_end;
  // Goes on to the next item. False: there are no more.
  const auto next_item = [&] {
    at = task.slot;
    barrier_wait(&shared.task_full[at], task.parity);
    task.advance();
    if (shared.tasks[at].head < 0) return false;
    const PrefillItem &item = shared.tasks[at].item;
    tile = 0;
    tiles = shared.tasks[at].tiles;
    tile_begin = item.tile_begin;
    full_begin = item.full_begin[group_index];
    full_end = item.full_end[group_index];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = top_row + lane / 4 + 8 * half;
      const bool real = row < item.rows;
      rows.lo[half] = real && a.lo != nullptr ? a.lo[item.first_row + row] : 0;
      rows.hi[half] = real ? a.hi[item.first_row + row] : -1;
      rows.top[half] = negative_infinity();
      rows.sum[half] = 0.0f;
    }
    return true;
  };
  float scale[2];
  int first_keys[2];
  bool masked;
  // Where the keys of the tile are, before its slot is given back.
  const auto look = [&] {
    if constexpr (Sparse) {
      masked = false;
#pragma unroll
      for (int half = 0; half < Keys / 64; ++half) {
        // Read by the lane that gives the slot back: racecheck does not see through a barrier of the warp and its arrival.
        const int block = __shfl_sync(~0u, lane == 0 ? shared.blocks[key_stage.slot][half] : 0, 0);
        first_keys[half] = 64 * block;
        masked |= block < full_begin || block >= full_end;
      }
    } else {
      const int place = tile_begin + tile;
      first_keys[0] = place * Keys;
      first_keys[1] = first_keys[0] + 64;
      masked = place < full_begin || place >= full_end;
    }
  };
  const auto scores_end = [&] {
    mma_pin(s);
    release(&shared.keys_empty[key_stage.slot]);
    key_stage.advance();
    if (tile + 1 < tiles) return;
    release(&shared.queries_empty[query_stage.slot][group_index]);
    query_stage.advance();
  };
  const auto softmax = [&] {
    return prefill_softmax<Keys>(s, rows, scale, first_keys, masked, a.max_key_rows, factor, cap, cap_factor, a.scale);
  };
  const auto values_end = [&] {
    mma_wait<0>();
    mma_pin(o);
    release(&shared.values_empty[value_stage.slot]);
    value_stage.advance();
  };

  const auto rescale_values = [&](bool needed) {
    if (!needed) return;
#pragma unroll
    for (int i = 0; i < D / 2; ++i) o[i] *= scale[(i / 2) % 2];
  };

  while (next_item()) {
    barrier_wait(&shared.keys_full[key_stage.slot], key_stage.parity);
    barrier_wait(&shared.queries_full[query_stage.slot][group_index], query_stage.parity);
    issue_scores();
    look();
    mma_wait<0>();
    scores_end();
    softmax();
    pack_probabilities<T, Keys>(p, s);
#pragma unroll
    for (int i = 0; i < D / 2; ++i) o[i] = 0.0f;

    for (tile = 1; tile < tiles; ++tile) {
      barrier_wait(&shared.keys_full[key_stage.slot], key_stage.parity);
      named_sync(1 + group_index, 256);
      mma_pin(o);
      issue_scores();
      barrier_wait(&shared.values_full[value_stage.slot], value_stage.parity);
      issue_values();
      named_arrive(2 - group_index, 256);
      look();
      mma_wait<1>();
      scores_end();
      const bool rescale = softmax();
      values_end();
      // Which of the two comes first changes the compiler's schedule: by measurement.
      if constexpr (Shape::kPackFirst) {
        pack_probabilities<T, Keys>(p, s);
        rescale_values(rescale);
      } else {
        rescale_values(rescale);
        pack_probabilities<T, Keys>(p, s);
      }
    }
    barrier_wait(&shared.values_full[value_stage.slot], value_stage.parity);
    mma_pin(o);
    mma_begin();
    issue_values();
    values_end();
    prefill_store<T, D, Sparse>(a, shared.tasks[at], top_row, o, rows.sum, rows.top, factor);
    barrier_arrive(&shared.task_empty[at]);  // every thread, since every one has read it
  }
}

template <class T, int D, bool Sparse>
__global__ void __launch_bounds__(kPrefillThreads, 1)
    prefill_attention(const __grid_constant__ PrefillArguments a, const __grid_constant__ CUtensorMap query_map,
                      const __grid_constant__ CUtensorMap key_map, const __grid_constant__ CUtensorMap value_map) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto &shared = *reinterpret_cast<PrefillShared<D> *>(memory);
  if (threadIdx.x == 0) {
    prefetch_map(&query_map);
    prefetch_map(&key_map);
    prefetch_map(&value_map);
    for (int i = 0; i < PrefillShape<D>::kQueryStages; ++i)
      for (int half = 0; half < 2; ++half) {
        barrier_init(&shared.queries_full[i][half], 1);
        barrier_init(&shared.queries_empty[i][half], kPrefillConsumerWarps / 2);
      }
    for (int i = 0; i < kPrefillTasks; ++i) {
      barrier_init(&shared.task_full[i], 1);
      barrier_init(&shared.task_empty[i], 32 * kPrefillConsumerWarps);
    }
    for (int i = 0; i < PrefillShape<D>::kStages; ++i) {
      barrier_init(&shared.keys_full[i], 1);
      barrier_init(&shared.keys_empty[i], kPrefillConsumerWarps);
      barrier_init(&shared.values_full[i], 1);
      barrier_init(&shared.values_empty[i], kPrefillConsumerWarps);
    }
    barrier_init(&shared.tail, 1);
    barrier_init_fence();
  }
  __syncthreads();
  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);  // so that the compiler knows it is one for the warp
  if (warpgroup == 0) {
    registers_release<56>();
    if (threadIdx.x < 32) prefill_copy<T, D, Sparse>(shared, a, &query_map, &key_map, &value_map);
  } else {
    registers_claim<224>();
    prefill_compute<T, D, Sparse>(shared, a, warpgroup - 1);
  }
}

template <class T, int D, bool Sparse>
up_status launch_prefill(const up_prefill_attention &p, const up_sparse_attention *sparse, const PrefillSchedule &schedule,
                         cudaStream_t stream, up_backend_error *error) {
  using Shape = PrefillShape<D>;
  constexpr const char *phase = Sparse ? "launch sparse attention" : "launch prefill attention";
  constexpr int tile_keys = Sparse ? 64 : Shape::kKeys;
  const auto kernel = prefill_attention<T, D, Sparse>;
  CUtensorMap query_map, key_map, value_map;
  const Tensor queries{p.queries, p.max_query_rows, p.heads, 1, p.query_row_stride, p.query_head_stride, 0};
  if (up_status s = encode_map(&query_map, p.dtype, D, queries, kPrefillHalfRows, "map queries", error); s != UP_OK) return s;
  if (up_status s = encode_kv_map(&key_map, p.dtype, D, p.kv_heads, p.max_key_rows, p.keys, tile_keys, "map keys", error);
      s != UP_OK)
    return s;
  if (up_status s = encode_kv_map(&value_map, p.dtype, D, p.kv_heads, p.max_key_rows, p.values, tile_keys, "map values", error);
      s != UP_OK)
    return s;
  constexpr int bytes = sizeof(PrefillShared<D>);
  if (up_status s = allow_shared_memory(reinterpret_cast<const void *>(kernel), bytes, phase, error); s != UP_OK) return s;
  if (up_status s = launch_prefill_schedule(p, schedule, tile_keys, !Sparse, stream, error); s != UP_OK) return s;
  PrefillArguments arguments{schedule,
                             kv_table(p.keys, tile_keys),
                             kv_table(p.values, tile_keys),
                             p.lo,
                             p.hi,
                             p.output,
                             p.output_row_stride,
                             p.output_head_stride,
                             p.heads,
                             p.heads / p.kv_heads,
                             p.max_key_rows,
                             p.scale,
                             p.soft_cap,
                             nullptr,
                             nullptr,
                             0,
                             0};
  if (sparse != nullptr) {
    arguments.block_starts = sparse->block_starts;
    arguments.bitmaps = sparse->bitmaps;
    arguments.query_blocks = sparse->query_blocks;
    arguments.words = static_cast<int>(ceil_div(p.max_key_rows, 64 * 32));
  }
  const int64_t work = prefill_item_capacity(p) * p.heads;
  const int blocks = static_cast<int>(work < multiprocessors() ? work : multiprocessors());
  kernel<<<blocks, kPrefillThreads, bytes, stream>>>(arguments, query_map, key_map, value_map);
  if (up_status s = check_launch(phase, error); s != UP_OK || Sparse) return s;
  return launch_prefill_join(p, schedule, stream, error);
}

// `sparse` is nullptr where no keys are left out.
template <int D>
up_status launch_prefill(const up_prefill_attention &p, const up_sparse_attention *sparse, const PrefillSchedule &schedule,
                         cudaStream_t stream, up_backend_error *error) {
  if (sparse == nullptr)
    return p.dtype == UP_BF16 ? launch_prefill<__nv_bfloat16, D, false>(p, sparse, schedule, stream, error)
                              : launch_prefill<__half, D, false>(p, sparse, schedule, stream, error);
  return p.dtype == UP_BF16 ? launch_prefill<__nv_bfloat16, D, true>(p, sparse, schedule, stream, error)
                            : launch_prefill<__half, D, true>(p, sparse, schedule, stream, error);
}

}  // namespace up::cuda
