// Small random models whose shapes the CUDA backend has kernels for.
#pragma once

#include "../random_specs.h"

inline up::ModelTable cuda_model(RandomSpec &spec, const std::vector<up::Mixer> &mixers, bool moe) {
  up::ModelTable out = spec.model(mixers, moe);
  out.hidden_size = moe ? 64 : spec.one_of({48, 64, 72, 128});
  const int head_dim = spec.one_of({64, 128, 256});
  const int kv_heads = spec.integer(1, 2);
  for (up::LayerSpec &layer : out.layers) {
    up::AttentionSpec &a = layer.attention;
    if (layer.is_attention()) {
      const int group = a.heads / a.kv_heads;
      a.head_dim = head_dim;
      a.kv_heads = kv_heads;
      a.heads = kv_heads * group;
      a.scale = 1 / std::sqrt(static_cast<float>(head_dim)) * spec.one_of({1.0f, 0.8f});
      a.rope.dim = head_dim / spec.one_of({1, 2, 4});
    } else {
      layer.delta.key_dim = layer.delta.value_dim = spec.one_of({64, 128});
      layer.delta.conv_kernel = spec.integer(2, 4);
    }
    layer.mlp.inner = moe ? 64 : spec.one_of({24, 40, 88});
  }
  return out;
}
