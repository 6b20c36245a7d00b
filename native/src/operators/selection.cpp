// up_select and up_gather_rows: arguments checked, then the backend's own.
#include "operators/argument_checks.h"
#include "operators/backend_tables.h"

namespace up {
namespace {

// True when there is work to do.
bool check(const up_backend &backend, const up_selection *p) {
  require_backend(backend);
  require_struct(p, "up_selection");
  require_dtype(backend, p->dtype);
  require_range(p->requests, 0, 65535, "requests");
  require_heads(backend, p->heads, p->kv_heads, p->head_dim);
  require_range(p->max_rows, 1, 1 << 28, "max_rows");
  if (backend == UP_CUDA)
    require_one_of(p->block, {64}, "block");
  else
    require_range(p->block, 1, 1 << 20, "block");
  require_range(p->sink, 0, INT32_MAX / 2, "sink");
  require_range(p->last_q, 1, 128, "last_q");
  require_one_of(enum_number(p->rule), {UP_RULE_EXCLUSIVE, UP_RULE_REFERENCE}, "rule");
  require_positive(p->scale, "scale");
  require_not_negative(p->soft_cap, "soft_cap");
  if (p->requests == 0) return false;
  require_memory(backend, p->queries, "queries");
  require_stride(backend, p->query_request_stride, "query_request_stride");
  require_stride(backend, p->query_row_stride, "query_row_stride");
  require_stride(backend, p->query_head_stride, "query_head_stride");
  require_kv(backend, p->keys, p->max_rows, "keys");
  require_memory(backend, p->lengths, "lengths");
  require_memory(backend, p->p_q32, "p_q32");
  optional_memory(backend, p->masses, "masses");
  require_memory(backend, p->bitmaps, "bitmaps");
  require_memory(backend, p->kept, "kept");
  require_memory(backend, p->kept_lengths, "kept_lengths");
  optional_memory(backend, p->fallbacks, "fallbacks");
  return true;
}

bool check(const up_backend &backend, const up_gather *p) {
  require_backend(backend);
  require_struct(p, "up_gather");
  require_range(p->max_rows, 0, INT32_MAX, "max_rows");
  if (p->max_rows == 0) return false;
  require_range(p->source_rows, 1, INT32_MAX, "source_rows");
  require_multiple(p->row_bytes, 16, "row_bytes");
  require_multiple(p->source_stride_bytes, 16, "source_stride_bytes");
  require_multiple(p->target_stride_bytes, 16, "target_stride_bytes");
  require_memory(backend, p->source, "source");
  require_memory(backend, p->indices, "indices");
  require_memory(backend, p->count, "count");
  require_memory(backend, p->target, "target");
  return true;
}

}  // namespace
}  // namespace up

extern "C" {

up_status up_selection_workspace(up_backend backend, const up_selection *p, size_t *bytes) {
  return up::guard("up_selection_workspace", [&] {
    up::require_pointer(bytes, "bytes");
    *bytes = 0;
    if (up::check(backend, p)) up::call_backend(up::backend_table(backend).selection_workspace, p, bytes);
  });
}

up_status up_select(up_backend backend, const up_selection *p, void *workspace, size_t workspace_bytes, void *stream) {
  return up::guard("up_select", [&] {
    if (!up::check(backend, p)) return;
    const up_backend_table &table = up::backend_table(backend);
    size_t needed = 0;
    up::call_backend(table.selection_workspace, p, &needed);
    up::require_workspace(backend, workspace, workspace_bytes, needed);
    up::call_backend(table.select, p, workspace, workspace_bytes, stream);
  });
}

up_status up_gather_rows(up_backend backend, const up_gather *p, void *stream) {
  return up::guard("up_gather_rows", [&] {
    if (up::check(backend, p)) up::call_backend(up::backend_table(backend).gather_rows, p, stream);
  });
}

}  // extern "C"
