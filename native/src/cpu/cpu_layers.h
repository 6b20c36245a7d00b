// The CPU backend's class; its operations are spread over cpu_backend.cpp, cpu_attention.cpp, cpu_delta.cpp and
// cpu_experts.cpp.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <vector>

#include "cpu/aligned_array.h"
#include "cpu/cpu_backend.h"
#include "cpu/cpu_weights.h"
#include "cpu/delta_states.h"
#include "cpu/expert_rows.h"
#include "cpu/slabs.h"
#include "sampling/host_sampling.h"
#include "weights/rope.h"

namespace up::cpu {

class CpuBackend : public Backend {
 public:
  CpuBackend(std::shared_ptr<const Checkpoint> checkpoint, const BackendOptions &options, const Kernels &kernels, int threads);

  int tile_rows() const override;
  int logits_rows() const override;
  std::string name() const override;
  BackendMemory memory() const override;
  void begin(const MemoryChanges &changes) override;
  void embed(Rows rows, std::span<const int32_t> tokens) override;
  void move_rows(std::span<const int32_t> from, int to) override;
  void read_carry(Rows rows, const CarryRows &carry) override;
  void write_carry(Rows rows, const CarryRows &carry) override;
  void norm(Rows tile, int layer, Norm norm) override;
  void add_normed(Rows tile, int layer, Norm norm) override;
  void linear(Rows tile, int layer, MatrixKind kind) override;
  void rotate_and_write(Rows tile, int layer, MatrixKind kind, const RowTable &rows) override;
  void attend(int layer, const RowTable &rows) override;
  void apply_gate(Rows tile, int layer) override;
  void recur(Rows tile, int layer, const RowTable &rows) override;
  void gate_and_up(Rows tile, int layer) override;
  void experts(Rows tile, int layer) override;
  std::vector<SelectionOutcome> select(int layer, std::span<const SelectionTask> tasks, up_rule rule) override;
  void sample(std::span<const SampleTask> tasks) override;
  void logprobs(std::span<const LogprobTask> tasks) override;
  std::unique_ptr<PendingOutputs> finish() override;

 private:
  const LayerSpec &spec(int layer) const { return model_.layer(layer); }
  const LayerWeights &weights(int layer) const { return weights_.layers[static_cast<size_t>(layer)]; }
  const std::vector<float> &norm_weight(int layer, Norm norm) const;
  float *residual(int row) const { return residual_.get() + area(row, model_.hidden_size); }
  // Rows of attended, as wide as what the layer's mixer puts out.
  bf16 *attended(int row, int layer) const;
  // What goes into the residual stream: the rows themselves, or `mixed` in a layer with post norms.
  float *sum_target(Rows tile, int layer) const;
  void apply(const Linear &linear, const bf16 *in, int rows, bool accumulate, float *out, int ldo) const;
  // The sum over ranks of what a matrix, or one a part, gives for `rows` rows in all.
  using SliceProduct = std::function<void(int slice, float *out)>;
  void sum_over_ranks(int slices, const SliceProduct &product, size_t count, bool accumulate, float *out) const;
  void apply_bias(const Linear &linear, int rows, float *out, int ldo) const;
  void activate_rows(int rows, const MlpSpec &mlp, int inner, const float *gated, bf16 *out) const;
  Rotation rotation(Rows tile, int layer, const RowTable &rows);
  void write_keys_and_values(Rows tile, int layer, const float *projected, int ldp, const RowTable &rows);
  void route_rows(int rows, int layer);

  std::shared_ptr<const Checkpoint> checkpoint_;
  const ModelTable &model_;
  const BackendOptions options_;
  const Kernels &kernels_;
  const int threads_;
  CpuWeights weights_;
  Slabs slabs_;
  DeltaStates states_;
  HostSampling sampling_;
  std::vector<RopeTable> ropes_;  // one for each of the model's rotations
  std::vector<int> rope_of_;      // [layers]
  std::chrono::steady_clock::time_point started_;
  const int tile_rows_;

  // Of the whole step, [max_rows + last_q, …]
  AlignedArray<float> residual_;  // hidden
  AlignedArray<bf16> queries_;    // heads · head_dim
  AlignedArray<bf16> gates_;      // the same
  AlignedArray<bf16> attended_;   // the widest of what goes into o and delta_out
  // Of one tile.
  AlignedArray<bf16> normed_;      // hidden
  AlignedArray<float> projected_;  // the widest projection
  AlignedArray<bf16> keys_;        // kv_heads · head_dim
  AlignedArray<bf16> values_;
  AlignedArray<float> convolved_;  // conv_width
  AlignedArray<float> betas_;      // value_heads
  AlignedArray<float> decays_;
  AlignedArray<bf16> directions_;  // of DeltaRows
  AlignedArray<float> products_;
  AlignedArray<bf16> blocks_;
  AlignedArray<float> gated_;  // 2 · inner
  AlignedArray<bf16> inner_;   // inner
  AlignedArray<float> mixed_;  // hidden
  AlignedArray<float> logits_;  // [logits rows, vocab]
  ExpertRows experts_;
  std::vector<Attention> attention_;
  KeyBlocks key_blocks_;
  std::vector<std::vector<uint32_t>> bitmaps_;  // of those that leave out keys
  std::vector<uint64_t> masses_;
};

}  // namespace up::cpu
