// Arrays for kernels.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace up::cpu {

// 64-byte aligned memory that is not initialised.
template <class Element>
class AlignedArray {
 public:
  AlignedArray() = default;
  explicit AlignedArray(size_t count)
      : data_(static_cast<Element *>(::operator new(count * sizeof(Element), std::align_val_t{64}))) {}
  Element *get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(Element *p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  std::unique_ptr<Element, Free> data_;
};

// Elements of `rows` rows.
inline size_t area(int rows, int64_t width) { return static_cast<size_t>(rows) * static_cast<size_t>(width); }

}  // namespace up::cpu
