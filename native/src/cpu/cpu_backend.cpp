#include "cpu/cpu_backend.h"

#include <omp.h>

#include <algorithm>
#include <cstring>

#include "abi/failure.h"
#include "cpu/bf16.h"
#include "cpu/cpu_layers.h"
#include "cpu/parallel.h"
#include "weights/quantization.h"

namespace up::cpu {
namespace {

constexpr int cpu_logits_rows = 64;

// Most rows that pass a layer together. The activations of 512 stay in the caches; where rows spread over experts, as many as give
// each expert some 64, so that reading its weights is worth it.
int choose_tile_rows(const ModelTable &model) {
  int rows = 512;
  for (const LayerSpec &layer : model.layers) {
    if (layer.mlp.is_moe()) rows = std::max(rows, std::min(2048, 64 * layer.mlp.experts / layer.mlp.top_k));
  }
  return rows;
}

// Sets the number of threads of this thread's parallel regions for as long as it lives.
class ThreadScope {
 public:
  explicit ThreadScope(int threads) : before_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  ~ThreadScope() { omp_set_num_threads(before_); }
  ThreadScope(const ThreadScope &) = delete;
  ThreadScope &operator=(const ThreadScope &) = delete;

 private:
  int before_;
};

CpuWeights pack_in_threads(const Checkpoint &checkpoint, const Kernels &kernels, const std::vector<bool> &split, int threads) {
  const ThreadScope scope(threads);
  return pack_weights(checkpoint, kernels, split);
}

// The widest rows of any layer.
struct Widths {
  int64_t queries = 0, attended = 0, projected = 0, kv = 0, conv = 0, value_heads = 0, inner = 0;
  int64_t key_heads = 0, directions = 0, block_keys = 0;  // as DeltaRows has them
  bool gated = false;

  explicit Widths(const ModelTable &model) {
    const auto widen = [](int64_t &width, int64_t to) { width = std::max(width, to); };
    for (const LayerSpec &layer : model.layers) {
      if (layer.is_attention()) {
        const AttentionSpec &a = layer.attention;
        widen(queries, a.query_width());
        widen(attended, a.query_width());
        widen(kv, a.kv_width());
        widen(projected, (a.output_gate ? 2 : 1) * a.query_width() + 2 * a.kv_width());
        gated |= a.output_gate;
      } else {
        widen(attended, layer.delta.value_width());
        widen(projected, layer.delta.projected_width());
        widen(conv, layer.delta.conv_width());
        widen(value_heads, layer.delta.value_heads);
        const DeltaShape shape = delta_shape(layer.delta);
        widen(key_heads, shape.key_heads);
        widen(directions, int64_t{2} * shape.key_heads * shape.padded_key_dim());
        widen(block_keys, 2 * shape.key_heads * shape.head_keys());
      }
      if (!layer.mlp.is_moe()) widen(inner, layer.mlp.inner);
    }
  }
};

const Kernels &choose_kernels(up_kernels asked) {
  const auto find = [](up_kernels wanted) -> const Kernels * {
    switch (wanted) {
      case UP_KERNELS_AVX512_BF16: return avx512_bf16_kernels();
      case UP_KERNELS_AVX2: return avx2_kernels();
      case UP_KERNELS_PORTABLE: return portable_kernels();
      default: return nullptr;
    }
  };
  for (const up_kernels each : {UP_KERNELS_AVX512_BF16, UP_KERNELS_AVX2, UP_KERNELS_PORTABLE}) {
    if (asked != UP_KERNELS_AUTO && asked != each) continue;
    if (const Kernels *kernels = find(each)) return *kernels;
  }
  fail(UP_INVALID_ARGUMENT, "choose kernels", "kernels is ", raw_value(asked),
       ", which this library or this processor does not have");
}

}  // namespace

CpuBackend::CpuBackend(std::shared_ptr<const Checkpoint> checkpoint, const BackendOptions &options, const Kernels &kernels,
                       int threads)
    : checkpoint_(std::move(checkpoint)),
      model_(checkpoint_->table()),
      options_(options),
      kernels_(kernels),
      threads_(threads),
      weights_(pack_in_threads(*checkpoint_, kernels, options.split_layers, threads)),
      slabs_(options_.layout, model_, *options_.tables, options.slabs),
      states_(model_, options.state_slots),
      sampling_(model_.vocab_size, options.slots),
      tile_rows_(choose_tile_rows(model_)),
      experts_(model_, tile_rows_) {
  std::vector<RopeSpec> rotations;
  for (const LayerSpec &layer : model_.layers) {
    if (!layer.is_attention()) {
      rope_of_.push_back(-1);
      continue;
    }
    const auto found = std::find(rotations.begin(), rotations.end(), layer.attention.rope);
    rope_of_.push_back(static_cast<int>(found - rotations.begin()));
    if (found != rotations.end()) continue;
    rotations.push_back(layer.attention.rope);
    ropes_.emplace_back(layer.attention.rope);
  }
  const Widths widths(model_);
  const int step_rows = options.max_rows + options.last_q;
  residual_ = AlignedArray<float>(area(step_rows, model_.hidden_size));
  queries_ = AlignedArray<bf16>(area(step_rows, widths.queries));
  gates_ = AlignedArray<bf16>(area(step_rows, widths.gated ? widths.queries : 0));
  attended_ = AlignedArray<bf16>(area(step_rows, widths.attended));
  normed_ = AlignedArray<bf16>(area(tile_rows_, model_.hidden_size));
  projected_ = AlignedArray<float>(area(tile_rows_, widths.projected));
  keys_ = AlignedArray<bf16>(area(tile_rows_, widths.kv));
  values_ = AlignedArray<bf16>(area(tile_rows_, widths.kv));
  convolved_ = AlignedArray<float>(area(tile_rows_, widths.conv));
  betas_ = AlignedArray<float>(area(tile_rows_, widths.value_heads));
  decays_ = AlignedArray<float>(area(tile_rows_, widths.value_heads));
  directions_ = AlignedArray<bf16>(area(tile_rows_, widths.directions));
  products_ = AlignedArray<float>(area(tile_rows_, 2 * delta_block * widths.key_heads));
  blocks_ = AlignedArray<bf16>(area(tile_rows_, widths.block_keys));
  gated_ = AlignedArray<float>(area(tile_rows_, 2 * widths.inner));
  inner_ = AlignedArray<bf16>(area(tile_rows_, widths.inner));
  mixed_ = AlignedArray<float>(area(tile_rows_, model_.hidden_size));
  logits_ = AlignedArray<float>(area(cpu_logits_rows, model_.vocab_size));
}

int CpuBackend::tile_rows() const { return tile_rows_; }

int CpuBackend::logits_rows() const { return cpu_logits_rows; }

std::string CpuBackend::name() const {
  return text("cpu (", kernels_.name, ", ", threads_, threads_ == 1 ? " thread)" : " threads)");
}

BackendMemory CpuBackend::memory() const { return {.slabs = options_.slabs, .weights = 0, .workspace = 0, .free = 0}; }

void CpuBackend::begin(const MemoryChanges &changes) {
  omp_set_num_threads(threads_);
  omp_set_dynamic(0);
  started_ = std::chrono::steady_clock::now();
  sampling_.begin();
  slabs_.copy(changes.copies);
  states_.change(changes.states);
}

void CpuBackend::embed(Rows rows, std::span<const int32_t> tokens) {
  const int hidden = model_.hidden_size;
  const float scale = model_.embedding_scale;
#pragma omp parallel for schedule(static) if (int64_t{rows.count} * hidden >= parallel_elements)
  for (int i = 0; i < rows.count; i++) {
    const int32_t asked = tokens[static_cast<size_t>(i)];
    const int32_t token = asked < 0 ? sampling_.last_token(-1 - asked) : asked;
    const bf16 *from = weights_.embedding.data() + area(token, hidden);
    float *to = residual(rows.begin + i);
    for (int j = 0; j < hidden; j++) to[j] = from_bf16(from[j]) * scale;
  }
}

void CpuBackend::move_rows(std::span<const int32_t> from, int to) {
  const size_t bytes = sizeof(float) * static_cast<size_t>(model_.hidden_size);
  for (size_t i = 0; i < from.size(); i++) {
    const int target = to + static_cast<int>(i);
    if (from[i] != target) std::memcpy(residual(target), residual(from[i]), bytes);
  }
}

void CpuBackend::read_carry(Rows rows, const CarryRows &carry) {
  const int table = options_.layout.segment(carry.segment).carry;
  const int part = model_.carry_width();
  // A rank's part of every row, where the others can read it.
  float *const parts = options_.ranks ? options_.ranks->window_of<float>(area(rows.count, model_.hidden_size)) : nullptr;
  const int own = options_.ranks ? options_.ranks->shard().rank * part : 0;
  for (int i = 0; i < rows.count; i++) {
    const auto at = static_cast<size_t>(i);
    if (carry.slots[at] < 0) continue;
    float *const to = parts ? parts + area(i, model_.hidden_size) + own : residual(rows.begin + i);
    slabs_.read_carry(carry.slots[at], table, carry.rows[at], to);
  }
  if (!parts) return;
  options_.ranks->meet();
  for (int i = 0; i < rows.count; i++) {
    if (carry.slots[static_cast<size_t>(i)] < 0) continue;
    std::memcpy(residual(rows.begin + i), parts + area(i, model_.hidden_size), sizeof(float) * static_cast<size_t>(model_.hidden_size));
  }
}

void CpuBackend::write_carry(Rows rows, const CarryRows &carry) {
  const int table = options_.layout.segment(carry.segment).carry;
  for (int i = 0; i < rows.count; i++) {
    const auto at = static_cast<size_t>(i);
    if (carry.slots[at] < 0) continue;
    const int own = options_.ranks ? options_.ranks->shard().rank * model_.carry_width() : 0;
    slabs_.write_carry(carry.slots[at], table, carry.rows[at], residual(rows.begin + i) + own);
  }
}

const std::vector<float> &CpuBackend::norm_weight(int layer, Norm norm) const {
  switch (norm) {
    case Norm::input: return weights(layer).input_norm;
    case Norm::post_attention: return weights(layer).post_attention_norm;
    case Norm::mlp: return weights(layer).mlp_norm;
    case Norm::post_mlp: return weights(layer).post_mlp_norm;
    case Norm::final: break;
  }
  return weights_.final_norm;
}

void CpuBackend::norm(Rows tile, int layer, Norm norm) {
  const float eps = norm == Norm::final ? model_.final_norm.eps : spec(layer).norm.eps;
  kernels_.rms_norm(residual(tile.begin), tile.count, model_.hidden_size, norm_weight(layer, norm).data(), eps, normed_.get());
}

void CpuBackend::add_normed(Rows tile, int layer, Norm norm) {
  kernels_.add_rms_norm(mixed_.get(), tile.count, model_.hidden_size, norm_weight(layer, norm).data(), spec(layer).norm.eps,
                        residual(tile.begin));
}

void CpuBackend::apply_bias(const Linear &linear, int rows, float *out, int ldo) const {
  for (int row = 0; row < rows; row++) {
    float *to = out + area(row, ldo);
    for (size_t i = 0; i < linear.bias.size(); i++) to[i] += linear.bias[i];
  }
}

// out = or += the slices of all ranks, added in order as one rank's gemm adds its own.
void CpuBackend::sum_over_ranks(int slices, const SliceProduct &product, size_t count, bool accumulate, float *out) const {
  const Shard &shard = options_.ranks->shard();
  const int all = slices * shard.size;
  auto *const parts = options_.ranks->window_of<float>(count * static_cast<size_t>(all));
  for (int s = 0; s < slices; s++) product(s, parts + count * static_cast<size_t>(shard.rank * slices + s));
  options_.ranks->meet();
#pragma omp parallel for schedule(static) if (static_cast<int64_t>(count) * all >= parallel_elements)
  for (size_t i = 0; i < count; i++) {
    float total = parts[i];
    for (int s = 1; s < all; s++) total += parts[count * static_cast<size_t>(s) + i];
    out[i] = accumulate ? out[i] + total : total;
  }
}

void CpuBackend::apply(const Linear &linear, const bf16 *in, int rows, bool accumulate, float *out, int ldo) const {
  AlignedArray<bf16> rounded(linear.fp8 ? area(rows, linear.k) : 0);
  if (linear.fp8) {
#pragma omp parallel for schedule(static) if (int64_t{rows} * linear.k >= parallel_elements)
    for (int row = 0; row < rows; row++) {
      const std::span to(rounded.get() + area(row, linear.k), static_cast<size_t>(linear.k));
      std::copy_n(in + area(row, linear.k), to.size(), to.data());
      round_to_fp8(to);
    }
    in = rounded.get();
  }
  if (linear.slice_bytes > 0) {
    const int k = linear.k / linear.slices;
    const auto product = [&](int slice, float *to) {
      kernels_.gemm(in + int64_t{slice} * k, linear.k, rows, linear.slice(slice), linear.n, k, 1, false, to, linear.n);
    };
    sum_over_ranks(linear.slices, product, area(rows, linear.n), accumulate, out);
    if (!linear.bias.empty()) apply_bias(linear, rows, out, ldo);
    return;
  }
  kernels_.gemm(in, linear.k, rows, linear.packed.get(), linear.n, linear.k, linear.slices, accumulate, out, ldo);
  if (!linear.bias.empty()) apply_bias(linear, rows, out, ldo);
}

bf16 *CpuBackend::attended(int row, int layer) const {
  const LayerSpec &s = spec(layer);
  return attended_.get() + area(row, s.is_attention() ? s.attention.query_width() : s.delta.value_width());
}

float *CpuBackend::sum_target(Rows tile, int layer) const {
  return spec(layer).post_norms ? mixed_.get() : residual(tile.begin);
}

void CpuBackend::linear(Rows tile, int layer, MatrixKind kind) {
  if (kind == MatrixKind::lm_head) {
    apply(weights_.lm_head, normed_.get(), tile.count, false, logits_.get(), model_.vocab_size);
    if (model_.logit_soft_cap > 0) {
      kernels_.soft_cap(logits_.get(), int64_t{tile.count} * model_.vocab_size, model_.logit_soft_cap);
    }
    return;
  }
  const LayerWeights &w = weights(layer);
  const Linear &matrix = w[kind];
  if (kind == MatrixKind::qkv && matrix.n == 0) {  // packed apart
    const Linear &q = w[MatrixKind::q], &kv = w[MatrixKind::kv];
    apply(q, normed_.get(), tile.count, false, projected_.get(), q.n + kv.n);
    apply(kv, normed_.get(), tile.count, false, projected_.get() + q.n, q.n + kv.n);
    return;
  }
  if (matrix.n == 0) fail(UP_INTERNAL, "compute", "layer ", layer, " has no matrix of kind ", static_cast<int>(kind));
  const bool accumulate = !spec(layer).post_norms;
  switch (kind) {
    case MatrixKind::o:
    case MatrixKind::delta_out:
      return apply(matrix, attended(tile.begin, layer), tile.count, accumulate, sum_target(tile, layer), matrix.n);
    case MatrixKind::down: return apply(matrix, inner_.get(), tile.count, accumulate, sum_target(tile, layer), matrix.n);
    default: return apply(matrix, normed_.get(), tile.count, false, projected_.get(), matrix.n);
  }
}

void CpuBackend::activate_rows(int rows, const MlpSpec &mlp, int inner, const float *gated, bf16 *out) const {
  (mlp.activation == Activation::gelu ? kernels_.gelu_mul : kernels_.silu_mul)(gated, rows, inner, out);
}

void CpuBackend::gate_and_up(Rows tile, int layer) {
  const MlpSpec &mlp = spec(layer).mlp;
  const Linear &matrix = weights(layer)[MatrixKind::gate_up];
  apply(matrix, normed_.get(), tile.count, false, gated_.get(), matrix.n);
  activate_rows(tile.count, mlp, mlp.inner, gated_.get(), inner_.get());
}

void CpuBackend::sample(std::span<const SampleTask> tasks) {
  sampling_.sample(tasks, {logits_.get(), area(cpu_logits_rows, model_.vocab_size)});
}

void CpuBackend::logprobs(std::span<const LogprobTask> tasks) {
  sampling_.logprobs(tasks, {logits_.get(), area(cpu_logits_rows, model_.vocab_size)});
}

std::unique_ptr<PendingOutputs> CpuBackend::finish() {
  const auto taken = std::chrono::steady_clock::now() - started_;
  return sampling_.finish(std::chrono::duration_cast<std::chrono::microseconds>(taken).count(), key_blocks_);
}

}  // namespace up::cpu

namespace up {

std::unique_ptr<Backend> make_cpu_backend(std::shared_ptr<const Checkpoint> checkpoint, const BackendOptions &options,
                                          up_kernels kernels, int threads) {
  return std::make_unique<cpu::CpuBackend>(std::move(checkpoint), options, cpu::choose_kernels(kernels),
                                           threads > 0 ? threads : omp_get_num_procs());
}

}  // namespace up
