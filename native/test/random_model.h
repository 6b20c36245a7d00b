// Small models with random weights: a table of layers of any kind, its checkpoint, and the JSON that up_model_open reads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "safetensors_file.h"
#include "temporary_directory.h"
#include "weights/model_table.h"

struct RandomModel {
  uint64_t seed = 1;
  int hidden = 64;
  int vocab = 160;
  int max_positions = 4096;
  bool tied = true;
  bool biases = false;        // of attention and dense MLPs
  bool fp8 = false;           // matrices of layers in eight bits
  bool fused_experts = true;  // one tensor for all experts of a layer, not one for each
  float embedding_scale = 1;
  float logit_soft_cap = 0;
  up::NormSpec norm{1e-5f, 0};  // of every norm but DeltaNet's
  double sharpness = 2;         // of attention: factor on the variance of q · k
  int shards = 1;
  bool index = false;
  std::vector<up::LayerSpec> layers;
};

up::LayerSpec attention_layer(int heads, int kv_heads, int head_dim, int window = 0);

up::LayerSpec delta_layer(int key_heads, int value_heads, int key_dim, int value_dim, bool grouped = false);

up::MlpSpec experts_of(int experts, int top_k, int inner, int shared_inner = 0);

// The layers of a plain Llama.
std::vector<up::LayerSpec> llama_layers(int count, int heads, int kv_heads, int head_dim, int inner = 96);

// A tensor of the checkpoint, before it has numbers.
struct TensorSpec {
  int layer;  // −1: of the model
  std::string role;
  std::string name;
  std::vector<int64_t> shape;
  double mean;
  double deviation;
  std::string dtype = "BF16";
};

// Every role that the model's layers have, in the table's order.
std::vector<TensorSpec> tensor_specs(const RandomModel &m);

std::vector<NamedTensor> random_tensors(const RandomModel &m);

// The files of a model's shards, as write_model names them.
std::vector<std::string> shard_names(const RandomModel &m);

// The tensors of one shard.
std::vector<NamedTensor> shard_tensors(const RandomModel &m, const std::vector<NamedTensor> &tensors, int shard);

// The model as a table of layers, with files in `directory`.
std::string model_table_json(const RandomModel &m, const std::string &directory);

// Writes the shards; returns the table.
std::string write_model(const TemporaryDirectory &directory, const RandomModel &m);
