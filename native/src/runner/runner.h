// A model with its memory, its slots and a thread of its own: what up_runner_* does, with exceptions for errors.
//
// Plans are taken in order by the runner's thread, which applies them and has the backend compute them. The backend may be at work when
// the next plan is applied: a step's result is waited for apart, by whoever asks for it.
#pragma once

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

#include "step/layer_loop.h"
#include "uniprefill/runner.h"

namespace up {

class Runner {
 public:
  using MakeBackend = std::function<std::unique_ptr<Backend>(const BackendOptions &)>;

  // Loads the weights into the backend that the options name, or into what `make` returns; it is called on the runner's thread.
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
    uint64_t step_id = 0;
    int32_t checksum = 0;
    StepOutputs outputs;
    std::exception_ptr failure;
    std::chrono::steady_clock::time_point started;
    std::chrono::steady_clock::time_point ended;
  };

  void run(std::promise<void> &ready, const up_runner_options &options, const MakeBackend &make);
  Finished step(const std::vector<uint8_t> &plan);
  std::vector<int32_t> encode(const Finished &step, const Outputs &outputs) const;
  // Everything is forgotten; `step_id` failed, and is the next.
  void reset(uint64_t step_id);
  // Why an enqueued step fails unseen: one before it has failed. Null when none has, or its failure was known when this one came.
  std::exception_ptr failure_before(uint64_t number);

  std::shared_ptr<const Checkpoint> checkpoint_;
  Books books_;
  ContentStore contents_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<LayerLoop> loop_;

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
  std::thread thread_;
};

}  // namespace up
