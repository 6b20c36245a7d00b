#include "model/model.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "abi/failure.h"
#include "model/json.h"

namespace up {
namespace {

namespace fs = std::filesystem;

constexpr const char *phase = "load weights";
constexpr size_t index_max_bytes = 64 << 20;

struct Expected {
  std::string name;
  std::vector<int64_t> shape;
};

// Every tensor that the config calls for.
std::vector<Expected> expected_tensors(const ModelConfig &config) {
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const int64_t q = config.query_width();
  const int64_t kv = config.kv_width();
  std::vector<Expected> out = {{"model.embed_tokens.weight", {config.vocab_size, hidden}}, {"model.norm.weight", {hidden}}};
  if (!config.tie_word_embeddings) out.push_back({"lm_head.weight", {config.vocab_size, hidden}});
  for (int layer = 0; layer < config.layers; layer++) {
    const auto add = [&](const char *rest, std::vector<int64_t> shape) {
      out.push_back({layer_tensor(layer, rest), std::move(shape)});
    };
    add("input_layernorm.weight", {hidden});
    add("post_attention_layernorm.weight", {hidden});
    add("self_attn.q_proj.weight", {q, hidden});
    add("self_attn.k_proj.weight", {kv, hidden});
    add("self_attn.v_proj.weight", {kv, hidden});
    add("self_attn.o_proj.weight", {hidden, q});
    add("mlp.gate_proj.weight", {inner, hidden});
    add("mlp.up_proj.weight", {inner, hidden});
    add("mlp.down_proj.weight", {hidden, inner});
    if (config.attention_bias) {
      add("self_attn.q_proj.bias", {q});
      add("self_attn.k_proj.bias", {kv});
      add("self_attn.v_proj.bias", {kv});
      add("self_attn.o_proj.bias", {hidden});
    }
    if (config.mlp_bias) {
      add("mlp.gate_proj.bias", {inner});
      add("mlp.up_proj.bias", {inner});
      add("mlp.down_proj.bias", {hidden});
    }
  }
  return out;
}

// Tensors that checkpoints hold besides and that change nothing: tables of angles, a copy of tied embeddings.
bool is_redundant(const std::string &name, const ModelConfig &config) {
  return name.ends_with(".rotary_emb.inv_freq") || (config.tie_word_embeddings && name == "lm_head.weight");
}

class Fnv {
 public:
  void add(const void *data, size_t bytes) {
    const auto *p = static_cast<const unsigned char *>(data);
    for (size_t i = 0; i < bytes; i++) hash_ = (hash_ ^ p[i]) * 0x100000001b3ull;
  }
  uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 0xcbf29ce484222325ull;
};

}  // namespace

std::string layer_tensor(int layer, const char *rest) { return text("model.layers.", layer, '.', rest); }

Model::Model(const std::string &directory) {
  std::error_code ignored;
  if (!fs::is_directory(directory, ignored)) {
    fail(UP_INVALID_ARGUMENT, "open directory", directory, ": no such directory");
  }
  const fs::path root(directory);
  const MappedFile config_file((root / "config.json").string());
  config_ = parse_config(config_file.path(), config_file.bytes());

  const fs::path index = root / "model.safetensors.index.json";
  if (fs::exists(index, ignored)) {
    read_index(directory, MappedFile(index.string()));
  } else {
    std::set<std::string> paths;
    for (const auto &entry : fs::directory_iterator(root)) {
      if (entry.path().extension() == ".safetensors") paths.insert(entry.path().string());
    }
    if (paths.empty()) fail(UP_INVALID_ARGUMENT, phase, directory, ": no *.safetensors file");
    for (const std::string &path : paths) add_file(path);
  }
  check_tensors(directory);

  Fnv hash;
  hash.add(config_file.data(), config_file.size());
  for (const Expected &expected : expected_tensors(config_)) {
    const Tensor &tensor = tensors_.at(expected.name);
    hash.add(expected.name.data(), expected.name.size());
    hash.add(tensor.shape.data(), tensor.shape.size() * sizeof tensor.shape[0]);
    // 64 bytes at each of 16 places spread over the tensor.
    const size_t stride = tensor.bytes / 16;
    for (size_t i = 0; i < 16; i++) hash.add(tensor.data + i * stride, std::min<size_t>(64, tensor.bytes - i * stride));
  }
  fingerprint_ = hash.value();
}

void Model::add_file(const std::string &path) {
  files_.push_back(std::make_unique<MappedFile>(path));
  for (Tensor &tensor : read_safetensors(*files_.back())) {
    const auto [at, fresh] = tensors_.emplace(tensor.name, tensor);
    if (!fresh) {
      fail(UP_CORRUPT_FILE, phase, tensor.name, " is in both ", at->second.file->path(), " and ", path);
    }
  }
}

void Model::read_index(const std::string &directory, const MappedFile &index) {
  const Json document = parse_json(index.path(), index.bytes(), index_max_bytes);
  const Json *map = document.find("weight_map");
  if (map == nullptr || !map->is_object()) fail(UP_CORRUPT_FILE, phase, index.path(), ": weight_map is missing");
  std::set<std::string> names;
  for (const auto &[tensor, file] : map->members) {
    if (file.kind != Json::Kind::string || file.string.empty() || file.string.find('/') != std::string::npos ||
        file.string == "." || file.string == ".." || file.string.find('\0') != std::string::npos) {
      fail(UP_CORRUPT_FILE, phase, index.path(), ": weight_map names ", file.describe(), " for ", tensor,
           ", a file of the same directory was expected");
    }
    names.insert(file.string);
  }
  for (const std::string &name : names) add_file((fs::path(directory) / name).string());
  for (const auto &[tensor, file] : map->members) {
    const auto found = tensors_.find(tensor);
    if (found == tensors_.end() || fs::path(found->second.file->path()).filename() != file.string) {
      fail(UP_CORRUPT_FILE, phase, index.path(), ": ", tensor, " is not in ", file.string);
    }
  }
}

void Model::check_tensors(const std::string &directory) const {
  std::set<std::string> known;
  for (const Expected &expected : expected_tensors(config_)) {
    known.insert(expected.name);
    const auto found = tensors_.find(expected.name);
    if (found == tensors_.end()) fail(UP_CORRUPT_FILE, phase, directory, ": ", expected.name, " is missing");
    const Tensor &tensor = found->second;
    const std::string where = tensor.file->path() + ": " + tensor.name;
    if (tensor.dtype != "BF16") {
      fail(UP_UNSUPPORTED_DTYPE, phase, where, ": dtype is ", tensor.dtype, ", supported: BF16");
    }
    if (tensor.shape != expected.shape) {
      fail(UP_CORRUPT_FILE, phase, where, ": shape is ", describe_shape(tensor.shape), ", config.json asks for ",
           describe_shape(expected.shape));
    }
    if (reinterpret_cast<uintptr_t>(tensor.data) % 2 != 0) {
      fail(UP_CORRUPT_FILE, phase, where, ": its bytes begin at an odd place, ", tensor.data - tensor.file->data());
    }
  }
  for (const auto &[name, tensor] : tensors_) {
    if (!known.contains(name) && !is_redundant(name, config_)) {
      fail(UP_UNSUPPORTED_MODEL, phase, tensor.file->path(), ": ", name, " is not a tensor of ", config_.architecture,
           " under this config.json");
    }
  }
}

std::span<const uint16_t> Model::weight(const std::string &name) const {
  const Tensor &tensor = tensors_.at(name);
  return {reinterpret_cast<const uint16_t *>(tensor.data), tensor.bytes / 2};
}

std::span<const uint16_t> Model::lm_head() const {
  return weight(config_.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
}

}  // namespace up
