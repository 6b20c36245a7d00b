#include "weights/checkpoint.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <set>

#include "abi/failure.h"
#include "abi/fnv.h"
#include "weights/eight_bit_tensors.h"

namespace up {
namespace {

constexpr const char *phase = "load weights";

struct Expected {
  std::string name;
  std::vector<int64_t> shape;
};

// The shape that a role's tensor has; an empty one for a role that no layer like this has.
std::vector<int64_t> shape_of(const ModelTable &table, int index, const std::string &role) {
  const int64_t hidden = table.hidden_size;
  if (index < 0) {
    if (role == "embedding" || role == "lmHead") return {table.vocab_size, hidden};
    if (role == "finalNorm") return {hidden};
    return {};
  }
  const LayerSpec &layer = table.layer(index);
  if (role == "inputNorm" || role == "postAttentionNorm" || role == "mlpNorm" || role == "postMlpNorm") return {hidden};
  if (layer.is_attention()) {
    const AttentionSpec &a = layer.attention;
    const int64_t q = a.query_width() * (a.output_gate ? 2 : 1);
    const int64_t kv = a.kv_width();
    if (role == "q") return {q, hidden};
    if (role == "k" || role == "v") return {kv, hidden};
    if (role == "o") return {hidden, a.query_width()};
    if (role == "qBias") return {q};
    if (role == "kBias" || role == "vBias") return {kv};
    if (role == "oBias") return {hidden};
    if (role == "qNorm" || role == "kNorm") return {a.head_dim};
  } else {
    const DeltaSpec &d = layer.delta;
    if (role == "qkv") return {d.conv_width(), hidden};
    if (role == "z") return {d.value_width(), hidden};
    if (role == "b" || role == "a") return {d.value_heads, hidden};
    if (role == "qkvz") return {d.conv_width() + d.value_width(), hidden};
    if (role == "ba") return {2 * d.value_heads, hidden};
    if (role == "conv") return {d.conv_width(), 1, d.conv_kernel};
    if (role == "aLog" || role == "dtBias") return {d.value_heads};
    if (role == "deltaNorm") return {d.value_dim};
    if (role == "out") return {hidden, d.value_width()};
  }
  const MlpSpec &m = layer.mlp;
  const int64_t inner = m.inner;
  if (!m.is_moe()) {
    if (role == "gate" || role == "up") return {inner, hidden};
    if (role == "down") return {hidden, inner};
    if (role == "gateBias" || role == "upBias") return {inner};
    if (role == "downBias") return {hidden};
    return {};
  }
  if (role == "router") return {m.experts, hidden};
  if (role == "expertGateUp") return {m.experts, 2 * inner, hidden};
  if (role == "expertDown") {
    if (table.has_tensor(index, "expertGateUp")) return {m.experts, hidden, inner};
    return {hidden, inner};
  }
  if (role == "expertGate" || role == "expertUp") return {inner, hidden};
  if (role == "sharedGate" || role == "sharedUp") return {m.shared_inner, hidden};
  if (role == "sharedDown") return {hidden, m.shared_inner};
  if (role == "sharedExpertGate") return {1, hidden};
  return {};
}

// The roles that a layer cannot do without.
std::vector<std::string> required_roles(const LayerSpec &layer, bool experts_fused) {
  std::vector<std::string> out = {"inputNorm", "mlpNorm"};
  const auto add = [&](std::initializer_list<const char *> roles) { out.insert(out.end(), roles.begin(), roles.end()); };
  if (layer.post_norms) add({"postAttentionNorm", "postMlpNorm"});
  if (layer.is_attention()) {
    add({"q", "k", "v", "o"});
    if (layer.attention.qk_norm) add({"qNorm", "kNorm"});
  } else if (layer.delta.grouped) {
    add({"qkvz", "ba"});
  } else {
    add({"qkv", "z", "b", "a"});
  }
  if (!layer.is_attention()) add({"conv", "aLog", "dtBias", "deltaNorm", "out"});
  if (!layer.mlp.is_moe()) {
    add({"gate", "up", "down"});
  } else {
    add({"router", "expertDown"});
    if (experts_fused) add({"expertGateUp"});
    if (!experts_fused) add({"expertGate", "expertUp"});
    if (layer.mlp.shared_inner > 0) add({"sharedGate", "sharedUp", "sharedDown", "sharedExpertGate"});
  }
  return out;
}

bool is_vector(const std::vector<int64_t> &shape) { return shape.size() == 1; }

// "…experts.{e}.gate_proj.weight" with the expert's number.
std::string with_expert(const std::string &name, int expert) {
  const size_t at = name.find("{e}");
  return at == std::string::npos ? name : name.substr(0, at) + std::to_string(expert) + name.substr(at + 3);
}

bool matches(const std::string &name, const std::string &pattern) {
  if (pattern.ends_with('*')) return name.starts_with(pattern.substr(0, pattern.size() - 1));
  if (pattern.starts_with('*')) return name.ends_with(pattern.substr(1));
  return name == pattern;
}

}  // namespace

Checkpoint::Checkpoint(ModelTable table) : table_(std::move(table)) {
  if (table_.files.empty()) fail(UP_INVALID_ARGUMENT, phase, "the model table names no file of weights");
  for (const std::string &path : table_.files) add_file(path);
  check_index();
  check_tensors();
}

Checkpoint::Checkpoint(std::shared_ptr<const Checkpoint> whole, const Shard &shard)
    : table_(shard_table(whole->table_, shard)), whole_(std::move(whole)), shard_(shard), fingerprint_(whole_->fingerprint_) {}

void Checkpoint::add_file(const std::string &path) {
  files_.push_back(std::make_unique<MappedFile>(path));
  for (Tensor &tensor : read_safetensors(*files_.back())) {
    const auto [at, fresh] = tensors_.emplace(tensor.name, tensor);
    if (!fresh) {
      fail(UP_CORRUPT_FILE, phase, tensor.name, " is in both ", at->second.file->path(), " and ", path);
    }
  }
}

void Checkpoint::check_index() const {
  for (const auto &[tensor, file] : table_.index) {
    const auto found = tensors_.find(tensor);
    if (found == tensors_.end() || std::filesystem::path(found->second.file->path()).filename() != file) {
      fail(UP_CORRUPT_FILE, phase, table_.index_file, ": ", tensor, " is not in ", file);
    }
  }
}

void Checkpoint::check_tensors() {
  const std::string source = table_.index_file.empty() ? table_.files.front() : table_.index_file;
  for (const char *role : {"embedding", "finalNorm", "lmHead"}) table_.tensor(-1, role);
  for (int i = 0; i < table_.layer_count(); i++) {
    for (const std::string &role : required_roles(table_.layer(i), table_.has_tensor(i, "expertGateUp"))) table_.tensor(i, role);
  }
  std::set<std::string> known;
  Fnv hash(table_.identity);
  const auto check = [&](const std::string &name, const std::vector<int64_t> &shape) {
    if (!known.insert(name).second) return;  // tied
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) {
      fail(UP_CORRUPT_FILE, phase, std::filesystem::path(source).parent_path().string(), ": ", name, " is missing");
    }
    Tensor &tensor = found->second;
    const std::string where = tensor.file->path() + ": " + tensor.name;
    const bool eight_bits = tensor.dtype == "F8_E4M3" && shape.size() == 2;
    if (tensor.dtype != "BF16" && !eight_bits && !(tensor.dtype == "F32" && is_vector(shape))) {
      fail(UP_UNSUPPORTED_DTYPE, phase, where, ": dtype is ", tensor.dtype, ", supported: BF16",
           is_vector(shape) ? " and F32" : shape.size() == 2 ? " and F8_E4M3" : "");
    }
    if (tensor.shape != shape) {
      fail(UP_CORRUPT_FILE, phase, where, ": shape is ", describe_shape(tensor.shape), ", config.json asks for ",
           describe_shape(shape));
    }
    if (!eight_bits && reinterpret_cast<uintptr_t>(tensor.data) % 2 != 0) {
      fail(UP_CORRUPT_FILE, phase, where, ": its bytes begin at an odd place, ", tensor.data - tensor.file->data());
    }
    hash.add(name.data(), name.size());
    hash.add(tensor.shape.data(), tensor.shape.size() * sizeof tensor.shape[0]);
    // 64 bytes at each of 16 places spread over the tensor.
    const size_t stride = tensor.bytes / 16;
    for (size_t i = 0; i < 16; i++) hash.add(tensor.data + i * stride, std::min<size_t>(64, tensor.bytes - i * stride));
    if (!eight_bits) return;
    const std::string scales = scales_of(name, tensors_);
    if (scales.empty()) fail(UP_CORRUPT_FILE, phase, where, ": dtype is F8_E4M3, and there is neither ", name, "_scale nor ", name, "_scale_inv");
    known.insert(scales);
    // Rows are scaled by what they hold when they come, not by what such a number says.
    known.insert(name.substr(0, name.rfind('.') + 1) + "input_scale");
    widened_.push_back(widen_eight_bits(tensor, tensors_.at(scales)));
    tensor.dtype = "BF16";
    tensor.data = reinterpret_cast<const unsigned char *>(widened_.back().data());
    tensor.bytes = widened_.back().size() * sizeof(uint16_t);
  };
  for (const auto &[layer, role] : table_.roles) {
    const std::vector<int64_t> shape = shape_of(table_, layer, role);
    if (shape.empty() && layer < 0) fail(UP_INVALID_ARGUMENT, phase, "tensors.", role, ": a model has no such tensor");
    if (shape.empty()) {
      fail(UP_INVALID_ARGUMENT, phase, "layers[", layer, "].tensors.", role, ": a layer of this kind has no such tensor");
    }
    const std::string &name = table_.tensor(layer, role);
    if (name.find("{e}") == std::string::npos) {
      check(name, shape);
    } else {
      for (int e = 0; e < table_.layer(layer).mlp.experts; e++) check(with_expert(name, e), shape);
    }
  }
  fingerprint_ = hash.value();
  for (const auto &[name, tensor] : tensors_) {
    const bool ignored = std::any_of(table_.ignore.begin(), table_.ignore.end(),
                                     [&](const std::string &pattern) { return matches(name, pattern); });
    if (!known.contains(name) && !ignored) {
      fail(UP_UNSUPPORTED_MODEL, phase, tensor.file->path(), ": ", name, " is not a tensor of ", table_.architecture,
           " under this config.json");
    }
  }
}

const Tensor &Checkpoint::find(int layer, const std::string &role, int expert) const {
  const auto &tensors = whole_ ? whole_->tensors_ : tensors_;
  return tensors.at(with_expert(table_.tensor(layer, role), expert));
}

std::span<const uint16_t> Checkpoint::matrix(int layer, const std::string &role, int expert) const {
  const Tensor &tensor = find(layer, role, expert);
  return {reinterpret_cast<const uint16_t *>(tensor.data), tensor.bytes / 2};
}

std::vector<float> Checkpoint::vector(int layer, const std::string &role) const {
  const Tensor &tensor = find(layer, role, -1);
  std::vector<float> out(tensor.bytes / (tensor.dtype == "F32" ? 4 : 2));
  if (tensor.dtype == "F32") {
    std::memcpy(out.data(), tensor.data, tensor.bytes);
  } else {
    for (size_t i = 0; i < out.size(); i++) {
      uint16_t bits;
      std::memcpy(&bits, tensor.data + 2 * i, 2);
      out[i] = std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
    }
  }
  return out;
}

}  // namespace up
