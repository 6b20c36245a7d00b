// config.json of a Hugging Face model directory, as far as the runner computes with it.
#pragma once

#include <string>
#include <string_view>

namespace up {

struct RopeScaling {
  enum class Type { none, linear, llama3 };
  Type type = Type::none;
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  double original_max_positions = 8192;
};

struct ModelConfig {
  std::string architecture;
  int hidden_size = 0;
  int intermediate_size = 0;
  int vocab_size = 0;
  int layers = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int max_positions = 0;
  float norm_eps = 0;
  float attention_scale = 0;  // head_dim^-1/2
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = false;
  bool attention_bias = false;
  bool mlp_bias = false;

  int query_width() const { return heads * head_dim; }
  int kv_width() const { return kv_heads * head_dim; }
};

constexpr size_t config_max_bytes = 1 << 20;

// Fails with UP_CORRUPT_FILE when `bytes` is no config, and with UP_UNSUPPORTED_MODEL when it asks for something that this
// library does not compute; both name the field and the values found and supported.
ModelConfig parse_config(std::string_view source, std::string_view bytes);

}  // namespace up
