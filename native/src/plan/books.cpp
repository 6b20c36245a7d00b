#include "plan/books.h"

namespace up {

Books::Books(Layout layout_, Schedule schedule_, const BooksLimits &limits_)
    : layout(std::move(layout_)),
      schedule(std::move(schedule_)),
      limits(limits_),
      tables(limits.slots, static_cast<int>(layout.tables.size())) {
  reset();
}

void Books::reset() {
  for (PageTable &table : tables.lists) table.clear();
  slabs.assign(static_cast<size_t>(limits.slabs), {});
  free_slabs = limits.slabs;
  states.assign(static_cast<size_t>(limits.state_slots), {-1, false, std::vector<int>(layout.segments.size())});
  state_slots_of.assign(static_cast<size_t>(limits.slots), -1);
  slots.assign(static_cast<size_t>(limits.slots), {});
  decode_set.clear();
}

int Books::pages(int number, int table) const {
  return static_cast<int>(tables.of(number, table).size()) / layout.table(table).slabs_per_page;
}

int Books::decode_carry(const Slot &slot, int number) const {
  const int carry = layout.segments[0].carry;
  if (carry < 0 || !slot.drops()) return -1;
  return slot.length(0) < pages(number, carry) * layout.page_size ? carry : -1;
}

void Books::add_reference(int number) {
  if (slab(number).references++ == 0) free_slabs--;
}

void Books::drop_reference(int number) {
  Slab &record = slab(number);
  if (--record.references > 0) return;
  record = {};
  free_slabs++;
}

void Books::open(int number, std::shared_ptr<const Content> content) {
  Slot &out = slot(number);
  out = {};
  out.content = std::move(content);
  out.sequence = ++openings;
  out.outputs = out.content->outputs();
  out.segments.resize(layout.segments.size());
  out.freed_pages.assign(layout.tables.size(), 0);
  out.segment(0).set_rows = out.content->prompt_length;
  if (!out.drops()) {
    for (SegmentState &segment : out.segments) segment.set_rows = out.content->prompt_length;
  }
  for (size_t i = 0; i < out.content->bitmaps.size(); i++) {
    out.apply_bitmap(static_cast<int>(i), out.content->bitmaps[i], schedule);
  }
}

void Books::close(int number) {
  for (int t = 0; t < tables.tables; t++) {
    PageTable &table = tables.of(number, t);
    for (const int32_t each : table) {
      if (each >= 0) drop_reference(each);
    }
    table.clear();
  }
  Slot &record = slot(number);
  if (record.state_slot >= 0) state(record.state_slot).owner = -1;
  state_slots_of[static_cast<size_t>(number)] = -1;
  record = {};
}

void Books::join_decode(int number) {
  slot(number).decode_index = static_cast<int>(decode_set.size());
  decode_set.push_back(number);
}

void Books::leave_decode(int number) {
  const int at = slot(number).decode_index;
  const int last = decode_set.back();
  decode_set[static_cast<size_t>(at)] = last;
  slot(last).decode_index = at;
  slot(number).decode_index = -1;
  decode_set.pop_back();
}

}  // namespace up
