#include "cuda/backend/activations.h"

#include <algorithm>

#include "cuda/attention/decode_attention.h"
#include "cuda/common/operators.h"
#include "cuda/linear/matmul.h"
#include "cuda/selection/selection.h"
#include "selection/sparsity.h"

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

// Bitmaps of the keys that a step's rows read, beside one request of sampled rows and beside the attention.
size_t sparse_bytes(const AttentionSpec &a, const BackendOptions &options, int rows) {
  const size_t blocks = static_cast<size_t>(rows / sparse_query_rows) + static_cast<size_t>(options.slots) + 1;
  const size_t bitmaps = aligned_bytes(static_cast<size_t>(a.kv_heads) * blocks * static_cast<size_t>(sparse_words(options.max_tokens)) * sizeof(uint32_t));
  return bitmaps + std::max(selection_bytes(a, options), attention_bytes(a, options, rows));
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
  return 2 * logits + aligned_bytes(std::max(bytes, static_cast<size_t>(rows) * sizeof(int32_t)));
}

size_t layer_scratch(const LayerSpec &layer, const BackendOptions &options, int hidden, int rows, int tile_rows, bool drops) {
  size_t bytes = layer.mlp.is_moe() ? ExpertScratch(layer.mlp, hidden, tile_rows).end : bf16_rows(tile_rows, 2 * int64_t{layer.mlp.inner});
  if (!layer.is_attention()) return std::max(bytes, DeltaScratch(layer.delta, tile_rows, options.slots).end);
  const AttentionSpec &a = layer.attention;
  const int projected = a.query_width() * (a.output_gate ? 2 : 1) + 2 * a.kv_width();
  bytes = std::max({bytes, bf16_rows(tile_rows, projected_stride(projected)), attention_bytes(a, options, rows)});
  if (options.prefill_p_q32 > 0 && layer.mixer == Mixer::full) bytes = std::max(bytes, sparse_bytes(a, options, rows));
  return drops && layer.mixer == Mixer::full ? std::max(bytes, selection_bytes(a, options)) : bytes;
}

}  // namespace

DeltaScratch::DeltaScratch(const DeltaSpec &d, int rows, int requests) {
  const auto gates = aligned_bytes(static_cast<size_t>(rows) * static_cast<size_t>(d.value_heads) * sizeof(float));
  convolved = bf16_rows(rows, projected_stride(d.projected_width()));
  decay = convolved + bf16_rows(rows, d.conv_width());
  beta = decay + gates;
  workspace = beta + gates;
  up_delta_prefill p{};
  p.dtype = UP_BF16;
  p.requests = requests;
  p.max_rows = rows;
  p.key_heads = d.key_heads;
  p.value_heads = d.value_heads;
  p.key_dim = d.key_dim;
  p.value_dim = d.value_dim;
  size_t bytes = 0;
  delta_prefill_workspace(&p, &bytes, nullptr);
  end = workspace + aligned_bytes(bytes);
}

ExpertScratch::ExpertScratch(const MlpSpec &m, int hidden, int rows) {
  const auto choices = aligned_bytes(static_cast<size_t>(rows) * static_cast<size_t>(m.top_k) * sizeof(int32_t));
  router = 0;
  chosen = router + bf16_rows(rows, projected_stride(m.experts + 1));
  weights = chosen + choices;
  shared_inner = weights + choices;
  shared = shared_inner + bf16_rows(rows, 2 * int64_t{m.shared_inner});
  workspace = shared + (m.shared_inner > 0 ? bf16_rows(rows, hidden) : 0);
  up_moe p{};
  p.dtype = UP_BF16;
  p.rows = rows;
  p.hidden = hidden;
  p.inner = m.inner;
  p.experts = m.experts;
  p.top_k = m.top_k;
  size_t bytes = 0;
  moe_workspace(&p, &bytes, nullptr);
  end = workspace + aligned_bytes(bytes);
}

ActivationSizes::ActivationSizes(const ModelTable &model, const BackendOptions &options)
    : rows(options.max_rows + options.last_q),
      tile_rows(std::min(options.max_rows, most_tile_rows)),
      normed_rows(options.ranks ? rows : tile_rows),
      logits_rows(std::min(options.max_rows, most_logits_rows)),
      hidden(model.hidden_size) {
  scratch_bytes = std::max(bf16_rows(options.max_rows, hidden), sampling_bytes(logits_rows, model.vocab_size));
  int inner = 0;
  const bool drops = options.layout.last_segment() > 0;
  for (int i = 0; i < model.layer_count(); i++) {
    const LayerSpec &layer = model.layer(i);
    mixed |= !options.ranks && (layer.post_norms || layer.mlp.is_moe());
    gates |= layer.is_attention() && layer.attention.output_gate;
    const int attended = layer.is_attention() ? layer.attention.query_width() : layer.delta.value_width();
    if (layer.is_attention()) query_width = std::max(query_width, attended);
    attended_width = std::max(attended_width, attended);
    scratch_bytes = std::max(scratch_bytes, layer_scratch(layer, options, hidden, rows, tile_rows, drops));
    inner = std::max(inner, layer.mlp.is_moe() ? layer.mlp.shared_inner : layer.mlp.inner);
  }
  if (model.quantization == Quantization::fp8)
    rounded_bytes = Matmul::rounded_bytes(tile_rows, std::max({hidden, attended_width, inner}));
}

size_t ActivationSizes::bytes() const {
  return bf16_rows(rows, hidden) + bf16_rows(rows, query_width) * (gates ? 2 : 1) + bf16_rows(rows, attended_width) +
         bf16_rows(normed_rows, hidden) + (mixed ? bf16_rows(tile_rows, hidden) : 0) + scratch_bytes + rounded_bytes;
}

Activations::Activations(Device &device, const ActivationSizes &s)
    : sizes(s),
      residual(device, bf16_rows(s.rows, s.hidden), "the residual stream"),
      queries(device, bf16_rows(s.rows, s.query_width), "the queries"),
      gates(device, s.gates ? bf16_rows(s.rows, s.query_width) : 0, "the gates"),
      attended(device, bf16_rows(s.rows, s.attended_width), "the attention's outputs"),
      normed(device, bf16_rows(s.normed_rows, s.hidden), "the normalised rows"),
      mixed(device, s.mixed ? bf16_rows(s.tile_rows, s.hidden) : 0, "the mixers' outputs"),
      scratch(device, s.scratch_bytes, "the workspace"),
      rounded(device, s.rounded_bytes, "the rounded rows") {}

}  // namespace up::cuda
