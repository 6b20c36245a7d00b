#include "runner/slab_pool.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "abi/failure.h"

namespace up {

SlabPool::SlabPool(int slabs, int64_t slab_bytes) : slab_bytes_(slab_bytes), free_(slabs) {
  const unsigned __int128 total = static_cast<unsigned __int128>(slabs) * static_cast<uint64_t>(slab_bytes);
  const auto refuse = [&](const char *why) {
    fail(UP_OUT_OF_MEMORY, "reserve slabs", slabs, " slabs of ", slab_bytes, " bytes, ",
         static_cast<uint64_t>(total >> 30), " GiB in all: ", why);
  };
  if (total > PTRDIFF_MAX) refuse("more than an address space holds");
  void *memory = mmap(nullptr, static_cast<size_t>(total), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) refuse(std::strerror(errno));
  memory_ = static_cast<std::byte *>(memory);
  try {
    slabs_.resize(static_cast<size_t>(slabs));
  } catch (const std::bad_alloc &) {
    munmap(memory, static_cast<size_t>(total));
    refuse("no memory for their records");
  }
}

SlabPool::~SlabPool() { munmap(memory_, static_cast<size_t>(slab_bytes_) * slabs_.size()); }

void SlabPool::add_reference(int slab) {
  if ((*this)[slab].references++ == 0) free_--;
}

void SlabPool::drop_reference(int slab) {
  Slab &record = (*this)[slab];
  if (--record.references == 0) {
    record = Slab{};
    free_++;
  }
}

void SlabPool::restore(int slab, const Slab &before) {
  Slab &record = (*this)[slab];
  free_ += (before.references == 0 ? 1 : 0) - (record.references == 0 ? 1 : 0);
  record = before;
}

}  // namespace up
