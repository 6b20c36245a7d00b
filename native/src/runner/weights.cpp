#include "runner/weights.h"

#include <bit>
#include <initializer_list>

namespace up {
namespace {

float widen(uint16_t value) { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); }

// Each row's sum over k of o_proj and down_proj is formed as four slices, as four tensor-parallel ranks would.
constexpr int row_parallel_slices = 4;

class Packer {
 public:
  Packer(const Model &model, const cpu::Kernels &kernels) : model_(model), kernels_(kernels) {}

  std::vector<float> vector(const std::string &name) const {
    std::vector<float> out;
    append(out, name);
    return out;
  }

  // The matrices of `names` (without ".weight") of a layer, one below the other.
  Linear linear(int layer, std::initializer_list<const char *> names, int k, int slices, bool has_bias) const {
    std::vector<uint16_t> rows;
    Linear out;
    for (const char *name : names) {
      const auto weight = model_.weight(layer_tensor(layer, name) + ".weight");
      rows.insert(rows.end(), weight.begin(), weight.end());
      if (has_bias) append(out.bias, layer_tensor(layer, name) + ".bias");
    }
    pack(rows, k, slices, out);
    return out;
  }

  void pack(std::span<const uint16_t> rows, int k, int slices, Linear &out) const {
    out.k = k;
    out.n = static_cast<int>(rows.size() / static_cast<size_t>(k));
    out.slices = slices;
    out.packed = AlignedArray<std::byte>(kernels_.packed_bytes(out.n, k));
    kernels_.pack(rows.data(), out.n, k, out.packed.get());
  }

 private:
  void append(std::vector<float> &out, const std::string &name) const {
    for (const uint16_t value : model_.weight(name)) out.push_back(widen(value));
  }

  const Model &model_;
  const cpu::Kernels &kernels_;
};

}  // namespace

Weights pack_weights(const Model &model, const cpu::Kernels &kernels, const std::vector<bool> &split_layers) {
  const ModelConfig &config = model.config();
  const int hidden = config.hidden_size;
  const Packer packer(model, kernels);
  Weights out;
  out.embedding = model.weight("model.embed_tokens.weight");
  out.final_norm = packer.vector("model.norm.weight");
  packer.pack(model.lm_head(), hidden, 1, out.lm_head);
  for (int layer = 0; layer < config.layers; layer++) {
    LayerWeights w;
    w.attention_norm = packer.vector(layer_tensor(layer, "input_layernorm.weight"));
    w.mlp_norm = packer.vector(layer_tensor(layer, "post_attention_layernorm.weight"));
    const bool bias = config.attention_bias;
    w.split = split_layers[static_cast<size_t>(layer)];
    if (w.split) {
      w.q = packer.linear(layer, {"self_attn.q_proj"}, hidden, 1, bias);
      w.kv = packer.linear(layer, {"self_attn.k_proj", "self_attn.v_proj"}, hidden, 1, bias);
    } else {
      w.qkv = packer.linear(layer, {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, hidden, 1, bias);
    }
    w.o = packer.linear(layer, {"self_attn.o_proj"}, config.query_width(), row_parallel_slices, bias);
    w.gate_up = packer.linear(layer, {"mlp.gate_proj", "mlp.up_proj"}, hidden, 1, config.mlp_bias);
    w.down = packer.linear(layer, {"mlp.down_proj"}, config.intermediate_size, row_parallel_slices, config.mlp_bias);
    out.layers.push_back(std::move(w));
  }
  return out;
}

}  // namespace up
