// Sums of bf16 rows, and of integers, over the devices of a tensor-parallel group, read from and written to each other's memory. Launches; errors are the
// caller's to ask for.
//
// Ranks add in the order of their numbers, so every one gets the same bits. Blocks of the same number meet across devices by flags that
// count their launches, so a launch that is part of a graph may be replayed. A rank that does not come within `peer_patience_ns`, or
// whose group has been given up, is not waited for: PeerControl says so, and what is computed afterwards is worth nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace up::cuda {

constexpr int most_peers = 8;
constexpr int most_peer_blocks = 64;
constexpr int peer_channels = 2;  // streams on which sums may be under way at once
constexpr uint64_t peer_patience_ns = 30'000'000'000;

// In memory of the host that every device sees.
struct PeerControl {
  uint32_t given_up = 0;  // 1: nobody waits for anybody
  uint32_t missed = 0;    // 1: a kernel has waited in vain
};

// One rank's view.
struct PeerGroup {
  int rank = 0, ranks = 1;
  // [channels][blocks][2 meetings][most_peers] launches that a rank has come to; one such array on every device.
  uint32_t *flags[most_peers] = {};
  uint32_t *launches = nullptr;  // [channels][blocks] of this device
  PeerControl *control = nullptr;
};

constexpr size_t peer_flag_bytes = size_t{peer_channels} * most_peer_blocks * 2 * most_peers * sizeof(uint32_t);
constexpr size_t peer_launch_bytes = size_t{peer_channels} * most_peer_blocks * sizeof(uint32_t);

// Rows of one buffer on every device, 16 bytes at a time.
struct PeerRows {
  uint4 *rows[most_peers] = {};
  int64_t count = 0;
};

// What follows a sum of whole rows in a layer: residual += sum, normed = norm(residual), bf16.
struct PeerNorm {
  int rows = 0, pieces = 0;  // pieces of 16 bytes in a row, at most most_norm_pieces
  uint4 *residual = nullptr, *normed = nullptr;
  const uint4 *weight = nullptr;
  float eps = 0, weight_offset = 0;
};
constexpr int most_norm_pieces = 2048;

// sum = Σ rows, read from all devices: for few rows. `sum` may not be one of the rows; these may not be written before another sum over
// other ones has been launched behind this one.
void launch_sum_once(const PeerGroup &group, int channel, const PeerRows &rows, uint4 *sum, int blocks, cudaStream_t stream);
// The same of whole rows, with what follows.
void launch_sum_and_norm(const PeerGroup &group, int channel, const PeerRows &rows, const PeerNorm &norm, cudaStream_t stream);
// The same of parts that lie in this device's memory already, and of any number of rows: nobody is waited for. `normed` may be null.
void launch_add_and_norm(int ranks, const PeerRows &rows, const PeerNorm &norm, cudaStream_t stream);
// sum = Σ rows of parts in this device's memory; `sum` may be one of them.
void launch_add(int ranks, const PeerRows &rows, uint4 *sum, cudaStream_t stream);
// rows = Σ rows on every device, each of which sums its part and sends it to all.
void launch_sum_in_parts(const PeerGroup &group, int channel, const PeerRows &rows, int blocks, cudaStream_t stream);
// Integers of one buffer on every device.
struct PeerIntegers {
  const uint64_t *values[most_peers] = {};
  int64_t count = 0;
};
// sums = Σ values, as launch_sum_once has it.
void launch_sum_integers(const PeerGroup &group, int channel, const PeerIntegers &values, uint64_t *sums, cudaStream_t stream);
// What every device has done before, all see afterwards.
void launch_meet(const PeerGroup &group, int channel, cudaStream_t stream);

}  // namespace up::cuda
