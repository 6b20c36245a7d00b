// Memory that is reserved at once and committed by the system as it is touched; zero until then.
#pragma once

#include <cstddef>
#include <cstdint>

namespace up::cpu {

class ReservedMemory {
 public:
  // `count` blocks of `bytes`. Fails with UP_OUT_OF_MEMORY naming `what` and the numbers.
  ReservedMemory(const char *what, int count, int64_t bytes);
  ~ReservedMemory();
  ReservedMemory(const ReservedMemory &) = delete;
  ReservedMemory &operator=(const ReservedMemory &) = delete;

  std::byte *base() const { return memory_; }
  std::byte *block(int index) const { return memory_ + index * bytes_; }
  int64_t block_bytes() const { return bytes_; }

 private:
  int64_t bytes_;
  size_t total_ = 0;
  std::byte *memory_ = nullptr;
};

}  // namespace up::cpu
