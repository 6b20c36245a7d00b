#include "runner/runner.h"

#include <algorithm>
#include <bit>
#include <cstdio>

#include "abi/failure.h"
#include "parallel/spin.h"
#include "runner/make_backend.h"

namespace up {
namespace {

constexpr int max_ranks = 64;

std::string describe_exception(const std::exception_ptr &exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const Failure &failure) {
    return failure.detail;
  } catch (const std::exception &other) {
    return other.what();
  } catch (...) {
    return "unknown failure";
  }
}

int32_t bits(float value) { return std::bit_cast<int32_t>(value); }

void add_logprobs(std::vector<int32_t> &out, const std::vector<std::pair<int32_t, float>> &logprobs) {
  out.push_back(static_cast<int32_t>(logprobs.size()));
  for (const auto &[token, logprob] : logprobs) out.insert(out.end(), {token, bits(logprob)});
}

}  // namespace

Runner::Runner(std::shared_ptr<const Checkpoint> checkpoint, const up_runner_options &options)
    : Runner(std::move(checkpoint), options, [options](const auto &share, const BackendOptions &backend) {
        return make_backend(share, backend, options);
      }) {}

Runner::Runner(std::shared_ptr<const Checkpoint> checkpoint, const up_runner_options &options, const MakeBackend &make) {
  const int size = options.tensor_parallel_size;
  if (size < 0 || size > max_ranks) {
    fail(UP_INVALID_ARGUMENT, "check options", "tensor_parallel_size is ", size, ", an integer from 1 to ", max_ranks, " was expected");
  }
  if (size > 1) group_ = std::make_shared<RankGroup>(size);
  for (int rank = 0; rank < std::max(1, size); rank++) {
    auto communicator = group_ ? std::make_shared<Communicator>(group_, rank) : nullptr;
    ranks_.push_back(std::make_unique<Rank>(checkpoint, options, std::move(communicator)));
    if (rank > 0) helpers_.push_back(std::make_unique<JobThread>(may_spin(size)));
  }
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
  std::string device = ranks_[0]->backend().name();
  if (ranks_.size() > 1) device += text(" × ", ranks_.size());
  std::snprintf(out.device, sizeof out.device, "%s", device.c_str());
  const BackendMemory memory = ranks_[0]->backend().memory();
  out.slabs = limits().slabs;
  out.weight_bytes = memory.weights;
  out.workspace_bytes = memory.workspace;
  out.free_bytes = memory.free;
  out.key_blocks_read = key_blocks_read_;
  out.key_blocks_seen = key_blocks_seen_;
}

void Runner::put_content(int32_t id, const up_content &content) {
  contents_.put(id, read_content(content, ranks_[0]->books().schedule, {limits().vocab_size, limits().max_tokens}));
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
    const Outputs outputs = wait_for_ranks(step);
    key_blocks_read_ = outputs.key_blocks.read;
    key_blocks_seen_ = outputs.key_blocks.seen;
    result_ = encode(step, outputs);
  } catch (...) {
    const std::exception_ptr failure = std::current_exception();
    // Not while the next step is applied and computed.
    const std::lock_guard state(state_mutex_);
    abandon();
    reset(step.ranks[0].id);
    const std::lock_guard lock(mutex_);
    failure_ = failure;
    fails_until_ = enqueued_;
    for (Finished &behind : finished_) behind.failure = failure;
    throw;
  }
  return result_;
}

// All ranks at once, each on its own thread; rank 0 on this one. Throws what the first one that failed did, once all have ended.
void Runner::for_ranks(const std::function<void(Rank &)> &act, const std::string &where) {
  std::vector<std::exception_ptr> failures(ranks_.size());
  const auto run_one = [&](size_t i) {
    try {
      act(*ranks_[i]);
    } catch (...) {
      failures[i] = std::current_exception();
      if (group_) group_->fail_all(static_cast<int>(i), describe_exception(failures[i]));
    }
  };
  for (size_t i = 1; i < ranks_.size(); i++) helpers_[i - 1]->start([&, i] { run_one(i); });
  run_one(0);
  for (const auto &helper : helpers_) helper->finish();
  if (!group_) {
    if (failures[0]) std::rethrow_exception(failures[0]);
    return;
  }
  const int first = group_->failed_rank();
  group_->recover();
  if (first < 0) return;
  try {
    std::rethrow_exception(failures[static_cast<size_t>(first)]);
  } catch (const Failure &failure) {
    if (failure.phase == compare_phase) throw;  // it names a rank, which need not be the first to notice
    fail(failure.status, failure.phase, "rank ", first, " of ", ranks_.size(), where, ": ", failure.detail);
  }
}

void Runner::run(std::promise<void> &ready, const up_runner_options &options, const MakeBackend &make) {
  try {
    for_ranks([&](Rank &rank) { rank.load(options, make); });
    int slabs = INT32_MAX;
    for (const auto &rank : ranks_) slabs = std::min(slabs, rank->backend().memory().slabs);
    for (const auto &rank : ranks_) rank->begin(slabs);
  } catch (...) {
    unload();
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
  // What they hold may belong to these threads.
  finished_.clear();
  unload();
}

std::exception_ptr Runner::failure_before(uint64_t number) {
  const std::lock_guard lock(mutex_);
  return failure_ && number <= fails_until_ ? failure_ : nullptr;
}

Runner::Finished Runner::step(const std::vector<uint8_t> &bytes) {
  Finished out;
  out.started = std::chrono::steady_clock::now();
  const uint64_t expected = ranks_[0]->next_step();
  out.ranks.resize(ranks_.size());
  StepContents contents(contents_);
  try {
    for_ranks([&](Rank &rank) {
      const int number = rank.communicator() ? rank.communicator()->shard().rank : 0;
      out.ranks[static_cast<size_t>(number)] = rank.step(bytes, [&](int32_t id) { return contents.take(number, id); });
    }, text(" in step ", expected));
  } catch (...) {
    out.failure = std::current_exception();
    abandon();
    reset(expected);
  }
  out.ended = std::chrono::steady_clock::now();
  return out;
}

// The outputs of rank 0, once all ranks have theirs and these are the same.
Outputs Runner::wait_for_ranks(Finished &step) {
  std::vector<Outputs> all;
  std::exception_ptr failure;
  for (Rank::Step &rank : step.ranks) {
    try {
      all.push_back(rank.outputs.pending->wait());
    } catch (...) {
      if (!failure) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
  for (size_t rank = 1; rank < all.size(); rank++) {
    for (size_t i = 0; i < all[0].tokens.size(); i++) {
      const Outputs::Sampled &ours = all[0].tokens[i], &theirs = all[rank].tokens[i];
      if (ours.sample.token == theirs.sample.token && ours.sample.non_finite == theirs.sample.non_finite) continue;
      fail(UP_INTERNAL, compare_phase, "step ", step.ranks[0].id, ": rank ", rank, " of ", all.size(), " drew token ", theirs.sample.token,
           " for slot ", ours.slot, ", rank 0 ", ours.sample.token);
    }
  }
  return std::move(all[0]);
}

// A rank that has failed may have left the others at sums that it will never come to.
void Runner::abandon() {
  if (!group_) return;
  try {
    for_ranks([](Rank &rank) { rank.abandon(); });
  } catch (const Failure &) {
    // The next step fails with it.
  }
}

void Runner::unload() {
  abandon();
  for_ranks([](Rank &rank) { rank.unload(); });
}

void Runner::reset(uint64_t step_id) {
  for (const auto &rank : ranks_) rank->reset(step_id);
}

std::vector<int32_t> Runner::encode(const Finished &step, const Outputs &outputs) const {
  ResultSections sections;
  const Rank::Step &own = step.ranks[0];
  for (const Rank::Step &rank : step.ranks) sections.ranks.push_back(rank.checksum);
  sections.selections = own.outputs.selections;
  sections.selection_micros = own.outputs.selection_micros;
  std::vector<const Sample *> samples(static_cast<size_t>(limits().slots));
  for (const auto &sampled : outputs.tokens) samples[static_cast<size_t>(sampled.slot)] = &sampled.sample;
  for (const auto &[slot, content] : own.outputs.sampled) {
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
  return sections.encode(own.id, static_cast<int32_t>(std::clamp<int64_t>(micros, 0, INT32_MAX)));
}

}  // namespace up
