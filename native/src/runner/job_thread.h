// A thread that does one job after another.
//
// Where it `spins`, it does so for a while before it sleeps, and so does whoever waits for it: between two steps, one of which begins with
// what the other has selected, devices wait for both.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "parallel/spin.h"

namespace up {

class JobThread {
 public:
  explicit JobThread(bool spins) : spins_(spins), thread_([this] { run(); }) {}
  ~JobThread() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  JobThread(const JobThread &) = delete;
  JobThread &operator=(const JobThread &) = delete;

  // Requires: the job before is finished. It must not throw.
  void start(std::function<void()> job) {
    {
      const std::lock_guard lock(mutex_);
      job_ = std::move(job);
      busy_ = true;
    }
    changed_.notify_all();
  }
  // Waits until the job is done.
  void finish() {
    if (spins_) spin_until([this] { return !busy_; });
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !job_; });
  }

 private:
  void run() {
    for (;;) {
      if (spins_) spin_until([this] { return busy_ || stop_; });
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stop_ || job_; });
      if (!job_) return;
      lock.unlock();
      job_();
      lock.lock();
      job_ = nullptr;
      busy_ = false;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> job_;
  const bool spins_;
  std::atomic<bool> busy_ = false;  // it has a job
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace up
