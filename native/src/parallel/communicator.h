// What tensor-parallel ranks of one process share: a meeting point, and sums over it that do not depend on who arrives first.
//
// Every rank takes the same plan through the same layers, so all make the same calls in the same order. A rank that fails says so, and
// every other one that waits, or comes to wait, fails with it: nobody waits for one that is gone.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace up {

// One rank's share of what is split: part `rank` of `size` equal ones.
struct Shard {
  int rank = 0;
  int size = 1;

  bool is_whole() const { return size == 1; }
  // The part of `width` that is this rank's. Requires: size divides width.
  int begin(int width) const { return width / size * rank; }
  int count(int width) const { return width / size; }
};

class RankGroup {
 public:
  explicit RankGroup(int size);

  int size() const { return size_; }
  // Waits until every rank has come. Fails with UP_INTERNAL, naming the rank and why, once one has failed.
  void meet();
  // From the rank that failed.
  void fail_all(int rank, const std::string &why);
  // Ready for another step after a failure. Requires: no rank is in a call.
  void recover();

  // Memory that every rank sees: at least `bytes`, the same address for all. Call it between meetings at which nobody uses it.
  std::byte *shared(size_t bytes);

 private:
  const int size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0;
  uint64_t generation_ = 0;
  bool failed_ = false;
  std::string failure_;
  std::vector<std::byte> shared_;
};

}  // namespace up
