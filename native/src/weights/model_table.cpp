#include "weights/model_table.h"

#include <charconv>

#include "weights/json_fields.h"

namespace up {
namespace {

constexpr const char *phase = "read model table";
constexpr int max_layers = 1024;
constexpr int max_width = 1 << 20;

template <class... Parts>
[[noreturn]] void unsupported(const Parts &...detail) {
  fail(UP_UNSUPPORTED_MODEL, phase, detail...);
}

NormSpec read_norm(const Fields &from) {
  return {from.positive("eps"), static_cast<float>(from.number("offset"))};
}

Quantization read_quantization(const Fields &from) {
  return from.has("quantization") ? static_cast<Quantization>(from.choice("quantization", {"none", "fp8"})) : Quantization::none;
}

RopeSpec read_rope(const Fields &from, int head_dim) {
  RopeSpec out;
  out.theta = from.positive("theta");
  out.dim = from.integer("dim", 2, head_dim);
  if (out.dim % 2 != 0) unsupported(from.path(), ".dim is ", out.dim, ": rotary embedding pairs dimensions");
  const Fields scaling = from.object("scaling");
  out.scaling = static_cast<RopeSpec::Scaling>(scaling.choice("type", {"none", "linear", "llama3"}));
  if (out.scaling != RopeSpec::Scaling::none) out.factor = scaling.positive("factor");
  if (out.scaling == RopeSpec::Scaling::llama3) {
    out.low_freq_factor = scaling.positive("lowFreqFactor");
    out.high_freq_factor = scaling.positive("highFreqFactor");
    out.original_max_positions = scaling.positive("originalMaxPositions");
  }
  return out;
}

AttentionSpec read_attention(const Fields &from) {
  AttentionSpec out;
  out.heads = from.integer("heads", 1, 1024);
  out.kv_heads = from.integer("kvHeads", 1, out.heads);
  if (out.heads % out.kv_heads != 0) {
    unsupported(from.path(), ".kvHeads is ", out.kv_heads, ", which does not divide ", out.heads, " heads");
  }
  out.head_dim = from.integer("headDim", 2, 1024);
  out.window = from.has("window") ? from.integer("window", 0, INT32_MAX) : 0;
  out.scale = from.positive("scale");
  out.soft_cap = static_cast<float>(from.number("softCap"));
  out.rope = read_rope(from.object("rope"), out.head_dim);
  out.qk_norm = from.has("qkNorm");
  if (out.qk_norm) out.qk_norm_spec = read_norm(from.object("qkNorm"));
  out.output_gate = from.boolean("outputGate");
  return out;
}

DeltaSpec read_delta(const Fields &from) {
  DeltaSpec out;
  out.key_heads = from.integer("keyHeads", 1, 1024);
  out.value_heads = from.integer("valueHeads", 1, 1024);
  if (out.value_heads % out.key_heads != 0) {
    unsupported(from.path(), ".valueHeads is ", out.value_heads, ", no multiple of ", out.key_heads, " key heads");
  }
  out.key_dim = from.integer("keyDim", 2, 256);
  out.value_dim = from.integer("valueDim", 2, 256);
  out.conv_kernel = from.integer("convKernel", 2, 8);
  out.grouped = from.boolean("grouped");
  out.normalise_activations = from.choice("normaliseInput", {"float", "activation"}) == 1;
  out.norm_eps = from.positive("normEps");
  return out;
}

MlpSpec read_mlp(const Fields &from) {
  MlpSpec out;
  const bool moe = from.choice("kind", {"gated", "moe"}) == 1;
  out.activation = static_cast<Activation>(from.choice("activation", {"silu", "gelu"}));
  out.inner = from.integer("inner", 1, max_width);
  if (!moe) return out;
  out.experts = from.integer("experts", 1, 65536);
  out.top_k = from.integer("topK", 1, out.experts);
  out.renormalise = from.boolean("renormalise");
  out.shared_inner = from.integer("sharedInner", 0, max_width);
  return out;
}

void read_tensors(const Fields &from, int layer, std::map<std::string, std::string> &out, ModelTable &table) {
  for (const auto &[role, name] : from.at("tensors").members) {
    if (name.kind != Json::Kind::string || name.string.empty()) {
      fail(UP_INVALID_ARGUMENT, phase, from.path(), ".tensors.", role, " is ", name.describe(), ", a name was expected");
    }
    out[role] = name.string;
    table.roles.emplace_back(layer, role);
  }
}

LayerSpec read_layer(const Fields &from, int index, ModelTable &table) {
  LayerSpec out;
  out.norm = read_norm(from.object("norm"));
  out.post_norms = from.boolean("postNorms");
  const Fields mixer = from.object("mixer");
  out.mixer = static_cast<Mixer>(mixer.choice("kind", {"full", "sliding", "delta"}));
  if (out.mixer == Mixer::delta) {
    out.delta = read_delta(mixer);
  } else {
    out.attention = read_attention(mixer);
    if ((out.mixer == Mixer::sliding) != (out.attention.window > 0)) {
      fail(UP_INVALID_ARGUMENT, phase, mixer.path(), ".window is ", out.attention.window, " in a layer of kind ",
           mixer.string("kind"));
    }
  }
  out.mlp = read_mlp(from.object("mlp"));
  read_tensors(from, index, out.tensors, table);
  return out;
}

std::vector<std::string> strings(const Fields &from, std::string_view name) {
  std::vector<std::string> out;
  for (const Json &item : from.array(name)) {
    if (item.kind != Json::Kind::string) {
      fail(UP_INVALID_ARGUMENT, phase, from.path(), '.', name, " holds ", item.describe(), ", strings were expected");
    }
    out.push_back(item.string);
  }
  return out;
}

}  // namespace

const std::string &ModelTable::tensor(int index, const std::string &role) const {
  const auto &names = index < 0 ? tensors : layer(index).tensors;
  const auto found = names.find(role);
  if (found != names.end()) return found->second;
  if (index < 0) fail(UP_INVALID_ARGUMENT, phase, "tensors.", role, " is missing");
  fail(UP_INVALID_ARGUMENT, phase, "layers[", index, "].tensors.", role, " is missing");
}

bool ModelTable::has_tensor(int index, const std::string &role) const {
  return (index < 0 ? tensors : layer(index).tensors).contains(role);
}

ModelTable parse_model_table(std::string_view json) {
  const Json document = parse_json("model table", json, model_table_max_bytes);
  const Fields root(document, "model", phase);
  if (root.string("format") != "uniprefill-model" || root.integer("version", 1, 1) != 1) {
    fail(UP_INVALID_ARGUMENT, phase, "format is ", root.at("format").describe(), ", \"uniprefill-model\" was expected");
  }
  ModelTable out;
  out.architecture = root.string("architecture");
  const std::string &identity = root.string("identity");
  const auto [end, error] = std::from_chars(identity.data(), identity.data() + identity.size(), out.identity, 16);
  if (error != std::errc{} || end != identity.data() + identity.size()) {
    fail(UP_INVALID_ARGUMENT, phase, "model.identity is \"", identity, "\", 16 hexadecimal digits were expected");
  }
  out.hidden_size = root.integer("hiddenSize", 1, max_width);
  out.vocab_size = root.integer("vocabSize", 1, 1 << 24);
  out.max_positions = root.integer("maxPositions", 1, 1 << 30);
  out.embedding_scale = root.positive("embeddingScale");
  out.logit_soft_cap = static_cast<float>(root.number("logitSoftCap"));
  out.quantization = read_quantization(root);
  out.final_norm = read_norm(root.object("finalNorm"));
  out.files = strings(root, "files");
  out.ignore = strings(root, "ignore");
  if (root.has("index")) {
    const Fields index = root.object("index");
    out.index_file = index.string("file");
    for (const auto &[tensor, file] : index.at("weightMap").members) out.index[tensor] = file.string;
  }
  read_tensors(root, -1, out.tensors, out);
  const std::vector<Json> &layers = root.array("layers");
  if (layers.empty() || layers.size() > max_layers) unsupported("model.layers has ", layers.size(), " entries, 1 to ", max_layers);
  for (size_t i = 0; i < layers.size(); i++) {
    out.layers.push_back(read_layer(Fields(layers[i], text("layers[", i, ']'), phase), static_cast<int>(i), out));
  }
  return out;
}

}  // namespace up
