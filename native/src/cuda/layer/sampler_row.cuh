// What the eight blocks of threads of a row of logits do together: sums, the best token, cuts in depth, the draw.
//
// Each block has a slice of the vocabulary. What it tells the others it writes to its own shared memory; after a barrier of the
// cluster everybody reads all eight. Every exchange has a place of its own, or a barrier behind its reads.
#pragma once

#include <cooperative_groups.h>

#include "cuda/common/hopper.cuh"

namespace up::cuda {

constexpr int kSamplerBlocks = 8;  // of a row: a cluster
constexpr int kSamplerThreads = 512;
constexpr int kSamplerWarps = kSamplerThreads / 32;
constexpr int kBins = 2048;
constexpr int kOwnBins = kBins / kSamplerBlocks;  // that a block adds up over all eight
constexpr int kMostLogprobs = 32;
constexpr uint32_t kNoDepth = 0xffffffffu;
constexpr float kDepthUnit = 67108864.0f;  // 2^26

using Count = unsigned long long;

struct Best {
  float score;
  int token;
};

// A sum of exponentials, value · e^top.
struct LogSum {
  float top, value;
};

struct Cut {
  int bin;       // -1: none of a block's bins
  Count before;  // what lies before it
};

struct SamplerShared {
  Count bins[kBins];
  Count warp_counts[kSamplerWarps];
  Best warp_best[kSamplerWarps];
  LogSum warp_sums[kSamplerWarps];
  Best tops[kMostLogprobs];  // the block's most likely tokens
  // Exchanges.
  Best best;
  LogSum sum;
  int broken;
  Count range;   // of the block's own bins
  Cut cut;
  Count weight;  // of the slice
  int token;
};

__device__ __forceinline__ bool better(Best a, Best b) {
  return a.score > b.score || (a.score == b.score && a.token < b.token);
}

__device__ __forceinline__ LogSum add(LogSum a, LogSum b) {
  const float top = fmaxf(a.top, b.top), reference = top == negative_infinity() ? 0.0f : top;
  return {top, a.value * __expf(a.top - reference) + b.value * __expf(b.top - reference)};
}

// A row's slice of one block, and its way to the other blocks.
struct Row {
  SamplerShared &shared;
  float *scores;   // of the slice
  int begin, end;  // tokens of the slice
  int rank;

  __device__ __forceinline__ SamplerShared &other(int block) const {
    return *cooperative_groups::this_cluster().map_shared_rank(&shared, block);
  }
  __device__ __forceinline__ void sync() const { cooperative_groups::this_cluster().sync(); }
  __device__ __forceinline__ int size() const { return end - begin; }

  // The best token of the slice that comes after `previous` in (score descending, token ascending) and is not masked; its number
  // is `none` where there is none. The same for all threads.
  __device__ Best next_best(Best previous, int none) const {
    Best best{negative_infinity(), none};
    for (int i = threadIdx.x; i < size(); i += kSamplerThreads) {
      const Best candidate{scores[i], begin + i};
      if (candidate.score > negative_infinity() && better(previous, candidate) && better(candidate, best)) best = candidate;
    }
    const auto reduce = [&] {
#pragma unroll
      for (int step = 16; step > 0; step /= 2) {
        const Best next{__shfl_xor_sync(~0u, best.score, step), __shfl_xor_sync(~0u, best.token, step)};
        if (better(next, best)) best = next;
      }
    };
    reduce();
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared.warp_best[threadIdx.x / 32] = best;
    __syncthreads();
    best = shared.warp_best[threadIdx.x % kSamplerWarps];
    reduce();
    return best;
  }

  // Threads in order, so that the sum depends on the vocabulary alone.
  __device__ LogSum block_sum(LogSum value) const {
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const LogSum next{__shfl_xor_sync(~0u, value.top, step), __shfl_xor_sync(~0u, value.value, step)};
      value = threadIdx.x & step ? add(next, value) : add(value, next);
    }
    if (threadIdx.x % 32 == 0) shared.warp_sums[threadIdx.x / 32] = value;
    __syncthreads();
    value = shared.warp_sums[0];
    for (int i = 1; i < kSamplerWarps; ++i) value = add(value, shared.warp_sums[i]);
    return value;
  }
};

struct Weigher {
  float most, factor;  // factor: log2(e) / temperature · 2^26
  uint32_t deepest;    // tokens beyond it are out

  __device__ __forceinline__ uint32_t depth(float score) const {
    const float d = (most - score) * factor;
    const uint32_t depth = d < 41.0f * kDepthUnit ? __float2uint_rn(d) : kNoDepth;
    return depth <= deepest ? depth : kNoDepth;
  }
  static __device__ __forceinline__ Count weight(uint32_t depth) {
    if (depth == kNoDepth) return 0;
    return __float2ull_rn(exp2f(40.0f - static_cast<float>(depth) / kDepthUnit));
  }
};

// The largest depth d of a token such that what lies before it, counts or weights, is below the limit: kept tokens are those up to
// d. The limit is `limit` tokens, or the share `share` of all weight.
template <bool Weighted>
__device__ uint32_t cut(const Row &row, const Weigher &w, Count limit, float share) {
  SamplerShared &shared = row.shared;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint32_t prefix = 0;
  Count before = 0;
  for (int low = 21; low >= 0; low = low == 21 ? 10 : low - 10) {  // bits 31…21, 20…10, 9…0
    const int width = low == 0 ? 10 : 11;
    for (int i = threadIdx.x; i < kBins; i += kSamplerThreads) shared.bins[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < row.size(); i += kSamplerThreads) {
      const uint32_t depth = w.depth(row.scores[i]);
      const bool inside = depth != kNoDepth && (low == 21 || depth >> (low + width) == prefix);
      if (inside) atomicAdd(&shared.bins[depth >> low & ((1u << width) - 1)], Weighted ? Weigher::weight(depth) : 1);
    }
    row.sync();
    // A thread has one of the block's own bins; `through` is the sum up to it.
    Count own = 0;
    if (threadIdx.x < kOwnBins)
      for (int i = 0; i < kSamplerBlocks; ++i) own += row.other(i).bins[row.rank * kOwnBins + threadIdx.x];
    Count through = own;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const Count next = __shfl_up_sync(~0u, through, step);
      if (lane >= step) through += next;
    }
    if (lane == 31) shared.warp_counts[warp] = through;
    __syncthreads();
    Count range = 0;
    for (int i = 0; i < kOwnBins / 32; ++i) {
      if (i == warp) through += range;
      range += shared.warp_counts[i];
    }
    if (threadIdx.x == 0) shared.range = range;
    row.sync();
    Count base = before, total = 0;
    for (int i = 0; i < kSamplerBlocks; ++i) {
      const Count each = row.other(i).range;
      if (i < row.rank) base += each;
      total += each;
    }
    if (Weighted && low == 21)
      limit = max(static_cast<Count>(ceil(static_cast<double>(share) * static_cast<double>(total))), Count{1});
    // The last bin with anything in it and less than the limit before it.
    const bool candidate = threadIdx.x < kOwnBins && own > 0 && base + through - own < limit;
    const uint32_t ballot = __ballot_sync(~0u, candidate);
    if (threadIdx.x == 0) shared.cut = {-1, 0};
    __syncthreads();
    for (int i = 0; i < kOwnBins / 32; ++i) {  // later warps overrule earlier ones
      if (i == warp && ballot != 0 && lane == 31 - __clz(ballot))
        shared.cut = {row.rank * kOwnBins + static_cast<int>(threadIdx.x), base + through - own};
      __syncthreads();
    }
    row.sync();
    Cut last{0, before};
    for (int i = 0; i < kSamplerBlocks; ++i) {
      const Cut each = row.other(i).cut;
      if (each.bin >= 0) last = each;
    }
    prefix = prefix << width | static_cast<uint32_t>(last.bin);
    before = last.before;
    row.sync();
  }
  return prefix;
}

// The token at which the cumulated weight first exceeds the draw's share of all weight. Warps have neighbouring tokens.
__device__ inline int pick(const Row &row, const Weigher &w, uint64_t draw) {
  SamplerShared &shared = row.shared;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int part = (row.size() + kSamplerThreads - 1) / kSamplerThreads * 32;
  const int begin = min(warp * part, row.size()), end = min(begin + part, row.size());
  Count sum = 0;
  for (int i = begin + lane; i < end; i += 32) sum += Weigher::weight(w.depth(row.scores[i]));
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  __syncthreads();
  if (lane == 0) shared.warp_counts[warp] = sum;
  __syncthreads();
  Count before = 0, slice = 0;
  for (int i = 0; i < kSamplerWarps; ++i) {
    if (i == warp) before = slice;
    slice += shared.warp_counts[i];
  }
  if (threadIdx.x == 0) {
    shared.weight = slice;
    shared.token = -1;
  }
  row.sync();
  Count total = 0;
  for (int i = 0; i < kSamplerBlocks; ++i) {
    const Count each = row.other(i).weight;
    if (i < row.rank) before += each;
    total += each;
  }
  const Count target = __umul64hi(draw, total);
  if (target >= before && target < before + sum) {
    for (int first = begin; first < end; first += 32) {
      const Count own = first + lane < end ? Weigher::weight(w.depth(row.scores[first + lane])) : 0;
      Count through = own;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const Count next = __shfl_up_sync(~0u, through, step);
        if (lane >= step) through += next;
      }
      const uint32_t over = __ballot_sync(~0u, before + through > target);
      if (over != 0) {
        if (lane == 0) shared.token = row.begin + first + __ffs(over) - 1;
        break;
      }
      before += __shfl_sync(~0u, through, 31);
    }
  }
  row.sync();
  int token = -1;
  for (int i = 0; i < kSamplerBlocks; ++i) token = max(token, row.other(i).token);
  return token;
}

}  // namespace up::cuda
