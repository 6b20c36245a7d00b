#include "weights/safetensors.h"

#include <algorithm>

#include "abi/failure.h"
#include "weights/json.h"

namespace up {
namespace {

constexpr const char *phase = "read safetensors header";

int bits_of(const std::string &dtype) {
  static const std::pair<const char *, int> known[] = {
      {"BF16", 16},    {"F16", 16},     {"F32", 32}, {"F64", 64}, {"I8", 8},   {"U8", 8},   {"BOOL", 8},
      {"I16", 16},     {"U16", 16},     {"I32", 32}, {"U32", 32}, {"I64", 64}, {"U64", 64}, {"F8_E4M3", 8},
      {"F8_E5M2", 8}};
  for (const auto &[name, bits] : known) {
    if (dtype == name) return bits;
  }
  return 0;
}

struct Entry {
  uint64_t begin;
  uint64_t end;
  Tensor tensor;
};

uint64_t offset_of(const Json &value, const std::string &where) {
  if (!value.is_integer || value.integer < 0) {
    fail(UP_CORRUPT_FILE, phase, where, ": data_offsets holds ", value.describe(), ", not an offset");
  }
  return static_cast<uint64_t>(value.integer);
}

Entry read_entry(const std::string &path, const std::string &name, const Json &fields) {
  const std::string where = path + ": " + name;
  const Json *dtype = fields.find("dtype");
  const Json *shape = fields.find("shape");
  const Json *offsets = fields.find("data_offsets");
  if (dtype == nullptr || dtype->kind != Json::Kind::string || shape == nullptr || shape->kind != Json::Kind::array ||
      offsets == nullptr || offsets->kind != Json::Kind::array || offsets->items.size() != 2) {
    fail(UP_CORRUPT_FILE, phase, where, ": dtype, shape and two data_offsets were expected");
  }
  Entry entry{offset_of(offsets->items[0], where), offset_of(offsets->items[1], where), {}};
  entry.tensor.name = name;
  entry.tensor.dtype = dtype->string;
  const int bits = bits_of(dtype->string);
  if (bits == 0) fail(UP_UNSUPPORTED_DTYPE, phase, where, ": dtype is ", dtype->describe(), ", supported: \"BF16\"");
  unsigned __int128 needed = static_cast<unsigned>(bits) / 8;
  for (const Json &extent : shape->items) {
    if (!extent.is_integer || extent.integer < 0) {
      fail(UP_CORRUPT_FILE, phase, where, ": shape holds ", extent.describe(), ", not an extent");
    }
    entry.tensor.shape.push_back(extent.integer);
    needed *= static_cast<uint64_t>(extent.integer);
    if (needed > INT64_MAX) fail(UP_CORRUPT_FILE, phase, where, ": shape ", describe_shape(entry.tensor.shape), " is too large");
  }
  if (entry.end < entry.begin || entry.end - entry.begin != static_cast<uint64_t>(needed)) {
    fail(UP_CORRUPT_FILE, phase, where, ": offsets ", entry.begin, " to ", entry.end, ", but ", dtype->string, ' ',
         describe_shape(entry.tensor.shape), " needs ", static_cast<uint64_t>(needed), " bytes");
  }
  return entry;
}

}  // namespace

std::string describe_shape(const std::vector<int64_t> &shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); i++) out += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

std::vector<Tensor> read_safetensors(const MappedFile &file) {
  const std::string &path = file.path();
  if (file.size() < 8) fail(UP_CORRUPT_FILE, phase, path, ": ", file.size(), " bytes, a header needs at least 8");
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; i--) header_bytes = header_bytes << 8 | file.data()[i];
  if (header_bytes > safetensors_max_header_bytes) {
    fail(UP_CORRUPT_FILE, phase, path, ": a header of ", header_bytes, " bytes, at most ", safetensors_max_header_bytes,
         " are read");
  }
  if (header_bytes > file.size() - 8) {
    fail(UP_CORRUPT_FILE, phase, path, ": truncated: a header of ", header_bytes, " bytes in a file of ", file.size());
  }
  const Json header =
      parse_json(path, file.bytes().substr(8, static_cast<size_t>(header_bytes)), safetensors_max_header_bytes);
  if (!header.is_object()) fail(UP_CORRUPT_FILE, phase, path, ": the header is ", header.describe(), ", not an object");

  std::vector<Entry> entries;
  for (const auto &[name, fields] : header.members) {
    if (name != "__metadata__") entries.push_back(read_entry(path, name, fields));
  }
  std::sort(entries.begin(), entries.end(), [](const Entry &a, const Entry &b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });

  const size_t data_start = 8 + static_cast<size_t>(header_bytes);
  const size_t data_bytes = file.size() - data_start;
  uint64_t reached = 0;
  std::vector<Tensor> tensors;
  for (Entry &entry : entries) {
    Tensor &tensor = entry.tensor;
    if (entry.end > data_bytes) {
      fail(UP_CORRUPT_FILE, phase, path, ": truncated: ", tensor.name, " ends at byte ", data_start + entry.end,
           " of a file of ", file.size(), " bytes");
    }
    if (entry.begin != reached) {
      fail(UP_CORRUPT_FILE, phase, path, ": ", tensor.name, " begins at offset ", entry.begin,
           entry.begin < reached ? ", inside the tensor that ends at " : ", after a gap from ", reached);
    }
    reached = entry.end;
    tensor.data = file.data() + data_start + entry.begin;
    tensor.bytes = static_cast<size_t>(entry.end - entry.begin);
    tensor.file = &file;
    tensors.push_back(std::move(tensor));
  }
  if (reached != data_bytes) {
    fail(UP_CORRUPT_FILE, phase, path, ": the tensors end at byte ", data_start + reached, " of a file of ", file.size(),
         " bytes");
  }
  return tensors;
}

}  // namespace up
