#include "random_specs.h"

up::AttentionSpec RandomSpec::attention(up::Mixer mixer, int kv_width) {
  up::AttentionSpec out;
  out.head_dim = one_of({16, 32});
  out.kv_heads = kv_width / out.head_dim;
  out.heads = out.kv_heads * integer(1, 3);
  out.window = mixer == up::Mixer::sliding ? 37 : 0;
  out.scale = 1 / std::sqrt(static_cast<float>(out.head_dim)) * one_of({1.0f, 0.8f});
  out.soft_cap = one_of({0.0f, 0.0f, 3.0f});
  out.rope.theta = one_of({1e4, 1e6});
  out.rope.dim = one_of({out.head_dim, out.head_dim / 2, out.head_dim / 4});
  out.rope.scaling = one_of({up::RopeSpec::Scaling::none, up::RopeSpec::Scaling::linear, up::RopeSpec::Scaling::llama3});
  out.rope.factor = 8;
  out.rope.original_max_positions = 64;
  out.qk_norm = coin();
  out.qk_norm_spec = norm();
  out.output_gate = coin();
  return out;
}

up::DeltaSpec RandomSpec::delta() {
  up::DeltaSpec out;
  out.key_heads = integer(1, 3);
  out.value_heads = out.key_heads * integer(1, 3);
  out.key_dim = one_of({8, 16, 24, 32});
  out.value_dim = one_of({8, 16, 40, 72});
  out.conv_kernel = integer(2, 5);
  out.grouped = coin();
  out.norm_eps = 1e-6f;
  return out;
}

up::MlpSpec RandomSpec::mlp(bool moe) {
  up::MlpSpec out;
  out.activation = one_of({up::Activation::silu, up::Activation::gelu});
  out.inner = one_of({24, 34, 80});
  if (!moe) return out;
  out.experts = integer(3, 20);
  out.top_k = integer(1, std::min(out.experts, 5));
  out.renormalise = coin();
  out.shared_inner = one_of({0, 40});
  return out;
}

up::LayerSpec RandomSpec::layer(up::Mixer mixer, bool moe, int kv_width) {
  up::LayerSpec out;
  out.mixer = mixer;
  out.norm = norm();
  out.post_norms = coin();
  if (mixer == up::Mixer::delta) {
    out.delta = delta();
    out.post_norms = false;
  } else {
    out.attention = attention(mixer, kv_width);
  }
  out.mlp = mlp(moe);
  return out;
}

up::ModelTable RandomSpec::model(const std::vector<up::Mixer> &mixers, bool moe) {
  up::ModelTable out;
  out.architecture = "RandomForCausalLM";
  out.hidden_size = one_of({48, 64, 72});
  out.vocab_size = 150;
  out.max_positions = 4096;
  out.embedding_scale = one_of({1.0f, 8.0f});
  out.logit_soft_cap = one_of({0.0f, 5.0f});
  out.final_norm = norm();
  for (const up::Mixer mixer : mixers) out.layers.push_back(layer(mixer, moe, 32 * one_of({1, 1})));
  return out;
}
