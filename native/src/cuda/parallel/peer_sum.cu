#include "cuda/parallel/peer_sum.h"

#include <cuda_bf16.h>

#include "cuda/common/dependent_launch.cuh"
#include "cuda/common/pieces.cuh"

namespace up::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kUnroll = 4;

__device__ __forceinline__ void send_flag(uint32_t *flag, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
__device__ __forceinline__ uint32_t read_flag(const uint32_t *flag) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}
__device__ __forceinline__ uint64_t nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

// Blocks of this number of all ranks come together; what their threads wrote before, all see.
__device__ void meet(const PeerGroup &g, int channel, int meeting, uint32_t launch) {
  __syncthreads();
  if (threadIdx.x < g.ranks) {
    const int peer = threadIdx.x;
    const int at = ((channel * most_peer_blocks + blockIdx.x) * 2 + meeting) * most_peers;
    __threadfence_system();
    send_flag(g.flags[peer] + at + g.rank, launch);
    const uint32_t *const theirs = g.flags[g.rank] + at + peer;
    const uint64_t begin = nanoseconds();
    for (uint32_t polls = 1; static_cast<int32_t>(read_flag(theirs) - launch) < 0; ++polls) {
      if (polls % 1024 != 0) continue;
      if (*static_cast<volatile uint32_t *>(&g.control->given_up) != 0) break;
      if (nanoseconds() - begin < peer_patience_ns) continue;
      *static_cast<volatile uint32_t *>(&g.control->missed) = 1;
      *static_cast<volatile uint32_t *>(&g.control->given_up) = 1;
      break;
    }
  }
  __syncthreads();
}

// The number of this launch of the block; finish() notes it.
__device__ uint32_t begin(const PeerGroup &g, int channel) { return g.launches[channel * most_peer_blocks + blockIdx.x] + 1; }
__device__ void finish(const PeerGroup &g, int channel, uint32_t launch) {
  __syncthreads();
  if (threadIdx.x == 0) g.launches[channel * most_peer_blocks + blockIdx.x] = launch;
}

struct Sum {
  float2 parts[4];

  __device__ void set(const uint4 &row) {
    const auto *pairs = reinterpret_cast<const __nv_bfloat162 *>(&row);
#pragma unroll
    for (int i = 0; i < 4; ++i) parts[i] = __bfloat1622float2(pairs[i]);
  }
  __device__ void add(const uint4 &row) {
    const auto *pairs = reinterpret_cast<const __nv_bfloat162 *>(&row);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 more = __bfloat1622float2(pairs[i]);
      parts[i].x += more.x;
      parts[i].y += more.y;
    }
  }
  __device__ uint4 get() const {
    uint4 out;
    auto *pairs = reinterpret_cast<__nv_bfloat162 *>(&out);
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = __float22bfloat162_rn(parts[i]);
    return out;
  }
};

// Peers write this memory while the kernel runs: never by way of a cache that is not coherent.
__device__ __forceinline__ uint4 load(const uint4 *from) {
  uint4 out;
  asm volatile("ld.relaxed.sys.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
               : "l"(from)
               : "memory");
  return out;
}

__device__ __forceinline__ uint64_t load(const uint64_t *from) {
  uint64_t out;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(out) : "l"(from) : "memory");
  return out;
}

// Parts of other ranks where they meet here; copies of them in own memory where they do not.
template <bool Meets>
__device__ __forceinline__ uint4 load_part(const uint4 *from) {
  return Meets ? load(from) : *from;
}

template <int Ranks>
__device__ void sum_range(const PeerGroup &g, const PeerRows &p, int64_t first, int64_t end, uint4 *only) {
  const int ranks = Ranks > 0 ? Ranks : g.ranks;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  const auto put = [&](int64_t at, const uint4 &value) {
    if (only != nullptr) {
      only[at] = value;
      return;
    }
    for (int rank = 0; rank < ranks; ++rank) p.rows[rank][at] = value;
  };
  int64_t at = first + static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if constexpr (Ranks > 0 && Ranks <= 4) {
    for (; at + (kUnroll - 1) * stride < end; at += kUnroll * stride) {
      uint4 rows[Ranks][kUnroll];
#pragma unroll
      for (int rank = 0; rank < Ranks; ++rank)
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) rows[rank][u] = load(p.rows[rank] + at + u * stride);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        Sum sum;
        sum.set(rows[0][u]);
#pragma unroll
        for (int rank = 1; rank < Ranks; ++rank) sum.add(rows[rank][u]);
        put(at + u * stride, sum.get());
      }
    }
  }
  for (; at < end; at += stride) {
    uint4 rows[most_peers];
#pragma unroll
    for (int rank = 0; rank < most_peers; ++rank)
      if (rank < ranks) rows[rank] = load(p.rows[rank] + at);
    Sum sum;
    sum.set(rows[0]);
#pragma unroll
    for (int rank = 1; rank < most_peers; ++rank)
      if (rank < ranks) sum.add(rows[rank]);
    put(at, sum.get());
  }
}

template <int Ranks>
__global__ void __launch_bounds__(kThreads) sum_once(const PeerGroup g, int channel, const PeerRows p, uint4 *sum) {
  const uint32_t launch = begin(g, channel);
  meet(g, channel, 0, launch);
  sum_range<Ranks>(g, p, 0, p.count, sum);
  finish(g, channel, launch);
}

// A block has one row at a time, a thread up to `Pieces` pieces. The same bits as a sum and a norm behind it, but for the order in
// which squares are added.
template <int Ranks, int Pieces, bool Meets>
__global__ void __launch_bounds__(kThreads) sum_and_norm(const PeerGroup g, int channel, const PeerRows p, const PeerNorm n) {
  if constexpr (Meets) take_turn();
  __shared__ float squares_of[kThreads / 32];
  const int ranks = Ranks > 0 ? Ranks : g.ranks;
  uint32_t launch = 0;
  if constexpr (Meets) {
    launch = begin(g, channel);
    meet(g, channel, 0, launch);
  }
  for (int row = blockIdx.x; row < n.rows; row += gridDim.x) {
    const int64_t first = static_cast<int64_t>(row) * n.pieces;
    float x[Pieces][8];
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < Pieces; ++i) {
      const int at = threadIdx.x + i * blockDim.x;
      if (at >= n.pieces) continue;
      uint4 parts[Ranks > 0 ? Ranks : most_peers];
      const uint4 before = n.residual[first + at];
#pragma unroll
      for (int rank = 0; rank < (Ranks > 0 ? Ranks : most_peers); ++rank)
        if (rank < ranks) parts[rank] = load_part<Meets>(p.rows[rank] + first + at);
      Sum sum;
      sum.set(parts[0]);
#pragma unroll
      for (int rank = 1; rank < (Ranks > 0 ? Ranks : most_peers); ++rank)
        if (rank < ranks) sum.add(parts[rank]);
      float residual[8];
      unpack8<__nv_bfloat16>(sum.get(), x[i]);
      unpack8<__nv_bfloat16>(before, residual);
#pragma unroll
      for (int j = 0; j < 8; ++j) x[i][j] += residual[j];
      const uint4 after = pack8<__nv_bfloat16>(x[i]);
      n.residual[first + at] = after;
      unpack8<__nv_bfloat16>(after, x[i]);
#pragma unroll
      for (int j = 0; j < 8; ++j) squares = fmaf(x[i][j], x[i][j], squares);
    }
    if (n.normed == nullptr) continue;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
    if (threadIdx.x % 32 == 0) squares_of[threadIdx.x / 32] = squares;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (int warp = 0; warp < blockDim.x / 32; ++warp) total += squares_of[warp];
    __syncthreads();
    const float inverse = rsqrtf(total / static_cast<float>(8 * n.pieces) + n.eps);
#pragma unroll
    for (int i = 0; i < Pieces; ++i) {
      const int at = threadIdx.x + i * blockDim.x;
      if (at >= n.pieces) continue;
      float weight[8];
      unpack8<__nv_bfloat16>(__ldg(n.weight + at), weight);
#pragma unroll
      for (int j = 0; j < 8; ++j) x[i][j] = x[i][j] * inverse * (n.weight_offset + weight[j]);
      n.normed[first + at] = pack8<__nv_bfloat16>(x[i]);
    }
  }
  if constexpr (Meets) finish(g, channel, launch);
}

template <int Ranks>
__global__ void __launch_bounds__(kThreads) add_parts(const PeerGroup g, const PeerRows p, uint4 *sum) {
  const int ranks = Ranks > 0 ? Ranks : g.ranks;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < p.count; at += static_cast<int64_t>(gridDim.x) * kThreads) {
    Sum total;
    total.set(p.rows[0][at]);
#pragma unroll
    for (int rank = 1; rank < (Ranks > 0 ? Ranks : most_peers); ++rank)
      if (rank < ranks) total.add(p.rows[rank][at]);
    sum[at] = total.get();
  }
}

template <int Ranks>
void launch_sum_and_norm_of(const PeerGroup &group, int channel, const PeerRows &rows, const PeerNorm &norm, cudaStream_t stream) {
  const dim3 blocks(norm.rows < most_peer_blocks ? norm.rows : most_peer_blocks);
  if (norm.pieces <= kThreads)
    launch_dependent(sum_and_norm<Ranks, 1, true>, blocks, kThreads, 0, stream, group, channel, rows, norm);
  else
    launch_dependent(sum_and_norm<Ranks, most_norm_pieces / kThreads, true>, blocks, kThreads, 0, stream, group, channel, rows, norm);
}

// As many pieces a thread as in RMSNorm itself.
template <int Ranks>
void launch_add_and_norm_of(const PeerGroup &group, const PeerRows &rows, const PeerNorm &norm, cudaStream_t stream) {
  constexpr int pieces = most_norm_pieces / kThreads;
  const int threads = (norm.pieces + 32 * pieces - 1) / (32 * pieces) * 32;
  sum_and_norm<Ranks, pieces, false><<<norm.rows, threads, 0, stream>>>(group, 0, rows, norm);
}

template <int Ranks>
__global__ void __launch_bounds__(kThreads) sum_in_parts(const PeerGroup g, int channel, const PeerRows p) {
  const uint32_t launch = begin(g, channel);
  meet(g, channel, 0, launch);
  sum_range<Ranks>(g, p, p.count * g.rank / g.ranks, p.count * (g.rank + 1) / g.ranks, nullptr);
  meet(g, channel, 1, launch);
  finish(g, channel, launch);
}

__global__ void __launch_bounds__(kThreads) sum_integers(const PeerGroup g, int channel, const PeerIntegers p, uint64_t *sums) {
  const uint32_t launch = begin(g, channel);
  meet(g, channel, 0, launch);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < p.count; at += stride) {
    uint64_t sum = 0;
    for (int rank = 0; rank < g.ranks; ++rank) sum += load(p.values[rank] + at);
    sums[at] = sum;
  }
  finish(g, channel, launch);
}

__global__ void __launch_bounds__(32) meet_all(const PeerGroup g, int channel) {
  const uint32_t launch = begin(g, channel);
  meet(g, channel, 0, launch);
  finish(g, channel, launch);
}

}  // namespace

void launch_sum_once(const PeerGroup &group, int channel, const PeerRows &rows, uint4 *sum, int blocks, cudaStream_t stream) {
  switch (group.ranks) {
    case 2: sum_once<2><<<blocks, kThreads, 0, stream>>>(group, channel, rows, sum); break;
    case 4: sum_once<4><<<blocks, kThreads, 0, stream>>>(group, channel, rows, sum); break;
    default: sum_once<0><<<blocks, kThreads, 0, stream>>>(group, channel, rows, sum); break;
  }
}

void launch_sum_and_norm(const PeerGroup &group, int channel, const PeerRows &rows, const PeerNorm &norm, cudaStream_t stream) {
  switch (group.ranks) {
    case 2: launch_sum_and_norm_of<2>(group, channel, rows, norm, stream); break;
    case 4: launch_sum_and_norm_of<4>(group, channel, rows, norm, stream); break;
    default: launch_sum_and_norm_of<0>(group, channel, rows, norm, stream); break;
  }
}

void launch_add_and_norm(int ranks, const PeerRows &rows, const PeerNorm &norm, cudaStream_t stream) {
  PeerGroup group;
  group.ranks = ranks;
  if (ranks == 2)
    launch_add_and_norm_of<2>(group, rows, norm, stream);
  else
    launch_add_and_norm_of<0>(group, rows, norm, stream);
}

void launch_add(int ranks, const PeerRows &rows, uint4 *sum, cudaStream_t stream) {
  constexpr int64_t most_blocks = 4096;
  PeerGroup group;
  group.ranks = ranks;
  const int64_t blocks = (rows.count + kThreads - 1) / kThreads;
  const dim3 grid(static_cast<unsigned>(blocks < most_blocks ? blocks : most_blocks));
  if (ranks == 2)
    add_parts<2><<<grid, kThreads, 0, stream>>>(group, rows, sum);
  else
    add_parts<0><<<grid, kThreads, 0, stream>>>(group, rows, sum);
}

void launch_sum_in_parts(const PeerGroup &group, int channel, const PeerRows &rows, int blocks, cudaStream_t stream) {
  switch (group.ranks) {
    case 2: sum_in_parts<2><<<blocks, kThreads, 0, stream>>>(group, channel, rows); break;
    case 4: sum_in_parts<4><<<blocks, kThreads, 0, stream>>>(group, channel, rows); break;
    default: sum_in_parts<0><<<blocks, kThreads, 0, stream>>>(group, channel, rows); break;
  }
}

void launch_sum_integers(const PeerGroup &group, int channel, const PeerIntegers &values, uint64_t *sums, cudaStream_t stream) {
  const int64_t blocks = (values.count + kThreads - 1) / kThreads;
  const dim3 grid(static_cast<unsigned>(blocks < most_peer_blocks ? blocks : most_peer_blocks));
  sum_integers<<<grid, kThreads, 0, stream>>>(group, channel, values, sums);
}

void launch_meet(const PeerGroup &group, int channel, cudaStream_t stream) { meet_all<<<1, 32, 0, stream>>>(group, channel); }

}  // namespace up::cuda
