// What an operator's arguments must be, checked without looking at device memory. Each failure names the field and both
// numbers.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "abi/failure.h"
#include "operators/backend.h"

namespace up {

constexpr const char *check_phase = "check arguments";

// The number that a C caller put into an enum, which need not be one of its values.
template <class Enum>
int enum_number(const Enum &value) {
  static_assert(sizeof(Enum) == sizeof(int));
  int number;
  std::memcpy(&number, &value, sizeof number);
  return number;
}

inline void require_range(int64_t value, int64_t least, int64_t most, const char *name) {
  if (value < least || value > most)
    fail(UP_INVALID_ARGUMENT, check_phase, name, " is ", value, ", must be from ", least, " to ", most);
}

inline void require_multiple(int64_t value, int64_t of, const char *name) {
  if (value <= 0 || value % of != 0)
    fail(UP_INVALID_ARGUMENT, check_phase, name, " is ", value, ", must be a positive multiple of ", of);
}

inline void require_one_of(int64_t value, std::initializer_list<int> allowed, const char *name) {
  for (const int each : allowed)
    if (value == each) return;
  std::string list;
  for (const int each : allowed) list += (list.empty() ? "" : ", ") + std::to_string(each);
  fail(UP_INVALID_ARGUMENT, check_phase, name, " is ", value, ", must be one of ", list);
}

inline void require_positive(float value, const char *name) {
  if (!(value > 0) || !std::isfinite(value))
    fail(UP_INVALID_ARGUMENT, check_phase, name, " is ", value, ", must be finite and above 0");
}

inline void require_not_negative(float value, const char *name) {
  if (!(value >= 0) || !std::isfinite(value))
    fail(UP_INVALID_ARGUMENT, check_phase, name, " is ", value, ", must be finite and at least 0");
}

inline void require_dtype(up_backend backend, const up_dtype &dtype) {
  const int number = enum_number(dtype);
  if (number == UP_BF16 || number == UP_F16) return;
  if (backend == UP_REFERENCE && (number == UP_F32 || number == UP_F64)) return;
  fail(UP_UNSUPPORTED_DTYPE, check_phase, "dtype is ", number,
       backend == UP_REFERENCE ? ": f32 (0), bf16 (1), f16 (2) and f64 (3) are supported" : ": bf16 (1) and f16 (2) are supported");
}

inline void require_backend(const up_backend &backend) {
  const int number = enum_number(backend);
  if (number != UP_REFERENCE && number != UP_CUDA)
    fail(UP_INVALID_ARGUMENT, check_phase, "backend is ", number, ": 0 (reference) and 1 (CUDA) exist");
}

// Device memory must be aligned to 16 bytes; the reference reads host memory as it comes.
inline void require_memory(up_backend backend, const void *pointer, const char *name) {
  require_pointer(pointer, name);
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (backend == UP_CUDA && address % 16 != 0)
    fail(UP_INVALID_ARGUMENT, check_phase, name, " is at an address that is ", address % 16,
         " past a multiple of 16, must be aligned to 16 bytes");
}

inline void optional_memory(up_backend backend, const void *pointer, const char *name) {
  if (pointer != nullptr) require_memory(backend, pointer, name);
}

// Strides of device tensors are multiples of 8 elements, so that every row begins on 16 bytes.
inline void require_stride(up_backend backend, int64_t stride, const char *name) {
  require_multiple(stride, backend == UP_CUDA ? 8 : 1, name);
}

// A tensor of rows: its pointer and the elements from one row to the next.
inline void require_rows(up_backend backend, const void *pointer, int64_t stride, const char *name) {
  require_memory(backend, pointer, name);
  require_stride(backend, stride, (std::string(name) + "_stride").c_str());
}

inline void require_finite(float value, const char *name) {
  if (!std::isfinite(value)) fail(UP_INVALID_ARGUMENT, check_phase, name, " is not finite");
}

inline void require_heads(up_backend backend, int heads, int kv_heads, int head_dim) {
  require_range(kv_heads, 1, 4096, "kv_heads");
  require_range(heads, 1, 65535, "heads");
  if (heads % kv_heads != 0)
    fail(UP_INVALID_ARGUMENT, check_phase, "heads is ", heads, ", must be a multiple of kv_heads, which is ", kv_heads);
  if (backend == UP_CUDA)
    require_one_of(head_dim, {64, 128, 256}, "head_dim");
  else
    require_range(head_dim, 1, 4096, "head_dim");
}

inline void require_kv(up_backend backend, const up_kv &kv, int max_rows, const char *name) {
  const std::string prefix = name;
  require_memory(backend, kv.data, (prefix + ".data").c_str());
  require_range(kv.page_count, 1, INT32_MAX, (prefix + ".page_count").c_str());
  require_stride(backend, kv.row_stride, (prefix + ".row_stride").c_str());
  require_stride(backend, kv.head_stride, (prefix + ".head_stride").c_str());
  require_stride(backend, kv.page_stride, (prefix + ".page_stride").c_str());
  optional_memory(backend, kv.table_rows, (prefix + ".table_rows").c_str());
  if (kv.table_rows != nullptr) require_range(kv.table_count, 1, INT32_MAX, (prefix + ".table_count").c_str());
  if (kv.pages == nullptr) return;
  require_one_of(kv.page_size, {16, 32, 64, 128, 256}, (prefix + ".page_size").c_str());
  require_memory(backend, kv.pages, (prefix + ".pages").c_str());
  const int64_t needed = (int64_t{max_rows} + kv.page_size - 1) / kv.page_size;
  if (kv.pages_stride < needed)
    fail(UP_INVALID_ARGUMENT, check_phase, name, ".pages_stride is ", kv.pages_stride, ", but ", max_rows, " rows take ", needed,
         " pages of ", kv.page_size);
}

inline void require_workspace(up_backend backend, const void *workspace, size_t given, size_t needed) {
  if (given < needed)
    fail(UP_INVALID_ARGUMENT, check_phase, "workspace_bytes is ", given, ", but ", needed, " are needed");
  if (needed > 0) require_memory(backend, workspace, "workspace");
}

// Calls an entry of a backend's table and turns what it answers into a Failure.
template <class Function, class... Arguments>
void call_backend(Function function, Arguments... arguments) {
  up_backend_error error{};
  const up_status status = function(arguments..., &error);
  if (status != UP_OK) fail(status, error.phase, error.detail);
}

}  // namespace up
