// The selection rule: worked examples, and the properties that the rest relies on.
#include <algorithm>
#include <random>

#include "check.h"
#include "selection/selection.h"

namespace {

using Masses = std::vector<uint64_t>;
constexpr uint64_t one = uint64_t{1} << 32;

std::vector<int> blocks_of(const std::vector<uint32_t> &bitmap) {
  std::vector<int> out;
  for (int block = 0; block < static_cast<int>(bitmap.size()) * 32; block++) {
    if (bitmap[static_cast<size_t>(block) / 32] >> (block % 32) & 1) out.push_back(block);
  }
  return out;
}

std::vector<int> selected(const Masses &masses, double p, up_rule rule, const up::SelectionShape &shape) {
  return blocks_of(up::select_blocks(masses, static_cast<uint64_t>(p * one), rule, shape));
}

using Blocks = std::vector<int>;

void check_examples() {
  // 6 blocks of 10 rows, the last one of 5; blocks 0 and 5 are wholly forced, block 4 only half.
  const up::SelectionShape shape{55, 10, 10, 10};
  const Masses masses = {1000, 1, 6, 3, 2, 500};
  CHECK(selected(masses, 0, UP_RULE_EXCLUSIVE, shape) == (Blocks{0, 2, 5}), "p = 0 keeps the heaviest");
  // Of 12 outside: 6 before block 3, 9 before block 4, 11 before block 1.
  CHECK(selected(masses, 0.5, UP_RULE_EXCLUSIVE, shape) == (Blocks{0, 2, 3, 5}), "mass before is 6 of 12: not above half");
  CHECK(selected(masses, 0.74, UP_RULE_EXCLUSIVE, shape) == (Blocks{0, 2, 3, 5}));
  CHECK(selected(masses, 0.75, UP_RULE_EXCLUSIVE, shape) == (Blocks{0, 2, 3, 4, 5}));
  CHECK(selected(masses, 1, UP_RULE_EXCLUSIVE, shape) == (Blocks{0, 1, 2, 3, 4, 5}));
  // The reference rule counts the forced blocks too: 1,512 in all.
  CHECK(selected(masses, 0.5, UP_RULE_REFERENCE, shape) == (Blocks{0}));
  CHECK(selected(masses, 0.9, UP_RULE_REFERENCE, shape) == (Blocks{0, 5}));
  CHECK(selected({4, 4, 4, 4, 4, 4}, 0.25, UP_RULE_EXCLUSIVE, shape) == (Blocks{0, 3, 4, 5}), "ties go to the later block");
  CHECK(selected({9, 0, 0, 0, 0, 9}, 0.5, UP_RULE_EXCLUSIVE, shape) == (Blocks{0, 1, 2, 3, 4, 5}), "nothing to go by: keep all");
  CHECK(selected(masses, 0, UP_RULE_REFERENCE, {20, 10, 10, 10}) == (Blocks{0, 1}), "every row is forced: keep all");
  const auto kept = up::kept_indices(std::vector<uint32_t>{0b000100}, shape);
  CHECK(kept.size() == 30 && kept[9] == 9 && kept[10] == 20 && kept[20] == 45 && kept.back() == 54);
}

void check_properties() {
  std::mt19937_64 random(5);
  for (int round = 0; round < 500; round++) {
    const int block = 16 << random() % 3;
    const up::SelectionShape shape{1 + static_cast<int>(random() % 3000), block, static_cast<int>(random() % 200),
                                   1 + static_cast<int>(random() % 200)};
    Masses masses(static_cast<size_t>(shape.blocks()));
    // As large as the fixed point gets: totals exceed 64 bits.
    for (uint64_t &mass : masses) mass = random() >> (random() % 3 == 0 ? 8 : 40);
    const uint64_t p = random() % (one + 1);
    const auto bitmap = up::select_blocks(masses, p, UP_RULE_EXCLUSIVE, shape);
    const auto more = up::select_blocks(masses, p + (one - p) / 2, UP_RULE_EXCLUSIVE, shape);
    for (size_t i = 0; i < bitmap.size(); i++) CHECK((bitmap[i] & ~more[i]) == 0, "a larger p keeps what a smaller one keeps");
    CHECK(up::select_blocks(masses, one, UP_RULE_EXCLUSIVE, shape) == up::full_bitmap(shape));
    const auto kept = up::kept_indices(bitmap, shape);
    CHECK(std::is_sorted(kept.begin(), kept.end()) && std::adjacent_find(kept.begin(), kept.end()) == kept.end());
    for (const int row : {0, shape.sink - 1, shape.rows - shape.last_q, shape.rows - 1}) {
      if (row >= 0 && row < shape.rows && (row < shape.sink || row >= shape.rows - shape.last_q)) {
        CHECK(std::binary_search(kept.begin(), kept.end(), row), "forced row %d is kept", row);
      }
    }
    // Share: the blocks kept hold more than p of the mass in question, or everything.
    unsigned __int128 total = 0;
    unsigned __int128 held = 0;
    for (int b = 0; b < shape.blocks(); b++) {
      const int first = b * block;
      const int end = std::min(first + block, shape.rows);
      if (end <= shape.sink || first >= shape.rows - shape.last_q) continue;
      total += masses[static_cast<size_t>(b)];
      if (bitmap[static_cast<size_t>(b) / 32] >> (b % 32) & 1) held += masses[static_cast<size_t>(b)];
    }
    CHECK(held == total || held > (total * p >> 32));
  }
}

}  // namespace

int main() {
  check_examples();
  check_properties();
  return check_result();
}
