// A block has tiles of 128 rows × 128 columns of the output, one after the other: 128 × 256 of the product, half of them the gate's and
// half the up projection's, so that an activation's two inputs are in the same thread. Two blocks form a cluster: their tiles lie
// one above the other, so they need the same weights, and each brings half of those to both.
//
// One thread copies tiles of 64 along K through a ring of four; two warpgroups multiply 64 rows each. They wait for the ring, not
// for each other, so one multiplies while the other one activates and stores.
//
// Clusters that run at the same time have tiles near each other: bands of rows, column after column, so that a band's rows stay in the
// second-level cache while the weights go by.
#include "cuda/linear/gated_product.h"

#include <algorithm>

#include "cuda/common/fragments.cuh"
#include "cuda/common/tensor_map.h"
#include "cuda/common/wgmma.cuh"
#include "cuda/layer/activations.cuh"

namespace up::cuda {

namespace {

using Bf16 = __nv_bfloat16;

constexpr int kThreads = 384;
constexpr int kCluster = 2;
constexpr int kTileRows = 128, kTileColumns = 128;
constexpr int kInner = 64;
constexpr int kStages = 4;
constexpr int kBand = 8;  // clusters' rows in a band: 2,048 rows
constexpr int kLeftBytes = kTileRows * kInner * 2;
constexpr int kHalfBytes = kTileColumns * kInner * 2;  // of the weights: the gate's or the up projection's

struct Shared {
  alignas(1024) uint8_t left[kStages][kLeftBytes];
  alignas(1024) uint8_t right[kStages][2 * kHalfBytes];
  uint64_t full[kStages], empty[kStages];
};

struct Arguments {
  Bf16 *out;
  int64_t out_stride;
  int rows, inner, steps;
};

struct Tiles {
  int down, across;  // of clusters
  __device__ __forceinline__ explicit Tiles(const Arguments &a)
      : down((a.rows + kCluster * kTileRows - 1) / (kCluster * kTileRows)), across((a.inner + kTileColumns - 1) / kTileColumns) {}
  __device__ __forceinline__ int count() const { return down * across; }
  // The first row of the cluster's tiles, and their first column.
  __device__ __forceinline__ int2 at(int index) const {
    const int band = index / (kBand * across) * kBand, height = min(kBand, down - band), local = index - band * across;
    return make_int2((band + local % height) * kCluster * kTileRows, local / height * kTileColumns);
  }
};

__device__ __forceinline__ void bring(Shared &shared, const Arguments &a, const CUtensorMap *left_map, const CUtensorMap *right_map) {
  const int rank = cluster_rank();
  const Tiles tiles(a);
  Ring<kStages> stage;
  for (int index = blockIdx.x / kCluster; index < tiles.count(); index += gridDim.x / kCluster) {
    const int2 tile = tiles.at(index);
    for (int step = 0; step < a.steps; ++step) {
      // Both blocks have used what the slot held: this one's copies go to both.
      barrier_wait(&shared.empty[stage.slot], stage.parity ^ 1);
      uint64_t *full = &shared.full[stage.slot];
      barrier_expect(full, kLeftBytes + 2 * kHalfBytes);
      copy_tile(shared.left[stage.slot], left_map, full, 0, tile.x + rank * kTileRows, step, 0, 0);
      copy_tile_to((1 << kCluster) - 1, shared.right[stage.slot] + rank * kHalfBytes, right_map, full, 0, tile.y, step, rank, 0);
      stage.advance();
    }
  }
}

// Four pieces of 8 columns of the accumulator's rows `row` and row + 8: activated and written.
template <up_activation Activation>
__device__ __forceinline__ void store(const float *gate, const float *up, const Arguments &a, int row, int column) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = 4 * i + 2 * half;
      const float2 g = Element<Bf16>::unpack(Element<Bf16>::pack(gate[at], gate[at + 1]));
      const float2 u = Element<Bf16>::unpack(Element<Bf16>::pack(up[at], up[at + 1]));
      v[i] = Element<Bf16>::pack(activate<Activation>(g.x) * u.x, activate<Activation>(g.y) * u.y);
    }
    transpose_quad(v);
    const int r = row + 8 * half, c = column + 8 * static_cast<int>(threadIdx.x % 4);
    if (r < a.rows && c < a.inner) *reinterpret_cast<uint4 *>(a.out + r * a.out_stride + c) = make_uint4(v[0], v[1], v[2], v[3]);
  }
}

template <up_activation Activation>
__device__ __forceinline__ void multiply(Shared &shared, const Arguments &a, int group) {
  const int lane = threadIdx.x % 32, row = 64 * group + 16 * (threadIdx.x / 32 % 4) + lane / 4, rank = cluster_rank();
  const uint32_t left = k_major(shared_address(shared.left) + group * 64 * 128), right = k_major(shared_address(shared.right));
  const Tiles tiles(a);
  Ring<kStages> stage;
  float d[kTileColumns];
  for (int index = blockIdx.x / kCluster; index < tiles.count(); index += gridDim.x / kCluster) {
    const int2 tile = tiles.at(index);
    const auto issue = [&](int slot, bool first) {
      mma_begin();
#pragma unroll
      for (int k = 0; k < kInner / 16; ++k)
        Mma<Bf16, 2 * kTileColumns>::shared(d, operand(left + slot * (kLeftBytes >> 4), k * 32),
                                            operand(right + slot * (2 * kHalfBytes >> 4), k * 32), k > 0 || !first);
      mma_commit();
    };
    const auto leave = [&](int slot) {
      __syncwarp();
      if (lane < kCluster) barrier_arrive_at(&shared.empty[slot], lane);
    };
    barrier_wait(&shared.full[stage.slot], stage.parity);
    mma_pin(d);
    issue(stage.slot, true);
    int before = stage.slot;
    stage.advance();
    for (int step = 1; step < a.steps; ++step) {
      barrier_wait(&shared.full[stage.slot], stage.parity);
      issue(stage.slot, false);
      mma_wait<1>();
      leave(before);
      before = stage.slot;
      stage.advance();
    }
    mma_wait<0>();
    mma_pin(d);
    leave(before);
#pragma unroll
    for (int first = 0; first < kTileColumns / 2; first += 16)
      store<Activation>(d + first, d + kTileColumns / 2 + first, a, tile.x + rank * kTileRows + row, tile.y + 2 * first);
  }
}

template <up_activation Activation>
__global__ void __cluster_dims__(kCluster) __launch_bounds__(kThreads, 1)
    gated_product(const __grid_constant__ Arguments a, const __grid_constant__ CUtensorMap left_map, const __grid_constant__ CUtensorMap right_map) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto &shared = *reinterpret_cast<Shared *>(memory);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&shared.full[i], 1);
      barrier_init(&shared.empty[i], kCluster * 8);
    }
    barrier_init_fence();
  }
  cluster_sync();
  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);  // so that the compiler knows it is one for the warp
  if (warpgroup == 0) {
    registers_release<40>();
    if (threadIdx.x == 0) bring(shared, a, &left_map, &right_map);
    __syncwarp();
  } else {
    registers_claim<232>();
    multiply<Activation>(shared, a, warpgroup - 1);
  }
  // Nobody leaves while the other block still copies to it.
  cluster_sync();
}

}  // namespace

bool takes_gated_product(const GatedProduct &p) {
  return p.k % kInner == 0 && p.inner % 8 == 0 && p.in_stride % 8 == 0 && p.out_stride % 8 == 0;
}

up_status multiply_gated(const GatedProduct *product, void *stream, up_backend_error *error) {
  constexpr const char *phase = "launch gated product";
  const GatedProduct &p = *product;
  if (p.rows == 0 || p.inner == 0) return UP_OK;
  CUtensorMap left_map, right_map;
  const Tensor left{p.in, p.rows, 1, 1, p.in_stride, 0, 0}, right{p.weights, p.inner, 2, 1, p.k, int64_t{p.inner} * p.k, 0};
  if (up_status s = encode_map(&left_map, UP_BF16, p.k, left, kTileRows, "map rows", error); s != UP_OK) return s;
  if (up_status s = encode_map(&right_map, UP_BF16, p.k, right, kTileColumns, "map gate and up", error); s != UP_OK) return s;
  const auto kernel = p.activation == UP_SILU ? gated_product<UP_SILU> : gated_product<UP_GELU_TANH>;
  if (up_status s = allow_shared_memory(reinterpret_cast<const void *>(kernel), sizeof(Shared), phase, error); s != UP_OK) return s;
  const int64_t tiles = ceil_div(p.rows, kCluster * kTileRows) * ceil_div(p.inner, kTileColumns);
  const int most = p.most_multiprocessors > 0 ? p.most_multiprocessors : multiprocessors();
  const auto clusters = static_cast<unsigned>(std::min<int64_t>(tiles, most / kCluster));
  const Arguments a{static_cast<Bf16 *>(p.out), p.out_stride, p.rows, p.inner, p.k / kInner};
  kernel<<<clusters * kCluster, kThreads, sizeof(Shared), static_cast<cudaStream_t>(stream)>>>(a, left_map, right_map);
  return check_launch(phase, error);
}

}  // namespace up::cuda
