// The copy warp of prefill attention, and what it shares with the warpgroups that compute.
#pragma once

#include "cuda/common/kv_rows.cuh"
#include "cuda/attention/prefill_attention.h"

namespace up::cuda {

template <int D>
struct PrefillShape {
  static constexpr int kKeys = D == 256 ? 64 : 128;
  static constexpr int kPanels = D / 64;
  static constexpr int kStages = 2;
  static constexpr int kQueryStages = D == 256 ? 1 : 2;  // shared memory has no room for 2 × 64 KB
  static constexpr bool kPackFirst = D != 256;  // probabilities before the values' new scale
  static constexpr int kQueryBytes = kPrefillRows * D * 2;
  static constexpr int kTileBytes = kKeys * D * 2;
};

// An item with keys, for one head.
struct PrefillTask {
  PrefillItem item;
  int head;   // -1: no more work
  int tiles;  // of keys
};

// The one at work and the next.
constexpr int kPrefillTasks = 2;

template <int D>
struct PrefillShared {
  using Shape = PrefillShape<D>;
  alignas(1024) uint8_t queries[Shape::kQueryStages][Shape::kQueryBytes];
  alignas(1024) uint8_t keys[Shape::kStages][Shape::kTileBytes];
  alignas(1024) uint8_t values[Shape::kStages][Shape::kTileBytes];
  PrefillTask tasks[kPrefillTasks];
  uint64_t task_full[kPrefillTasks], task_empty[kPrefillTasks];
  uint64_t queries_full[Shape::kQueryStages][2], queries_empty[Shape::kQueryStages][2];  // of each half of 64 rows
  uint64_t keys_full[Shape::kStages], keys_empty[Shape::kStages];
  uint64_t values_full[Shape::kStages], values_empty[Shape::kStages];
  uint64_t tail;
  int blocks[Shape::kStages][2];  // of a sparse tile: which 64 keys its halves hold
};

constexpr int kPrefillThreads = 384;
constexpr int kPrefillConsumerWarps = 8;
constexpr int kPrefillHalfRows = 64;  // of an item, those of one warpgroup

// The name of a half of a sparse tile that holds no block: beyond every key.
constexpr int kNoBlock = 1 << 24;

// Of a sparse item: the blocks of 64 keys that its bitmap lets through, in order. Every lane goes through them alike.
class SparseBlocks {
 public:
  // None.
  __device__ __forceinline__ SparseBlocks() : begin_(0), end_(0), word_(0), bits_(0), ahead_(0), words_(nullptr) {}
  __device__ __forceinline__ SparseBlocks(const PrefillArguments &a, const PrefillItem &item, int kv_head)
      : begin_(item.tile_begin), end_(item.tile_end), word_(item.tile_begin / 32), bits_(0), ahead_(0), words_(nullptr) {
    const int64_t block = static_cast<int64_t>(a.block_starts[item.request]) + item.block;
    if (block < 0 || block >= a.query_blocks) return;
    words_ = a.bitmaps + (static_cast<int64_t>(kv_head) * a.query_blocks + block) * a.words;
    bits_ = load(word_);
    ahead_ = load(word_ + 1);
  }

  // How many there are; a lane counts every 32nd word.
  __device__ __forceinline__ int count() const {
    int sum = 0;
    for (int word = word_ + static_cast<int>(threadIdx.x % 32); 32 * word < end_; word += 32) sum += __popc(load(word));
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    return sum;
  }

  // The next one, or -1.
  __device__ __forceinline__ int next() {
    while (bits_ == 0) {
      if (words_ == nullptr || 32 * ++word_ >= end_) return -1;
      bits_ = ahead_;
      ahead_ = load(word_ + 1);
    }
    const int bit = __ffs(bits_) - 1;
    bits_ &= bits_ - 1;
    return 32 * word_ + bit;
  }

 private:
  __device__ __forceinline__ uint32_t load(int word) const {
    if (words_ == nullptr || 32 * word >= end_) return 0;
    uint32_t bits = __ldg(words_ + word);
    if (32 * word < begin_) bits &= ~0u << (begin_ - 32 * word);
    if (32 * word + 32 > end_) bits &= ~0u >> (32 * word + 32 - end_);
    return bits;
  }

  int begin_, end_, word_;
  uint32_t bits_, ahead_;  // of this word, and of the next, asked for in time
  const uint32_t *words_;
};

// What a tile of keys holds: kKeys neighbouring keys, or, sparse, one or two blocks of 64.
struct PrefillTile {
  int first[2];  // keys of its halves
  bool whole;    // all of them are the request's
};

// Copies a tile of K or V, and the number of bytes that will arrive. Call from a whole warp.
template <int D, bool Sparse>
struct PrefillCopy {
  using Shape = PrefillShape<D>;

  static __device__ __forceinline__ uint32_t bytes(const KvTable &table, const PrefillTile &tile, int end) {
    if constexpr (!Sparse) return kv_tile_bytes<Shape::kKeys, Shape::kPanels>(table, tile.first[0], end);
    uint32_t sum = 0;
    for (int half = 0; half < Shape::kKeys / 64; ++half) sum += kv_tile_bytes<64, Shape::kPanels>(table, tile.first[half], end);
    return sum;
  }
  static __device__ __forceinline__ void copy(uint8_t *target, const CUtensorMap *map, const KvTable &table, uint64_t *barrier,
                                              const PrefillItem &item, int kv_head, const PrefillTile &tile) {
    if constexpr (!Sparse) {
      copy_kv_tile<Shape::kKeys, Shape::kPanels>(target, map, table, barrier, item.request, kv_head, tile.first[0],
                                                 item.key_rows);
    } else {
      // Half of the warp has each block.
      constexpr int kHalves = Shape::kKeys / 64;
      const int lane = threadIdx.x % 32, half = kHalves == 2 ? lane / 16 : 0;
      const int done = (kHalves == 2 ? lane % 16 : lane) << table.box_shift, first = half == 0 ? tile.first[0] : tile.first[1];
      if (done >= 64 || first + done >= item.key_rows) return;
      const KvPlace place = kv_place(table, item.request, first + done);
#pragma unroll
      for (int panel = 0; panel < Shape::kPanels; ++panel)
        copy_tile(target + panel * Shape::kKeys * 128 + (64 * half + done) * 128, map, barrier, 0, place.row, panel, kv_head,
                  place.page);
    }
  }
  // Zeroes the rows of a tile of V that the request does not have.
  static __device__ __forceinline__ void clear_tail(uint8_t *target, const PrefillTile &tile, int end) {
    constexpr int kRows = Sparse ? 64 : Shape::kKeys;
    for (int half = 0; half < Shape::kKeys / kRows; ++half) {
      const int used = min(kRows, end - tile.first[half]);
      const int chunks = (kRows - used) * 8;  // of 16 bytes, in a panel
      for (int i = threadIdx.x % 32; i < chunks * Shape::kPanels; i += 32)
        *reinterpret_cast<uint4 *>(target + i / chunks * Shape::kKeys * 128 + (half * kRows + used) * 128 + i % chunks * 16) =
            make_uint4(0, 0, 0, 0);
    }
  }
};

// Writes the result of an item without keys: zeros, of a part with a sum of nothing. Call from a whole warp.
template <class T, int D, bool Sparse>
__device__ __forceinline__ void prefill_nothing(const PrefillArguments &a, const PrefillItem &item, int head) {
  const int lane = threadIdx.x % 32;
  const bool part = !Sparse && item.part >= 0;
  const int64_t place = part ? (static_cast<int64_t>(item.part) * a.heads + head) * kPrefillRows : 0;
  const int chunks = D * (part ? 4 : 2) / 16;  // of 16 bytes, in a row
  uint8_t *const target = part ? reinterpret_cast<uint8_t *>(a.schedule.partial + place * D)
                               : reinterpret_cast<uint8_t *>(static_cast<T *>(a.output) + head * a.output_head_stride +
                                                             item.first_row * a.output_row_stride);
  const int64_t row_bytes = part ? D * 4 : a.output_row_stride * 2;
  for (int i = lane; i < item.rows * chunks; i += 32)
    *reinterpret_cast<uint4 *>(target + i / chunks * row_bytes + i % chunks * 16) = make_uint4(0, 0, 0, 0);
  if (part)
    for (int row = lane; row < item.rows; row += 32) a.schedule.logs[place + row] = negative_infinity();
}

// The copy warp: takes items, brings Q, K and V.
template <class T, int D, bool Sparse>
__device__ __forceinline__ void prefill_copy(PrefillShared<D> &shared, const PrefillArguments &a, const CUtensorMap *query_map,
                                             const CUtensorMap *key_map, const CUtensorMap *value_map) {
  using Shape = PrefillShape<D>;
  using Copy = PrefillCopy<D, Sparse>;
  constexpr int kHalves = Shape::kKeys / 64;
  const int lane = threadIdx.x % 32;
  const int last = a.schedule.counts[0] - a.schedule.counts[3], items = a.schedule.counts[3];
  Ring<kPrefillTasks> task;
  Ring<Shape::kStages> stage;
  Ring<Shape::kQueryStages> query_stage;
  uint32_t tail_parity = 0;
  int taken = 0;  // by the first lane: the number of the next item, which the others learn where it is needed
  const auto take = [&] {
    if (lane == 0) taken = atomicAdd(&a.schedule.counts[1], 1);
  };
  take();
  while (true) {
    const int index = __shfl_sync(~0u, taken, 0);
    barrier_wait(&shared.task_empty[task.slot], task.parity ^ 1);
    // KV-head-major, so that the blocks at work share keys and values in the second-level cache.
    const bool is_last = index >= items * a.heads;
    const int of_order = is_last ? index - items * a.heads : index % (items * a.group);
    const bool done = is_last && of_order >= last * a.heads;
    const int head = is_last ? of_order % a.heads : index / (items * a.group) * a.group + of_order % a.group;
    const int kv_head = head / a.group;
    const int item_index = is_last ? items + of_order / a.heads : of_order / a.group;
    // The item stays in shared memory for this warp too, whose registers are few.
    auto &current = shared.tasks[task.slot];
    const PrefillItem &item = current.item;
    if (lane == 0) {
      if (!done) current.item = a.schedule.items[item_index];
      current.head = done ? -1 : head;
    }
    __syncwarp();
    int tiles = done ? 0 : item.tile_end - item.tile_begin;
    SparseBlocks blocks = Sparse && !done ? SparseBlocks(a, item, kv_head) : SparseBlocks();
    if constexpr (Sparse) tiles = (blocks.count() + kHalves - 1) / kHalves;
    if (!done && tiles <= 0) {
      prefill_nothing<T, D, Sparse>(a, item, head);
      take();
      __syncwarp();
      continue;
    }
    if (lane == 0) {
      current.tiles = tiles;
      barrier_arrive(&shared.task_full[task.slot]);
    }
    task.advance();
    if (done) return;

    const auto copy_queries = [&] {
      for (int half = 0; half < 2; ++half) {
        const int first = kPrefillHalfRows * half;
        uint64_t *arrival = &shared.queries_full[query_stage.slot][half];
        barrier_wait(&shared.queries_empty[query_stage.slot][half], query_stage.parity ^ 1);
        if (lane == 0) {
          barrier_expect(arrival, Shape::kQueryBytes / 2);
          for (int panel = 0; panel < Shape::kPanels; ++panel)
            copy_tile(shared.queries[query_stage.slot] + (panel * kPrefillRows + first) * 128, query_map, arrival, 0,
                      item.first_row + first, panel, head, 0);
        }
      }
      query_stage.advance();
    };
    // A single buffer is what the next item waits for; of two, one is free by then, and the keys are wanted first.
    if constexpr (Shape::kQueryStages == 1) copy_queries();
    for (int i = 0; i < tiles; ++i) {
      if (i == tiles - 1) take();  // the answer comes while this waits for room
      PrefillTile tile;
      int first = 0, second = -1;
      if constexpr (Sparse) {
        first = blocks.next();
        if constexpr (kHalves == 2) second = blocks.next();
      }
      barrier_wait(&shared.keys_empty[stage.slot], stage.parity ^ 1);
      if constexpr (Sparse) {
        // A last block alone is copied twice, so that the other half holds numbers; its name hides it from every row.
        tile.first[0] = 64 * first;
        tile.first[1] = 64 * (second < 0 ? first : second);
        if (lane == 0) {
          shared.blocks[stage.slot][0] = first;
          shared.blocks[stage.slot][1] = second < 0 ? kNoBlock : second;
        }
        tile.whole = tile.first[1] + 64 <= item.key_rows;
      } else {
        tile.first[0] = (item.tile_begin + i) * Shape::kKeys;
        tile.whole = tile.first[0] + Shape::kKeys <= item.key_rows;
      }
      if (lane == 0) barrier_expect(&shared.keys_full[stage.slot], Copy::bytes(a.keys, tile, item.key_rows));
      __syncwarp();
      Copy::copy(shared.keys[stage.slot], key_map, a.keys, &shared.keys_full[stage.slot], item, kv_head, tile);
      if (Shape::kQueryStages > 1 && i == 0) copy_queries();
      barrier_wait(&shared.values_empty[stage.slot], stage.parity ^ 1);
      uint64_t *arrival = tile.whole ? &shared.values_full[stage.slot] : &shared.tail;
      if (lane == 0) barrier_expect(arrival, Copy::bytes(a.values, tile, item.key_rows));
      __syncwarp();
      Copy::copy(shared.values[stage.slot], value_map, a.values, arrival, item, kv_head, tile);
      if (!tile.whole) {
        barrier_wait(&shared.tail, tail_parity);
        tail_parity ^= 1;
        Copy::clear_tail(shared.values[stage.slot], tile, item.key_rows);
        proxy_fence();
        __syncwarp();
        if (lane == 0) barrier_arrive(&shared.values_full[stage.slot]);
      }
      stage.advance();
    }
  }
}

}  // namespace up::cuda
