#include "plan/apply.h"

#include <algorithm>
#include <set>

#include "plan/rows_check.h"

namespace up {
namespace {

const char *kind_name(TableKind kind) {
  return kind == TableKind::full ? "full" : kind == TableKind::sliding ? "sliding" : "carry";
}

// Rows that a table must go on holding: those that are there and will still be read.
int needed_rows(const Slot &slot, const Table &table) {
  if (table.kind != TableKind::carry) return slot.length(table.segment);
  return slot.drops() && !slot.segment(table.segment + 1).done ? slot.segment(table.segment).computed : 0;
}

class Application {
 public:
  Application(Books &books, const Plan &plan, const TakeContent &take) : books_(books), plan_(plan), take_(take) {}

  StepWork run();

 private:
  int open_slot(const Records &records, int index) const;
  int table_of(const Records &records, int index) const;
  Slab &slab_of(const Records &records, int index, int slab) const;
  // Whether a slot may begin in this plan with pages that others have computed: it had none before.
  bool may_begin(int slot) const;
  void push(int slot, int table, int slab);
  void set(int slot, int table, int index, int slab);

  void retain(const Records &records);
  void leave(const Records &records);
  void close(const Records &records);
  void open(const Records &records);
  void trim(const Records &records);
  void free_windows(const Records &records);
  void evict(const Records &records);
  void map(const Records &records);
  void count_mapped_rows(int slot);
  void grant(const Records &records);
  void copy(const Records &records);
  void change_states(const Records &records);
  void join(const Records &records);
  // After all sections that change tables: pages are whole.
  void check_whole(const Records &records) const;
  // After the copies: pages that are granted for rows which another slot has computed are filled by one.
  void check_copied(const Records &grants) const;

  Books &books_;
  const Plan &plan_;
  const TakeContent &take_;
  StepWork work_;
  std::set<int> hits_;  // slots that are given rows that others have computed
};

int Application::open_slot(const Records &records, int index) const {
  const int slot = records.record(index)[0];
  const auto slots = books_.slots.size();
  if (slot < 0 || static_cast<size_t>(slot) >= slots) {
    refuse_record(records.section, index, "slot ", slot, " of ", slots);
  }
  if (!books_.slot(slot).is_open()) refuse_record(records.section, index, "slot ", slot, " is not open");
  return slot;
}

int Application::table_of(const Records &records, int index) const {
  open_slot(records, index);
  const int table = records.record(index)[1];
  if (table < 0 || table >= books_.tables.tables) {
    refuse_record(records.section, index, "table ", table, " of ", books_.tables.tables);
  }
  return table;
}

Slab &Application::slab_of(const Records &records, int index, int slab) const {
  if (slab < 0 || static_cast<size_t>(slab) >= books_.slabs.size()) {
    refuse_record(records.section, index, "slab ", slab, " of ", books_.slabs.size());
  }
  return books_.slab(slab);
}

bool Application::may_begin(int slot) const {
  if (!books_.slot(slot).may_map()) return false;
  if (hits_.contains(slot)) return true;
  for (int t = 0; t < books_.tables.tables; t++) {
    if (!books_.tables.of(slot, t).empty()) return false;
  }
  return true;
}

void Application::set(int slot, int table, int index, int slab) { work_.memory.tables.push_back({slot, table, index, slab}); }

void Application::push(int slot, int table, int slab) {
  PageTable &pages = books_.tables.of(slot, table);
  set(slot, table, static_cast<int>(pages.size()), slab);
  pages.push_back(slab);
  books_.add_reference(slab);
}

void Application::retain(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    const int slab = records.record(i)[0];
    Slab &record = slab_of(records, i, slab);
    if (record.references == 0) refuse_record(records.section, i, "slab ", slab, " is free");
    if (record.cached) refuse_record(records.section, i, "slab ", slab, " is cached already");
    record.cached = true;
    record.read_only = true;
    books_.add_reference(slab);
  }
}

void Application::leave(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    const int slot = open_slot(records, i);
    if (books_.slot(slot).decode_index < 0) refuse_record(records.section, i, "slot ", slot, " is not in the decode set");
    books_.leave_decode(slot);
  }
}

void Application::close(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    const int slot = open_slot(records, i);
    if (books_.slot(slot).decode_index >= 0) refuse_record(records.section, i, "slot ", slot, " is in the decode set");
    books_.close(slot);
  }
}

void Application::open(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    const int slot = records.record(i)[0];
    const int id = records.record(i)[1];
    const auto slots = books_.slots.size();
    if (slot < 0 || static_cast<size_t>(slot) >= slots) refuse_record(records.section, i, "slot ", slot, " of ", slots);
    if (books_.slot(slot).is_open()) refuse_record(records.section, i, "slot ", slot, " is open already");
    auto content = take_(id);
    if (content == nullptr) refuse_record(records.section, i, "there is no content ", id);
    books_.open(slot, std::move(content));
  }
}

void Application::trim(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    const int t = table_of(records, i);
    const int slot = records.record(i)[0];
    const int pages = records.record(i)[2];
    const int freed = books_.slot(slot).freed_pages[static_cast<size_t>(t)];
    const int held = books_.pages(slot, t) - freed;
    if (pages < 0 || pages > held) {
      refuse_record(records.section, i, "keeps ", pages, " pages of table ", t, " of slot ", slot, ", which has ", held);
    }
    const int room = (freed + pages) * books_.layout.page_size;
    const int needed = needed_rows(books_.slot(slot), books_.layout.table(t));
    if (pages < held && room < needed) {
      refuse_record(records.section, i, "table ", t, " of slot ", slot, " is left with room for ", room, " rows, ", needed,
                    " are still needed");
    }
    PageTable &table = books_.tables.of(slot, t);
    const auto rest = static_cast<size_t>((freed + pages) * books_.layout.table(t).slabs_per_page);
    for (size_t at = rest; at < table.size(); at++) books_.drop_reference(table[at]);
    table.resize(rest);
  }
}

void Application::free_windows(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    const int t = table_of(records, i);
    const int slot = records.record(i)[0];
    const int pages = records.record(i)[2];
    const Table &form = books_.layout.table(t);
    if (form.kind != TableKind::sliding) {
      refuse_record(records.section, i, "table ", t, " is ", kind_name(form.kind), ", not sliding");
    }
    Slot &record = books_.slot(slot);
    PageTable &table = books_.tables.of(slot, t);
    int &freed = record.freed_pages[static_cast<size_t>(t)];
    if (table.empty() && may_begin(slot)) {
      const int most = record.rows(form.segment) / books_.layout.page_size;
      if (pages < 1 || pages > most) refuse_record(records.section, i, "leaves out ", pages, " pages of ", most);
      table.assign(static_cast<size_t>(pages * form.slabs_per_page), -1);
      for (int at = 0; at < pages * form.slabs_per_page; at++) set(slot, t, at, -1);
      freed = pages;
      hits_.insert(slot);
      continue;
    }
    const int held = books_.pages(slot, t) - freed;
    if (pages < 1 || pages > held) refuse_record(records.section, i, "gives back ", pages, " pages of ", held);
    for (int at = freed * form.slabs_per_page; at < (freed + pages) * form.slabs_per_page; at++) {
      books_.drop_reference(table[static_cast<size_t>(at)]);
      table[static_cast<size_t>(at)] = -1;
      set(slot, t, at, -1);
    }
    freed += pages;
  }
}

void Application::evict(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    const int slab = records.record(i)[0];
    Slab &record = slab_of(records, i, slab);
    if (!record.cached) refuse_record(records.section, i, "slab ", slab, " is not cached");
    record.cached = false;
    books_.drop_reference(slab);
  }
}

void Application::map(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    const int t = table_of(records, i);
    const int32_t *record = records.record(i);
    const Slot &slot = books_.slot(record[0]);
    if (!slot.may_map()) {
      refuse_record(records.section, i, "slot ", record[0], " has computed ", slot.segment(0).computed, " rows, ", slot.decoded,
                    " decoded");
    }
    if (!may_begin(record[0])) refuse_record(records.section, i, "slot ", record[0], " has pages already");
    if (slab_of(records, i, record[2]).references == 0) {
      refuse_record(records.section, i, "slab ", record[2], " is free: neither the cache nor a table holds it");
    }
    push(record[0], t, record[2]);
    hits_.insert(record[0]);
  }
  for (const int slot : hits_) count_mapped_rows(slot);
}

// Mapped pages bring their rows: segment 0 of a slot that drops, every segment of one that does not. A slot that adopted a
// prefill has every row already.
void Application::count_mapped_rows(int number) {
  Slot &slot = books_.slot(number);
  if (slot.adopted) return;
  int pages = INT32_MAX;
  for (int t = 0; t < books_.tables.tables; t++) {
    const Table &table = books_.layout.table(t);
    const bool concerned = slot.drops() ? table.segment == 0 : table.kind != TableKind::carry;
    if (concerned) pages = std::min(pages, books_.pages(number, t));
  }
  const int64_t rows = int64_t{pages} * books_.layout.page_size;
  if (rows > slot.rows(0)) {
    fail(UP_INVALID_PLAN, "check plan", "maps: ", rows, " rows for slot ", number, ", which has ", slot.rows(0));
  }
  for (size_t s = 0; s < slot.segments.size(); s++) {
    if (s == 0 || !slot.drops()) slot.segments[s].computed = static_cast<int>(rows);
  }
}

void Application::grant(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    const int t = table_of(records, i);
    const int32_t *record = records.record(i);
    const Slab &slab = slab_of(records, i, record[2]);
    if (slab.references != 0) {
      refuse_record(records.section, i, "slab ", record[2], " is not free: it has ", slab.references, " references, ",
                    books_.free_slabs, " of ", books_.slabs.size(), " slabs are free");
    }
    push(record[0], t, record[2]);
  }
}

void Application::copy(const Records &records) {
  if (records.count() == 0) return;
  const Records &grants = plan_[Section::grants];
  std::set<int32_t> granted;
  for (int i = 0; i < grants.count(); i++) granted.insert(grants.record(i)[2]);
  for (int i = 0; i < records.count(); i++) {
    const int source = records.record(i)[0];
    const int target = records.record(i)[1];
    if (slab_of(records, i, source).references == 0) refuse_record(records.section, i, "source slab ", source, " is free");
    slab_of(records, i, target);
    if (!granted.contains(target)) refuse_record(records.section, i, "target slab ", target, " is not granted in this step");
    if (granted.contains(source)) refuse_record(records.section, i, "source slab ", source, " is granted in this step: it holds nothing");
    work_.memory.copies.emplace_back(source, target);
  }
}

void Application::change_states(const Records &records) {
  enum Operation { zero = 0, snapshot = 1, restore = 2 };
  using StateChange = MemoryChanges::StateChange;
  for (int i = 0; i < records.count(); i++) {
    const int number = open_slot(records, i);
    const int operation = records.record(i)[1];
    const int target = records.record(i)[2];
    const auto refuse = [&](const auto &...detail) { refuse_record(records.section, i, detail...); };
    if (target < 0 || static_cast<size_t>(target) >= books_.states.size()) {
      refuse("state slot ", target, " of ", books_.states.size());
    }
    Slot &slot = books_.slot(number);
    StateSlot &state = books_.state(target);
    if (operation != restore && state.owner >= 0 && state.owner != number) {
      refuse("state slot ", target, " belongs to slot ", state.owner);
    }
    if (operation == zero) {
      if (slot.state_slot >= 0) books_.state(slot.state_slot).owner = -1;
      slot.state_slot = target;
      books_.state_slots_of[static_cast<size_t>(number)] = target;
      state = {number, false, std::vector<int>(books_.layout.segments.size())};
      work_.memory.states.push_back({StateChange::zero, target, target});
      continue;
    }
    if (operation != snapshot && operation != restore) refuse("operation ", operation);
    if (slot.state_slot < 0) refuse("slot ", number, " has no state");
    if (state.owner == number) refuse("state slot ", target, " is the slot's own");
    if (operation == snapshot) {
      state.kept = true;
      state.absorbed = books_.state(slot.state_slot).absorbed;
      work_.memory.states.push_back({StateChange::copy, slot.state_slot, target});
    } else {
      if (state.owner < 0 && !state.kept) refuse("state slot ", target, " holds no state");
      books_.state(slot.state_slot).absorbed = state.absorbed;
      work_.memory.states.push_back({StateChange::copy, target, slot.state_slot});
    }
  }
}

void Application::join(const Records &records) {
  for (int i = 0; i < records.count(); i++) {
    const int number = open_slot(records, i);
    const int token = records.record(i)[1];
    const Slot &slot = books_.slot(number);
    if (slot.decode_index >= 0) refuse_record(records.section, i, "slot ", number, " is in the decode set already");
    if (!slot.is_prefilled()) {
      refuse_record(records.section, i, "slot ", number, " has computed ", slot.segment(0).computed, " of ", slot.rows(0),
                    " rows of segment 0 and not every segment");
    }
    if (token < -1 || token >= books_.limits.vocab_size) {
      refuse_record(records.section, i, "token ", token, ", the vocabulary has ", books_.limits.vocab_size);
    }
    if (token == -1 && !slot.sampled) refuse_record(records.section, i, "slot ", number, " has sampled no token to go on from");
    if (token >= 0) work_.forced[number] = token;
    books_.join_decode(number);
  }
}

void Application::check_whole(const Records &records) const {
  for (int i = 0; i < records.count(); i++) {
    const int32_t *record = records.record(i);
    const int per_page = books_.layout.table(record[1]).slabs_per_page;
    const size_t held = books_.tables.of(record[0], record[1]).size();
    if (held % static_cast<size_t>(per_page) != 0) {
      refuse_record(records.section, i, "table ", record[1], " of slot ", record[0], " is left with ", held,
                    " slabs, a page has ", per_page);
    }
  }
}

void Application::check_copied(const Records &grants) const {
  for (int i = 0; i < grants.count(); i++) {
    const int32_t *record = grants.record(i);
    const Slot &slot = books_.slot(record[0]);
    const Table &form = books_.layout.table(record[1]);
    if (!slot.adopted || slot.decoded > 0 || form.kind == TableKind::carry) continue;
    const PageTable &table = books_.tables.of(record[0], record[1]);
    const auto at = static_cast<int>(std::find(table.begin(), table.end(), record[2]) - table.begin());
    if (at / form.slabs_per_page * books_.layout.page_size >= slot.length(form.segment)) continue;
    const auto &copies = work_.memory.copies;
    const auto fills = [&](const auto &copy) { return copy.second == record[2]; };
    if (std::any_of(copies.begin(), copies.end(), fills)) continue;
    refuse_record(grants.section, i, "slab ", record[2], " of table ", record[1], " of slot ", record[0],
                  " is granted for rows that are computed, and no copy fills it");
  }
}

StepWork Application::run() {
  retain(plan_[Section::retains]);
  leave(plan_[Section::leaves]);
  close(plan_[Section::closes]);
  open(plan_[Section::opens]);
  trim(plan_[Section::trims]);
  free_windows(plan_[Section::window_frees]);
  evict(plan_[Section::evictions]);
  map(plan_[Section::maps]);
  grant(plan_[Section::grants]);
  for (const Section section : {Section::maps, Section::grants}) check_whole(plan_[section]);
  copy(plan_[Section::copies]);
  check_copied(plan_[Section::grants]);
  change_states(plan_[Section::states]);
  join(plan_[Section::joins]);
  check_rows(books_, plan_, work_);
  return std::move(work_);
}

}  // namespace

StepWork apply_plan(Books &books, const Plan &plan, const TakeContent &take) {
  return Application(books, plan, take).run();
}

}  // namespace up
