// The one pass over the keys: for every head, query and block of 64 keys, log2 Σ 2^(score · log2 e).
//
// Queries are rows of the request: its last ones, or every so many of them.
//
// A block of threads holds the 128 queries of up to four heads that share a KV head (two at head_dim 256) in shared memory,
// 128 KB, and streams its share of the keys through a ring of tiles beside them. Two warpgroups own 64 queries each; every tile
// is multiplied by each head in turn, and while one product runs the previous one's exponentials are summed, so the tensor
// cores (512 cycles a product) and the exponential unit (512 too) both stay busy.
#include <algorithm>

#include "cuda/common/kv_rows.cuh"
#include "cuda/selection/selection.h"
#include "cuda/common/wgmma.cuh"

namespace up::cuda {

namespace {

template <int D>
struct Tile {
  static constexpr int kHeads = D == 256 ? 2 : 4;
  static constexpr int kKeys = D == 256 ? 64 : 128;
  static constexpr int kPanels = D / 64;
  static constexpr int kStages = D == 64 ? 4 : D == 128 ? 3 : 2;
  static constexpr int kQueryBytes = kSelectionQueries * D * 2;  // of one head
  static constexpr int kBytes = kKeys * D * 2;
  static constexpr int kBlocks = kKeys / kSelectionBlock;
};

template <int D>
struct Shared {
  alignas(1024) uint8_t queries[Tile<D>::kHeads][Tile<D>::kQueryBytes];
  alignas(1024) uint8_t keys[Tile<D>::kStages][Tile<D>::kBytes];
  uint64_t queries_full, full[Tile<D>::kStages], empty[Tile<D>::kStages];
};

struct Arguments {
  SelectionShape shape;
  KvTable keys;
  const int32_t *lengths;
  float *sums;
  float scale, soft_cap;
  int splits, group, subgroups;
  int every;  // rows from one query to the next
};

constexpr int kThreads = 384;
constexpr int kConsumerWarps = 8;

// A running sum: value · 2^top.
struct Sum {
  float top, value;
};

__device__ __forceinline__ Sum add(Sum a, Sum b) {
  const float top = fmaxf(a.top, b.top);
  const float reference = top == negative_infinity() ? 0.0f : top;
  return {top, a.value * exp2_fast(a.top - reference) + b.value * exp2_fast(b.top - reference)};
}

__device__ __forceinline__ Sum exchange(Sum a, int mask) {
  return {__shfl_xor_sync(~0u, a.top, mask), __shfl_xor_sync(~0u, a.value, mask)};
}

struct Step {
  int first_key, first_query, every;  // first_query: this warp's first, as a row of the request; every: rows to the next one
  bool masked;
  float factor, scale, cap, cap_factor;
};

// Sums of this thread's scores of its two rows, 16 a block. Masked scores become -inf; a visible one that is not finite makes
// its sum NaN: 0 · x is NaN even where the maximum or the exponential would hide it.
template <int Blocks>
__device__ __forceinline__ void sum_parts(float (&s)[Blocks * 32], Sum (&part)[Blocks][2], const Step &step, int key,
                                          int query) {
  float value[Blocks][2][2] = {};
  if (step.masked) {
#pragma unroll
    for (int i = 0; i < Blocks * 32; ++i) {
      const int half = i / 2 % 2;
      const bool visible = key + i / 4 * 8 + i % 2 <= query + 8 * step.every * half;
      value[i / 32][half][i % 2] = visible ? fmaf(s[i], 0.0f, value[i / 32][half][i % 2]) : value[i / 32][half][i % 2];
      s[i] = visible ? s[i] : negative_infinity();
    }
  } else {
#pragma unroll
    for (int i = 0; i < Blocks * 32; ++i) value[i / 32][i / 2 % 2][i % 2] = fmaf(s[i], 0.0f, value[i / 32][i / 2 % 2][i % 2]);
  }
  if (step.cap > 0) {
#pragma unroll
    for (int i = 0; i < Blocks * 32; ++i)
      s[i] = s[i] == negative_infinity() ? s[i] : soft_capped(s[i] * step.scale, step.cap, step.cap_factor);
  }
#pragma unroll
  for (int b = 0; b < Blocks; ++b)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float *x = s + 32 * b + 2 * half;
      float top = fmaxf(x[0], x[1]);
#pragma unroll
      for (int j = 1; j < 8; ++j) top = fmaxf(top, fmaxf(x[4 * j], x[4 * j + 1]));
      top *= step.factor;
      const float reference = top == negative_infinity() ? 0.0f : top;
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) value[b][half][e] += exp2_fast(fmaf(x[4 * j + e], step.factor, -reference));
      part[b][half] = {top, value[b][half][0] + value[b][half][1]};
    }
}

// Sums a warpgroup's 64 × kKeys scores of one head by block and writes them. The quad's four lanes share a row; they end
// with one (row half, block) each.
template <int Blocks>
__device__ __forceinline__ void write_sums(float (&s)[Blocks * 32], const Step &step, float *out, int blocks) {
  const int lane = threadIdx.x % 32, quad = lane % 4, row = lane / 4;
  const int key = step.first_key + 2 * quad;
  Sum part[Blocks][2];
  sum_parts<Blocks>(s, part, step, key, step.first_query + step.every * row);
  const bool upper = quad & 1;
  Sum kept[Blocks];
#pragma unroll
  for (int b = 0; b < Blocks; ++b) {
    const Sum other = exchange(upper ? part[b][0] : part[b][1], 1);
    kept[b] = add(upper ? part[b][1] : part[b][0], other);
  }
  const int block = step.first_key / kSelectionBlock + (Blocks == 2 ? quad / 2 : 0);
  Sum result;
  if constexpr (Blocks == 2) {
    const Sum other = exchange(quad & 2 ? kept[0] : kept[1], 2);
    result = add(quad & 2 ? kept[1] : kept[0], other);
  } else {
    result = add(kept[0], exchange(kept[0], 2));
  }
  if (block < blocks && (Blocks == 2 || quad < 2))
    out[static_cast<int64_t>(block) * kSelectionQueries + row + (upper ? 8 : 0)] = result.top + log2_fast(result.value);
}

template <class T, int D>
__global__ void __launch_bounds__(kThreads, 1)
    selection_score(const __grid_constant__ Arguments a, const __grid_constant__ CUtensorMap query_map,
                    const __grid_constant__ CUtensorMap key_map) {
  using Shape = Tile<D>;
  extern __shared__ __align__(1024) uint8_t memory[];
  auto &shared = *reinterpret_cast<Shared<D> *>(memory);
  const int request = blockIdx.z;
  const int kv_head = blockIdx.y / a.subgroups;
  const int first_in_group = blockIdx.y % a.subgroups * Shape::kHeads;
  const int first_head = kv_head * a.group + first_in_group;
  const int heads = min(Shape::kHeads, a.group - first_in_group);
  const SelectionRows rows = selection_rows(a.shape, a.lengths, request);
  const int tiles = (rows.rows + Shape::kKeys - 1) / Shape::kKeys;
  const int begin = static_cast<int>(static_cast<int64_t>(tiles) * blockIdx.x / a.splits);
  const int end = static_cast<int>(static_cast<int64_t>(tiles) * (blockIdx.x + 1) / a.splits);
  if (begin >= end) return;

  if (threadIdx.x == 0) {
    barrier_init(&shared.queries_full, 1);
    for (int i = 0; i < Shape::kStages; ++i) {
      barrier_init(&shared.full[i], 1);
      barrier_init(&shared.empty[i], kConsumerWarps);
    }
    barrier_init_fence();
  }
  __syncthreads();

  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);  // so that the compiler knows it is one for the warp
  if (warpgroup == 0) {
    registers_release<40>();
    if (threadIdx.x >= 32) return;
    const bool first_lane = threadIdx.x == 0;
    if (first_lane) barrier_expect(&shared.queries_full, heads * Shape::kQueryBytes);
    Ring<Shape::kStages> stage;
    for (int tile = begin; tile < end; ++tile) {
      const int first = tile * Shape::kKeys;
      barrier_wait(&shared.empty[stage.slot], stage.parity ^ 1);
      if (first_lane)
        barrier_expect(&shared.full[stage.slot], kv_tile_bytes<Shape::kKeys, Shape::kPanels>(a.keys, first, rows.rows));
      __syncwarp();
      copy_kv_tile<Shape::kKeys, Shape::kPanels>(shared.keys[stage.slot], &key_map, a.keys, &shared.full[stage.slot], request,
                                                 kv_head, first, rows.rows);
      if (tile == begin && first_lane)
        for (int head = 0; head < heads; ++head)
          for (int panel = 0; panel < Shape::kPanels; ++panel)
            copy_tile(shared.queries[head] + panel * kSelectionQueries * 128, &query_map, &shared.queries_full, 0, 0, panel,
                      first_head + head, request);
      stage.advance();
    }
    return;
  }

  registers_claim<232>();
  const int half = warpgroup - 1, lane = threadIdx.x % 32;
  const int warp_query = 64 * half + 16 * (threadIdx.x / 32 % 4);
  const float cap = a.soft_cap;
  const int first_query = rows.rows - 1 - (rows.queries - 1) * a.every;
  Step step{0, first_query + warp_query * a.every, a.every, false, (cap > 0 ? 1.0f : a.scale) * kLog2E, a.scale, cap,
            cap > 0 ? 2.0f * kLog2E / cap : 0.0f};
  const int steps = (end - begin) * heads;
  float even[Shape::kKeys / 2], odd[Shape::kKeys / 2];
  Ring<Shape::kStages> issue_stage, release_stage;
  int issue_head = 0, head = 0, tile = begin;
  const uint32_t queries = k_major(shared_address(shared.queries) + half * 64 * 128);
  const uint32_t keys = k_major(shared_address(shared.keys));
  barrier_wait(&shared.queries_full, 0);

  const auto issue = [&](float(&d)[Shape::kKeys / 2]) {
    if (issue_head == 0) barrier_wait(&shared.full[issue_stage.slot], issue_stage.parity);
    const uint32_t head_queries = queries + issue_head * (Shape::kQueryBytes >> 4);
    const uint32_t tile_keys = keys + issue_stage.slot * (Shape::kBytes >> 4);
    mma_pin(d);
    mma_begin();
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      const uint32_t panel = k / 4, inside = (k % 4) * 32;
      Mma<T, Shape::kKeys>::shared(
          d, operand(head_queries, panel * kSelectionQueries * 128 + inside),
          operand(tile_keys, panel * Shape::kKeys * 128 + inside), k > 0);
    }
    mma_commit();
    if (++issue_head == heads) {
      issue_head = 0;
      issue_stage.advance();
    }
  };
  // The product in d is complete: its tile may be overwritten once every head has used it.
  const auto finish = [&](float(&d)[Shape::kKeys / 2]) {
    mma_pin(d);
    if (head == heads - 1) {
      __syncwarp();
      if (lane == 0) barrier_arrive(&shared.empty[release_stage.slot]);
      release_stage.advance();
    }
    step.first_key = tile * Shape::kKeys;
    step.masked = step.first_key + Shape::kKeys > first_query;
    float *out = a.sums +
                 (static_cast<int64_t>(request) * a.shape.heads + first_head + head) * a.shape.blocks * kSelectionQueries +
                 warp_query;
    write_sums<Shape::kBlocks>(d, step, out, rows.blocks);
    if (++head == heads) {
      head = 0;
      ++tile;
    }
  };

  // Two products are in flight while one is summed. Which are, is the same on every path: otherwise the compiler would
  // wait for each.
  issue(even);
  int left = steps;
  for (; left > 2; left -= 2) {
    issue(odd);
    mma_wait<1>();
    finish(even);
    issue(even);
    mma_wait<1>();
    finish(odd);
  }
  if (left == 2) {
    issue(odd);
    mma_wait<1>();
    finish(even);
    mma_wait<0>();
    finish(odd);
  } else {
    mma_wait<0>();
    finish(even);
  }
}

// Key ranges a head's work is cut into: the fewest rounds of blocks, each paying about three tiles for its queries.
int choose_splits(int64_t blocks, int64_t tiles) {
  const int64_t processors = multiprocessors();
  int64_t best = 1, best_cost = INT64_MAX;
  for (int64_t splits = 1; splits <= std::min<int64_t>(tiles, processors); ++splits) {
    const int64_t cost = ceil_div(blocks * splits, processors) * (ceil_div(tiles, splits) + 3);
    if (cost < best_cost) {
      best = splits;
      best_cost = cost;
    }
  }
  return static_cast<int>(best);
}

template <class T, int D>
up_status launch(const up_selection &p, int every, const SelectionScratch &scratch, cudaStream_t stream, up_backend_error *error) {
  using Shape = Tile<D>;
  constexpr const char *phase = "launch selection score";
  CUtensorMap query_map, key_map;
  const Tensor queries{p.queries,          p.last_q,           p.heads, p.requests, p.query_row_stride, p.query_head_stride,
                       p.query_request_stride};
  if (up_status s = encode_map(&query_map, p.dtype, D, queries, kSelectionQueries, "map queries", error); s != UP_OK) return s;
  if (up_status s = encode_kv_map(&key_map, p.dtype, D, p.kv_heads, p.max_rows, p.keys, Shape::kKeys, "map keys", error);
      s != UP_OK)
    return s;
  const auto kernel = selection_score<T, D>;
  constexpr int bytes = sizeof(Shared<D>);
  if (up_status s = allow_shared_memory(reinterpret_cast<const void *>(kernel), bytes, phase, error); s != UP_OK) return s;
  const int group = p.heads / p.kv_heads;
  const int subgroups = static_cast<int>(ceil_div(group, Shape::kHeads));
  const int splits = choose_splits(int64_t{p.requests} * p.kv_heads * subgroups, ceil_div(p.max_rows, Shape::kKeys));
  const Arguments arguments{selection_shape(p), kv_table(p.keys, Shape::kKeys), p.lengths, scratch.sums, p.scale, p.soft_cap,
                            splits,             group,                          subgroups, every};
  kernel<<<dim3(splits, p.kv_heads * subgroups, p.requests), kThreads, bytes, stream>>>(arguments, query_map, key_map);
  return check_launch(phase, error);
}

template <class T>
up_status launch(const up_selection &p, int every, const SelectionScratch &scratch, cudaStream_t stream, up_backend_error *error) {
  switch (p.head_dim) {
    case 64:
      return launch<T, 64>(p, every, scratch, stream, error);
    case 128:
      return launch<T, 128>(p, every, scratch, stream, error);
    default:
      return launch<T, 256>(p, every, scratch, stream, error);
  }
}

}  // namespace

up_status launch_selection_score(const up_selection &p, int every, const SelectionScratch &scratch, cudaStream_t stream,
                                 up_backend_error *error) {
  return p.dtype == UP_BF16 ? launch<__nv_bfloat16>(p, every, scratch, stream, error)
                            : launch<__half>(p, every, scratch, stream, error);
}

}  // namespace up::cuda
