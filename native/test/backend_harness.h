// Drives a backend through whole models without plans: slots with pages in random slabs, chunks of rows, tiles of any size.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <vector>

#include "backend.h"
#include "cpu/cpu_backend.h"
#include "reference/reference_backend.h"
#include "selection/sparsity.h"

struct Chunk {
  int slot, first, rows;
};

// A layout of one segment for each drop layer and the last one.
up::Layout make_layout(const up::ModelTable &model, const std::vector<int> &drop_layers, int page_size,
                       int layers_per_slab, const up::ElementBytes &elements);

struct HarnessLimits {
  int max_rows = 1024;
  int max_tokens = 4096;
  double prefill_p = 0;  // the share of attention that whole blocks of rows read keys for; 0: all
};

class BackendHarness {
 public:
  static constexpr int slots = 4;
  static constexpr int last_q = 32;

  // `seed`: of slabs, and of tiles where `random_tiles`.
  using Make = std::function<std::unique_ptr<up::Backend>(std::shared_ptr<const up::Checkpoint>, const up::BackendOptions &)>;
  BackendHarness(std::shared_ptr<const up::Checkpoint> checkpoint, const std::vector<int> &drop_layers, uint64_t seed, bool random_tiles,
                 const Make &make, const up::ElementBytes &elements = {}, const HarnessLimits &limits = {});

  const up::ModelTable &model() const { return checkpoint_->table(); }
  const up::Layout &layout() const { return layout_; }
  up::Backend &backend() { return *backend_; }
  up::MemoryChanges &changes() { return changes_; }
  up::PageTables &tables() { return tables_; }
  std::vector<int32_t> &state_slots() { return state_slots_; }

  int32_t grant();
  // Pages of a slot's table for rows below `rows`.
  void reserve(int slot, int table, int rows);

  void begin();

  // Calls `visit` with tiles that cover rows [0, rows).
  template <class Visit>
  void for_each_tile(int rows, int most, Visit &&visit) {
    for (int begin = 0; begin < rows;) {
      int count = std::min(most, rows - begin);
      if (random_tiles_) count = std::uniform_int_distribution<int>(1, count)(random_);
      visit(up::Rows{begin, count});
      begin += count;
    }
  }

  up::RowTable row_table(const std::vector<Chunk> &chunks, int segment);

  void attention(int layer, const up::RowTable &rows);

  void delta(int layer, const up::RowTable &rows);

  void mlp(int layer, int rows);

  void layer(int layer, const up::RowTable &rows);

  // Logits of residual rows [0, rows), [rows, vocab].
  std::vector<float> logits(int rows);

  // One step through all layers; logits of all its rows. tokens_of(slot, row).
  template <class Tokens>
  std::vector<float> step(const std::vector<Chunk> &chunks, Tokens &&tokens_of) {
    std::vector<int32_t> tokens;
    for (const auto &[slot, first, rows] : chunks) {
      for (int i = first; i < first + rows; i++) tokens.push_back(tokens_of(slot, i));
    }
    std::vector<up::RowTable> rows;
    for (int s = 0; s <= layout_.last_segment(); s++) rows.push_back(row_table(chunks, s));
    begin();
    backend_->embed({0, static_cast<int>(tokens.size())}, tokens);
    for (int i = 0; i < model().layer_count(); i++) layer(i, rows[static_cast<size_t>(layout_.segment_of(i))]);
    return logits(static_cast<int>(tokens.size()));
  }

 private:
  std::shared_ptr<const up::Checkpoint> checkpoint_;
  std::mt19937_64 random_;
  bool random_tiles_;
  bool is_sparse_;
  up::Layout layout_;
  up::PageTables tables_;
  std::vector<int32_t> state_slots_;
  std::vector<int32_t> free_;
  std::unique_ptr<up::Backend> backend_;
  up::MemoryChanges changes_;
  uint64_t sequence_ = 0;
};

BackendHarness::Make make_cpu(up_kernels kernels, int threads);

std::unique_ptr<up::Backend> make_reference(std::shared_ptr<const up::Checkpoint> checkpoint, const up::BackendOptions &options);

// ‖a − b‖ / ‖b‖; NaN is not less than anything.
double relative_error(const std::vector<float> &a, const std::vector<float> &b);
