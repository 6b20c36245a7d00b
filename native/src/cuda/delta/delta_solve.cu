// T, P and the factors of every chunk and value head; delta.h says what they are.
//
// A block has the 64 rows of one chunk and key head. Two tensor-core products give K Kᵀ and Q Kᵀ, which the value heads of the
// key head share; two of these are then solved at a time, by two warps each: inverses of the four 16 × 16 blocks on the
// diagonal by substitution in f32, a thread a column, then row blocks of X (I + A) = I from the diagonal to the left,
//     X_ij = -(Σ_{j < k ≤ i} X_ik A_kj) T_j,
// on the tensor cores. There every operand is the sum of two f16 numbers, and three products make one good to about 2⁻²¹.
#include "cuda/delta/delta.h"
#include "cuda/common/fragments.cuh"
#include "cuda/delta/row_ranges.cuh"
#include "cuda/common/tensor_map.h"
#include "cuda/common/wgmma.cuh"

namespace up::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kBlock = 16;
constexpr int kDiagonalStride = kBlock * kBlock + kBlock;  // floats from one diagonal block to the next: half warps on other banks

struct Shared {
  alignas(1024) uint8_t tiles[2][2][kDeltaTileBytes];  // K and Q, then high and low part of A of two value heads
  alignas(16) float diagonal[2][4][kDiagonalStride];   // A's diagonal blocks, transposed; then their inverses' high and low parts
  float inverse_norms[2][kChunk];                      // of keys and queries
  float sums[2][kChunk], betas[2][kChunk];             // G and β of two value heads
  float carry[2];
  uint64_t full;
};

struct Arguments {
  const float *decay, *beta;
  const int32_t *row_starts;
  uint8_t *records;
  int requests, max_rows, key_heads, value_heads, normalise;
  float norm_eps, scale;
};

// A pair of numbers as two f16 pairs that add up to them.
struct Split {
  uint32_t high, low;
};

__device__ __forceinline__ Split split(float x, float y) {
  Split s;
  s.high = Element<__half>::pack(x, y);
  const float2 high = Element<__half>::unpack(s.high);
  s.low = Element<__half>::pack(x - high.x, y - high.y);
  return s;
}

// A 16 × 16 block in registers: the left operand's order is the accumulators' order.
struct Block {
  Split part[4];

  __device__ __forceinline__ void set(const float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) part[i] = split(x[2 * i], x[2 * i + 1]);
  }
};

// Right operands, 16 × 16, high and low part.
struct Right {
  uint32_t high[4], low[4];
};

__device__ __forceinline__ Right load_right(uint32_t tile, int row, int column) {
  const int lane = threadIdx.x % 32;
  Right r;
  const uint32_t at = swizzled(tile, row + lane % 16, column / 8 + lane / 16);
  load_matrices_transposed(r.high, at);
  load_matrices_transposed(r.low, at + kDeltaTileBytes);
  return r;
}

// A diagonal block's inverse, its high (half 0) or low part, which lies by columns: transposed it is a left operand.
__device__ __forceinline__ uint32_t inverse_address(uint32_t block, int half) {
  const int lane = threadIdx.x % 32;
  return block + half * kBlock * kBlock * 2 + (lane % 8 + lane / 16 * 8) * 32 + lane / 8 % 2 * 16;
}

// A sum of products, by the parts that they are of: three chains, none of which waits for another.
struct Sums {
  float d[3][8] = {};

  __device__ __forceinline__ void add(const Block &a, const Right &b) {
    uint32_t high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      high[i] = a.part[i].high;
      low[i] = a.part[i].low;
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      mma16<__half>(d[0] + 4 * n, high, b.high[2 * n], b.high[2 * n + 1]);
      mma16<__half>(d[1] + 4 * n, high, b.low[2 * n], b.low[2 * n + 1]);
      mma16<__half>(d[2] + 4 * n, low, b.high[2 * n], b.high[2 * n + 1]);
    }
  }
  __device__ __forceinline__ float total(int i) const { return d[0][i] + (d[1][i] + d[2][i]); }
};

// Pieces of 8 columns first … first + 3 of the warp's rows `row` and row + 8 of a triangle.
template <class T>
__device__ __forceinline__ void store_pieces(uint8_t *triangle, int row, int first, const float (&x)[4][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = Element<T>::pack(x[i][2 * half], x[i][2 * half + 1]);
    transpose_quad(v);
    const int r = row + 8 * half, piece = first + static_cast<int>(threadIdx.x % 4), column = piece / 2;
    if (r < kBlock * column) continue;
    uint8_t *target = triangle + triangle_column(column) + (r - kBlock * column) * 32 + ((piece % 2 ^ (r >> 2 & 1)) << 4);
    *reinterpret_cast<uint4 *>(target) = make_uint4(v[0], v[1], v[2], v[3]);
  }
}

// The inverse of I + a diagonal block, a lane a column; `block` holds the block transposed, and then the inverse.
__device__ __forceinline__ void invert_diagonal(float *block) {
  const int column = threadIdx.x % 16;
  float x[kBlock];
#pragma unroll
  for (int i = 0; i < kBlock; ++i) x[i] = i == column ? 1.0f : 0.0f;
#pragma unroll
  for (int k = 0; k < kBlock - 1; ++k) {
#pragma unroll
    for (int i = (k + 1) / 4 * 4; i < kBlock; i += 4) {
      const float4 a = *reinterpret_cast<const float4 *>(block + k * kBlock + i);
      const float each[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (i + j > k) x[i + j] = fmaf(-each[j], x[k], x[i + j]);
    }
  }
  __syncwarp();
  uint32_t high[kBlock / 2], low[kBlock / 2];
#pragma unroll
  for (int i = 0; i < kBlock / 2; ++i) {
    const Split parts = split(x[2 * i], x[2 * i + 1]);
    high[i] = parts.high;
    low[i] = parts.low;
  }
  auto *target = reinterpret_cast<uint4 *>(block) + 2 * column;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    target[half] = make_uint4(high[4 * half], high[4 * half + 1], high[4 * half + 2], high[4 * half + 3]);
    target[2 * kBlock + half] = make_uint4(low[4 * half], low[4 * half + 1], low[4 * half + 2], low[4 * half + 3]);
  }
}

// Row block I of T, to the record.
template <class T, int I>
__device__ __forceinline__ void solve_rows(uint32_t a, uint32_t diagonal, const float *betas, uint8_t *triangle) {
  constexpr uint32_t kStride = kDiagonalStride * sizeof(float);
  const int lane = threadIdx.x % 32;
  Block x[I + 1];
  float y[4][8] = {};
  {
    uint32_t high[4], low[4];
    load_matrices_transposed(high, inverse_address(diagonal + I * kStride, 0));
    load_matrices_transposed(low, inverse_address(diagonal + I * kStride, 1));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[I].part[i] = {high[i], low[i]};
      const float2 u = Element<__half>::unpack(high[i]), v = Element<__half>::unpack(low[i]);
      y[I][2 * i] = u.x + v.x;
      y[I][2 * i + 1] = u.y + v.y;
    }
  }
#pragma unroll
  for (int j = I - 1; j >= 0; --j) {
    Sums sums;
#pragma unroll
    for (int k = j + 1; k <= I; ++k) sums.add(x[k], load_right(a, kBlock * k, kBlock * j));
#pragma unroll
    for (int i = 0; i < 8; ++i) y[j][i] = sums.total(i);
    Block left;
    left.set(y[j]);
    Right inverse;
    load_matrices(inverse.high, inverse_address(diagonal + j * kStride, 0));
    load_matrices(inverse.low, inverse_address(diagonal + j * kStride, 1));
    Sums product;
    product.add(left, inverse);
#pragma unroll
    for (int i = 0; i < 8; ++i) y[j][i] = -product.total(i);
    if (j > 0) x[j].set(y[j]);
  }
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    float pieces[4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 beta = *reinterpret_cast<const float2 *>(betas + 32 * pair + 8 * i + 2 * (lane % 4));
#pragma unroll
      for (int e = 0; e < 4; ++e) pieces[i][e] = y[2 * pair + i / 2][4 * (i % 2) + e] * (e % 2 ? beta.y : beta.x);
    }
    store_pieces<T>(triangle, kBlock * I + lane / 4, 4 * pair, pieces);
  }
}

// Decay and β of a row and value head. Nothing is done with them where they are read: they come while something else is under way.
struct Gates {
  float decay, beta;

  __device__ __forceinline__ void read(const Arguments &a, int row, int head) {
    const int64_t at = static_cast<int64_t>(row) * a.value_heads + head;
    decay = __ldg(a.decay + at);
    beta = __ldg(a.beta + at);
  }
};

// Sums of decays and β of the chunk's rows for two value heads, and the factors that follow from them.
__device__ __forceinline__ void begin_heads(Shared &shared, const Arguments &a, const Gates &gates, int rows, bool wanted,
                                            uint8_t *record) {
  const int which = threadIdx.x / 64, row = threadIdx.x % 64, lane = threadIdx.x % 32;
  float sum = row < rows ? gates.decay : 0.0f;
  const float beta = row < rows ? gates.beta : 0.0f;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const float other = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += other;
  }
  if (row == 31) shared.carry[which] = sum;
  __syncthreads();
  if (row >= 32) sum += shared.carry[which];
  shared.sums[which][row] = sum;
  shared.betas[which][row] = beta;
  __syncthreads();
  if (!wanted) return;
  auto *factors = reinterpret_cast<DeltaFactors *>(record + 2 * kTriangleBytes);
  const float whole = shared.sums[which][kChunk - 1], grown = exp2_fast(sum * kLog2E);
  const bool real = row < rows;
  factors->key_in[row] = real ? grown * shared.inverse_norms[0][row] : 0.0f;
  factors->key_out[row] = real ? exp2_fast((whole - sum) * kLog2E) * shared.inverse_norms[0][row] : 0.0f;
  factors->query[row] = real ? grown * shared.inverse_norms[1][row] * a.scale : 0.0f;
  if (row == 0) factors->total = exp2_fast(whole * kLog2E);
}

// A, in parts and in diagonal blocks, to shared memory, and P to the record, of one value head.
template <class T>
__device__ __forceinline__ void weigh(Shared &shared, const Arguments &a, int which, int rows, const float (&kk)[32],
                                      const float (&qk)[32], uint8_t *record) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, quad = lane % 4, top = 16 * warp + lane / 4;
  const uint32_t tile = shared_address(shared.tiles[which][0]);
  float sum[2], left[2], scaled[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = top + 8 * half;
    sum[half] = shared.sums[which][i] * kLog2E;
    left[half] = shared.betas[which][i] * shared.inverse_norms[0][i];
    scaled[half] = a.scale * shared.inverse_norms[1][i];
  }
#pragma unroll
  for (int group = 0; group < 2; ++group) {
    if (4 * group > 2 * warp + 1) break;  // all of it lies above the diagonal
    // First all numbers, then what is stored: exponentials of one block do not wait for stores of another.
    float x[4][4], pieces[4][4];
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const int block = 4 * group + b, j = 8 * block + 2 * quad;
      const float2 other = *reinterpret_cast<const float2 *>(&shared.sums[which][j]);
      const float2 norm = *reinterpret_cast<const float2 *>(&shared.inverse_norms[0][j]);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int half = e / 2, i = top + 8 * half, column = j + e % 2;
        const float factor = exp2_fast(sum[half] - (e % 2 ? other.y : other.x) * kLog2E) * (e % 2 ? norm.y : norm.x);
        x[b][e] = column < i && i < rows ? left[half] * factor * kk[4 * block + e] : 0.0f;
        pieces[b][e] = column <= i && i < rows ? scaled[half] * factor * qk[4 * block + e] : 0.0f;
      }
    }
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const int block = 4 * group + b;
      if (block / 2 == warp) {
        float *diagonal = shared.diagonal[which][warp];
#pragma unroll
        for (int e = 0; e < 4; ++e) diagonal[(8 * (b % 2) + 2 * quad + e % 2) * kBlock + lane / 4 + 8 * (e / 2)] = x[b][e];
      } else if (block / 2 < warp) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const Split s = split(x[b][2 * half], x[b][2 * half + 1]);
          const uint32_t at = swizzled(tile, top + 8 * half, block) + 4 * quad;
          asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(s.high) : "memory");
          asm volatile("st.shared.b32 [%0], %1;" ::"r"(at + kDeltaTileBytes), "r"(s.low) : "memory");
        }
      }
    }
    store_pieces<T>(record + kTriangleBytes, top, 4 * group, pieces);
  }
}

// Three blocks a multiprocessor: with a fourth, threads would have to spill.
template <class T, int DK>
__global__ void __launch_bounds__(kThreads, 3)
    delta_solve(const __grid_constant__ Arguments a, const __grid_constant__ CUtensorMap query_map,
                const __grid_constant__ CUtensorMap key_map) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto &shared = *reinterpret_cast<Shared *>(memory);
  const int slot = blockIdx.x, key_head = blockIdx.y, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) {
    barrier_init(&shared.full, 1);
    barrier_init_fence();
  }
  // Requests have slots from row_starts / 64 + their number on.
  int request = 0;
  for (int first = 1; first < a.requests; first += kThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    request += __syncthreads_count(i < a.requests && min(max(a.row_starts[i], 0), a.max_rows) / kChunk + i <= slot);
  }
  __syncthreads();
  const RowRange range = row_range(a.row_starts, request, a.max_rows);
  const int first_row = range.begin + (slot - range.begin / kChunk - request) * kChunk;
  const int rows = min(kChunk, range.end - first_row);
  if (first_row < range.begin || rows <= 0) return;

  // The thread's value head among the key head's, of each two; the last row and head where there is no such one.
  const int group = a.value_heads / a.key_heads, mine = threadIdx.x / 64;
  Gates gates;
  const auto read_gates = [&](int first) {
    gates.read(a, first_row + min(static_cast<int>(threadIdx.x % 64), rows - 1),
               key_head * group + min(first + mine, group - 1));
  };
  read_gates(0);
  constexpr int kPanels = DK / 64;
  if (threadIdx.x == 0) {
    barrier_expect(&shared.full, 2 * kChunk * DK * 2);
    for (int panel = 0; panel < kPanels; ++panel) {
      copy_tile(shared.tiles[0][panel], &key_map, &shared.full, 0, first_row, panel, key_head, 0);
      copy_tile(shared.tiles[1][panel], &query_map, &shared.full, 0, first_row, panel, key_head, 0);
    }
  }
  barrier_wait(&shared.full, 0);
  {
    const int which = threadIdx.x / 64, row = threadIdx.x % 64;
    float squares[4] = {};
#pragma unroll 4
    for (int piece = 0; piece < DK / 8; ++piece) {
      const uint4 v = *reinterpret_cast<const uint4 *>(shared.tiles[which][piece / 8] + row * 128 + ((piece % 8 ^ (row & 7)) << 4));
      const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 x = Element<T>::unpack(words[i]);
        squares[i] = fmaf(x.x, x.x, fmaf(x.y, x.y, squares[i]));
      }
    }
    shared.inverse_norms[which][row] =
        a.normalise ? rsqrtf((squares[0] + squares[1]) + (squares[2] + squares[3]) + a.norm_eps) : 1.0f;
  }
  float kk[32], qk[32];
  const uint32_t keys = k_major(shared_address(shared.tiles[0])), queries = k_major(shared_address(shared.tiles[1]));
  mma_pin(kk);
  mma_pin(qk);
  mma_begin();
#pragma unroll
  for (int k = 0; k < DK / 16; ++k) {
    const uint32_t at = k / 4 * kDeltaTileBytes + k % 4 * 32;
    Mma<T, 64>::shared(kk, operand(keys, at), operand(keys, at), k > 0);
    Mma<T, 64>::shared(qk, operand(queries, at), operand(keys, at), k > 0);
  }
  mma_commit();
  mma_wait<0>();
  mma_pin(kk);
  mma_pin(qk);
  __syncthreads();

  for (int first = 0; first < group; first += 2) {
    const auto record = [&](int which) {
      return a.records + (static_cast<int64_t>(slot) * a.value_heads + key_head * group + first + which) * kDeltaRecordBytes;
    };
    begin_heads(shared, a, gates, rows, first + mine < group, record(mine));
    if (first + 2 < group) read_gates(first + 2);
    for (int which = 0; which < 2 && first + which < group; ++which) weigh<T>(shared, a, which, rows, kk, qk, record(which));
    __syncthreads();
    if (first + mine < group) {
      float *diagonal = shared.diagonal[mine][0];
      invert_diagonal(diagonal + (threadIdx.x % 64 / 16) * kDiagonalStride);
      named_sync(1 + mine, 64);
      const uint32_t tile = shared_address(shared.tiles[mine][0]), inverses = shared_address(diagonal);
      uint8_t *target = record(mine);
      if (warp % 2 == 0) {
        solve_rows<T, 3>(tile, inverses, shared.betas[mine], target);
      } else {
        solve_rows<T, 2>(tile, inverses, shared.betas[mine], target);
        solve_rows<T, 1>(tile, inverses, shared.betas[mine], target);
        solve_rows<T, 0>(tile, inverses, shared.betas[mine], target);
      }
    }
    __syncthreads();
  }
}

template <class T, int DK>
up_status launch(const up_delta_prefill &p, uint8_t *records, cudaStream_t stream, up_backend_error *error) {
  constexpr const char *phase = "launch delta solve";
  CUtensorMap query_map, key_map;
  const Tensor queries{p.queries, p.max_rows, p.key_heads, 1, p.query_row_stride, DK, 0};
  const Tensor keys{p.keys, p.max_rows, p.key_heads, 1, p.key_row_stride, DK, 0};
  if (up_status s = encode_map(&query_map, p.dtype, DK, queries, kChunk, "map queries", error); s != UP_OK) return s;
  if (up_status s = encode_map(&key_map, p.dtype, DK, keys, kChunk, "map keys", error); s != UP_OK) return s;
  const auto kernel = delta_solve<T, DK>;
  if (up_status s = allow_shared_memory(reinterpret_cast<const void *>(kernel), sizeof(Shared), phase, error); s != UP_OK)
    return s;
  const Arguments arguments{p.decay,     p.beta,        p.row_starts, records,    p.requests, p.max_rows,
                            p.key_heads, p.value_heads, p.normalise,  p.norm_eps, p.scale};
  const dim3 grid(static_cast<unsigned>(delta_slots(p)), static_cast<unsigned>(p.key_heads));
  kernel<<<grid, kThreads, sizeof(Shared), stream>>>(arguments, query_map, key_map);
  return check_launch(phase, error);
}

template <class T>
up_status launch(const up_delta_prefill &p, uint8_t *records, cudaStream_t stream, up_backend_error *error) {
  return p.key_dim == 64 ? launch<T, 64>(p, records, stream, error) : launch<T, 128>(p, records, stream, error);
}

}  // namespace

up_status launch_delta_solve(const up_delta_prefill &p, uint8_t *records, cudaStream_t stream, up_backend_error *error) {
  return p.dtype == UP_BF16 ? launch<__nv_bfloat16>(p, records, stream, error) : launch<__half>(p, records, stream, error);
}

}  // namespace up::cuda
