#include "cuda/parallel/peers.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace up::cuda {
namespace {

constexpr const char *phase = "join devices";
constexpr int events_kept = 64;
constexpr int64_t once_bytes = 3 << 19;  // that a device reads from the others in a sum at most
constexpr int many_blocks = 24;
constexpr auto settling = std::chrono::seconds(2);

size_t row_bytes(int rows, int hidden) { return aligned_bytes(static_cast<size_t>(rows) * static_cast<size_t>(hidden) * 2); }

}  // namespace

size_t Peers::bytes(int rows, int hidden) {
  return 2 * row_bytes(rows, hidden) + row_bytes(few_rows, hidden) + aligned_bytes(peer_flag_bytes) + aligned_bytes(peer_launch_bytes);
}

Peers::Peers(Device &device, std::shared_ptr<Communicator> ranks, int rows, int hidden)
    : device_(device), ranks_(std::move(ranks)), hidden_(hidden) {
  const Shard &shard = ranks_->shard();
  if (shard.size > most_peers)
    fail(UP_INVALID_ARGUMENT, phase, "tensor_parallel_size is ", shard.size, ": at most ", most_peers, " devices");
  for (DeviceBuffer &each : parts_) each = DeviceBuffer(device_, row_bytes(rows, hidden), "the parts of sums");
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
    std::byte *parts[2], *flags;
    std::shared_ptr<PinnedBuffer> *control;
  };
  if (shard.rank == 0) {
    control_ = std::make_shared<PinnedBuffer>(device_, sizeof(PeerControl), "the flags of devices");
    *control_->as<PeerControl>() = {};
  }
  auto *const all = ranks_->window_of<Published>(static_cast<size_t>(shard.size));
  all[shard.rank] = {device_.index(), {parts_[0].as(), parts_[1].as()}, flags_.as(), &control_};
  ranks_->meet();
  group_.rank = shard.rank;
  group_.ranks = shard.size;
  for (int rank = 0; rank < shard.size; rank++) {
    const Published &peer = all[rank];
    for (int place : {0, 1}) rows_[place][rank] = reinterpret_cast<uint4 *>(peer.parts[place]);
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
  device_.check_launch("sum over devices");
}

Peers::Sum Peers::sum(int place, int begin, int count) {
  const PeerRows rows = parts(place, begin, count);
  if (count <= few_rows) {
    if (is_in_one_go(count)) {
      const int blocks = static_cast<int>(std::clamp<int64_t>((rows.count + 511) / 512, 1, most_peer_blocks));
      launch_sum_once(group_, 0, rows, few_.as<uint4>(), blocks, device_.stream());
      device_.check_launch("sum over devices");
      return {few_.as<const uint16_t>(), nullptr};
    }
    launch_sum_in_parts(group_, 0, rows, most_peer_blocks, device_.stream());
    device_.check_launch("sum over devices");
    return {part(place, begin), nullptr};
  }
  const Event &before = events_[next_event_++ % events_kept], &after = events_[next_event_++ % events_kept];
  device_.check(cudaEventRecord(before.get(), device_.stream()), "sum over devices");
  device_.check(cudaStreamWaitEvent(stream_, before.get(), 0), "sum over devices");
  launch_sum_in_parts(group_, 1, rows, many_blocks, stream_);
  device_.check_launch("sum over devices");
  device_.check(cudaEventRecord(after.get(), stream_), "sum over devices");
  return {part(place, begin), after.get()};
}

void Peers::wait(const Sum &sum) {
  if (sum.ready != nullptr) device_.check(cudaStreamWaitEvent(device_.stream(), sum.ready, 0), "wait for a sum over devices");
}

void Peers::meet() {
  launch_meet(group_, 0, device_.stream());
  device_.check_launch("meet devices");
}

std::vector<std::byte *> Peers::share(std::byte *own) {
  const Shard &shard = ranks_->shard();
  auto *const all = ranks_->window_of<std::byte *>(static_cast<size_t>(shard.size));
  all[shard.rank] = own;
  ranks_->meet();
  return {all, all + shard.size};
}

void Peers::check() {
  const volatile PeerControl *control = group_.control;
  if (control->missed != 0 || control->given_up != 0) {
    device_.lose("sum over devices", text("rank ", group_.rank, " of ", group_.ranks,
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
