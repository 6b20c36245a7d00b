// The one thread that a runner computes on.
//
// OpenMP keeps a team of threads for every thread that opened a parallel region. Callers come from a thread pool, so
// without this each of the pool's threads would come to own a team.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace up {

class ComputeThread {
 public:
  // `threads`: of its OpenMP team.
  explicit ComputeThread(int threads);
  ~ComputeThread();
  ComputeThread(const ComputeThread &) = delete;
  ComputeThread &operator=(const ComputeThread &) = delete;

  // Runs `work` there and waits; rethrows what it throws. One caller at a time.
  void run(const std::function<void()> &work);

 private:
  void loop(int threads);

  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void()> *work_ = nullptr;
  std::exception_ptr thrown_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace up
