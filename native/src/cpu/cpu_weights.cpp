#include "cpu/cpu_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "abi/failure.h"
#include "weights/quantization.h"

namespace up::cpu {
namespace {

// Row-parallel sums are formed as four slices of k, added in order, whether one rank has all of them or each of four has one, where
// their width allows.
constexpr int row_parallel_slices = 4;

bool is_row_parallel(MatrixKind kind) {
  return kind == MatrixKind::o || kind == MatrixKind::delta_out || kind == MatrixKind::down || kind == MatrixKind::expert_down ||
         kind == MatrixKind::shared_down;
}

class Packer {
 public:
  Packer(const Checkpoint &checkpoint, const Kernels &kernels) : checkpoint_(checkpoint), kernels_(kernels) {}

  Linear linear(int layer, MatrixKind kind, int expert = -1) const {
    MatrixRows rows = matrix_rows(checkpoint_, layer, kind, expert);
    if (rows.k % 2 != 0) {
      fail(UP_UNSUPPORTED_MODEL, "pack weights", "layer ", layer, " has a matrix [", rows.n, ", ", rows.k,
           "]: the CPU backend multiplies rows of an even length");
    }
    Linear out;
    out.n = rows.n;
    out.k = rows.k;
    out.bias = std::move(rows.bias);
    out.fp8 = is_fp8(checkpoint_.table().quantization, kind, rows.n, rows.k);
    const int ranks = checkpoint_.shard().size;
    if (is_row_parallel(kind)) {
      const bool divides = row_parallel_slices % ranks == 0 && rows.k * ranks % (2 * row_parallel_slices) == 0;
      if (divides) out.slices = row_parallel_slices / ranks;
      if (ranks > 1) {
        pack_slices(out.fp8 ? gather_fp8(rows) : rows.gather(), out);
        return out;
      }
    }
    out.packed = AlignedArray<std::byte>(kernels_.packed_bytes(out.n, out.k));
    if (out.fp8) {
      kernels_.pack(gather_fp8(rows).data(), out.n, out.k, out.packed.get());
    } else if (rows.pieces.size() == 1) {
      kernels_.pack(rows.pieces[0].data(), out.n, out.k, out.packed.get());
    } else {
      kernels_.pack(rows.gather().data(), out.n, out.k, out.packed.get());
    }
    return out;
  }

  void pack_slices(const std::vector<uint16_t> &rows, Linear &out) const {
    const auto k = static_cast<size_t>(out.k), slice = k / static_cast<size_t>(out.slices);
    out.slice_bytes = (kernels_.packed_bytes(out.n, static_cast<int>(slice)) + 63) / 64 * 64;
    out.packed = AlignedArray<std::byte>(out.slice_bytes * static_cast<size_t>(out.slices));
    std::vector<uint16_t> columns(static_cast<size_t>(out.n) * slice);
    for (int s = 0; s < out.slices; s++) {
      for (int row = 0; row < out.n; row++) {
        const auto *from = rows.data() + static_cast<size_t>(row) * k + static_cast<size_t>(s) * slice;
        std::copy_n(from, slice, columns.data() + static_cast<size_t>(row) * slice);
      }
      kernels_.pack(columns.data(), out.n, static_cast<int>(slice), out.slice(s));
    }
  }

  std::vector<float> norm(int layer, const std::string &role, const NormSpec &spec) const {
    std::vector<float> out = checkpoint_.vector(layer, role);
    for (float &value : out) value += spec.offset;
    return out;
  }

  std::vector<float> vector(int layer, const std::string &role) const { return checkpoint_.vector(layer, role); }

  LayerWeights layer(int index, bool split) const;

 private:
  void add_delta(int index, LayerWeights &out) const;

  const Checkpoint &checkpoint_;
  const Kernels &kernels_;
};

void Packer::add_delta(int index, LayerWeights &out) const {
  const DeltaSpec &spec = checkpoint_.table().layer(index).delta;
  const std::vector<uint16_t> taps = matrix_rows(checkpoint_, index, MatrixKind::delta_conv).gather();  // [conv_width, kernel]
  const auto width = static_cast<size_t>(spec.conv_width());
  const auto kernel = static_cast<size_t>(spec.conv_kernel);
  out.conv.resize(width * kernel);
  for (size_t c = 0; c < width; c++) {
    for (size_t j = 0; j < kernel; j++) {
      const uint32_t bits = static_cast<uint32_t>(taps[c * kernel + j]) << 16;
      std::memcpy(&out.conv[j * width + c], &bits, sizeof bits);
    }
  }
  out.decay = delta_head_vector(checkpoint_, index, "aLog");
  for (float &value : out.decay) value = -std::exp(value);
  out.dt_bias = delta_head_vector(checkpoint_, index, "dtBias");
  out.delta_norm = vector(index, "deltaNorm");
}

LayerWeights Packer::layer(int index, bool split) const {
  const LayerSpec &spec = checkpoint_.table().layer(index);
  LayerWeights out;
  const auto pack = [&](std::initializer_list<MatrixKind> kinds) {
    for (const MatrixKind kind : kinds) out.linears[static_cast<size_t>(kind)] = linear(index, kind);
  };
  out.input_norm = norm(index, "inputNorm", spec.norm);
  out.mlp_norm = norm(index, "mlpNorm", spec.norm);
  if (spec.post_norms) {
    out.post_attention_norm = norm(index, "postAttentionNorm", spec.norm);
    out.post_mlp_norm = norm(index, "postMlpNorm", spec.norm);
  }
  if (spec.is_attention()) {
    if (spec.attention.qk_norm) {
      out.q_norm = norm(index, "qNorm", spec.attention.qk_norm_spec);
      out.k_norm = norm(index, "kNorm", spec.attention.qk_norm_spec);
    }
    if (split) pack({MatrixKind::q, MatrixKind::kv});
    else pack({MatrixKind::qkv});
    pack({MatrixKind::o});
  } else {
    add_delta(index, out);
    pack({MatrixKind::delta_in, MatrixKind::delta_out});
  }
  if (!spec.mlp.is_moe()) {
    pack({MatrixKind::gate_up, MatrixKind::down});
    return out;
  }
  pack({MatrixKind::router});
  for (int expert = 0; expert < spec.mlp.experts; expert++) {
    out.expert_gate_up.push_back(linear(index, MatrixKind::expert_gate_up, expert));
    out.expert_down.push_back(linear(index, MatrixKind::expert_down, expert));
  }
  if (spec.mlp.shared_inner > 0) pack({MatrixKind::shared_gate_up, MatrixKind::shared_down, MatrixKind::shared_gate});
  return out;
}

// What the kernels ask of a model's shapes beyond what the table has been checked for.
void check_shapes(const ModelTable &table) {
  for (int i = 0; i < table.layer_count(); i++) {
    const LayerSpec &layer = table.layer(i);
    if (layer.is_attention() && (layer.attention.head_dim % 16 != 0 || layer.attention.head_dim > max_head_dim)) {
      fail(UP_UNSUPPORTED_MODEL, "pack weights", "layers[", i, "].mixer.headDim is ", layer.attention.head_dim,
           ": the CPU backend computes multiples of 16 up to ", max_head_dim);
    }
    if (!layer.is_attention() && layer.delta.conv_kernel > max_conv_kernel) {
      fail(UP_UNSUPPORTED_MODEL, "pack weights", "layers[", i, "].mixer.convKernel is ", layer.delta.conv_kernel,
           ": the CPU backend computes up to ", max_conv_kernel);
    }
  }
}

}  // namespace

CpuWeights pack_weights(const Checkpoint &checkpoint, const Kernels &kernels, const std::vector<bool> &split_layers) {
  const ModelTable &table = checkpoint.table();
  check_shapes(table);
  const Packer packer(checkpoint, kernels);
  CpuWeights out;
  out.embedding = checkpoint.matrix(-1, "embedding");
  out.final_norm = packer.norm(-1, "finalNorm", table.final_norm);
  out.lm_head = packer.linear(-1, MatrixKind::lm_head);
  for (int layer = 0; layer < table.layer_count(); layer++) {
    out.layers.push_back(packer.layer(layer, split_layers[static_cast<size_t>(layer)]));
  }
  return out;
}

}  // namespace up::cpu
