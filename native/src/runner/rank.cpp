#include "runner/rank.h"

#include <omp.h>

#include <algorithm>

#include "abi/failure.h"
#include "abi/fnv.h"
#include "plan/apply.h"
#include "runner/make_backend.h"
#include "selection/sparsity.h"

namespace up {
namespace {

constexpr int max_slots = 4096;
constexpr int max_threads = 1024;
constexpr int max_rows_per_step_limit = 1 << 24;

void require_within(const char *field, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) {
    fail(UP_INVALID_ARGUMENT, "check options", field, " is ", value, ", an integer from ", least, " to ", most, " was expected");
  }
}

void check_options(const up_runner_options &options, const ModelTable &model) {
  require_pointer(options.layout, "layout");
  require_within("slabs", options.slabs, raw_value(options.device) == UP_DEVICE_CUDA ? 0 : 1, INT32_MAX);
  require_within("slots", options.slots, 1, max_slots);
  require_within("state_slots", options.state_slots, 0, 1 << 20);
  require_within("max_rows_per_step", options.max_rows_per_step, 1, max_rows_per_step_limit);
  require_within("max_tokens", options.max_tokens, 1, model.max_positions);
  require_within("threads", options.threads, 0, max_threads);
}

// Heads that read the same keys choose them together, so they lie on one rank.
void check_sparsity(uint64_t p_q32, const ModelTable &whole, int ranks) {
  if (p_q32 > UINT32_MAX) fail(UP_INVALID_ARGUMENT, "check options", "prefill_p_q32 is ", p_q32, ", less than 2^32 was expected");
  if (p_q32 == 0) return;
  for (int i = 0; i < whole.layer_count(); i++) {
    if (whole.layer(i).mixer != Mixer::full) continue;
    const AttentionSpec &a = whole.layer(i).attention;
    if (a.kv_heads < ranks)
      fail(UP_UNSUPPORTED_MODEL, "check options", "prefill sparsity wants a KV head of its own on each of ", ranks, " ranks, layer ",
           i, " has ", a.kv_heads);
    if (a.heads / a.kv_heads > sparse_most_heads)
      fail(UP_UNSUPPORTED_MODEL, "check options", "prefill sparsity: ", a.heads / a.kv_heads, " heads of layer ", i, " share keys, at most ",
           sparse_most_heads, " may");
  }
}

Books make_books(const up_runner_options &options, const ModelTable &model) {
  check_options(options, model);
  Layout layout = parse_layout({options.layout, options.layout_bytes}, model, element_bytes(options.device));
  Schedule schedule = read_schedule(options.schedule, layout);
  // Without slabs, until a backend has the memory for them.
  return {std::move(layout), std::move(schedule),
          {0, options.slots, options.state_slots, model.vocab_size, options.max_rows_per_step, options.max_tokens, options.prefill_p_q32 > 0}};
}

// Layers whose queries and keys are computed for different rows: drop layers and the last one.
std::vector<bool> split_layers(const Books &books, const ModelTable &model) {
  std::vector<bool> out(model.layers.size());
  for (const Segment &segment : books.layout.segments) out[static_cast<size_t>(segment.last_layer)] = true;
  return out;
}

std::shared_ptr<const Checkpoint> share_of(const std::shared_ptr<const Checkpoint> &whole, const Communicator *communicator) {
  return communicator ? std::make_shared<const Checkpoint>(whole, communicator->shard()) : whole;
}

}  // namespace

Rank::Rank(const std::shared_ptr<const Checkpoint> &whole, const up_runner_options &options, std::shared_ptr<Communicator> communicator)
    : checkpoint_(share_of(whole, communicator.get())),
      communicator_(std::move(communicator)),
      books_(make_books(options, checkpoint_->table())) {
  check_sparsity(options.prefill_p_q32, whole->table(), communicator_ ? communicator_->shard().size : 1);
}

void Rank::load(const up_runner_options &options, const MakeBackend &make) {
  // OpenMP keeps a team of threads for every thread that opens a parallel region: all of a rank's work is done on its own.
  const int ranks = communicator_ ? communicator_->shard().size : 1;
  const int threads = options.threads > 0 ? options.threads : omp_get_num_procs();
  omp_set_num_threads(std::max(1, threads / ranks));
  omp_set_dynamic(0);
  BackendOptions backend;
  backend.layout = books_.layout;
  backend.slabs = options.slabs;
  backend.slots = options.slots;
  backend.state_slots = options.state_slots;
  backend.max_rows = options.max_rows_per_step;
  backend.max_tokens = options.max_tokens;
  backend.last_q = books_.schedule.last_q;
  backend.prefill_p_q32 = options.prefill_p_q32;
  backend.split_layers = split_layers(books_, checkpoint_->table());
  backend.tables = &books_.tables;
  backend.state_slots_of = &books_.state_slots_of;
  backend.ranks = communicator_;
  backend_ = make(checkpoint_, backend);
  loop_ = std::make_unique<LayerLoop>(checkpoint_->table(), books_, *backend_, communicator_.get());
}

void Rank::begin(int slabs) {
  books_.limits.slabs = slabs;
  books_.reset();
}

Rank::Step Rank::step(std::span<const uint8_t> bytes, const TakeContent &take) {
  const uint64_t expected = next_step();
  if (communicator_) {
    communicator_->begin();
    Fnv hash;
    hash.add(bytes.data(), bytes.size());
    communicator_->agree(text("the plan of step ", expected), hash.value());
  }
  const Plan plan(bytes.data(), bytes.size());
  Step out{plan.step_id(), plan.checksum(), {}};
  if (plan.step_id() != expected) fail(UP_INVALID_PLAN, "check plan", "stepId is ", plan.step_id(), ", expected ", expected);
  const StepWork work = apply_plan(books_, plan, take);
  try {
    out.outputs = loop_->run(work);
  } catch (const Failure &failure) {
    // Ranks that find out about a difference stop at the same place; a failure leaves the others where they are.
    if (failure.phase != compare_phase) backend_->give_up();
    throw;
  }
  books_.last_step = plan.step_id();
  return out;
}

void Rank::reset(uint64_t id) {
  books_.reset();
  books_.last_step = id - 1;
}

void Rank::abandon() {
  if (backend_) backend_->abandon();
}

void Rank::unload() {
  loop_.reset();
  backend_.reset();
}

}  // namespace up
