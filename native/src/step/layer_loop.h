// Carries a step's rows through the layers.
//
// Layer by layer all rows of the step form one batch, so that weights are read once: decode rows, and the rows of every chunk of
// prefill. Select, then attend: at a drop layer K and V of all rows are written and the rows themselves set aside in the carry; once a
// prompt's last row is there its last queries choose the rows that go on, and those alone pass the layer's attention and MLP. In the
// last layer only rows whose logits are wanted do.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "plan/books.h"
#include "plan/codec.h"
#include "plan/step_work.h"
#include "step/row_groups.h"

namespace up {

// What has been put out of a step, or will be.
struct StepOutputs {
  std::vector<int32_t> selections, selection_micros;  // records of the result
  std::vector<std::pair<int, std::shared_ptr<const Content>>> sampled;  // slots, in the order in which their tokens are returned
  std::unique_ptr<PendingOutputs> pending;
};

class LayerLoop {
 public:
  // `ranks`: whose selections are compared; null: there is one rank.
  LayerLoop(const ModelTable &model, Books &books, Backend &backend, Communicator *ranks = nullptr);

  // Mutates: the slots' progress. When it fails the books must be reset.
  StepOutputs run(const StepWork &work);

 private:
  using Kind = Group::Kind;

  void enter(const StepWork &work);
  void attention_layer(int layer);
  void delta_layer(int layer);
  void for_mixer_and_mlp(int layer, const std::function<void(Rows)> &mixer);
  void mlp(Rows tile, int layer);
  void for_tiles(const std::function<void(Rows)> &visit);

  // Whether a chunk ends or begins at the drop layer that ends `segment`.
  bool meets(int segment) const;
  // At the drop layer that ends `segment`, where rows have been set aside: selects, and goes on with the rows kept.
  void drop(int layer, int segment);
  // Of the rows kept, tiles that begin before this one come from the carry.
  void enter_up_to(int row);
  // Where the step's rows go at the drop layer that ends `segment`, before it is cut down; none where they do not.
  CarryRows carries(int segment) const;
  void select(int layer, int segment, const std::vector<Group> &completed);
  void compare_ranks(int layer, const std::vector<SelectionOutcome> &outcomes);
  std::vector<SelectionOutcome> score(int layer, int segment, const std::vector<Group> &groups);
  // In the last layer: goes on with the rows whose logits are wanted.
  void trim();
  bool is_sampled(int item) const;

  void sample();
  void finish_rows();

  const ModelTable &model_;
  Books &books_;
  Backend &backend_;
  Communicator *const ranks_;
  const StepWork *work_ = nullptr;
  RowGroups groups_;
  RowTable table_;               // of groups_ in the layers of the segment at hand
  CarryRows entering_;           // of groups_, where they come from
  std::deque<Rows> tiles_to_enter_;
  bool trimmed_ = false;
  std::vector<int> sample_rows_;  // [items] row of the step whose logits give an item's first tokens, −1 of the others
  StepOutputs out_;
};

}  // namespace up
