#include "cuda/selection/sparse_keys.h"

#include "cuda/common/hopper.cuh"
#include "selection/sparsity.h"

namespace up::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kRequestBlocks = kSelectionQueries / sparse_samples;  // of query rows

struct Arguments {
  SelectionShape shape;
  const int32_t *lengths;
  const float *sums, *wholes;
  int group;  // query heads of a KV head
  int first_block, query_blocks, words;
  uint64_t p_q32;
  uint32_t *bitmaps;
  unsigned long long *counts;
};

// Over the block's threads; every thread gets the sum, which stays below 2³².
__device__ __forceinline__ uint32_t sum_of(uint32_t own, uint32_t (&parts)[kWarps]) {
  const uint32_t warp = __reduce_add_sync(~0u, own);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = warp;
  __syncthreads();
  uint32_t sum = 0;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) sum += parts[i];
  return sum;
}

// One block of query rows and one KV head. What choose_key_blocks() does.
__global__ void __launch_bounds__(kThreads) sparse_choose(const Arguments a) {
  extern __shared__ uint32_t masses[];
  __shared__ uint32_t parts[kWarps];
  const int request = blockIdx.z, kv_head = blockIdx.y, own = blockIdx.x;
  const SelectionRows rows = selection_rows(a.shape, a.lengths, request);
  if (own * sparse_samples >= rows.queries) return;
  const int in_bitmaps = request * kRequestBlocks + own;
  const int blocks = sparse_own_blocks * (a.first_block + in_bitmaps + 1);
  const int64_t first_column = static_cast<int64_t>(request) * a.shape.heads + kv_head * a.group;
  const float *wholes = a.wholes + first_column * kSelectionQueries + own * sparse_samples;
  const float *sums = a.sums + first_column * a.shape.blocks * kSelectionQueries + own * sparse_samples;

  // A row sees itself, so its sum is finite unless a score is not.
  bool broken = false;
  for (int i = threadIdx.x; i < a.group * sparse_samples; i += kThreads)
    broken |= !isfinite(wholes[static_cast<int64_t>(i / sparse_samples) * kSelectionQueries + i % sparse_samples]);
  broken = __syncthreads_or(broken);

  uint32_t total = 0;
  for (int block = threadIdx.x; block < blocks; block += kThreads) {
    uint32_t mass = 0;
    for (int head = 0; head < a.group; ++head) {
      const auto *x = reinterpret_cast<const float4 *>(sums + (static_cast<int64_t>(head) * a.shape.blocks + block) * kSelectionQueries);
      const auto *whole = reinterpret_cast<const float4 *>(wholes + static_cast<int64_t>(head) * kSelectionQueries);
      float of_head = 0.0f;
#pragma unroll
      for (int i = 0; i < sparse_samples / 4; ++i) {
        const float4 s = x[i], w = whole[i];
        of_head += exp2_fast(s.x - w.x) + exp2_fast(s.y - w.y) + exp2_fast(s.z - w.z) + exp2_fast(s.w - w.w);
      }
      mass += __float2uint_rz(of_head * sparse_unit);
    }
    masses[block] = mass;
    total += mass;
  }
  total = sum_of(total, parts);

  const auto wanted = static_cast<uint32_t>((total * a.p_q32 + UINT32_MAX) >> 32);
  uint64_t least = 0, more = uint64_t{UINT32_MAX} + 1;
  while (!broken && more - least > 1) {
    const uint64_t middle = least + (more - least) / 2;
    uint32_t sum = 0;
    for (int block = threadIdx.x; block < blocks; block += kThreads) sum += masses[block] >= middle ? masses[block] : 0;
    if (sum_of(sum, parts) >= wanted) {
      least = middle;
    } else {
      more = middle;
    }
  }

  uint32_t *bitmap = a.bitmaps + (static_cast<int64_t>(kv_head) * a.query_blocks + in_bitmaps) * a.words;
  uint32_t read = 0;
  for (int word = threadIdx.x / 32; word < a.words; word += kWarps) {
    const int block = 32 * word + threadIdx.x % 32;
    const bool always = broken || block < sparse_sink_blocks || block >= blocks - sparse_own_blocks;
    const uint32_t bits = __ballot_sync(~0u, block < blocks && (always || masses[block] >= least));
    if (threadIdx.x % 32 != 0) continue;
    bitmap[word] = bits;
    read += __popc(bits);
  }
  __syncwarp();
  read = sum_of(read, parts);
  if (threadIdx.x == 0) {
    atomicAdd(a.counts, read);
    atomicAdd(a.counts + 1, blocks);
  }
}

}  // namespace

up_status choose_sparse_keys(const SparseKeys &p, void *workspace, size_t workspace_bytes, void *stream, up_backend_error *error) {
  constexpr const char *phase = "launch choice of keys";
  SelectionScratch scratch{};
  if (up_status s = score_samples(p.sampled, workspace, workspace_bytes, sparse_sample_every, &scratch, stream, error); s != UP_OK) return s;
  if (p.sampled.requests == 0) return UP_OK;
  const Arguments arguments{selection_shape(p.sampled), p.sampled.lengths, scratch.sums, scratch.wholes,
                            p.sampled.heads / p.sampled.kv_heads, p.first_block, p.query_blocks, p.words, p.p_q32, p.bitmaps, p.counts};
  const auto most = static_cast<int>(kSparseKeyBlocks * sizeof(uint32_t));
  if (up_status s = allow_shared_memory(reinterpret_cast<const void *>(sparse_choose), most, phase, error); s != UP_OK) return s;
  const dim3 grid(static_cast<unsigned>(p.sampled.last_q / sparse_samples), static_cast<unsigned>(p.sampled.kv_heads),
                  static_cast<unsigned>(p.sampled.requests));
  const size_t bytes = static_cast<size_t>(arguments.shape.blocks) * sizeof(uint32_t);
  sparse_choose<<<grid, kThreads, bytes, static_cast<cudaStream_t>(stream)>>>(arguments);
  return check_launch(phase, error);
}

}  // namespace up::cuda
