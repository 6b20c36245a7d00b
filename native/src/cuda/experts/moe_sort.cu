// Choices sorted by expert: a counting sort in two launches, stable, so that the order is the same each time.
#include "cuda/common/hopper.cuh"
#include "cuda/experts/moe.h"

namespace up::cuda {

namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kRounds = kSortEntries / kThreads;  // choices of a thread; a warp's are neighbours

struct Arguments {
  const int32_t *chosen;
  MoeScratch scratch;
  int choices, experts, top_k, blocks;
};

// The expert of a block's choice, or -1: in round r, lane l of warp w has choice (w · rounds + r) · 32 + l.
__device__ __forceinline__ int choice_index(int round) {
  return blockIdx.x * kSortEntries + (static_cast<int>(threadIdx.x / 32) * kRounds + round) * 32 + static_cast<int>(threadIdx.x % 32);
}
__device__ __forceinline__ int expert_of(const Arguments &a, int choice) {
  if (choice >= a.choices) return -1;
  const int expert = a.chosen[choice];
  return expert < 0 || expert >= a.experts ? -1 : expert;
}

__global__ void __launch_bounds__(kThreads) moe_count(const Arguments a) {
  __shared__ int counts[kMostExperts];
  for (int i = threadIdx.x; i < a.experts; i += kThreads) counts[i] = 0;
  if (blockIdx.x == 0 && threadIdx.x < 2) a.scratch.taken[threadIdx.x] = 0;
  __syncthreads();
  for (int round = 0; round < kRounds; ++round) {
    const int expert = expert_of(a, choice_index(round));
    if (expert >= 0) atomicAdd(&counts[expert], 1);
  }
  __syncthreads();
  int32_t *target = a.scratch.counts + static_cast<int64_t>(blockIdx.x) * a.experts;
  for (int i = threadIdx.x; i < a.experts; i += kThreads) target[i] = counts[i];
}

// Inclusive sum over the block of 2 numbers a thread, experts 2·t and 2·t + 1.
__device__ __forceinline__ int2 block_scan(int2 value, int *scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int sum = value.x + value.y;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += other;
  }
  __syncthreads();
  if (lane == 31) scratch[warp] = sum;
  __syncthreads();
  for (int i = 0; i < warp; ++i) sum += scratch[i];
  return make_int2(sum - value.y, sum);
}

__global__ void __launch_bounds__(kThreads) moe_place(const Arguments a) {
  __shared__ int bases[kMostExperts];
  __shared__ uint16_t before[kWarps][kMostExperts];  // choices of an expert in earlier warps, then also in earlier rounds
  __shared__ int scratch[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int totals[2] = {0, 0}, earlier[2] = {0, 0};
  for (int e = 0; e < 2; ++e) {
    const int expert = 2 * threadIdx.x + e;
    if (expert >= a.experts) continue;
    for (int block = 0; block < a.blocks; ++block) {
      const int count = a.scratch.counts[static_cast<int64_t>(block) * a.experts + expert];
      totals[e] += count;
      if (block < static_cast<int>(blockIdx.x)) earlier[e] += count;
    }
  }
  const int2 through = block_scan(make_int2(totals[0], totals[1]), scratch);
  const int starts[2] = {through.x - totals[0], through.y - totals[1]};
  if (blockIdx.x == 0) {
    const int own[2] = {(totals[0] + kTileRows - 1) / kTileRows, (totals[1] + kTileRows - 1) / kTileRows};
    const int2 tiles = block_scan(make_int2(own[0], own[1]), scratch);
    for (int e = 0; e < 2; ++e) {
      const int expert = 2 * threadIdx.x + e;
      if (expert >= a.experts) continue;
      a.scratch.starts[expert] = starts[e];
      a.scratch.tiles[expert] = (e == 0 ? tiles.x : tiles.y) - own[e];
      if (expert == a.experts - 1) {
        a.scratch.starts[a.experts] = starts[e] + totals[e];
        a.scratch.tiles[a.experts] = e == 0 ? tiles.x : tiles.y;
      }
    }
  }
  for (int e = 0; e < 2; ++e)
    if (2 * static_cast<int>(threadIdx.x) + e < a.experts) bases[2 * threadIdx.x + e] = starts[e] + earlier[e];
  for (int i = threadIdx.x; i < kWarps * kMostExperts; i += kThreads) before[i / kMostExperts][i % kMostExperts] = 0;
  __syncthreads();

  int experts[kRounds];
  for (int round = 0; round < kRounds; ++round) {
    experts[round] = expert_of(a, choice_index(round));
    const uint32_t same = __match_any_sync(~0u, experts[round]);
    if (experts[round] >= 0 && lane == __ffs(same) - 1) before[warp][experts[round]] += static_cast<uint16_t>(__popc(same));
    __syncwarp();
  }
  __syncthreads();
  for (int expert = threadIdx.x; expert < a.experts; expert += kThreads) {
    int sum = 0;
    for (int i = 0; i < kWarps; ++i) {
      const int own = before[i][expert];
      before[i][expert] = static_cast<uint16_t>(sum);
      sum += own;
    }
  }
  __syncthreads();
  for (int round = 0; round < kRounds; ++round) {
    const int choice = choice_index(round), expert = experts[round];
    const uint32_t same = __match_any_sync(~0u, expert);
    int place = -1;
    if (expert >= 0) place = bases[expert] + before[warp][expert] + __popc(same & ((1u << lane) - 1));
    __syncwarp();
    if (expert >= 0 && lane == __ffs(same) - 1) before[warp][expert] += static_cast<uint16_t>(__popc(same));
    __syncwarp();
    if (choice >= a.choices) continue;
    a.scratch.places[choice] = place;
    if (place >= 0) a.scratch.rows[place] = choice / a.top_k;
  }
}

}  // namespace

up_status launch_moe_sort(const up_moe &p, const MoeScratch &scratch, cudaStream_t stream, up_backend_error *error) {
  const int blocks = static_cast<int>(ceil_div(moe_choices(p), kSortEntries));
  const Arguments arguments{p.chosen, scratch, static_cast<int>(moe_choices(p)), p.experts, p.top_k, blocks};
  moe_count<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(arguments);
  if (up_status s = check_launch("launch count of choices", error); s != UP_OK) return s;
  moe_place<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(arguments);
  return check_launch("launch sort of choices", error);
}

}  // namespace up::cuda
