#include "runner/runner.h"

#include <omp.h>

#include <algorithm>
#include <bit>
#include <cstdio>

#include "abi/failure.h"
#include "plan/apply.h"
#include "runner/make_backend.h"

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

Books make_books(const up_runner_options &options, const ModelTable &model) {
  check_options(options, model);
  Layout layout = parse_layout({options.layout, options.layout_bytes}, model, element_bytes(options.device));
  Schedule schedule = read_schedule(options.schedule, layout);
  // Without slabs, until a backend has the memory for them.
  return {std::move(layout), std::move(schedule),
          {0, options.slots, options.state_slots, model.vocab_size, options.max_rows_per_step, options.max_tokens}};
}

// Layers whose queries and keys are computed for different rows: drop layers and the last one.
std::vector<bool> split_layers(const Books &books, const ModelTable &model) {
  std::vector<bool> out(model.layers.size());
  for (const Segment &segment : books.layout.segments) out[static_cast<size_t>(segment.last_layer)] = true;
  return out;
}

int32_t bits(float value) { return std::bit_cast<int32_t>(value); }

void add_logprobs(std::vector<int32_t> &out, const std::vector<std::pair<int32_t, float>> &logprobs) {
  out.push_back(static_cast<int32_t>(logprobs.size()));
  for (const auto &[token, logprob] : logprobs) out.insert(out.end(), {token, bits(logprob)});
}

}  // namespace

Runner::Runner(std::shared_ptr<const Checkpoint> checkpoint, const up_runner_options &options)
    : Runner(checkpoint, options, [&](const BackendOptions &backend) { return make_backend(checkpoint, backend, options); }) {}

Runner::Runner(std::shared_ptr<const Checkpoint> checkpoint, const up_runner_options &options, const MakeBackend &make)
    : checkpoint_(std::move(checkpoint)), books_(make_books(options, checkpoint_->table())) {
  std::promise<void> ready;
  std::future<void> made = ready.get_future();
  // The thread's own promise and options: this call may return while it is still fulfilling the one.
  thread_ = std::thread([this, options, make, promise = std::move(ready)]() mutable { run(promise, options, make); });
  try {
    made.get();
  } catch (...) {
    thread_.join();
    throw;
  }
}

Runner::~Runner() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Runner::describe(up_runner_info &out) const {
  out = {};
  out.size = sizeof out;
  std::snprintf(out.device, sizeof out.device, "%s", backend_->name().c_str());
  const BackendMemory memory = backend_->memory();
  out.slabs = books_.limits.slabs;
  out.weight_bytes = memory.weights;
  out.workspace_bytes = memory.workspace;
  out.free_bytes = memory.free;
}

void Runner::put_content(int32_t id, const up_content &content) {
  contents_.put(id, read_content(content, books_.schedule, {books_.limits.vocab_size, books_.limits.max_tokens}));
}

void Runner::enqueue(const uint8_t *plan, size_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    if (unanswered_ == UP_STEPS_IN_FLIGHT) {
      fail(UP_INVALID_ARGUMENT, "enqueue", unanswered_, " steps have not been waited for, at most ", UP_STEPS_IN_FLIGHT, " may");
    }
    unanswered_++;
    plans_.push_back({++enqueued_, {plan, plan + bytes}});
  }
  changed_.notify_all();
}

const std::vector<int32_t> &Runner::wait() {
  Finished step;
  {
    std::unique_lock lock(mutex_);
    if (unanswered_ == 0) fail(UP_INVALID_ARGUMENT, "wait", "no step has been enqueued");
    changed_.wait(lock, [&] { return !finished_.empty(); });
    step = std::move(finished_.front());
    finished_.pop_front();
    unanswered_--;
    // Whoever enqueues from here on knows of the failure.
    if (step.failure) fails_until_ = std::min(fails_until_, enqueued_);
  }
  if (step.failure) std::rethrow_exception(step.failure);
  try {
    const Outputs outputs = step.outputs.pending->wait();
    result_ = encode(step, outputs);
  } catch (...) {
    const std::exception_ptr failure = std::current_exception();
    // Not while the next step is applied and computed.
    const std::lock_guard state(state_mutex_);
    reset(step.step_id);
    const std::lock_guard lock(mutex_);
    failure_ = failure;
    fails_until_ = enqueued_;
    for (Finished &behind : finished_) behind.failure = failure;
    throw;
  }
  return result_;
}

// OpenMP keeps a team of threads for every thread that opens a parallel region: all of a runner's work is done on its own.
void Runner::run(std::promise<void> &ready, const up_runner_options &options, const MakeBackend &make) {
  try {
    const int threads = options.threads > 0 ? options.threads : omp_get_num_procs();
    omp_set_num_threads(threads);
    omp_set_dynamic(0);
    BackendOptions backend;
    backend.layout = books_.layout;
    backend.slabs = options.slabs;
    backend.slots = options.slots;
    backend.state_slots = options.state_slots;
    backend.max_rows = options.max_rows_per_step;
    backend.max_tokens = options.max_tokens;
    backend.last_q = books_.schedule.last_q;
    backend.split_layers = split_layers(books_, checkpoint_->table());
    backend.tables = &books_.tables;
    backend.state_slots_of = &books_.state_slots_of;
    backend_ = make(backend);
    books_.limits.slabs = backend_->memory().slabs;
    books_.reset();
    loop_ = std::make_unique<LayerLoop>(checkpoint_->table(), books_, *backend_);
  } catch (...) {
    ready.set_exception(std::current_exception());
    return;
  }
  ready.set_value();
  for (;;) {
    Enqueued next;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stop_ || !plans_.empty(); });
      if (stop_) break;
      next = std::move(plans_.front());
      plans_.pop_front();
    }
    {
      const std::lock_guard state(state_mutex_);
      Finished done;
      done.failure = failure_before(next.number);
      if (!done.failure) {
        done = step(next.plan);
        const std::lock_guard lock(mutex_);
        failure_ = done.failure;
        fails_until_ = UINT64_MAX;
      }
      const std::lock_guard lock(mutex_);
      finished_.push_back(std::move(done));
    }
    changed_.notify_all();
  }
  // What it holds may belong to this thread.
  finished_.clear();
  loop_.reset();
  backend_.reset();
}

std::exception_ptr Runner::failure_before(uint64_t number) {
  const std::lock_guard lock(mutex_);
  return failure_ && number <= fails_until_ ? failure_ : nullptr;
}

Runner::Finished Runner::step(const std::vector<uint8_t> &bytes) {
  Finished out;
  out.started = std::chrono::steady_clock::now();
  const uint64_t expected = books_.last_step + 1;
  try {
    const Plan plan(bytes.data(), bytes.size());
    out.step_id = plan.step_id();
    out.checksum = plan.checksum();
    if (plan.step_id() != expected) {
      fail(UP_INVALID_PLAN, "check plan", "stepId is ", plan.step_id(), ", expected ", expected);
    }
    const StepWork work = apply_plan(books_, plan, contents_);
    out.outputs = loop_->run(work);
    books_.last_step = plan.step_id();
  } catch (...) {
    out.failure = std::current_exception();
    reset(expected);
  }
  out.ended = std::chrono::steady_clock::now();
  return out;
}

void Runner::reset(uint64_t step_id) {
  books_.reset();
  books_.last_step = step_id - 1;
}

std::vector<int32_t> Runner::encode(const Finished &step, const Outputs &outputs) const {
  ResultSections sections;
  sections.ranks.push_back(step.checksum);
  sections.selections = step.outputs.selections;
  std::vector<const Sample *> samples(static_cast<size_t>(books_.limits.slots));
  for (const auto &sampled : outputs.tokens) samples[static_cast<size_t>(sampled.slot)] = &sampled.sample;
  for (const auto &[slot, content] : step.outputs.sampled) {
    const Sample &sample = *samples[static_cast<size_t>(slot)];
    if (sample.non_finite) {
      sections.failures.insert(sections.failures.end(), {slot, failure_non_finite});
      continue;
    }
    const int32_t flags = content->sampling.is_stop(sample.token) ? token_stop : 0;
    sections.tokens.insert(sections.tokens.end(), {slot, sample.token, flags});
    if (sample.logprobs.empty()) continue;
    sections.logprobs.push_back(slot);
    add_logprobs(sections.logprobs, sample.logprobs);
  }
  for (const auto &[slot, values] : outputs.logits) {
    sections.logits.insert(sections.logits.end(), {slot, static_cast<int32_t>(values.size())});
    for (const float value : values) sections.logits.push_back(bits(value));
  }
  for (const auto &[slot, row, logprobs] : outputs.prompt_logprobs) {
    sections.prompt_logprobs.insert(sections.prompt_logprobs.end(), {slot, row});
    add_logprobs(sections.prompt_logprobs, logprobs);
  }
  const int64_t elapsed = std::chrono::duration_cast<std::chrono::microseconds>(step.ended - step.started).count();
  const int64_t micros = outputs.device_micros > 0 ? outputs.device_micros : elapsed;
  return sections.encode(step.step_id, static_cast<int32_t>(std::clamp<int64_t>(micros, 0, INT32_MAX)));
}

}  // namespace up
