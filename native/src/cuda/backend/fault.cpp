#include "cuda/backend/fault.h"

#include <atomic>
#include <cstdlib>
#include <string>

namespace up::cuda {
namespace {

struct Wanted {
  int fault = -1;
  long number = 0;

  Wanted() {
    const char *value = std::getenv("UNIPREFILL_CUDA_FAULT");
    if (value == nullptr) return;
    const std::string text = value;
    int index = 0;
    for (const char *name : {"alloc:", "launch:", "lost:"}) {
      if (text.starts_with(name)) {
        fault = index;
        number = std::strtol(text.c_str() + std::string(name).size(), nullptr, 10);
      }
      index++;
    }
  }
};

}  // namespace

bool fault_due(Fault fault) {
  static const Wanted wanted;
  static std::atomic<long> count{0};
  if (static_cast<int>(fault) != wanted.fault) return false;
  return count.fetch_add(1) + 1 == wanted.number;
}

}  // namespace up::cuda
