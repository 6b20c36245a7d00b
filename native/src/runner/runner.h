// A model with its memory, its slots and a thread of its own: what up_runner_* does, with exceptions for errors.
//
// With tensor parallelism each rank has all of that, and a thread. They take the same plan side by side, and what could set them
// apart is compared: the bytes of the plan, every selection, every token.
//
// Plans are taken in order by the runner's thread, which applies them and has the backend compute them. The backend may be at work when
// the next plan is applied: a step's result is waited for apart, by whoever asks for it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "runner/job_thread.h"
#include "runner/rank.h"

namespace up {

class Runner {
 public:
  // Loads the weights into the backends that the options name, or into what `make` returns; it is called on the thread of the rank.
  Runner(std::shared_ptr<const Checkpoint> checkpoint, const up_runner_options &options);
  Runner(std::shared_ptr<const Checkpoint> checkpoint, const up_runner_options &options, const MakeBackend &make);
  ~Runner();
  Runner(const Runner &) = delete;
  Runner &operator=(const Runner &) = delete;

  void describe(up_runner_info &out) const;
  void put_content(int32_t id, const up_content &content);
  void forget_content(int32_t id) { contents_.forget(id); }
  void enqueue(const uint8_t *plan, size_t bytes);
  // The bytes stay valid until the next call.
  const std::vector<int32_t> &wait();

 private:
  struct Enqueued {
    uint64_t number;  // counts every call of enqueue
    std::vector<uint8_t> plan;
  };
  // A step that is computed, or has failed.
  struct Finished {
    std::vector<Rank::Step> ranks;
    std::exception_ptr failure;
    std::chrono::steady_clock::time_point started;
    std::chrono::steady_clock::time_point ended;
  };

  void run(std::promise<void> &ready, const up_runner_options &options, const MakeBackend &make);
  // `where`: " in step 17", for what a failing rank says.
  void for_ranks(const std::function<void(Rank &)> &act, const std::string &where = "");
  Finished step(const std::vector<uint8_t> &plan);
  Outputs wait_for_ranks(Finished &step);
  std::vector<int32_t> encode(const Finished &step, const Outputs &outputs) const;
  void abandon();
  void unload();
  // Everything is forgotten; `step_id` failed, and is the next.
  void reset(uint64_t step_id);
  // Why an enqueued step fails unseen: one before it has failed. Null when none has, or its failure was known when this one came.
  std::exception_ptr failure_before(uint64_t number);

  const BooksLimits &limits() const { return ranks_[0]->books().limits; }

  ContentStore contents_;
  std::shared_ptr<RankGroup> group_;  // null of one rank
  std::vector<std::unique_ptr<Rank>> ranks_;
  std::vector<std::unique_ptr<JobThread>> helpers_;  // of ranks 1 and on

  std::mutex state_mutex_;  // held while a step is applied and computed, or everything is forgotten
  std::mutex mutex_;        // of what follows
  std::condition_variable changed_;
  std::deque<Enqueued> plans_;
  std::deque<Finished> finished_;
  uint64_t enqueued_ = 0;
  int unanswered_ = 0;
  std::exception_ptr failure_;      // of the last step that failed
  uint64_t fails_until_ = 0;        // steps up to this number fail with it
  bool stop_ = false;
  std::vector<int32_t> result_;
  std::atomic<int64_t> key_blocks_read_ = 0, key_blocks_seen_ = 0;
  std::thread thread_;
};

}  // namespace up
