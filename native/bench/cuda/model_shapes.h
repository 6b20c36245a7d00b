// Published models as tables of layers without tensors, with the layers that drop, for timings on random weights.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "weights/model_table.h"

struct ModelShape {
  std::string name;
  up::ModelTable table;
  std::vector<int> drop_layers;
  bool tied = false;  // the output matrix is the embedding
};

namespace shapes {

inline up::AttentionSpec attention(int heads, int kv_heads, int head_dim, double theta) {
  up::AttentionSpec out;
  out.heads = heads;
  out.kv_heads = kv_heads;
  out.head_dim = head_dim;
  out.scale = 1 / std::sqrt(static_cast<float>(head_dim));
  out.rope.theta = theta;
  out.rope.dim = head_dim;
  return out;
}

inline ModelShape llama_8b() {
  ModelShape out{"llama-3.1-8b", {}, {7, 11, 15, 19, 23, 27}};
  out.table.architecture = "LlamaForCausalLM";
  out.table.hidden_size = 4096;
  out.table.vocab_size = 128256;
  out.table.max_positions = 131072;
  out.table.final_norm = {1e-5f, 0};
  up::LayerSpec layer;
  layer.norm = {1e-5f, 0};
  layer.attention = attention(32, 8, 128, 500000);
  layer.mlp.inner = 14336;
  out.table.layers.assign(32, layer);
  return out;
}

inline ModelShape llama_70b() {
  ModelShape out = llama_8b();
  out.name = "llama-3.1-70b";
  out.drop_layers = {19, 29, 39, 49, 59, 69};
  out.table.hidden_size = 8192;
  up::LayerSpec layer = out.table.layers.front();
  layer.attention = attention(64, 8, 128, 500000);
  layer.mlp.inner = 28672;
  out.table.layers.assign(80, layer);
  return out;
}

inline ModelShape gemma_12b() {
  ModelShape out{"gemma-3-12b", {}, {29, 35, 41}, true};
  out.table.architecture = "Gemma3ForCausalLM";
  out.table.hidden_size = 3840;
  out.table.vocab_size = 262208;
  out.table.max_positions = 131072;
  out.table.embedding_scale = 62;
  out.table.final_norm = {1e-6f, 1};
  for (int i = 0; i < 48; i++) {
    const bool full = (i + 1) % 6 == 0;
    up::LayerSpec layer;
    layer.mixer = full ? up::Mixer::full : up::Mixer::sliding;
    layer.norm = {1e-6f, 1};
    layer.post_norms = true;
    layer.attention = attention(16, 8, 256, full ? 1e6 : 1e4);
    layer.attention.window = full ? 0 : 1024;
    if (full) {
      layer.attention.rope.scaling = up::RopeSpec::Scaling::linear;
      layer.attention.rope.factor = 8;
    }
    layer.attention.qk_norm = true;
    layer.attention.qk_norm_spec = layer.norm;
    layer.mlp.activation = up::Activation::gelu;
    layer.mlp.inner = 15360;
    out.table.layers.push_back(layer);
  }
  return out;
}

// The paper names no schedule for Qwen3.5; this is the one of Qwen3-Next, every fourth layer from 7 on but the last.
inline ModelShape qwen(const char *name, int hidden, int layers, int kv_heads, const up::MlpSpec &mlp) {
  ModelShape out{name, {}, {}};
  out.table.architecture = mlp.is_moe() ? "Qwen3_5MoeForCausalLM" : "Qwen3_5ForCausalLM";
  out.table.hidden_size = hidden;
  out.table.vocab_size = 248320;
  out.table.max_positions = 262144;
  out.table.final_norm = {1e-6f, 1};
  for (int i = 0; i < layers; i++) {
    up::LayerSpec layer;
    layer.norm = {1e-6f, 1};
    if ((i + 1) % 4 == 0) {
      layer.attention = attention(16, kv_heads, 256, 1e7);
      layer.attention.rope.dim = 64;
      layer.attention.qk_norm = true;
      layer.attention.qk_norm_spec = layer.norm;
      layer.attention.output_gate = true;
    } else {
      layer.mixer = up::Mixer::delta;
      layer.delta = {16, 32, 128, 128, 4, false, false, 1e-6f};
    }
    layer.mlp = mlp;
    out.table.layers.push_back(layer);
    if (i >= 7 && (i + 1) % 4 == 0 && i + 1 < layers) out.drop_layers.push_back(i);
  }
  return out;
}

inline ModelShape qwen_9b() {
  up::MlpSpec mlp;
  mlp.inner = 12288;
  return qwen("qwen3.5-9b", 4096, 32, 4, mlp);
}

inline ModelShape qwen_35b_a3b() {
  up::MlpSpec mlp;
  mlp.inner = 512;
  mlp.experts = 256;
  mlp.top_k = 8;
  mlp.renormalise = true;
  mlp.shared_inner = 512;
  return qwen("qwen3.5-35b-a3b", 2048, 40, 2, mlp);
}

}  // namespace shapes

inline std::vector<ModelShape> model_shapes() {
  return {shapes::llama_8b(), shapes::llama_70b(), shapes::gemma_12b(), shapes::qwen_9b(), shapes::qwen_35b_a3b()};
}

// Share of the rows that each drop layer leaves: the paper's means for Llama-3.1-8B at 32K, 64K and 128K tokens, along a line where
// there are not six drop layers. The first are used for shorter prompts, too.
inline std::vector<double> keeps_of(int length, size_t drops) {
  std::vector<double> six = {.86, .80, .75, .69, .64, .58};
  if (length >= 50000) six = {.82, .74, .67, .59, .52, .45};
  if (length >= 100000) six = {.74, .64, .54, .44, .34, .24};
  std::vector<double> out;
  for (size_t i = 0; i < drops; i++) {
    const double place = drops == 1 ? 5 : 5 * static_cast<double>(i) / static_cast<double>(drops - 1);
    const auto below = static_cast<size_t>(place);
    const double next = six[below < 5 ? below + 1 : 5];
    out.push_back(six[below] + (next - six[below]) * (place - static_cast<double>(below)));
  }
  return out;
}

// What a schedule can gain where nothing is lost to shorter prompts: dense time is `linear` · rows + `square` · rows², the first
// spread over layers by their multiplications, the second evenly over full attention. A drop layer keeps K and V of all its rows and
// goes on with those kept; the last layer has only K and V, as both runs trim it.
class ScheduleLimit {
 public:
  ScheduleLimit(const ModelShape &shape, double length_1, double ms_1, double length_2, double ms_2) : shape_(shape) {
    square_ = (ms_2 / length_2 - ms_1 / length_1) / (length_2 - length_1);
    linear_ = ms_1 / length_1 - square_ * length_1;
  }

  double gain(double length, const std::vector<double> &keeps) const {
    return cost(length, std::vector<double>(keeps.size(), 1)) / cost(length, keeps);
  }

 private:
  static double kv_products(const up::ModelTable &table, const up::LayerSpec &layer) {
    return layer.is_attention() ? 2.0 * layer.attention.kv_width() * table.hidden_size : 0;
  }
  static double products(const up::ModelTable &table, const up::LayerSpec &layer) {
    const double hidden = table.hidden_size;
    double out = kv_products(table, layer);
    if (layer.is_attention()) {
      const up::AttentionSpec &a = layer.attention;
      out += hidden * a.query_width() * (a.output_gate ? 3 : 2) + 2.0 * a.window * a.query_width();
    } else {
      const up::DeltaSpec &d = layer.delta;
      out += hidden * (d.projected_width() + d.value_width());
      out += static_cast<double>(d.value_heads) * (2.0 * 64 * (d.key_dim + d.value_dim) + 3.0 * d.key_dim * d.value_dim);
    }
    const up::MlpSpec &m = layer.mlp;
    if (!m.is_moe()) return out + 3 * hidden * m.inner;
    return out + hidden * m.experts + 3 * hidden * (m.top_k * m.inner + m.shared_inner);
  }

  double cost(double length, const std::vector<double> &keeps) const {
    const up::ModelTable &table = shape_.table;
    double rows = length, linear = 0, all = 0, square = 0, full = 0;
    size_t segment = 0;
    for (int i = 0; i < table.layer_count(); i++) {
      const up::LayerSpec &layer = table.layer(i);
      const double kv = kv_products(table, layer);
      const bool last = i + 1 == table.layer_count();
      const double rest = last && layer.is_attention() ? 0 : products(table, layer) - kv;
      const bool drops = segment < shape_.drop_layers.size() && shape_.drop_layers[segment] == i;
      const double after = drops ? length * keeps[segment] : rows;
      linear += kv * rows + rest * after;
      all += kv + rest;
      if (layer.mixer == up::Mixer::full && !last) {
        square += rows * after;
        full++;
      }
      if (drops) {
        segment++;
        rows = after;
      }
    }
    return linear_ * linear / all + square_ * square / full;
  }

  const ModelShape &shape_;
  double linear_, square_;
};
