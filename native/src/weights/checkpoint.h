// The tensors of a model's *.safetensors, mapped, checked by name, dtype and shape against its table.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "weights/model_table.h"
#include "weights/safetensors.h"
#include "weights/shard.h"

namespace up {

class Checkpoint {
 public:
  // Fails naming the file, the tensor and the numbers: UP_CORRUPT_FILE for what is missing or has another shape,
  // UP_UNSUPPORTED_DTYPE, and UP_UNSUPPORTED_MODEL for a tensor that the table neither names nor ignores.
  explicit Checkpoint(ModelTable table);
  // One rank's view of a whole checkpoint, whose tensors it shares.
  Checkpoint(std::shared_ptr<const Checkpoint> whole, const Shard &shard);

  // As the rank has the layers; what the files hold is whole_table().
  const ModelTable &table() const { return table_; }
  const ModelTable &whole_table() const { return whole_ ? whole_->table_ : table_; }
  const Shard &shard() const { return shard_; }
  // Row-major bf16 of a matrix, all of it, whether the file has it so or in eight bits with scales; layer −1: of the model. `expert`: of a role that holds one expert a tensor.
  std::span<const uint16_t> matrix(int layer, const std::string &role, int expert = -1) const;
  // A vector's values, from bf16 or f32, all of them.
  std::vector<float> vector(int layer, const std::string &role) const;
  bool has(int layer, const std::string &role) const { return table_.has_tensor(layer, role); }
  uint64_t fingerprint() const { return fingerprint_; }

 private:
  void add_file(const std::string &path);
  void check_index() const;
  void check_tensors();
  const Tensor &find(int layer, const std::string &role, int expert) const;

  ModelTable table_;
  std::shared_ptr<const Checkpoint> whole_;  // null: this one is
  Shard shard_;
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::unordered_map<std::string, Tensor> tensors_;
  std::vector<std::vector<uint16_t>> widened_;  // what the files have in eight bits
  uint64_t fingerprint_ = 0;
};

}  // namespace up
