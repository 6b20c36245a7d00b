// Time of sums of bf16 rows over devices by their bytes: in a graph of many, as decode steps have them, and one by one for large ones.
//
//   peer_sum_bench [RANKS]      microseconds, medians; JSON lines {"bytes", "kind", "blocks", "micros"}
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda/parallel/peer_sum.h"

using namespace up::cuda;

namespace {

void check(cudaError_t result, const char *what) {
  if (result == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(result));
  std::exit(1);
}

struct Rank {
  uint4 *rows = nullptr, *sum = nullptr;
  cudaStream_t stream = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;
  cudaGraphExec_t graph = nullptr;
  PeerGroup group;
};

}  // namespace

int main(int argc, char **argv) {
  const int ranks = argc > 1 ? std::atoi(argv[1]) : 2;
  constexpr size_t most = size_t{1} << 30;
  std::vector<Rank> all(static_cast<size_t>(ranks));
  PeerControl *control = nullptr;
  check(cudaHostAlloc(reinterpret_cast<void **>(&control), sizeof *control, cudaHostAllocPortable), "control");
  *control = {};
  uint32_t *flags[most_peers] = {}, *launches[most_peers] = {};
  for (int r = 0; r < ranks; r++) {
    Rank &rank = all[static_cast<size_t>(r)];
    check(cudaSetDevice(r), "device");
    for (int peer = 0; peer < ranks; peer++)
      if (peer != r) check(cudaDeviceEnablePeerAccess(peer, 0), "peer access");
    check(cudaMalloc(reinterpret_cast<void **>(&rank.rows), most), "rows");
    check(cudaMalloc(reinterpret_cast<void **>(&rank.sum), 64 << 20), "sum");
    check(cudaMalloc(reinterpret_cast<void **>(&flags[r]), peer_flag_bytes), "flags");
    check(cudaMalloc(reinterpret_cast<void **>(&launches[r]), peer_launch_bytes), "launches");
    check(cudaMemset(flags[r], 0, peer_flag_bytes), "flags");
    check(cudaMemset(launches[r], 0, peer_launch_bytes), "launches");
    check(cudaMemset(rank.rows, 0x3c, most), "rows");
    check(cudaStreamCreateWithFlags(&rank.stream, cudaStreamNonBlocking), "stream");
    check(cudaEventCreate(&rank.begin), "event");
    check(cudaEventCreate(&rank.end), "event");
    check(cudaDeviceSynchronize(), "set up");
  }
  for (int r = 0; r < ranks; r++) {
    PeerGroup &g = all[static_cast<size_t>(r)].group;
    g.rank = r;
    g.ranks = ranks;
    std::copy(flags, flags + ranks, g.flags);
    g.launches = launches[r];
    g.control = control;
  }
  const auto time = [&](const char *kind, size_t bytes, int blocks, bool once) {
    const int calls = bytes <= (8 << 20) ? 64 : 4;
    const auto enqueue = [&](Rank &rank) {
      for (int i = 0; i < calls; i++) {
        PeerRows p;
        // Two places by turns, as layers have them.
        const size_t at = bytes <= most / 2 ? static_cast<size_t>(i % 2) * bytes / 16 : 0;
        for (int r = 0; r < ranks; r++) p.rows[r] = all[static_cast<size_t>(r)].rows + at;
        p.count = static_cast<int64_t>(bytes / 16);
        if (once)
          launch_sum_once(rank.group, 0, p, rank.sum, blocks, rank.stream);
        else
          launch_sum_in_parts(rank.group, 0, p, blocks, rank.stream);
      }
    };
    for (int r = 0; r < ranks; r++) {
      Rank &rank = all[static_cast<size_t>(r)];
      check(cudaSetDevice(r), "device");
      cudaGraph_t graph = nullptr;
      check(cudaStreamBeginCapture(rank.stream, cudaStreamCaptureModeThreadLocal), "capture");
      enqueue(rank);
      check(cudaStreamEndCapture(rank.stream, &graph), "capture");
      check(cudaGraphInstantiate(&rank.graph, graph, 0), "instantiate");
      cudaGraphDestroy(graph);
    }
    std::vector<float> micros;
    for (int round = 0; round < 12; round++) {
      for (int r = 0; r < ranks; r++) {
        Rank &rank = all[static_cast<size_t>(r)];
        check(cudaSetDevice(r), "device");
        check(cudaEventRecord(rank.begin, rank.stream), "record");
        check(cudaGraphLaunch(rank.graph, rank.stream), "launch");
        check(cudaEventRecord(rank.end, rank.stream), "record");
      }
      float shortest = 1e30f;
      for (int r = 0; r < ranks; r++) {
        Rank &rank = all[static_cast<size_t>(r)];
        check(cudaSetDevice(r), "device");
        check(cudaStreamSynchronize(rank.stream), "wait");
        float ms = 0;
        check(cudaEventElapsedTime(&ms, rank.begin, rank.end), "time");
        // The last to come waits for nobody.
        shortest = std::min(shortest, ms * 1000 / static_cast<float>(calls));
      }
      if (round >= 2) micros.push_back(shortest);
    }
    std::sort(micros.begin(), micros.end());
    std::printf("{\"bytes\": %zu, \"kind\": \"%s\", \"ranks\": %d, \"blocks\": %d, \"micros\": %.2f}\n", bytes, kind, ranks, blocks, micros[micros.size() / 2]);
    std::fflush(stdout);
    for (Rank &rank : all) cudaGraphExecDestroy(rank.graph);
  };
  for (const size_t bytes : {size_t{8} << 10, size_t{128} << 10, size_t{512} << 10, size_t{1} << 20, size_t{4} << 20}) {
    for (const int blocks : {8, 16, 32, 64}) {
      if (bytes / 16 < static_cast<size_t>(blocks) * 128) continue;
      time("once", bytes, blocks, true);
      time("in parts", bytes, blocks, false);
    }
    if (bytes <= (8 << 10)) time("once", bytes, 1, true);
  }
  for (const size_t bytes : {size_t{16} << 20, size_t{64} << 20, size_t{256} << 20, size_t{1} << 30}) {
    for (const int blocks : {8, 16, 24, 32, 48, 64}) time("in parts", bytes, blocks, false);
  }
  if (control->missed != 0) {
    std::fprintf(stderr, "a device waited in vain\n");
    return 1;
  }
  return 0;
}
