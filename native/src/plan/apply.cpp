#include "runner/memory_transaction.h"

#include <algorithm>

namespace up {
namespace {

const char *kind_name(TableKind kind) {
  return kind == TableKind::full ? "full" : kind == TableKind::sliding ? "sliding" : "carry";
}

// Rows that a table must go on holding: those written and still to be read.
int needed_rows(const Slot &slot, const Table &table) {
  if (table.kind == TableKind::full) return slot.length(table.segment);
  const bool read = slot.drops && !slot.segment(table.segment + 1).done;
  return read ? slot.segment(table.segment).computed : 0;
}

}  // namespace

MemoryTransaction::~MemoryTransaction() {
  if (kept_) return;
  for (size_t i = changes_.size(); i-- > 0;) undo(changes_[i]);
  for (const int32_t slot : state_.decode_set) state_.slots[static_cast<size_t>(slot)].decode_index = -1;
  state_.decode_set.clear();
  for (const int32_t slot : decode_set_) state_.join_decode(slot);
}

void MemoryTransaction::undo(const Change &change) {
  state_.pool.restore(change.slab, change.before);
  if (change.kind == Kind::slab) return;
  PageTable &table = state_.slots[static_cast<size_t>(change.slot)].tables[static_cast<size_t>(change.table)];
  if (change.kind == Kind::popped) table.append(change.slab, change.was_filled);
  if (change.kind == Kind::pushed) table.pop();
  if (change.kind == Kind::filled) table.set_filled(change.index, change.was_filled);
}

Slot &MemoryTransaction::open_slot(const Records &records, int index) {
  const int slot = records.record(index)[0];
  const auto slots = state_.slots.size();
  if (slot < 0 || static_cast<size_t>(slot) >= slots) {
    refuse_record(records.section, index, "slot ", slot, " of ", slots);
  }
  if (!state_.slots[static_cast<size_t>(slot)].open) refuse_record(records.section, index, "slot ", slot, " is not open");
  return state_.slots[static_cast<size_t>(slot)];
}

PageTable &MemoryTransaction::table_of(const Records &records, int index) {
  Slot &slot = open_slot(records, index);
  const int table = records.record(index)[1];
  if (table < 0 || static_cast<size_t>(table) >= slot.tables.size()) {
    refuse_record(records.section, index, "table ", table, " of ", slot.tables.size());
  }
  return slot.tables[static_cast<size_t>(table)];
}

Slab &MemoryTransaction::slab_of(const Records &records, int index, int slab) {
  if (slab < 0 || slab >= state_.pool.size()) {
    refuse_record(records.section, index, "slab ", slab, " of ", state_.pool.size());
  }
  return state_.pool[slab];
}

void MemoryTransaction::pop(int slot, int table) {
  PageTable &pages = state_.slots[static_cast<size_t>(slot)].tables[static_cast<size_t>(table)];
  const int last = pages.slab_count() - 1;
  const int slab = pages.slab(last);
  changes_.push_back({Kind::popped, slot, table, slab, state_.pool[slab], pages.is_filled(last)});
  pages.pop();
  state_.pool.drop_reference(slab);
}

void MemoryTransaction::push(int slot, int table, int slab, bool filled) {
  PageTable &pages = state_.slots[static_cast<size_t>(slot)].tables[static_cast<size_t>(table)];
  changes_.push_back({Kind::pushed, slot, table, slab, state_.pool[slab], false});
  pages.append(slab, filled);
  state_.pool.add_reference(slab);
}

void MemoryTransaction::leave(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    const Slot &slot = open_slot(records, i);
    const int number = records.record(i)[0];
    if (slot.decode_index < 0) refuse_record(records.section, i, "slot ", number, " is not in the decode set");
    state_.leave_decode(number);
  }
}

void MemoryTransaction::trim(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    PageTable &table = table_of(records, i);
    const int32_t *record = records.record(i);
    const int pages = record[2];
    if (pages < 0 || pages > table.pages()) {
      refuse_record(records.section, i, "keeps ", pages, " pages of table ", record[1], " of slot ", record[0],
                    ", which has ", table.pages());
    }
    while (table.slab_count() > pages * table.slabs_per_page()) pop(record[0], record[1]);
  }
}

void MemoryTransaction::free_windows(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    table_of(records, i);
    const int table = records.record(i)[1];
    const TableKind kind = state_.layout.tables[static_cast<size_t>(table)].kind;
    refuse_record(records.section, i, "table ", table, " is ", kind_name(kind), ", not sliding");
  }
}

void MemoryTransaction::drop(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    const int slab = records.record(i)[0];
    Slab &record = slab_of(records, i, slab);
    if (!record.cached) refuse_record(records.section, i, "slab ", slab, " is not cached");
    changes_.push_back({Kind::slab, -1, -1, slab, record, false});
    record.cached = false;
    state_.pool.drop_reference(slab);
  }
}

void MemoryTransaction::retain(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    const int slab = records.record(i)[0];
    Slab &record = slab_of(records, i, slab);
    if (record.references == 0) refuse_record(records.section, i, "slab ", slab, " is free");
    if (record.cached) refuse_record(records.section, i, "slab ", slab, " is cached already");
    changes_.push_back({Kind::slab, -1, -1, slab, record, false});
    record.cached = true;
    record.read_only = true;
    state_.pool.add_reference(slab);
  }
}

void MemoryTransaction::map(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    table_of(records, i);
    const int32_t *record = records.record(i);
    const Slot &slot = open_slot(records, i);
    if (!slot.may_map()) {
      refuse_record(records.section, i, "slot ", record[0], " has computed ", slot.segment(0).computed, " rows, ",
                    slot.decoded, " decoded");
    }
    if (slab_of(records, i, record[2]).references == 0) {
      refuse_record(records.section, i, "slab ", record[2], " is free: neither the cache nor a table holds it");
    }
    push(record[0], record[1], record[2], true);
  }
}

void MemoryTransaction::grant(const Records &records, bool remember) {
  for (int i = 0; i < records.count(); i++) {
    const PageTable &table = table_of(records, i);
    const int32_t *record = records.record(i);
    const Slab &slab = slab_of(records, i, record[2]);
    if (slab.references != 0) {
      refuse_record(records.section, i, "slab ", record[2], " is not free: it has ", slab.references, " references, ",
                    state_.pool.free_count(), " of ", state_.pool.size(), " slabs are free");
    }
    if (remember) granted_[record[2]] = {record[0], record[1], table.slab_count()};
    push(record[0], record[1], record[2], false);
  }
}

void MemoryTransaction::copy(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    const int source = records.record(i)[0];
    const int target = records.record(i)[1];
    if (slab_of(records, i, source).references == 0) refuse_record(records.section, i, "source slab ", source, " is free");
    const Slab &slab = slab_of(records, i, target);
    const auto found = granted_.find(target);
    if (found == granted_.end()) refuse_record(records.section, i, "target slab ", target, " is not granted in this step");
    const Place &place = found->second;
    PageTable &table = state_.slots[static_cast<size_t>(place.slot)].tables[static_cast<size_t>(place.table)];
    changes_.push_back({Kind::filled, place.slot, place.table, target, slab, table.is_filled(place.index), place.index});
    table.set_filled(place.index, true);
  }
}

void MemoryTransaction::join(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    const Slot &slot = open_slot(records, i);
    const int number = records.record(i)[0];
    const int token = records.record(i)[1];
    if (slot.decode_index >= 0) refuse_record(records.section, i, "slot ", number, " is in the decode set already");
    if (!slot.is_prefilled()) {
      refuse_record(records.section, i, "slot ", number, " has computed ", slot.segment(0).computed, " of ", slot.rows(0),
                    " rows of segment 0 and not every segment");
    }
    if (token < -1 || token >= state_.vocab_size) {
      refuse_record(records.section, i, "token ", token, ", the vocabulary has ", state_.vocab_size);
    }
    if (token == -1 && static_cast<int>(slot.tokens.size()) <= slot.length(0)) {
      refuse_record(records.section, i, "slot ", number, " has sampled no token to go on from");
    }
    state_.join_decode(number);
  }
}

// After all sections that change tables: pages are whole, and none that is still to be read is gone.
void MemoryTransaction::check_tables(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    const PageTable &table = table_of(records, i);
    const int32_t *record = records.record(i);
    const Slot &slot = state_.slots[static_cast<size_t>(record[0])];
    const Table &kind = state_.layout.tables[static_cast<size_t>(record[1])];
    if (!table.is_whole()) {
      refuse_record(records.section, i, "table ", record[1], " of slot ", record[0], " is left with ", table.slab_count(),
                    " slabs, a page has ", table.slabs_per_page());
    }
    if (table.capacity() < needed_rows(slot, kind)) {
      refuse_record(records.section, i, "table ", record[1], " of slot ", record[0], " is left with room for ",
                    table.capacity(), " rows, ", needed_rows(slot, kind), " are still needed");
    }
  }
}

void MemoryTransaction::apply(const Plan &plan) {
  leave(plan[Section::leaves]);
  retain(plan[Section::retains]);
  trim(plan[Section::trims]);
  free_windows(plan[Section::window_frees]);
  drop(plan[Section::drops]);
  map(plan[Section::maps]);
  grant(plan[Section::grants], plan[Section::copies].count() > 0);
  copy(plan[Section::copies]);
  for (const Section section : {Section::trims, Section::maps, Section::grants}) check_tables(plan[section]);
  if (plan[Section::states].count() > 0) {
    refuse_record(Section::states, 0, "this model has no recurrent state: its executor has 0 state slots");
  }
  join(plan[Section::joins]);
}

}  // namespace up
