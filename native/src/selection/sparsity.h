// Prefill that leaves out keys: which blocks of 64 keys a block of 128 query rows reads in a layer of full attention, for each KV
// head, by the attention of every 16th of those rows. Rows are counted from the segment's first, so a row reads the same keys
// however its prompt is cut.
#pragma once

#include <cstdint>
#include <span>

namespace up {

constexpr int sparse_query_rows = 128;
constexpr int sparse_key_rows = 64;
// The last of every so many rows is looked at.
constexpr int sparse_sample_every = 16;
constexpr int sparse_samples = sparse_query_rows / sparse_sample_every;
// Read by every row, whatever their mass: the first keys, and those that the query rows themselves are.
constexpr int sparse_sink_blocks = 2;
constexpr int sparse_own_blocks = sparse_query_rows / sparse_key_rows;
// A probability of 1, as an integer. 511 heads of 8 samples add up to less than 2³².
constexpr float sparse_unit = 0x1p20f;
constexpr int sparse_most_heads = 511;

constexpr int sparse_words(int key_rows) { return (key_rows + 32 * sparse_key_rows - 1) / (32 * sparse_key_rows); }

// Sets the bits of the blocks with the most mass that have a share p of it together, with all that have as much as the last of
// these, and of those that are always read. `masses`: of the blocks that the rows see, their own last. p_q32 < 2³².
void choose_key_blocks(std::span<const uint32_t> masses, uint64_t p_q32, uint32_t *bitmap);
// Sets the bits of all of `blocks`.
void keep_key_blocks(int blocks, uint32_t *bitmap);
int64_t count_key_blocks(std::span<const uint32_t> bitmaps);

}  // namespace up
