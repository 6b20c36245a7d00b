// What a runner's plans have made of its memory and slots: who holds which slab and state slot, and how far each slot has come.
#pragma once

#include <cstdint>
#include <vector>

#include "memory/page_tables.h"
#include "plan/slot.h"

namespace up {

struct Slab {
  int32_t references = 0;  // tables that hold it, and the prefix cache; 0: free
  bool cached = false;     // the prefix cache holds a reference
  bool read_only = false;  // it has been cached since it was granted: nobody writes it any more

  // Exactly one table holds it, and the cache never did: nobody else would see what is written.
  bool is_writable() const { return references == 1 && !read_only; }
};

struct StateSlot {
  int owner = -1;     // the slot whose running state it is
  bool kept = false;  // it holds a snapshot
  std::vector<int> absorbed;  // rows of each segment
};

struct BooksLimits {
  int slabs = 0;
  int slots = 0;
  int state_slots = 0;
  int vocab_size = 0;
  int max_rows_per_step = 0;
  int max_tokens = 0;
  bool sparse_prefill = false;  // rows of prompts read a part of the keys (selection/sparsity.h)
};

struct Books {
  Books(Layout layout, Schedule schedule, const BooksLimits &limits);

  const Layout layout;
  const Schedule schedule;
  BooksLimits limits;  // slabs may be set once, before the first step: backends count what fits
  PageTables tables;
  std::vector<Slab> slabs;
  int free_slabs;
  std::vector<StateSlot> states;
  std::vector<int32_t> state_slots_of;  // [slots] the state slot of each, −1 without
  std::vector<Slot> slots;
  std::vector<int32_t> decode_set;  // slots, in the order of their rows
  uint64_t last_step = 0;
  uint64_t openings = 0;

  Slot &slot(int number) { return slots[static_cast<size_t>(number)]; }
  const Slot &slot(int number) const { return slots[static_cast<size_t>(number)]; }
  Slab &slab(int number) { return slabs[static_cast<size_t>(number)]; }
  const Slab &slab(int number) const { return slabs[static_cast<size_t>(number)]; }
  StateSlot &state(int number) { return states[static_cast<size_t>(number)]; }
  const StateSlot &state(int number) const { return states[static_cast<size_t>(number)]; }
  // Pages that a table has or had: those given back at the front count.
  int pages(int slot, int table) const;
  // Carry table that the slot's next decode row is written to as well, −1 when there is none or it has no page for the row.
  int decode_carry(const Slot &slot, int number) const;

  void add_reference(int slab);
  void drop_reference(int slab);
  void open(int slot, std::shared_ptr<const Content> content);
  // Gives back all that a slot owns and forgets it. Requires: it is not in the decode set.
  void close(int slot);
  void join_decode(int slot);
  // The last member takes the place of the one that leaves.
  void leave_decode(int slot);
  // Forgets every slot and frees everything; the step that failed is to come again.
  void reset();
};

}  // namespace up
