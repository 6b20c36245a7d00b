#include "cpu/reserved_memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "abi/failure.h"

namespace up::cpu {

ReservedMemory::ReservedMemory(const char *what, int count, int64_t bytes) : bytes_(bytes) {
  const unsigned __int128 total = static_cast<unsigned __int128>(count) * static_cast<uint64_t>(bytes);
  const auto refuse = [&](const char *why) {
    fail(UP_OUT_OF_MEMORY, "reserve memory", count, ' ', what, " of ", bytes, " bytes, ", static_cast<uint64_t>(total >> 30),
         " GiB in all: ", why);
  };
  if (total > PTRDIFF_MAX) refuse("more than an address space holds");
  total_ = static_cast<size_t>(total);
  if (total_ == 0) return;
  void *memory = mmap(nullptr, total_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) refuse(std::strerror(errno));
  memory_ = static_cast<std::byte *>(memory);
}

ReservedMemory::~ReservedMemory() {
  if (memory_ != nullptr) munmap(memory_, total_);
}

}  // namespace up::cpu
