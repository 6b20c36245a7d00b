#include "weights/shard.h"

#include "abi/failure.h"

namespace up {
namespace {

template <class... Where>
void divide(int &value, int ranks, const Where &...where) {
  if (value % ranks != 0) {
    fail(UP_UNSUPPORTED_MODEL, "divide model among ranks", where..., " is ", value, ", which ", ranks, " ranks cannot share equally");
  }
  value /= ranks;
}

// Of heads that others are grouped by: one each, held in common, where there are fewer than ranks.
void divide_shared(int &heads, int ranks, const std::string &where, const char *field) {
  if (heads >= ranks) {
    divide(heads, ranks, where, field);
  } else if (ranks % heads == 0) {
    heads = 1;
  } else {
    fail(UP_UNSUPPORTED_MODEL, "divide model among ranks", where, field, " is ", heads, ", of which ", ranks, " ranks cannot have one each");
  }
}

}  // namespace

ModelTable shard_table(const ModelTable &whole, const Shard &shard) {
  ModelTable out = whole;
  if (shard.is_whole()) return out;
  int carry_width = out.hidden_size;
  divide(carry_width, shard.size, "hiddenSize");
  out.ranks = shard.size;
  for (int i = 0; i < out.layer_count(); i++) {
    LayerSpec &layer = out.layers[static_cast<size_t>(i)];
    const std::string where = text("layers[", i, "]");
    if (layer.is_attention()) {
      divide(layer.attention.heads, shard.size, where, ".mixer.heads");
      divide_shared(layer.attention.kv_heads, shard.size, where, ".mixer.kvHeads");
    } else {
      divide(layer.delta.value_heads, shard.size, where, ".mixer.valueHeads");
      divide_shared(layer.delta.key_heads, shard.size, where, ".mixer.keyHeads");
    }
    divide(layer.mlp.inner, shard.size, where, ".mlp.inner");
    divide(layer.mlp.shared_inner, shard.size, where, ".mlp.sharedInner");
  }
  return out;
}

int first_kv_head(const AttentionSpec &whole, const Shard &shard) {
  const int group = whole.heads / whole.kv_heads;
  return shard.begin(whole.heads) / group;
}

int first_key_head(const DeltaSpec &whole, const Shard &shard) {
  const int group = whole.value_heads / whole.key_heads;
  return shard.begin(whole.value_heads) / group;
}

}  // namespace up
