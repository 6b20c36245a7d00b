// The two grouped products: tiles of 128 choices of one expert × 256 columns of its weights.
//
// A block is persistent and has three warpgroups. One brings tiles of 64 along the inner dimension through a ring of four: weights
// by the copy engine, rows of the left side by its own threads (cp.async), since they lie anywhere. Each of the others owns
// 64 rows × 256 columns in 128 accumulators a thread; one whose rows do not exist does no products. 128 × 256 tiles pull 48 bytes a
// cycle from the second-level cache, less than any smaller ones. In the first product half of the columns are the gate's and half
// the up projection's, so that an activation's two inputs are in the same thread.
//
// Tiles of an expert with the same columns follow each other, then those of the next columns, and blocks take them one after the
// other: those that run at the same time share weights.
#include <algorithm>

#include "cuda/layer/activations.cuh"
#include "cuda/common/fragments.cuh"
#include "cuda/experts/moe.h"
#include "cuda/common/tensor_map.h"
#include "cuda/common/wgmma.cuh"

namespace up::cuda {

namespace {

constexpr int kThreads = 384;
constexpr int kColumns = 256;
constexpr int kInner = 64;
constexpr int kStages = 4;
constexpr int kLag = 2;  // stages whose rows are still on their way when the next one's are asked for
constexpr int kTasks = 2;
constexpr int kLeftBytes = kTileRows * kInner * 2;
constexpr int kRightBytes = kColumns * kInner * 2;

struct Shared {
  alignas(1024) uint8_t left[kStages][kLeftBytes];
  alignas(1024) uint8_t right[kStages][kRightBytes];
  uint64_t full[kStages], empty[kStages];
  uint64_t task_full[kTasks], task_empty[kTasks];
  int tasks[kTasks];  // numbers of tiles, in the order that the block takes them
  int tiles[kMostExperts + 1], starts[kMostExperts + 1];
};

struct Arguments {
  const void *left;
  int64_t left_stride;
  const int32_t *rows;  // of the left side, for each sorted choice; nullptr: its own
  const int32_t *starts, *tiles;
  int32_t *taken;
  void *output;
  int64_t output_stride;
  int experts, depth, width;  // depth: inner dimension; width: columns of the output
  int left_rows;
};

// Rows of one expert and columns of its weights.
struct Tile {
  int expert, first, rows;  // first: among the sorted choices
  int column;               // of the output
};

__device__ __forceinline__ Tile find_tile(const Arguments &a, const Shared &shared, int index, int output_columns) {
  const int across = (a.width + output_columns - 1) / output_columns;
  const int *tiles = shared.tiles;
  int expert = 0;
  for (int step = kMostExperts; step > 0; step /= 2)
    if (expert + step < a.experts && tiles[expert + step] * across <= index) expert += step;
  const int down = tiles[expert + 1] - tiles[expert], local = index - tiles[expert] * across;
  Tile t;
  t.expert = expert;
  t.first = shared.starts[expert] + local % down * kTileRows;
  t.rows = min(kTileRows, shared.starts[expert + 1] - t.first);
  t.column = local / down * output_columns;
  return t;
}

__device__ __forceinline__ void copy_async(uint32_t target, const void *source) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(target), "l"(source) : "memory");
}

// The number of the block's next tile; all warps of the block ask.
__device__ __forceinline__ int next_task(Shared &shared, Ring<kTasks> &task) {
  barrier_wait(&shared.task_full[task.slot], task.parity);
  const int index = shared.tasks[task.slot];
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(&shared.task_empty[task.slot]);
  task.advance();
  return index;
}

// The rows that a ring's slot got are there: tells the warpgroups that multiply.
template <int Pending>
__device__ __forceinline__ void deliver(uint64_t *full) {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
  proxy_fence();
  barrier_arrive(full);
}

template <class T, bool Gated>
__device__ __forceinline__ void bring(Shared &shared, const Arguments &a, const CUtensorMap *map, int count, int output_columns) {
  constexpr int kEach = kTileRows / 16;
  const int thread = threadIdx.x, piece = thread % 8, top = thread / 8;
  const int steps = a.depth / kInner;
  // A thread brings piece `piece` of rows top, top + 16, …: which ones these are, on the left side.
  const auto look_up = [&](int index, Tile &tile, int (&rows)[kEach]) {
    if (index >= count) return;
    tile = find_tile(a, shared, index, output_columns);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int at = tile.first + top + 16 * i;
      rows[i] = top + 16 * i >= tile.rows ? -1 : a.rows == nullptr ? at : __ldg(a.rows + at);
    }
  };
  Ring<kTasks> task, given;
  const auto give = [&](int index) {
    barrier_wait(&shared.task_empty[given.slot], given.parity ^ 1);
    shared.tasks[given.slot] = index;
    barrier_arrive(&shared.task_full[given.slot]);
    given.advance();
  };
  Tile next{};
  int next_rows[kEach];
  if (thread == 0) give(atomicAdd(a.taken, 1));
  int index = next_task(shared, task);
  look_up(index, next, next_rows);
  Ring<kStages> stage, behind;
  int open = 0;  // slots asked for and not delivered
  // The next tile is asked for, given and looked up while this one is under way, some steps apart, so that nobody waits.
  const int give_step = min(2, steps - 1), look_step = min(4, steps - 1);
  while (index < count) {
    const Tile tile = next;
    const T *rows[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      rows[i] = next_rows[i] < 0 ? nullptr
                                 : static_cast<const T *>(a.left) + min(next_rows[i], a.left_rows - 1) * a.left_stride + 8 * piece;
    int taken = 0;
    if (thread == 0) taken = atomicAdd(a.taken, 1);
    for (int step = 0; step < steps; ++step) {
      barrier_wait(&shared.empty[stage.slot], stage.parity ^ 1);
      uint64_t *full = &shared.full[stage.slot];
      if (thread == 0) {
        barrier_expect(full, kRightBytes);
        uint8_t *right = shared.right[stage.slot];
        for (int half = 0; half < 2; ++half)
          copy_tile(right + half * (kRightBytes / 2), map, full, 0, Gated ? tile.column : tile.column + 128 * half, step,
                    Gated ? half : 0, tile.expert);
      }
      const uint32_t left = shared_address(shared.left[stage.slot]) + top * 128 + ((piece ^ (top & 7)) << 4);
#pragma unroll
      for (int i = 0; i < kEach; ++i)
        if (rows[i] != nullptr) copy_async(left + i * 16 * 128, rows[i] + step * kInner);
      asm volatile("cp.async.commit_group;" ::: "memory");
      stage.advance();
      if (++open > kLag) {
        deliver<kLag>(&shared.full[behind.slot]);
        behind.advance();
        --open;
      }
      if (step == give_step && thread == 0) give(taken);
      __syncwarp();
      if (step == look_step) {
        index = next_task(shared, task);
        look_up(index, next, next_rows);
      }
    }
  }
  for (; open > 0; --open) {
    deliver<0>(&shared.full[behind.slot]);
    behind.advance();
  }
}

// Writes 4 pieces of 8 columns of rows `row` and row + 8 of the warp's tile, from the column `column` on.
template <class T>
__device__ __forceinline__ void store_pieces(const float (&x)[16], T *output, int64_t stride, int row, int rows, int column, int width) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = Element<T>::pack(x[4 * i + 2 * half], x[4 * i + 2 * half + 1]);
    transpose_quad(v);
    const int r = row + 8 * half, c = column + 8 * static_cast<int>(threadIdx.x % 4);
    if (r < rows && c < width) *reinterpret_cast<uint4 *>(output + r * stride + c) = make_uint4(v[0], v[1], v[2], v[3]);
  }
}

template <class T, bool Gated, up_activation Activation>
__device__ __forceinline__ void multiply(Shared &shared, const Arguments &a, int count, int output_columns, int group) {
  const int lane = threadIdx.x % 32, row = 64 * group + 16 * (threadIdx.x / 32 % 4) + lane / 4;
  const uint32_t left = k_major(shared_address(shared.left) + group * 64 * 128), right = k_major(shared_address(shared.right));
  const int steps = a.depth / kInner;
  Ring<kStages> stage;
  Ring<kTasks> task;
  float d[kColumns / 2];
  for (int index = next_task(shared, task); index < count; index = next_task(shared, task)) {
    const Tile tile = find_tile(a, shared, index, output_columns);
    const bool wanted = 64 * group < tile.rows;
    if (!wanted) {
      for (int step = 0; step < steps; ++step) {
        barrier_wait(&shared.full[stage.slot], stage.parity);
        __syncwarp();
        if (lane == 0) barrier_arrive(&shared.empty[stage.slot]);
        stage.advance();
      }
      continue;
    }
    const auto issue = [&](int slot, bool first) {
      mma_begin();
#pragma unroll
      for (int k = 0; k < kInner / 16; ++k)
        Mma<T, kColumns>::shared(d, operand(left + slot * (kLeftBytes >> 4), k * 32),
                                 operand(right + slot * (kRightBytes >> 4), k * 32), k > 0 || !first);
      mma_commit();
    };
    barrier_wait(&shared.full[stage.slot], stage.parity);
    mma_pin(d);
    issue(stage.slot, true);
    int before = stage.slot;
    stage.advance();
    for (int step = 1; step < steps; ++step) {
      barrier_wait(&shared.full[stage.slot], stage.parity);
      issue(stage.slot, false);
      mma_wait<1>();
      __syncwarp();
      if (lane == 0) barrier_arrive(&shared.empty[before]);
      before = stage.slot;
      stage.advance();
    }
    mma_wait<0>();
    mma_pin(d);
    __syncwarp();
    if (lane == 0) barrier_arrive(&shared.empty[before]);
    T *output = static_cast<T *>(a.output) + tile.first * a.output_stride;
#pragma unroll
    for (int first = 0; first < (Gated ? 64 : 128); first += 16) {
      float x[16];
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        if constexpr (Gated)
          x[i] = activate<Activation>(d[first + i]) * d[64 + first + i];
        else
          x[i] = d[first + i];
      }
      store_pieces<T>(x, output, a.output_stride, row, tile.rows, tile.column + 2 * first, a.width);
    }
  }
}

template <class T, bool Gated, up_activation Activation>
__global__ void __launch_bounds__(kThreads, 1)
    moe_product(const __grid_constant__ Arguments a, const __grid_constant__ CUtensorMap map) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto &shared = *reinterpret_cast<Shared *>(memory);
  constexpr int output_columns = Gated ? kColumns / 2 : kColumns;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&shared.full[i], 128 + 1);
      barrier_init(&shared.empty[i], 8);
    }
    for (int i = 0; i < kTasks; ++i) {
      barrier_init(&shared.task_full[i], 1);
      barrier_init(&shared.task_empty[i], kThreads / 32);
    }
    barrier_init_fence();
  }
  for (int i = threadIdx.x; i <= a.experts; i += kThreads) {
    shared.tiles[i] = a.tiles[i];
    shared.starts[i] = a.starts[i];
  }
  __syncthreads();
  const int count = shared.tiles[a.experts] * ((a.width + output_columns - 1) / output_columns);
  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);  // so that the compiler knows it is one for the warp
  if (warpgroup == 0) {
    registers_release<72>();
    bring<T, Gated>(shared, a, &map, count, output_columns);
  } else {
    registers_claim<216>();
    multiply<T, Gated, Activation>(shared, a, count, output_columns, warpgroup - 1);
  }
}

template <class T, bool Gated, up_activation Activation>
up_status launch(const up_moe &p, const Arguments &a, const CUtensorMap &map, cudaStream_t stream, up_backend_error *error) {
  constexpr const char *phase = Gated ? "launch gate and up of experts" : "launch down of experts";
  const auto kernel = moe_product<T, Gated, Activation>;
  if (up_status s = allow_shared_memory(reinterpret_cast<const void *>(kernel), sizeof(Shared), phase, error); s != UP_OK)
    return s;
  // No more tiles than choices, and than full ones and a last one an expert.
  const int64_t rows = std::min(moe_choices(p), moe_choices(p) / kTileRows + p.experts);
  const int64_t most = rows * ceil_div(a.width, Gated ? kColumns / 2 : kColumns);
  kernel<<<static_cast<unsigned>(std::min<int64_t>(most, multiprocessors())), kThreads, sizeof(Shared), stream>>>(a, map);
  return check_launch(phase, error);
}

template <class T>
up_status launch(const up_moe &p, const MoeScratch &scratch, cudaStream_t stream, up_backend_error *error) {
  CUtensorMap up_map, down_map;
  const Tensor up{p.gate_up, p.inner, 2, p.experts, p.hidden, int64_t{p.inner} * p.hidden, int64_t{2} * p.inner * p.hidden};
  const Tensor down{p.down, p.hidden, 1, p.experts, p.inner, 0, int64_t{p.hidden} * p.inner};
  if (up_status s = encode_map(&up_map, p.dtype, p.hidden, up, 128, "map gate and up", error); s != UP_OK) return s;
  if (up_status s = encode_map(&down_map, p.dtype, p.inner, down, 128, "map down", error); s != UP_OK) return s;
  const Arguments first{p.input,       p.input_stride, scratch.rows, scratch.starts, scratch.tiles, scratch.taken,
                        scratch.inner, p.inner,        p.experts,    p.hidden,       p.inner,       p.rows};
  const Arguments second{scratch.inner,   p.inner,  nullptr,   scratch.starts, scratch.tiles, scratch.taken + 1,
                         scratch.results, p.hidden, p.experts, p.inner,        p.hidden,      static_cast<int>(moe_choices(p))};
  up_status status = p.activation == UP_SILU ? launch<T, true, UP_SILU>(p, first, up_map, stream, error)
                                             : launch<T, true, UP_GELU_TANH>(p, first, up_map, stream, error);
  if (status != UP_OK) return status;
  return launch<T, false, UP_SILU>(p, second, down_map, stream, error);
}

}  // namespace

up_status launch_moe_products(const up_moe &p, const MoeScratch &scratch, cudaStream_t stream, up_backend_error *error) {
  return p.dtype == UP_BF16 ? launch<__nv_bfloat16>(p, scratch, stream, error) : launch<__half>(p, scratch, stream, error);
}

}  // namespace up::cuda
