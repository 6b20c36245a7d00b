#include "cuda/backend/layer_operations.h"

#include <algorithm>

#include "cuda/backend/parameters.h"
#include "cuda/common/operators.h"
#include "cuda/selection/sparse_keys.h"
#include "selection/sparsity.h"
#include "weights/rope.h"

namespace up::cuda {
namespace {

// Multiprocessors on which norms of other tiles are computed beside a product. With 128 of an H100's 132 a product of 4,096 rows
// has to go through as many times.
constexpr int left_to_sums = 4;

std::vector<RopeSpec> distinct_ropes(const ModelTable &model) {
  std::vector<RopeSpec> out;
  for (const LayerSpec &layer : model.layers) {
    if (layer.is_attention() && std::find(out.begin(), out.end(), layer.attention.rope) == out.end())
      out.push_back(layer.attention.rope);
  }
  return out;
}

size_t angle_table_bytes(const RopeSpec &rope, int positions) {
  return aligned_bytes(static_cast<size_t>(positions) * static_cast<size_t>(rope.dim / 2) * sizeof(float));
}

template <class... Parts>
[[noreturn]] void unsupported(const Parts &...parts) {
  up::fail(UP_UNSUPPORTED_MODEL, "check model for CUDA", parts...);
}

void check_layer(const LayerSpec &layer, int hidden, int index) {
  const auto refuse = [&](const auto &...parts) { unsupported("layers[", index, "]", parts..., " are what the CUDA backend has"); };
  const AttentionSpec &a = layer.attention;
  if (layer.is_attention()) {
    if (a.head_dim != 64 && a.head_dim != 128 && a.head_dim != 256) refuse(".mixer.headDim is ", a.head_dim, ": 64, 128 and 256");
    if (a.rope.dim % 16 != 0) refuse(".mixer.rope.dim is ", a.rope.dim, ": multiples of 16");
  } else {
    const DeltaSpec &d = layer.delta;
    if ((d.key_dim != 64 && d.key_dim != 128) || (d.value_dim != 64 && d.value_dim != 128))
      refuse(".mixer.keyDim is ", d.key_dim, " and valueDim ", d.value_dim, ": 64 and 128");
    if (d.conv_kernel > 4) refuse(".mixer.convKernel is ", d.conv_kernel, ": 2 to 4");
  }
  const MlpSpec &m = layer.mlp;
  if (m.inner % (m.is_moe() ? 64 : 8) != 0) refuse(".mlp.inner is ", m.inner, ": multiples of ", m.is_moe() ? 64 : 8);
  if (m.shared_inner % 8 != 0) refuse(".mlp.sharedInner is ", m.shared_inner, ": multiples of 8");
  if (m.is_moe() && hidden % 64 != 0) refuse(".mlp.kind is moe with hiddenSize ", hidden, ": multiples of 64");
  if (m.experts > 1024) refuse(".mlp.experts is ", m.experts, ": 1 to 1024");
  if (m.top_k > 32) refuse(".mlp.topK is ", m.top_k, ": 1 to 32");
}

}  // namespace

void LayerOperations::check_supported(const ModelTable &model, const BackendOptions &options) {
  if (model.hidden_size % 8 != 0 || model.hidden_size > 16384)
    unsupported("hiddenSize is ", model.hidden_size, ": the CUDA backend has multiples of 8 up to 16384");
  for (int i = 0; i < model.layer_count(); i++) check_layer(model.layer(i), model.hidden_size, i);
  const int page = options.layout.page_size;
  if (page != 64 && page != 128 && page != 256)
    up::fail(UP_INVALID_ARGUMENT, "check layout for CUDA", "pageSize is ", page, ": the CUDA backend has 64, 128 and 256");
  if (options.layout.slab_bytes % 16 != 0)
    up::fail(UP_INVALID_ARGUMENT, "check layout for CUDA", "slabBytes is ", options.layout.slab_bytes, ", no multiple of 16");
  if (options.prefill_p_q32 > 0 && options.max_tokens > kSparseKeyBlocks * sparse_key_rows)
    up::fail(UP_INVALID_ARGUMENT, "check options for CUDA", "max_tokens is ", options.max_tokens, ", with prefill sparsity at most ",
             kSparseKeyBlocks * sparse_key_rows);
  if (options.last_q > 128) up::fail(UP_INVALID_ARGUMENT, "check schedule for CUDA", "last_q is ", options.last_q, ", at most 128");
}

size_t LayerOperations::angle_bytes(const ModelTable &model, int max_tokens) {
  size_t bytes = 0;
  for (const RopeSpec &rope : distinct_ropes(model)) bytes += 2 * angle_table_bytes(rope, max_tokens);
  return bytes;
}

LayerOperations::LayerOperations(Device &device, const ModelTable &model, const BackendOptions &options, const DeviceWeights &weights,
                                 const Activations &activations, const KvPool &pool, Peers *peers)
    : device_(device),
      model_(model),
      hidden_(model.hidden_size),
      slots_(options.slots),
      max_tokens_(options.max_tokens),
      prefill_p_q32_(options.prefill_p_q32),
      weights_(weights),
      activations_(activations),
      pool_(pool),
      key_blocks_(device, options.prefill_p_q32 > 0 ? sizeof(KeyBlocks) : 0, "the count of keys"),
      matmul_(device, activations.rounded.as(), peers == nullptr ? 0 : left_to_sums),
      gated_(device, matmul_),
      peers_(peers) {
  if (peers_ != nullptr) {
    pools_ = peers_->share(pool_.base());
    residuals_ = peers_->share(activations_.residual.as());
    normeds_ = peers_->share(activations_.normed.as());
  }
  for (const RopeSpec &rope : distinct_ropes(model)) add_angles(rope);
  if (prefill_p_q32_ > 0)
    device_.check(cudaMemsetAsync(key_blocks_.as(), 0, key_blocks_.bytes(), device_.stream()), "count keys");
}

void LayerOperations::add_angles(const RopeSpec &rope) {
  constexpr const char *phase = "compute rotary angles";
  const size_t bytes = angle_table_bytes(rope, max_tokens_);
  Angles made{rope, DeviceBuffer(device_, 2 * bytes, "the rotary angles"), nullptr, nullptr};
  auto *const cosines = made.memory.as<float>();
  auto *const sines = made.memory.as<float>(bytes);
  const std::vector<double> frequencies = rope_frequencies(rope);
  const DeviceBuffer on_device(device_, frequencies.size() * sizeof(double), "the rotary frequencies");
  device_.check(cudaMemcpy(on_device.as(), frequencies.data(), frequencies.size() * sizeof(double), cudaMemcpyHostToDevice), phase);
  launch_rope_table(on_device.as<double>(), static_cast<int>(frequencies.size()), max_tokens_, cosines, sines, device_.stream());
  device_.check_launch(phase);
  device_.wait(phase);
  made.cosines = cosines;
  made.sines = sines;
  angles_.push_back(std::move(made));
}

const LayerOperations::Angles &LayerOperations::angles(const RopeSpec &rope) const {
  return *std::find_if(angles_.begin(), angles_.end(), [&](const Angles &each) { return each.rope == rope; });
}

Matrix LayerOperations::matrix(int layer, MatrixKind kind) const {
  if (kind == MatrixKind::lm_head) return weights_.lm_head();
  const LayerWeights &w = weights_.layer(layer);
  const AttentionSpec &a = model_.layer(layer).attention;
  const int queries = a.query_width() * (a.output_gate ? 2 : 1);
  switch (kind) {
    case MatrixKind::qkv: return w.qkv;
    case MatrixKind::q: return w.qkv.rows(0, queries);
    case MatrixKind::kv: return w.qkv.rows(queries, 2 * a.kv_width());
    case MatrixKind::o: return w.o;
    case MatrixKind::gate_up: return w.gate_up;
    case MatrixKind::down: return w.down;
    case MatrixKind::delta_in: return w.delta_in;
    case MatrixKind::delta_out: return w.delta_out;
    case MatrixKind::router: return w.router;
    case MatrixKind::shared_gate_up: return w.shared_gate_up;
    case MatrixKind::shared_down: return w.shared_down;
    default: break;
  }
  up::fail(UP_INTERNAL, "multiply matrices", "layer ", layer, " has no matrix ", static_cast<int>(kind));
}

void LayerOperations::embed(Rows rows, const int32_t *tokens, const int32_t *last_tokens) {
  auto p = parameters<up_embedding>();
  p.rows = rows.count;
  p.width = hidden_;
  p.vocab_size = model_.vocab_size;
  p.scale = model_.embedding_scale;
  p.tokens = tokens;
  p.table = weights_.embedding();
  p.table_stride = hidden_;
  p.output = residual(rows.begin);
  p.output_stride = hidden_;
  p.last_tokens = last_tokens;
  p.slots = slots_;
  device_.run(cuda::embed, &p);
}

LayerOperations::NormOf LayerOperations::norm_of(int layer, Norm norm) const {
  if (norm == Norm::final) return {&model_.final_norm, weights_.final_norm()};
  const LayerWeights &w = weights_.layer(layer);
  return {&model_.layer(layer).norm, norm == Norm::mlp ? w.mlp_norm : w.input_norm};
}

LayerOperations::NormOf LayerOperations::norm_behind(int layer, int place) const {
  if (place == 0) return norm_of(layer, Norm::mlp);
  return layer + 1 < model_.layer_count() ? norm_of(layer + 1, Norm::input) : NormOf{};
}

void LayerOperations::norm(Rows tile, int layer, Norm norm) {
  const NormOf next = norm_of(layer, norm);
  const auto same = [&](const Due &due) { return due.tile.begin == tile.begin && due.tile.count == tile.count; };
  const auto found = std::find_if(due_.begin(), due_.end(), same);
  if (found != due_.end() && (found->exchanged == nullptr || found->next_weight == next.weight)) {
    const Due due = *found;
    due_.erase(found);
    return add_and_norm(due, next);
  }
  if (is_due(tile)) add_all_due();
  normalise_rows(tile, next);
}

void LayerOperations::normalise_rows(Rows rows, const NormOf &norm) {
  auto p = parameters<up_rms_norm>();
  p.rows = rows.count;
  p.width = hidden_;
  p.eps = norm.spec->eps;
  p.weight_offset = norm.spec->offset;
  p.input = residual(rows.begin);
  p.input_stride = hidden_;
  p.weight = norm.weight;
  p.output = normed(rows.begin);
  p.output_stride = hidden_;
  device_.run(normalise, &p);
}

void LayerOperations::add_normed(Rows tile, int layer, Norm norm) {
  const auto same = [&](const Due &due) { return due.tile.begin == tile.begin && due.tile.count == tile.count; };
  if (const auto found = std::find_if(due_.begin(), due_.end(), same); found != due_.end() && peers_ != nullptr) {
    found->norm = norm;
    found->normed = true;
    if (tile.count > Peers::few_rows) exchange(*found);
    return;
  }
  add_all_due();
  due_.push_back({.tile = tile, .layer = layer, .norm = norm, .normed = true});
}

void LayerOperations::put_out(Rows tile, int layer, int place) {
  const bool post_norms = model_.layer(layer).post_norms;
  if (peers_ == nullptr && post_norms) return;
  due_.push_back({.tile = tile, .layer = layer, .parts_at = peers_ == nullptr ? -1 : place});
  if (peers_ != nullptr && !post_norms && tile.count > Peers::few_rows) exchange(due_.back());
}

void LayerOperations::exchange(Due &due) {
  const NormOf next = norm_behind(due.layer, due.parts_at);
  const int ranks = peers_->shard().size, rank = peers_->shard().rank;
  const bool has_next = next.weight != nullptr;
  due.next_weight = next.weight;
  due.exchanged = peers_->exchange(due.parts_at, due.tile, has_next ? &normeds_ : nullptr,
                                   [&](const PeerRows &parts, Rows own, cudaStream_t stream) {
                                     if (!due.normed) {
                                       launch_add_and_norm(ranks, parts, peer_norm(own, next), stream);
                                     } else {
                                       launch_add(ranks, parts, parts.rows[rank], stream);
                                       post_norm(due, reinterpret_cast<const uint16_t *>(parts.rows[rank]), own, next, stream);
                                     }
                                     device_.check_launch("sum over devices");
                                   });
  const auto same = [&](const Rows &tile) { return tile.begin == due.tile.begin; };
  if (std::none_of(shared_out_.begin(), shared_out_.end(), same)) shared_out_.push_back(due.tile);
}

PeerNorm LayerOperations::peer_norm(Rows rows, const NormOf &next) const {
  PeerNorm norm;
  norm.rows = rows.count;
  norm.pieces = hidden_ / 8;
  norm.residual = reinterpret_cast<uint4 *>(residual(rows.begin));
  if (next.weight != nullptr) {
    norm.normed = reinterpret_cast<uint4 *>(normed(rows.begin));
    norm.weight = reinterpret_cast<const uint4 *>(next.weight);
    norm.eps = next.spec->eps;
    norm.weight_offset = next.spec->offset;
  }
  return norm;
}

bool LayerOperations::is_due(Rows rows) const {
  // One rank's tiles have one place for what is mixed.
  if (peers_ == nullptr) return !due_.empty();
  const auto meets = [&](Rows tile) { return common(tile, rows).count > 0; };
  return std::any_of(due_.begin(), due_.end(), [&](const Due &due) { return meets(due.tile); }) ||
         std::any_of(shared_out_.begin(), shared_out_.end(), meets);
}

void LayerOperations::add_all_due() {
  const Rows all{0, activations_.sizes.rows};
  add_due_of({&all, 1});
}

void LayerOperations::add_due_of(std::span<const Rows> wanted) {
  for (const Due &due : due_) add_and_norm(due, {});
  due_.clear();
  const auto is_wanted = [&](Rows tile) {
    return std::any_of(wanted.begin(), wanted.end(), [&](Rows each) { return common(tile, each).count > 0; });
  };
  if (std::any_of(shared_out_.begin(), shared_out_.end(), is_wanted)) peers_->gather(shared_out_, wanted, residuals_);
  shared_out_.clear();
}

void LayerOperations::end() {
  // Parts that take turns count on a sum between them.
  for (const Due &due : due_) {
    if (due.exchanged != nullptr)
      peers_->wait(due.exchanged);
    else if (due.parts_at >= 0)
      peers_->sum(due.parts_at, due.tile);
  }
  due_.clear();
}

void LayerOperations::add_and_norm(const Due &due, const NormOf &next) {
  if (due.exchanged != nullptr) return peers_->wait(due.exchanged);
  if (due.parts_at >= 0 && !due.normed && next.weight != nullptr && peers_->is_in_one_go(due.tile.count))
    return peers_->sum_and_norm(due.parts_at, due.tile.begin, peer_norm(due.tile, next));
  const uint16_t *mixed = due.parts_at >= 0 ? peers_->sum(due.parts_at, due.tile) : activations_.mixed.as<const uint16_t>();
  if (due.normed) return post_norm(due, mixed, due.tile, next, device_.stream());
  auto p = parameters<up_rms_norm>();
  p.rows = due.tile.count;
  p.width = hidden_;
  p.input = mixed;
  p.input_stride = p.addend_stride = p.sum_stride = p.output_stride = hidden_;
  p.addend = p.sum = residual(due.tile.begin);
  if (next.weight != nullptr) {
    p.eps = next.spec->eps;
    p.weight_offset = next.spec->offset;
    p.weight = next.weight;
    p.output = normed(due.tile.begin);
  }
  device_.run(normalise, &p);
}

void LayerOperations::post_norm(const Due &due, const uint16_t *mixed, Rows rows, const NormOf &next, cudaStream_t stream) {
  const NormSpec &spec = model_.layer(due.layer).norm;
  const LayerWeights &w = weights_.layer(due.layer);
  auto p = parameters<up_post_norm>();
  p.rows = rows.count;
  p.width = hidden_;
  p.eps = spec.eps;
  p.weight_offset = spec.offset;
  p.input = mixed;
  p.input_stride = hidden_;
  p.weight = due.norm == Norm::post_mlp ? w.post_mlp_norm : w.post_attention_norm;
  p.residual = residual(rows.begin);
  p.residual_stride = hidden_;
  p.sum = residual(rows.begin);
  p.sum_stride = hidden_;
  if (next.weight != nullptr) {
    p.next_eps = next.spec->eps;
    p.next_weight_offset = next.spec->offset;
    p.next_weight = next.weight;
    p.output = normed(rows.begin);
    p.output_stride = hidden_;
  }
  device_.run_on(stream, cuda::add_normed, &p);
}

Product LayerOperations::product(Rows tile, int layer, MatrixKind kind, const Matrix &weights) const {
  Product p{&weights, normed(tile.begin), hidden_, tile.count, activations_.scratch.as(), projected_stride(weights.n)};
  switch (kind) {
    case MatrixKind::o:
    case MatrixKind::delta_out:
    case MatrixKind::down: {
      const bool mixed = model_.layer(layer).post_norms;
      // An MLP's activations lie where the gates were, beside the other half.
      p.in = kind == MatrixKind::down ? activations_.scratch.as<uint16_t>() : attended(layer, tile.begin);
      p.in_stride = kind == MatrixKind::down ? 2 * int64_t{weights.k} : weights.k;
      p.out = peers_ != nullptr ? peers_->part(place_of(kind), tile.begin)
              : mixed           ? activations_.mixed.as<uint16_t>()
                                : residual(tile.begin);
      p.out_stride = hidden_;
      p.accumulate = peers_ == nullptr && !mixed;
      if (kind == MatrixKind::down && weights.scales != nullptr) {
        const auto [values, scales] = matmul_.rounded(tile.count);
        p.in = values;
        p.in_stride = weights.k;
        p.in_scales = scales;
      }
      break;
    }
    case MatrixKind::shared_down:
      p.in = activations_.scratch.as();
      p.in_stride = 2 * int64_t{weights.k};
      p.out = peers_ != nullptr ? peers_->part(1, 0) : activations_.mixed.as<uint16_t>();
      p.out_stride = hidden_;
      break;
    case MatrixKind::lm_head:
      p.out_stride = logits_stride(weights.n);
      p.out_f32 = true;
      break;
    default: break;
  }
  return p;
}

void LayerOperations::linear(Rows tile, int layer, MatrixKind kind) {
  if (peers_ == nullptr) add_all_due();
  const Matrix weights = matrix(layer, kind);
  const Product p = product(tile, layer, kind, weights);
  matmul_.run(p);
  const bool is_part = kind == MatrixKind::o || kind == MatrixKind::delta_out || kind == MatrixKind::down;
  if (peers_ != nullptr && is_part) put_out(tile, layer, place_of(kind));
  if (kind != MatrixKind::lm_head || model_.logit_soft_cap == 0) return;
  auto edit = parameters<up_logit_edit>();
  edit.dtype = UP_F32;
  edit.rows = tile.count;
  edit.vocab_size = model_.vocab_size;
  edit.soft_cap = model_.logit_soft_cap;
  edit.logits = p.out;
  edit.logits_stride = p.out_stride;
  device_.run(edit_logits, &edit);
}

void LayerOperations::tune(const std::vector<bool> &split_layers) {
  for (const DeviceBuffer *each : {&activations_.residual, &activations_.attended, &activations_.normed, &activations_.scratch}) {
    launch_fill_random(each->as(), static_cast<int64_t>(each->bytes() / 2), device_.stream());
    device_.check_launch("time matrix products");
  }
  // Layers of one shape are timed together, so that weights come from memory and not from the cache.
  struct Case {
    int layer;
    MatrixKind kind;
    std::vector<Matrix> weights;
  };
  std::vector<Case> cases;
  const auto add = [&](int layer, MatrixKind kind) {
    const Matrix weights = matrix(layer, kind);
    const auto same = [&](const Case &each) {
      const Matrix &other = each.weights.front();
      return each.kind == kind && other.n == weights.n && other.k == weights.k && (other.bias == nullptr) == (weights.bias == nullptr);
    };
    const auto found = std::find_if(cases.begin(), cases.end(), same);
    if (found == cases.end())
      cases.push_back({layer, kind, {weights}});
    else
      found->weights.push_back(weights);
  };
  for (int i = 0; i < model_.layer_count(); i++) {
    const LayerSpec &spec = model_.layer(i);
    if (spec.is_attention()) {
      add(i, MatrixKind::qkv);
      add(i, MatrixKind::o);
      if (split_layers[static_cast<size_t>(i)]) {
        add(i, MatrixKind::q);
        add(i, MatrixKind::kv);
      }
    } else {
      add(i, MatrixKind::delta_in);
      add(i, MatrixKind::delta_out);
    }
    if (!spec.mlp.is_moe()) {
      add(i, MatrixKind::gate_up);
      add(i, MatrixKind::down);
      continue;
    }
    add(i, MatrixKind::router);
    if (spec.mlp.shared_inner == 0) continue;
    add(i, MatrixKind::shared_gate_up);
    add(i, MatrixKind::shared_down);
  }
  add(0, MatrixKind::lm_head);
  for (const Case &each : cases) {
    const int rows = each.kind == MatrixKind::lm_head ? activations_.sizes.logits_rows : activations_.sizes.tile_rows;
    Product example = product({0, rows}, each.layer, each.kind, each.weights.front());
    if (example.in_scales != nullptr) {  // nothing has been rounded yet
      example.in = activations_.scratch.as();
      example.in_scales = nullptr;
    }
    matmul_.tune(example, each.weights);
  }
  choose_gated_products();
}

}  // namespace up::cuda
