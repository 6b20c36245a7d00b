// How native code fails: a Failure is thrown inside and becomes a status and up_last_error() at the C boundary.
#pragma once

#include <cstring>
#include <exception>
#include <new>
#include <sstream>
#include <string>
#include <utility>

#include "uniprefill/operators.h"

namespace up {

// Concatenates anything that can be written to a stream.
template <class... Parts>
std::string text(const Parts &...parts) {
  std::ostringstream out;
  (out << ... << parts);
  return std::move(out).str();
}

class Failure : public std::exception {
 public:
  Failure(up_status status, std::string phase, std::string detail)
      : status(status), phase(std::move(phase)), detail(std::move(detail)) {}
  const char *what() const noexcept override { return detail.c_str(); }

  up_status status;
  std::string phase;   // "read header"
  std::string detail;  // names and numbers
};

template <class... Parts>
[[noreturn]] void fail(up_status status, std::string phase, const Parts &...detail) {
  throw Failure(status, std::move(phase), text(detail...));
}

// Keeps what up_last_error() of this thread returns; too long a text is cut.
void record_error(up_status status, const char *operation, const char *phase, const char *detail) noexcept;

// Runs `body` and turns whatever it throws into a status.
template <class Body>
up_status guard(const char *operation, Body &&body) noexcept {
  try {
    body();
    return UP_OK;
  } catch (const Failure &failure) {
    record_error(failure.status, operation, failure.phase.c_str(), failure.detail.c_str());
    return failure.status;
  } catch (const std::bad_alloc &) {
    record_error(UP_OUT_OF_MEMORY, operation, "allocate", "the host has no memory left");
    return UP_OUT_OF_MEMORY;
  } catch (const std::exception &error) {
    record_error(UP_INTERNAL, operation, "unexpected", error.what());
    return UP_INTERNAL;
  } catch (...) {
    record_error(UP_INTERNAL, operation, "unexpected", "an exception of unknown type");
    return UP_INTERNAL;
  }
}

// An enumeration as a C caller passed it, which may be any number.
template <class Enum>
int raw_value(const Enum &value) {
  static_assert(sizeof(Enum) == sizeof(int));
  int out;
  std::memcpy(&out, &value, sizeof out);
  return out;
}

template <class Pointer>
void require_pointer(const Pointer *pointer, const char *name) {
  if (pointer == nullptr) fail(UP_INVALID_ARGUMENT, "check arguments", name, " is NULL");
}

// A parameter struct whose first field is its size: exactly this version's, since it is the first.
template <class Struct>
void require_struct(const Struct *parameters, const char *name) {
  require_pointer(parameters, name);
  if (parameters->size != sizeof(Struct)) {
    fail(UP_INVALID_ARGUMENT, "check arguments", name, ".size is ", parameters->size, ", this library's is ",
         sizeof(Struct));
  }
}

}  // namespace up
