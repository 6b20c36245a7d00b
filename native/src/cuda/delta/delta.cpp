#include "cuda/delta/delta.h"

#include "cuda/common/operators.h"

namespace up::cuda {

namespace {

template <class Delta>
up_status supported(const Delta &p, const char *phase, up_backend_error *error) {
  if (p.dtype != UP_BF16 && p.dtype != UP_F16)
    return fail(error, UP_UNSUPPORTED_DTYPE, phase, "dtype %d: bf16 (1) and f16 (2) are supported", p.dtype);
  if (p.key_dim != 64 && p.key_dim != 128)
    return fail(error, UP_INVALID_ARGUMENT, phase, "key_dim %d: 64 and 128 are supported", p.key_dim);
  if (p.value_dim != 64 && p.value_dim != 128)
    return fail(error, UP_INVALID_ARGUMENT, phase, "value_dim %d: 64 and 128 are supported", p.value_dim);
  return UP_OK;
}

size_t record_bytes(const up_delta_prefill &p) {
  return static_cast<size_t>(delta_slots(p)) * static_cast<size_t>(p.value_heads) * kDeltaRecordBytes;
}

}  // namespace

up_status delta_prefill_workspace(const up_delta_prefill *p, size_t *bytes, up_backend_error *error) {
  if (up_status s = supported(*p, "check delta prefill", error); s != UP_OK) return s;
  *bytes = record_bytes(*p);
  return UP_OK;
}

up_status recur_prefill(const up_delta_prefill *p, void *workspace, size_t workspace_bytes, void *stream,
                        up_backend_error *error) {
  constexpr const char *phase = "check delta prefill";
  if (up_status s = supported(*p, phase, error); s != UP_OK) return s;
  if (workspace_bytes < record_bytes(*p))
    return fail(error, UP_INVALID_ARGUMENT, phase, "workspace of %zu bytes: %zu are needed", workspace_bytes, record_bytes(*p));
  if (p->requests == 0 || p->max_rows == 0) return UP_OK;
  auto *records = static_cast<uint8_t *>(workspace);
  const auto queue = static_cast<cudaStream_t>(stream);
  if (up_status s = launch_delta_solve(*p, records, queue, error); s != UP_OK) return s;
  return launch_delta_scan(*p, records, queue, error);
}

up_status recur_decode(const up_delta_decode *p, void *stream, up_backend_error *error) {
  if (up_status s = supported(*p, "check delta decode", error); s != UP_OK) return s;
  if (p->requests == 0) return UP_OK;
  return launch_delta_decode(*p, static_cast<cudaStream_t>(stream), error);
}

}  // namespace up::cuda
