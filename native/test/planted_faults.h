// One thing done wrong each, as it has been done wrong in runners: what must be found, and by which equality.
#pragma once

#include <condition_variable>
#include <mutex>

#include "cpu/cpu_layers.h"
#include "faulty_backend.h"
#include "random_cases.h"

namespace faults {

using up::MatrixKind;
using up::MemoryChanges;
using up::RowGroup;
using up::Rows;
using up::RowTable;

// Whether a state slot is the running state of some slot.
inline bool is_running(const up::BackendOptions &options, int state) {
  const auto &running = *options.state_slots_of;
  return std::find(running.begin(), running.end(), state) != running.end();
}

// Copies of states that `is_late` names come once the step's rows have been absorbed.
template <bool snapshots>
class StatesCopiedLate : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  void begin(const MemoryChanges &changes) override {
    MemoryChanges now = changes;
    now.states = std::exchange(late_, {});
    for (const MemoryChanges::State &state : changes.states) {
      const bool is_late = state.change == MemoryChanges::StateChange::copy && is_running(options, state.target) != snapshots;
      (is_late ? late_ : now.states).push_back(state);
    }
    inner->begin(now);
  }

 private:
  std::vector<MemoryChanges::State> late_;
};

class StatesNotZeroed : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  void begin(const MemoryChanges &changes) override {
    MemoryChanges now = changes;
    std::erase_if(now.states, [](const auto &state) { return state.change == MemoryChanges::StateChange::zero; });
    inner->begin(now);
  }
};

// A chunk's convolution begins with zeros, not with the inputs of the rows before it.
class ConvolutionForgotten : public FaultyBackend {
 public:
  explicit ConvolutionForgotten(MadeBackend made) : FaultyBackend(std::move(made)) {
    static up::cpu::Kernels kernels;
    kernels = *up::cpu::portable_kernels();
    kernels.delta_inputs = [](const float *projected, const up::cpu::DeltaGroup *groups, int count,
                              const up::cpu::DeltaShape &shape, const up::cpu::DeltaWeights &weights,
                              const up::cpu::DeltaRows &rows) {
      for (int i = 0; i < count; i++) {
        if (groups[i].rows > 1) std::fill_n(groups[i].conv, (shape.conv_kernel - 1) * shape.conv_width(), 0.0f);
      }
      up::cpu::portable_kernels()->delta_inputs(projected, groups, count, shape, weights, rows);
    };
    inner = std::make_unique<up::cpu::CpuBackend>(checkpoint, options, kernels, 1);
  }
};

// Recurrent layers behind a selection absorb rows that it dropped, before those of the chunk.
class DroppedRowsAbsorbed : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  void read_carry(Rows rows, const up::CarryRows &carry) override {
    inner->read_carry(rows, carry);
    kept_ = carry;
  }
  void recur(Rows tile, int layer, const RowTable &rows) override {
    const RowGroup &group = rows.groups.back();
    const bool enters = rows.segment == kept_.segment + 1 && !kept_.slots.empty() && kept_.slots.back() == group.slot;
    if (enters && group.rows > 1) {
      // Behind the step's rows there is room for some of them.
      up::CarryRows dropped{kept_.segment, {}, {}};
      for (size_t i = 1; i < kept_.rows.size() && dropped.rows.size() < 8; i++) {
        if (kept_.slots[i - 1] != group.slot || kept_.rows[i] == kept_.rows[i - 1] + 1) continue;
        dropped.slots.push_back(group.slot);
        dropped.rows.push_back(kept_.rows[i] - 1);
      }
      const Rows spare{rows.rows(), static_cast<int>(dropped.rows.size())};
      if (spare.count > 0) {
        RowTable table = rows;
        table.groups = {{group.slot, spare.begin, spare.count}};
        table.decode_rows = 0;
        table.positions.resize(static_cast<size_t>(spare.end()));
        inner->read_carry(spare, dropped);
        project(spare, layer);
        inner->recur(spare, layer, table);
        project(tile, layer);
      }
    }
    inner->recur(tile, layer, rows);
  }

 private:
  void project(Rows tile, int layer) {
    inner->norm(tile, layer, up::Norm::input);
    inner->linear(tile, layer, MatrixKind::delta_in);
  }
  up::CarryRows kept_;
};

// Steps of decode rows alone advance the states twice.
class DecodedTwice : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  void recur(Rows tile, int layer, const RowTable &rows) override {
    inner->recur(tile, layer, rows);
    if (rows.decode_rows == rows.rows()) inner->recur(tile, layer, rows);
  }
};

// Changes what an operation is told of the rows.
class ChangedRows : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  void rotate_and_write(Rows tile, int layer, MatrixKind kind, const RowTable &rows) override {
    RowTable changed = rows;
    change_written(changed);
    inner->rotate_and_write(tile, layer, kind, changed);
  }
  void attend(int layer, const RowTable &rows) override {
    RowTable changed = rows;
    change_seen(changed);
    inner->attend(layer, changed);
  }

 protected:
  virtual void change_written(RowTable &) {}
  virtual void change_seen(RowTable &) {}
};

// The window's first row is told by the position in the prompt, though what lies in the table are kept rows.
class WindowByPosition : public ChangedRows {
 public:
  using ChangedRows::ChangedRows;
  void change_seen(RowTable &rows) override {
    const int window = options.layout.window_of(rows.segment);
    for (size_t i = 0; i < rows.first_visible.size(); i++) {
      rows.first_visible[i] = std::min(rows.places[i], std::max(0, rows.positions[i] - window + 1));
    }
  }
};

class WindowShortInDecode : public ChangedRows {
 public:
  using ChangedRows::ChangedRows;
  void change_seen(RowTable &rows) override {
    for (size_t i = 0; i < rows.first_visible.size() && i < static_cast<size_t>(rows.decode_rows); i++) {
      rows.first_visible[i] = std::min(rows.places[i], rows.first_visible[i] + 1);
    }
  }
};

class WindowFromChunk : public ChangedRows {
 public:
  using ChangedRows::ChangedRows;
  void change_seen(RowTable &rows) override {
    for (const RowGroup &group : rows.groups) {
      for (int i = group.first; i < group.first + group.rows && !rows.first_visible.empty() && group.rows > 1; i++) {
        int &first = rows.first_visible[static_cast<size_t>(i)];
        first = std::max(first, rows.places[static_cast<size_t>(group.first)]);
      }
    }
  }
};

// Keys that are left out depend on where a prompt is cut.
class ChunkEndsReadAll : public ChangedRows {
 public:
  using ChangedRows::ChangedRows;
  void change_seen(RowTable &rows) override {
    for (int32_t &blocks : rows.sparse_blocks) blocks = std::max(0, blocks - 1);
  }
};

class WindowInWholePages : public ChangedRows {
 public:
  using ChangedRows::ChangedRows;
  void change_seen(RowTable &rows) override {
    const int page = options.layout.page_size;
    for (size_t i = 0; i < rows.first_visible.size(); i++) {
      rows.first_visible[i] = std::min(rows.places[i], (rows.first_visible[i] + page - 1) / page * page);
    }
  }
};

class NewestKeyUnseenInDecode : public ChangedRows {
 public:
  using ChangedRows::ChangedRows;
  void change_seen(RowTable &rows) override {
    for (int i = 0; i < rows.decode_rows; i++) {
      int &place = rows.places[static_cast<size_t>(i)];
      if (rows.first_visible.empty() || rows.first_visible[static_cast<size_t>(i)] < place) place--;
    }
  }
};

// A decoded token stands where its row lies among the kept ones, not behind the whole prompt.
class DecodedAtItsPlace : public ChangedRows {
 public:
  using ChangedRows::ChangedRows;
  void change_written(RowTable &rows) override {
    for (size_t i = 0; i < static_cast<size_t>(rows.decode_rows); i++) rows.positions[i] = rows.places[i];
  }
};

// In layers behind a selection every chunk is written from the first row on that the tables hold.
class ChunksOverwritten : public ChangedRows {
 public:
  using ChangedRows::ChangedRows;
  void change_written(RowTable &rows) override {
    for (const RowGroup &group : rows.groups) {
      if (rows.segment == 0 || group.first < rows.decode_rows) continue;
      const int first = rows.places[static_cast<size_t>(group.first)] - first_held(group.slot, rows.segment);
      for (int i = group.first; i < group.first + group.rows; i++) rows.places[static_cast<size_t>(i)] -= first;
    }
  }

 private:
  int first_held(int slot, int segment) const {
    int pages = 0;
    for (const int t : options.layout.segment(segment).attention) {
      const up::PageTable &slabs = options.tables->of(slot, t);
      const auto held = std::find_if(slabs.begin(), slabs.end(), [](int32_t slab) { return slab >= 0; });
      pages = std::max(pages, static_cast<int>(held - slabs.begin()) / options.layout.table(t).slabs_per_page);
    }
    return pages * options.layout.page_size;
  }
};

// The second prompt of a step is a position behind.
class NeighbourShifted : public ChangedRows {
 public:
  using ChangedRows::ChangedRows;
  void change_written(RowTable &rows) override {
    int prompts = 0;
    for (const RowGroup &group : rows.groups) {
      if (group.first < rows.decode_rows || prompts++ == 0) continue;
      for (int i = group.first; i < group.first + group.rows; i++) {
        int &position = rows.positions[static_cast<size_t>(i)];
        position = std::max(0, position - 1);
      }
    }
  }
};

class CarryReadEarly : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  void read_carry(Rows rows, const up::CarryRows &carry) override {
    up::CarryRows early = carry;
    for (int32_t &row : early.rows) row = std::max(0, row - 1);
    inner->read_carry(rows, early);
  }
};

// Rows that run on behind a selection in the same step as they were set aside: the first ones are taken for the last.
class RunOnReversed : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  void begin(const MemoryChanges &changes) override {
    written_.clear();
    inner->begin(changes);
  }
  void write_carry(Rows rows, const up::CarryRows &carry) override {
    written_.insert(carry.slots.begin(), carry.slots.end());
    inner->write_carry(rows, carry);
  }
  void read_carry(Rows rows, const up::CarryRows &carry) override {
    up::CarryRows changed = carry;
    if (rows.count > 100 && written_.contains(carry.slots[0]))
      std::swap(changed.rows[0], changed.rows[static_cast<size_t>(rows.count) - 1]);
    inner->read_carry(rows, changed);
  }

 private:
  std::set<int32_t> written_;
};

class DecodeCarryEarly : public ChangedRows {
 public:
  using ChangedRows::ChangedRows;
  void change_written(RowTable &rows) override { decode_rows_ = rows.decode_rows; }
  void write_carry(Rows rows, const up::CarryRows &carry) override {
    up::CarryRows early = carry;
    if (rows.begin == 0 && rows.count == decode_rows_) {
      for (int32_t &row : early.rows) row = std::max(0, row - 1);
    }
    inner->write_carry(rows, early);
  }

 private:
  int decode_rows_ = 0;
};

class TrimmedEarly : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  void move_rows(std::span<const int32_t> from, int to) override {
    std::vector<int32_t> early(from.begin(), from.end());
    for (size_t i = 0; i < early.size(); i++) early[i] = std::max(early[i] - 1, to + static_cast<int>(i));
    inner->move_rows(early, to);
  }
};

class SamplesSwapped : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  void sample(std::span<const up::SampleTask> tasks) override {
    std::vector<up::SampleTask> swapped(tasks.begin(), tasks.end());
    if (swapped.size() > 1) std::swap(swapped[0].row, swapped[1].row);
    inner->sample(swapped);
  }
};

// A selection's queries begin one row early, where another request's rows lie.
class QueriesEarly : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  std::vector<up::SelectionOutcome> select(int layer, std::span<const up::SelectionTask> tasks, up_rule rule) override {
    std::vector<up::SelectionTask> early(tasks.begin(), tasks.end());
    for (up::SelectionTask &task : early) task.first = std::max(0, task.first - std::min(task.query_rows, 20));
    return inner->select(layer, early, rule);
  }
};

// A selection counts the rows of output as candidates.
class OutputSelected : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  std::vector<up::SelectionOutcome> select(int layer, std::span<const up::SelectionTask> tasks, up_rule rule) override {
    auto out = inner->select(layer, tasks, rule);
    for (size_t i = 0; i < tasks.size(); i++) {
      const up::PageTable &pages = options.tables->of(tasks[i].slot, tasks[i].table);
      const int held =
          static_cast<int>(pages.size()) / options.layout.table(tasks[i].table).slabs_per_page * options.layout.page_size;
      if (held - tasks[i].shape.rows < options.layout.page_size / 2) out[i].bitmap[0] ^= 4;
    }
    return out;
  }
};

class PageCopiedWrong : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  void begin(const MemoryChanges &changes) override {
    MemoryChanges wrong = changes;
    for (size_t i = 1; i < wrong.copies.size(); i++) wrong.copies[i].first = changes.copies[i - 1].first;
    inner->begin(wrong);
  }
};

class PagesNotCopied : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  void begin(const MemoryChanges &changes) override {
    MemoryChanges wrong = changes;
    wrong.copies.clear();
    inner->begin(wrong);
  }
};

// Expert buffers hold a fixed number of rows, and what comes behind finds no room.
class ExpertsOverflow : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  void experts(Rows tile, int layer) override { inner->experts({tile.begin, std::min(tile.count, 120)}, layer); }
};

class WrongTokenDecoded : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  void embed(Rows rows, std::span<const int32_t> tokens) override {
    std::vector<int32_t> wrong(tokens.begin(), tokens.end());
    for (int32_t &token : wrong) token = token < 0 ? 0 : token;
    inner->embed(rows, wrong);
  }
};

// One buffer for the outputs of all steps: read only when the next step has written to it.
class OutputsShared : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  std::unique_ptr<up::PendingOutputs> finish() override {
    up::Outputs own = inner->finish()->wait();
    const std::lock_guard lock(shared_->mutex);
    shared_->newest = own;
    shared_->steps++;
    shared_->changed.notify_all();
    return std::make_unique<Pending>(std::move(own), shared_, shared_->steps, steps_behind);
  }

 private:
  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    up::Outputs newest;
    int steps = 0;
  };
  class Pending : public up::PendingOutputs {
   public:
    Pending(up::Outputs own, std::shared_ptr<Shared> shared, int step, std::function<size_t()> steps_behind)
        : own_(std::move(own)), shared_(std::move(shared)), step_(step), steps_behind_(std::move(steps_behind)) {}
    up::Outputs wait() override {
      up::Outputs out = std::move(own_);
      std::unique_lock lock(shared_->mutex);
      // However long that takes: on the host's thread, which hands nothing over meanwhile.
      if (steps_behind_() > 0) shared_->changed.wait(lock, [&] { return shared_->steps > step_; });
      for (up::Outputs::Logits &logits : out.logits) {
        for (const up::Outputs::Logits &newer : shared_->newest.logits) {
          if (newer.slot == logits.slot) logits.values = newer.values;
        }
      }
      return out;
    }

   private:
    up::Outputs own_;
    std::shared_ptr<Shared> shared_;
    int step_;
    std::function<size_t()> steps_behind_;
  };
  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

}  // namespace faults
