// Typed access to a JSON object's members, with errors that name the path.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "abi/failure.h"
#include "weights/json.h"

namespace up {

class Fields {
 public:
  // `path`: of the object in its document, "layers[3].mixer"; `phase`: of the errors.
  Fields(const Json &json, std::string path, const char *phase) : json_(json), path_(std::move(path)), phase_(phase) {
    if (!json.is_object()) fail(UP_INVALID_ARGUMENT, phase_, path_, " is ", json.describe(), ", an object was expected");
  }

  const std::string &path() const { return path_; }
  bool has(std::string_view name) const {
    const Json *found = json_.find(name);
    return found != nullptr && !found->is_null();
  }
  const Json &at(std::string_view name) const {
    const Json *found = json_.find(name);
    if (found == nullptr) fail(UP_INVALID_ARGUMENT, phase_, path_, '.', name, " is missing");
    return *found;
  }
  Fields object(std::string_view name) const { return {at(name), text(path_, '.', name), phase_}; }
  const std::vector<Json> &array(std::string_view name) const {
    const Json &value = at(name);
    if (value.kind != Json::Kind::array) refuse(name, value, "an array");
    return value.items;
  }
  const std::string &string(std::string_view name) const {
    const Json &value = at(name);
    if (value.kind != Json::Kind::string) refuse(name, value, "a string");
    return value.string;
  }
  bool boolean(std::string_view name) const {
    const Json &value = at(name);
    if (value.kind != Json::Kind::boolean) refuse(name, value, "a boolean");
    return value.boolean;
  }
  double number(std::string_view name) const {
    const Json &value = at(name);
    if (value.kind != Json::Kind::number) refuse(name, value, "a number");
    return value.number;
  }
  float positive(std::string_view name) const {
    const double value = number(name);
    if (!(value > 0)) refuse(name, at(name), "a number above 0");
    return static_cast<float>(value);
  }
  int integer(std::string_view name, int64_t least, int64_t most) const {
    const Json &value = at(name);
    if (value.kind != Json::Kind::number || !value.is_integer || value.integer < least || value.integer > most) {
      fail(UP_INVALID_ARGUMENT, phase_, path_, '.', name, " is ", value.describe(), ", an integer from ", least, " to ", most,
           " was expected");
    }
    return static_cast<int>(value.integer);
  }
  // The index of the member's value among `names`.
  int choice(std::string_view name, std::initializer_list<std::string_view> names) const {
    const std::string &value = string(name);
    int i = 0;
    for (const std::string_view each : names) {
      if (value == each) return i;
      i++;
    }
    std::string expected;
    for (const std::string_view each : names) expected += (expected.empty() ? "\"" : ", \"") + std::string(each) + '"';
    fail(UP_INVALID_ARGUMENT, phase_, path_, '.', name, " is \"", value, "\", one of ", expected, " was expected");
  }

 private:
  [[noreturn]] void refuse(std::string_view name, const Json &value, const char *expected) const {
    fail(UP_INVALID_ARGUMENT, phase_, path_, '.', name, " is ", value.describe(), ", ", expected, " was expected");
  }

  const Json &json_;
  std::string path_;
  const char *phase_;
};

}  // namespace up
