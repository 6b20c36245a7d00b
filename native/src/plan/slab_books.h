// The one pool of equal slabs, and who refers to each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace up {

struct Slab {
  int32_t references = 0;  // tables that hold it, and the prefix cache; 0: free
  bool cached = false;     // the prefix cache holds a reference
  bool read_only = false;  // it has been cached since it was granted: nobody writes it any more

  // Exactly one table holds it, and the cache never did: nobody else would see what is written.
  bool is_writable() const { return references == 1 && !read_only; }
};

// Memory is reserved at once and committed by the system as it is touched.
class SlabPool {
 public:
  // Fails with UP_OUT_OF_MEMORY naming the bytes asked for.
  SlabPool(int slabs, int64_t slab_bytes);
  ~SlabPool();
  SlabPool(const SlabPool &) = delete;
  SlabPool &operator=(const SlabPool &) = delete;

  int size() const { return static_cast<int>(slabs_.size()); }
  int64_t slab_bytes() const { return slab_bytes_; }
  std::byte *bytes(int slab) const { return memory_ + slab * slab_bytes_; }
  Slab &operator[](int slab) { return slabs_[static_cast<size_t>(slab)]; }
  const Slab &operator[](int slab) const { return slabs_[static_cast<size_t>(slab)]; }
  int free_count() const { return free_; }

  // Every change of a slab's references goes through these, which keep the free count.
  void add_reference(int slab);
  void drop_reference(int slab);
  // Puts back what a slab's record was.
  void restore(int slab, const Slab &before);

 private:
  std::vector<Slab> slabs_;
  int64_t slab_bytes_;
  std::byte *memory_ = nullptr;
  int free_;
};

}  // namespace up
