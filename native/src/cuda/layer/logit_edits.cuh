// The edits of a row of logits, on the device. Lists that lie stay in bounds.
#pragma once

#include "operators/backend.h"
#include "cuda/common/hopper.cuh"

namespace up::cuda {

struct LogitEdits {
  const uint32_t *mask;  // nullptr: everything is allowed
  const int32_t *tokens;
  const float *values;
  int begin, end;

  __device__ __forceinline__ LogitEdits(const up_logit_edits &e, int row, int vocab)
      : mask(nullptr), tokens(e.tokens), values(e.values), begin(0), end(0) {
    const int mask_row = e.mask_rows == nullptr ? -1 : e.mask_rows[row];
    if (mask_row >= 0 && mask_row < e.masks_count) mask = e.masks + static_cast<int64_t>(mask_row) * ((vocab + 31) / 32);
    if (e.starts == nullptr) return;
    begin = min(max(e.starts[row], 0), e.edits);
    end = min(max(e.starts[row + 1], begin), e.edits);
  }
  __device__ __forceinline__ bool allowed(int token) const {
    return mask == nullptr || (__ldg(mask + token / 32) >> (token % 32) & 1) != 0;
  }
  __device__ __forceinline__ bool any() const { return mask != nullptr || begin < end; }

  // Adds the values to score(token), for tokens in [first, last), in the order of the list: a token's edits are one thread's.
  template <class Score>
  __device__ __forceinline__ void add(int first, int last, Score score) const {
    for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += blockDim.x) {
      const int token = tokens[i];
      if (token < first || token >= last) continue;
      // The list's first entry of a token does all of them.
      bool earlier = false;
      for (int j = begin; j < i && !earlier; ++j) earlier = tokens[j] == token;
      if (earlier) continue;
      for (int j = i; j < end; ++j)
        if (tokens[j] == token) score(token, values[j]);
    }
  }
};

}  // namespace up::cuda
