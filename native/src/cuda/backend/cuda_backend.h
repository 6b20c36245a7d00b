// The backend for one CUDA device; see backend.h for what its functions promise.
//
// Calls are put into the stream of the device and return; only select() waits. A step whose rows are all decode rows is noted first
// and carried out as a graph (decode_graphs.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cuda/backend/decode_graphs.h"
#include "cuda/backend/layer_operations.h"
#include "cuda/backend/step_buffers.h"
#include "cuda/backend/token_sampler.h"
#include "device_backend.h"

namespace up::cuda {

class CudaBackend : public Backend {
 public:
  CudaBackend(std::shared_ptr<const Checkpoint> checkpoint, const BackendOptions &options, const DeviceOptions &device_options);
  ~CudaBackend() override;

  int tile_rows() const override { return activations_->sizes.tile_rows; }
  int logits_rows() const override { return activations_->sizes.logits_rows; }
  std::string name() const override;
  BackendMemory memory() const override { return memory_; }
  int64_t gated_kernels() const override { return layers_->gated_mlps().kernels(); }

  void begin(const MemoryChanges &changes) override;
  void embed(Rows rows, std::span<const int32_t> tokens) override;
  void move_rows(std::span<const int32_t> from, int to) override;
  void read_carry(Rows rows, const CarryRows &carry) override;
  void write_carry(Rows rows, const CarryRows &carry) override;
  void keep(int count) override;
  void enter(Rows tile, const CarryRows &carry) override;
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
  bool overlaps_sums() const override { return peers_ != nullptr; }
  void give_up() override;
  void abandon() override;

 private:
  using Inputs = DecodeGraphs::Inputs;

  DeviceCarry upload(const CarryRows &carry);
  // Notes the operation, or carries it out at once.
  void operate(const Operation &operation, const RowTable *rows = nullptr);
  void carry_out(const Operation &operation, const Inputs &inputs, bool any_length);
  // Of a selection, on the device. `out`: rows kept, whether it fell back, and its bitmap.
  struct Selecting {
    const int32_t *length;
    const uint64_t *p_q32;
    int32_t *out;
  };
  // Puts out what select() puts out, of masses that are summed over all ranks.
  void select_over_ranks(int layer, std::span<const SelectionTask> tasks, up_rule rule, std::span<const Selecting> selecting);
  // Carries out what has been noted: as a decode step, or as the beginning of another one.
  void end_tape(bool is_decode_step);

  std::shared_ptr<const Checkpoint> checkpoint_;
  const BackendOptions options_;
  std::shared_ptr<Device> device_;
  std::shared_ptr<StepBufferPool> buffer_pool_;
  std::unique_ptr<DeviceWeights> weights_;
  std::unique_ptr<Activations> activations_;
  std::unique_ptr<KvPool> pool_;
  std::unique_ptr<UploadRing> ring_;
  std::unique_ptr<RowTables> tables_;
  std::unique_ptr<Peers> peers_;  // null of one rank
  std::unique_ptr<LayerOperations> layers_;
  std::unique_ptr<TokenSampler> sampler_;
  std::unique_ptr<DecodeGraphs> graphs_;
  DeviceBuffer selections_;  // results of select(), and where they are copied to
  PinnedBuffer selected_;
  Event select_begin_, select_end_;
  BackendMemory memory_;
  std::string library_;  // version of cuBLASLt

  bool noting_ = false;         // calls go to the tape
  bool tape_is_decode_ = false; // a row table was noted, so that all rows are known to be decode rows
  std::vector<int32_t> tokens_; // of the tape's first operation
  std::unique_ptr<StepBuffers> buffers_;
};

}  // namespace up::cuda
