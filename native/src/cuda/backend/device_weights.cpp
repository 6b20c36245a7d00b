#include "cuda/backend/device_weights.h"

#include <bit>
#include <deque>

#include "cuda/backend/weight_upload.h"

namespace up::cuda {
namespace {

uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace

// Places in the one allocation, by offset until it is made.
class DeviceWeights::Planner {
 public:
  explicit Planner(const Checkpoint &checkpoint) : checkpoint_(checkpoint) {}

  const uint16_t *vector(int layer, const std::string &role) {
    if (!checkpoint_.has(layer, role)) return nullptr;
    return values(checkpoint_.vector(layer, role));
  }
  Matrix matrix(int layer, MatrixKind kind) {
    const MatrixRows rows = matrix_rows(checkpoint_, layer, kind);
    Matrix out{place(static_cast<size_t>(rows.n) * static_cast<size_t>(rows.k)), rows.n, rows.k, nullptr};
    for (const auto &piece : rows.pieces) transfers_.back().pieces.push_back(std::as_bytes(piece));
    if (!rows.bias.empty()) out.bias = values(rows.bias);
    return out;
  }
  Matrix embedding() {
    const auto rows = checkpoint_.matrix(-1, "embedding");
    const int hidden = checkpoint_.table().hidden_size;
    const Matrix out{place(rows.size()), static_cast<int>(rows.size() / static_cast<size_t>(hidden)), hidden, nullptr};
    transfers_.back().pieces.push_back(std::as_bytes(rows));
    return out;
  }

  size_t bytes() const { return bytes_; }
  // Turns offsets into addresses.
  std::vector<Transfer> &transfers(std::byte *base) {
    for (Transfer &transfer : transfers_) transfer.target = base + reinterpret_cast<uintptr_t>(transfer.target);
    return transfers_;
  }

 private:
  // Offsets pass for pointers until load(); they begin behind 256 bytes, so that none is null.
  const uint16_t *place(size_t elements) {
    transfers_.push_back({reinterpret_cast<std::byte *>(bytes_), {}});
    const auto *out = reinterpret_cast<const uint16_t *>(bytes_);
    bytes_ += aligned_bytes(2 * elements);
    return out;
  }
  const uint16_t *values(const std::vector<float> &from) {
    std::vector<uint16_t> &kept = converted_.emplace_back();
    for (const float value : from) kept.push_back(to_bf16(value));
    const uint16_t *out = place(kept.size());
    transfers_.back().pieces.push_back(std::as_bytes(std::span(kept)));
    return out;
  }

  const Checkpoint &checkpoint_;
  size_t bytes_ = 256;
  std::vector<Transfer> transfers_;
  std::deque<std::vector<uint16_t>> converted_;
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
    w.qkv = plan.matrix(i, MatrixKind::qkv);
    if (spec.attention.qk_norm) {
      w.q_norm = plan.vector(i, "qNorm");
      w.k_norm = plan.vector(i, "kNorm");
    }
    w.o = plan.matrix(i, MatrixKind::o);
    w.gate_up = plan.matrix(i, MatrixKind::gate_up);
    w.down = plan.matrix(i, MatrixKind::down);
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
  const auto settle = [&](const uint16_t *&pointer) {
    if (pointer != nullptr) pointer = memory_.as<const uint16_t>(reinterpret_cast<uintptr_t>(pointer));
  };
  const auto settle_matrix = [&](Matrix &matrix) {
    settle(matrix.data);
    settle(matrix.bias);
  };
  for (LayerWeights &w : layers_) {
    for (const uint16_t **each : {&w.input_norm, &w.post_attention_norm, &w.mlp_norm, &w.post_mlp_norm, &w.q_norm, &w.k_norm})
      settle(*each);
    for (Matrix *each : {&w.qkv, &w.o, &w.gate_up, &w.down}) settle_matrix(*each);
  }
  settle(final_norm_);
  settle_matrix(embedding_);
  settle_matrix(lm_head_);
  upload_all(device, planner_->transfers(memory_.as()), progress);
  planner_.reset();
}

}  // namespace up::cuda
