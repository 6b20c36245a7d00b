// Rows of a tile in the order of their experts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "backend.h"
#include "cpu/aligned_array.h"
#include "cpu/kernels.h"

namespace up::cpu {

struct ExpertRows {
  // Rows of one expert: [begin, end) of the ordered ones.
  struct Range {
    int expert, begin, end;
  };

  ExpertRows() = default;
  ExpertRows(const ModelTable &model, int tile_rows) {
    int64_t experts = 0, chosen_width = 0, shared_inner = 0, routed_gated = 0, routed_inner = 0;
    for (const LayerSpec &layer : model.layers) {
      const MlpSpec &mlp = layer.mlp;
      if (!mlp.is_moe()) continue;
      experts = std::max<int64_t>(experts, mlp.experts);
      chosen_width = std::max<int64_t>(chosen_width, mlp.top_k);
      routed_gated = std::max<int64_t>(routed_gated, int64_t{2} * mlp.inner * mlp.top_k);
      routed_inner = std::max<int64_t>(routed_inner, int64_t{mlp.inner} * mlp.top_k);
      shared_inner = std::max<int64_t>(shared_inner, mlp.shared_inner);
    }
    router = AlignedArray<float>(area(tile_rows, experts));
    chosen = AlignedArray<int32_t>(area(tile_rows, chosen_width));
    places = AlignedArray<int32_t>(area(tile_rows, chosen_width));
    weights = AlignedArray<float>(area(tile_rows, chosen_width));
    rows = AlignedArray<bf16>(area(tile_rows, chosen_width * model.hidden_size));
    gated = AlignedArray<float>(area(tile_rows, std::max(routed_gated, 2 * shared_inner)));
    inner = AlignedArray<bf16>(area(tile_rows, std::max(routed_inner, shared_inner)));
    slice = AlignedArray<bf16>(area(tile_rows, routed_inner));
    out = AlignedArray<float>(area(tile_rows, chosen_width * model.hidden_size));
    if (shared_inner > 0) {
      shared = AlignedArray<float>(area(tile_rows, model.hidden_size));
      shared_gates = AlignedArray<float>(area(tile_rows, 1));
    }
  }

  AlignedArray<float> router;    // [rows, experts] logits
  AlignedArray<int32_t> chosen;  // [rows, top_k]
  AlignedArray<int32_t> places;  // [rows, top_k] where each lies in the order of experts
  AlignedArray<float> weights;   // [rows, top_k]
  // In the order of experts, [rows · top_k, …]
  AlignedArray<bf16> rows;    // hidden
  AlignedArray<float> gated;  // 2 · inner
  AlignedArray<bf16> inner;   // inner
  AlignedArray<bf16> slice;   // of inner, of one slice of a rank's sum
  AlignedArray<float> out;    // hidden
  AlignedArray<float> shared;        // [rows, hidden]
  AlignedArray<float> shared_gates;  // [rows]
  std::vector<Range> ranges;
};

}  // namespace up::cpu
