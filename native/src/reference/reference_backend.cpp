#include "reference/reference_backend.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "abi/failure.h"
#include "reference/reference_layers.h"
#include "sampling/host_sampling.h"
#include "selection/sparsity.h"
#include "weights/rope.h"

namespace up::reference {
namespace {

class ReferenceBackend : public Backend {
 public:
  ReferenceBackend(std::shared_ptr<const Checkpoint> checkpoint, const BackendOptions &options)
      : checkpoint_(std::move(checkpoint)),
        model_(checkpoint_->table()),
        options_(options),
        weights_(*checkpoint_),
        memory_(model_, options_),
        sampling_(model_.vocab_size, options.slots),
        residual_(static_cast<size_t>(options.max_rows + options.last_q)) {
    for (const LayerSpec &layer : model_.layers) frequencies_.push_back(rope_frequencies(layer.attention.rope));
    queries_.resize(residual_.size());
    gates_.resize(residual_.size());
    attended_.resize(residual_.size());
  }

  int tile_rows() const override { return 512; }
  int logits_rows() const override { return 64; }
  std::string name() const override { return "reference (double precision)"; }
  BackendMemory memory() const override { return {options_.slabs, 0, 0, 0}; }

  void begin(const MemoryChanges &changes) override {
    started_ = std::chrono::steady_clock::now();
    sampling_.begin();
    memory_.change(changes);
  }

  void embed(Rows rows, std::span<const int32_t> tokens) override {
    const auto hidden = static_cast<ptrdiff_t>(model_.hidden_size);
    for (int i = 0; i < rows.count; i++) {
      const int32_t asked = tokens[static_cast<size_t>(i)];
      const int32_t token = asked < 0 ? sampling_.last_token(-1 - asked) : asked;
      Vector &to = row(rows.begin + i);
      to.assign(weights_.embedding().begin() + token * hidden, weights_.embedding().begin() + (token + 1) * hidden);
      for (double &value : to) value *= model_.embedding_scale;
    }
  }

  void move_rows(std::span<const int32_t> from, int to) override {
    for (size_t i = 0; i < from.size(); i++) {
      const Vector moved = row(from[i]);
      row(to + static_cast<int>(i)) = moved;
    }
  }

  void read_carry(Rows rows, const CarryRows &carry) override {
    for_each_carry(rows, carry, [](double &carried, double &own) { own = carried; });
  }

  void write_carry(Rows rows, const CarryRows &carry) override {
    for_each_carry(rows, carry, [](double &carried, double &own) { carried = own; });
  }

  void norm(Rows tile, int layer, Norm norm) override {
    normed_.clear();
    for (int i = 0; i < tile.count; i++) {
      Vector x = row(tile.begin + i);
      apply_norm(x.data(), layer, norm);
      normed_.insert(normed_.end(), x.begin(), x.end());
    }
  }

  void add_normed(Rows tile, int layer, Norm norm) override {
    for (int i = 0; i < tile.count; i++) apply_norm(&mixed_[at(i, model_.hidden_size)], layer, norm);
    add_mixed(tile);
  }

  void linear(Rows tile, int layer, MatrixKind kind) override {
    const Matrix &matrix = weights_.matrix(kind == MatrixKind::lm_head ? -1 : layer, kind);
    switch (kind) {
      case MatrixKind::o:
      case MatrixKind::delta_out: {
        Vector in;
        for (int i = tile.begin; i < tile.end(); i++) in.insert(in.end(), attended_[index(i)].begin(), attended_[index(i)].end());
        return put_out(tile, layer, matrix.times(in.data(), tile.count));
      }
      case MatrixKind::down: return put_out(tile, layer, matrix.times(inner_.data(), tile.count));
      case MatrixKind::lm_head: return compute_logits(matrix, tile.count);
      default: projected_ = matrix.times(normed_.data(), tile.count);
    }
  }

  void rotate_and_write(Rows tile, int layer, MatrixKind kind, const RowTable &rows) override;
  void attend(int layer, const RowTable &rows) override;

  void apply_gate(Rows tile, int) override {
    for (int i = tile.begin; i < tile.end(); i++) {
      Vector &out = attended_[index(i)];
      for (size_t j = 0; j < out.size(); j++) out[j] *= sigmoid(gates_[index(i)][j]);
    }
  }

  void recur(Rows tile, int layer, const RowTable &rows) override {
    const DeltaSpec &spec = model_.layer(layer).delta;
    const std::vector<int> slots = slots_of(rows);
    for (int i = 0; i < tile.count; i++) {
      Vector &out = attended_[index(tile.begin + i)];
      out.assign(index(spec.value_width()), 0.0);
      delta_row(&projected_[at(i, spec.projected_width())], spec, weights_, layer,
                memory_.delta(slots[index(tile.begin + i)], layer), out.data());
    }
  }

  void gate_and_up(Rows tile, int layer) override {
    const MlpSpec &mlp = model_.layer(layer).mlp;
    const Vector gated = weights_.matrix(layer, MatrixKind::gate_up).times(normed_.data(), tile.count);
    inner_.resize(at(tile.count, mlp.inner));
    for (int i = 0; i < tile.count; i++) {
      const double *gate = &gated[at(i, 2 * mlp.inner)];
      for (int j = 0; j < mlp.inner; j++) inner_[at(i, mlp.inner) + index(j)] = activation(mlp.activation, gate[j]) * gate[mlp.inner + j];
    }
  }

  void experts(Rows tile, int layer) override {
    Vector out;
    for (int i = 0; i < tile.count; i++) {
      const Vector one = expert_row(&normed_[at(i, model_.hidden_size)], model_.layer(layer).mlp, weights_, layer);
      out.insert(out.end(), one.begin(), one.end());
    }
    put_out(tile, layer, std::move(out));
  }

  std::vector<SelectionOutcome> select(int layer, std::span<const SelectionTask> tasks, up_rule rule) override;

  void sample(std::span<const SampleTask> tasks) override { sampling_.sample(tasks, logits_); }
  void logprobs(std::span<const LogprobTask> tasks) override { sampling_.logprobs(tasks, logits_); }

  std::unique_ptr<PendingOutputs> finish() override {
    const auto taken = std::chrono::steady_clock::now() - started_;
    return sampling_.finish(std::chrono::duration_cast<std::chrono::microseconds>(taken).count(), key_blocks_);
  }

 private:
  // Where K and V of rows first … last lie.
  struct KeyRows {
    std::vector<const double *> keys, values;
  };
  KeyRows key_rows(int slot, int layer, int first, int last);
  std::vector<std::vector<uint32_t>> sparse_keys(const AttentionSpec &a, const KeyRows &keys, const RowGroup &group, int query_blocks, int place);
  static void keep_shares(Vector &shares, const std::vector<uint32_t> &blocks);

  static size_t index(int i) { return static_cast<size_t>(i); }
  static size_t at(int row, int width) { return static_cast<size_t>(row) * static_cast<size_t>(width); }
  Vector &row(int i) { return residual_[index(i)]; }

  static std::vector<int> slots_of(const RowTable &rows) {
    std::vector<int> out(index(rows.rows()), -1);
    for (const RowGroup &group : rows.groups) std::fill_n(out.begin() + group.first, group.rows, group.slot);
    return out;
  }

  template <class Visit>
  void for_each_carry(Rows rows, const CarryRows &carry, Visit &&visit) {
    for (int i = 0; i < rows.count; i++) {
      if (carry.slots[index(i)] < 0) continue;
      Vector &own = row(rows.begin + i);
      own.resize(index(model_.hidden_size));
      for (int e = 0; e < model_.hidden_size; e++) {
        visit(memory_.carry(carry.slots[index(i)], carry.segment, carry.rows[index(i)], e), own[index(e)]);
      }
    }
  }

  void apply_norm(double *x, int layer, Norm norm) const {
    if (norm == Norm::final) return normalise(x, model_.hidden_size, weights_.vector(-1, "finalNorm"), model_.final_norm);
    const char *role = norm == Norm::input            ? "inputNorm"
                       : norm == Norm::post_attention ? "postAttentionNorm"
                       : norm == Norm::mlp            ? "mlpNorm"
                                                      : "postMlpNorm";
    normalise(x, model_.hidden_size, weights_.vector(layer, role), model_.layer(layer).norm);
  }

  // To the residual stream, or to where a norm takes it from.
  void put_out(Rows tile, int layer, Vector out) {
    mixed_ = std::move(out);
    if (!model_.layer(layer).post_norms) add_mixed(tile);
  }

  void add_mixed(Rows tile) {
    for (int i = 0; i < tile.count; i++) {
      for (int j = 0; j < model_.hidden_size; j++) row(tile.begin + i)[index(j)] += mixed_[at(i, model_.hidden_size) + index(j)];
    }
  }

  void compute_logits(const Matrix &matrix, int rows) {
    const double cap = model_.logit_soft_cap;
    const Vector exact = matrix.times(normed_.data(), rows);
    logits_.clear();
    for (const double value : exact) logits_.push_back(static_cast<float>(cap > 0 ? cap * std::tanh(value / cap) : value));
  }

  std::shared_ptr<const Checkpoint> checkpoint_;
  const ModelTable &model_;
  const BackendOptions options_;
  Weights weights_;
  Memory memory_;
  HostSampling sampling_;
  std::vector<std::vector<double>> frequencies_;  // [layers] of rotation
  std::chrono::steady_clock::time_point started_;
  KeyBlocks key_blocks_;
  std::vector<Vector> residual_, queries_, gates_, attended_;  // [rows of a step]
  Vector normed_, projected_, inner_, mixed_;                  // of a tile, row after row
  std::vector<float> logits_;
};

void ReferenceBackend::rotate_and_write(Rows tile, int layer, MatrixKind kind, const RowTable &rows) {
  const AttentionSpec &a = model_.layer(layer).attention;
  const std::vector<int> slots = slots_of(rows);
  const int queries = kind == MatrixKind::kv ? 0 : (a.output_gate ? 2 : 1) * a.query_width();
  const int keys = kind == MatrixKind::q ? 0 : 2 * a.kv_width();
  for (int i = 0; i < tile.count; i++) {
    const size_t step_row = index(tile.begin + i);
    double *from = &projected_[at(i, queries + keys)];
    const auto finish_heads = [&](double *heads, int count, const char *norm) {
      for (int head = 0; head < count; head++, heads += a.head_dim) {
        if (a.qk_norm) normalise(heads, a.head_dim, weights_.vector(layer, norm), a.qk_norm_spec);
        rotate(heads, frequencies_[index(layer)], rows.positions[step_row]);
      }
    };
    if (queries > 0) {
      finish_heads(from, a.heads, "qNorm");
      queries_[step_row].assign(from, from + a.query_width());
      gates_[step_row].assign(from + a.query_width(), from + queries);
    }
    if (keys > 0) {
      double *key = from + queries;
      finish_heads(key, a.kv_heads, "kNorm");
      const int place = rows.places[step_row];
      std::copy_n(key, a.kv_width(), memory_.kv(slots[step_row], layer, Memory::Part::keys, place));
      std::copy_n(key + a.kv_width(), a.kv_width(), memory_.kv(slots[step_row], layer, Memory::Part::values, place));
    }
  }
}

ReferenceBackend::KeyRows ReferenceBackend::key_rows(int slot, int layer, int first, int last) {
  KeyRows out;
  for (int row = first; row <= last; row++) {
    out.keys.push_back(memory_.kv(slot, layer, Memory::Part::keys, row));
    out.values.push_back(memory_.kv(slot, layer, Memory::Part::values, row));
  }
  return out;
}

void ReferenceBackend::attend(int layer, const RowTable &rows) {
  const AttentionSpec &a = model_.layer(layer).attention;
  const bool sliding = model_.layer(layer).mixer == Mixer::sliding;
  const auto first_of = [&](int i) { return sliding ? rows.first_visible[index(i)] : 0; };
  for (size_t g = 0; g < rows.groups.size(); g++) {
    const RowGroup &group = rows.groups[g];
    const int end = group.first + group.rows;
    const int first = first_of(group.first);
    const int last = rows.places[index(end - 1)];
    const KeyRows keys = key_rows(group.slot, layer, first, last);
    const int sparse = rows.sparse_blocks.empty() || sliding ? 0 : rows.sparse_blocks[g];
    const auto chosen = sparse_keys(a, keys, group, sparse, rows.places[index(group.first)]);
#pragma omp parallel for schedule(dynamic)
    for (int i = group.first; i < end; i++) {
      Vector &out = attended_[index(i)];
      out.assign(index(a.query_width()), 0.0);
      for (int head = 0; head < a.heads; head++) {
        const int offset = head / (a.heads / a.kv_heads) * a.head_dim;
        Vector shares = attention_shares(&queries_[index(i)][index(head * a.head_dim)], &keys.keys[index(first_of(i) - first)],
                                         rows.places[index(i)] - first_of(i) + 1, offset, a);
        const int block = (i - group.first) / sparse_query_rows;
        if (block < sparse) keep_shares(shares, chosen[index(head / (a.heads / a.kv_heads) * sparse + block)]);
        for (size_t j = 0; j < shares.size(); j++) {
          const double *value = keys.values[index(first_of(i) - first) + j] + offset;
          for (int d = 0; d < a.head_dim; d++) out[index(head * a.head_dim + d)] += shares[j] * value[d];
        }
      }
    }
  }
}

// [kv heads, blocks of 128 rows] the blocks of keys that these read.
std::vector<std::vector<uint32_t>> ReferenceBackend::sparse_keys(const AttentionSpec &a, const KeyRows &keys, const RowGroup &group,
                                                                 int query_blocks, int place) {
  std::vector<std::vector<uint32_t>> out;
  const int heads_per_kv = a.heads / a.kv_heads;
  for (int kv_head = 0; kv_head < a.kv_heads; kv_head++) {
    for (int block = 0; block < query_blocks; block++) {
      const int blocks = (place + (block + 1) * sparse_query_rows) / sparse_key_rows;
      std::vector<uint32_t> masses(index(blocks), 0);
      bool finite = true;
      for (int head = kv_head * heads_per_kv; head < (kv_head + 1) * heads_per_kv; head++) {
        Vector of_head(masses.size(), 0.0);
        for (int sample = 1; sample <= sparse_samples; sample++) {
          const int row = block * sparse_query_rows + sample * sparse_sample_every - 1;
          const Vector shares = attention_shares(&queries_[index(group.first + row)][index(head * a.head_dim)], keys.keys.data(),
                                                 place + row + 1, kv_head * a.head_dim, a);
          for (size_t j = 0; j < shares.size(); j++) of_head[j / sparse_key_rows] += shares[j];
        }
        for (size_t j = 0; j < masses.size(); j++) {
          finite = finite && std::isfinite(of_head[j]);
          if (finite) masses[j] += static_cast<uint32_t>(of_head[j] * sparse_unit);
        }
      }
      out.emplace_back(index(sparse_words(blocks * sparse_key_rows)));
      if (finite) {
        choose_key_blocks(masses, options_.prefill_p_q32, out.back().data());
      } else {
        keep_key_blocks(blocks, out.back().data());
      }
      key_blocks_.seen += blocks;
      key_blocks_.read += count_key_blocks(out.back());
    }
  }
  return out;
}

// The softmax of the keys in these blocks alone.
void ReferenceBackend::keep_shares(Vector &shares, const std::vector<uint32_t> &blocks) {
  double total = 0;
  for (size_t j = 0; j < shares.size(); j++) {
    const size_t block = j / sparse_key_rows;
    if ((blocks[block / 32] >> (block % 32) & 1) == 0) shares[j] = 0;
    total += shares[j];
  }
  for (double &share : shares) share /= total;
}

std::vector<SelectionOutcome> ReferenceBackend::select(int layer, std::span<const SelectionTask> tasks, up_rule rule) {
  const AttentionSpec &a = model_.layer(layer).attention;
  std::vector<SelectionOutcome> out;
  for (const SelectionTask &task : tasks) {
    const SelectionShape &shape = task.shape;
    std::vector<uint64_t> masses(index(shape.blocks()), 0);
    bool finite = true;
    const KeyRows keys = key_rows(task.slot, layer, 0, shape.rows - 1);
    for (int head = 0; head < a.heads; head++) {
      const int offset = head / (a.heads / a.kv_heads) * a.head_dim;
      Vector of_head(masses.size(), 0.0);
      for (int q = 0; q < task.query_rows; q++) {
        const int last = shape.rows - task.query_rows + q;
        const Vector shares =
            attention_shares(&queries_[index(task.first + q)][index(head * a.head_dim)], keys.keys.data(), last + 1, offset, a);
        for (int j = 0; j <= last; j++) of_head[index(j / shape.block)] += shares[index(j)];
      }
      for (size_t block = 0; block < masses.size(); block++) {
        finite = finite && std::isfinite(of_head[block]);
        if (finite) masses[block] += static_cast<uint64_t>(std::ldexp(of_head[block], 40));
      }
    }
    out.push_back({finite ? select_blocks(masses, task.p_q32, rule, shape) : full_bitmap(shape), finite});
  }
  return out;
}

}  // namespace
}  // namespace up::reference

namespace up {

std::unique_ptr<Backend> make_reference_backend(std::shared_ptr<const Checkpoint> checkpoint, const BackendOptions &options) {
  return std::make_unique<reference::ReferenceBackend>(std::move(checkpoint), options);
}

}  // namespace up
