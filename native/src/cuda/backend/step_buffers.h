// What a step puts out, on its way to the host: page-locked memory that copies are aimed at, what they mean, and the wait for them.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "backend.h"
#include "cuda/backend/device.h"

namespace up::cuda {

// Page-locked memory of one step and the events around it. Used again when the step has been waited for.
class StepBuffers {
 public:
  explicit StepBuffers(Device &device) : begin(device, true), end(device, true) {}

  void clear();
  // Stays until clear().
  template <class T>
  T *take(Device &device, size_t count) {
    return reinterpret_cast<T *>(take_bytes(device, count * sizeof(T)));
  }

  // Samples [first, first + count) of a call: tokens and flags lie together.
  struct Samples {
    std::vector<int32_t> slots;
    const int32_t *tokens;
    const int32_t *non_finite;
  };
  // Rows of log probabilities: [rows, 1 + most], of which row i has 1 + counts[i].
  struct Logprobs {
    std::vector<int32_t> counts;
    std::vector<int32_t> samples;  // index among the step's samples; or, of a prompt's rows:
    std::vector<int32_t> slots, prompt_rows;
    int most;
    const int32_t *tokens;
    const float *values;
  };
  struct Logits {
    int slot;
    const float *values;
    int vocab_size;
  };
  std::vector<Samples> samples;
  std::vector<Logprobs> logprobs;
  std::vector<Logits> logits;
  int sampled = 0;  // tokens over all calls
  const KeyBlocks *key_blocks = nullptr;  // where rows leave out keys
  Event begin, end;

 private:
  std::byte *take_bytes(Device &device, size_t bytes);

  std::vector<PinnedBuffer> blocks_;
  size_t block_ = 0, used_ = 0;
};

// Buffers that no step is using; those of at most three steps exist.
class StepBufferPool {
 public:
  std::unique_ptr<StepBuffers> take(Device &device);
  void give_back(std::unique_ptr<StepBuffers> buffers);

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<StepBuffers>> free_;
};

std::unique_ptr<PendingOutputs> make_pending_outputs(std::shared_ptr<Device> device, std::shared_ptr<StepBufferPool> pool,
                                                     std::unique_ptr<StepBuffers> buffers);

}  // namespace up::cuda
