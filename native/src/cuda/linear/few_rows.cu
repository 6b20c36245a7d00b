// A block has 64 rows of weights, the M of a wgmma, and its share of K; the activations are the N. One warp copies tiles of 128 bytes of
// K through a ring, one warpgroup multiplies. The split of K depends on the shape of the weights alone, so a row's bits depend on
// nothing else.
#include "cuda/linear/few_rows_launch.h"

#include "cuda/common/hopper.cuh"
#include "cuda/common/pieces.cuh"
#include "cuda/common/tensor_map.h"
#include "cuda/linear/few_rows_products.cuh"

namespace up::cuda {

namespace {

constexpr int kWeightRows = 64;
constexpr int kThreads = 160;  // a warpgroup that multiplies, a warp that copies
constexpr int kWeightBytes = kWeightRows * 128;
constexpr int kSumStride = kWeightRows + 4;

template <int Rows>
struct Shape {
  static constexpr int kStages = Rows == 8 ? 8 : Rows == 16 ? 7 : Rows == 32 ? 6 : 4;  // three blocks a multiprocessor
  static constexpr int kBytes = kWeightBytes + Rows * 128;
};

template <int Rows>
struct Shared {
  alignas(1024) uint8_t weights[Shape<Rows>::kStages][kWeightBytes];
  alignas(1024) uint8_t in[Shape<Rows>::kStages][Rows * 128];
  uint64_t full[Shape<Rows>::kStages], empty[Shape<Rows>::kStages];
};

// Four floats of the same shared memory in another block of the cluster.
__device__ __forceinline__ float4 load_remote(uint32_t address, int rank) {
  uint32_t remote;
  float4 v;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(remote) : "memory");
  return v;
}

template <int Rows>
__device__ __forceinline__ void copy(Shared<Rows> &shared, const CUtensorMap *weight_map, const CUtensorMap *in_map, int first_row,
                                     int begin, int end) {
  using S = Shape<Rows>;
  const auto copy_weights = [&](int block, int slot) {
    barrier_expect(&shared.full[slot], S::kBytes);
    copy_tile(shared.weights[slot], weight_map, &shared.full[slot], 0, first_row, block, 0, 0);
  };
  const auto copy_in = [&](int block, int slot) { copy_tile(shared.in[slot], in_map, &shared.full[slot], 0, 0, block, 0, 0); };
  const int ahead = min(S::kStages, end - begin);
  for (int i = 0; i < ahead; ++i) copy_weights(begin + i, i);
  wait_for_kernel_before();
  for (int i = 0; i < ahead; ++i) copy_in(begin + i, i);
  Ring<S::kStages> stage;
  for (int block = begin + S::kStages; block < end; ++block) {
    barrier_wait(&shared.empty[stage.slot], stage.parity);
    copy_weights(block, stage.slot);
    copy_in(block, stage.slot);
    stage.advance();
  }
}

template <int Rows, class Operands, bool F32>
__global__ void __launch_bounds__(kThreads)
    few_rows(const __grid_constant__ FewRowsArguments a, const __grid_constant__ CUtensorMap weight_map,
             const __grid_constant__ CUtensorMap in_map) {
  using S = Shape<Rows>;
  extern __shared__ __align__(1024) uint8_t memory[];
  auto &shared = *reinterpret_cast<Shared<Rows> *>(memory);
  start_next_kernel();
  const int rank = cluster_rank(), warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  const int first_row = blockIdx.x / a.splits * kWeightRows;
  const int begin = a.blocks * rank / a.splits, end = a.blocks * (rank + 1) / a.splits;
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kStages; ++i) {
      barrier_init(&shared.full[i], 1);
      barrier_init(&shared.empty[i], 4);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (warp == 4) {
    if (lane == 0) copy<Rows>(shared, &weight_map, &in_map, first_row, begin, end);
    __syncwarp();
  } else {
    float d[Rows / 2], sum[Rows / 2] = {};
    const uint32_t weights = k_major(shared_address(shared.weights)), in = k_major(shared_address(shared.in));
    Ring<S::kStages> stage;
    for (int block = begin; block < end; ++block) {
      barrier_wait(&shared.full[stage.slot], stage.parity);
      mma_pin(d);
      mma_begin();
#pragma unroll
      for (int k = 0; k < 4; ++k)
        Operands::template multiply<Rows>(d, operand(weights, stage.slot * kWeightBytes + 32 * k),
                                         operand(in, stage.slot * Rows * 128 + 32 * k), (!Operands::kScaled && block > begin) || k > 0);
      mma_commit();
      if constexpr (Operands::kScaled) {
        mma_wait<0>();
        mma_pin(d);
        if (lane == 0) barrier_arrive(&shared.empty[stage.slot]);
#pragma unroll
        for (int i = 0; i < Rows / 2; ++i) sum[i] += d[i];
        stage.advance();
        continue;
      }
      // The product before has ended: its tiles may be overwritten.
      mma_wait<1>();
      mma_pin(d);
      if (block > begin && lane == 0) barrier_arrive(&shared.empty[(stage.slot + S::kStages - 1) % S::kStages]);
      stage.advance();
    }
    mma_wait<0>();
    mma_pin(d);
    if constexpr (Operands::kScaled) {
#pragma unroll
      for (int i = 0; i < Rows / 2; ++i) d[i] = sum[i];
    }
    // All tiles have been used; sums take their place, [rows][64 of N].
    named_sync(1, 128);
    auto *sums = reinterpret_cast<float *>(memory);
#pragma unroll
    for (int i = 0; i < Rows / 2; ++i) {
      const int n = 16 * warp + lane / 4 + 8 * (i / 2 % 2), row = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
      sums[row * kSumStride + n] = d[i];
    }
  }
  if (a.splits > 1)
    cluster_sync();
  else
    __syncthreads();
  wait_for_kernel_before();
  // Each block of the cluster adds up its share of the rows.
  const int share = Rows / a.splits, pieces = share * (kWeightRows / 8);
  for (int i = threadIdx.x; i < pieces; i += kThreads) {
    const int row = rank * share + i / (kWeightRows / 8), n = i % (kWeightRows / 8) * 8;
    float x[8] = {};
    const uint32_t address = shared_address(memory) + (row * kSumStride + n) * 4;
    for (int other = 0; other < a.splits; ++other) {
      const float4 low = load_remote(address, other), high = load_remote(address + 16, other);
      x[0] += low.x;
      x[1] += low.y;
      x[2] += low.z;
      x[3] += low.w;
      x[4] += high.x;
      x[5] += high.y;
      x[6] += high.z;
      x[7] += high.w;
    }
    if (row >= a.rows || first_row + n >= a.n) continue;
    if constexpr (Operands::kScaled) {
      const float row_scale = a.in_scales[row];
      const auto *scales = reinterpret_cast<const float4 *>(a.weight_scales + first_row + n);
      const float4 low = __ldg(scales), high = __ldg(scales + 1);
      x[0] *= row_scale * low.x;
      x[1] *= row_scale * low.y;
      x[2] *= row_scale * low.z;
      x[3] *= row_scale * low.w;
      x[4] *= row_scale * high.x;
      x[5] *= row_scale * high.y;
      x[6] *= row_scale * high.z;
      x[7] *= row_scale * high.w;
    }
    const int64_t at = row * a.out_stride + first_row + n;
    if constexpr (F32) {
      auto *out = reinterpret_cast<float4 *>(static_cast<float *>(a.out) + at);
      out[0] = make_float4(x[0], x[1], x[2], x[3]);
      out[1] = make_float4(x[4], x[5], x[6], x[7]);
    } else {
      auto *out = reinterpret_cast<uint4 *>(static_cast<__nv_bfloat16 *>(a.out) + at);
      float more[8];
      if (a.accumulate) {
        unpack8<__nv_bfloat16>(*out, more);
#pragma unroll
        for (int j = 0; j < 8; ++j) x[j] += more[j];
      }
      if (a.bias != nullptr) {
        unpack8<__nv_bfloat16>(__ldg(reinterpret_cast<const uint4 *>(static_cast<const __nv_bfloat16 *>(a.bias) + first_row + n)), more);
#pragma unroll
        for (int j = 0; j < 8; ++j) x[j] += more[j];
      }
      *out = pack8<__nv_bfloat16>(x);
    }
  }
  // Nobody leaves while another block reads its sums.
  if (a.splits > 1) cluster_sync();
}

template <int Rows, class Operands, bool F32>
up_status launch(const FewRowsArguments &a, const FewRowsTensors &t, cudaStream_t stream, up_backend_error *error) {
  constexpr const char *phase = "launch product of few rows";
  CUtensorMap weight_map, in_map;
  const int k = a.blocks * 64;  // pairs of eight-bit values are copied as one of bf16
  const Tensor weights{t.weights, a.n, 1, 1, k, 0, 0}, in{t.in, a.rows, 1, 1, t.in_stride, 0, 0};
  if (up_status s = encode_map(&weight_map, UP_BF16, k, weights, kWeightRows, "map weights", error); s != UP_OK) return s;
  if (up_status s = encode_map(&in_map, UP_BF16, k, in, Rows, "map rows", error); s != UP_OK) return s;
  const auto kernel = few_rows<Rows, Operands, F32>;
  constexpr int bytes = sizeof(Shared<Rows>);
  if (up_status s = allow_shared_memory(reinterpret_cast<const void *>(kernel), bytes, phase, error); s != UP_OK) return s;
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(a.splits);
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(ceil_div(a.n, kWeightRows) * a.splits));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return check(cudaLaunchKernelEx(&config, kernel, a, weight_map, in_map), phase, error);
}

}  // namespace

up_status launch_few_rows(const FewRowsArguments &a, const FewRowsTensors &t, bool f32, cudaStream_t stream, up_backend_error *error) {
  const auto with = [&]<int Rows>() {
    if (a.weight_scales != nullptr) return launch<Rows, Fp8Product, false>(a, t, stream, error);
    return f32 ? launch<Rows, Bf16Product, true>(a, t, stream, error) : launch<Rows, Bf16Product, false>(a, t, stream, error);
  };
  if (a.rows <= 8) return with.template operator()<8>();
  if (a.rows <= 16) return with.template operator()<16>();
  if (a.rows <= 32) return with.template operator()<32>();
  return with.template operator()<64>();
}

}  // namespace up::cuda
