#include "weights/matrices.h"

namespace up {
namespace {

class Builder {
 public:
  Builder(const Checkpoint &checkpoint, int layer, int k) : checkpoint_(checkpoint), layer_(layer) { out_.k = k; }

  // Rows [begin, begin + count) of a tensor and of its bias, if it has one.
  Builder &rows(const std::string &role, int begin, int count, int expert = -1) {
    const auto k = static_cast<size_t>(out_.k);
    const auto all = checkpoint_.matrix(layer_, role, expert);
    out_.pieces.push_back(all.subspan(static_cast<size_t>(begin) * k, static_cast<size_t>(count) * k));
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
  Builder &all(const std::string &role, int expert = -1) {
    const size_t rows_of = checkpoint_.matrix(layer_, role, expert).size() / static_cast<size_t>(out_.k);
    return rows(role, 0, static_cast<int>(rows_of), expert);
  }
  MatrixRows take() { return std::move(out_); }

 private:
  const Checkpoint &checkpoint_;
  int layer_;
  MatrixRows out_;
};

// [Q | gate]: with a gate, the tensor has both of each head side by side.
void add_queries(Builder &to, const AttentionSpec &a) {
  if (!a.output_gate) {
    to.all("q");
    return;
  }
  for (const int part : {0, 1}) {
    for (int head = 0; head < a.heads; head++) to.rows("q", (2 * head + part) * a.head_dim, a.head_dim);
  }
}

// [q | k | v | z | b | a] of tensors that are grouped by key head: [q, k, v…, z…] and [b…, a…].
void add_grouped_delta(Builder &to, const DeltaSpec &d) {
  const int share = d.value_heads / d.key_heads;  // value heads of a key head
  const int values = share * d.value_dim;
  const int group = 2 * d.key_dim + 2 * values;
  const struct {
    int offset, rows;
  } parts[] = {{0, d.key_dim}, {d.key_dim, d.key_dim}, {2 * d.key_dim, values}, {2 * d.key_dim + values, values}};
  for (const auto &[offset, rows] : parts) {
    for (int head = 0; head < d.key_heads; head++) to.rows("qkvz", head * group + offset, rows);
  }
  for (const int part : {0, 1}) {
    for (int head = 0; head < d.key_heads; head++) to.rows("ba", (2 * head + part) * share, share);
  }
}

}  // namespace

std::vector<uint16_t> MatrixRows::gather() const {
  std::vector<uint16_t> out;
  out.reserve(static_cast<size_t>(n) * static_cast<size_t>(k));
  for (const auto &piece : pieces) out.insert(out.end(), piece.begin(), piece.end());
  return out;
}

MatrixRows matrix_rows(const Checkpoint &checkpoint, int layer, MatrixKind kind, int expert) {
  const ModelTable &table = checkpoint.table();
  const int hidden = table.hidden_size;
  if (kind == MatrixKind::lm_head) return Builder(checkpoint, -1, hidden).all("lmHead").take();
  const LayerSpec &spec = table.layer(layer);
  const AttentionSpec &a = spec.attention;
  const DeltaSpec &d = spec.delta;
  const MlpSpec &m = spec.mlp;
  Builder from_hidden(checkpoint, layer, hidden);
  switch (kind) {
    case MatrixKind::qkv:
      add_queries(from_hidden, a);
      return from_hidden.all("k").all("v").take();
    case MatrixKind::q: add_queries(from_hidden, a); return from_hidden.take();
    case MatrixKind::kv: return from_hidden.all("k").all("v").take();
    case MatrixKind::o: return Builder(checkpoint, layer, a.query_width()).all("o").take();
    case MatrixKind::delta_in:
      if (d.grouped) {
        add_grouped_delta(from_hidden, d);
        return from_hidden.take();
      }
      return from_hidden.all("qkv").all("z").all("b").all("a").take();
    case MatrixKind::delta_out: return Builder(checkpoint, layer, d.value_width()).all("out").take();
    case MatrixKind::gate_up: return from_hidden.all("gate").all("up").take();
    case MatrixKind::down: return Builder(checkpoint, layer, m.inner).all("down").take();
    case MatrixKind::router: return from_hidden.all("router").take();
    case MatrixKind::expert_gate_up:
      if (checkpoint.has(layer, "expertGateUp")) {
        return from_hidden.rows("expertGateUp", expert * 2 * m.inner, 2 * m.inner).take();
      }
      return from_hidden.all("expertGate", expert).all("expertUp", expert).take();
    case MatrixKind::expert_down: {
      Builder down(checkpoint, layer, m.inner);
      if (checkpoint.has(layer, "expertGateUp")) return down.rows("expertDown", expert * hidden, hidden).take();
      return down.all("expertDown", expert).take();
    }
    case MatrixKind::shared_gate_up: return from_hidden.all("sharedGate").all("sharedUp").take();
    case MatrixKind::shared_down: return Builder(checkpoint, layer, m.shared_inner).all("sharedDown").take();
    case MatrixKind::shared_gate: return from_hidden.all("sharedExpertGate").take();
    case MatrixKind::lm_head: break;
  }
  return {};
}

}  // namespace up
