#include "cuda/backend/device_weights.h"

#include <algorithm>
#include <bit>
#include <deque>

#include "cuda/backend/weight_upload.h"
#include "cuda/linear/round_rows.h"
#include "weights/quantization.h"

namespace up::cuda {
namespace {

uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// As much of what is to be rounded as is on the device at once, where no matrix is larger.
constexpr size_t most_staged_bytes = 1 << 30;

}  // namespace

// Places in the one allocation, by offset until it is made.
class DeviceWeights::Planner {
 public:
  explicit Planner(const Checkpoint &checkpoint) : checkpoint_(checkpoint) {}

  const uint16_t *vector(int layer, const std::string &role) { return values(checkpoint_.vector(layer, role)); }
  const float *of_heads(int layer, const std::string &role) {
    const std::vector<float> &kept = floats_.emplace_back(delta_head_vector(checkpoint_, layer, role));
    return reinterpret_cast<const float *>(place({std::as_bytes(std::span(kept))}));
  }
  // A tensor as it is.
  const uint16_t *tensor(int layer, const std::string &role) {
    return elements(place({std::as_bytes(checkpoint_.matrix(layer, role))}));
  }
  Matrix matrix(int layer, MatrixKind kind) {
    MatrixRows rows = matrix_rows(checkpoint_, layer, kind);
    // A sum over ranks has its bias once.
    const bool is_part = kind == MatrixKind::o || kind == MatrixKind::delta_out || kind == MatrixKind::down;
    if (is_part && checkpoint_.shard().rank > 0) rows.bias.clear();
    return is_fp8(checkpoint_.table().quantization, kind, rows.n, rows.k) ? in_eight_bits(rows) : matrix(rows);
  }
  const uint16_t *convolution(int layer) { return elements(matrix(matrix_rows(checkpoint_, layer, MatrixKind::delta_conv)).data); }
  // Two matrices of one width, one under the other.
  Matrix stacked(int layer, MatrixKind kind, MatrixKind below) {
    MatrixRows rows = matrix_rows(checkpoint_, layer, kind);
    const MatrixRows more = matrix_rows(checkpoint_, layer, below);
    rows.pieces.insert(rows.pieces.end(), more.pieces.begin(), more.pieces.end());
    rows.n += more.n;
    return matrix(rows);
  }
  // One matrix of every expert.
  const uint16_t *experts(int layer, MatrixKind kind, int count) {
    std::vector<std::span<const std::byte>> pieces;
    for (int expert = 0; expert < count; expert++) {
      for (const auto &piece : matrix_rows(checkpoint_, layer, kind, expert).pieces) pieces.push_back(std::as_bytes(piece));
    }
    return elements(place(std::move(pieces)));
  }
  Matrix embedding() {
    const ModelTable &table = checkpoint_.table();
    return {place({std::as_bytes(checkpoint_.matrix(-1, "embedding"))}), table.vocab_size, table.hidden_size};
  }

  // A matrix in e4m3: what becomes of which pieces.
  struct ToRound {
    Matrix matrix;
    std::vector<std::span<const std::byte>> pieces;

    size_t bytes() const { return aligned_bytes(static_cast<size_t>(matrix.n) * static_cast<size_t>(matrix.k) * sizeof(uint16_t)); }
  };

  size_t bytes() const { return bytes_; }
  const std::vector<ToRound> &to_round() const { return to_round_; }
  // Turns offsets into addresses.
  std::vector<Transfer> &transfers(std::byte *base) {
    for (Transfer &transfer : transfers_) transfer.target = base + reinterpret_cast<uintptr_t>(transfer.target);
    return transfers_;
  }

 private:
  Matrix matrix(const MatrixRows &rows) {
    std::vector<std::span<const std::byte>> pieces;
    for (const auto &piece : rows.pieces) pieces.push_back(std::as_bytes(piece));
    Matrix out{place(std::move(pieces)), rows.n, rows.k};
    if (!rows.bias.empty()) out.bias = values(rows.bias);
    return out;
  }
  Matrix in_eight_bits(const MatrixRows &rows) {
    Matrix out{reserve(static_cast<size_t>(rows.n) * static_cast<size_t>(rows.k)), rows.n, rows.k};
    out.scales = reinterpret_cast<const float *>(reserve(static_cast<size_t>(rows.n) * sizeof(float)));
    if (!rows.bias.empty()) out.bias = values(rows.bias);
    ToRound &kept = to_round_.emplace_back(ToRound{out, {}});
    for (const auto &piece : rows.pieces) kept.pieces.push_back(std::as_bytes(piece));
    return out;
  }
  // Offsets pass for pointers until load(); they begin behind 256 bytes, so that none is null.
  std::byte *place(std::vector<std::span<const std::byte>> pieces) {
    size_t bytes = 0;
    for (const auto &piece : pieces) bytes += piece.size();
    std::byte *const out = reserve(bytes);
    transfers_.push_back({out, std::move(pieces)});
    return out;
  }
  std::byte *reserve(size_t bytes) {
    auto *const out = reinterpret_cast<std::byte *>(bytes_);
    bytes_ += aligned_bytes(bytes);
    return out;
  }
  static const uint16_t *elements(const std::byte *placed) { return reinterpret_cast<const uint16_t *>(placed); }
  const uint16_t *values(const std::vector<float> &from) {
    std::vector<uint16_t> &kept = converted_.emplace_back();
    for (const float value : from) kept.push_back(to_bf16(value));
    return elements(place({std::as_bytes(std::span(kept))}));
  }

  const Checkpoint &checkpoint_;
  size_t bytes_ = 256;
  std::vector<Transfer> transfers_;
  std::vector<ToRound> to_round_;
  std::deque<std::vector<uint16_t>> converted_;
  std::deque<std::vector<float>> floats_;
};

DeviceWeights::DeviceWeights(const Checkpoint &checkpoint) : planner_(std::make_unique<Planner>(checkpoint)) {
  const ModelTable &table = checkpoint.table();
  Planner &plan = *planner_;
  for (int i = 0; i < table.layer_count(); i++) {
    const LayerSpec &spec = table.layer(i);
    LayerWeights w;
    w.input_norm = plan.vector(i, "inputNorm");
    w.mlp_norm = plan.vector(i, "mlpNorm");
    if (spec.post_norms) {
      w.post_attention_norm = plan.vector(i, "postAttentionNorm");
      w.post_mlp_norm = plan.vector(i, "postMlpNorm");
    }
    if (spec.is_attention()) {
      w.qkv = plan.matrix(i, MatrixKind::qkv);
      if (spec.attention.qk_norm) {
        w.q_norm = plan.vector(i, "qNorm");
        w.k_norm = plan.vector(i, "kNorm");
      }
      w.o = plan.matrix(i, MatrixKind::o);
    } else {
      w.delta_in = plan.matrix(i, MatrixKind::delta_in);
      w.conv = plan.convolution(i);
      w.a_log = plan.of_heads(i, "aLog");
      w.dt_bias = plan.of_heads(i, "dtBias");
      w.delta_norm = plan.vector(i, "deltaNorm");
      w.delta_out = plan.matrix(i, MatrixKind::delta_out);
    }
    if (!spec.mlp.is_moe()) {
      w.gate_up = plan.matrix(i, MatrixKind::gate_up);
      w.down = plan.matrix(i, MatrixKind::down);
    } else {
      const bool shared = spec.mlp.shared_inner > 0;
      w.router = shared ? plan.stacked(i, MatrixKind::router, MatrixKind::shared_gate) : plan.matrix(i, MatrixKind::router);
      w.expert_gate_up = plan.experts(i, MatrixKind::expert_gate_up, spec.mlp.experts);
      w.expert_down = plan.experts(i, MatrixKind::expert_down, spec.mlp.experts);
      if (shared) {
        w.shared_gate_up = plan.matrix(i, MatrixKind::shared_gate_up);
        w.shared_down = plan.matrix(i, MatrixKind::shared_down);
      }
    }
    layers_.push_back(w);
  }
  embedding_ = plan.embedding();
  final_norm_ = plan.vector(-1, "finalNorm");
  const bool tied = table.tensor(-1, "lmHead") == table.tensor(-1, "embedding");
  lm_head_ = tied ? embedding_ : plan.matrix(-1, MatrixKind::lm_head);

  bytes_ = plan.bytes();
}

DeviceWeights::~DeviceWeights() = default;

void DeviceWeights::load(Device &device, const Progress &progress) {
  memory_ = DeviceBuffer(device, bytes_, "the weights");
  const auto settle = [&]<class T>(const T *&pointer) {
    if (pointer != nullptr) pointer = memory_.as<const T>(reinterpret_cast<uintptr_t>(pointer));
  };
  const auto settle_matrix = [&](Matrix &matrix) {
    settle(matrix.data);
    settle(matrix.bias);
    settle(matrix.scales);
  };
  for (LayerWeights &w : layers_) {
    for (const uint16_t **each : {&w.input_norm, &w.post_attention_norm, &w.mlp_norm, &w.post_mlp_norm, &w.q_norm, &w.k_norm, &w.conv,
                                  &w.delta_norm, &w.expert_gate_up, &w.expert_down})
      settle(*each);
    settle(w.a_log);
    settle(w.dt_bias);
    for (Matrix *each : {&w.qkv, &w.o, &w.delta_in, &w.delta_out, &w.gate_up, &w.down, &w.router, &w.shared_gate_up, &w.shared_down})
      settle_matrix(*each);
  }
  settle(final_norm_);
  settle_matrix(embedding_);
  settle_matrix(lm_head_);
  int64_t rounded = 0, others = 0;
  for (const Planner::ToRound &each : planner_->to_round()) rounded += static_cast<int64_t>(each.bytes());
  upload_all(device, planner_->transfers(memory_.as()), [&](int64_t done, int64_t all) {
    others = all;
    if (progress) progress(done, all + rounded);
  });
  load_rounded(device, [&](int64_t done, int64_t all) {
    if (progress) progress(others + done, others + all);
  });
  planner_.reset();
}

void DeviceWeights::load_rounded(Device &device, const Progress &progress) {
  constexpr const char *phase = "round weights";
  const std::vector<Planner::ToRound> &all = planner_->to_round();
  size_t largest = 0, total = 0;
  for (const Planner::ToRound &each : all) {
    largest = std::max(largest, each.bytes());
    total += each.bytes();
  }
  if (all.empty()) return;
  const DeviceBuffer block(device, std::max(largest, std::min(total, most_staged_bytes)), "weights that are to be rounded");
  int64_t before = 0;
  for (size_t next = 0; next < all.size();) {
    const size_t first = next;
    std::vector<Transfer> transfers;
    size_t taken = 0;
    for (; next < all.size() && taken + all[next].bytes() <= block.bytes(); next++) {
      transfers.push_back({block.as(taken), all[next].pieces});
      taken += all[next].bytes();
    }
    upload_all(device, transfers, [&](int64_t done, int64_t) {
      progress(before + done, static_cast<int64_t>(total));
    });
    for (size_t i = first, at = 0; i < next; at += all[i++].bytes()) {
      const Matrix &m = all[i].matrix;
      launch_round_rows(block.as<const uint16_t>(at), m.k, m.n, m.k, memory_.as<uint8_t>(reinterpret_cast<uintptr_t>(m.data)),
                        memory_.as<float>(reinterpret_cast<uintptr_t>(m.scales)), device.stream());
      device.check_launch(phase);
    }
    device.wait(phase);
    before += static_cast<int64_t>(taken);
  }
}

}  // namespace up::cuda
