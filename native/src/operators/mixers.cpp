// Gated DeltaNet and mixture of experts: arguments checked, then the backend's own.
#include "operators/argument_checks.h"
#include "operators/backend_tables.h"

namespace up {
namespace {

void check_states(up_backend backend, const up_states &s) {
  require_memory(backend, s.data, "states.data");
  require_stride(backend, s.stride, "states.stride");
  require_range(s.slots, 1, INT32_MAX, "states.slots");
  require_memory(backend, s.source_slots, "states.source_slots");
  require_memory(backend, s.target_slots, "states.target_slots");
  require_range(s.snapshots, 0, INT32_MAX, "states.snapshots");
  if (s.snapshots == 0) return;
  require_memory(backend, s.snapshot_starts, "states.snapshot_starts");
  require_memory(backend, s.snapshot_rows, "states.snapshot_rows");
  require_memory(backend, s.snapshot_slots, "states.snapshot_slots");
}

// True when there is work to do.
bool check(const up_backend &backend, const up_delta_input *p) {
  require_struct(p, "up_delta_input");
  require_dtype(backend, p->dtype);
  require_range(p->requests, 0, 65535, "requests");
  require_range(p->max_rows, 0, 1 << 28, "max_rows");
  require_multiple(p->channels, 8, "channels");
  require_one_of(p->kernel, {2, 3, 4}, "kernel");
  require_range(p->heads, 0, 4096, "heads");
  if (p->requests == 0 || p->max_rows == 0) return false;
  require_memory(backend, p->input, "input");
  require_stride(backend, p->input_row_stride, "input_row_stride");
  require_memory(backend, p->weight, "weight");
  require_memory(backend, p->row_starts, "row_starts");
  check_states(backend, p->states);
  require_memory(backend, p->output, "output");
  require_stride(backend, p->output_row_stride, "output_row_stride");
  if (p->heads == 0) return true;
  require_pointer(p->decay_input, "decay_input");
  require_range(p->decay_input_stride, p->heads, INT64_MAX, "decay_input_stride");
  require_pointer(p->beta_input, "beta_input");
  require_range(p->beta_input_stride, p->heads, INT64_MAX, "beta_input_stride");
  require_memory(backend, p->a_log, "a_log");
  require_memory(backend, p->dt_bias, "dt_bias");
  require_memory(backend, p->decay, "decay");
  require_memory(backend, p->beta, "beta");
  return true;
}

template <class Delta>
void check_delta(up_backend backend, const Delta *p) {
  require_dtype(backend, p->dtype);
  require_range(p->requests, 0, 65535, "requests");
  require_range(p->key_heads, 1, 4096, "key_heads");
  require_range(p->value_heads, 1, 65535, "value_heads");
  if (p->value_heads % p->key_heads != 0)
    fail(UP_INVALID_ARGUMENT, check_phase, "value_heads is ", p->value_heads, ", must be a multiple of key_heads, which is ",
         p->key_heads);
  if (backend == UP_CUDA) {
    require_one_of(p->key_dim, {64, 128}, "key_dim");
    require_one_of(p->value_dim, {64, 128}, "value_dim");
  } else {
    require_range(p->key_dim, 1, 4096, "key_dim");
    require_range(p->value_dim, 1, 4096, "value_dim");
  }
  require_range(p->normalise, 0, 1, "normalise");
  if (p->normalise != 0) require_not_negative(p->norm_eps, "norm_eps");
  require_positive(p->scale, "scale");
}

template <class Delta>
void check_delta_memory(up_backend backend, const Delta *p) {
  require_memory(backend, p->queries, "queries");
  require_stride(backend, p->query_row_stride, "query_row_stride");
  require_memory(backend, p->keys, "keys");
  require_stride(backend, p->key_row_stride, "key_row_stride");
  require_memory(backend, p->values, "values");
  require_stride(backend, p->value_row_stride, "value_row_stride");
  require_memory(backend, p->decay, "decay");
  require_memory(backend, p->beta, "beta");
  check_states(backend, p->states);
  require_memory(backend, p->output, "output");
  require_stride(backend, p->output_row_stride, "output_row_stride");
}

bool check(const up_backend &backend, const up_delta_prefill *p) {
  require_struct(p, "up_delta_prefill");
  check_delta(backend, p);
  require_range(p->max_rows, 0, 1 << 28, "max_rows");
  if (p->requests == 0 || p->max_rows == 0) return false;
  check_delta_memory(backend, p);
  require_memory(backend, p->row_starts, "row_starts");
  return true;
}

bool check(const up_backend &backend, const up_delta_decode *p) {
  require_struct(p, "up_delta_decode");
  check_delta(backend, p);
  if (p->requests == 0) return false;
  check_delta_memory(backend, p);
  return true;
}

bool check(const up_backend &backend, const up_gated_norm *p) {
  require_struct(p, "up_gated_norm");
  require_dtype(backend, p->dtype);
  require_range(p->rows, 0, INT32_MAX, "rows");
  require_range(p->heads, 1, 65535, "heads");
  if (backend == UP_CUDA)
    require_one_of(p->head_dim, {64, 128, 256}, "head_dim");
  else
    require_range(p->head_dim, 1, 4096, "head_dim");
  require_not_negative(p->eps, "eps");
  if (p->rows == 0) return false;
  require_memory(backend, p->input, "input");
  require_stride(backend, p->input_row_stride, "input_row_stride");
  require_memory(backend, p->gate, "gate");
  require_stride(backend, p->gate_row_stride, "gate_row_stride");
  require_memory(backend, p->weight, "weight");
  require_memory(backend, p->output, "output");
  require_stride(backend, p->output_row_stride, "output_row_stride");
  return true;
}

bool check(const up_backend &backend, const up_moe_router *p) {
  require_struct(p, "up_moe_router");
  require_one_of(enum_number(p->dtype), {UP_F32, UP_BF16, UP_F16}, "dtype");
  require_range(p->rows, 0, INT32_MAX, "rows");
  require_range(p->experts, 1, 1024, "experts");
  require_range(p->top_k, 1, p->experts < 32 ? p->experts : 32, "top_k");
  require_range(p->renormalise, 0, 1, "renormalise");
  if (p->rows == 0) return false;
  require_memory(backend, p->logits, "logits");
  require_range(p->logits_stride, p->experts, INT64_MAX, "logits_stride");
  require_memory(backend, p->chosen, "chosen");
  require_memory(backend, p->weights, "weights");
  return true;
}

bool check(const up_backend &backend, const up_moe *p) {
  require_struct(p, "up_moe");
  require_dtype(backend, p->dtype);
  require_one_of(enum_number(p->activation), {UP_SILU, UP_GELU_TANH}, "activation");
  require_range(p->experts, 1, 1024, "experts");
  require_range(p->top_k, 1, 32, "top_k");
  require_range(p->rows, 0, INT32_MAX / 64, "rows");
  require_multiple(p->hidden, backend == UP_CUDA ? 64 : 1, "hidden");
  require_multiple(p->inner, backend == UP_CUDA ? 64 : 1, "inner");
  if (p->rows == 0) return false;
  require_memory(backend, p->input, "input");
  require_stride(backend, p->input_stride, "input_stride");
  require_memory(backend, p->chosen, "chosen");
  require_memory(backend, p->weights, "weights");
  require_memory(backend, p->gate_up, "gate_up");
  require_memory(backend, p->down, "down");
  if (p->shared != nullptr) require_rows(backend, p->shared, p->shared_stride, "shared");
  if (p->shared_gate != nullptr) require_multiple(p->shared_gate_stride, 1, "shared_gate_stride");
  require_rows(backend, p->output, p->output_stride, "output");
  return true;
}

template <class Parameters, class Entry>
up_status run(const char *operation, const up_backend &backend, const Parameters *p, void *stream, Entry entry) {
  return guard(operation, [&] {
    require_backend(backend);
    if (check(backend, p)) call_backend(backend_table(backend).*entry, p, stream);
  });
}

template <class Parameters, class Query>
up_status workspace(const char *operation, const up_backend &backend, const Parameters *p, size_t *bytes, Query query) {
  return guard(operation, [&] {
    require_backend(backend);
    require_pointer(bytes, "bytes");
    *bytes = 0;
    if (check(backend, p)) call_backend(backend_table(backend).*query, p, bytes);
  });
}

template <class Parameters, class Query, class Entry>
up_status run(const char *operation, const up_backend &backend, const Parameters *p, void *workspace, size_t workspace_bytes,
              void *stream, Query query, Entry entry) {
  return guard(operation, [&] {
    require_backend(backend);
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

up_status up_delta_prepare(up_backend backend, const up_delta_input *p, void *stream) {
  return up::run("up_delta_prepare", backend, p, stream, &up_backend_table::delta_prepare);
}

up_status up_delta_prefill_workspace(up_backend backend, const up_delta_prefill *p, size_t *bytes) {
  return up::workspace("up_delta_prefill_workspace", backend, p, bytes, &up_backend_table::delta_prefill_workspace);
}

up_status up_recur_prefill(up_backend backend, const up_delta_prefill *p, void *workspace, size_t workspace_bytes,
                           void *stream) {
  return up::run("up_recur_prefill", backend, p, workspace, workspace_bytes, stream,
                 &up_backend_table::delta_prefill_workspace, &up_backend_table::recur_prefill);
}

up_status up_recur_decode(up_backend backend, const up_delta_decode *p, void *stream) {
  return up::run("up_recur_decode", backend, p, stream, &up_backend_table::recur_decode);
}

up_status up_normalise_gated(up_backend backend, const up_gated_norm *p, void *stream) {
  return up::run("up_normalise_gated", backend, p, stream, &up_backend_table::normalise_gated);
}

up_status up_route(up_backend backend, const up_moe_router *p, void *stream) {
  return up::run("up_route", backend, p, stream, &up_backend_table::route);
}

up_status up_moe_workspace(up_backend backend, const up_moe *p, size_t *bytes) {
  return up::workspace("up_moe_workspace", backend, p, bytes, &up_backend_table::moe_workspace);
}

up_status up_run_experts(up_backend backend, const up_moe *p, void *workspace, size_t workspace_bytes, void *stream) {
  return up::run("up_run_experts", backend, p, workspace, workspace_bytes, stream, &up_backend_table::moe_workspace,
                 &up_backend_table::run_experts);
}

}  // extern "C"
