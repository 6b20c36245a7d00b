// Bytes of *.safetensors files, as they should be; tests damage them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct NamedTensor {
  std::string name;
  std::string dtype = "BF16";
  std::vector<int64_t> shape;
  std::string bytes;
};

uint16_t bf16_bits(double value);

// A number as the tensor's dtype has it, BF16 or F32.
void append_number(NamedTensor &tensor, double value);

std::string safetensors_bytes(const std::vector<NamedTensor> &tensors);
