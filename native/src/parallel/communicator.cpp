#include "parallel/communicator.h"

#include "abi/failure.h"

namespace up {

RankGroup::RankGroup(int size) : size_(size) {}

void RankGroup::meet() {
  std::unique_lock lock(mutex_);
  if (failed_) fail(UP_INTERNAL, "meet other ranks", failure_);
  if (++arrived_ == size_) {
    arrived_ = 0;
    generation_++;
    changed_.notify_all();
    return;
  }
  const uint64_t mine = generation_;
  changed_.wait(lock, [&] { return failed_ || generation_ != mine; });
  if (generation_ == mine) fail(UP_INTERNAL, "meet other ranks", failure_);
}

void RankGroup::fail_all(int rank, const std::string &why) {
  {
    const std::lock_guard lock(mutex_);
    if (failed_) return;
    failed_ = true;
    failure_ = text("rank ", rank, " of ", size_, " failed: ", why);
  }
  changed_.notify_all();
}

void RankGroup::recover() {
  const std::lock_guard lock(mutex_);
  failed_ = false;
  arrived_ = 0;
}

std::byte *RankGroup::shared(size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (shared_.size() < bytes) shared_.resize(bytes);
  return shared_.data();
}

}  // namespace up
