// The backend's own small kernels: page tables, carry rows, rotary angles, token counts. Launches; errors are the caller's to ask for.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/parallel/peer_sum.h"

namespace up::cuda {

// A cell of the page tables and its slab.
struct TableCell {
  int32_t at;
  int32_t slab;
};

void launch_scatter(const TableCell *cells, int count, int32_t *tables, cudaStream_t stream);

// target[i] = source[from[i]], rows of `row_bytes` (a multiple of 16).
void launch_gather_rows(const void *source, const int32_t *from, void *target, int rows, int64_t row_bytes, cudaStream_t stream);

// target[i] = source[from[i]], single words.
void launch_gather_words(const int32_t *source, const int32_t *from, int32_t *target, int count, cudaStream_t stream);

// Rows of carry tables: row rows[i] of slot slots[i] lies in page rows[i] / page_size, whose slabs follow one another; the
// cells of slab j of a slot's page are at tables[(j · slots + slot) · pages + page]. A row with slots[i] < 0 is left out. It has a part in
// each of the pools, in the same place.
struct CarryPages {
  std::byte *pools[most_peers];
  int parts;
  int64_t slab_bytes;  // a multiple of 16
  const int32_t *tables;
  int slots, pages, page_size;
};

// Parts of `part_bytes`, one behind the other in rows that lie `stride_bytes` apart; both multiples of 16.
void launch_read_carry(const CarryPages &pages, const int32_t *slots, const int32_t *rows, void *residual, int64_t stride_bytes,
                       int count, int64_t part_bytes, cudaStream_t stream);
void launch_write_carry(const CarryPages &pages, const int32_t *slots, const int32_t *rows, const void *residual, int64_t stride_bytes,
                        int count, int64_t part_bytes, cudaStream_t stream);

// cosines[p, i] = cos(p · frequencies[i]), computed in double precision; [positions, pairs].
void launch_rope_table(const double *frequencies, int pairs, int positions, float *cosines, float *sines, cudaStream_t stream);

// Pseudo-random bf16 of both signs, below 1 in size: what timings are made with, since a chip is faster on zeros.
void launch_fill_random(void *target, int64_t count, cudaStream_t stream);

// Adds tokens to a slot's bits of prompt tokens and counts of output tokens; both are the slot's own rows. Token i belongs to the
// prompt when first + i < prompt_length.
void launch_count_tokens(const int32_t *tokens, int first, int count, int prompt_length, int vocab_size, uint32_t *prompt_bits,
                         int32_t *output_counts, cudaStream_t stream);

// Log probabilities of rows of f32 logits: of the wanted token, then of the `count` most likely, the lower token of equals first.
// tokens and logprobs are [rows, 1 + most]; a row has 1 + counts[i] of them. Rows are those of the logits that `rows` names.
void launch_log_probabilities(const float *logits, int64_t stride, int vocab_size, const int32_t *rows, const int32_t *wanted,
                              const int32_t *counts, int count, int most, int32_t *tokens, float *logprobs, cudaStream_t stream);

}  // namespace up::cuda
