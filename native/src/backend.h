// What a backend provides: everything that the layer loop of step/ asks to be computed.
//
// A backend sees rows, never requests: which rows there are, in which order, where their keys and values lie and what they see
// is decided in step/, the same for CPU, CUDA and the reference. It owns weights, slabs, recurrent states and activations.
//
// Activations. The rows of a step are numbered 0 … in the residual stream; a layer takes them tile by tile (`Rows`), since what
// lies between the residual stream and the attention is needed for one tile at a time. Each operation says what it reads and
// writes:
//
//   of the whole step   residual [hidden]   queries [heads · head_dim]   gates [the same]   attended [width into o or delta_out]
//                       (max_rows + last_q rows: the queries of a selection come behind the step's)
//   of one tile         normed [hidden]     projected     gated [2 · inner]   inner [inner]   mixed [hidden]   logits [vocab]
//
// A tensor-parallel rank's backend has its share of heads and inner widths (weights/shard.h). What goes into the residual stream is
// the sum over all ranks; carry rows are divided among them, and read by all; masses of a selection are summed before they are cut.
// All ranks make the same calls.
//
// Operations run in the order of the calls; a backend may still be at work when a call returns, but for those that return
// something. They throw Failure.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "memory/layout.h"
#include "memory/page_tables.h"
#include "parallel/communicator.h"
#include "sampling/sampling.h"
#include "selection/selection.h"
#include "weights/checkpoint.h"
#include "weights/matrices.h"

namespace up {

// Rows [begin, begin + count) of a step.
struct Rows {
  int begin = 0;
  int count = 0;

  int end() const { return begin + count; }
};

inline Rows common(Rows a, Rows b) {
  const int begin = std::max(a.begin, b.begin);
  return {begin, std::max(0, std::min(a.end(), b.end()) - begin)};
}

// Consecutive rows of a step that belong to one slot.
struct RowGroup {
  int slot;
  int first;
  int rows;
};

// What attention and recurrence need to know of rows [0, rows()) of a step in the layers of one segment.
struct RowTable {
  int segment = 0;
  // Groups in the order of their rows; the first `decode_rows` are one row each.
  std::vector<RowGroup> groups;
  int decode_rows = 0;
  std::vector<int32_t> positions;      // [rows] of rotary embedding
  std::vector<int32_t> places;         // [rows] index in the segment's tables: where K and V go, and the last key that is seen
  std::vector<int32_t> first_visible;  // [rows] first key that a sliding layer's row sees; empty without such layers
  // [groups] blocks of 128 rows at its front that read a part of the keys in layers of full attention (selection/sparsity.h); the
  // first begins at a multiple of 128. Empty: all rows read all keys.
  std::vector<int32_t> sparse_blocks;

  int rows() const { return static_cast<int>(positions.size()); }
};

// Rows of slots in a segment's carry tables, one for each row of a step; slot −1: the row has none and is left alone.
struct CarryRows {
  int segment = 0;
  std::vector<int32_t> slots;
  std::vector<int32_t> rows;
};

enum class Norm { input, post_attention, mlp, post_mlp, final };

// One selection: the queries of a request's last prompt rows against the keys of the drop layer.
struct SelectionTask {
  int slot;
  int table;       // of the keys
  int first;       // its queries are rows first … first + shape's query rows − 1 of the step
  int query_rows;  // min(last_q, rows)
  SelectionShape shape;
  uint64_t p_q32;
};

struct SelectionOutcome {
  std::vector<uint32_t> bitmap;
  bool finite = true;  // false: scores were not, and everything is kept
  int64_t micros = 0;  // taken by scoring, summing and cutting; 0 where that is not measured
};

// One token to be drawn from a row of logits.
struct SampleTask {
  int row;  // of the tile of logits
  int slot;
  const Sampling *sampling;
  uint64_t sequence;  // another one for every request that a slot holds
  uint64_t index;     // output tokens so far
  // The prompt, then the output that was brought along; the backend knows what it has sampled since.
  std::span<const int32_t> tokens;
  int prompt_length;
  bool return_logits;
};

// A token whose probability is wanted: a prompt's next one.
struct LogprobTask {
  int row;  // of the tile of logits
  int slot;
  int prompt_row;
  int32_t token;
  int count;  // the most likely ones besides
};

// Of rows that leave out keys, blocks of 64 keys over all layers, KV heads and blocks of 128 rows since the backend was made.
struct KeyBlocks {
  int64_t read = 0;
  int64_t seen = 0;  // had none been left out
};

// What a step put out.
struct Outputs {
  struct Sampled {
    int slot;
    Sample sample;
  };
  struct Logits {
    int slot;
    std::vector<float> values;  // [vocab]
  };
  struct PromptLogprobs {
    int slot;
    int prompt_row;
    std::vector<std::pair<int32_t, float>> logprobs;
  };
  std::vector<Sampled> tokens;  // in the order of the tasks
  std::vector<Logits> logits;
  std::vector<PromptLogprobs> prompt_logprobs;
  int64_t device_micros = 0;
  KeyBlocks key_blocks;
};

// Outputs of a step that a device may still be at work on.
class PendingOutputs {
 public:
  virtual ~PendingOutputs() = default;
  // Once. Fails when the step has failed.
  virtual Outputs wait() = 0;
};

// Memory that changes before a step's rows are computed, in this order: tables, copies, states.
struct MemoryChanges {
  struct Entry {
    int slot;
    int table;
    int index;  // of the slab in the table
    int slab;   // −1: given back
  };
  enum class StateChange { zero, copy };
  struct State {
    StateChange change;
    int source;  // state slots; the source of a zeroing is itself
    int target;
  };
  std::vector<Entry> tables;
  std::vector<std::pair<int32_t, int32_t>> copies;  // slabs: source, target
  std::vector<State> states;
};

struct BackendOptions {
  Layout layout;
  int slabs = 0;
  int slots = 0;
  int state_slots = 0;
  int max_rows = 0;    // of a step
  int max_tokens = 0;  // of a slot
  int last_q = 0;
  uint64_t prefill_p_q32 = 0;  // the share of attention that the keys read by sparse blocks have
  std::vector<bool> split_layers;  // layers whose Q and K/V are projected for different rows
  const PageTables *tables = nullptr;  // as the plans have left them; outlives the backend
  const std::vector<int32_t> *state_slots_of = nullptr;  // [slots] state slot of each, −1 without
  // Of a backend that is one of several ranks, whose checkpoint holds its share; null: the only one.
  std::shared_ptr<Communicator> ranks;
};

// What a backend holds, in bytes of its device.
struct BackendMemory {
  int slabs = 0;
  int64_t weights = 0;
  int64_t workspace = 0;
  int64_t free = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // Most rows of a tile, and of a tile of logits.
  virtual int tile_rows() const = 0;
  virtual int logits_rows() const = 0;
  // "cpu (avx512bf16, 2 threads)"
  virtual std::string name() const = 0;
  virtual BackendMemory memory() const = 0;
  // How many tiles' gate, up and activation have been one kernel, of a device that has one.
  virtual int64_t gated_kernels() const { return 0; }

  // Begins a step.
  virtual void begin(const MemoryChanges &changes) = 0;

  // residual[rows] = embedding of the tokens; −1 − slot stands for the last token sampled for that slot.
  virtual void embed(Rows rows, std::span<const int32_t> tokens) = 0;
  // residual[to + i] = residual[from[i]]; from ascends, from[i] ≥ to + i.
  virtual void move_rows(std::span<const int32_t> from, int to) = 0;
  virtual void read_carry(Rows rows, const CarryRows &carry) = 0;
  virtual void write_carry(Rows rows, const CarryRows &carry) = 0;
  // From now on the step has its first `count` rows, and others behind them, in other tiles.
  virtual void keep(int /*count*/) {}
  // read_carry of a tile that goes through the layer that ends carry.segment, by its input norm first.
  virtual void enter(Rows tile, const CarryRows &carry) { read_carry(tile, carry); }

  // normed = norm(residual[tile])
  virtual void norm(Rows tile, int layer, Norm norm) = 0;
  // residual[tile] += norm(mixed)
  virtual void add_normed(Rows tile, int layer, Norm norm) = 0;
  // One matrix product, bias included:
  //   qkv, q, kv, delta_in   projected = normed · Wᵀ (every attention layer may be asked for qkv, split_layers for q and kv too)
  //   o, delta_out           residual[tile] += attended[tile] · Wᵀ; mixed = … in a layer with post norms
  //   down                   residual[tile] += inner · Wᵀ; mixed = … in a layer with post norms
  //   lm_head                logits = normed · Wᵀ, soft-capped
  virtual void linear(Rows tile, int layer, MatrixKind kind) = 0;

  // Of projected, what `kind` says it holds: queries[tile] (and gates[tile]) = rotated norm of Q, and K and V to the pages of
  // rows.segment. `rows` describes the whole step; the tile is a part of it.
  virtual void rotate_and_write(Rows tile, int layer, MatrixKind kind, const RowTable &rows) = 0;
  // attended = attention of queries over pages, of every row of the table
  virtual void attend(int layer, const RowTable &rows) = 0;
  // attended[tile] *= σ(gates[tile])
  virtual void apply_gate(Rows tile, int layer) = 0;
  // Of projected: convolution, recurrence and gated norm to attended[tile]; the slots' states go on. Tiles come in order.
  virtual void recur(Rows tile, int layer, const RowTable &rows) = 0;
  // inner = activation(gate) · up, where [gate | up] = normed · Wᵀ of gate_up
  virtual void gate_and_up(Rows tile, int layer) = 0;
  // residual[tile] += experts(normed); mixed = … in a layer with post norms
  virtual void experts(Rows tile, int layer) = 0;

  // Scores, sums and cuts; waits for the result. Queries as rotate_and_write left them.
  virtual std::vector<SelectionOutcome> select(int layer, std::span<const SelectionTask> tasks, up_rule rule) = 0;

  // Draws from logits; the tokens become the slots' last ones.
  virtual void sample(std::span<const SampleTask> tasks) = 0;
  virtual void logprobs(std::span<const LogprobTask> tasks) = 0;

  // Whether sums over ranks may be under way while other rows of the layer are computed: mixers of all rows come before MLPs then.
  virtual bool overlaps_sums() const { return false; }
  // From a rank that cannot go on with its step: devices that wait for its own stop waiting. They are lost then.
  virtual void give_up() {}
  // After a step has failed on some rank, on every rank, and before the backends of a group are destroyed: nothing is under way
  // afterwards. Fails with UP_DEVICE_LOST where that could not be had.
  virtual void abandon() {}

  // Ends the step. What it put out can be waited for while the next one is under way; at most two are.
  virtual std::unique_ptr<PendingOutputs> finish() = 0;
};

}  // namespace up
