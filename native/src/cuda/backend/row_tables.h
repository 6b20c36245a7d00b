// Row tables on the device. The layers of a segment ask with the same table, so what was sent lately is remembered by its
// contents and sent once.
#pragma once

#include <cstdint>
#include <vector>

#include "backend.h"
#include "cuda/backend/upload_ring.h"

namespace up::cuda {

// Device pointers into one table. Decode rows come first, one a group.
struct DeviceRows {
  int rows = 0;
  int decode_rows = 0;
  int prefill_groups = 0;
  int decode_keys = 0;   // the most that a decode row sees
  int prefill_keys = 0;  // the same of the others
  const int32_t *positions = nullptr;      // [rows]
  const int32_t *places = nullptr;         // [rows], −1: none
  const int32_t *first_visible = nullptr;  // [rows], or nullptr
  const int32_t *slots = nullptr;          // [rows], −1: none
  const int32_t *ends = nullptr;           // [decode rows] keys that they see
  const int32_t *row_starts = nullptr;     // [prefill groups + 1]
  const int32_t *group_slots = nullptr;    // [prefill groups]
  const int32_t *all_starts = nullptr;     // [all groups + 1], the decode rows' first
  const int32_t *states = nullptr;         // [all groups] state slots, −1: none
  std::vector<int32_t> host_starts;        // all_starts
  // Of rows that leave out keys, of prefill groups that have any; empty: all read all keys.
  struct SparseGroup {
    int first;   // row of the step
    int place;   // of that row
    int blocks;  // of 128 rows
    int first_bitmap;
    const int32_t *lengths;  // [blocks / 16, rounded up] keys that the last row of every 16 blocks sees
    const int32_t *slots;    // the same number of times its slot
  };
  std::vector<SparseGroup> sparse;
  int bitmaps = 0;                         // blocks of 128 rows of all prefill groups, each counted from its group's first
  const int32_t *bitmap_starts = nullptr;  // [prefill groups]
};

// Elements that a table of these capacities takes.
size_t row_table_elements(int rows, int groups);

// The state slots of a table's groups.
std::vector<int32_t> states_of(const RowTable &table, const std::vector<int32_t> *state_slots_of);

// Lays `table` and its groups' state slots out in `out` as on the device; the result's pointers are those that it has there, from
// `base` on. Decode rows are padded to `decode_rows` of them with rows of no slot, where there are no others.
DeviceRows lay_out(const RowTable &table, const std::vector<int32_t> &states, int decode_rows, const int32_t *base,
                   std::vector<int32_t> &out);

class RowTables {
 public:
  // `count` tables of at most `rows` rows and `groups` groups.
  RowTables(Device &device, int count, int rows, int groups, const std::vector<int32_t> *state_slots_of);

  const DeviceRows &find(const RowTable &table, UploadRing &ring);
  size_t bytes() const { return memory_.bytes(); }

 private:
  struct Entry {
    RowTable content;
    std::vector<int32_t> states;
    DeviceRows rows;
    uint64_t used = 0;
  };
  const std::vector<int32_t> *state_slots_of_;
  size_t elements_;  // of an entry
  DeviceBuffer memory_;
  std::vector<Entry> entries_;
  std::vector<int32_t> laid_out_;
  uint64_t clock_ = 0;
};

bool same_rows(const RowTable &a, const RowTable &b);

}  // namespace up::cuda
