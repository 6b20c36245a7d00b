// From masses to the blocks kept, and from those to rows.
//
// The rule, "keep a block while the mass before it is at most p of the total", needs no sort: a block's mass before it is
// the sum of the masses of the blocks that come earlier in (mass, index) descending order, and every block can add up its
// own. That is n² additions of integers, for 2,048 blocks 4 million over the whole device, against a sort on one
// multiprocessor.
#include "cuda/common/hopper.cuh"
#include "cuda/selection/selection.h"

namespace up::cuda {

namespace {

constexpr int kCutBlocks = 64;  // decided by a thread block
constexpr int kCutShares = 16;  // threads that add up one block's sum
constexpr int kCutThreads = kCutBlocks * kCutShares;
constexpr int kCompactBlocks = 32;
constexpr int kCompactThreads = 256;

struct Rule {
  SelectionShape shape;
  const int32_t *lengths;
  const uint64_t *p_q32;
  uint64_t *masses;
  const int32_t *broken;
  uint32_t *bitmaps;
  int32_t *kept, *kept_lengths, *fallbacks;
  int words;
};

// Rows [begin, end) of a block that are kept whatever its mass: the first `sink` and the last `last_q`.
struct Forced {
  int head_end;    // rows below it are forced
  int tail_begin;  // rows from it on are forced

  __device__ Forced(const SelectionShape &shape, int rows)
      : head_end(min(shape.sink, rows)), tail_begin(max(rows - shape.last_q, 0)) {}
  __device__ bool row(int r) const { return r < head_end || r >= tail_begin; }
  __device__ int count(int begin, int end) const {
    const int head = max(min(head_end, end) - begin, 0);
    const int tail = max(end - max(tail_begin, begin), 0);
    return min(head + tail, end - begin);
  }
};

__device__ bool scores_broken(const Rule &r, int request) {
  bool broken = false;
  const int count = r.shape.heads * 4;
  for (int i = threadIdx.x; i < count; i += blockDim.x) broken |= r.broken[static_cast<int64_t>(request) * count + i] != 0;
  return __syncthreads_or(broken);
}

__global__ void __launch_bounds__(kCutThreads) selection_cut(const Rule r) {
  __shared__ uint64_t tile[kCutThreads];
  __shared__ uint64_t parts[kCutThreads];
  const int request = blockIdx.y, first = blockIdx.x * kCutBlocks, thread = threadIdx.x;
  const SelectionRows rows = selection_rows(r.shape, r.lengths, request);
  uint32_t *bitmap = r.bitmaps + static_cast<int64_t>(request) * r.words;
  const int word = first / 32;
  if (first >= rows.blocks) {
    if (thread < 2 && word + thread < r.words) bitmap[word + thread] = 0;
    return;
  }
  const bool broken = scores_broken(r, request);
  if (blockIdx.x == 0 && thread == 0 && r.fallbacks != nullptr) r.fallbacks[request] = broken;
  const Forced forced(r.shape, rows.rows);
  const bool all = broken || rows.rows <= r.shape.sink + r.shape.last_q;
  uint64_t *masses = r.masses + static_cast<int64_t>(request) * r.shape.blocks;

  // Blocks that take no part count as zero mass, which changes no sum.
  const auto takes_part = [&](int block) {
    const int begin = block * kSelectionBlock, end = min(begin + kSelectionBlock, rows.rows);
    return !r.shape.exclusive || forced.count(begin, end) < end - begin;
  };
  const auto mass_of = [&](int block) -> uint64_t { return block < rows.blocks && takes_part(block) ? masses[block] : 0; };
  const int mine = first + thread % kCutBlocks, share = thread / kCutBlocks;
  const uint64_t own = mass_of(mine);
  uint64_t before = 0, total = 0;
  for (int start = 0; start < rows.blocks; start += kCutThreads) {
    const uint64_t mass = mass_of(start + thread);
    total += mass;
    __syncthreads();
    tile[thread] = mass;
    __syncthreads();
    const int base = share * kCutBlocks;
    const int used = min(kCutBlocks, rows.blocks - start - base);
#pragma unroll 8
    for (int i = 0; i < used; ++i) {
      const uint64_t other = tile[base + i];
      // Ties go to the later block.
      before += other > own || (other == own && start + base + i > mine) ? other : 0;
    }
  }
  __syncthreads();
  parts[thread] = total;
  __syncthreads();
  for (int half = kCutThreads / 2; half > 0; half /= 2) {
    if (thread < half) parts[thread] += parts[thread + half];
    __syncthreads();
  }
  total = parts[0];
  __syncthreads();
  parts[thread] = before;
  __syncthreads();
  if (thread >= kCutBlocks) return;
  before = 0;
  for (int i = 0; i < kCutShares; ++i) before += parts[thread + i * kCutBlocks];

  const uint64_t p = min(r.p_q32[request], uint64_t{1} << 32);
  const uint64_t threshold = (__umul64hi(total, p) << 32) | ((total * p) >> 32);
  const bool keep = mine < rows.blocks && (all || total == 0 || !takes_part(mine) || before <= threshold);
  // Every block of a broken request is kept, so nobody needs them any more.
  if (broken && mine < rows.blocks) masses[mine] = 0;
  const uint32_t bits = __ballot_sync(~0u, keep);
  if (thread % 32 == 0 && word + thread / 32 < r.words) bitmap[word + thread / 32] = bits;
}

__global__ void __launch_bounds__(kCompactThreads) selection_compact(const Rule r) {
  __shared__ int parts[kCompactThreads];
  __shared__ int offsets[kCompactBlocks];
  const int request = blockIdx.y, word = blockIdx.x, thread = threadIdx.x, lane = thread % 32;
  const SelectionRows rows = selection_rows(r.shape, r.lengths, request);
  if (word * kCompactBlocks >= rows.blocks) {
    if (word == 0 && thread == 0) {
      r.kept_lengths[request] = 0;
      if (r.fallbacks != nullptr) r.fallbacks[request] = 0;
    }
    return;
  }
  const uint32_t *bitmap = r.bitmaps + static_cast<int64_t>(request) * r.words;
  const Forced forced(r.shape, rows.rows);
  const auto kept_of = [&](int block) {
    if (block >= rows.blocks) return 0;
    const int begin = block * kSelectionBlock, end = min(begin + kSelectionBlock, rows.rows);
    return bitmap[block / 32] >> (block % 32) & 1 ? end - begin : forced.count(begin, end);
  };
  int before = 0;
  for (int block = thread; block < word * kCompactBlocks; block += kCompactThreads) before += kept_of(block);
  parts[thread] = before;
  __syncthreads();
  for (int half = kCompactThreads / 2; half > 0; half /= 2) {
    if (thread < half) parts[thread] += parts[thread + half];
    __syncthreads();
  }
  if (thread < 32) {
    const int own = kept_of(word * kCompactBlocks + lane);
    int through = own;
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(~0u, through, step);
      if (lane >= step) through += other;
    }
    offsets[lane] = parts[0] + through - own;
    const int last = (rows.blocks - 1) / kCompactBlocks;
    if (word == last && lane == 31) r.kept_lengths[request] = parts[0] + through;
  }
  __syncthreads();
  int32_t *kept = r.kept + static_cast<int64_t>(request) * r.shape.max_rows;
  for (int i = thread / 32; i < kCompactBlocks; i += kCompactThreads / 32) {
    const int block = word * kCompactBlocks + i;
    if (block >= rows.blocks) break;
    const bool whole = bitmap[word] >> i & 1;
    int at = offsets[i];
    for (int half = 0; half < 2; ++half) {
      const int row = block * kSelectionBlock + 32 * half + lane;
      const bool keep = row < rows.rows && (whole || forced.row(row));
      const uint32_t ballot = __ballot_sync(~0u, keep);
      if (keep) kept[at + __popc(ballot & ((1u << lane) - 1))] = row;
      at += __popc(ballot);
    }
  }
}

}  // namespace

up_status launch_selection_cut(const up_selection &p, const SelectionScratch &scratch, cudaStream_t stream,
                               up_backend_error *error) {
  const SelectionShape shape = selection_shape(p);
  const int words = static_cast<int>(ceil_div(shape.blocks, 32));
  const Rule rule{shape,     p.lengths, p.p_q32,        scratch.masses, scratch.broken,
                  p.bitmaps, p.kept,    p.kept_lengths, p.fallbacks,    words};
  const dim3 cut_grid(static_cast<unsigned>(ceil_div(shape.blocks, kCutBlocks)), p.requests);
  selection_cut<<<cut_grid, kCutThreads, 0, stream>>>(rule);
  if (up_status s = check_launch("launch selection cut", error); s != UP_OK) return s;
  selection_compact<<<dim3(words, p.requests), kCompactThreads, 0, stream>>>(rule);
  return check_launch("launch selection compact", error);
}

}  // namespace up::cuda
