// The devices of a tensor-parallel group as one of them sees the others: memory that all may read, and sums over it.
//
// Sums of many rows run on a stream of their own, beside the products of other rows; those of few, as in decoding, in line.
#pragma once

#include <memory>
#include <vector>

#include "cuda/backend/device.h"
#include "cuda/parallel/peer_sum.h"
#include "parallel/communicator.h"

namespace up::cuda {

class Peers {
 public:
  // Rows up to so many are summed in line.
  static constexpr int few_rows = 512;
  // Bytes that it takes for rows of a step.
  static size_t bytes(int rows, int hidden);

  // By all ranks at once. Fails with UP_DEVICE_LOST where devices cannot read each other's memory.
  Peers(Device &device, std::shared_ptr<Communicator> ranks, int rows, int hidden);
  ~Peers();
  Peers(const Peers &) = delete;
  Peers &operator=(const Peers &) = delete;

  Communicator &ranks() { return *ranks_; }
  const Shard &shard() const { return ranks_->shard(); }
  // Row `row` of this rank's part of a sum. `place` 0 and 1 take turns.
  uint16_t *part(int place, int row) const;

  struct Sum {
    const uint16_t *rows;
    cudaEvent_t ready;  // null: in line
  };
  // The sum over ranks of rows [begin, begin + count).
  Sum sum(int place, int begin, int count);
  // Whether so many rows are best summed in one go, which can have a norm behind it.
  bool is_in_one_go(int count) const;
  // The same sum with what follows, in line. Requires is_in_one_go(norm.rows).
  void sum_and_norm(int place, int begin, const PeerNorm &norm);
  // The stream goes on when the sum is there.
  void wait(const Sum &sum);

  // What all devices have launched before is seen by what is launched afterwards.
  void meet();
  // The same address of every rank, each in its own memory; by all ranks at once.
  std::vector<std::byte *> share(std::byte *own);

  // Fails with UP_DEVICE_LOST once a device has waited in vain.
  void check();
  // No device waits for another any more.
  void give_up();
  // After a failure: waits a while until the devices have done what was asked of them, and gives the group up when they have not. False
  // when it was given up.
  bool settle();

 private:
  PeerRows parts(int place, int begin, int count) const;

  Device &device_;
  std::shared_ptr<Communicator> ranks_;
  const int hidden_;
  DeviceBuffer parts_[2], few_, flags_, launches_;
  std::shared_ptr<PinnedBuffer> control_;  // of all ranks
  PeerGroup group_;
  uint4 *rows_[2][most_peers] = {};
  cudaStream_t stream_ = nullptr;
  std::vector<Event> events_;
  size_t next_event_ = 0;
};

}  // namespace up::cuda
