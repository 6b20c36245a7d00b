// The devices of a tensor-parallel group as one of them sees the others: memory that all may read, and sums over it.
//
// Sums of few rows, as in decoding, are made in line, by every rank. Many rows are shared out: a rank adds up its own ones and computes what
// follows them, a norm for one, for all. That is under way on a stream of its own, beside the products of other rows; copy engines carry the
// rows, so that no multiprocessor is taken from the products.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend.h"
#include "cuda/backend/device.h"
#include "cuda/parallel/peer_sum.h"
#include "parallel/communicator.h"

namespace up::cuda {

class Peers {
 public:
  // Rows up to so many are summed in line.
  static constexpr int few_rows = 512;
  // A buffer of rows on every device: those of this rank and of the others.
  using Buffers = std::vector<std::byte *>;
  // Bytes that it takes for rows of a step, and for so many integers in a sum.
  static size_t bytes(int ranks, int rows, int hidden, int64_t integers);

  // By all ranks at once. Fails with UP_DEVICE_LOST where devices cannot read each other's memory.
  Peers(Device &device, std::shared_ptr<Communicator> ranks, int rows, int hidden, int64_t integers);
  ~Peers();
  Peers(const Peers &) = delete;
  Peers &operator=(const Peers &) = delete;

  // Before a step: where the last one failed ranks may have come to different buffers. Requires that the masses of the last one have been
  // read by all, as ranks that have compared what they keep have them.
  void begin() { next_integers_ = 0; }

  Communicator &ranks() { return *ranks_; }
  const Shard &shard() const { return ranks_->shard(); }
  // Row `row` of this rank's part of a sum. `place` 0 and 1 take turns.
  uint16_t *part(int place, int row) const;

  // The sum over ranks of few rows, in line.
  const uint16_t *sum(int place, Rows rows);
  // Whether so many rows are best summed in one go, which can have a norm behind it.
  bool is_in_one_go(int count) const;
  // The same sum with what follows, in line. Requires is_in_one_go(norm.rows).
  void sum_and_norm(int place, int begin, const PeerNorm &norm);

  // This rank's part of the next sum of integers, and how many fit.
  uint64_t *integers() const { return integers_[next_integers_].as<uint64_t>(); }
  int64_t most_integers() const { return most_integers_; }
  // The sum over ranks of the first ones of them, in line; to be read before the next one is asked for. The same on every rank, in whatever
  // order they come.
  uint64_t *sum_integers(int64_t count);

  // Many rows: the parts of this rank's own rows of the tile come here, `add` launches what becomes of them, and rows of `results` that it
  // has written go to all; null: they stay. Gives the event of all that. Requires, as a layer has it: between two exchanges of a row in
  // one place lies one in the other place, whose parts were computed from the results of the first; then nobody overwrites what
  // another still reads.
  using Add = std::function<void(const PeerRows &parts, Rows own, cudaStream_t stream)>;
  cudaEvent_t exchange(int place, Rows tile, const Buffers *results, const Add &add);
  // The stream goes on behind an exchange.
  void wait(cudaEvent_t exchanged);
  // Rows of the tile that this rank has written go to all, from where the stream is now; gives the event of that.
  cudaEvent_t spread(Rows tile, const Buffers &rows);
  // Of the tiles, every rank gets the others' own rows that are `wanted`.
  void gather(std::span<const Rows> tiles, std::span<const Rows> wanted, const Buffers &rows);
  // A rank's own rows of a tile.
  Rows own_rows(Rows tile) const { return own_rows(tile, group_.rank); }

  // What all devices have launched before is seen by what is launched afterwards.
  void meet();
  // The same buffer of every rank, each in its own memory; by all ranks at once.
  Buffers share(std::byte *own);

  // Fails with UP_DEVICE_LOST once a device has waited in vain.
  void check();
  // No device waits for another any more.
  void give_up();
  // After a failure: waits a while until the devices have done what was asked of them, and gives the group up when they have not. False
  // when it was given up.
  bool settle();

 private:
  PeerRows parts(int place, int begin, int count) const;
  Rows own_rows(Rows tile, int rank) const;
  // Where `receiver` has the part of the `sender` of its own rows of a tile.
  std::byte *received(int receiver, int sender, int place, Rows tile) const;
  void send(Rows own, const Buffers &rows, cudaStream_t stream);

  Device &device_;
  std::shared_ptr<Communicator> ranks_;
  const int hidden_;
  DeviceBuffer parts_[2], few_, flags_, launches_;
  const int64_t most_integers_;
  DeviceBuffer integers_[2], integer_sums_;
  int next_integers_ = 0;  // two take turns: one meeting a sum is enough
  DeviceBuffer received_[2];  // [ranks − 1][received_rows_]: what the others have of own rows, in the order of their numbers
  const int received_rows_;
  std::shared_ptr<PinnedBuffer> control_;  // of all ranks
  PeerGroup group_;
  uint4 *rows_[2][most_peers] = {};
  const uint64_t *integers_of_[2][most_peers] = {};
  std::byte *received_of_[2][most_peers] = {};
  cudaStream_t stream_ = nullptr;
  std::vector<Event> events_;
  size_t next_event_ = 0;
};

}  // namespace up::cuda
