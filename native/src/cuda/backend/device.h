// A CUDA device as a backend uses it: one stream, memory, and errors as Failures. An error that stays with the context is
// remembered: from then on every use() fails with UP_DEVICE_LOST.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <utility>

#include "abi/failure.h"
#include "operators/backend.h"

namespace up::cuda {

class Device {
 public:
  // Fails with UP_DEVICE_LOST where there is no such device, or none that the kernels here run on.
  explicit Device(int index);
  ~Device();
  Device(const Device &) = delete;
  Device &operator=(const Device &) = delete;

  // Makes it the calling thread's; fails when it is lost.
  void use();
  cudaStream_t stream() const { return stream_; }
  int index() const { return index_; }
  const std::string &name() const { return name_; }
  int multiprocessors() const { return multiprocessors_; }

  // Fails for anything but cudaSuccess.
  void check(cudaError_t result, const char *phase);
  // The error of the launch that was just made.
  void check_launch(const char *phase);
  // Calls a function of operators.h that ends with (…, stream, error).
  template <class Operator, class... Arguments>
  void run(Operator function, const Arguments &...arguments) {
    run_on(stream_, function, arguments...);
  }
  template <class Operator, class... Arguments>
  void run_on(cudaStream_t stream, Operator function, const Arguments &...arguments) {
    up_backend_error error{};
    accept(function(arguments..., static_cast<void *>(stream), &error), error);
  }
  template <class Query, class Parameters>
  size_t workspace(Query function, const Parameters &parameters) {
    up_backend_error error{};
    size_t bytes = 0;
    accept(function(&parameters, &bytes, &error), error);
    return bytes;
  }

  void copy_in(void *device, const void *host, size_t bytes, const char *phase);
  void copy_out(void *host, const void *device, size_t bytes, const char *phase);
  void copy(void *target, const void *source, size_t bytes, const char *phase);
  void clear(void *memory, int byte, size_t bytes, const char *phase);
  // Waits for the stream, or for an event.
  void wait(const char *phase);
  void wait(cudaEvent_t event, const char *phase);
  void wait_for_step(cudaEvent_t event);
  // Called behind every wait: for what the devices of a group find out about each other.
  void watch(std::function<void()> check) { watch_ = std::move(check); }
  // Gone for all that comes. Fails with UP_DEVICE_LOST.
  [[noreturn]] void lose(const char *phase, const std::string &detail) { refuse(UP_DEVICE_LOST, phase, detail); }

  struct Memory {
    size_t free, total;
  };
  Memory memory();

 private:
  void check_work(cudaError_t result, const char *phase);
  void accept(up_status status, const up_backend_error &error);
  [[noreturn]] void refuse(up_status status, const char *phase, const std::string &detail);

  int index_, multiprocessors_ = 0;
  std::string name_;
  cudaStream_t stream_ = nullptr;
  std::mutex mutex_;  // a step is waited for on another thread than the one that launches
  std::string lost_;  // why it is
  std::function<void()> watch_;
};

// Device memory, freed with its owner.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  // Fails with UP_OUT_OF_MEMORY, naming `what` and the bytes.
  DeviceBuffer(Device &device, size_t bytes, const char *what);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer &&other) noexcept { swap(other); }
  DeviceBuffer &operator=(DeviceBuffer &&other) noexcept {
    swap(other);
    return *this;
  }

  template <class T = std::byte>
  T *as(size_t byte_offset = 0) const {
    return reinterpret_cast<T *>(static_cast<std::byte *>(data_) + byte_offset);
  }
  size_t bytes() const { return bytes_; }
  bool empty() const { return data_ == nullptr; }

 private:
  void swap(DeviceBuffer &other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  void *data_ = nullptr;
  size_t bytes_ = 0;
};

// Page-locked host memory.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(Device &device, size_t bytes, const char *what);
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer &&other) noexcept { swap(other); }
  PinnedBuffer &operator=(PinnedBuffer &&other) noexcept {
    swap(other);
    return *this;
  }

  template <class T = std::byte>
  T *as(size_t byte_offset = 0) const {
    return reinterpret_cast<T *>(static_cast<std::byte *>(data_) + byte_offset);
  }
  size_t bytes() const { return bytes_; }

 private:
  void swap(PinnedBuffer &other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  void *data_ = nullptr;
  size_t bytes_ = 0;
};

class Event {
 public:
  Event() = default;
  Event(Device &device, bool timed);
  ~Event();
  Event(Event &&other) noexcept { std::swap(event_, other.event_); }
  Event &operator=(Event &&other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

constexpr size_t aligned_bytes(size_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace up::cuda
