// A model directory: config.json and the tensors of its *.safetensors, mapped, checked by name, dtype and shape.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "model/config.h"
#include "model/safetensors.h"

namespace up {

class Model {
 public:
  // Fails naming the file, the tensor and the numbers. Files: those that model.safetensors.index.json names, or every
  // *.safetensors of the directory when there is no index.
  explicit Model(const std::string &directory);

  const ModelConfig &config() const { return config_; }
  // Row-major bf16 of a tensor that the config calls for.
  std::span<const uint16_t> weight(const std::string &name) const;
  // The embedding matrix when the two are tied.
  std::span<const uint16_t> lm_head() const;
  uint64_t fingerprint() const { return fingerprint_; }

 private:
  void add_file(const std::string &path);
  void read_index(const std::string &directory, const MappedFile &index);
  void check_tensors(const std::string &directory) const;

  ModelConfig config_;
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::unordered_map<std::string, Tensor> tensors_;
  uint64_t fingerprint_ = 0;
};

// "model.layers.3.self_attn.q_proj.weight" for (3, "self_attn.q_proj.weight").
std::string layer_tensor(int layer, const char *rest);

}  // namespace up
