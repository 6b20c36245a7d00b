// The selection rule in exact integers; the same as packages/model/src/Selection.ts.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "uniprefill/operators.h"

namespace up {

struct SelectionShape {
  int rows;  // |S_i|, generated rows excluded
  int block;
  int sink;
  int last_q;

  int blocks() const { return (rows + block - 1) / block; }
  int words() const { return (blocks() + 31) / 32; }
  // Nothing to choose: every row is forced.
  bool keeps_all() const { return rows <= sink + last_q; }
};

// The bitmap with every block of the shape set.
std::vector<uint32_t> full_bitmap(const SelectionShape &shape);

// Chooses the blocks to keep. Masses are unsigned with 40 fractional bits, one per block; p_q32 ≤ 2³².
std::vector<uint32_t> select_blocks(std::span<const uint64_t> masses, uint64_t p_q32, up_rule rule,
                                    const SelectionShape &shape);

// Rows that stay: those of set blocks, the first `sink` and the last `last_q`; ascending.
std::vector<int32_t> kept_indices(std::span<const uint32_t> bitmap, const SelectionShape &shape);

}  // namespace up
