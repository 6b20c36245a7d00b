// From state to state through the chunks of a request; delta.h says what is computed.
//
// Transposed, so that nothing on the chain passes through shared memory: a warpgroup holds 64 columns of S as Sᵀ [64 value dims,
// key dims] in f32 accumulators, which, rounded, are the left operand of the next products as they lie in registers, and so are
// the changes uᵀ. Of a chunk's six products, Sᵀq stands in two halves between the others, so that the tensor cores work while
// the warpgroup converts:
//     Sᵀkᵀ | Sᵀqᵀ (first half) | (V - e^G ·)ᵀ Tᵀ | Sᵀqᵀ (second half) | S += uᵀ k | o += uᵀ Pᵀ
// A block has one or two warpgroups, each with its own columns, and a warp that copies what they share through a ring.
#include "cuda/delta/delta.h"
#include "cuda/common/fragments.cuh"
#include "cuda/delta/row_ranges.cuh"
#include "cuda/delta/states.cuh"
#include "cuda/common/tensor_map.h"
#include "cuda/common/wgmma.cuh"

namespace up::cuda {

namespace {

constexpr int kColumns = 64;  // value dims of a warpgroup
constexpr int kStages = 3;

template <int DK, int Groups>
struct Shared {
  static constexpr int kKeyBytes = kChunk * DK * 2;
  alignas(1024) uint8_t keys[kStages][kKeyBytes];
  alignas(1024) uint8_t queries[kStages][kKeyBytes];
  alignas(1024) uint8_t values[kStages][Groups][kDeltaTileBytes];
  alignas(1024) uint8_t triangles[kStages][2][4][kBlockColumnBytes];  // T and P, columns of blocks with all their rows
  DeltaFactors factors[kStages];
  alignas(128) uint8_t output[4 * Groups][kChunk * 32];  // of each warp: [64 rows][16 value dims]
  uint64_t full[kStages], empty[kStages], tail;
};

struct Arguments {
  const int32_t *row_starts;
  up_states states;
  const uint8_t *records;
  void *output;
  int64_t output_row_stride;
  int requests, max_rows, group, value_heads, value_dim;
};

// A column of blocks of a triangle as right operand: 16 of K, rows of 32 bytes under the 32-byte swizzle.
__device__ __forceinline__ uint64_t triangle_operand(uint32_t address) {
  return uint64_t{0xc0000010u} << 32 | (1u << 16 | address >> 4);
}

__device__ __forceinline__ void copy_bytes(void *target, const void *source, int bytes, uint64_t *barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(target)),
               "l"(source), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

// The copy warp.
template <int DK, int Groups>
__device__ __forceinline__ void scan_copy(Shared<DK, Groups> &shared, const Arguments &a, const CUtensorMap *query_map,
                                          const CUtensorMap *key_map, const CUtensorMap *value_map, const RowRange &rows,
                                          int request, int head, int first_column) {
  constexpr int kPanels = DK / 64, kKeyBytes = Shared<DK, Groups>::kKeyBytes;
  const int lane = threadIdx.x % 32, key_head = head / a.group;
  const int64_t slot = rows.begin / kChunk + request;
  Ring<kStages> stage;
  for (int row = rows.begin, chunk = 0; row < rows.end; row += kChunk, ++chunk) {
    barrier_wait(&shared.empty[stage.slot], stage.parity ^ 1);
    uint64_t *full = &shared.full[stage.slot];
    const int left = rows.end - row;
    const bool whole = left >= kChunk;
    if (lane == 0) {
      barrier_expect(whole ? full : &shared.tail, kKeyBytes);
      for (int panel = 0; panel < kPanels; ++panel)
        copy_tile(shared.keys[stage.slot] + panel * kDeltaTileBytes, key_map, whole ? full : &shared.tail, 0, row, panel, key_head,
                  0);
    }
    if (!whole) {
      // Keys of the rows that follow would meet changes of zero, and 0 · NaN is NaN. This is the request's last chunk.
      barrier_wait(&shared.tail, 0);
      const int pieces = (kChunk - left) * 8;
      for (int i = lane; i < pieces * kPanels; i += 32)
        *reinterpret_cast<uint4 *>(shared.keys[stage.slot] + i / pieces * kDeltaTileBytes + left * 128 + i % pieces * 16) =
            make_uint4(0, 0, 0, 0);
      proxy_fence();
      __syncwarp();
    }
    if (lane == 0) {
      // A whole chunk's barrier waits for two arrivals, of keys and of the rest.
      if (!whole) barrier_arrive(full);
      barrier_expect(full, kKeyBytes + Groups * kDeltaTileBytes + 2 * kTriangleBytes + sizeof(DeltaFactors));
      for (int i = 0; i < Groups; ++i)
        copy_tile(shared.values[stage.slot][i], value_map, full, 0, row, first_column / kColumns + i, head, 0);
      for (int panel = 0; panel < kPanels; ++panel)
        copy_tile(shared.queries[stage.slot] + panel * kDeltaTileBytes, query_map, full, 0, row, panel, key_head, 0);
    }
    __syncwarp();
    const uint8_t *record = a.records + ((slot + chunk) * a.value_heads + head) * kDeltaRecordBytes;
    if (lane < 8) {
      const int column = lane % 4, skipped = kBlockColumnBytes / 4 * column;
      copy_bytes(shared.triangles[stage.slot][lane / 4][column] + skipped, record + lane / 4 * kTriangleBytes + triangle_column(column),
                 kBlockColumnBytes - skipped, full);
    } else if (lane == 8) {
      copy_bytes(&shared.factors[stage.slot], record + 2 * kTriangleBytes, sizeof(DeltaFactors), full);
    }
    stage.advance();
  }
}

// Sᵀ of a warpgroup's columns: d[4·j + 2·h + e] is key dim 8·j + 2·(lane % 4) + e of column lane / 4 + 8·h of the warp's 16.
template <int DK>
struct State {
  float d[DK / 2];

  static __device__ __forceinline__ int64_t at(int i, int value_dim, int column) {
    const int lane = threadIdx.x % 32, key = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
    return static_cast<int64_t>(key) * value_dim + column + lane / 4 + 8 * (i / 2 % 2);
  }
  __device__ __forceinline__ void read(const float *state, int value_dim, int column) {
#pragma unroll
    for (int i = 0; i < DK / 2; ++i) d[i] = state == nullptr ? 0.0f : state[at(i, value_dim, column)];
  }
  __device__ __forceinline__ void write(float *state, int value_dim, int column) const {
#pragma unroll
    for (int i = 0; i < DK / 2; ++i) state[at(i, value_dim, column)] = d[i];
  }
};

template <class T, int K>
__device__ __forceinline__ void pack_left(uint32_t (&p)[K / 16][4], const float (&x)[K / 2]) {
#pragma unroll
  for (int k = 0; k < K / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) p[k][i] = Element<T>::pack(x[8 * k + 2 * i], x[8 * k + 2 * i + 1]);
}

// Factors of rows 8·j + 2·(lane % 4) + e, which are an accumulator's columns here. Read while a product is under way: on the way
// from state to state there is no time to wait for them.
struct RowFactors {
  float2 f[8];

  __device__ __forceinline__ void read(const float *factors) {
#pragma unroll
    for (int j = 0; j < 8; ++j) f[j] = *reinterpret_cast<const float2 *>(factors + 8 * j + 2 * (threadIdx.x % 4));
  }
  __device__ __forceinline__ void scale(float (&x)[32]) const {
#pragma unroll
    for (int i = 0; i < 32; ++i) x[i] *= i % 2 ? f[i / 4].y : f[i / 4].x;
  }
};

// The warp's 64 rows × 16 columns of o, from their transpose, by way of shared memory.
template <class T>
__device__ __forceinline__ void store_output(const float (&o)[32], uint8_t *staging, T *target, int64_t row_stride, int rows) {
  const int lane = threadIdx.x % 32;
  const uint32_t base = shared_address(staging);
  const auto piece = [](int row, int half) { return row * 32 + ((half ^ (row >> 2 & 1)) << 4); };
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    const int row = 8 * (j + lane / 16) + lane % 8, half = lane / 8 % 2;
    uint32_t v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = Element<T>::pack(o[4 * j + 2 * i], o[4 * j + 2 * i + 1]);
    store_matrices_transposed(base + piece(row, half), v[0], v[1], v[2], v[3]);
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = 16 * i + lane / 2, half = lane % 2;
    if (row < rows)
      *reinterpret_cast<uint4 *>(target + row * row_stride + 8 * half) = *reinterpret_cast<const uint4 *>(staging + piece(row, half));
  }
  __syncwarp();
}

template <class T, int DK, int Groups>
__device__ __forceinline__ void scan_compute(Shared<DK, Groups> &shared, const Arguments &a, const RowRange &rows, int request,
                                             int head, int first_column) {
  const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int column = first_column + kColumns * group + 16 * warp;
  const int64_t head_state = static_cast<int64_t>(head) * DK * a.value_dim;
  const int chunks = (rows.end - rows.begin + kChunk - 1) / kChunk;
  const uint32_t keys = k_major(shared_address(shared.keys)), queries = k_major(shared_address(shared.queries));
  const uint32_t change_keys = n_major(shared_address(shared.keys), kDeltaTileBytes);
  constexpr uint32_t kKeyStep = Shared<DK, Groups>::kKeyBytes >> 4;
  T *output = static_cast<T *>(a.output) + rows.begin * a.output_row_stride + static_cast<int64_t>(head) * a.value_dim + column;
  SnapshotRange snapshots = snapshot_range(a.states, request);

  State<DK> s;
  uint32_t left[DK / 16][4];  // Sᵀ, rounded
  {
    const float *source = state_of<float>(a.states, a.states.source_slots, request);
    s.read(source == nullptr ? nullptr : source + head_state, a.value_dim, column);
  }
  pack_left<T, DK>(left, s.d);
  float x[32], o[32];
  uint32_t change[4][4], weighted[4][4];
  // Vᵀ as it lies in accumulators, a quarter of it, and its factors. One group of columns has the registers to read all of it while
  // a product is under way; two read it piece by piece where it is used.
  uint32_t values[4][4];
  float2 key_in[8];

  const auto multiply_state = [&](float(&d)[32], uint32_t tile, int begin, int end) {
#pragma unroll
    for (int k = 0; k < DK / 16; ++k)
      if (k >= begin && k < end)
        Mma<T, 64>::registers_k_major(d, left[k], operand(tile, k / 4 * kDeltaTileBytes + k % 4 * 32), k > 0);
  };
  const auto issue_seen = [&](int slot) {
    mma_pin(x);
    mma_begin();
    multiply_state(x, keys + slot * kKeyStep, 0, DK / 16);
    mma_commit();
  };

  const auto fetch_quarter = [&](int slot, int j) {
    const uint32_t tile = shared_address(shared.values[slot][group]);
    load_matrices_transposed(values[j], swizzled(tile, 8 * (2 * j + lane / 16) + lane % 8, 2 * warp + lane / 8 % 2));
#pragma unroll
    for (int i = 2 * j; i < 2 * j + 2; ++i)
      key_in[i] = *reinterpret_cast<const float2 *>(shared.factors[slot].key_in + 8 * i + 2 * (lane % 4));
  };
  const auto fetch = [&](int slot) {
    if constexpr (Groups == 1) {
#pragma unroll
      for (int j = 0; j < 4; ++j) fetch_quarter(slot, j);
    }
  };

  Ring<kStages> stage;
  const auto rows_of = [&](int chunk) { return min(kChunk, rows.end - rows.begin - chunk * kChunk); };
  // From Sᵀk, in x, to the next state; o is in flight at the end, and the stage is the next chunk's, which is there if there is one.
  const auto advance = [&](int chunk, bool last) {
    const int slot = stage.slot, count = rows_of(chunk);
    const DeltaFactors &factors = shared.factors[slot];
    const uint32_t inverse = shared_address(shared.triangles[slot][0]), scores = shared_address(shared.triangles[slot][1]);
    mma_pin(o);
    mma_begin();
    multiply_state(o, queries + slot * kKeyStep, 0, DK / 32);
    mma_commit();
    // x = Vᵀ - e^G Sᵀk
#pragma unroll
    for (int i = 0; i < 32; i += 2) {
      if (Groups > 1 && i % 8 == 0) fetch_quarter(slot, i / 8);
      const float2 v = Element<T>::unpack(values[i / 8][i / 2 % 4]);
      x[i] = fmaf(-key_in[i / 4].x, x[i], v.x);
      x[i + 1] = fmaf(-key_in[i / 4].y, x[i + 1], v.y);
    }
    if (count < kChunk) {
#pragma unroll
      for (int i = 0; i < 32; ++i) x[i] = 8 * (i / 4) + 2 * (lane % 4) + i % 2 < count ? x[i] : 0.0f;
    }
    pack_left<T, 64>(change, x);
    mma_pin(x);
    mma_begin();
#pragma unroll
    for (int k = 0; k < 4; ++k) Mma<T, 64>::registers_k_major(x, change[k], triangle_operand(inverse + k * kBlockColumnBytes), k > 0);
    mma_commit();
    multiply_state(o, queries + slot * kKeyStep, DK / 32, DK / 16);
    mma_commit();
    RowFactors key_out;
    key_out.read(factors.key_out);
    {
      const float total = factors.total;
#pragma unroll
      for (int i = 0; i < DK / 2; ++i) s.d[i] *= total;
    }
    mma_wait<1>();
    mma_pin(x);
    pack_left<T, 64>(change, x);
    key_out.scale(x);
    pack_left<T, 64>(weighted, x);
    mma_pin(s.d);
    mma_begin();
#pragma unroll
    for (int k = 0; k < 4; ++k)
      Mma<T, DK>::registers(s.d, weighted[k], operand(change_keys + slot * kKeyStep, k * 2048));
    mma_commit();
    RowFactors query;
    query.read(factors.query);
    mma_wait<1>();
    mma_pin(o);
    query.scale(o);
    mma_pin(o);
    mma_begin();
#pragma unroll
    for (int k = 0; k < 4; ++k)
      Mma<T, 64>::registers_k_major(o, change[k], triangle_operand(scores + k * kBlockColumnBytes), 1);
    mma_commit();
    stage.advance();
    if (!last) barrier_wait(&shared.full[stage.slot], stage.parity);
    mma_wait<1>();
    mma_pin(s.d);
    pack_left<T, DK>(left, s.d);
  };
  // o is complete: nothing of the slot is needed any more.
  const auto finish = [&](int chunk, int slot) {
    mma_pin(o);
    // Every lane for itself: racecheck does not see through a barrier of the warp and one lane's arrival.
    barrier_arrive(&shared.empty[slot]);
    store_output(o, shared.output[4 * group + warp], output + chunk * kChunk * a.output_row_stride, a.output_row_stride,
                 rows_of(chunk));
    while (snapshots.begin < snapshots.end && a.states.snapshot_rows[snapshots.begin] <= (chunk + 1) * kChunk) {
      float *target = state_of<float>(a.states, a.states.snapshot_slots, snapshots.begin);
      if (a.states.snapshot_rows[snapshots.begin] == (chunk + 1) * kChunk && rows_of(chunk) == kChunk && target != nullptr)
        s.write(target + head_state, a.value_dim, column);
      ++snapshots.begin;
    }
  };
  barrier_wait(&shared.full[0], 0);
  issue_seen(0);
  fetch(0);
  mma_wait<0>();
  mma_pin(x);
  for (int chunk = 0; chunk + 1 < chunks; ++chunk) {
    const int slot = stage.slot;
    advance(chunk, false);
    issue_seen(stage.slot);
    fetch(stage.slot);
    mma_wait<1>();
    finish(chunk, slot);
    // A product with its left side in registers that is in flight where the loop closes makes the compiler wait for each.
    mma_wait<0>();
    mma_pin(x);
  }
  const int slot = stage.slot;
  advance(chunks - 1, true);
  mma_wait<0>();
  finish(chunks - 1, slot);
  float *target = state_of<float>(a.states, a.states.target_slots, request);
  if (target != nullptr) s.write(target + head_state, a.value_dim, column);
}

// One warpgroup of columns may have 255 registers a thread beside a single warp; two of them need what a third one gives away.
template <int Groups>
constexpr int kThreads = Groups == 1 ? 160 : 384;

template <class T, int DK, int Groups>
__global__ void __launch_bounds__(kThreads<Groups>, 1)
    delta_scan(const __grid_constant__ Arguments a, const __grid_constant__ CUtensorMap query_map,
               const __grid_constant__ CUtensorMap key_map, const __grid_constant__ CUtensorMap value_map) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto &shared = *reinterpret_cast<Shared<DK, Groups> *>(memory);
  const int request = blockIdx.y, parts = a.value_dim / (kColumns * Groups);
  const int head = blockIdx.x / parts, first_column = blockIdx.x % parts * kColumns * Groups;
  const RowRange rows = row_range(a.row_starts, request, a.max_rows);
  if (rows.begin == rows.end) return;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&shared.full[i], 2);
      barrier_init(&shared.empty[i], 128 * Groups);
    }
    barrier_init(&shared.tail, 1);
    barrier_init_fence();
  }
  // What lies above the triangles stays zero.
  for (int i = threadIdx.x; i < static_cast<int>(sizeof shared.triangles) / 16; i += kThreads<Groups>)
    reinterpret_cast<uint4 *>(shared.triangles)[i] = make_uint4(0, 0, 0, 0);
  proxy_fence();
  __syncthreads();
  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);  // so that the compiler knows it is one for the warp
  if (warpgroup == Groups) {
    if constexpr (Groups > 1) registers_release<40>();
    if (threadIdx.x < 128 * Groups + 32)
      scan_copy<DK, Groups>(shared, a, &query_map, &key_map, &value_map, rows, request, head, first_column);
  } else {
    if constexpr (Groups > 1) registers_claim<232>();
    scan_compute<T, DK, Groups>(shared, a, rows, request, head, first_column);
  }
}

template <class T, int DK, int Groups>
up_status launch(const up_delta_prefill &p, const uint8_t *records, cudaStream_t stream, up_backend_error *error) {
  constexpr const char *phase = "launch delta scan";
  CUtensorMap query_map, key_map, value_map;
  const Tensor queries{p.queries, p.max_rows, p.key_heads, 1, p.query_row_stride, DK, 0};
  const Tensor keys{p.keys, p.max_rows, p.key_heads, 1, p.key_row_stride, DK, 0};
  const Tensor values{p.values, p.max_rows, p.value_heads, 1, p.value_row_stride, p.value_dim, 0};
  if (up_status s = encode_map(&query_map, p.dtype, DK, queries, kChunk, "map queries", error); s != UP_OK) return s;
  if (up_status s = encode_map(&key_map, p.dtype, DK, keys, kChunk, "map keys", error); s != UP_OK) return s;
  if (up_status s = encode_map(&value_map, p.dtype, p.value_dim, values, kChunk, "map values", error); s != UP_OK) return s;
  const auto kernel = delta_scan<T, DK, Groups>;
  constexpr int bytes = sizeof(Shared<DK, Groups>);
  if (up_status s = allow_shared_memory(reinterpret_cast<const void *>(kernel), bytes, phase, error); s != UP_OK) return s;
  const Arguments arguments{p.row_starts,
                            p.states,
                            records,
                            p.output,
                            p.output_row_stride,
                            p.requests,
                            p.max_rows,
                            p.value_heads / p.key_heads,
                            p.value_heads,
                            p.value_dim};
  const dim3 grid(static_cast<unsigned>(p.value_heads * (p.value_dim / (kColumns * Groups))), static_cast<unsigned>(p.requests));
  kernel<<<grid, kThreads<Groups>, bytes, stream>>>(arguments, query_map, key_map, value_map);
  return check_launch(phase, error);
}

template <class T, int DK>
up_status launch(const up_delta_prefill &p, const uint8_t *records, cudaStream_t stream, up_backend_error *error) {
  // Few heads: a multiprocessor for each half of one, since a chain of chunks takes its time however many share a block. Many:
  // both halves in one block, which share keys, queries and records.
  const bool split = p.value_dim == kColumns || int64_t{2} * p.requests * p.value_heads <= multiprocessors();
  return split ? launch<T, DK, 1>(p, records, stream, error) : launch<T, DK, 2>(p, records, stream, error);
}

template <class T>
up_status launch(const up_delta_prefill &p, const uint8_t *records, cudaStream_t stream, up_backend_error *error) {
  return p.key_dim == 64 ? launch<T, 64>(p, records, stream, error) : launch<T, 128>(p, records, stream, error);
}

}  // namespace

up_status launch_delta_scan(const up_delta_prefill &p, const uint8_t *records, cudaStream_t stream, up_backend_error *error) {
  return p.dtype == UP_BF16 ? launch<__nv_bfloat16>(p, records, stream, error) : launch<__half>(p, records, stream, error);
}

}  // namespace up::cuda
