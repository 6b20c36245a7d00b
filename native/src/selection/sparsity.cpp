#include "selection/sparsity.h"

#include <algorithm>
#include <bit>

namespace up {

void choose_key_blocks(std::span<const uint32_t> masses, uint64_t p_q32, uint32_t *bitmap) {
  const auto sum_from = [&](uint64_t least) {
    uint64_t sum = 0;
    for (const uint32_t mass : masses) sum += mass >= least ? mass : 0;
    return sum;
  };
  const uint64_t total = sum_from(0);
  const uint64_t wanted = (total * p_q32 + UINT32_MAX) >> 32;
  // The greatest mass from which on there is enough: enough from `least`, too little from `more`.
  uint64_t least = 0, more = uint64_t{UINT32_MAX} + 1;
  while (more - least > 1) {
    const uint64_t middle = least + (more - least) / 2;
    (sum_from(middle) >= wanted ? least : more) = middle;
  }
  const auto blocks = static_cast<int>(masses.size());
  std::fill_n(bitmap, sparse_words(blocks * sparse_key_rows), 0);
  for (int block = 0; block < blocks; block++) {
    const bool always = block < sparse_sink_blocks || block >= blocks - sparse_own_blocks;
    if (always || masses[static_cast<size_t>(block)] >= least) bitmap[block / 32] |= 1u << (block % 32);
  }
}

void keep_key_blocks(int blocks, uint32_t *bitmap) {
  for (int word = 0; 32 * word < blocks; word++) bitmap[word] = blocks - 32 * word >= 32 ? UINT32_MAX : (1u << (blocks - 32 * word)) - 1;
}

int64_t count_key_blocks(std::span<const uint32_t> bitmaps) {
  int64_t count = 0;
  for (const uint32_t word : bitmaps) count += std::popcount(word);
  return count;
}

}  // namespace up
