#include "cuda/parallel/peers.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace up::cuda {
namespace {

constexpr const char *phase = "join devices";
constexpr const char *summing = "sum over devices";
constexpr const char *spreading = "send rows to devices";
constexpr int events_kept = 64;
constexpr int64_t once_bytes = 3 << 19;  // that a device reads from the others in a sum at most
constexpr auto settling = std::chrono::seconds(2);

size_t row_bytes(int rows, int hidden) { return aligned_bytes(static_cast<size_t>(rows) * static_cast<size_t>(hidden) * 2); }
// Own rows of all tiles of a step, each of which begins at a place of its own.
int received_rows(int ranks, int rows) { return rows / ranks + rows / Peers::few_rows + 2; }
size_t received_bytes(int ranks, int rows, int hidden) {
  return static_cast<size_t>(ranks - 1) * row_bytes(received_rows(ranks, rows), hidden);
}

}  // namespace

size_t Peers::bytes(int ranks, int rows, int hidden, int64_t integers) {
  return 3 * aligned_bytes(static_cast<size_t>(integers) * sizeof(uint64_t)) +
         2 * (row_bytes(rows, hidden) + received_bytes(ranks, rows, hidden)) + row_bytes(few_rows, hidden) +
         aligned_bytes(peer_flag_bytes) + aligned_bytes(peer_launch_bytes);
}

Peers::Peers(Device &device, std::shared_ptr<Communicator> ranks, int rows, int hidden, int64_t integers)
    : device_(device),
      ranks_(std::move(ranks)),
      hidden_(hidden),
      most_integers_(integers),
      received_rows_(received_rows(ranks_->shard().size, rows)) {
  const Shard &shard = ranks_->shard();
  if (shard.size > most_peers)
    fail(UP_INVALID_ARGUMENT, phase, "tensor_parallel_size is ", shard.size, ": at most ", most_peers, " devices");
  group_.rank = shard.rank;
  group_.ranks = shard.size;
  for (DeviceBuffer &each : parts_) each = DeviceBuffer(device_, row_bytes(rows, hidden), "the parts of sums");
  for (DeviceBuffer &each : received_) each = DeviceBuffer(device_, received_bytes(shard.size, rows, hidden), "the parts of other ranks");
  const size_t integer_bytes = aligned_bytes(static_cast<size_t>(integers) * sizeof(uint64_t));
  for (DeviceBuffer *each : {&integers_[0], &integers_[1], &integer_sums_})
    *each = DeviceBuffer(device_, integer_bytes, "the sums of integers");
  few_ = DeviceBuffer(device_, row_bytes(few_rows, hidden), "the sums");
  flags_ = DeviceBuffer(device_, peer_flag_bytes, "the flags of devices");
  launches_ = DeviceBuffer(device_, peer_launch_bytes, "the flags of devices");
  device_.clear(flags_.as(), 0, flags_.bytes(), phase);
  device_.clear(launches_.as(), 0, launches_.bytes(), phase);
  device_.wait(phase);
  for (int i = 0; i < events_kept; i++) events_.emplace_back(device_, false);
  int least = 0, greatest = 0;
  device_.check(cudaDeviceGetStreamPriorityRange(&least, &greatest), phase);
  device_.check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest), phase);

  struct Published {
    int device;
    std::byte *parts[2], *received[2], *integers[2], *flags;
    std::shared_ptr<PinnedBuffer> *control;
  };
  if (shard.rank == 0) {
    control_ = std::make_shared<PinnedBuffer>(device_, sizeof(PeerControl), "the flags of devices");
    *control_->as<PeerControl>() = {};
  }
  auto *const all = ranks_->window_of<Published>(static_cast<size_t>(shard.size));
  all[shard.rank] = {device_.index(),
                     {parts_[0].as(), parts_[1].as()},
                     {received_[0].as(), received_[1].as()},
                     {integers_[0].as(), integers_[1].as()},
                     flags_.as(),
                     &control_};
  ranks_->meet();
  for (int rank = 0; rank < shard.size; rank++) {
    const Published &peer = all[rank];
    for (int place : {0, 1}) {
      rows_[place][rank] = reinterpret_cast<uint4 *>(peer.parts[place]);
      received_of_[place][rank] = peer.received[place];
      integers_of_[place][rank] = reinterpret_cast<const uint64_t *>(peer.integers[place]);
    }
    group_.flags[rank] = reinterpret_cast<uint32_t *>(peer.flags);
    if (rank == shard.rank) continue;
    int can = 0;
    device_.check(cudaDeviceCanAccessPeer(&can, device_.index(), peer.device), phase);
    if (can == 0) {
      fail(UP_DEVICE_LOST, phase, "device ", device_.index(), " cannot read the memory of device ", peer.device,
           ": tensor parallelism needs devices of one host with peer access (NVLink, or PCIe where the driver allows it)");
    }
    const cudaError_t enabled = cudaDeviceEnablePeerAccess(peer.device, 0);
    if (enabled == cudaErrorPeerAccessAlreadyEnabled)
      cudaGetLastError();
    else
      device_.check(enabled, phase);
  }
  if (shard.rank != 0) control_ = *all[0].control;
  ranks_->meet();
  group_.control = control_->as<PeerControl>();
  group_.launches = launches_.as<uint32_t>();
}

Peers::~Peers() {
  if (stream_ == nullptr) return;
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}

uint16_t *Peers::part(int place, int row) const {
  return reinterpret_cast<uint16_t *>(parts_[place].as()) + static_cast<int64_t>(row) * hidden_;
}

PeerRows Peers::parts(int place, int begin, int count) const {
  const int64_t pieces = int64_t{hidden_} / 8;
  PeerRows rows;
  for (int rank = 0; rank < group_.ranks; rank++) rows.rows[rank] = rows_[place][rank] + begin * pieces;
  rows.count = count * pieces;
  return rows;
}

bool Peers::is_in_one_go(int count) const {
  return count <= few_rows && int64_t{count} * hidden_ * 2 * (group_.ranks - 1) <= once_bytes;
}

void Peers::sum_and_norm(int place, int begin, const PeerNorm &norm) {
  launch_sum_and_norm(group_, 0, parts(place, begin, norm.rows), norm, device_.stream());
  device_.check_launch(summing);
}

const uint16_t *Peers::sum(int place, Rows tile) {
  const PeerRows rows = parts(place, tile.begin, tile.count);
  if (is_in_one_go(tile.count)) {
    const int blocks = static_cast<int>(std::clamp<int64_t>((rows.count + 511) / 512, 1, most_peer_blocks));
    launch_sum_once(group_, 0, rows, few_.as<uint4>(), blocks, device_.stream());
    device_.check_launch(summing);
    return few_.as<const uint16_t>();
  }
  launch_sum_in_parts(group_, 0, rows, most_peer_blocks, device_.stream());
  device_.check_launch(summing);
  return part(place, tile.begin);
}

uint64_t *Peers::sum_integers(int64_t count) {
  PeerIntegers values;
  std::copy_n(integers_of_[next_integers_], group_.ranks, values.values);
  values.count = count;
  launch_sum_integers(group_, 0, values, integer_sums_.as<uint64_t>(), device_.stream());
  device_.check_launch(summing);
  next_integers_ = 1 - next_integers_;
  return integer_sums_.as<uint64_t>();
}

Rows Peers::own_rows(Rows tile, int rank) const {
  const int each = (tile.count + group_.ranks - 1) / group_.ranks;
  const int begin = std::min(rank * each, tile.count);
  return {tile.begin + begin, std::min(each, tile.count - begin)};
}

std::byte *Peers::received(int receiver, int sender, int place, Rows tile) const {
  const int row = tile.begin / group_.ranks + tile.begin / few_rows;
  const int64_t at = int64_t{sender < receiver ? sender : sender - 1} * received_rows_ + row;
  return received_of_[place][receiver] + at * hidden_ * 2;
}

void Peers::send(Rows own, const Buffers &rows, cudaStream_t stream) {
  const int64_t row = int64_t{2} * hidden_;
  for (int step = 1; step < group_.ranks; step++) {
    const auto to = static_cast<size_t>((group_.rank + step) % group_.ranks);
    device_.check(cudaMemcpyAsync(rows[to] + own.begin * row, rows[static_cast<size_t>(group_.rank)] + own.begin * row,
                                  static_cast<size_t>(own.count * row), cudaMemcpyDefault, stream),
                  summing);
  }
}

cudaEvent_t Peers::exchange(int place, Rows tile, const Buffers *results, const Add &add) {
  const Event &before = events_[next_event_++ % events_kept], &after = events_[next_event_++ % events_kept];
  device_.check(cudaEventRecord(before.get(), device_.stream()), summing);
  device_.check(cudaStreamWaitEvent(stream_, before.get(), 0), summing);
  for (int step = 1; step < group_.ranks; step++) {
    const int to = (group_.rank + step) % group_.ranks;
    const Rows theirs = own_rows(tile, to);
    device_.check(cudaMemcpyAsync(received(to, group_.rank, place, tile), part(place, theirs.begin),
                                  static_cast<size_t>(theirs.count) * static_cast<size_t>(hidden_) * 2, cudaMemcpyDefault, stream_),
                  summing);
  }
  launch_meet(group_, 1, stream_);
  const Rows own = own_rows(tile, group_.rank);
  PeerRows mine = parts(place, own.begin, own.count);
  for (int rank = 0; rank < group_.ranks; rank++)
    if (rank != group_.rank) mine.rows[rank] = reinterpret_cast<uint4 *>(received(group_.rank, rank, place, tile));
  add(mine, own, stream_);
  if (results != nullptr) {
    send(own, *results, stream_);
    launch_meet(group_, 1, stream_);
  }
  device_.check_launch(summing);
  device_.check(cudaEventRecord(after.get(), stream_), summing);
  return after.get();
}

void Peers::wait(cudaEvent_t exchanged) { device_.check(cudaStreamWaitEvent(device_.stream(), exchanged, 0), "wait for a sum over devices"); }

cudaEvent_t Peers::spread(Rows tile, const Buffers &rows) {
  const Event &before = events_[next_event_++ % events_kept], &after = events_[next_event_++ % events_kept];
  device_.check(cudaEventRecord(before.get(), device_.stream()), spreading);
  device_.check(cudaStreamWaitEvent(stream_, before.get(), 0), spreading);
  send(own_rows(tile), rows, stream_);
  launch_meet(group_, 1, stream_);
  device_.check_launch(spreading);
  device_.check(cudaEventRecord(after.get(), stream_), spreading);
  return after.get();
}

void Peers::gather(std::span<const Rows> tiles, std::span<const Rows> wanted, const Buffers &rows) {
  for (const Rows &tile : tiles) {
    for (const Rows &each : wanted) {
      const Rows own = common(own_rows(tile), each);
      if (own.count > 0) send(own, rows, device_.stream());
    }
  }
  meet();
}

void Peers::meet() {
  launch_meet(group_, 0, device_.stream());
  device_.check_launch("meet devices");
}

Peers::Buffers Peers::share(std::byte *own) {
  const Shard &shard = ranks_->shard();
  auto *const all = ranks_->window_of<std::byte *>(static_cast<size_t>(shard.size));
  all[shard.rank] = own;
  ranks_->meet();
  return {all, all + shard.size};
}

void Peers::check() {
  const volatile PeerControl *control = group_.control;
  if (control->missed != 0 || control->given_up != 0) {
    device_.lose(summing, text("rank ", group_.rank, " of ", group_.ranks,
                               ": another device did not come to a sum, so what was computed is worth nothing"));
  }
}

void Peers::give_up() {
  volatile PeerControl *control = group_.control;
  control->given_up = 1;
}

bool Peers::settle() {
  const auto is_done = [](cudaStream_t stream) { return cudaStreamQuery(stream) != cudaErrorNotReady; };
  const auto end = std::chrono::steady_clock::now() + settling;
  while (!(is_done(device_.stream()) && is_done(stream_)) && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const bool done = is_done(device_.stream()) && is_done(stream_);
  if (!done) give_up();
  const volatile PeerControl *control = group_.control;
  return done && control->given_up == 0;
}

}  // namespace up::cuda
