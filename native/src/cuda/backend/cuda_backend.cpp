#include "cuda/backend/cuda_backend.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>

#include "cuda/backend/memory_budget.h"

namespace up::cuda {
namespace {

constexpr int row_tables_kept = 4;

// A kernel that is loaded while devices wait for each other's may never be: the driver waits for them.
void load_kernels_early() {
  static std::once_flag once;
  std::call_once(once, [] { setenv("CUDA_MODULE_LOADING", "EAGER", 0); });
}

int selection_words(const BackendOptions &options) { return (options.max_tokens + 64 * 32 - 1) / (64 * 32); }

}  // namespace

CudaBackend::CudaBackend(std::shared_ptr<const Checkpoint> checkpoint, const BackendOptions &options,
                         const DeviceOptions &device_options)
    : checkpoint_(std::move(checkpoint)), options_(options) {
  const ModelTable &model = checkpoint_->table();
  LayerOperations::check_supported(model, options_);
  if (options_.ranks) load_kernels_early();
  device_ = std::make_shared<Device>(device_options.index);
  library_ = lt::functions().version;
  weights_ = std::make_unique<DeviceWeights>(*checkpoint_);
  const ActivationSizes sizes(model, options_);
  const int slabs = count_slabs(*device_, model, options_, device_options, sizes, weights_->bytes());

  weights_->load(*device_, device_options.progress);
  buffer_pool_ = std::make_shared<StepBufferPool>();
  activations_ = std::make_unique<Activations>(*device_, sizes);
  ring_ = std::make_unique<UploadRing>(*device_, upload_ring_bytes);
  tables_ = std::make_unique<RowTables>(*device_, row_tables_kept, sizes.rows, options_.slots,
                                        options_.layout.has_states() ? options_.state_slots_of : nullptr);
  sampler_ = std::make_unique<TokenSampler>(*device_, model.vocab_size, options_.slots, sizes.logits_rows);
  graphs_ = std::make_unique<DecodeGraphs>(*device_, options_);
  const size_t results = static_cast<size_t>(options_.slots) * static_cast<size_t>(selection_words(options_) + 2) * sizeof(uint32_t);
  selections_ = DeviceBuffer(*device_, results, "the selections");
  selected_ = PinnedBuffer(*device_, results, "the selections");
  select_begin_ = Event(*device_, true);
  select_end_ = Event(*device_, true);
  pool_ = std::make_unique<KvPool>(*device_, model, options_, slabs);
  if (options_.ranks) {
    peers_ = std::make_unique<Peers>(*device_, options_.ranks, sizes.rows, sizes.hidden, mass_integers(model, options_));
    device_->watch([this] { peers_->check(); });
  }
  layers_ = std::make_unique<LayerOperations>(*device_, model, options_, *weights_, *activations_, *pool_, peers_.get());
  layers_->tune(options_.split_layers);
  device_->wait("make backend");
  memory_.slabs = slabs;
  memory_.weights = static_cast<int64_t>(weights_->bytes());
  memory_.workspace = static_cast<int64_t>(workspace_bytes(model, options_, sizes));
  memory_.free = static_cast<int64_t>(device_->memory().free);
}

CudaBackend::~CudaBackend() {
  // Nothing may be under way in memory that is about to be freed.
  device_->watch({});
  if (cudaSetDevice(device_->index()) == cudaSuccess) cudaStreamSynchronize(device_->stream());
}

std::string CudaBackend::name() const {
  const std::string &differing = layers_->gated_mlps().differing();
  return text("cuda (", device_->name(), ", cuBLASLt ", library_, differing.empty() ? "" : ", gate and up apart: other bits of ", differing, ")");
}

void CudaBackend::begin(const MemoryChanges &changes) {
  device_->use();
  noting_ = false;
  layers_->begin();
  if (peers_) peers_->begin();
  buffers_ = buffer_pool_->take(*device_);
  device_->check(cudaEventRecord(buffers_->begin.get(), device_->stream()), "begin step");
  pool_->apply(changes, *ring_);
}

std::unique_ptr<PendingOutputs> CudaBackend::finish() {
  end_tape(true);
  if (peers_) layers_->end();
  if (options_.prefill_p_q32 > 0) {
    auto *const key_blocks = buffers_->take<KeyBlocks>(*device_, 1);
    device_->copy_out(key_blocks, layers_->key_blocks(), sizeof *key_blocks, "return key blocks");
    buffers_->key_blocks = key_blocks;
  }
  device_->check(cudaEventRecord(buffers_->end.get(), device_->stream()), "end step");
  return make_pending_outputs(device_, buffer_pool_, std::move(buffers_));
}

void CudaBackend::embed(Rows rows, std::span<const int32_t> tokens) {
  if (rows.begin == 0 && graphs_->begin(rows.count, tokens)) {
    noting_ = true;
    tape_is_decode_ = false;
    graphs_->add({Operation::embed, rows});
    tokens_.assign(tokens.begin(), tokens.end());
  } else {
    layers_->embed(rows, ring_->upload(tokens), sampler_->last_tokens());
  }
}

void CudaBackend::operate(const Operation &operation, const RowTable *rows) {
  if (noting_ && rows != nullptr && rows->decode_rows != rows->rows()) end_tape(false);
  if (noting_) {
    Operation noted = operation;
    if (rows != nullptr) {
      noted.input = graphs_->add_table(*rows);
      tape_is_decode_ = true;
    }
    graphs_->add(noted);
    return;
  }
  Inputs inputs{};
  if (rows != nullptr) inputs.rows = tables_->find(*rows, *ring_);
  carry_out(operation, inputs, false);
}

void CudaBackend::end_tape(bool is_decode_step) {
  if (!noting_) return;
  noting_ = false;
  if (is_decode_step && tape_is_decode_) {
    graphs_->run([this](const Operation &operation, const Inputs &inputs) { carry_out(operation, inputs, true); });
    return;
  }
  for (const Operation &operation : graphs_->tape()) {
    Inputs inputs{};
    if (operation.kind == Operation::embed) inputs.tokens = ring_->upload(std::span<const int32_t>(tokens_));
    if (operation.kind == Operation::write_carry) {
      const DecodeGraphs::Carry &carry = graphs_->carry(operation.input);
      inputs.slots = ring_->upload(std::span<const int32_t>(carry.slots));
      inputs.carry_rows = ring_->upload(std::span<const int32_t>(carry.rows));
    } else if (operation.input >= 0) {
      inputs.rows = tables_->find(graphs_->table(operation.input), *ring_);
    }
    carry_out(operation, inputs, false);
  }
}

void CudaBackend::carry_out(const Operation &op, const Inputs &inputs, bool any_length) {
  switch (op.kind) {
    case Operation::embed: layers_->embed(op.rows, inputs.tokens, sampler_->last_tokens()); break;
    case Operation::write_carry: layers_->write_carry(op.rows, {op.detail, inputs.slots, inputs.carry_rows}); break;
    case Operation::norm: layers_->norm(op.rows, op.layer, static_cast<Norm>(op.detail)); break;
    case Operation::add_normed: layers_->add_normed(op.rows, op.layer, static_cast<Norm>(op.detail)); break;
    case Operation::linear: layers_->linear(op.rows, op.layer, static_cast<MatrixKind>(op.detail)); break;
    case Operation::rotate_and_write:
      layers_->rotate_and_write(op.rows, op.layer, static_cast<MatrixKind>(op.detail), inputs.rows);
      break;
    case Operation::attend: layers_->attend(op.layer, inputs.rows, any_length); break;
    case Operation::apply_gate: layers_->apply_gate(op.rows, op.layer); break;
    case Operation::recur: layers_->recur(op.rows, op.layer, inputs.rows, *ring_); break;
    case Operation::gate_and_up: layers_->gate_and_up(op.rows, op.layer); break;
    case Operation::experts: layers_->experts(op.rows, op.layer); break;
  }
}

void CudaBackend::move_rows(std::span<const int32_t> from, int to) {
  end_tape(false);
  layers_->move_rows(from, ring_->upload(from), to);
}

void CudaBackend::keep(int count) {
  end_tape(false);
  layers_->keep(count);
}

void CudaBackend::enter(Rows tile, const CarryRows &carry) {
  end_tape(false);
  layers_->enter(tile, upload(carry));
}

DeviceCarry CudaBackend::upload(const CarryRows &carry) {
  std::vector<int32_t> both = carry.slots;
  both.insert(both.end(), carry.rows.begin(), carry.rows.end());
  const int32_t *const slots = ring_->upload(std::span<const int32_t>(both));
  return {carry.segment, slots, slots + carry.slots.size()};
}

void CudaBackend::read_carry(Rows rows, const CarryRows &carry) {
  end_tape(false);
  layers_->read_carry(rows, upload(carry));
}

void CudaBackend::write_carry(Rows rows, const CarryRows &carry) {
  if (noting_) {
    graphs_->add({Operation::write_carry, rows, 0, carry.segment, graphs_->add_carry(carry)});
    return;
  }
  layers_->write_carry(rows, upload(carry));
}

void CudaBackend::norm(Rows tile, int layer, Norm norm) { operate({Operation::norm, tile, layer, static_cast<int>(norm)}); }

void CudaBackend::add_normed(Rows tile, int layer, Norm norm) {
  operate({Operation::add_normed, tile, layer, static_cast<int>(norm)});
}

void CudaBackend::linear(Rows tile, int layer, MatrixKind kind) {
  operate({Operation::linear, tile, layer, static_cast<int>(kind)});
}

void CudaBackend::rotate_and_write(Rows tile, int layer, MatrixKind kind, const RowTable &rows) {
  operate({Operation::rotate_and_write, tile, layer, static_cast<int>(kind)}, &rows);
}

void CudaBackend::attend(int layer, const RowTable &rows) { operate({Operation::attend, {}, layer}, &rows); }
void CudaBackend::apply_gate(Rows tile, int layer) { operate({Operation::apply_gate, tile, layer}); }
void CudaBackend::gate_and_up(Rows tile, int layer) { operate({Operation::gate_and_up, tile, layer}); }

void CudaBackend::experts(Rows tile, int layer) { operate({Operation::experts, tile, layer}); }

void CudaBackend::recur(Rows tile, int layer, const RowTable &rows) { operate({Operation::recur, tile, layer}, &rows); }

void CudaBackend::give_up() {
  if (peers_) peers_->give_up();
}

void CudaBackend::abandon() {
  if (!peers_ || peers_->settle()) return;
  device_->lose("end a failed step", "the devices wait for each other");
}

// Of one rank of several. As many at a time as their masses have room; all ranks have the same tasks.
void CudaBackend::select_over_ranks(int layer, std::span<const SelectionTask> tasks, up_rule rule, std::span<const Selecting> selecting) {
  const int heads = checkpoint_->table().layer(layer).attention.heads;
  for (size_t begin = 0, end = 0; begin < tasks.size(); begin = end) {
    int64_t count = 0;
    for (; end < tasks.size(); end++) {
      const SelectionTask &task = tasks[end];
      const int64_t more = LayerOperations::mass_count(task.shape, heads);
      if (count + more > peers_->most_integers()) break;
      layers_->select_masses(layer, task.slot, task.first, task.query_rows, task.shape, selecting[end].length, peers_->integers() + count);
      count += more;
    }
    if (end == begin) fail(UP_INTERNAL, "select", "masses of ", tasks[begin].shape.rows, " rows do not fit");
    uint64_t *masses = peers_->sum_integers(count);
    for (size_t i = begin; i < end; i++) {
      const SelectionTask &task = tasks[i];
      layers_->select_cut(layer, task.slot, task.shape, task.query_rows, rule, selecting[i].length, selecting[i].p_q32, masses,
                          reinterpret_cast<uint32_t *>(selecting[i].out + 2), selecting[i].out, selecting[i].out + 1);
      masses += LayerOperations::mass_count(task.shape, heads);
    }
  }
}

std::vector<SelectionOutcome> CudaBackend::select(int layer, std::span<const SelectionTask> tasks, up_rule rule) {
  end_tape(false);
  struct Wanted {
    uint64_t p_q32;
    int32_t length, unused;
  };
  std::vector<Wanted> wanted;
  size_t words = 0;
  for (const SelectionTask &task : tasks) {
    wanted.push_back({task.p_q32, task.shape.rows, 0});
    words += static_cast<size_t>(task.shape.words()) + 2;
  }
  if (words * sizeof(uint32_t) > selections_.bytes()) fail(UP_INTERNAL, "select", tasks.size(), " selections do not fit");
  const Wanted *on_device = ring_->upload(std::span<const Wanted>(wanted));
  device_->check(cudaEventRecord(select_begin_.get(), device_->stream()), "time selections");
  std::vector<Selecting> selecting;
  auto *out = selections_.as<int32_t>();
  for (size_t i = 0; i < tasks.size(); i++) {
    selecting.push_back({&on_device[i].length, &on_device[i].p_q32, out});
    out += tasks[i].shape.words() + 2;
  }
  if (peers_) {
    select_over_ranks(layer, tasks, rule, selecting);
  } else {
    for (size_t i = 0; i < tasks.size(); i++) {
      const Selecting &each = selecting[i];
      layers_->select(layer, tasks[i].slot, tasks[i].first, tasks[i].query_rows, tasks[i].shape, rule, each.length, each.p_q32,
                      reinterpret_cast<uint32_t *>(each.out + 2), each.out, each.out + 1);
    }
  }
  device_->copy_out(selected_.as(), selections_.as(), words * sizeof(uint32_t), "return selections");
  device_->check(cudaEventRecord(select_end_.get(), device_->stream()), "time selections");
  device_->wait("wait for selections");
  float milliseconds = 0;
  device_->check(cudaEventElapsedTime(&milliseconds, select_begin_.get(), select_end_.get()), "time selections");
  // Those that are made together share the time.
  const auto micros = static_cast<int64_t>(milliseconds * 1000 / static_cast<float>(tasks.size()));
  std::vector<SelectionOutcome> outcomes;
  const auto *from = selected_.as<const uint32_t>();
  for (const SelectionTask &task : tasks) {
    outcomes.push_back({{from + 2, from + 2 + task.shape.words()}, from[1] == 0, micros});
    from += task.shape.words() + 2;
  }
  return outcomes;
}

void CudaBackend::sample(std::span<const SampleTask> tasks) {
  end_tape(true);
  sampler_->sample(tasks, activations_->scratch, *ring_, *buffers_);
}

void CudaBackend::logprobs(std::span<const LogprobTask> tasks) {
  end_tape(true);
  sampler_->logprobs(tasks, activations_->scratch, *ring_, *buffers_);
}

}  // namespace up::cuda
