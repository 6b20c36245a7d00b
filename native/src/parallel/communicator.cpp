#include "parallel/communicator.h"

#include <algorithm>

#include "abi/failure.h"
#include "parallel/spin.h"

namespace up {

RankGroup::RankGroup(int size) : size_(size), spins_(may_spin(size)) {}

void RankGroup::meet() {
  std::unique_lock lock(mutex_);
  if (failed_ >= 0) fail(UP_INTERNAL, "meet other ranks", failure_);
  if (++arrived_ == size_) {
    arrived_ = 0;
    generation_++;
    changed_.notify_all();
    return;
  }
  const uint64_t mine = generation_;
  const auto is_over = [&] { return failed_ >= 0 || generation_ != mine; };
  if (spins_) {
    lock.unlock();
    spin_until(is_over);
    lock.lock();
  }
  changed_.wait(lock, is_over);
  if (generation_ == mine) fail(UP_INTERNAL, "meet other ranks", failure_);
}

void RankGroup::fail_all(int rank, const std::string &why) {
  {
    const std::lock_guard lock(mutex_);
    if (failed_ >= 0) return;
    failed_ = rank;
    failure_ = text("rank ", rank, " of ", size_, " failed: ", why);
  }
  changed_.notify_all();
}

int RankGroup::failed_rank() {
  const std::lock_guard lock(mutex_);
  return failed_;
}

void RankGroup::recover() {
  const std::lock_guard lock(mutex_);
  failed_ = -1;
  arrived_ = 0;
}

std::byte *Communicator::window(size_t bytes) {
  std::vector<std::byte> &mine = group_->windows_[next_window_++ % 2];
  if (mine.size() < bytes) {
    // All ranks find it too small, since none grows it before the last one has looked.
    meet();
    if (shard_.rank == 0) mine.resize(bytes);
    meet();
  }
  return mine.data();
}

void Communicator::sum(std::span<uint64_t> values) {
  const size_t count = values.size();
  auto *const all = window_of<uint64_t>(count * static_cast<size_t>(shard_.size));
  std::copy(values.begin(), values.end(), all + static_cast<size_t>(shard_.rank) * count);
  meet();
  for (size_t i = 0; i < count; i++) {
    values[i] = 0;
    for (int rank = 0; rank < shard_.size; rank++) values[i] += all[static_cast<size_t>(rank) * count + i];
  }
}

void Communicator::agree(const std::string &what, uint64_t value) {
  auto *const all = window_of<uint64_t>(static_cast<size_t>(shard_.size));
  all[shard_.rank] = value;
  meet();
  for (int rank = 1; rank < shard_.size; rank++) {
    if (all[rank] == all[0]) continue;
    fail(UP_INTERNAL, compare_phase, "rank ", rank, " of ", shard_.size, " has ", what, " otherwise than rank 0: checksum ", std::hex,
         all[rank], ", not ", all[0]);
  }
}

}  // namespace up
