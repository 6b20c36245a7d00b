// What tensor-parallel ranks of one process share on the host: a meeting point, and windows of memory.
//
// Every rank takes the same plan through the same layers, so all make the same calls in the same order. A rank that fails says so, and
// every other one that waits, or comes to wait, fails with it: nobody waits for one that is gone.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "weights/shard.h"

namespace up {

// Of failures that name a rank which differs from rank 0.
constexpr const char *compare_phase = "compare ranks";

class RankGroup {
 public:
  explicit RankGroup(int size);

  int size() const { return size_; }
  // Waits until every rank has come. Fails with UP_INTERNAL, naming the rank and why, once one has failed.
  void meet();
  // From the rank that failed; the first one counts.
  void fail_all(int rank, const std::string &why);
  // The rank that failed first, −1 when none has.
  int failed_rank();
  // Ready for another step after a failure. Requires: no rank is in a call.
  void recover();

 private:
  friend class Communicator;

  const int size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0;
  std::atomic<uint64_t> generation_ = 0;
  std::atomic<int> failed_ = -1;
  const bool spins_;
  std::string failure_;
  // Two windows by turns: while one is written the other may still be read.
  std::array<std::vector<std::byte>, 2> windows_;
};

// One rank's end of a group. Used by one thread at a time.
class Communicator {
 public:
  Communicator(std::shared_ptr<RankGroup> group, int rank) : group_(std::move(group)), shard_{rank, group_->size()} {}

  const Shard &shard() const { return shard_; }
  void meet() { group_->meet(); }
  // Before a step: windows are counted from here, since ranks may have come to different ones when the last step failed. Requires:
  // no rank is in the step before.
  void begin() { next_window_ = 0; }

  // Memory that every rank sees, the same for all in their n-th call. It is another rank's to write as well, so each writes its own
  // part, meets, reads; it may be read until the next call but one.
  std::byte *window(size_t bytes);
  template <class T>
  T *window_of(size_t count) {
    return reinterpret_cast<T *>(window(count * sizeof(T)));
  }

  // values[i] = the sum over all ranks. Integers, so that their order does not count.
  void sum(std::span<uint64_t> values);
  // Fails on every rank, naming one that differs, unless all have the same value. `what`: "the plan of step 17".
  void agree(const std::string &what, uint64_t value);

 private:
  std::shared_ptr<RankGroup> group_;
  const Shard shard_;
  unsigned next_window_ = 0;
};

}  // namespace up
