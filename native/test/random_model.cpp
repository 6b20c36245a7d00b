#include "random_model.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <sstream>

up::LayerSpec attention_layer(int heads, int kv_heads, int head_dim, int window) {
  up::LayerSpec out;
  out.mixer = window > 0 ? up::Mixer::sliding : up::Mixer::full;
  up::AttentionSpec &a = out.attention;
  a.heads = heads;
  a.kv_heads = kv_heads;
  a.head_dim = head_dim;
  a.window = window;
  a.scale = static_cast<float>(1 / std::sqrt(head_dim));
  a.rope.dim = head_dim;
  out.mlp.inner = 96;
  return out;
}

up::LayerSpec delta_layer(int key_heads, int value_heads, int key_dim, int value_dim, bool grouped) {
  up::LayerSpec out;
  out.mixer = up::Mixer::delta;
  out.delta = {key_heads, value_heads, key_dim, value_dim, 4, grouped, grouped, 1e-6f};
  out.mlp.inner = 96;
  return out;
}

up::MlpSpec experts_of(int experts, int top_k, int inner, int shared_inner) {
  up::MlpSpec out;
  out.inner = inner;
  out.experts = experts;
  out.top_k = top_k;
  out.renormalise = true;
  out.shared_inner = shared_inner;
  return out;
}

std::vector<up::LayerSpec> llama_layers(int count, int heads, int kv_heads, int head_dim, int inner) {
  up::LayerSpec layer = attention_layer(heads, kv_heads, head_dim);
  layer.mlp.inner = inner;
  return std::vector<up::LayerSpec>(static_cast<size_t>(count), layer);
}

std::vector<TensorSpec> tensor_specs(const RandomModel &m) {
  std::vector<TensorSpec> out;
  int layer = -1;
  const auto add = [&](const std::string &role, std::vector<int64_t> shape, double mean, double deviation,
                       const std::string &dtype = "BF16") {
    const std::string at = layer < 0 ? "model." : "model.layers." + std::to_string(layer) + ".";
    const std::string expert = role.starts_with("expert") && !m.fused_experts ? "{e}." : "";
    out.push_back({layer, role, at + expert + role + ".weight", std::move(shape), mean, deviation, dtype});
  };
  const auto matrix = [&](const std::string &role, int64_t n, int64_t k, double factor = 1) {
    add(role, {n, k}, 0, factor / std::sqrt(k));
  };
  const auto norm = [&](const std::string &role, int64_t width) { add(role, {width}, 1 - m.norm.offset, 0.1); };
  const auto bias = [&](const std::string &role, int64_t n) {
    if (m.biases) add(role, {n}, 0, 0.3);
  };
  const int64_t h = m.hidden;
  add("embedding", {m.vocab, h}, 0, 1 / m.embedding_scale);
  norm("finalNorm", h);
  if (!m.tied) matrix("lmHead", m.vocab, h);
  for (const up::LayerSpec &spec : m.layers) {
    layer++;
    norm("inputNorm", h);
    norm("mlpNorm", h);
    if (spec.post_norms) {
      norm("postAttentionNorm", h);
      norm("postMlpNorm", h);
    }
    if (spec.is_attention()) {
      const up::AttentionSpec &a = spec.attention;
      const double sharp = std::sqrt(m.sharpness);
      matrix("q", a.query_width() * (a.output_gate ? 2 : 1), h, sharp);
      matrix("k", a.kv_width(), h, sharp);
      matrix("v", a.kv_width(), h);
      matrix("o", h, a.query_width());
      if (a.qk_norm) {
        add("qNorm", {a.head_dim}, sharp - a.qk_norm_spec.offset, 0.1);
        add("kNorm", {a.head_dim}, sharp - a.qk_norm_spec.offset, 0.1);
      }
      bias("qBias", a.query_width() * (a.output_gate ? 2 : 1));
      bias("kBias", a.kv_width());
      bias("vBias", a.kv_width());
      bias("oBias", h);
    } else {
      const up::DeltaSpec &d = spec.delta;
      if (d.grouped) {
        matrix("qkvz", d.conv_width() + d.value_width(), h);
        matrix("ba", 2 * d.value_heads, h);
      } else {
        matrix("qkv", d.conv_width(), h);
        matrix("z", d.value_width(), h);
        matrix("b", d.value_heads, h);
        matrix("a", d.value_heads, h);
      }
      add("conv", {d.conv_width(), 1, d.conv_kernel}, 0, 0.5);
      // Decays from one row to the next between about 0.8 and 0.999, so that a state remembers for hundreds of rows.
      add("aLog", {d.value_heads}, -3, 1.5, "F32");
      add("dtBias", {d.value_heads}, -1, 0.5);
      add("deltaNorm", {d.value_dim}, 1, 0.1);
      matrix("out", h, d.value_width());
    }
    const up::MlpSpec &mlp = spec.mlp;
    const int64_t inner = mlp.inner;
    if (!mlp.is_moe()) {
      matrix("gate", inner, h);
      matrix("up", inner, h);
      matrix("down", h, inner);
      bias("gateBias", inner);
      bias("upBias", inner);
      bias("downBias", h);
      continue;
    }
    matrix("router", mlp.experts, h, 2);
    if (m.fused_experts) {
      add("expertGateUp", {mlp.experts, 2 * inner, h}, 0, 1 / std::sqrt(h));
      add("expertDown", {mlp.experts, h, inner}, 0, 1 / std::sqrt(inner));
    } else {
      matrix("expertGate", inner, h);
      matrix("expertUp", inner, h);
      matrix("expertDown", h, inner);
    }
    if (mlp.shared_inner > 0) {
      matrix("sharedGate", mlp.shared_inner, h);
      matrix("sharedUp", mlp.shared_inner, h);
      matrix("sharedDown", h, mlp.shared_inner);
      matrix("sharedExpertGate", 1, h);
    }
  }
  return out;
}

std::vector<NamedTensor> random_tensors(const RandomModel &m) {
  std::mt19937_64 random(m.seed);
  std::normal_distribution<double> normal;
  std::vector<NamedTensor> out;
  for (const TensorSpec &spec : tensor_specs(m)) {
    const size_t at = spec.name.find("{e}");
    const int copies = at == std::string::npos ? 1 : m.layers[static_cast<size_t>(spec.layer)].mlp.experts;
    for (int e = 0; e < copies; e++) {
      NamedTensor tensor{spec.name, spec.dtype, spec.shape, ""};
      if (at != std::string::npos) tensor.name.replace(at, 3, std::to_string(e));
      int64_t count = 1;
      for (const int64_t extent : spec.shape) count *= extent;
      for (int64_t i = 0; i < count; i++) append_number(tensor, spec.mean + spec.deviation * normal(random));
      out.push_back(std::move(tensor));
    }
  }
  return out;
}

namespace model_json {

std::string norm(const up::NormSpec &spec) {
  std::ostringstream out;
  out.precision(9);
  out << "{\"eps\":" << spec.eps << ",\"offset\":" << spec.offset << '}';
  return out.str();
}

const char *boolean(bool value) { return value ? "true" : "false"; }

std::string mixer(const up::LayerSpec &layer) {
  std::ostringstream out;
  out.precision(9);
  if (!layer.is_attention()) {
    const up::DeltaSpec &d = layer.delta;
    out << "{\"kind\":\"delta\",\"keyHeads\":" << d.key_heads << ",\"valueHeads\":" << d.value_heads
        << ",\"keyDim\":" << d.key_dim << ",\"valueDim\":" << d.value_dim << ",\"convKernel\":" << d.conv_kernel
        << ",\"grouped\":" << boolean(d.grouped) << ",\"normaliseInput\":\"" << (d.normalise_activations ? "activation" : "float")
        << "\",\"normEps\":" << d.norm_eps << '}';
    return out.str();
  }
  const up::AttentionSpec &a = layer.attention;
  const up::RopeSpec &r = a.rope;
  const char *scaling[] = {"none", "linear", "llama3"};
  out << "{\"kind\":\"" << (layer.mixer == up::Mixer::full ? "full" : "sliding") << "\",\"window\":" << a.window
      << ",\"heads\":" << a.heads << ",\"kvHeads\":" << a.kv_heads << ",\"headDim\":" << a.head_dim << ",\"scale\":" << a.scale
      << ",\"softCap\":" << a.soft_cap << ",\"rope\":{\"theta\":" << r.theta << ",\"dim\":" << r.dim
      << ",\"scaling\":{\"type\":\"" << scaling[static_cast<int>(r.scaling)] << '"';
  if (r.scaling != up::RopeSpec::Scaling::none) out << ",\"factor\":" << r.factor;
  if (r.scaling == up::RopeSpec::Scaling::llama3) {
    out << ",\"lowFreqFactor\":" << r.low_freq_factor << ",\"highFreqFactor\":" << r.high_freq_factor
        << ",\"originalMaxPositions\":" << r.original_max_positions;
  }
  out << "}},\"qkNorm\":" << (a.qk_norm ? norm(a.qk_norm_spec) : "null") << ",\"outputGate\":" << boolean(a.output_gate) << '}';
  return out.str();
}

std::string mlp(const up::MlpSpec &spec, bool fused) {
  std::ostringstream out;
  const char *activation = spec.activation == up::Activation::silu ? "silu" : "gelu";
  out << "{\"kind\":\"" << (spec.is_moe() ? "moe" : "gated") << "\",\"activation\":\"" << activation
      << "\",\"inner\":" << spec.inner;
  if (spec.is_moe()) {
    out << ",\"experts\":" << spec.experts << ",\"topK\":" << spec.top_k << ",\"renormalise\":" << boolean(spec.renormalise)
        << ",\"sharedInner\":" << spec.shared_inner << ",\"fused\":" << boolean(fused);
  }
  out << '}';
  return out.str();
}
}  // namespace model_json

std::vector<std::string> shard_names(const RandomModel &m) {
  std::vector<std::string> out;
  for (int i = 0; i < m.shards; i++) out.push_back("model-" + std::to_string(i) + ".safetensors");
  return out;
}

std::vector<NamedTensor> shard_tensors(const RandomModel &m, const std::vector<NamedTensor> &tensors, int shard) {
  const auto shards = static_cast<size_t>(m.shards);
  const size_t each = (tensors.size() + shards - 1) / shards;
  const size_t begin = std::min(tensors.size(), static_cast<size_t>(shard) * each);
  const size_t end = std::min(tensors.size(), begin + each);
  return {tensors.begin() + static_cast<std::ptrdiff_t>(begin), tensors.begin() + static_cast<std::ptrdiff_t>(end)};
}

std::string model_table_json(const RandomModel &m, const std::string &directory) {
  std::map<int, std::string> names;  // layer → members of "tensors"
  for (const TensorSpec &tensor : tensor_specs(m)) {
    std::string &members = names[tensor.layer];
    members += (members.empty() ? "\"" : ",\"") + tensor.role + "\":\"" + tensor.name + '"';
    if (m.tied && tensor.role == "finalNorm") members += ",\"lmHead\":\"model.embedding.weight\"";
  }
  std::ostringstream out;
  out.precision(9);
  out << "{\"format\":\"uniprefill-model\",\"version\":1,\"architecture\":\"RandomForCausalLM\",\"identity\":\"00000000deadbeef\""
      << ",\"hiddenSize\":" << m.hidden << ",\"vocabSize\":" << m.vocab << ",\"maxPositions\":" << m.max_positions
      << ",\"embeddingScale\":" << m.embedding_scale << ",\"logitSoftCap\":" << m.logit_soft_cap
      << ",\"quantization\":\"" << (m.fp8 ? "fp8" : "none") << '"'
      << ",\"finalNorm\":" << model_json::norm(m.norm) << ",\"files\":[";
  const std::vector<std::string> shards = shard_names(m);
  for (size_t i = 0; i < shards.size(); i++) out << (i ? ",\"" : "\"") << directory << '/' << shards[i] << '"';
  out << "],\"index\":";
  if (m.index) {
    out << "{\"file\":\"" << directory << "/model.safetensors.index.json\",\"weightMap\":{";
    const std::vector<NamedTensor> tensors = random_tensors(m);
    const char *separator = "";
    for (int i = 0; i < m.shards; i++) {
      for (const NamedTensor &tensor : shard_tensors(m, tensors, i)) {
        out << separator << '"' << tensor.name << "\":\"" << shards[static_cast<size_t>(i)] << '"';
        separator = ",";
      }
    }
    out << "}}";
  } else {
    out << "null";
  }
  out << ",\"ignore\":[\"mtp.*\",\"*.inv_freq\",\"model.spare\"],\"tensors\":{" << names[-1] << "},\"layers\":[";
  for (size_t i = 0; i < m.layers.size(); i++) {
    const up::LayerSpec &layer = m.layers[i];
    out << (i ? "," : "") << "{\"norm\":" << model_json::norm(m.norm)
        << ",\"postNorms\":" << model_json::boolean(layer.post_norms) << ",\"mixer\":" << model_json::mixer(layer)
        << ",\"mlp\":" << model_json::mlp(layer.mlp, m.fused_experts) << ",\"tensors\":{" << names[static_cast<int>(i)] << "}}";
  }
  out << "]}";
  return out.str();
}

std::string write_model(const TemporaryDirectory &directory, const RandomModel &m) {
  const std::vector<NamedTensor> tensors = random_tensors(m);
  const std::vector<std::string> shards = shard_names(m);
  for (int i = 0; i < m.shards; i++) {
    directory.write(shards[static_cast<size_t>(i)], safetensors_bytes(shard_tensors(m, tensors, i)));
  }
  return model_table_json(m, directory.path());
}
