// Models of every kind of layer, small: the families by name, then mixes drawn at random.
#pragma once

#include "equalities.h"

namespace cases {

up::LayerSpec with_experts(up::LayerSpec layer, const up::MlpSpec &experts);

Case of_model(const char *name, std::vector<up::LayerSpec> layers, std::vector<int32_t> drop_layers);

Case llama();

// Sliding and full attention by turns, norms before and behind, GELU, soft caps.
Case gemma(int window, bool by_original);

// Prompts of several blocks of rows, which leave out keys.
Case with_sparsity(Case c, double p);

// Gated DeltaNet and gated attention by turns; a quarter of the dimensions turns.
up::LayerSpec gated_attention(int heads, int kv_heads, int head_dim);

Case qwen(bool grouped, bool moe);

// Every kind of layer in every segment, and a recurrent layer last.
Case hybrid();

Case sparse_llama();

std::vector<Case> families();

up::LayerSpec random_layer(Dice &dice, int window);

Case random(uint64_t seed);

// What a reader needs to find a case again.
std::string describe(const Case &c);

}  // namespace cases
