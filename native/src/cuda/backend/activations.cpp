#include "cuda/backend/activations.h"

#include <algorithm>

#include "cuda/attention/decode_attention.h"
#include "cuda/common/operators.h"
#include "cuda/selection/selection.h"

namespace up::cuda {
namespace {

constexpr int most_tile_rows = 16384;
constexpr int most_logits_rows = 256;

size_t bf16_rows(int rows, int64_t width) { return aligned_bytes(static_cast<size_t>(rows) * static_cast<size_t>(width) * 2); }

// The workspaces of one layer's attention, where a step has `rows` rows. Decode attention takes what there is and more calls
// where that is not enough; one request at its longest must fit.
size_t attention_bytes(const AttentionSpec &a, const BackendOptions &options, int rows) {
  up_prefill_attention prefill{};
  prefill.dtype = UP_BF16;
  prefill.requests = options.slots;
  prefill.max_query_rows = rows;
  prefill.max_key_rows = options.max_tokens;
  prefill.heads = a.heads;
  prefill.kv_heads = a.kv_heads;
  prefill.head_dim = a.head_dim;
  up_decode_attention decode{};
  decode.dtype = UP_BF16;
  decode.requests = 1;
  decode.max_key_rows = options.max_tokens;
  decode.heads = a.heads;
  decode.kv_heads = a.kv_heads;
  decode.head_dim = a.head_dim;
  size_t prefill_bytes = 0, decode_bytes = 0;
  prefill_attention_workspace(&prefill, &prefill_bytes, nullptr);
  decode_attention_workspace(&decode, &decode_bytes, nullptr);
  return std::max(prefill_bytes, decode_bytes);
}

// One selection: its workspace, and the rows kept, which nobody reads.
size_t selection_bytes(const AttentionSpec &a, const BackendOptions &options) {
  up_selection p{};
  p.dtype = UP_BF16;
  p.requests = 1;
  p.heads = a.heads;
  p.kv_heads = a.kv_heads;
  p.head_dim = a.head_dim;
  p.max_rows = options.max_tokens;
  p.block = kSelectionBlock;
  p.last_q = kSelectionQueries;
  size_t bytes = 0;
  selection_workspace(&p, &bytes, nullptr);
  return aligned_bytes(bytes) + aligned_bytes(static_cast<size_t>(options.max_tokens) * sizeof(int32_t));
}

// Logits of a tile, copies of those rows that are drawn from more than once or out of order, and the sampler's workspace.
size_t sampling_bytes(int rows, int vocab_size) {
  up_sampler p{};
  p.dtype = UP_F32;
  p.rows = rows;
  p.vocab_size = vocab_size;
  size_t bytes = 0;
  sampler_workspace(&p, &bytes, nullptr);
  const size_t logits = aligned_bytes(static_cast<size_t>(rows) * static_cast<size_t>(logits_stride(vocab_size)) * sizeof(float));
  return 2 * logits + aligned_bytes(bytes);
}

}  // namespace

ActivationSizes::ActivationSizes(const ModelTable &model, const BackendOptions &options)
    : rows(options.max_rows + options.last_q),
      tile_rows(std::min(options.max_rows, most_tile_rows)),
      logits_rows(std::min(options.max_rows, most_logits_rows)),
      hidden(model.hidden_size) {
  scratch_bytes = std::max(bf16_rows(options.max_rows, hidden), sampling_bytes(logits_rows, model.vocab_size));
  bool drops = options.layout.last_segment() > 0;
  for (int i = 0; i < model.layer_count(); i++) {
    const LayerSpec &layer = model.layer(i);
    const AttentionSpec &a = layer.attention;
    mixed |= layer.post_norms || layer.mlp.is_moe();
    gates |= a.output_gate;
    query_width = std::max(query_width, a.query_width());
    attended_width = std::max(attended_width, a.query_width());
    const int projected = a.query_width() * (a.output_gate ? 2 : 1) + 2 * a.kv_width();
    scratch_bytes = std::max({scratch_bytes, bf16_rows(tile_rows, projected_stride(projected)), bf16_rows(tile_rows, 2 * int64_t{layer.mlp.inner}),
                              attention_bytes(a, options, rows), drops ? selection_bytes(a, options) : 0});
  }
}

size_t ActivationSizes::bytes() const {
  return bf16_rows(rows, hidden) + bf16_rows(rows, query_width) * (gates ? 2 : 1) + bf16_rows(rows, attended_width) +
         bf16_rows(tile_rows, hidden) * (mixed ? 2 : 1) + scratch_bytes;
}

Activations::Activations(Device &device, const ActivationSizes &s)
    : sizes(s),
      residual(device, bf16_rows(s.rows, s.hidden), "the residual stream"),
      queries(device, bf16_rows(s.rows, s.query_width), "the queries"),
      gates(device, s.gates ? bf16_rows(s.rows, s.query_width) : 0, "the gates"),
      attended(device, bf16_rows(s.rows, s.attended_width), "the attention's outputs"),
      normed(device, bf16_rows(s.tile_rows, s.hidden), "the normalised rows"),
      mixed(device, s.mixed ? bf16_rows(s.tile_rows, s.hidden) : 0, "the mixers' outputs"),
      scratch(device, s.scratch_bytes, "the workspace") {}

}  // namespace up::cuda
