// Work items of prefill attention, longest first: one block counts the blocks of rows of every request, decides how long an item
// may be, sorts the items by their number of key tiles (counting sort) and writes them out. Equal items end in any order, and
// parts lie where they come first; no result depends on it.
//
// Where even the shortest items are long, multiprocessors would end up to one of them apart. The last few are then divided, and
// come behind those of all heads.
#include "cuda/attention/prefill_attention.h"

namespace up::cuda {

namespace {

constexpr int kThreads = 1024;
constexpr int kBuckets = 1024;
constexpr int kPartsPerMultiprocessor = 4;
constexpr int kLeastTiles = 4;  // of a part
constexpr int kItemTiles = 2;   // what beginning and ending an item costs, in tiles
constexpr int kLastParts = 4;   // that each of the last items is divided in
constexpr int kLongTiles = 128;  // items of fewer tiles are not worth dividing to end together

struct Parameters {
  const int32_t *row_starts, *lo, *hi;
  int requests, max_query_rows, max_key_rows, tile_keys;
  int heads, multiprocessors, part_capacity;  // no parts: 0
  PrefillSchedule schedule;
};

// Inclusive sum over the block; `scratch` holds 32 ints.
__device__ int block_scan(int value, int *scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(~0u, value, step);
    if (lane >= step) value += other;
  }
  __syncthreads();
  if (lane == 31) scratch[warp] = value;
  __syncthreads();
  if (warp == 0) {
    int total = scratch[lane];
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(~0u, total, step);
      if (lane >= step) total += other;
    }
    scratch[lane] = total;
  }
  __syncthreads();
  return warp == 0 ? value : value + scratch[warp - 1];
}

__device__ int row_start(const Parameters &p, int request) {
  return min(max(p.row_starts[request], 0), p.max_query_rows);
}

__device__ int low(const Parameters &p, int row) { return p.lo == nullptr ? 0 : min(max(p.lo[row], 0), p.max_key_rows); }
__device__ int high(const Parameters &p, int row) { return max(min(p.hi[row], p.max_key_rows - 1), -1); }

__device__ PrefillItem make_item(const Parameters &p, int index) {
  int request = 0;
  for (int step = 1 << 30; step > 0; step /= 2)
    if (request + step < p.requests && p.schedule.starts[request + step] <= index) request += step;
  PrefillItem item;
  item.request = request;
  const int begin = row_start(p, request);
  const int end = max(begin, row_start(p, request + 1));
  item.first_row = begin + (index - p.schedule.starts[request]) * kPrefillRows;
  item.rows = min(kPrefillRows, end - item.first_row);
  item.block = index - p.schedule.starts[request];
  const int last_row = item.first_row + item.rows - 1;
  item.key_rows = high(p, end - 1) + 1;
  const int first_key = low(p, item.first_row), last_key = min(high(p, last_row), item.key_rows - 1);
  item.tile_begin = first_key / p.tile_keys;
  item.tile_end = last_key < first_key ? item.tile_begin : last_key / p.tile_keys + 1;
  for (int half = 0; half < 2; ++half) {
    const int top = item.first_row + 64 * half;
    const int bottom = min(top + 63, last_row);
    // Rows beyond the request's end are never stored, so they need no mask.
    item.full_begin[half] = top > last_row ? 0 : (low(p, bottom) + p.tile_keys - 1) / p.tile_keys;
    item.full_end[half] = top > last_row ? 0 : max(high(p, top) + 1, 0) / p.tile_keys;
  }
  return item;
}

__device__ int parts_of(int tiles, int longest) { return max((tiles + longest - 1) / longest, 1); }

// How many tiles an item has at most, for the shortest time by a rough count: the larger of a multiprocessor's share of the
// tiles and the turns that the longer items take. The n-th warp tries an n-th of the longest. `tiles` has those of each block
// of rows, `best` room for 32.
__device__ int longest_item(const Parameters &p, const int *tiles, int blocks, int64_t *best) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int most = 1;
  for (int i = lane; i < blocks; i += 32) most = max(most, tiles[i]);
  for (int step = 16; step > 0; step /= 2) most = max(most, __shfl_xor_sync(~0u, most, step));
  const int longest = max((most + warp) / (warp + 1), min(most, kLeastTiles));
  int64_t sum = 0;
  int parts = 0, long_items = 0;
  for (int i = lane; i < blocks; i += 32) {
    const int n = parts_of(tiles[i], longest);
    if (n > 1) parts += n;
    if (2 * ((tiles[i] + n - 1) / n) > longest) long_items += n;
    sum += tiles[i] + kItemTiles * n;
  }
  for (int step = 16; step > 0; step /= 2) {
    sum += __shfl_xor_sync(~0u, sum, step);
    parts += __shfl_xor_sync(~0u, parts, step);
    long_items += __shfl_xor_sync(~0u, long_items, step);
  }
  const auto share = (sum * p.heads + p.multiprocessors - 1) / p.multiprocessors;
  const auto turns = (static_cast<int64_t>(long_items) * p.heads + p.multiprocessors - 1) / p.multiprocessors;
  const int64_t time = max(share, turns * (longest + kItemTiles));
  if (lane == 0) best[warp] = parts > p.part_capacity ? INT64_MAX : time << 32 | longest;
  __syncthreads();
  int64_t found = best[lane];
  for (int step = 16; step > 0; step /= 2) found = min(found, static_cast<int64_t>(__shfl_xor_sync(~0u, found, step)));
  return static_cast<int>(found);
}

// How many items to divide so that multiprocessors end together: the shortest ones, where all are long.
__device__ int last_items(const Parameters &p, const int *tiles, int blocks, int *least) {
  if (threadIdx.x == 0) *least = INT32_MAX;
  __syncthreads();
  for (int i = threadIdx.x; i < blocks; i += kThreads) atomicMin(least, tiles[i]);
  __syncthreads();
  const int items = p.part_capacity / kLastParts;
  return *least >= kLongTiles && items < blocks ? items : 0;
}

__global__ void __launch_bounds__(kThreads) prefill_schedule(const Parameters p) {
  __shared__ int scratch[32];
  __shared__ int buckets[kBuckets];
  __shared__ int64_t best[32];
  __shared__ int next_part, next_join, least;
  const int thread = threadIdx.x;

  int before = 0;
  for (int first = 0; first < p.requests; first += kThreads) {
    const int request = first + thread;
    int items = 0;
    if (request < p.requests) {
      const int rows = max(row_start(p, request + 1) - row_start(p, request), 0);
      items = (rows + kPrefillRows - 1) / kPrefillRows;
    }
    const int through = before + block_scan(items, scratch);
    if (request < p.requests) p.schedule.starts[request] = through - items;
    __syncthreads();
    if (thread == kThreads - 1) scratch[0] = through;
    __syncthreads();
    before = scratch[0];
    __syncthreads();
  }
  // Starts that go backwards could make the sum exceed what there is room for.
  const int blocks = min(before, (p.max_query_rows + kPrefillRows - 1) / kPrefillRows + p.requests);
  if (thread == 0) p.schedule.starts[p.requests] = before;

  // Where there are more blocks of rows than this, they keep the device busy as they are.
  const int most = (p.max_key_rows + p.tile_keys - 1) / p.tile_keys;
  int longest = max(most, 1), last = 0;
  if (p.part_capacity > 0 && blocks <= kBuckets) {
    for (int i = thread; i < blocks; i += kThreads) {
      const PrefillItem item = make_item(p, i);
      buckets[i] = item.tile_end - item.tile_begin;
    }
    __syncthreads();
    longest = longest_item(p, buckets, blocks, best);
    __syncthreads();
    int longest_block = 0;
    for (int i = thread; i < blocks; i += kThreads) longest_block = max(longest_block, buckets[i]);
    if (__syncthreads_or(longest_block > longest) == 0) last = last_items(p, buckets, blocks, &least);
    __syncthreads();
  }
  buckets[thread] = 0;
  if (thread == 0) next_part = next_join = 0;
  __syncthreads();

  int items = 0;
  const int divided_from = last == 0 ? INT32_MAX : blocks - last;
  for (int pass = 0; pass < 2; ++pass) {
    for (int i = thread; i < blocks; i += kThreads) {
      PrefillItem item = make_item(p, i);
      const int begin = item.tile_begin, tiles = item.tile_end - begin;
      const int parts = parts_of(tiles, longest), each = (tiles + parts - 1) / parts;
      int first_part = -1;
      if (pass == 1 && parts > 1) {
        first_part = atomicAdd(&next_part, parts);
        p.schedule.joins[atomicAdd(&next_join, 1)] = {item.first_row, item.rows, first_part, parts};
      }
      for (int part = 0; part < parts; ++part) {
        item.tile_begin = min(begin + part * each, begin + tiles);
        item.tile_end = min(item.tile_begin + each, begin + tiles);
        item.part = parts > 1 ? first_part + part : -1;
        const int bucket = static_cast<int>(static_cast<int64_t>(max(most - (item.tile_end - item.tile_begin), 0)) * (kBuckets - 1) / max(most, 1));
        const int place = atomicAdd(&buckets[bucket], 1);
        if (pass == 0) continue;
        if (place < divided_from) {
          p.schedule.items[place] = item;
          continue;
        }
        const int nth = place - divided_from, share = (tiles + kLastParts - 1) / kLastParts;
        p.schedule.joins[nth] = {item.first_row, item.rows, nth * kLastParts, kLastParts};
        for (int piece = 0; piece < kLastParts; ++piece) {
          item.tile_begin = min(begin + piece * share, begin + tiles);
          item.tile_end = min(item.tile_begin + share, begin + tiles);
          item.part = nth * kLastParts + piece;
          p.schedule.items[divided_from + item.part] = item;
        }
      }
    }
    __syncthreads();
    if (pass == 0) {
      const int count = buckets[thread];
      const int through = block_scan(count, scratch);
      buckets[thread] = through - count;
      items = through;
    }
    __syncthreads();
  }
  if (thread == kThreads - 1) {
    p.schedule.counts[0] = items + last * (kLastParts - 1);
    p.schedule.counts[1] = 0;
    p.schedule.counts[2] = next_join + last;
    p.schedule.counts[3] = last == 0 ? items : divided_from;
  }
}

}  // namespace

int64_t prefill_part_capacity(const up_prefill_attention &p) {
  return ceil_div(int64_t{kPartsPerMultiprocessor} * multiprocessors(), p.heads);
}

int64_t prefill_item_capacity(const up_prefill_attention &p) {
  return ceil_div(p.max_query_rows, kPrefillRows) + p.requests + prefill_part_capacity(p);
}

up_status launch_prefill_schedule(const up_prefill_attention &p, const PrefillSchedule &schedule, int tile_keys, bool divide,
                                  cudaStream_t stream, up_backend_error *error) {
  const Parameters parameters{p.row_starts,
                              p.lo,
                              p.hi,
                              p.requests,
                              p.max_query_rows,
                              p.max_key_rows,
                              tile_keys,
                              p.heads,
                              multiprocessors(),
                              divide ? static_cast<int>(prefill_part_capacity(p)) : 0,
                              schedule};
  prefill_schedule<<<1, kThreads, 0, stream>>>(parameters);
  return check_launch("launch prefill schedule", error);
}

}  // namespace up::cuda
