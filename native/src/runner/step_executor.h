// Computes a checked plan: decode rows in batches, then the items one after another.
//
// Select, then attend: segment i reads its rows from carry i - 1 through the kept set, takes its queries of the drop
// layer against the K/V of segment i - 1, passes its own layers, and ends with the K/V of the next drop layer; there the
// residual rows go to carry i.
#pragma once

#include <utility>
#include <vector>

#include "runner/forward.h"
#include "runner/plan_check.h"

namespace up {

// Most rows that pass the layers together, whatever an item asks for: it bounds the workspace.
constexpr int block_rows = 512;
constexpr int logits_rows = 64;

class StepExecutor {
 public:
  StepExecutor(RunnerState &state, Forward &forward);

  // Runs `work` and fills `result`. Slots change at commit(), but for what rollback() takes back.
  void run(const Plan &plan, const StepWork &work, ResultSections &result);
  void commit() noexcept;
  void rollback() noexcept;

 private:
  // A slot's progress before this step.
  struct Progress {
    struct Segment {
      int computed;
      bool done;
      bool known;
    };
    int slot;
    std::vector<Segment> segments;
  };

  Slot &slot(int number) { return state_.slots[static_cast<size_t>(number)]; }
  PageTable &full_table(Slot &slot, int segment);
  PageTable &carry_table(Slot &slot, int segment);
  float *row(int index) { return x_.get() + static_cast<size_t>(index) * hidden_; }
  void set_angles(int row, int position);
  Block block(int rows, const PageTable *table);

  void force_tokens(const std::vector<ForcedToken> &forced);
  void decode();
  void write_carries(const std::vector<int32_t> &numbers);
  void prefill(const Item &item, float *sampled);
  // Rows [from, to) of a segment; `sampled` receives the last one after the last layer.
  void segment_rows(Slot &slot, int segment, int from, int to, float *sampled);
  void load_rows(Slot &slot, int segment, int from, int rows);
  void select(int number, int segment);
  std::pair<std::vector<uint32_t>, int32_t> score(Slot &slot, int segment, const SelectionShape &shape);
  // Logits of final rows, and one sampled token per slot.
  void sample(const std::vector<int32_t> &slots, const float *rows);

  RunnerState &state_;
  Forward &forward_;
  RopeTable rope_;
  Sampler sampler_;
  size_t hidden_;
  AlignedArray<float> x_;       // [block_rows, hidden]
  AlignedArray<float> cos_;     // [block_rows, head_dim / 2]
  AlignedArray<float> sin_;
  AlignedArray<int32_t> last_;  // [block_rows]
  AlignedArray<float> logits_;  // [logits_rows, vocab]
  std::vector<float> sampled_;  // [samples of the step, hidden]
  std::vector<uint64_t> masses_;

  ResultSections *result_ = nullptr;
  std::vector<Progress> progress_;
  std::vector<std::pair<int, std::vector<int32_t>>> replaced_;  // slot and the tail of its tokens that a forced one replaced
  std::vector<std::pair<int, int32_t>> sampled_tokens_;
  std::vector<std::pair<int, std::vector<SegmentState>>> adopted_;  // slot and the progress that it takes over
};

}  // namespace up
