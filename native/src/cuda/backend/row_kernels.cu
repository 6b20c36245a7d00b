#include "cuda/backend/row_kernels.h"

#include <algorithm>

namespace up::cuda {
namespace {

constexpr int kThreads = 256;

unsigned blocks_for(int64_t work, int64_t most = 65536) {
  return static_cast<unsigned>(std::min<int64_t>((work + kThreads - 1) / kThreads, most));
}

__global__ void __launch_bounds__(kThreads) scatter(const TableCell *cells, int count, int32_t *tables) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i < count) tables[cells[i].at] = cells[i].slab;
}

__global__ void __launch_bounds__(kThreads)
    gather_rows(const uint4 *source, const int32_t *from, uint4 *target, int rows, int pieces) {
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    const uint4 *in = source + static_cast<int64_t>(from[row]) * pieces;
    uint4 *out = target + static_cast<int64_t>(row) * pieces;
    for (int at = threadIdx.x; at < pieces; at += kThreads) out[at] = in[at];
  }
}

__global__ void __launch_bounds__(kThreads) gather_words(const int32_t *source, const int32_t *from, int32_t *target, int count) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i < count) target[i] = source[from[i]];
}

template <bool Write>
__global__ void __launch_bounds__(kThreads)
    carry_rows(const CarryPages p, const int32_t *slots, const int32_t *rows, uint4 *residual, int64_t stride, int count, int pieces) {
  for (int i = blockIdx.x; i < count; i += gridDim.x) {
    const int slot = slots[i], row = rows[i];
    if (slot < 0 || slot >= p.slots || row < 0 || row >= p.pages * p.page_size) continue;
    const int page = row / p.page_size;
    const int64_t begin = static_cast<int64_t>(row % p.page_size) * pieces * 16;
    uint4 *own = residual + i * stride;
    for (int at = threadIdx.x; at < pieces * p.parts; at += kThreads) {
      const int64_t byte = begin + static_cast<int64_t>(at % pieces) * 16;
      const int64_t number = byte / p.slab_bytes;
      const int slab = __ldg(p.tables + (number * p.slots + slot) * p.pages + page);
      auto *stored = reinterpret_cast<uint4 *>(p.pools[at / pieces] + slab * p.slab_bytes + (byte - number * p.slab_bytes));
      if (Write)
        *stored = own[at];
      else
        own[at] = *stored;
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    rope_table(const double *frequencies, int pairs, int64_t cells, float *cosines, float *sines) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < cells;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    double sine, cosine;
    sincos(static_cast<double>(i / pairs) * frequencies[i % pairs], &sine, &cosine);
    cosines[i] = static_cast<float>(cosine);
    sines[i] = static_cast<float>(sine);
  }
}

__global__ void __launch_bounds__(kThreads) fill_random(uint32_t *target, int64_t pairs) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < pairs; i += static_cast<int64_t>(gridDim.x) * kThreads) {
    uint64_t z = (static_cast<uint64_t>(i) + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z ^= z >> 27;
    // Exponents 2⁻⁵ … 2⁻¹ by turns, any sign and fraction.
    const uint32_t exponents = (0x7au + static_cast<uint32_t>(z >> 60) % 5u) * 0x00800080u;
    target[i] = (static_cast<uint32_t>(z) & 0x807f807fu) | exponents;
  }
}

__global__ void __launch_bounds__(kThreads) count_tokens(const int32_t *tokens, int first, int count, int prompt_length,
                                                         int vocab_size, uint32_t *prompt_bits, int32_t *output_counts) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= count) return;
  const int token = tokens[i];
  if (token < 0 || token >= vocab_size) return;
  if (first + i < prompt_length)
    atomicOr(prompt_bits + token / 32, 1u << (token % 32));
  else
    atomicAdd(output_counts + token, 1);
}

constexpr int kLogThreads = 1024;

struct Best {
  float score;
  int token;
};

__device__ __forceinline__ bool better(Best a, Best b) {
  return a.score > b.score || (a.score == b.score && a.token < b.token);
}

// The best of all threads, for all threads.
__device__ Best block_best(Best best, Best (&parts)[32]) {
  const auto reduce = [&] {
    for (int step = 16; step > 0; step /= 2) {
      const Best other{__shfl_xor_sync(~0u, best.score, step), __shfl_xor_sync(~0u, best.token, step)};
      if (better(other, best)) best = other;
    }
  };
  reduce();
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = best;
  __syncthreads();
  best = parts[threadIdx.x % 32];
  reduce();
  return best;
}

__global__ void __launch_bounds__(kLogThreads)
    log_probabilities(const float *logits, int64_t stride, int vocab, const int32_t *rows, const int32_t *wanted,
                      const int32_t *counts, int most, int32_t *tokens, float *logprobs) {
  __shared__ Best parts[32];
  __shared__ double sums[32];
  const float *x = logits + rows[blockIdx.x] * stride;
  const float lowest = __int_as_float(0xff800000);
  const auto next_after = [&](Best previous) {
    Best best{lowest, vocab};
    for (int i = threadIdx.x; i < vocab; i += kLogThreads) {
      const Best candidate{x[i], i};
      if (better(previous, candidate) && better(candidate, best)) best = candidate;
    }
    return block_best(best, parts);
  };
  const Best top = next_after({__int_as_float(0x7f800000), -1});
  double sum = 0;
  for (int i = threadIdx.x; i < vocab; i += kLogThreads) sum += static_cast<double>(expf(x[i] - top.score));
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  double total = 0;
  for (int i = 0; i < 32; ++i) total += sums[i];
  const double log_total = static_cast<double>(top.score) + log(total);
  int32_t *out_tokens = tokens + static_cast<int64_t>(blockIdx.x) * (1 + most);
  float *out = logprobs + static_cast<int64_t>(blockIdx.x) * (1 + most);
  if (threadIdx.x == 0) {
    const int token = min(max(wanted[blockIdx.x], 0), vocab - 1);
    out_tokens[0] = token;
    out[0] = static_cast<float>(static_cast<double>(x[token]) - log_total);
  }
  Best next = top;
  for (int i = 0; i < counts[blockIdx.x]; ++i) {
    if (threadIdx.x == 0) {
      out_tokens[1 + i] = next.token;
      out[1 + i] = static_cast<float>(static_cast<double>(next.score) - log_total);
    }
    if (i + 1 < counts[blockIdx.x]) next = next_after(next);
  }
}

}  // namespace

void launch_scatter(const TableCell *cells, int count, int32_t *tables, cudaStream_t stream) {
  if (count > 0) scatter<<<blocks_for(count, INT32_MAX), kThreads, 0, stream>>>(cells, count, tables);
}

void launch_gather_rows(const void *source, const int32_t *from, void *target, int rows, int64_t row_bytes, cudaStream_t stream) {
  if (rows > 0)
    gather_rows<<<std::min(rows, 65536), kThreads, 0, stream>>>(static_cast<const uint4 *>(source), from,
                                                                static_cast<uint4 *>(target), rows, static_cast<int>(row_bytes / 16));
}

void launch_gather_words(const int32_t *source, const int32_t *from, int32_t *target, int count, cudaStream_t stream) {
  if (count > 0) gather_words<<<blocks_for(count, INT32_MAX), kThreads, 0, stream>>>(source, from, target, count);
}

void launch_read_carry(const CarryPages &pages, const int32_t *slots, const int32_t *rows, void *residual, int64_t stride_bytes,
                       int count, int64_t part_bytes, cudaStream_t stream) {
  if (count > 0)
    carry_rows<false><<<std::min(count, 65536), kThreads, 0, stream>>>(
        pages, slots, rows, static_cast<uint4 *>(residual), stride_bytes / 16, count, static_cast<int>(part_bytes / 16));
}

void launch_write_carry(const CarryPages &pages, const int32_t *slots, const int32_t *rows, const void *residual, int64_t stride_bytes,
                        int count, int64_t part_bytes, cudaStream_t stream) {
  if (count > 0)
    carry_rows<true><<<std::min(count, 65536), kThreads, 0, stream>>>(pages, slots, rows,
                                                                      static_cast<uint4 *>(const_cast<void *>(residual)),
                                                                      stride_bytes / 16, count, static_cast<int>(part_bytes / 16));
}

void launch_rope_table(const double *frequencies, int pairs, int positions, float *cosines, float *sines, cudaStream_t stream) {
  const int64_t cells = static_cast<int64_t>(positions) * pairs;
  if (cells > 0) rope_table<<<blocks_for(cells), kThreads, 0, stream>>>(frequencies, pairs, cells, cosines, sines);
}

void launch_fill_random(void *target, int64_t count, cudaStream_t stream) {
  if (count > 1) fill_random<<<blocks_for(count / 2), kThreads, 0, stream>>>(static_cast<uint32_t *>(target), count / 2);
}

void launch_count_tokens(const int32_t *tokens, int first, int count, int prompt_length, int vocab_size, uint32_t *prompt_bits,
                         int32_t *output_counts, cudaStream_t stream) {
  if (count > 0)
    count_tokens<<<blocks_for(count, INT32_MAX), kThreads, 0, stream>>>(tokens, first, count, prompt_length, vocab_size, prompt_bits,
                                                                        output_counts);
}

void launch_log_probabilities(const float *logits, int64_t stride, int vocab_size, const int32_t *rows, const int32_t *wanted,
                              const int32_t *counts, int count, int most, int32_t *tokens, float *logprobs, cudaStream_t stream) {
  if (count > 0)
    log_probabilities<<<count, kLogThreads, 0, stream>>>(logits, stride, vocab_size, rows, wanted, counts, most, tokens, logprobs);
}

}  // namespace up::cuda
