// Draws tokens from a tile of logits and takes their log probabilities, on the device. Tokens stay there as the slots' last ones;
// copies of everything go to the step's buffers.
#pragma once

#include <span>
#include <vector>

#include "backend.h"
#include "cuda/backend/step_buffers.h"
#include "cuda/backend/upload_ring.h"
#include "uniprefill/operators.h"

namespace up::cuda {

class TokenSampler {
 public:
  TokenSampler(Device &device, int vocab_size, int slots, int logits_rows);

  // Memory that penalties will take once a request asks for them.
  static size_t count_bytes(int vocab_size, int slots);
  const int32_t *last_tokens() const { return last_tokens_.as<const int32_t>(); }
  size_t bytes() const;

  // `scratch` begins with the tile's logits; what follows them is free.
  void sample(std::span<const SampleTask> tasks, const DeviceBuffer &scratch, UploadRing &ring, StepBuffers &out);
  void logprobs(std::span<const LogprobTask> tasks, const DeviceBuffer &scratch, UploadRing &ring, StepBuffers &out);

 private:
  struct Edits;

  void draw(std::span<const SampleTask> tasks, const DeviceBuffer &scratch, UploadRing &ring, StepBuffers &out);
  // Counts of the request's tokens, where it is penalised and the slot's counts are not its own yet.
  void count(const SampleTask &task, UploadRing &ring);
  up_logit_edits upload_edits(std::span<const SampleTask> tasks, UploadRing &ring);
  void report(StepBuffers::Logprobs list, const std::vector<int32_t> &rows, const int32_t *wanted, const float *logits,
              UploadRing &ring, StepBuffers &out);
  size_t tile_bytes() const;

  Device &device_;
  const int vocab_size_, slots_, logits_rows_;
  const int64_t stride_;
  DeviceBuffer last_tokens_;
  DeviceBuffer results_;  // tokens, then flags, of logits_rows tasks
  DeviceBuffer prompt_bits_, output_counts_;  // [slots] rows; when first needed
  std::vector<uint64_t> counted_;             // [slots] 1 + the sequence whose tokens are counted; 0: none
};

}  // namespace up::cuda
