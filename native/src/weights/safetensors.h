// Reader of the safetensors format: an 8-byte little-endian header length, a JSON header, then the tensors' bytes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "weights/mapped_file.h"

namespace up {

struct Tensor {
  std::string name;
  std::string dtype;  // "BF16"
  std::vector<int64_t> shape;
  const unsigned char *data = nullptr;
  size_t bytes = 0;
  const MappedFile *file = nullptr;
};

constexpr size_t safetensors_max_header_bytes = 100 << 20;

// The tensors of one file, in the order of their bytes. Every offset has been checked to lie inside the file, tensors do not
// overlap and leave no gap, and each one's bytes are what its dtype and shape need. Fails with UP_CORRUPT_FILE naming file,
// tensor and numbers; a dtype that the format does not know is UP_UNSUPPORTED_DTYPE.
std::vector<Tensor> read_safetensors(const MappedFile &file);

// "[4096, 256]"
std::string describe_shape(const std::vector<int64_t> &shape);

}  // namespace up
