#include "safetensors_file.h"

#include <bit>
#include <sstream>

uint16_t bf16_bits(double value) {
  const auto bits = std::bit_cast<uint32_t>(static_cast<float>(value));
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

void append_number(NamedTensor &tensor, double value) {
  const bool is_float = tensor.dtype == "F32";
  const auto bits = is_float ? std::bit_cast<uint32_t>(static_cast<float>(value)) : bf16_bits(value);
  for (int i = 0; i < (is_float ? 4 : 2); i++) tensor.bytes += static_cast<char>(bits >> (8 * i));
}

std::string safetensors_bytes(const std::vector<NamedTensor> &tensors) {
  std::ostringstream header;
  std::string data;
  header << "{\"__metadata__\":{\"format\":\"pt\"}";
  for (const NamedTensor &tensor : tensors) {
    header << ",\"" << tensor.name << "\":{\"dtype\":\"" << tensor.dtype << "\",\"shape\":[";
    for (size_t i = 0; i < tensor.shape.size(); i++) header << (i ? "," : "") << tensor.shape[i];
    header << "],\"data_offsets\":[" << data.size() << ',' << data.size() + tensor.bytes.size() << "]}";
    data += tensor.bytes;
  }
  header << '}';
  std::string text = header.str();
  while (text.size() % 8 != 0) text += ' ';
  std::string out;
  for (int i = 0; i < 8; i++) out += static_cast<char>(text.size() >> (8 * i));
  return out + text + data;
}
