#include "cuda/backend/upload_ring.h"

#include <algorithm>

namespace up::cuda {
namespace {

constexpr size_t marks_in_circle = 16;

}  // namespace

UploadRing::UploadRing(Device &device, size_t bytes)
    : device_(device),
      host_(device, aligned_bytes(bytes), "the upload ring"),
      device_memory_(device, aligned_bytes(bytes), "the upload ring") {}

size_t UploadRing::take(size_t bytes) {
  const size_t circle = host_.bytes();
  bytes = aligned_bytes(bytes);
  if (bytes > circle / 2) fail(UP_INTERNAL, "upload", bytes, " bytes at once, the ring has ", circle);
  if (head_ - marked_ >= circle / marks_in_circle) mark();
  if (head_ % circle + bytes > circle) head_ += circle - head_ % circle;
  while (head_ + bytes - tail_ > circle) {
    if (marks_.empty()) mark();
    Mark oldest = std::move(marks_.front());
    marks_.pop_front();
    device_.wait(oldest.event.get(), "wait for room to upload");
    tail_ = oldest.position;
    spare_.push_back(std::move(oldest.event));
  }
  const size_t at = head_ % circle;
  head_ += bytes;
  return at;
}

void UploadRing::mark() {
  Event event = spare_.empty() ? Event(device_, false) : std::move(spare_.front());
  if (!spare_.empty()) spare_.pop_front();
  device_.check(cudaEventRecord(event.get(), device_.stream()), "record event");
  marks_.push_back({head_, std::move(event)});
  marked_ = head_;
}

void UploadRing::send(size_t at, size_t bytes) {
  device_.copy_in(device_memory_.as(at), host_.as(at), bytes, "upload");
}

void UploadRing::reset() {
  marks_.clear();
  tail_ = marked_ = head_;
}

}  // namespace up::cuda
