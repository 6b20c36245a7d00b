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

void shard_attention(AttentionSpec &a, int ranks, const std::string &where) {
  divide(a.heads, ranks, where, ".mixer.heads");
  if (a.kv_heads >= ranks) {
    divide(a.kv_heads, ranks, where, ".mixer.kvHeads");
  } else if (ranks % a.kv_heads == 0) {
    a.kv_heads = 1;
  } else {
    fail(UP_UNSUPPORTED_MODEL, "divide model among ranks", where, ".mixer.kvHeads is ", a.kv_heads, ", of which ", ranks,
         " ranks cannot have one each");
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
      shard_attention(layer.attention, shard.size, where);
    } else {
      divide(layer.delta.key_heads, shard.size, where, ".mixer.keyHeads");
      divide(layer.delta.value_heads, shard.size, where, ".mixer.valueHeads");
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

}  // namespace up
