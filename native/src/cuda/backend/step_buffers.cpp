#include "cuda/backend/step_buffers.h"

#include <algorithm>

namespace up::cuda {
namespace {

constexpr size_t block_bytes = 1 << 20;

class DeviceOutputs : public PendingOutputs {
 public:
  DeviceOutputs(std::shared_ptr<Device> device, std::shared_ptr<StepBufferPool> pool, std::unique_ptr<StepBuffers> buffers)
      : device_(std::move(device)), pool_(std::move(pool)), buffers_(std::move(buffers)) {}
  // The device may still be writing to the buffers of a step that nobody waits for.
  ~DeviceOutputs() override {
    if (!waited_ && cudaEventSynchronize(buffers_->end.get()) != cudaSuccess) cudaGetLastError();
    pool_->give_back(std::move(buffers_));
  }

  Outputs wait() override {
    device_->use();
    device_->wait_for_step(buffers_->end.get());
    waited_ = true;
    Outputs out;
    float milliseconds = 0;
    device_->check(cudaEventElapsedTime(&milliseconds, buffers_->begin.get(), buffers_->end.get()), "time step");
    out.device_micros = static_cast<int64_t>(milliseconds * 1000);
    if (buffers_->key_blocks != nullptr) out.key_blocks = *buffers_->key_blocks;
    for (const StepBuffers::Samples &samples : buffers_->samples) {
      for (size_t i = 0; i < samples.slots.size(); i++) {
        Sample sample;
        sample.non_finite = samples.non_finite[i] != 0;
        sample.token = sample.non_finite ? 0 : samples.tokens[i];
        out.tokens.push_back({samples.slots[i], std::move(sample)});
      }
    }
    for (const StepBuffers::Logprobs &each : buffers_->logprobs) add_logprobs(each, out);
    for (const StepBuffers::Logits &each : buffers_->logits)
      out.logits.push_back({each.slot, {each.values, each.values + each.vocab_size}});
    return out;
  }

 private:
  static void add_logprobs(const StepBuffers::Logprobs &from, Outputs &out) {
    for (size_t i = 0; i < from.counts.size(); i++) {
      const size_t first = i * static_cast<size_t>(1 + from.most);
      std::vector<std::pair<int32_t, float>> list;
      for (size_t at = first; at <= first + static_cast<size_t>(from.counts[i]); at++)
        list.emplace_back(from.tokens[at], from.values[at]);
      if (from.samples.empty()) {
        out.prompt_logprobs.push_back({from.slots[i], from.prompt_rows[i], std::move(list)});
      } else if (Sample &sample = out.tokens[static_cast<size_t>(from.samples[i])].sample; !sample.non_finite) {
        sample.logprobs = std::move(list);
      }
    }
  }

  std::shared_ptr<Device> device_;
  std::shared_ptr<StepBufferPool> pool_;
  std::unique_ptr<StepBuffers> buffers_;
  bool waited_ = false;
};

}  // namespace

void StepBuffers::clear() {
  samples.clear();
  logprobs.clear();
  logits.clear();
  sampled = 0;
  key_blocks = nullptr;
  block_ = used_ = 0;
}

std::byte *StepBuffers::take_bytes(Device &device, size_t bytes) {
  bytes = aligned_bytes(std::max<size_t>(bytes, 1));
  while (block_ < blocks_.size() && used_ + bytes > blocks_[block_].bytes()) {
    block_++;
    used_ = 0;
  }
  if (block_ == blocks_.size()) blocks_.emplace_back(device, std::max(bytes, block_bytes), "a step's outputs");
  std::byte *out = blocks_[block_].as(used_);
  used_ += bytes;
  return out;
}

std::unique_ptr<StepBuffers> StepBufferPool::take(Device &device) {
  std::unique_ptr<StepBuffers> out;
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      out = std::move(free_.back());
      free_.pop_back();
    }
  }
  if (!out) out = std::make_unique<StepBuffers>(device);
  out->clear();
  return out;
}

void StepBufferPool::give_back(std::unique_ptr<StepBuffers> buffers) {
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(buffers));
}

std::unique_ptr<PendingOutputs> make_pending_outputs(std::shared_ptr<Device> device, std::shared_ptr<StepBufferPool> pool,
                                                     std::unique_ptr<StepBuffers> buffers) {
  return std::make_unique<DeviceOutputs>(std::move(device), std::move(pool), std::move(buffers));
}

}  // namespace up::cuda
