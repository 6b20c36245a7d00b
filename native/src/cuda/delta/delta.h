// Prefill of the gated delta rule in two launches, over chunks of 64 rows counted from a request's first row.
//
// With G_i the sum of decays up to row i of a chunk, S the state before it and u_i the change that row i makes,
//     (I + A) u = diag(β) (V - e^G K S),       A_ij = β_i e^(G_i - G_j) k_i·k_j for j < i,
//     o = scale · (e^G Q S + P u),             P_ij = e^(G_i - G_j) q_i·k_j for j ≤ i,
//     S ← e^(G_C) S + (e^(G_C - G) K)ᵀ u.
// Everything but S is known of every chunk at once, so:
//     solve   for each (chunk, value head): T = (I + A)⁻¹ diag(β) and P, bf16, and the factors of rows; 11 KB
//     scan    for each (request, value head), chunk after chunk: u = T (V - e^G K S), o, S, with S in f32 registers
//
// Floor, 1 × 32,768 rows, 16 key and 32 value heads of 128: scan's products are 64 · 128 · (3 · 128 + 2 · 64) · 2 = 8.4 MFLOP a
// chunk and value head, solve's 2 · 64 · 64 · 128 · 2 = 2.1 a chunk and key head, 155 GFLOP in all: 0.20 ms at 780 TFLOP/s. q, k, v
// and o are 0.81 GB: 0.19 ms at 4.3 TB/s. What passes between the launches is written and read once, 0.37 GB, and q and k are
// read twice: 1.44 GB, 0.33 ms. A third limit is the chain from state to state, 512 long: four dependent products of 128 to 256 cycles
// and what lies between them, about 1,150 cycles a chunk, 0.34 ms at 1.75 GHz, whatever the number of heads.
//
// One launch for both was tried, and is slower: docs/decisions/delta-in-two-launches.md.
//
// T's entries are at most 1 where keys are at most that long and β ≤ 1, however much keys resemble each other: rows of T are what
// a product of contractions does to a key. Powers of A do not have that bound, so T comes from substitution by blocks of 16.
#pragma once

#include "cuda/common/launch.h"

namespace up::cuda {

constexpr int kChunk = 64;
constexpr int kDeltaTileBytes = kChunk * kChunk * 2;

// What solve leaves of a chunk and value head, in the order of memory: T, P and factors of rows.
//
// T and P are lower triangles. Of each lie, one after the other, the four columns of 16 × 16 blocks from the diagonal down: column j
// has rows 16·j … 63 of 32 bytes, under the 32-byte swizzle. In shared memory a column has all 64 rows, zeros at the top.
struct alignas(16) DeltaFactors {
  float key_in[kChunk];   // of Sᵀk: e^G / |k|
  float key_out[kChunk];  // of u for the next state: e^(G_C - G) / |k|
  float query[kChunk];    // of Sᵀq: scale · e^G / |q|
  float total;            // e^(G_C)
};
constexpr int kBlockColumnBytes = kChunk * 32;
constexpr int kTriangleBytes = kBlockColumnBytes * (4 + 3 + 2 + 1) / 4;
constexpr int kDeltaRecordBytes = 2 * kTriangleBytes + 1024;
static_assert(sizeof(DeltaFactors) <= 1024);

// Where the rows of column j of blocks begin.
__host__ __device__ constexpr int triangle_column(int j) { return kBlockColumnBytes / 4 * (4 * j - j * (j - 1) / 2); }

// Chunk j of a request whose rows begin at row b of the batch has slot b / 64 + request + j: no two chunks share one.
inline int64_t delta_slots(const up_delta_prefill &p) { return p.max_rows / kChunk + 1 + p.requests; }

up_status launch_delta_solve(const up_delta_prefill &p, uint8_t *records, cudaStream_t stream, up_backend_error *error);
up_status launch_delta_scan(const up_delta_prefill &p, const uint8_t *records, cudaStream_t stream, up_backend_error *error);

up_status launch_delta_decode(const up_delta_decode &p, cudaStream_t stream, up_backend_error *error);

}  // namespace up::cuda
