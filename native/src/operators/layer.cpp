// The rest of a layer: norms, rotary embedding, activation, gate, embedding. Arguments checked, then the backend's own.
#include "operators/argument_checks.h"
#include "operators/backend_tables.h"

namespace up {
namespace {

bool check(const up_backend &backend, const up_rms_norm *p) {
  require_struct(p, "up_rms_norm");
  require_dtype(backend, p->dtype);
  require_range(p->rows, 0, INT32_MAX, "rows");
  require_multiple(p->width, 8, "width");
  require_range(p->width, 8, 16384, "width");
  require_not_negative(p->eps, "eps");
  require_finite(p->weight_offset, "weight_offset");
  if (p->rows == 0) return false;
  require_rows(backend, p->input, p->input_stride, "input");
  optional_memory(backend, p->indices, "indices");
  if (p->indices != nullptr) require_range(p->source_rows, 1, INT32_MAX, "source_rows");
  if (p->addend != nullptr) require_rows(backend, p->addend, p->addend_stride, "addend");
  if (p->sum != nullptr) require_rows(backend, p->sum, p->sum_stride, "sum");
  if (p->output == nullptr && p->sum == nullptr) fail(UP_INVALID_ARGUMENT, check_phase, "output and sum are both NULL");
  if (p->output != nullptr) {
    require_rows(backend, p->output, p->output_stride, "output");
    require_memory(backend, p->weight, "weight");
  }
  optional_memory(backend, p->count, "count");
  return true;
}

bool check(const up_backend &backend, const up_post_norm *p) {
  require_struct(p, "up_post_norm");
  require_dtype(backend, p->dtype);
  require_range(p->rows, 0, INT32_MAX, "rows");
  require_multiple(p->width, 8, "width");
  require_range(p->width, 8, 16384, "width");
  require_not_negative(p->eps, "eps");
  require_finite(p->weight_offset, "weight_offset");
  if (p->rows == 0) return false;
  require_rows(backend, p->input, p->input_stride, "input");
  require_memory(backend, p->weight, "weight");
  require_rows(backend, p->residual, p->residual_stride, "residual");
  optional_memory(backend, p->indices, "indices");
  if (p->indices != nullptr) require_range(p->source_rows, 1, INT32_MAX, "source_rows");
  require_rows(backend, p->sum, p->sum_stride, "sum");
  if (p->next_weight != nullptr) {
    require_memory(backend, p->next_weight, "next_weight");
    require_not_negative(p->next_eps, "next_eps");
    require_finite(p->next_weight_offset, "next_weight_offset");
    require_rows(backend, p->output, p->output_stride, "output");
  }
  optional_memory(backend, p->count, "count");
  return true;
}

bool check(const up_backend &backend, const up_rope_write *p) {
  require_struct(p, "up_rope_write");
  require_dtype(backend, p->dtype);
  require_range(p->rows, 0, INT32_MAX, "rows");
  require_range(p->heads, 0, 65535, "heads");
  require_range(p->kv_heads, 1, 4096, "kv_heads");
  require_multiple(p->head_dim, 16, "head_dim");
  require_range(p->rotary_dim, 0, p->head_dim, "rotary_dim");
  if (p->rotary_dim > 0) require_multiple(p->rotary_dim, 16, "rotary_dim");
  require_range(p->positions_limit, 1, INT32_MAX, "positions_limit");
  require_range(p->requests, 1, INT32_MAX, "requests");
  require_range(p->max_key_rows, 1, 1 << 28, "max_key_rows");
  if (p->rows == 0) return false;
  if (p->rotary_dim > 0) {
    require_memory(backend, p->cosines, "cosines");
    require_memory(backend, p->sines, "sines");
  }
  require_memory(backend, p->positions, "positions");
  optional_memory(backend, p->kv_requests, "kv_requests");
  require_memory(backend, p->kv_rows, "kv_rows");
  if (p->heads > 0) {
    require_rows(backend, p->queries, p->query_row_stride, "queries");
    require_rows(backend, p->query_output, p->query_output_row_stride, "query_output");
  }
  require_rows(backend, p->keys, p->key_row_stride, "keys");
  require_rows(backend, p->values, p->value_row_stride, "values");
  require_kv(backend, p->key_cache, p->max_key_rows, "key_cache");
  require_kv(backend, p->value_cache, p->max_key_rows, "value_cache");
  if (p->query_head_stride != 0) {
    require_stride(backend, p->query_head_stride, "query_head_stride");
    require_range(p->query_head_stride, p->head_dim, INT32_MAX, "query_head_stride");
  }
  optional_memory(backend, p->query_norm, "query_norm");
  optional_memory(backend, p->key_norm, "key_norm");
  if (p->query_norm != nullptr || p->key_norm != nullptr) {
    require_one_of(p->head_dim, {16, 32, 64, 128, 256, 512}, "head_dim");
    require_not_negative(p->norm_eps, "norm_eps");
    require_finite(p->norm_weight_offset, "norm_weight_offset");
  }
  return true;
}

bool check(const up_backend &backend, const up_gated_activation *p) {
  require_struct(p, "up_gated_activation");
  require_dtype(backend, p->dtype);
  require_one_of(enum_number(p->activation), {UP_SILU, UP_GELU_TANH}, "activation");
  require_range(p->rows, 0, INT32_MAX, "rows");
  require_multiple(p->inner, 8, "inner");
  if (p->rows == 0) return false;
  require_rows(backend, p->input, p->input_stride, "input");
  require_rows(backend, p->output, p->output_stride, "output");
  return true;
}

bool check(const up_backend &backend, const up_output_gate *p) {
  require_struct(p, "up_output_gate");
  require_dtype(backend, p->dtype);
  require_range(p->rows, 0, INT32_MAX, "rows");
  require_range(p->heads, 1, 65535, "heads");
  require_multiple(p->head_dim, 8, "head_dim");
  if (p->rows == 0) return false;
  require_memory(backend, p->gate, "gate");
  require_stride(backend, p->gate_row_stride, "gate_row_stride");
  require_stride(backend, p->gate_head_stride, "gate_head_stride");
  require_memory(backend, p->attended, "attended");
  require_stride(backend, p->attended_row_stride, "attended_row_stride");
  require_stride(backend, p->attended_head_stride, "attended_head_stride");
  return true;
}

bool check(const up_backend &backend, const up_embedding *p) {
  require_struct(p, "up_embedding");
  require_dtype(backend, p->dtype);
  require_range(p->rows, 0, INT32_MAX, "rows");
  require_multiple(p->width, 8, "width");
  require_range(p->vocab_size, 1, INT32_MAX, "vocab_size");
  require_finite(p->scale, "scale");
  if (p->rows == 0) return false;
  require_memory(backend, p->tokens, "tokens");
  require_rows(backend, p->table, p->table_stride, "table");
  require_rows(backend, p->output, p->output_stride, "output");
  optional_memory(backend, p->last_tokens, "last_tokens");
  if (p->last_tokens != nullptr) require_range(p->slots, 1, INT32_MAX, "slots");
  return true;
}

template <class Parameters, class Entry>
up_status run(const char *operation, const up_backend &backend, const Parameters *p, void *stream, Entry entry) {
  return guard(operation, [&] {
    require_backend(backend);
    if (check(backend, p)) call_backend(backend_table(backend).*entry, p, stream);
  });
}

}  // namespace
}  // namespace up

extern "C" {

up_status up_normalise(up_backend backend, const up_rms_norm *p, void *stream) {
  return up::run("up_normalise", backend, p, stream, &up_backend_table::normalise);
}

up_status up_add_normed(up_backend backend, const up_post_norm *p, void *stream) {
  return up::run("up_add_normed", backend, p, stream, &up_backend_table::add_normed);
}

up_status up_rotate_and_write(up_backend backend, const up_rope_write *p, void *stream) {
  return up::run("up_rotate_and_write", backend, p, stream, &up_backend_table::rotate_and_write);
}

up_status up_activate(up_backend backend, const up_gated_activation *p, void *stream) {
  return up::run("up_activate", backend, p, stream, &up_backend_table::activate);
}

up_status up_apply_gate(up_backend backend, const up_output_gate *p, void *stream) {
  return up::run("up_apply_gate", backend, p, stream, &up_backend_table::apply_gate);
}

up_status up_embed(up_backend backend, const up_embedding *p, void *stream) {
  return up::run("up_embed", backend, p, stream, &up_backend_table::embed);
}

}  // extern "C"
