// Small Llama models with random weights, written as real Hugging Face directories.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "temporary_directory.h"

struct RandomModel {
  uint64_t seed = 1;
  int layers = 4;
  int hidden = 64;
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 32;
  int inner = 96;
  int vocab = 160;
  int max_positions = 4096;
  bool tied = true;
  bool attention_bias = false;
  bool mlp_bias = false;
  std::string rope = "";     // members added to config.json
  int shards = 1;
  double sharpness = 2;      // of attention: factor on the scale of q and k
};

struct NamedTensor {
  std::string name;
  std::string dtype = "BF16";
  std::vector<int64_t> shape;
  std::string bytes;
};

inline uint16_t to_bf16(double value) {
  const auto bits = std::bit_cast<uint32_t>(static_cast<float>(value));
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline std::string safetensors_bytes(const std::vector<NamedTensor> &tensors) {
  std::ostringstream header;
  std::string data;
  header << "{\"__metadata__\":{\"format\":\"pt\"}";
  for (const NamedTensor &tensor : tensors) {
    header << ",\"" << tensor.name << "\":{\"dtype\":\"" << tensor.dtype << "\",\"shape\":[";
    for (size_t i = 0; i < tensor.shape.size(); i++) header << (i ? "," : "") << tensor.shape[i];
    header << "],\"data_offsets\":[" << data.size() << ',' << data.size() + tensor.bytes.size() << "]}";
    data += tensor.bytes;
  }
  header << '}';
  std::string text = header.str();
  while (text.size() % 8 != 0) text += ' ';
  std::string out;
  for (int i = 0; i < 8; i++) out += static_cast<char>(text.size() >> (8 * i));
  return out + text + data;
}

inline std::vector<NamedTensor> random_tensors(const RandomModel &m) {
  std::mt19937_64 random(m.seed);
  std::normal_distribution<double> normal;
  std::vector<NamedTensor> out;
  const auto add = [&](const std::string &name, std::vector<int64_t> shape, double mean, double deviation) {
    int64_t count = 1;
    for (const int64_t extent : shape) count *= extent;
    std::string bytes;
    for (int64_t i = 0; i < count; i++) {
      const uint16_t value = to_bf16(mean + deviation * normal(random));
      bytes += static_cast<char>(value & 0xff);
      bytes += static_cast<char>(value >> 8);
    }
    out.push_back({name, "BF16", std::move(shape), std::move(bytes)});
  };
  const int q = m.heads * m.head_dim;
  const int kv = m.kv_heads * m.head_dim;
  const double by_hidden = 1 / std::sqrt(m.hidden);
  const double sharp = by_hidden * std::sqrt(m.sharpness);
  add("model.embed_tokens.weight", {m.vocab, m.hidden}, 0, 1);
  add("model.norm.weight", {m.hidden}, 1, 0.1);
  if (!m.tied) add("lm_head.weight", {m.vocab, m.hidden}, 0, by_hidden);
  for (int i = 0; i < m.layers; i++) {
    const std::string at = "model.layers." + std::to_string(i) + ".";
    add(at + "input_layernorm.weight", {m.hidden}, 1, 0.1);
    add(at + "post_attention_layernorm.weight", {m.hidden}, 1, 0.1);
    add(at + "self_attn.q_proj.weight", {q, m.hidden}, 0, sharp);
    add(at + "self_attn.k_proj.weight", {kv, m.hidden}, 0, sharp);
    add(at + "self_attn.v_proj.weight", {kv, m.hidden}, 0, by_hidden);
    add(at + "self_attn.o_proj.weight", {m.hidden, q}, 0, 1 / std::sqrt(q));
    add(at + "mlp.gate_proj.weight", {m.inner, m.hidden}, 0, by_hidden);
    add(at + "mlp.up_proj.weight", {m.inner, m.hidden}, 0, by_hidden);
    add(at + "mlp.down_proj.weight", {m.hidden, m.inner}, 0, 1 / std::sqrt(m.inner));
    if (m.attention_bias) {
      add(at + "self_attn.q_proj.bias", {q}, 0, 0.3);
      add(at + "self_attn.k_proj.bias", {kv}, 0, 0.3);
      add(at + "self_attn.v_proj.bias", {kv}, 0, 0.3);
      add(at + "self_attn.o_proj.bias", {m.hidden}, 0, 0.3);
    }
    if (m.mlp_bias) {
      add(at + "mlp.gate_proj.bias", {m.inner}, 0, 0.3);
      add(at + "mlp.up_proj.bias", {m.inner}, 0, 0.3);
      add(at + "mlp.down_proj.bias", {m.hidden}, 0, 0.3);
    }
  }
  return out;
}

inline std::string config_json(const RandomModel &m) {
  std::ostringstream out;
  out << "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":" << m.hidden << ",\"intermediate_size\":" << m.inner
      << ",\"num_hidden_layers\":" << m.layers << ",\"num_attention_heads\":" << m.heads
      << ",\"num_key_value_heads\":" << m.kv_heads << ",\"head_dim\":" << m.head_dim << ",\"vocab_size\":" << m.vocab
      << ",\"max_position_embeddings\":" << m.max_positions << ",\"rms_norm_eps\":1e-5,\"hidden_act\":\"silu\""
      << ",\"tie_word_embeddings\":" << (m.tied ? "true" : "false")
      << ",\"attention_bias\":" << (m.attention_bias ? "true" : "false")
      << ",\"mlp_bias\":" << (m.mlp_bias ? "true" : "false") << m.rope << "}";
  return out.str();
}

// Writes config.json and one or several shards, without an index.
inline void write_model(const TemporaryDirectory &directory, const RandomModel &m) {
  directory.write("config.json", config_json(m));
  const std::vector<NamedTensor> tensors = random_tensors(m);
  const size_t each = (tensors.size() + static_cast<size_t>(m.shards) - 1) / static_cast<size_t>(m.shards);
  for (int shard = 0; shard < m.shards; shard++) {
    const size_t begin = std::min(tensors.size(), shard * each);
    const size_t end = std::min(tensors.size(), begin + each);
    directory.write("model-" + std::to_string(shard) + ".safetensors",
                    safetensors_bytes({tensors.begin() + static_cast<ptrdiff_t>(begin),
                                       tensors.begin() + static_cast<ptrdiff_t>(end)}));
  }
}
