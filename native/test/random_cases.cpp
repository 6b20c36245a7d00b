#include "random_cases.h"

namespace cases {

up::LayerSpec with_experts(up::LayerSpec layer, const up::MlpSpec &experts) {
  layer.mlp = experts;
  return layer;
}

Case of_model(const char *name, std::vector<up::LayerSpec> layers, std::vector<int32_t> drop_layers) {
  Case c;
  c.name = name;
  c.model.layers = std::move(layers);
  c.host.schedule.layers = std::move(drop_layers);
  c.host.schedule.last_q = 33;
  return c;
}

Case llama() {
  Case c = of_model("Llama", llama_layers(4, 4, 2, 32), {0, 2});
  for (up::LayerSpec &layer : c.model.layers) {
    layer.attention.rope.scaling = up::RopeSpec::Scaling::llama3;
    layer.attention.rope.factor = 8;
    layer.attention.rope.original_max_positions = 256;
  }
  c.model.biases = true;
  c.model.tied = false;
  return c;
}

Case gemma(int window, bool by_original) {
  std::vector<up::LayerSpec> layers;
  for (int i = 0; i < 6; i++) {
    const bool full = i % 3 == 2;
    up::LayerSpec layer = attention_layer(4, 2, 16, full ? 0 : window);
    layer.post_norms = true;
    layer.attention.qk_norm = true;
    layer.attention.qk_norm_spec = {1e-6f, 1};
    layer.attention.scale = 0.2f;
    layer.attention.soft_cap = 30;
    layer.attention.rope.theta = full ? 1e6 : 1e4;
    layer.attention.rope.scaling = full ? up::RopeSpec::Scaling::linear : up::RopeSpec::Scaling::none;
    layer.attention.rope.factor = full ? 8 : 1;
    layer.mlp.activation = up::Activation::gelu;
    layers.push_back(layer);
  }
  Case c = of_model(by_original ? "Gemma, windows by position" : "Gemma", std::move(layers), {2});
  c.model.norm = {1e-6f, 1};
  c.model.embedding_scale = 8;
  c.model.logit_soft_cap = 40;
  c.host.schedule.window_by_original = by_original;
  return c;
}

Case with_sparsity(Case c, double p) {
  c.name += ", sparse prefill";
  c.host.prefill_p = p;
  c.host.page_size = 128;
  c.prompt += 500;
  return c;
}

up::LayerSpec gated_attention(int heads, int kv_heads, int head_dim) {
  up::LayerSpec layer = attention_layer(heads, kv_heads, head_dim);
  layer.attention.output_gate = true;
  layer.attention.qk_norm = true;
  layer.attention.qk_norm_spec = {1e-6f, 1};
  layer.attention.rope.dim = head_dim / 4;
  return layer;
}

Case qwen(bool grouped, bool moe) {
  std::vector<up::LayerSpec> layers;
  for (int i = 0; i < 6; i++) {
    up::LayerSpec layer = i % 3 == 1 ? gated_attention(2, 1, 32) : delta_layer(2, 4, 16, 24, grouped);
    if (moe) layer.mlp = experts_of(6, 2, 24, grouped ? 40 : 0);
    layers.push_back(layer);
  }
  Case c = of_model(moe ? grouped ? "Qwen3-Next" : "Qwen3.5 MoE" : "Qwen3.5", std::move(layers), {1});
  c.model.norm = {1e-6f, 1};
  c.model.fused_experts = grouped;
  c.model.tied = false;
  return c;
}

Case hybrid() {
  Case c = of_model("hybrid of all kinds",
                    {delta_layer(2, 2, 16, 16), attention_layer(2, 1, 16, 40), attention_layer(2, 1, 16),  //
                     delta_layer(1, 2, 16, 16), attention_layer(2, 1, 16, 40), attention_layer(4, 2, 16),  //
                     attention_layer(2, 1, 16), attention_layer(2, 1, 16, 40), delta_layer(2, 2, 16, 16)},
                    {2, 5});
  for (up::LayerSpec &layer : c.model.layers) layer.mlp.inner = 40;
  return c;
}

Case sparse_llama() {
  Case c = with_sparsity(llama(), 0.5);
  c.host.schedule.layers = {2};
  return c;
}

std::vector<Case> families() {
  return {llama(), gemma(40, false), gemma(90, true), qwen(false, false), qwen(false, true), qwen(true, true), hybrid(), sparse_llama()};
}

up::LayerSpec random_layer(Dice &dice, int window) {
  const int kv_heads = dice.pick({1, 2});
  const int kind = dice.between(0, 3);
  up::LayerSpec layer = kind == 0   ? delta_layer(kv_heads, kv_heads * dice.pick({1, 2}), dice.pick({8, 16, 24}),
                                                  dice.pick({8, 16, 20}), dice.chance(2))
                        : kind == 1 ? attention_layer(kv_heads * dice.pick({1, 2, 3}), kv_heads, dice.pick({16, 32}), window)
                                    : attention_layer(kv_heads * dice.pick({1, 2, 4}), kv_heads, dice.pick({16, 32, 48}));
  layer.post_norms = dice.chance(3);
  up::AttentionSpec &a = layer.attention;
  if (layer.is_attention()) {
    a.qk_norm = dice.chance(2);
    a.qk_norm_spec = {1e-6f, static_cast<float>(dice.between(0, 1))};
    a.output_gate = dice.chance(3);
    a.soft_cap = dice.chance(3) ? 20.0f : 0.0f;
    a.rope.dim = dice.chance(3) ? a.head_dim / 2 : a.head_dim;
    a.rope.theta = dice.pick({1e4, 5e5});
    a.rope.scaling = dice.pick({up::RopeSpec::Scaling::none, up::RopeSpec::Scaling::linear, up::RopeSpec::Scaling::llama3});
    a.rope.factor = 4;
    a.rope.original_max_positions = 300;
  } else {
    layer.delta.conv_kernel = dice.pick({2, 4});
    layer.delta.normalise_activations = dice.chance(2);
  }
  if (dice.chance(3)) {
    layer.mlp = experts_of(dice.between(2, 5), dice.between(1, 2), dice.pick({16, 40}), dice.pick({0, 24}));
    layer.mlp.renormalise = dice.chance(2);
  } else {
    layer.mlp.inner = dice.pick({40, 72, 96});
  }
  layer.mlp.activation = dice.pick({up::Activation::silu, up::Activation::gelu});
  return layer;
}

Case random(uint64_t seed) {
  Dice dice(seed);
  Case c;
  c.name = up::text("seed ", seed);
  c.seed = seed;
  c.model.seed = seed;
  const int window = dice.pick({1, 16, 64, 100, 1000});
  const int layers = dice.between(2, 6);
  for (int i = 0; i < layers; i++) c.model.layers.push_back(random_layer(dice, window));
  c.model.layers[static_cast<size_t>(dice.between(0, layers - 1))] = attention_layer(2, 1, 32);
  c.model.hidden = dice.pick({40, 64});
  c.model.vocab = dice.pick({96, 161});
  c.model.tied = dice.chance(2);
  c.model.biases = dice.chance(3);
  c.model.fused_experts = dice.chance(2);
  c.model.norm = {1e-6f, static_cast<float>(dice.between(0, 1))};
  c.model.logit_soft_cap = dice.chance(3) ? 30.0f : 0.0f;
  c.model.embedding_scale = dice.pick({1.0f, 8.0f});
  c.model.shards = dice.pick({1, 3});
  c.model.index = dice.chance(2);
  c.host.page_size = dice.pick({64, 128});
  c.host.layers_per_slab = dice.between(1, 3);
  c.host.threads = dice.between(1, 2);
  ScheduleSpec &schedule = c.host.schedule;
  for (int i = 0; i + 1 < layers; i++) {
    if (c.model.layers[static_cast<size_t>(i)].mixer == up::Mixer::full && !dice.chance(3)) schedule.layers.push_back(i);
  }
  schedule.p = dice.pick({0.3, 0.5, 0.8, 0.95});
  schedule.rule = dice.chance(3) ? UP_RULE_REFERENCE : UP_RULE_EXCLUSIVE;
  schedule.block = dice.pick({32, 64});
  schedule.sink = dice.pick({0, 32, 64, 100});
  schedule.last_q = dice.pick({1, 33, 64});
  schedule.window_by_original = dice.chance(2);
  c.prompt = dice.pick({100, 256, 333, 400, 640});
  c.outputs = dice.between(4, 7);
  return dice.chance(4) ? with_sparsity(c, dice.pick({0.3, 0.6, 0.9})) : c;
}

std::string describe(const Case &c) {
  std::string out = c.name + ": ";
  for (const up::LayerSpec &layer : c.model.layers) {
    out += layer.mixer == up::Mixer::full      ? "full"
           : layer.mixer == up::Mixer::sliding ? up::text("sliding ", layer.attention.window)
                                               : "delta";
    out += layer.mlp.is_moe() ? "+moe " : " ";
  }
  const ScheduleSpec &s = c.host.schedule;
  out += up::text("hidden ", c.model.hidden, ", prompt ", c.prompt, ", page ", c.host.page_size, ", drops at");
  for (const int32_t layer : s.layers) out += up::text(' ', layer);
  return out + up::text(", sparse prefill ", c.host.prefill_p, ", p ", s.p, ", block ", s.block, ", sink ", s.sink, ", last_q ", s.last_q);
}
}  // namespace cases
