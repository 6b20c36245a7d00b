// Work items of prefill attention, longest first: one block counts the items of every request, sorts them by their number of
// key tiles (counting sort) and writes them out. Equal items end in any order; no result depends on it.
#include "cuda/attention/prefill_attention.h"

namespace up::cuda {

namespace {

constexpr int kThreads = 1024;
constexpr int kBuckets = 1024;

struct Parameters {
  const int32_t *row_starts, *lo, *hi;
  int requests, max_query_rows, max_key_rows, tile_keys;
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

__global__ void __launch_bounds__(kThreads) prefill_schedule(const Parameters p) {
  __shared__ int scratch[32];
  __shared__ int buckets[kBuckets];
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
  const int items = min(before, (p.max_query_rows + kPrefillRows - 1) / kPrefillRows + p.requests);
  if (thread == 0) {
    p.schedule.starts[p.requests] = before;
    p.schedule.counts[0] = items;
    p.schedule.counts[1] = 0;
  }
  buckets[thread] = 0;
  __syncthreads();

  const int most = (p.max_key_rows + p.tile_keys - 1) / p.tile_keys;
  for (int pass = 0; pass < 2; ++pass) {
    for (int i = thread; i < items; i += kThreads) {
      const PrefillItem item = make_item(p, i);
      const int tiles = min(item.tile_end - item.tile_begin, most);
      const int bucket = static_cast<int>(static_cast<int64_t>(most - tiles) * (kBuckets - 1) / most);
      const int place = atomicAdd(&buckets[bucket], 1);
      if (pass == 1) p.schedule.items[place] = item;
    }
    __syncthreads();
    if (pass == 0) {
      const int count = buckets[thread];
      const int through = block_scan(count, scratch);
      buckets[thread] = through - count;
    }
    __syncthreads();
  }
}

}  // namespace

int64_t prefill_item_capacity(const up_prefill_attention &p) {
  return ceil_div(p.max_query_rows, kPrefillRows) + p.requests;
}

up_status launch_prefill_schedule(const up_prefill_attention &p, const PrefillSchedule &schedule, int tile_keys,
                                  cudaStream_t stream, up_backend_error *error) {
  const Parameters parameters{p.row_starts,   p.lo,      p.hi,    p.requests, p.max_query_rows,
                              p.max_key_rows, tile_keys, schedule};
  prefill_schedule<<<1, kThreads, 0, stream>>>(parameters);
  return check_launch("launch prefill schedule", error);
}

}  // namespace up::cuda
