#include "plan/rows_check.h"

#include <algorithm>
#include <string>

#include "selection/sparsity.h"

namespace up {
namespace {

class RowsCheck {
 public:
  RowsCheck(const Books &books, StepWork &work)
      : books_(books), work_(work), last_(books.layout.last_segment()), segment_rows_(books.layout.segments.size()) {}

  void decode_rows();
  void items(const Records &records);
  void samples(const Records &records);

 private:
  template <class... Parts>
  [[noreturn]] void refuse(const Parts &...detail) const {
    fail(UP_INVALID_PLAN, "check plan", place_, detail...);
  }
  void item(const Item &item);
  void whole_blocks(const Slot &slot, const Item &item) const;
  void dense_item(const Slot &slot, const Item &item);
  void dropping_item(const Slot &slot, const Item &item);
  // Pages that rows [first, end) of a segment write and read, and the state that they go on from.
  void segment_pass(const Slot &slot, int number, int segment, int first, int end);
  // The table holds rows [low, end), and those from `first` may be written.
  void table_rows(int number, int table, int low, int first, int end) const;
  void state(const Slot &slot, int number, int segment, int first) const;
  void count_rows(int segment, int rows);
  bool has_item(int slot) const {
    return std::any_of(work_.items.begin(), work_.items.end(), [&](const Item &item) { return item.slot == slot; });
  }
  // Who else holds a slab that cannot be written.
  std::string sharing(int slab) const;

  const Books &books_;
  StepWork &work_;
  int last_;
  std::vector<int64_t> segment_rows_;  // prefill rows of the step in each segment
  std::string place_;
};

std::string RowsCheck::sharing(int slab) const {
  const Slab &record = books_.slab(slab);
  const int tables = record.references - (record.cached ? 1 : 0);
  return tables > 1 ? "which " + std::to_string(tables) + " tables hold" : "which is read-only since it was cached";
}

void RowsCheck::table_rows(int number, int table, int low, int first, int end) const {
  if (low >= end) return;
  const Table &form = books_.layout.table(table);
  const int page_size = books_.layout.page_size;
  const int freed = books_.slot(number).freed_pages[static_cast<size_t>(table)];
  const int pages = books_.pages(number, table);
  if (low / page_size < freed) {
    refuse("row ", low, " of table ", table, " of slot ", number, " is in page ", low / page_size, ", and ", freed,
           " were given back");
  }
  if (books_.layout.pages_for(end) > pages) {
    refuse("rows ", first, " to ", end, " of table ", table, " of slot ", number, ", which has room for ", pages * page_size);
  }
  if (first >= end) return;
  const PageTable &slabs = books_.tables.of(number, table);
  const int begin_slab = first / page_size * form.slabs_per_page;
  const int end_slab = books_.layout.pages_for(end) * form.slabs_per_page;
  for (int i = begin_slab; i < end_slab; i++) {
    const int slab = slabs[static_cast<size_t>(i)];
    if (!books_.slab(slab).is_writable()) {
      refuse("rows ", first, " to ", end, " of table ", table, " of slot ", number, " would write slab ", slab, ", ", sharing(slab));
    }
  }
}

// The state is behind the row before `first`.
void RowsCheck::state(const Slot &slot, int number, int segment, int first) const {
  if (!books_.layout.has_states()) return;
  if (slot.state_slot < 0) refuse("slot ", number, " has no recurrent state");
  const int absorbed = books_.state(slot.state_slot).absorbed[static_cast<size_t>(segment)];
  if (absorbed != first) {
    refuse("the state of slot ", number, " has absorbed ", absorbed, " rows of segment ", segment, ", the next is ", first);
  }
}

void RowsCheck::count_rows(int segment, int rows) {
  int64_t &count = segment_rows_[static_cast<size_t>(segment)];
  count += rows;
  const auto decodes = static_cast<int64_t>(books_.decode_set.size());
  if (count + decodes > books_.limits.max_rows_per_step) {
    refuse("brings segment ", segment, " of the step to ", count + decodes, " rows, ", decodes,
           " of them decode rows; a step has at most ", books_.limits.max_rows_per_step);
  }
}

void RowsCheck::segment_pass(const Slot &slot, int number, int index, int first, int end) {
  const Segment &segment = books_.layout.segment(index);
  for (const int t : segment.attention) {
    const Table &table = books_.layout.table(t);
    const bool known = slot.segment(index).is_known();
    // Before its set is known a window can only be counted in kept rows, which shows no fewer of them.
    const int low = table.kind == TableKind::full ? 0
                    : known ? slot.first_visible(index, first, table.window, books_.schedule.window_by_original)
                            : std::max(0, first - table.window + 1);
    table_rows(number, t, low, first, end);
  }
  if (slot.drops() && segment.carry >= 0) table_rows(number, segment.carry, first, first, end);
  if (slot.drops() && index > 0 && first < end) {
    const Segment &before = books_.layout.segment(index - 1);
    const int rows = slot.rows(index - 1);
    for (const int t : before.attention) {
      if (books_.layout.table(t).kind == TableKind::full) table_rows(number, t, 0, rows, rows);
    }
    table_rows(number, before.carry, 0, rows, rows);
  }
  state(slot, number, index, first);
}

void RowsCheck::decode_rows() {
  const auto members = books_.decode_set.size();
  if (members > static_cast<size_t>(books_.limits.max_rows_per_step)) {
    fail(UP_INVALID_PLAN, "check plan", "the decode set has ", members, " members, a step has at most ",
         books_.limits.max_rows_per_step, " rows");
  }
  for (size_t i = 0; i < members; i++) {
    const int number = books_.decode_set[i];
    const Slot &slot = books_.slot(number);
    place_ = text("decode set[", i, "]: ");
    if (slot.length(0) >= books_.limits.max_tokens) {
      refuse("slot ", number, " has ", slot.length(0), " rows, a slot holds at most ", books_.limits.max_tokens);
    }
    for (int s = 0; s <= last_; s++) {
      const int row = slot.length(s);
      for (const int t : books_.layout.segment(s).attention) {
        const Table &table = books_.layout.table(t);
        const int low = table.kind == TableKind::full
                            ? 0
                            : slot.first_visible(s, row, table.window, books_.schedule.window_by_original);
        table_rows(number, t, low, row, row + 1);
      }
      state(slot, number, s, row);
    }
    if (const int carry = books_.decode_carry(slot, number); carry >= 0) {
      table_rows(number, carry, slot.length(0), slot.length(0), slot.length(0) + 1);
    }
  }
}

// Of a slot that does not drop: rows pass every layer.
void RowsCheck::dense_item(const Slot &slot, const Item &item) {
  if (item.first_segment != 0 || item.last_segment != last_) {
    refuse("segments ", item.first_segment, " to ", item.last_segment, ", a slot that does not drop has 0 to ", last_);
  }
  if (item.rows == 0) refuse("0 rows, and no selection follows");
  const int end = item.first_row + item.rows;
  for (int s = 0; s <= last_; s++) {
    count_rows(s, item.rows);
    segment_pass(slot, item.slot, s, item.first_row, end);
  }
}

void RowsCheck::dropping_item(const Slot &slot, const Item &item) {
  const int first = item.first_segment;
  const int end = item.first_row + item.rows;
  const bool completes = end == slot.rows(first);
  if (item.rows == 0 && (!completes || first == last_)) refuse("0 rows, and no selection follows");
  if (item.last_segment > first && !completes) {
    refuse("goes on to segment ", item.last_segment, " but ends at row ", end, " of ", slot.rows(first), " of segment ", first);
  }
  count_rows(first, item.rows);
  segment_pass(slot, item.slot, first, item.first_row, end);
  for (int s = first + 1; s <= item.last_segment; s++) {
    count_rows(s, slot.rows(s));
    segment_pass(slot, item.slot, s, 0, slot.rows(s));
  }
}

// Where rows leave out keys, which ones must not depend on where a prompt is cut.
void RowsCheck::whole_blocks(const Slot &slot, const Item &item) const {
  if (!books_.limits.sparse_prefill) return;
  const int end = item.first_row + item.rows;
  if (item.first_row % sparse_query_rows != 0 || (end % sparse_query_rows != 0 && end != slot.rows(item.first_segment))) {
    refuse("rows ", item.first_row, " to ", end, " of ", slot.rows(item.first_segment), ": with prefill sparsity prompts are cut at multiples of ",
           sparse_query_rows);
  }
}

void RowsCheck::item(const Item &item) {
  const auto slots = books_.slots.size();
  if (item.slot < 0 || static_cast<size_t>(item.slot) >= slots) refuse("slot ", item.slot, " of ", slots);
  const Slot &slot = books_.slot(item.slot);
  if (!slot.is_open()) refuse("slot ", item.slot, " is not open");
  if (has_item(item.slot)) refuse("slot ", item.slot, " has an item already");
  if (slot.decode_index >= 0) refuse("slot ", item.slot, " is in the decode set");
  if (slot.adopted) refuse("slot ", item.slot, " goes on from another slot's prefill");
  if (item.first_segment < 0 || item.first_segment > item.last_segment || item.last_segment > last_) {
    refuse("segments ", item.first_segment, " to ", item.last_segment, ", there are 0 to ", last_);
  }
  for (int s = 0; s < item.first_segment && slot.drops(); s++) {
    if (!slot.segment(s).done) {
      refuse("begins in segment ", item.first_segment, ", but segment ", s, " is not finished: ", slot.segment(s).computed,
             " rows are computed");
    }
  }
  const SegmentState &segment = slot.segment(item.first_segment);
  const int rows = slot.rows(item.first_segment);
  if (segment.done) refuse("begins in segment ", item.first_segment, ", which is finished with ", rows, " rows");
  if (item.first_row < 0 || item.rows < 0 || item.first_row > rows || item.rows > rows - item.first_row) {
    refuse("rows ", item.first_row, " + ", item.rows, " of segment ", item.first_segment, ", which has ", rows);
  }
  if (item.first_row != segment.computed) {
    refuse("begins at row ", item.first_row, " of segment ", item.first_segment, ", of which ", segment.computed,
           " rows are computed");
  }
  whole_blocks(slot, item);
  if (slot.drops()) {
    dropping_item(slot, item);
  } else {
    dense_item(slot, item);
  }
}

void RowsCheck::items(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    const int32_t *record = records.record(i);
    place_ = text("items[", i, "]: ");
    const Item next{record[0], record[1], record[2], record[3], record[4]};
    item(next);
    work_.items.push_back(next);
  }
}

void RowsCheck::samples(const Records &records) {
  std::vector<int> sampled;
  for (int i = 0; i < records.count(); i++) {
    const int number = records.record(i)[0];
    const int target = records.record(i)[1];
    place_ = text("samples[", i, "]: ");
    if (number < 0 || static_cast<size_t>(number) >= work_.items.size()) refuse("item ", number, " of ", work_.items.size());
    const Item &item = work_.items[static_cast<size_t>(number)];
    const Slot &source = books_.slot(item.slot);
    if (item.last_segment != last_ || item.first_row + item.rows != source.rows(item.first_segment)) {
      refuse("item ", number, " ends at row ", item.first_row + item.rows, " of ", source.rows(item.first_segment), " of segment ",
             item.first_segment, " and goes on to segment ", item.last_segment, " of ", last_);
    }
    if (target < 0 || static_cast<size_t>(target) >= books_.slots.size()) refuse("slot ", target, " of ", books_.slots.size());
    const Slot &slot = books_.slot(target);
    if (!slot.is_open()) refuse("slot ", target, " is not open");
    if (std::find(sampled.begin(), sampled.end(), target) != sampled.end()) refuse("slot ", target, " is sampled already");
    sampled.push_back(target);
    if (target != item.slot) {
      const char *fault = has_item(target) ? "has an item" : slot.adoption_fault(source);
      for (int t = 0; t < books_.tables.tables && fault == nullptr; t++) {
        if (!books_.tables.of(target, t).empty()) fault = "has pages of its own";
      }
      if (fault != nullptr) refuse("slot ", target, " cannot go on from slot ", item.slot, ": it ", fault);
    }
    work_.samples.push_back({number, target});
  }
}

}  // namespace

void check_rows(const Books &books, const Plan &plan, StepWork &work) {
  RowsCheck check(books, work);
  check.decode_rows();
  check.items(plan[Section::items]);
  check.samples(plan[Section::samples]);
}

}  // namespace up
