// up_attend_prefill and up_attend_decode: arguments checked, then the backend's own.
#include "operators/argument_checks.h"
#include "operators/backend_tables.h"

namespace up {
namespace {

template <class Attention>
void check_shared(up_backend backend, const Attention *p) {
  require_dtype(backend, p->dtype);
  require_range(p->requests, 0, 65535, "requests");
  require_range(p->max_key_rows, 1, 1 << 28, "max_key_rows");
  require_heads(backend, p->heads, p->kv_heads, p->head_dim);
  require_positive(p->scale, "scale");
  require_not_negative(p->soft_cap, "soft_cap");
}

template <class Attention>
void check_memory(up_backend backend, const Attention *p) {
  require_memory(backend, p->queries, "queries");
  require_stride(backend, p->query_row_stride, "query_row_stride");
  require_stride(backend, p->query_head_stride, "query_head_stride");
  require_kv(backend, p->keys, p->max_key_rows, "keys");
  require_kv(backend, p->values, p->max_key_rows, "values");
  require_memory(backend, p->output, "output");
  require_stride(backend, p->output_row_stride, "output_row_stride");
  require_stride(backend, p->output_head_stride, "output_head_stride");
}

// True when there is work to do.
bool check(const up_backend &backend, const up_prefill_attention *p) {
  require_backend(backend);
  require_struct(p, "up_prefill_attention");
  check_shared(backend, p);
  require_range(p->max_query_rows, 0, 1 << 28, "max_query_rows");
  if (p->requests == 0 || p->max_query_rows == 0) return false;
  check_memory(backend, p);
  require_memory(backend, p->row_starts, "row_starts");
  optional_memory(backend, p->lo, "lo");
  require_memory(backend, p->hi, "hi");
  return true;
}

bool check(const up_backend &backend, const up_sparse_attention *p) {
  require_backend(backend);
  require_struct(p, "up_sparse_attention");
  if (!check(backend, &p->attention)) return false;
  require_range(p->query_blocks, 1, 1 << 28, "query_blocks");
  require_memory(backend, p->block_starts, "block_starts");
  require_memory(backend, p->bitmaps, "bitmaps");
  return true;
}

bool check(const up_backend &backend, const up_decode_attention *p) {
  require_backend(backend);
  require_struct(p, "up_decode_attention");
  check_shared(backend, p);
  if (p->requests == 0) return false;
  check_memory(backend, p);
  optional_memory(backend, p->begin, "begin");
  require_memory(backend, p->end, "end");
  return true;
}

template <class Attention, class Query>
up_status workspace(const char *operation, const up_backend &backend, const Attention *p, size_t *bytes, Query query) {
  return guard(operation, [&] {
    require_pointer(bytes, "bytes");
    *bytes = 0;
    if (check(backend, p)) call_backend(backend_table(backend).*query, p, bytes);
  });
}

template <class Attention, class Query, class Entry>
up_status attend(const char *operation, const up_backend &backend, const Attention *p, void *workspace, size_t workspace_bytes,
                 void *stream, Query query, Entry entry) {
  return guard(operation, [&] {
    if (!check(backend, p)) return;
    const up_backend_table &table = backend_table(backend);
    size_t needed = 0;
    call_backend(table.*query, p, &needed);
    require_workspace(backend, workspace, workspace_bytes, needed);
    call_backend(table.*entry, p, workspace, workspace_bytes, stream);
  });
}

}  // namespace
}  // namespace up

extern "C" {

up_status up_prefill_attention_workspace(up_backend backend, const up_prefill_attention *p, size_t *bytes) {
  return up::workspace("up_prefill_attention_workspace", backend, p, bytes, &up_backend_table::prefill_attention_workspace);
}

up_status up_attend_prefill(up_backend backend, const up_prefill_attention *p, void *workspace, size_t workspace_bytes,
                            void *stream) {
  return up::attend("up_attend_prefill", backend, p, workspace, workspace_bytes, stream,
                    &up_backend_table::prefill_attention_workspace, &up_backend_table::attend_prefill);
}

up_status up_sparse_attention_workspace(up_backend backend, const up_sparse_attention *p, size_t *bytes) {
  return up::workspace("up_sparse_attention_workspace", backend, p, bytes, &up_backend_table::sparse_attention_workspace);
}

up_status up_attend_sparse(up_backend backend, const up_sparse_attention *p, void *workspace, size_t workspace_bytes,
                           void *stream) {
  return up::attend("up_attend_sparse", backend, p, workspace, workspace_bytes, stream,
                    &up_backend_table::sparse_attention_workspace, &up_backend_table::attend_sparse);
}

up_status up_decode_attention_workspace(up_backend backend, const up_decode_attention *p, size_t *bytes) {
  return up::workspace("up_decode_attention_workspace", backend, p, bytes, &up_backend_table::decode_attention_workspace);
}

up_status up_attend_decode(up_backend backend, const up_decode_attention *p, void *workspace, size_t workspace_bytes,
                           void *stream) {
  return up::attend("up_attend_decode", backend, p, workspace, workspace_bytes, stream,
                    &up_backend_table::decode_attention_workspace, &up_backend_table::attend_decode);
}

}  // extern "C"
