// From JavaScript values to C ones, with a TypeError that names the field when the type is wrong; and from a native
// failure to a JavaScript Error.
#pragma once

#include <napi.h>
#include <uniprefill/runner.h>

#include <string>

namespace up::addon {

// A failure copied out of the thread on which it happened.
struct CallError {
  up_status status = UP_OK;
  std::string operation;
  std::string phase;
  std::string detail;
};

// up_last_error() of this thread.
inline CallError last_error() {
  const up_error error = up_last_error();
  return {error.status, error.operation, error.phase, error.detail};
}

// An Error with the fields status ("UP_INVALID_PLAN"), operation, phase and detail.
inline Napi::Error to_error(Napi::Env env, const CallError &error) {
  Napi::Error out = Napi::Error::New(env, error.operation + ": " + error.phase + ": " + error.detail);
  out.Set("status", Napi::String::New(env, up_status_name(error.status)));
  out.Set("operation", Napi::String::New(env, error.operation));
  out.Set("phase", Napi::String::New(env, error.phase));
  out.Set("detail", Napi::String::New(env, error.detail));
  return out;
}

inline void check(Napi::Env env, up_status status) {
  if (status != UP_OK) throw to_error(env, last_error());
}

[[noreturn]] inline void wrong_type(const Napi::Value &value, const std::string &field, const char *expected) {
  throw Napi::TypeError::New(value.Env(), field + ": " + expected + " was expected");
}

inline Napi::Object object(const Napi::Value &value, const std::string &field) {
  if (!value.IsObject()) wrong_type(value, field, "an object");
  return value.As<Napi::Object>();
}

inline double number(const Napi::Object &from, const char *field) {
  const Napi::Value value = from.Get(field);
  if (!value.IsNumber()) wrong_type(value, field, "a number");
  return value.As<Napi::Number>().DoubleValue();
}

inline int32_t integer(const Napi::Value &value, const std::string &field) {
  if (value.IsNumber()) {
    const double number = value.As<Napi::Number>().DoubleValue();
    if (number >= INT32_MIN && number <= INT32_MAX && number == static_cast<int32_t>(number)) {
      return static_cast<int32_t>(number);
    }
  }
  wrong_type(value, field, "a 32-bit integer");
}

inline int32_t integer(const Napi::Object &from, const char *field) { return integer(from.Get(field), field); }

inline uint64_t uint64(const Napi::Object &from, const char *field) {
  const Napi::Value value = from.Get(field);
  bool lossless = false;
  const uint64_t number = value.IsBigInt() ? value.As<Napi::BigInt>().Uint64Value(&lossless) : 0;
  if (!lossless) wrong_type(value, field, "a BigInt from 0 to 2^64 - 1");
  return number;
}

inline std::string string(const Napi::Object &from, const char *field) {
  const Napi::Value value = from.Get(field);
  if (!value.IsString()) wrong_type(value, field, "a string");
  return value.As<Napi::String>().Utf8Value();
}

inline bool boolean(const Napi::Object &from, const char *field) {
  const Napi::Value value = from.Get(field);
  if (!value.IsBoolean()) wrong_type(value, field, "a boolean");
  return value.As<Napi::Boolean>().Value();
}

// A view of a typed array; valid while the JavaScript value is.
template <class Element>
struct View {
  const Element *data = nullptr;
  int32_t count = 0;
};

template <class Element, napi_typedarray_type type>
View<Element> view(const Napi::Value &value, const std::string &field, const char *expected) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type) wrong_type(value, field, expected);
  const auto array = value.As<Napi::TypedArrayOf<Element>>();
  if (array.ElementLength() > INT32_MAX) wrong_type(value, field, "an array of at most 2^31 - 1 elements");
  return {array.Data(), static_cast<int32_t>(array.ElementLength())};
}

inline View<int32_t> int32s(const Napi::Value &value, const std::string &field) {
  return view<int32_t, napi_int32_array>(value, field, "an Int32Array");
}
inline View<uint32_t> uint32s(const Napi::Value &value, const std::string &field) {
  return view<uint32_t, napi_uint32_array>(value, field, "a Uint32Array");
}
inline View<float> floats(const Napi::Value &value, const std::string &field) {
  return view<float, napi_float32_array>(value, field, "a Float32Array");
}
inline View<uint64_t> uint64s(const Napi::Value &value, const std::string &field) {
  return view<uint64_t, napi_biguint64_array>(value, field, "a BigUint64Array");
}

}  // namespace up::addon
