// The operations of a layer on device memory: what backend.h says, with row tables that are on the device already.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "cuda/backend/activations.h"
#include "cuda/backend/device_weights.h"
#include "cuda/backend/kv_pool.h"
#include "cuda/backend/row_tables.h"
#include "cuda/linear/gated_mlp.h"
#include "cuda/linear/matmul.h"
#include "cuda/parallel/peers.h"

namespace up::cuda {

// CarryRows on the device.
struct DeviceCarry {
  int segment;
  const int32_t *slots, *rows;

  DeviceCarry from(int row) const { return {segment, slots + row, rows + row}; }
};

class LayerOperations {
 public:
  // `peers`: null of one rank.
  LayerOperations(Device &device, const ModelTable &model, const BackendOptions &options, const DeviceWeights &weights,
                  const Activations &activations, const KvPool &pool, Peers *peers);

  // Fails with UP_UNSUPPORTED_MODEL, naming the field, for a model that some kernel is missing for.
  static void check_supported(const ModelTable &model, const BackendOptions &options);
  // Bytes of the tables of rotary angles.
  static size_t angle_bytes(const ModelTable &model, int max_tokens);

  // Chooses how the model's products are computed, by timing them on its weights. Writes over all activations.
  void tune(const std::vector<bool> &split_layers);

  // Forgets what a step before has left undone.
  void begin() {
    due_.clear();
    shared_out_.clear();
  }
  // The stream goes on behind all sums over ranks that are under way.
  void end();
  void embed(Rows rows, const int32_t *tokens, const int32_t *last_tokens);
  // residual[to + i] = residual[from[i]]; `on_device`: where the same numbers are.
  void move_rows(std::span<const int32_t> from, const int32_t *on_device, int to);
  void keep(int count);
  void enter(Rows tile, const DeviceCarry &carry);
  void read_carry(Rows rows, const DeviceCarry &carry);
  void write_carry(Rows rows, const DeviceCarry &carry);
  void norm(Rows tile, int layer, Norm norm);
  void add_normed(Rows tile, int layer, Norm norm);
  void linear(Rows tile, int layer, MatrixKind kind);
  void rotate_and_write(Rows tile, int layer, MatrixKind kind, const DeviceRows &rows);
  // `any_length`: the keys that rows see may become more before it runs, as in a graph that is replayed.
  void attend(int layer, const DeviceRows &rows, bool any_length);
  void apply_gate(Rows tile, int layer);
  void gate_and_up(Rows tile, int layer);
  void recur(Rows tile, int layer, const DeviceRows &rows, UploadRing &ring);
  void experts(Rows tile, int layer);

  // A selection's workspace lies in scratch.
  void select(int layer, int slot, int first_query, int query_rows, const up::SelectionShape &shape, up_rule rule,
              const int32_t *length, const uint64_t *p_q32, uint32_t *bitmap, int32_t *kept_length, int32_t *fallback);
  // The same in two parts, between which what all ranks' heads have is added up. `masses`: of the blocks, then marks, not 0 where a score is
  // not finite; mass_count integers of 64 bits.
  static int64_t mass_count(const up::SelectionShape &shape, int heads) { return shape.blocks() + int64_t{2} * heads; }
  void select_masses(int layer, int slot, int first_query, int query_rows, const up::SelectionShape &shape, const int32_t *length,
                     uint64_t *masses);
  void select_cut(int layer, int slot, const up::SelectionShape &shape, int query_rows, up_rule rule, const int32_t *length,
                  const uint64_t *p_q32, uint64_t *masses, uint32_t *bitmap, int32_t *kept_length, int32_t *fallback);

  // What rows have left out since it was made; where they do.
  const KeyBlocks *key_blocks() const { return key_blocks_.as<const KeyBlocks>(); }
  const GatedMlps &gated_mlps() const { return gated_; }
  const float *logits() const { return activations_.scratch.as<const float>(); }

 private:
  // residual[tile] += norm(mixed), or += mixed, put off: most often the norm of the same rows follows, and one kernel does both.
  // mixed is a sum over ranks where there are several. One of few rows is not yet asked for, as one kernel does that too; one of many
  // is under way with the norm that will follow.
  struct Due {
    Rows tile;
    int layer;
    Norm norm = Norm::post_mlp;
    bool normed = false;
    int parts_at = -1;                         // place of the parts of a sum
    cudaEvent_t exchanged = nullptr;           // of many rows
    const uint16_t *next_weight = nullptr;     // of the norm that was computed then
  };
  // A norm's weights and how it is computed.
  struct NormOf {
    const NormSpec *spec = nullptr;
    const uint16_t *weight = nullptr;  // null: there is none
  };
  struct Angles {
    RopeSpec rope;
    DeviceBuffer memory;  // cosines, then sines
    const float *cosines, *sines;
  };

  void add_angles(const RopeSpec &rope);
  const Angles &angles(const RopeSpec &rope) const;
  Matrix matrix(int layer, MatrixKind kind) const;
  uint16_t *residual(int row) const { return activations_.residual.as<uint16_t>() + int64_t{row} * hidden_; }
  // Tiles take turns at the same rows, but where ranks compute norms of one tile while another is multiplied.
  uint16_t *normed(int row) const { return activations_.normed.as<uint16_t>() + (peers_ == nullptr ? 0 : int64_t{row} * hidden_); }
  NormOf norm_of(int layer, Norm norm) const;
  // What is normalised behind a sum in this place; none behind the last layer.
  NormOf norm_behind(int layer, int place) const;
  uint16_t *queries(int layer, int row) const;
  uint16_t *gates(int layer, int row) const;
  uint16_t *attended(int layer, int row) const;
  // A matrix product of `rows`; `weights` is what the product points to.
  Product product(Rows rows, int layer, MatrixKind kind, const Matrix &weights) const;
  up_selection selection(int layer, int slot, int first_query, int query_rows, const up::SelectionShape &shape, const int32_t *length) const;
  // What a rank has of a row that goes into the residual stream: place 0 behind a mixer, 1 behind an MLP.
  static int place_of(MatrixKind kind) { return kind == MatrixKind::down ? 1 : 0; }
  // mixed of the tile is there, or this rank's part of it.
  void put_out(Rows tile, int layer, int place);
  PeerNorm peer_norm(Rows rows, const NormOf &next) const;
  // Every rank adds up its own rows of the tile, and computes the norm behind them.
  void exchange(Due &due);
  // Leaves the residual stream whole on every rank.
  void add_all_due();
  // The same of these rows; others are not asked for again.
  void add_due_of(std::span<const Rows> wanted);
  bool is_due(Rows rows) const;
  // Parts of carry rows on all ranks.
  CarryPages carry_of_all(int segment) const;
  void read_whole(Rows rows, const DeviceCarry &carry);
  void normalise_rows(Rows rows, const NormOf &norm);
  // What is due, and the norm that follows it.
  void add_and_norm(const Due &due, const NormOf &next);
  void post_norm(const Due &due, const uint16_t *mixed, Rows rows, const NormOf &next, cudaStream_t stream);
  void attend_decode(int layer, const DeviceRows &rows, bool any_length);
  void attend_prefill(int layer, const DeviceRows &rows);
  // The keys that rows leave out are chosen first; bitmaps and workspaces lie in scratch.
  void attend_sparse(int layer, const DeviceRows &rows, const up_prefill_attention &attention);
  GatedMlp gated_mlp(const Matrix &weights, Rows tile, const MlpSpec &mlp, uint16_t *out) const;
  void choose_gated_products();
  void recur_rows(int layer, const DeviceRows &rows, Rows tile, const int32_t *starts, const struct DeltaScratch &scratch);

  Device &device_;
  const ModelTable &model_;
  const int hidden_, slots_, max_tokens_;
  const uint64_t prefill_p_q32_;
  const DeviceWeights &weights_;
  const Activations &activations_;
  const KvPool &pool_;
  DeviceBuffer key_blocks_;
  Matmul matmul_;
  GatedMlps gated_;
  std::vector<Angles> angles_;
  Peers *const peers_;
  Peers::Buffers pools_, residuals_, normeds_;
  std::vector<Due> due_;         // of one tile, where there is one rank
  std::vector<Rows> shared_out_; // tiles whose residual rows only their ranks have
};

}  // namespace up::cuda
