#include "cuda/backend/weight_upload.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

namespace up::cuda {
namespace {

constexpr size_t block_bytes = 16 << 20;
constexpr unsigned most_threads = 8;

// Part of a transfer that fits into a block: from `skip` bytes into piece `piece` on.
struct Block {
  std::byte *target;
  const Transfer *transfer;
  size_t piece, skip, bytes;
};

std::vector<Block> cut(const std::vector<Transfer> &transfers) {
  std::vector<Block> out;
  for (const Transfer &transfer : transfers) {
    size_t total = 0, piece = 0, skip = 0;
    for (const auto &each : transfer.pieces) total += each.size();
    for (size_t done = 0; done < total; done += block_bytes) {
      const size_t bytes = std::min(block_bytes, total - done);
      out.push_back({transfer.target + done, &transfer, piece, skip, bytes});
      for (size_t left = bytes; left > 0;) {
        const size_t taken = std::min(left, transfer.pieces[piece].size() - skip);
        left -= taken;
        skip += taken;
        if (skip == transfer.pieces[piece].size()) {
          piece++;
          skip = 0;
        }
      }
    }
  }
  return out;
}

void gather(const Block &block, std::byte *to) {
  size_t piece = block.piece, skip = block.skip;
  for (size_t left = block.bytes; left > 0;) {
    const auto from = block.transfer->pieces[piece++].subspan(skip);
    const size_t taken = std::min(left, from.size());
    std::memcpy(to, from.data(), taken);
    to += taken;
    left -= taken;
    skip = 0;
  }
}

void require(cudaError_t result) {
  if (result != cudaSuccess)
    fail(result == cudaErrorMemoryAllocation ? UP_OUT_OF_MEMORY : UP_LAUNCH_FAILED, "upload weights", cudaGetErrorName(result),
         ": ", cudaGetErrorString(result));
}

// A thread's two blocks of page-locked memory: one is filled while the other is on its way.
class Lane {
 public:
  explicit Lane(int device_index) {
    require(cudaSetDevice(device_index));
    require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    for (Half &half : halves_) {
      require(cudaHostAlloc(&half.memory, block_bytes, cudaHostAllocDefault));
      require(cudaEventCreateWithFlags(&half.sent, cudaEventDisableTiming));
    }
  }
  ~Lane() {
    if (stream_ != nullptr) cudaStreamSynchronize(stream_);
    for (Half &half : halves_) {
      if (half.sent != nullptr) cudaEventDestroy(half.sent);
      if (half.memory != nullptr) cudaFreeHost(half.memory);
    }
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }
  Lane(const Lane &) = delete;
  Lane &operator=(const Lane &) = delete;

  void send(const Block &block) {
    Half &half = halves_[next_++ % 2];
    require(cudaEventSynchronize(half.sent));
    gather(block, static_cast<std::byte *>(half.memory));
    require(cudaMemcpyAsync(block.target, half.memory, block.bytes, cudaMemcpyHostToDevice, stream_));
    require(cudaEventRecord(half.sent, stream_));
  }
  void finish() { require(cudaStreamSynchronize(stream_)); }

 private:
  struct Half {
    void *memory = nullptr;
    cudaEvent_t sent = nullptr;
  };
  cudaStream_t stream_ = nullptr;
  Half halves_[2];
  unsigned next_ = 0;
};

}  // namespace

void upload_all(Device &device, const std::vector<Transfer> &transfers,
                const std::function<void(int64_t, int64_t)> &progress) {
  device.use();
  const std::vector<Block> blocks = cut(transfers);
  int64_t all = 0;
  for (const Block &block : blocks) all += static_cast<int64_t>(block.bytes);
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::condition_variable changed;
  int64_t done = 0;
  unsigned running = 0;
  std::exception_ptr failure;
  const auto work = [&] {
    std::exception_ptr caught;
    try {
      Lane lane(device.index());
      for (size_t i = next++; i < blocks.size(); i = next++) {
        lane.send(blocks[i]);
        const std::lock_guard lock(mutex);
        done += static_cast<int64_t>(blocks[i].bytes);
      }
      lane.finish();
    } catch (...) {
      caught = std::current_exception();
      next = blocks.size();
    }
    const std::lock_guard lock(mutex);
    if (caught && !failure) failure = caught;
    running--;
    changed.notify_one();
  };
  const unsigned processors = std::max(1u, std::thread::hardware_concurrency());
  const auto count = static_cast<unsigned>(std::min<size_t>({most_threads, processors, std::max<size_t>(1, blocks.size())}));
  running = count;
  std::vector<std::jthread> threads;
  for (unsigned i = 0; i < count; i++) threads.emplace_back(work);
  std::unique_lock lock(mutex);
  while (running > 0) {
    changed.wait_for(lock, std::chrono::milliseconds(200));
    if (!progress) continue;
    const int64_t so_far = done;
    lock.unlock();
    progress(so_far, all);
    lock.lock();
  }
  lock.unlock();
  threads.clear();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace up::cuda
