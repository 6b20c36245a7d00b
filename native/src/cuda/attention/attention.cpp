// Prefill and decode attention: what is supported, how the workspace is laid out, which kernel runs.
#include "cuda/attention/decode_attention.h"
#include "cuda/common/operators.h"
#include "cuda/attention/prefill_attention.h"

namespace up::cuda {

namespace {

template <class Attention>
up_status supported(const Attention &p, const char *phase, up_backend_error *error) {
  if (p.dtype != UP_BF16 && p.dtype != UP_F16)
    return fail(error, UP_UNSUPPORTED_DTYPE, phase, "dtype %d: bf16 (1) and f16 (2) are supported", p.dtype);
  if (p.head_dim != 64 && p.head_dim != 128 && p.head_dim != 256)
    return fail(error, UP_INVALID_ARGUMENT, phase, "head_dim %d: 64, 128 and 256 are supported", p.head_dim);
  return UP_OK;
}

struct PrefillLayout {
  size_t counts, items, joins, partial, logs, total;
};

PrefillLayout layout(const up_prefill_attention &p) {
  PrefillLayout l{};
  l.counts = aligned((static_cast<size_t>(p.requests) + 1) * sizeof(int));
  l.items = l.counts + aligned(4 * sizeof(int));
  l.joins = l.items + aligned(static_cast<size_t>(prefill_item_capacity(p)) * sizeof(PrefillItem));
  const auto parts = static_cast<size_t>(prefill_part_capacity(p));
  const size_t rows = parts * static_cast<size_t>(p.heads) * kPrefillRows;
  l.partial = l.joins + aligned(parts / 2 * sizeof(PrefillJoin));
  l.logs = l.partial + aligned(rows * static_cast<size_t>(p.head_dim) * sizeof(float));
  l.total = l.logs + aligned(rows * sizeof(float));
  return l;
}

struct DecodeLayout {
  size_t logs, total;
};

DecodeLayout layout(const up_decode_attention &p) {
  const auto splits = static_cast<size_t>(p.requests) * static_cast<size_t>(ceil_div(p.max_key_rows, kSplitKeys)) *
                      static_cast<size_t>(p.heads);
  DecodeLayout l{};
  l.logs = aligned(splits * static_cast<size_t>(p.head_dim) * sizeof(float));
  l.total = l.logs + aligned(splits * sizeof(float));
  return l;
}

up_status enough(size_t given, size_t needed, const char *phase, up_backend_error *error) {
  if (given >= needed) return UP_OK;
  return fail(error, UP_INVALID_ARGUMENT, phase, "workspace of %zu bytes: %zu are needed", given, needed);
}

up_status attend(const up_prefill_attention *p, const up_sparse_attention *sparse, void *workspace, size_t workspace_bytes,
                 void *stream, const char *phase, up_backend_error *error) {
  if (up_status s = supported(*p, phase, error); s != UP_OK) return s;
  const PrefillLayout l = layout(*p);
  if (up_status s = enough(workspace_bytes, l.total, phase, error); s != UP_OK) return s;
  if (p->requests == 0 || p->max_query_rows == 0) return UP_OK;
  auto *base = static_cast<uint8_t *>(workspace);
  const PrefillSchedule schedule{reinterpret_cast<int *>(base), reinterpret_cast<int *>(base + l.counts),
                                 reinterpret_cast<PrefillItem *>(base + l.items), reinterpret_cast<PrefillJoin *>(base + l.joins),
                                 reinterpret_cast<float *>(base + l.partial), reinterpret_cast<float *>(base + l.logs)};
  const auto queue = static_cast<cudaStream_t>(stream);
  switch (p->head_dim) {
    case 64:
      return launch_prefill_d64(*p, sparse, schedule, queue, error);
    case 128:
      return launch_prefill_d128(*p, sparse, schedule, queue, error);
    default:
      return launch_prefill_d256(*p, sparse, schedule, queue, error);
  }
}

}  // namespace

up_status prefill_attention_workspace(const up_prefill_attention *p, size_t *bytes, up_backend_error *error) {
  if (up_status s = supported(*p, "check prefill attention", error); s != UP_OK) return s;
  *bytes = layout(*p).total;
  return UP_OK;
}

up_status attend_prefill(const up_prefill_attention *p, void *workspace, size_t workspace_bytes, void *stream,
                         up_backend_error *error) {
  return attend(p, nullptr, workspace, workspace_bytes, stream, "check prefill attention", error);
}

up_status sparse_attention_workspace(const up_sparse_attention *p, size_t *bytes, up_backend_error *error) {
  return prefill_attention_workspace(&p->attention, bytes, error);
}

up_status attend_sparse(const up_sparse_attention *p, void *workspace, size_t workspace_bytes, void *stream,
                        up_backend_error *error) {
  return attend(&p->attention, p, workspace, workspace_bytes, stream, "check sparse attention", error);
}

up_status decode_attention_workspace(const up_decode_attention *p, size_t *bytes, up_backend_error *error) {
  if (up_status s = supported(*p, "check decode attention", error); s != UP_OK) return s;
  *bytes = layout(*p).total;
  return UP_OK;
}

up_status attend_decode(const up_decode_attention *p, void *workspace, size_t workspace_bytes, void *stream,
                        up_backend_error *error) {
  constexpr const char *phase = "check decode attention";
  if (up_status s = supported(*p, phase, error); s != UP_OK) return s;
  if (p->requests > kDecodeRequests)
    return fail(error, UP_INVALID_ARGUMENT, phase, "requests %d: at most %d", p->requests, kDecodeRequests);
  const DecodeLayout l = layout(*p);
  if (up_status s = enough(workspace_bytes, l.total, phase, error); s != UP_OK) return s;
  if (p->requests == 0) return UP_OK;
  auto *base = static_cast<uint8_t *>(workspace);
  const int group = p->heads / p->kv_heads;
  const DecodeArguments arguments{kv_table(p->keys, 64),
                                  kv_table(p->values, 64),
                                  p->queries,
                                  p->query_row_stride,
                                  p->query_head_stride,
                                  p->begin,
                                  p->end,
                                  p->output,
                                  p->output_row_stride,
                                  p->output_head_stride,
                                  reinterpret_cast<float *>(base),
                                  reinterpret_cast<float *>(base + l.logs),
                                  p->requests,
                                  p->max_key_rows,
                                  p->heads,
                                  p->kv_heads,
                                  group,
                                  static_cast<int>(ceil_div(group, kDecodeHeads)),
                                  p->scale,
                                  p->soft_cap};
  const auto queue = static_cast<cudaStream_t>(stream);
  if (p->max_key_rows > 0)
    if (up_status s = launch_decode_splits(*p, arguments, queue, error); s != UP_OK) return s;
  return launch_decode_combine(*p, arguments, queue, error);
}

}  // namespace up::cuda
