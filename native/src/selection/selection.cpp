#include "selection/selection.h"

#include <algorithm>

namespace up {
namespace {

// A block all of whose rows are always kept.
bool is_forced(const SelectionShape &shape, int block) {
  const int first = block * shape.block;
  const int end = std::min(first + shape.block, shape.rows);
  return end <= shape.sink || first >= shape.rows - shape.last_q;
}

void keep(std::vector<uint32_t> &bitmap, int block) { bitmap[static_cast<size_t>(block) / 32] |= 1u << (block % 32); }

}  // namespace

std::vector<uint32_t> full_bitmap(const SelectionShape &shape) {
  std::vector<uint32_t> bitmap(static_cast<size_t>(shape.words()));
  for (int block = 0; block < shape.blocks(); block++) keep(bitmap, block);
  return bitmap;
}

std::vector<uint32_t> select_blocks(std::span<const uint64_t> masses, uint64_t p_q32, up_rule rule,
                                    const SelectionShape &shape) {
  if (shape.keeps_all()) return full_bitmap(shape);
  std::vector<uint32_t> bitmap(static_cast<size_t>(shape.words()));
  std::vector<int> candidates;
  unsigned __int128 total = 0;
  for (int block = 0; block < shape.blocks(); block++) {
    if (rule == UP_RULE_EXCLUSIVE && is_forced(shape, block)) {
      keep(bitmap, block);
      continue;
    }
    candidates.push_back(block);
    total += masses[static_cast<size_t>(block)];
  }
  if (total == 0) return full_bitmap(shape);
  std::sort(candidates.begin(), candidates.end(), [&](int a, int b) {
    const uint64_t mass_a = masses[static_cast<size_t>(a)];
    const uint64_t mass_b = masses[static_cast<size_t>(b)];
    return mass_a != mass_b ? mass_a > mass_b : a > b;
  });
  const unsigned __int128 threshold = (total * p_q32) >> 32;
  unsigned __int128 before = 0;
  for (const int block : candidates) {
    if (before > threshold) break;
    keep(bitmap, block);
    before += masses[static_cast<size_t>(block)];
  }
  return bitmap;
}

std::vector<int32_t> kept_indices(std::span<const uint32_t> bitmap, const SelectionShape &shape) {
  // A device waits for it: block by block.
  std::vector<int32_t> kept(static_cast<size_t>(shape.rows));
  auto to = kept.begin();
  const auto add = [&](int begin, int end) {
    for (int row = begin; row < end; row++) *to++ = row;
  };
  for (int block = 0; block < shape.blocks(); block++) {
    const int first = block * shape.block, end = std::min(first + shape.block, shape.rows);
    if ((bitmap[static_cast<size_t>(block) / 32] >> (block % 32) & 1) != 0) {
      add(first, end);
      continue;
    }
    const int sink_end = std::clamp(shape.sink, first, end);
    add(first, sink_end);
    add(std::clamp(shape.rows - shape.last_q, sink_end, end), end);
  }
  kept.erase(to, kept.end());
  return kept;
}

}  // namespace up
