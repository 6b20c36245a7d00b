// How a model's layers are divided among tensor-parallel ranks.
//
// By head, and by column of what comes between two matrices: a rank has its share of the query heads, of the DeltaNet heads and of every
// MLP's and expert's inner width, and the rows of the matrices that lead there. The matrices that lead back (o, delta_out, down)
// are cut by columns, so that each rank has a part of every sum. Where there are fewer key/value heads than ranks, or fewer of
// DeltaNet's key heads, several ranks hold the same one. Norms, routers, the embedding and lm_head are whole on every rank:
// sampling then needs no exchange, and ranks that agree on the residual stream agree on the token.
#pragma once

#include "weights/model_table.h"

namespace up {

// One rank's share of what is split: part `rank` of `size` equal ones.
struct Shard {
  int rank = 0;
  int size = 1;

  bool is_whole() const { return size == 1; }
  // The part of `width` that is this rank's. Requires: size divides width.
  int begin(int width) const { return width / size * rank; }
  int count(int width) const { return width / size; }
};

// Heads, widths and carry as one rank has them. Fails with UP_UNSUPPORTED_MODEL naming the field and the numbers where ranks
// cannot have equal shares.
ModelTable shard_table(const ModelTable &whole, const Shard &shard);

// The first key/value head of a rank, of the whole layer's.
int first_kv_head(const AttentionSpec &whole, const Shard &shard);
// The same of DeltaNet's key heads.
int first_key_head(const DeltaSpec &whole, const Shard &shard);

}  // namespace up
