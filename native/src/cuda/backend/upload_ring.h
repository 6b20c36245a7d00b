// Small inputs on their way to the device: written into page-locked memory that is handed out in a circle, and copied to the
// same place of a circle on the device, in the order of the stream.
//
// What upload() returns is for kernels that are launched next: it stays until as many bytes again have been uploaded as the
// circle holds. The host waits for the device only where it is a whole circle ahead.
#pragma once

#include <cstring>
#include <deque>
#include <span>

#include "cuda/backend/device.h"

namespace up::cuda {

class UploadRing {
 public:
  UploadRing(Device &device, size_t bytes);

  // Aligned to 256 bytes; nullptr for an empty one.
  template <class T>
  T *upload(std::span<const T> values) {
    if (values.empty()) return nullptr;
    const size_t at = take(values.size_bytes());
    std::memcpy(host_.as(at), values.data(), values.size_bytes());
    send(at, values.size_bytes());
    return device_memory_.as<T>(at);
  }
  // To a place of the caller's instead.
  template <class T>
  void upload_to(T *target, std::span<const T> values, const char *phase) {
    const size_t most = host_.bytes() / 4 / sizeof(T);
    while (!values.empty()) {
      const std::span<const T> part = values.first(std::min(values.size(), most));
      const size_t at = take(part.size_bytes());
      std::memcpy(host_.as(at), part.data(), part.size_bytes());
      device_.copy_in(target, host_.as(at), part.size_bytes(), phase);
      target += part.size();
      values = values.subspan(part.size());
    }
  }
  size_t device_bytes() const { return device_memory_.bytes(); }
  // After an error: nothing is on its way any more.
  void reset();

 private:
  struct Mark {
    uint64_t position;  // everything before it has been copied once the event has come
    Event event;
  };

  size_t take(size_t bytes);
  void send(size_t at, size_t bytes);
  void mark();

  Device &device_;
  PinnedBuffer host_;
  DeviceBuffer device_memory_;
  uint64_t head_ = 0, tail_ = 0, marked_ = 0;  // bytes since the beginning
  std::deque<Mark> marks_;
  std::deque<Event> spare_;
};

}  // namespace up::cuda
