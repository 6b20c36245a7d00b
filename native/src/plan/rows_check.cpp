#include "runner/plan_check.h"

#include <algorithm>
#include <string>

#include "runner/memory_transaction.h"

namespace up {
namespace {

class Checker {
 public:
  explicit Checker(const RunnerState &state)
      : state_(state),
        last_(state.layout.last_segment()),
        has_item_(state.slots.size()),
        is_sampled_(state.slots.size()) {}

  void decode_rows() const;
  Item item(int index, const int32_t *record);
  void samples(const Records &records, StepWork &work);

 private:
  template <class... Parts>
  [[noreturn]] void refuse(int index, const Parts &...detail) const {
    refuse_record(Section::items, index, detail...);
  }
  // Who else holds a slab that cannot be written.
  std::string sharing(int slab) const;
  // Pages for rows [first, end) of a segment's table are there and nobody else's.
  void require_writable(int index, const Slot &slot, int table, int first, int end) const;
  void dense_item(int index, const Slot &slot, const Item &item) const;
  void dropping_item(int index, const Slot &slot, const Item &item) const;
  void check_first_row(int index, const Slot &slot, const Item &item) const;

  const RunnerState &state_;
  int last_;
  std::vector<bool> has_item_;    // [slots]
  std::vector<bool> is_sampled_;  // [slots]
};

std::string Checker::sharing(int slab) const {
  const Slab &record = state_.pool[slab];
  const int tables = record.references - (record.cached ? 1 : 0);
  return tables > 1 ? "which " + std::to_string(tables) + " tables hold" : "which is read-only since it was cached";
}

void Checker::decode_rows() const {
  if (state_.decode_set.size() > static_cast<size_t>(state_.max_rows_per_step)) {
    fail(UP_INVALID_PLAN, "check plan", "the decode set has ", state_.decode_set.size(), " members, a step has at most ",
         state_.max_rows_per_step, " rows");
  }
  for (size_t i = 0; i < state_.decode_set.size(); i++) {
    const int number = state_.decode_set[i];
    const Slot &slot = state_.slots[static_cast<size_t>(number)];
    const auto refuse_member = [&](const auto &...detail) {
      fail(UP_INVALID_PLAN, "check plan", "decode set[", i, "]: slot ", number, detail...);
    };
    if (slot.length(0) >= state_.max_tokens) {
      refuse_member(" has ", slot.length(0), " rows, a slot holds at most ", state_.max_tokens);
    }
    for (int s = 0; s <= last_; s++) {
      const Segment &segment = state_.layout.segments[static_cast<size_t>(s)];
      const int row = slot.length(s);
      const auto require_own = [&](const char *what, int number_of_table) {
        const PageTable &table = slot.tables[static_cast<size_t>(number_of_table)];
        if (table.capacity() <= row) {
          refuse_member(": row ", row, " of segment ", s, " has no page, its table has room for ", table.capacity(), " rows");
        }
        if (const int slab = table.shared_slab(row, row + 1); slab >= 0) {
          refuse_member(": ", what, " row ", row, " of segment ", s, " would write slab ", slab, ", ", sharing(slab));
        }
      };
      require_own("K/V", segment.full);
      if (s == 0 && slot.carries_decode(state_.layout)) require_own("carry", segment.carry);
    }
  }
}

void Checker::require_writable(int index, const Slot &slot, int table, int first, int end) const {
  const PageTable &pages = slot.tables[static_cast<size_t>(table)];
  if (end > pages.capacity()) {
    refuse(index, "rows ", first, " to ", end, " of table ", table, ", which has room for ", pages.capacity());
  }
  if (const int slab = pages.shared_slab(first, end); slab >= 0) {
    refuse(index, "rows ", first, " to ", end, " of table ", table, " would write slab ", slab, ", ", sharing(slab));
  }
}

// Rows are computed in order. The first ones may have come with mapped or copied pages.
void Checker::check_first_row(int index, const Slot &slot, const Item &item) const {
  const int computed = slot.segment(item.first_segment).computed;
  if (item.first_row == computed) return;
  int64_t covered = INT32_MAX;
  for (size_t t = 0; t < slot.tables.size(); t++) {
    const Table &table = state_.layout.tables[t];
    const bool concerned = slot.drops ? table.segment == item.first_segment : table.kind == TableKind::full;
    if (concerned) covered = std::min(covered, int64_t{slot.tables[t].filled_pages()} * state_.layout.page_size);
  }
  if (computed == 0 && item.first_row <= covered) return;
  refuse(index, "begins at row ", item.first_row, " of segment ", item.first_segment, ", of which ",
         std::max<int64_t>(computed, computed == 0 ? covered : 0), " rows are computed");
}

// A slot that does not drop: rows pass every layer.
void Checker::dense_item(int index, const Slot &slot, const Item &item) const {
  if (item.first_segment != 0 || item.last_segment != last_) {
    refuse(index, "segments ", item.first_segment, " to ", item.last_segment, ", a slot that does not drop has 0 to ", last_);
  }
  if (item.rows == 0) refuse(index, "0 rows, and no selection follows");
  const int end = item.first_row + item.rows;
  for (int s = 0; s <= last_; s++) {
    require_writable(index, slot, state_.layout.segments[static_cast<size_t>(s)].full, item.first_row, end);
  }
}

void Checker::dropping_item(int index, const Slot &slot, const Item &item) const {
  const int first = item.first_segment;
  const int end = item.first_row + item.rows;
  const bool completes = end == slot.rows(first);
  if (item.rows == 0 && (!completes || first == last_)) refuse(index, "0 rows, and no selection follows");
  if (item.last_segment > first && !completes) {
    refuse(index, "goes on to segment ", item.last_segment, " but ends at row ", end, " of ", slot.rows(first),
           " of segment ", first);
  }
  for (int s = first; s <= item.last_segment; s++) {
    const Segment &segment = state_.layout.segments[static_cast<size_t>(s)];
    // Rows of a set that is not selected yet are bounded by those of the last known one.
    int bound = s;
    while (!slot.segment(bound).is_known()) bound--;
    const int from = s == first ? item.first_row : 0;
    const int to = s == first ? end : slot.rows(bound);
    require_writable(index, slot, segment.full, from, to);
    if (segment.carry >= 0) require_writable(index, slot, segment.carry, from, to);
  }
}

Item Checker::item(int index, const int32_t *record) {
  const Item item{record[0], record[1], record[2], record[3], record[4]};
  const auto slots = state_.slots.size();
  if (item.slot < 0 || static_cast<size_t>(item.slot) >= slots) refuse(index, "slot ", item.slot, " of ", slots);
  const Slot &slot = state_.slots[static_cast<size_t>(item.slot)];
  if (!slot.open) refuse(index, "slot ", item.slot, " is not open");
  if (has_item_[static_cast<size_t>(item.slot)]) refuse(index, "slot ", item.slot, " has an item already");
  has_item_[static_cast<size_t>(item.slot)] = true;
  if (slot.decode_index >= 0) refuse(index, "slot ", item.slot, " is in the decode set");
  if (item.first_segment < 0 || item.first_segment > item.last_segment || item.last_segment > last_) {
    refuse(index, "segments ", item.first_segment, " to ", item.last_segment, ", there are 0 to ", last_);
  }
  for (int s = 0; s < item.first_segment && slot.drops; s++) {
    if (!slot.segment(s).done) {
      refuse(index, "begins in segment ", item.first_segment, ", but segment ", s, " is not finished: ",
             slot.segment(s).computed, " rows are computed");
    }
  }
  if (slot.segment(item.first_segment).done) {
    refuse(index, "begins in segment ", item.first_segment, ", which is finished with ", slot.rows(item.first_segment),
           " rows");
  }
  const int rows = slot.rows(item.first_segment);
  if (item.first_row < 0 || item.rows < 0 || item.first_row > rows || item.rows > rows - item.first_row) {
    refuse(index, "rows ", item.first_row, " + ", item.rows, " of segment ", item.first_segment, ", which has ", rows);
  }
  check_first_row(index, slot, item);
  if (slot.drops) {
    dropping_item(index, slot, item);
  } else {
    dense_item(index, slot, item);
  }
  return item;
}

void Checker::samples(const Records &records, StepWork &work) {
  for (int i = 0; i < records.count(); i++) {
    const int number = records.record(i)[0];
    const int slot = records.record(i)[1];
    const auto refuse_sample = [&](const auto &...detail) { refuse_record(Section::samples, i, detail...); };
    if (number < 0 || static_cast<size_t>(number) >= work.items.size()) {
      refuse_sample("item ", number, " of ", work.items.size());
    }
    const Item &item = work.items[static_cast<size_t>(number)];
    const Slot &content = state_.slots[static_cast<size_t>(item.slot)];
    if (item.last_segment != last_ || item.first_row + item.rows != content.rows(item.first_segment)) {
      refuse_sample("item ", number, " ends at row ", item.first_row + item.rows, " of ", content.rows(item.first_segment),
                    " of segment ", item.first_segment, " and goes on to segment ", item.last_segment, " of ", last_);
    }
    if (slot < 0 || static_cast<size_t>(slot) >= state_.slots.size()) refuse_sample("slot ", slot, " of ", state_.slots.size());
    const Slot &target = state_.slots[static_cast<size_t>(slot)];
    if (!target.open) refuse_sample("slot ", slot, " is not open");
    if (is_sampled_[static_cast<size_t>(slot)]) refuse_sample("slot ", slot, " is sampled already");
    is_sampled_[static_cast<size_t>(slot)] = true;
    if (slot != item.slot) {
      const char *fault = has_item_[static_cast<size_t>(slot)] ? "has an item" : target.adoption_fault(content);
      if (fault != nullptr) refuse_sample("slot ", slot, " cannot go on from slot ", item.slot, ": it ", fault);
    }
    work.samples.push_back({number, slot});
  }
}

}  // namespace

StepWork check_work(const RunnerState &state, const Plan &plan) {
  StepWork work;
  Checker checker(state);
  const Records &joins = plan[Section::joins];
  for (int i = 0; i < joins.count(); i++) {
    if (joins.record(i)[1] >= 0) work.forced.push_back({joins.record(i)[0], joins.record(i)[1]});
  }
  checker.decode_rows();
  const Records &items = plan[Section::items];
  int64_t rows = static_cast<int64_t>(state.decode_set.size());
  for (int i = 0; i < items.count(); i++) {
    work.items.push_back(checker.item(i, items.record(i)));
    rows += work.items.back().rows;
    if (rows > state.max_rows_per_step) {
      refuse_record(Section::items, i, "brings the step to ", rows, " rows, ", state.decode_set.size(),
                    " of them decode rows; a step has at most ", state.max_rows_per_step);
    }
  }
  checker.samples(plan[Section::samples], work);
  return work;
}

}  // namespace up
