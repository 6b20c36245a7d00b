// The rest of a layer: norm, rotary embedding, activation, embedding, sampling. CUDA only.
#include "operators/argument_checks.h"
#include "operators/backend_tables.h"

namespace up {
namespace {

void require_cuda(const up_backend &backend) {
  require_backend(backend);
  if (backend != UP_CUDA) fail(UP_INVALID_ARGUMENT, check_phase, "backend is 0 (reference): this operator exists on 1 (CUDA) alone");
}

// A tensor of rows: its pointer and the elements from one row to the next.
void require_rows(const void *pointer, int64_t stride, const char *name) {
  require_memory(UP_CUDA, pointer, name);
  require_multiple(stride, 8, (std::string(name) + "_stride").c_str());
}

bool check(const up_rms_norm *p) {
  require_struct(p, "up_rms_norm");
  require_dtype(UP_CUDA, p->dtype);
  require_range(p->rows, 0, INT32_MAX, "rows");
  require_multiple(p->width, 8, "width");
  require_range(p->width, 8, 16384, "width");
  require_not_negative(p->eps, "eps");
  if (!std::isfinite(p->weight_offset)) fail(UP_INVALID_ARGUMENT, check_phase, "weight_offset is not finite");
  if (p->rows == 0) return false;
  require_rows(p->input, p->input_stride, "input");
  optional_memory(UP_CUDA, p->indices, "indices");
  if (p->indices != nullptr) require_range(p->source_rows, 1, INT32_MAX, "source_rows");
  if (p->addend != nullptr) require_rows(p->addend, p->addend_stride, "addend");
  if (p->sum != nullptr) require_rows(p->sum, p->sum_stride, "sum");
  if (p->output == nullptr && p->sum == nullptr) fail(UP_INVALID_ARGUMENT, check_phase, "output and sum are both NULL");
  if (p->output != nullptr) {
    require_rows(p->output, p->output_stride, "output");
    require_memory(UP_CUDA, p->weight, "weight");
  }
  optional_memory(UP_CUDA, p->count, "count");
  return true;
}

bool check(const up_rope_write *p) {
  require_struct(p, "up_rope_write");
  require_dtype(UP_CUDA, p->dtype);
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
    require_memory(UP_CUDA, p->cosines, "cosines");
    require_memory(UP_CUDA, p->sines, "sines");
  }
  require_memory(UP_CUDA, p->positions, "positions");
  optional_memory(UP_CUDA, p->kv_requests, "kv_requests");
  require_memory(UP_CUDA, p->kv_rows, "kv_rows");
  if (p->heads > 0) {
    require_rows(p->queries, p->query_row_stride, "queries");
    require_rows(p->query_output, p->query_output_row_stride, "query_output");
  }
  require_rows(p->keys, p->key_row_stride, "keys");
  require_rows(p->values, p->value_row_stride, "values");
  require_kv(UP_CUDA, p->key_cache, p->max_key_rows, "key_cache");
  require_kv(UP_CUDA, p->value_cache, p->max_key_rows, "value_cache");
  return true;
}

bool check(const up_gated_activation *p) {
  require_struct(p, "up_gated_activation");
  require_dtype(UP_CUDA, p->dtype);
  require_one_of(enum_number(p->activation), {UP_SILU, UP_GELU_TANH}, "activation");
  require_range(p->rows, 0, INT32_MAX, "rows");
  require_multiple(p->inner, 8, "inner");
  if (p->rows == 0) return false;
  require_rows(p->input, p->input_stride, "input");
  require_rows(p->output, p->output_stride, "output");
  return true;
}

bool check(const up_embedding *p) {
  require_struct(p, "up_embedding");
  require_dtype(UP_CUDA, p->dtype);
  require_range(p->rows, 0, INT32_MAX, "rows");
  require_multiple(p->width, 8, "width");
  require_range(p->vocab_size, 1, INT32_MAX, "vocab_size");
  if (!std::isfinite(p->scale)) fail(UP_INVALID_ARGUMENT, check_phase, "scale is not finite");
  if (p->rows == 0) return false;
  require_memory(UP_CUDA, p->tokens, "tokens");
  require_rows(p->table, p->table_stride, "table");
  require_rows(p->output, p->output_stride, "output");
  return true;
}

bool check(const up_sampler *p) {
  require_struct(p, "up_sampler");
  require_one_of(enum_number(p->dtype), {UP_F32, UP_BF16, UP_F16}, "dtype");
  require_range(p->rows, 0, INT32_MAX, "rows");
  require_range(p->vocab_size, 1, 1 << 24, "vocab_size");
  require_range(p->slots, 0, INT32_MAX, "slots");
  require_range(p->logprob_count, 0, 32, "logprob_count");
  if (p->rows == 0) return false;
  require_memory(UP_CUDA, p->logits, "logits");
  require_range(p->logits_stride, p->vocab_size, INT64_MAX, "logits_stride");
  require_memory(UP_CUDA, p->parameters, "parameters");
  optional_memory(UP_CUDA, p->prompt_tokens, "prompt_tokens");
  optional_memory(UP_CUDA, p->output_counts, "output_counts");
  require_memory(UP_CUDA, p->tokens, "tokens");
  optional_memory(UP_CUDA, p->logprobs, "logprobs");
  if (p->logprob_count > 0) {
    require_memory(UP_CUDA, p->top_tokens, "top_tokens");
    require_memory(UP_CUDA, p->top_logprobs, "top_logprobs");
  }
  optional_memory(UP_CUDA, p->non_finite, "non_finite");
  return true;
}

template <class Parameters, class Entry>
up_status run(const char *operation, const up_backend &backend, const Parameters *p, void *stream, Entry entry) {
  return guard(operation, [&] {
    require_cuda(backend);
    if (check(p)) call_backend(backend_table(backend).*entry, p, stream);
  });
}

}  // namespace
}  // namespace up

extern "C" {

up_status up_normalise(up_backend backend, const up_rms_norm *p, void *stream) {
  return up::run("up_normalise", backend, p, stream, &up_backend_table::normalise);
}

up_status up_rotate_and_write(up_backend backend, const up_rope_write *p, void *stream) {
  return up::run("up_rotate_and_write", backend, p, stream, &up_backend_table::rotate_and_write);
}

up_status up_activate(up_backend backend, const up_gated_activation *p, void *stream) {
  return up::run("up_activate", backend, p, stream, &up_backend_table::activate);
}

up_status up_embed(up_backend backend, const up_embedding *p, void *stream) {
  return up::run("up_embed", backend, p, stream, &up_backend_table::embed);
}

up_status up_sampler_workspace(up_backend backend, const up_sampler *p, size_t *bytes) {
  return up::guard("up_sampler_workspace", [&] {
    up::require_cuda(backend);
    up::require_pointer(bytes, "bytes");
    *bytes = 0;
    if (up::check(p)) up::call_backend(up::backend_table(backend).sampler_workspace, p, bytes);
  });
}

up_status up_sample(up_backend backend, const up_sampler *p, void *workspace, size_t workspace_bytes, void *stream) {
  return up::guard("up_sample", [&] {
    up::require_cuda(backend);
    if (!up::check(p)) return;
    const up_backend_table &table = up::backend_table(backend);
    size_t needed = 0;
    up::call_backend(table.sampler_workspace, p, &needed);
    up::require_workspace(backend, workspace, workspace_bytes, needed);
    up::call_backend(table.sample, p, workspace, workspace_bytes, stream);
  });
}

}  // extern "C"
