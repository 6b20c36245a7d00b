#include "random_checkpoint.h"

void RandomTensors::add(const std::string &name, const std::vector<int64_t> &shape, double mean, double deviation) {
  int64_t count = 1;
  header_ << (data_.empty() ? "" : ",") << '"' << name << "\":{\"dtype\":\"BF16\",\"shape\":[";
  for (size_t i = 0; i < shape.size(); i++) {
    header_ << (i ? "," : "") << shape[i];
    count *= shape[i];
  }
  header_ << "],\"data_offsets\":[" << data_.size() << ',' << data_.size() + 2 * static_cast<size_t>(count) << "]}";
  std::normal_distribution<float> normal(static_cast<float>(mean), static_cast<float>(deviation));
  for (int64_t i = 0; i < count; i++) {
    const uint32_t bits = std::bit_cast<uint32_t>(normal(random_)) + 0x8000;
    data_ += static_cast<char>(bits >> 16 & 0xff);
    data_ += static_cast<char>(bits >> 24);
  }
}

std::string RandomTensors::bytes() const {
  std::string text = '{' + header_.str() + '}';
  while (text.size() % 8 != 0) text += ' ';
  std::string out;
  for (int i = 0; i < 8; i++) out += static_cast<char>(text.size() >> (8 * i));
  return out + text + data_;
}

std::shared_ptr<const up::Checkpoint> random_checkpoint(const TemporaryDirectory &directory, up::ModelTable model,
                                                        uint64_t seed, bool biases) {
  RandomTensors tensors(seed);
  const int64_t hidden = model.hidden_size;
  const auto add = [&](int layer, const std::string &role, std::vector<int64_t> shape, double mean, double deviation) {
    const std::string name = std::to_string(layer) + '.' + role;
    (layer < 0 ? model.tensors : model.layers[static_cast<size_t>(layer)].tensors)[role] = name;
    model.roles.emplace_back(layer, role);
    tensors.add(name, std::move(shape), mean, deviation);
  };
  // Weights that keep the size of what passes them.
  const auto matrix = [&](int layer, const std::string &role, std::vector<int64_t> shape, double gain = 1) {
    const double deviation = gain / std::sqrt(static_cast<double>(shape.back()));
    add(layer, role, std::move(shape), 0, deviation);
  };
  const auto norm = [&](int layer, const std::string &role, int64_t width, const up::NormSpec &spec) {
    add(layer, role, {width}, 1 - spec.offset, 0.1);
  };
  add(-1, "embedding", {model.vocab_size, hidden}, 0, 1);
  norm(-1, "finalNorm", hidden, model.final_norm);
  matrix(-1, "lmHead", {model.vocab_size, hidden});
  for (int i = 0; i < model.layer_count(); i++) {
    const up::LayerSpec spec = model.layer(i);
    norm(i, "inputNorm", hidden, spec.norm);
    norm(i, "mlpNorm", hidden, spec.norm);
    if (spec.post_norms) {
      norm(i, "postAttentionNorm", hidden, spec.norm);
      norm(i, "postMlpNorm", hidden, spec.norm);
    }
    if (spec.is_attention()) {
      const up::AttentionSpec &a = spec.attention;
      const int64_t q = a.query_width() * (a.output_gate ? 2 : 1);
      matrix(i, "q", {q, hidden}, 1.5);
      matrix(i, "k", {a.kv_width(), hidden}, 1.5);
      matrix(i, "v", {a.kv_width(), hidden});
      matrix(i, "o", {hidden, a.query_width()});
      if (a.qk_norm) {
        norm(i, "qNorm", a.head_dim, a.qk_norm_spec);
        norm(i, "kNorm", a.head_dim, a.qk_norm_spec);
      }
      if (biases) {
        add(i, "qBias", {q}, 0, 0.3);
        add(i, "kBias", {a.kv_width()}, 0, 0.3);
        add(i, "vBias", {a.kv_width()}, 0, 0.3);
        add(i, "oBias", {hidden}, 0, 0.3);
      }
    } else {
      const up::DeltaSpec &d = spec.delta;
      if (d.grouped) {
        matrix(i, "qkvz", {d.conv_width() + d.value_width(), hidden});
        matrix(i, "ba", {2 * d.value_heads, hidden});
      } else {
        matrix(i, "qkv", {d.conv_width(), hidden});
        matrix(i, "z", {d.value_width(), hidden});
        matrix(i, "b", {d.value_heads, hidden});
        matrix(i, "a", {d.value_heads, hidden});
      }
      add(i, "conv", {d.conv_width(), 1, d.conv_kernel}, 0, 0.5);
      add(i, "aLog", {d.value_heads}, 0, 1);
      add(i, "dtBias", {d.value_heads}, -2, 2);
      add(i, "deltaNorm", {d.value_dim}, 1, 0.1);
      matrix(i, "out", {hidden, d.value_width()});
    }
    const up::MlpSpec &m = spec.mlp;
    if (!m.is_moe()) {
      matrix(i, "gate", {m.inner, hidden});
      matrix(i, "up", {m.inner, hidden});
      matrix(i, "down", {hidden, m.inner});
      continue;
    }
    matrix(i, "router", {m.experts, hidden}, 2);
    matrix(i, "expertGateUp", {m.experts, 2 * m.inner, hidden});
    matrix(i, "expertDown", {m.experts, hidden, m.inner});
    if (m.shared_inner > 0) {
      matrix(i, "sharedGate", {m.shared_inner, hidden});
      matrix(i, "sharedUp", {m.shared_inner, hidden});
      matrix(i, "sharedDown", {hidden, m.shared_inner});
      matrix(i, "sharedExpertGate", {1, hidden});
    }
  }
  directory.write("model.safetensors", tensors.bytes());
  model.files = {directory.path() + "/model.safetensors"};
  return std::make_shared<const up::Checkpoint>(std::move(model));
}
