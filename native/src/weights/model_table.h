// A model as a table of layers: what a family's config.json comes to, with the names of its tensors.
//
// packages/model resolves the table (families, defaults, published oddities) and hands it over as JSON; nothing here knows a
// family. Adding one is a table and its tensor names.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace up {

// out = x / sqrt(mean(x²) + eps) · (offset + weight)
struct NormSpec {
  float eps = 0;
  float offset = 0;
};

struct RopeSpec {
  enum class Scaling { none, linear, llama3 };
  double theta = 10000;
  int dim = 0;  // leading dimensions of a head that turn
  Scaling scaling = Scaling::none;
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  double original_max_positions = 8192;

  bool operator==(const RopeSpec &) const = default;
};

enum class Mixer { full, sliding, delta };

struct AttentionSpec {
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int window = 0;  // rows that a sliding layer sees, its own included; 0: all
  float scale = 0;
  float soft_cap = 0;  // 0: none
  RopeSpec rope;
  bool qk_norm = false;
  NormSpec qk_norm_spec;
  bool output_gate = false;  // attention output · σ(gate); the gate is projected beside the queries

  int query_width() const { return heads * head_dim; }
  int kv_width() const { return kv_heads * head_dim; }
};

// Gated DeltaNet.
struct DeltaSpec {
  int key_heads = 0;
  int value_heads = 0;  // a multiple of key_heads
  int key_dim = 0;
  int value_dim = 0;
  int conv_kernel = 0;
  bool grouped = false;                // the checkpoint's projections are grouped by key head (Qwen3-Next)
  bool normalise_activations = false;  // q and k are normalised before the cast to f32, not after (Qwen3-Next)
  float norm_eps = 0;

  int key_width() const { return key_heads * key_dim; }
  int value_width() const { return value_heads * value_dim; }
  int conv_width() const { return 2 * key_width() + value_width(); }  // [q | k | v]
  // [q | k | v | z | b | a]
  int projected_width() const { return conv_width() + value_width() + 2 * value_heads; }
};

enum class Activation { silu, gelu };

struct MlpSpec {
  Activation activation = Activation::silu;
  int inner = 0;        // of the MLP, or of one expert
  int experts = 0;      // 0: a dense MLP
  int top_k = 0;
  bool renormalise = false;
  int shared_inner = 0;  // of the expert that every row passes; 0: none

  bool is_moe() const { return experts > 0; }
};

struct LayerSpec {
  Mixer mixer = Mixer::full;
  NormSpec norm;
  bool post_norms = false;  // the outputs of mixer and MLP are normalised before they are added
  AttentionSpec attention;  // of full and sliding layers
  DeltaSpec delta;          // of delta layers
  MlpSpec mlp;
  std::map<std::string, std::string> tensors;  // role → name in the checkpoint

  bool is_attention() const { return mixer != Mixer::delta; }
};

// How the weights of layers and what they are multiplied with are rounded (quantization.h).
enum class Quantization { none, fp8 };

struct ModelTable {
  std::string architecture;
  uint64_t identity = 0;  // hash of config.json, which the fingerprint goes on from
  int hidden_size = 0;
  int vocab_size = 0;
  int max_positions = 0;
  float embedding_scale = 1;
  float logit_soft_cap = 0;
  Quantization quantization = Quantization::none;
  NormSpec final_norm;
  std::vector<std::string> files;            // *.safetensors
  std::string index_file;                    // empty: none
  std::map<std::string, std::string> index;  // tensor → file name
  std::vector<std::string> ignore;           // names, "prefix*" or "*suffix", of tensors that change nothing
  std::map<std::string, std::string> tensors;
  // Roles in the order of the JSON text, for the fingerprint: (layer or −1, role).
  std::vector<std::pair<int, std::string>> roles;
  std::vector<LayerSpec> layers;

  int ranks = 1;  // that share the heads and inner widths of the whole model; these are one's

  // Of a row that is set aside at a drop layer: a rank's part of it.
  int carry_width() const { return hidden_size / ranks; }
  int layer_count() const { return static_cast<int>(layers.size()); }
  const LayerSpec &layer(int index) const { return layers[static_cast<size_t>(index)]; }
  const std::string &tensor(int layer, const std::string &role) const;
  bool has_tensor(int layer, const std::string &role) const;
};

constexpr size_t model_table_max_bytes = 16 << 20;

// Fails with UP_INVALID_ARGUMENT naming the field and its value: the text comes from our own code, not from a user's file.
// Combinations that no backend computes are UP_UNSUPPORTED_MODEL.
ModelTable parse_model_table(std::string_view json);

}  // namespace up
