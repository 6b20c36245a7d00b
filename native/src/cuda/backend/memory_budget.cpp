#include "cuda/backend/memory_budget.h"

#include <algorithm>

#include "cuda/backend/decode_graphs.h"
#include "cuda/backend/kv_pool.h"
#include "cuda/backend/layer_operations.h"
#include "cuda/backend/token_sampler.h"
#include "cuda/parallel/peers.h"

namespace up::cuda {
namespace {

constexpr const char *phase = "share out device memory";
// Modules that are loaded when they are first used, and what cudaMalloc rounds up.
constexpr size_t slack = 128 << 20;

std::string mebibytes(int64_t bytes) { return text(bytes >> 20, " MiB"); }

}  // namespace

int64_t mass_integers(const ModelTable &model, const BackendOptions &options) {
  constexpr int64_t several = 1 << 16;
  int heads = 0;
  for (const LayerSpec &layer : model.layers) heads = std::max(heads, layer.attention.heads);
  return std::max(several, LayerOperations::mass_count({options.max_tokens, 64, 0, 0}, heads));
}

size_t workspace_bytes(const ModelTable &model, const BackendOptions &options, const ActivationSizes &sizes) {
  const size_t peers = options.ranks ? Peers::bytes(options.ranks->shard().size, sizes.rows, sizes.hidden, mass_integers(model, options)) : 0;
  return peers + sizes.bytes() + KvPool::table_bytes(options) + LayerOperations::angle_bytes(model, options.max_tokens) + Matmul::workspace_bytes +
         upload_ring_bytes + DecodeGraphs::reserved_bytes(options) +
         static_cast<size_t>(options.state_slots) * static_cast<size_t>(options.layout.state_slot_bytes) + TokenSampler::count_bytes(model.vocab_size, options.slots) + slack;
}

int count_slabs(Device &device, const ModelTable &model, const BackendOptions &options, const DeviceOptions &device_options,
                const ActivationSizes &sizes, size_t weight_bytes) {
  const double fraction = device_options.memory_fraction;
  if (!(fraction > 0 && fraction <= 1))
    fail(UP_INVALID_ARGUMENT, phase, "memory_fraction is ", fraction, ", a number in (0, 1] was expected");
  const Device::Memory memory = device.memory();
  const auto free = static_cast<int64_t>(memory.free), total = static_cast<int64_t>(memory.total);
  const auto weights = static_cast<int64_t>(weight_bytes);
  const auto workspace = static_cast<int64_t>(workspace_bytes(model, options, sizes));
  const int64_t slab = options.layout.slab_bytes;
  const bool counts = options.slabs == 0;
  const int64_t allowed = counts ? static_cast<int64_t>(fraction * static_cast<double>(total)) - (total - free) : free;
  const int64_t left = allowed - weights - workspace;
  int64_t least = options.slabs;
  if (counts) {
    for (const Table &table : options.layout.tables) least += table.slabs_per_page;
  }
  // One slab more holds zeros.
  if (left < (least + 1) * slab) {
    fail(UP_OUT_OF_MEMORY, phase, "weights ", mebibytes(weights), ", workspace ", mebibytes(workspace), " (", sizes.rows, " rows a step, ",
         options.slots, " slots of ", options.max_tokens, " tokens) and ", counts ? "at least " : "", least, " slabs of ", slab,
         " bytes (", mebibytes((least + 1) * slab), ") do not fit: of ", mebibytes(total), " are ", mebibytes(free), " free",
         counts ? text(", of which memory_fraction ", fraction, " allows ", mebibytes(std::max<int64_t>(allowed, 0))) : "");
  }
  return static_cast<int>(counts ? std::min<int64_t>(left / slab - 1, INT32_MAX / 2) : least);
}

}  // namespace up::cuda
