#include "runner/runner_state.h"

namespace up {

void RunnerState::join_decode(int slot) {
  slots[static_cast<size_t>(slot)].decode_index = static_cast<int>(decode_set.size());
  decode_set.push_back(slot);
}

void RunnerState::leave_decode(int slot) {
  const int at = slots[static_cast<size_t>(slot)].decode_index;
  const int last = decode_set.back();
  decode_set[static_cast<size_t>(at)] = last;
  slots[static_cast<size_t>(last)].decode_index = at;
  slots[static_cast<size_t>(slot)].decode_index = -1;
  decode_set.pop_back();
}

void RunnerState::close(int slot) {
  Slot &record = slots[static_cast<size_t>(slot)];
  if (record.decode_index >= 0) leave_decode(slot);
  for (PageTable &table : record.tables) {
    while (table.slab_count() > 0) {
      pool.drop_reference(table.slab(table.slab_count() - 1));
      table.pop();
    }
  }
  record = Slot{};
}

}  // namespace up
