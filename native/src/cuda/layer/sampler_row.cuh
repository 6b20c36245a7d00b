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
constexpr int kGroups = kBins / 32;
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

struct SamplerShared {
  Count bins[2][kBins], groups[2][kGroups];
  Count warp_counts[kSamplerWarps];
  Best warp_best[kSamplerWarps];
  LogSum warp_sums[kSamplerWarps];
  Best tops[kMostLogprobs];  // the block's most likely tokens
  int found_bin;
  Count found_before, found_limit;
  // Exchanges.
  Best best;
  LogSum sum;
  int broken;
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

__device__ __forceinline__ Count warp_scan(Count through) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const Count next = __shfl_up_sync(~0u, through, step);
    if (static_cast<int>(threadIdx.x % 32) >= step) through += next;
  }
  return through;
}

// A row's slice of one block, and its way to the other blocks.
struct Row {
  SamplerShared &shared;
  union {          // of the slice
    float *scores;
    uint32_t *depths;
  };
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

// Depths take the place of the scores in a slice once the best token is known.
struct Weigher {
  float most, factor;  // factor: log2(e) / temperature · 2^26
  uint32_t deepest;    // tokens beyond it are out

  __device__ __forceinline__ uint32_t depth(float score) const {
    const float d = (most - score) * factor;
    return d < 41.0f * kDepthUnit ? __float2uint_rn(d) : kNoDepth;
  }
  __device__ __forceinline__ bool in(uint32_t depth) const { return depth <= deepest; }
  // 2^(40 − depth · 2⁻²⁶), rounded, in integers: the fraction's power of two has 24 bits.
  static __device__ __forceinline__ Count weight(uint32_t depth) {
    const uint32_t bits = __float_as_uint(exp2_fast(static_cast<float>(depth & 0x3ffffffu) * (-1.0f / kDepthUnit)));
    const Count mantissa = (bits & 0x7fffffu) | 0x800000u;
    const int down = static_cast<int>(depth >> 26);
    return ((mantissa << ((bits >> 23) - 110u)) + (down > 0 ? Count{1} << (down - 1) : 0)) >> down;
  }
};

// Adds to a bin. There is no addition to 64 bits of shared memory in one instruction: the lower half is added to, and the upper one
// where something carries or is there to add.
__device__ __forceinline__ void add_to_bin(Count *bin, Count value) {
  auto *halves = reinterpret_cast<uint32_t *>(bin);
  const auto low = static_cast<uint32_t>(value);
  const uint32_t before = atomicAdd(halves, low);
  const uint32_t high = static_cast<uint32_t>(value >> 32) + (before + low < low ? 1u : 0u);
  if (high != 0) atomicAdd(halves + 1, high);
}

// The largest depth d of a token such that what lies before it, counts or weights, is below the limit: kept tokens are those up to
// d. The limit is `limit` tokens, or the share `share` of all weight. Every block finds the same from the sums of all eight, so
// that a round needs one barrier; the bins alternate between two places, since others may still be reading the last ones.
template <bool Weighted>
__device__ uint32_t cut(const Row &row, const Weigher &w, Count limit, float share, int &place) {
  SamplerShared &shared = row.shared;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint32_t prefix = 0;
  Count before = 0;
  for (int low = 21; low >= 0; low = low == 21 ? 10 : low - 10) {  // bits 31…21, 20…10, 9…0
    const int width = low == 0 ? 10 : 11;
    Count *bins = shared.bins[place];
    for (int i = threadIdx.x; i < kBins; i += kSamplerThreads) bins[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < row.size(); i += kSamplerThreads) {
      const uint32_t depth = row.depths[i];
      const bool inside = w.in(depth) && (low == 21 || depth >> (low + width) == prefix);
      if (inside) add_to_bin(&bins[depth >> low & ((1u << width) - 1)], Weighted ? Weigher::weight(depth) : 1);
    }
    __syncthreads();
    for (int group = warp; group < kGroups; group += kSamplerWarps) {
      Count sum = bins[32 * group + lane];
#pragma unroll
      for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
      if (lane == 0) shared.groups[place][group] = sum;
    }
    row.sync();
    if (warp == 0) {
      Count first = 0, second = 0;  // groups 2·lane and the next
#pragma unroll
      for (int i = 0; i < kSamplerBlocks; ++i) {
        const SamplerShared &other = row.other(i);
        first += other.groups[place][2 * lane];
        second += other.groups[place][2 * lane + 1];
      }
      Count through = warp_scan(first + second);
      if (Weighted && low == 21) {
        const auto total = static_cast<double>(__shfl_sync(~0u, through, 31));
        limit = max(static_cast<Count>(ceil(static_cast<double>(share) * total)), Count{1});
      }
      // The last group with anything in it and less than the limit before it, and in it the last such bin.
      const Count before_first = before + through - first - second, before_second = before_first + first;
      const uint32_t firsts = __ballot_sync(~0u, first > 0 && before_first < limit);
      const uint32_t seconds = __ballot_sync(~0u, second > 0 && before_second < limit);
      const int last_first = 31 - __clz(firsts), last_second = 31 - __clz(seconds);
      const bool is_second = last_second >= last_first;
      const int owner = is_second ? last_second : last_first, group = 2 * owner + (is_second ? 1 : 0);
      const Count base = __shfl_sync(~0u, is_second ? before_second : before_first, owner & 31);
      Count own = 0;
#pragma unroll
      for (int i = 0; i < kSamplerBlocks; ++i) own += row.other(i).bins[place][32 * group + lane];
      through = warp_scan(own);
      const uint32_t bin = 31 - __clz(__ballot_sync(~0u, own > 0 && base + through - own < limit));
      if (lane == static_cast<int>(bin)) {
        shared.found_bin = 32 * group + lane;
        shared.found_before = base + through - own;
        shared.found_limit = limit;
      }
    }
    __syncthreads();
    prefix = prefix << width | static_cast<uint32_t>(shared.found_bin);
    before = shared.found_before;
    limit = shared.found_limit;
    place ^= 1;
    __syncthreads();
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
  for (int i = begin + lane; i < end; i += 32)
    if (const uint32_t depth = row.depths[i]; w.in(depth)) sum += Weigher::weight(depth);
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
      const uint32_t depth = first + lane < end ? row.depths[first + lane] : kNoDepth;
      const Count through = warp_scan(w.in(depth) ? Weigher::weight(depth) : 0);
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
