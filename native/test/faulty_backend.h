// A backend that passes everything on to another one. Each fault of planted_faults.h changes one operation of it, at the seam
// between the layer loop and what computes: so it is a fault of the runner as a whole, of whichever side.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "runner_host.h"

class FaultyBackend : public up::Backend {
 public:
  explicit FaultyBackend(MadeBackend made)
      : inner(std::move(made.backend)),
        checkpoint(made.checkpoint),
        options(made.options),
        steps_behind(std::move(made.steps_behind)) {}

  int tile_rows() const override { return inner->tile_rows(); }
  int logits_rows() const override { return inner->logits_rows(); }
  std::string name() const override { return inner->name(); }
  up::BackendMemory memory() const override { return inner->memory(); }
  void begin(const up::MemoryChanges &changes) override { inner->begin(changes); }
  void embed(up::Rows rows, std::span<const int32_t> tokens) override { inner->embed(rows, tokens); }
  void move_rows(std::span<const int32_t> from, int to) override { inner->move_rows(from, to); }
  void read_carry(up::Rows rows, const up::CarryRows &carry) override { inner->read_carry(rows, carry); }
  void write_carry(up::Rows rows, const up::CarryRows &carry) override { inner->write_carry(rows, carry); }
  void norm(up::Rows tile, int layer, up::Norm norm) override { inner->norm(tile, layer, norm); }
  void add_normed(up::Rows tile, int layer, up::Norm norm) override { inner->add_normed(tile, layer, norm); }
  void linear(up::Rows tile, int layer, up::MatrixKind kind) override { inner->linear(tile, layer, kind); }
  void rotate_and_write(up::Rows tile, int layer, up::MatrixKind kind, const up::RowTable &rows) override {
    inner->rotate_and_write(tile, layer, kind, rows);
  }
  void attend(int layer, const up::RowTable &rows) override { inner->attend(layer, rows); }
  void apply_gate(up::Rows tile, int layer) override { inner->apply_gate(tile, layer); }
  void recur(up::Rows tile, int layer, const up::RowTable &rows) override { inner->recur(tile, layer, rows); }
  void gate_and_up(up::Rows tile, int layer) override { inner->gate_and_up(tile, layer); }
  void experts(up::Rows tile, int layer) override { inner->experts(tile, layer); }
  std::vector<up::SelectionOutcome> select(int layer, std::span<const up::SelectionTask> tasks, up_rule rule) override {
    return inner->select(layer, tasks, rule);
  }
  void sample(std::span<const up::SampleTask> tasks) override { inner->sample(tasks); }
  void logprobs(std::span<const up::LogprobTask> tasks) override { inner->logprobs(tasks); }
  std::unique_ptr<up::PendingOutputs> finish() override { return inner->finish(); }

 protected:
  std::unique_ptr<up::Backend> inner;
  const std::shared_ptr<const up::Checkpoint> checkpoint;
  const up::BackendOptions options;
  const std::function<size_t()> steps_behind;
};

template <class Backend>
WrapBackend wrapped_in() {
  return [](MadeBackend made) { return std::make_unique<Backend>(std::move(made)); };
}
