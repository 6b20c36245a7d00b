// The sections of a plan that move slabs and members of the decode set, applied record by record, and undone as a whole
// unless the rest of the plan holds together and its step succeeds.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "abi/failure.h"
#include "runner/runner_state.h"
#include "runner/step_codec.h"

namespace up {

// Fails with UP_INVALID_PLAN naming section, record and numbers.
template <class... Parts>
[[noreturn]] void refuse_record(Section section, int record, const Parts &...detail) {
  fail(UP_INVALID_PLAN, "check plan", section_name(section), '[', record, "]: ", detail...);
}

class MemoryTransaction {
 public:
  explicit MemoryTransaction(RunnerState &state) : state_(state), decode_set_(state.decode_set) {}
  // Undoes everything unless keep() was called.
  ~MemoryTransaction();
  MemoryTransaction(const MemoryTransaction &) = delete;
  MemoryTransaction &operator=(const MemoryTransaction &) = delete;

  // Applies every section but states, items and samples. Slabs to be copied are checked, not copied.
  void apply(const Plan &plan);
  void keep() { kept_ = true; }

 private:
  // What happened to the end of a table, or only to the slab.
  enum class Kind { popped, pushed, slab, filled };
  struct Change {
    Kind kind;
    int slot;
    int table;
    int slab;
    Slab before;
    bool was_filled;
    int index = -1;  // of the slab in its table, where only `filled` changed
  };
  // Where a slab went that this plan grants.
  struct Place {
    int slot;
    int table;
    int index;
  };

  Slot &open_slot(const Records &records, int index);
  PageTable &table_of(const Records &records, int index);
  Slab &slab_of(const Records &records, int index, int slab);
  void pop(int slot, int table);
  void push(int slot, int table, int slab, bool filled);

  void leave(const Records &records);
  void trim(const Records &records);
  void free_windows(const Records &records);
  void drop(const Records &records);
  void retain(const Records &records);
  void map(const Records &records);
  // `remember`: whether copies follow.
  void grant(const Records &records, bool remember);
  void copy(const Records &records);
  void join(const Records &records);
  void check_tables(const Records &records);
  void undo(const Change &change);

  RunnerState &state_;
  std::vector<int32_t> decode_set_;
  std::vector<Change> changes_;
  std::unordered_map<int, Place> granted_;  // by slab; empty in a plan without copies
  bool kept_ = false;
};

}  // namespace up
