// A small strict JSON reader (RFC 8259): bounded in size and depth, UTF-8 checked, repeated keys refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace up {

class Json {
 public:
  enum class Kind { null, boolean, number, string, array, object };
  using Member = std::pair<std::string, Json>;

  Kind kind = Kind::null;
  bool boolean = false;
  double number = 0;
  // Whether the number was written without fraction and exponent and fits; `integer` is then exact.
  bool is_integer = false;
  int64_t integer = 0;
  std::string string;
  std::vector<Json> items;
  std::vector<Member> members;  // in the order of the text

  bool is_object() const { return kind == Kind::object; }
  bool is_null() const { return kind == Kind::null; }
  // The member of that name, or nullptr; also nullptr when this is no object.
  const Json *find(std::string_view name) const;
  // The value as short text, for error messages: numbers and strings themselves, "an array of 3", "an object".
  std::string describe() const;
};

constexpr int json_max_depth = 64;

// Fails with UP_CORRUPT_FILE naming `source` and the byte at fault; also when the text is longer than `max_bytes`.
Json parse_json(std::string_view source, std::string_view bytes, size_t max_bytes);

}  // namespace up
