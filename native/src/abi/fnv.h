// FNV-1a, 64 bits: for telling apart what chance, not malice, has changed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace up {

class Fnv {
 public:
  explicit Fnv(uint64_t from = 0xcbf29ce484222325ull) : hash_(from) {}

  void add(uint64_t value) { hash_ = (hash_ ^ value) * 0x100000001b3ull; }
  void add(const void *data, size_t bytes) {
    const auto *p = static_cast<const unsigned char *>(data);
    for (size_t i = 0; i < bytes; i++) add(p[i]);
  }
  uint64_t value() const { return hash_; }

 private:
  uint64_t hash_;
};

}  // namespace up
