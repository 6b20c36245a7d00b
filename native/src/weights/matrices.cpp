#include "weights/matrices.h"

#include <algorithm>

namespace up {
namespace {

// Rows of some width, of which the ranks of a group may have parts.
struct Part {
  int begin;
  int count;
};

class Builder {
 public:
  // `k`: columns of the tensors.
  Builder(const Checkpoint &checkpoint, int layer, int k) : checkpoint_(checkpoint), layer_(layer), width_(k), columns_{0, k} {
    out_.k = k;
  }
  // Of columns alone: a rank's part of a sum.
  Builder(const Checkpoint &checkpoint, int layer, int k, const Part &columns)
      : checkpoint_(checkpoint), layer_(layer), width_(k), columns_(columns) {
    out_.k = columns.count;
  }

  // Rows [begin, begin + count) of a tensor and of its bias, if it has one.
  Builder &rows(const std::string &role, int begin, int count, int expert = -1) {
    const auto all = checkpoint_.matrix(layer_, role, expert);
    const auto at = [&](int row) { return static_cast<size_t>(row) * static_cast<size_t>(width_); };
    if (columns_.count == width_) {
      out_.pieces.push_back(all.subspan(at(begin), at(count)));
    } else {
      for (int row = begin; row < begin + count; row++) {
        out_.pieces.push_back(all.subspan(at(row) + static_cast<size_t>(columns_.begin), static_cast<size_t>(columns_.count)));
      }
    }
    out_.n += count;
    if (checkpoint_.has(layer_, role + "Bias")) {
      const std::vector<float> bias = checkpoint_.vector(layer_, role + "Bias");
      out_.bias.resize(static_cast<size_t>(out_.n - count));
      out_.bias.insert(out_.bias.end(), bias.begin() + begin, bias.begin() + begin + count);
    } else if (!out_.bias.empty()) {
      out_.bias.resize(static_cast<size_t>(out_.n));
    }
    return *this;
  }
  Builder &rows(const std::string &role, const Part &part, int expert = -1) { return rows(role, part.begin, part.count, expert); }
  Builder &all(const std::string &role, int expert = -1) {
    const size_t rows_of = checkpoint_.matrix(layer_, role, expert).size() / static_cast<size_t>(width_);
    return rows(role, 0, static_cast<int>(rows_of), expert);
  }
  MatrixRows take() { return std::move(out_); }

 private:
  const Checkpoint &checkpoint_;
  int layer_;
  int width_;
  Part columns_;
  MatrixRows out_;
};

Part share_of(int width, const Shard &shard) { return {shard.begin(width), shard.count(width)}; }

// Heads of `dim` rows each.
Part rows_of(const Part &heads, int dim) { return {heads.begin * dim, heads.count * dim}; }

Part kv_rows(const AttentionSpec &whole, const AttentionSpec &own, const Shard &shard) {
  return rows_of({first_kv_head(whole, shard), own.kv_heads}, own.head_dim);
}

// [Q | gate]: with a gate, the tensor has both of each head side by side.
void add_queries(Builder &to, const AttentionSpec &whole, const Shard &shard) {
  const Part heads = share_of(whole.heads, shard);
  if (!whole.output_gate) {
    to.rows("q", rows_of(heads, whole.head_dim));
    return;
  }
  for (const int part : {0, 1}) {
    for (int head = heads.begin; head < heads.begin + heads.count; head++) {
      to.rows("q", (2 * head + part) * whole.head_dim, whole.head_dim);
    }
  }
}

// Key heads of a rank: one that others hold as well where there are fewer than ranks.
Part key_heads_of(const DeltaSpec &whole, const Shard &shard) {
  return {first_key_head(whole, shard), std::max(1, whole.key_heads / shard.size)};
}

// [q | k | v] of a tensor that has them one after another.
void add_delta_channels(Builder &to, const std::string &role, const DeltaSpec &whole, const Shard &shard) {
  const Part keys = rows_of(key_heads_of(whole, shard), whole.key_dim);
  const Part values = rows_of(share_of(whole.value_heads, shard), whole.value_dim);
  to.rows(role, keys).rows(role, whole.key_width() + keys.begin, keys.count);
  to.rows(role, 2 * whole.key_width() + values.begin, values.count);
}

// [q | k | v | z | b | a] of tensors that are grouped by key head: [q, k, v…, z…] and [b…, a…].
void add_grouped_delta(Builder &to, const DeltaSpec &whole, const Shard &shard) {
  const int share = whole.value_heads / whole.key_heads;  // value heads of a key head
  const int values = share * whole.value_dim;
  const int group = 2 * whole.key_dim + 2 * values;
  const Part heads = key_heads_of(whole, shard);
  // Of each group: all of it, or the part of a head that others hold as well.
  const Part own{shard.begin(whole.value_heads) % share, std::min(share, shard.count(whole.value_heads))};
  const Part own_values = rows_of(own, whole.value_dim);
  const Part parts[] = {{0, whole.key_dim},
                        {whole.key_dim, whole.key_dim},
                        {2 * whole.key_dim + own_values.begin, own_values.count},
                        {2 * whole.key_dim + values + own_values.begin, own_values.count}};
  for (const auto &[offset, rows] : parts) {
    for (int head = heads.begin; head < heads.begin + heads.count; head++) to.rows("qkvz", head * group + offset, rows);
  }
  for (const int part : {0, 1}) {
    for (int head = heads.begin; head < heads.begin + heads.count; head++)
      to.rows("ba", (2 * head + part) * share + own.begin, own.count);
  }
}

void add_delta(Builder &to, const DeltaSpec &whole, const Shard &shard) {
  if (whole.grouped) return add_grouped_delta(to, whole, shard);
  const Part heads = share_of(whole.value_heads, shard);
  add_delta_channels(to, "qkv", whole, shard);
  to.rows("z", rows_of(heads, whole.value_dim)).rows("b", heads).rows("a", heads);
}

}  // namespace

std::vector<uint16_t> MatrixRows::gather() const {
  std::vector<uint16_t> out;
  out.reserve(static_cast<size_t>(n) * static_cast<size_t>(k));
  for (const auto &piece : pieces) out.insert(out.end(), piece.begin(), piece.end());
  return out;
}

MatrixRows matrix_rows(const Checkpoint &checkpoint, int layer, MatrixKind kind, int expert) {
  const ModelTable &table = checkpoint.whole_table();
  const Shard &shard = checkpoint.shard();
  const int hidden = table.hidden_size;
  if (kind == MatrixKind::lm_head) return Builder(checkpoint, -1, hidden).all("lmHead").take();
  const LayerSpec &spec = table.layer(layer);
  const AttentionSpec &a = spec.attention;
  const DeltaSpec &d = spec.delta;
  const MlpSpec &m = spec.mlp;
  const Part inner = share_of(m.inner, shard);
  const Part shared_inner = share_of(m.shared_inner, shard);
  const Part kv = spec.is_attention() ? kv_rows(a, checkpoint.table().layer(layer).attention, shard) : Part{0, 0};
  Builder from_hidden(checkpoint, layer, hidden);
  switch (kind) {
    case MatrixKind::qkv:
      add_queries(from_hidden, a, shard);
      return from_hidden.rows("k", kv).rows("v", kv).take();
    case MatrixKind::q: add_queries(from_hidden, a, shard); return from_hidden.take();
    case MatrixKind::kv: return from_hidden.rows("k", kv).rows("v", kv).take();
    case MatrixKind::o: return Builder(checkpoint, layer, a.query_width(), rows_of(share_of(a.heads, shard), a.head_dim)).all("o").take();
    case MatrixKind::delta_in: add_delta(from_hidden, d, shard); return from_hidden.take();
    case MatrixKind::delta_conv: {
      Builder taps(checkpoint, layer, d.conv_kernel);
      add_delta_channels(taps, "conv", d, shard);
      return taps.take();
    }
    case MatrixKind::delta_out:
      return Builder(checkpoint, layer, d.value_width(), rows_of(share_of(d.value_heads, shard), d.value_dim)).all("out").take();
    case MatrixKind::gate_up: return from_hidden.rows("gate", inner).rows("up", inner).take();
    case MatrixKind::down: return Builder(checkpoint, layer, m.inner, inner).all("down").take();
    case MatrixKind::router: return from_hidden.all("router").take();
    case MatrixKind::expert_gate_up:
      if (checkpoint.has(layer, "expertGateUp")) {
        const int first = expert * 2 * m.inner;
        return from_hidden.rows("expertGateUp", first + inner.begin, inner.count)
            .rows("expertGateUp", first + m.inner + inner.begin, inner.count)
            .take();
      }
      return from_hidden.rows("expertGate", inner, expert).rows("expertUp", inner, expert).take();
    case MatrixKind::expert_down: {
      Builder down(checkpoint, layer, m.inner, inner);
      if (checkpoint.has(layer, "expertGateUp")) return down.rows("expertDown", expert * hidden, hidden).take();
      return down.all("expertDown", expert).take();
    }
    case MatrixKind::shared_gate_up: return from_hidden.rows("sharedGate", shared_inner).rows("sharedUp", shared_inner).take();
    case MatrixKind::shared_down: return Builder(checkpoint, layer, m.shared_inner, shared_inner).all("sharedDown").take();
    case MatrixKind::shared_gate: return from_hidden.all("sharedExpertGate").take();
    case MatrixKind::lm_head: break;
  }
  return {};
}

std::vector<float> delta_head_vector(const Checkpoint &checkpoint, int layer, const std::string &role) {
  const std::vector<float> all = checkpoint.vector(layer, role);
  const Part heads = share_of(static_cast<int>(all.size()), checkpoint.shard());
  return {all.begin() + heads.begin, all.begin() + heads.begin + heads.count};
}

}  // namespace up
