// up_edit_logits and up_sample: arguments checked, then the backend's own.
#include "operators/argument_checks.h"
#include "operators/backend_tables.h"

namespace up {
namespace {

void check_edits(up_backend backend, const up_logit_edits &e) {
  optional_memory(backend, e.starts, "edits.starts");
  require_range(e.edits, 0, INT32_MAX, "edits.edits");
  if (e.starts != nullptr && e.edits > 0) {
    require_memory(backend, e.tokens, "edits.tokens");
    require_memory(backend, e.values, "edits.values");
  }
  optional_memory(backend, e.mask_rows, "edits.mask_rows");
  require_range(e.masks_count, 0, INT32_MAX, "edits.masks_count");
  if (e.mask_rows != nullptr && e.masks_count > 0) require_memory(backend, e.masks, "edits.masks");
}

// True when there is work to do.
bool check(const up_backend &backend, const up_logit_edit *p) {
  require_backend(backend);
  require_struct(p, "up_logit_edit");
  require_one_of(enum_number(p->dtype), {UP_F32, UP_BF16, UP_F16}, "dtype");
  require_range(p->rows, 0, 65535, "rows");
  require_range(p->vocab_size, 1, 1 << 24, "vocab_size");
  require_not_negative(p->soft_cap, "soft_cap");
  if (p->rows == 0) return false;
  require_memory(backend, p->logits, "logits");
  require_range(p->logits_stride, p->vocab_size, INT64_MAX, "logits_stride");
  check_edits(backend, p->edits);
  return true;
}

bool check(const up_backend &backend, const up_sampler *p) {
  require_backend(backend);
  if (backend != UP_CUDA)
    fail(UP_INVALID_ARGUMENT, check_phase, "backend is 0 (reference): this operator exists on 1 (CUDA) alone");
  require_struct(p, "up_sampler");
  require_one_of(enum_number(p->dtype), {UP_F32, UP_BF16, UP_F16}, "dtype");
  require_range(p->rows, 0, 65535, "rows");
  require_range(p->vocab_size, 1, 1 << 24, "vocab_size");
  require_range(p->slots, 0, INT32_MAX, "slots");
  require_range(p->logprob_count, 0, 32, "logprob_count");
  if (p->rows == 0) return false;
  require_memory(backend, p->logits, "logits");
  require_range(p->logits_stride, p->vocab_size, INT64_MAX, "logits_stride");
  require_memory(backend, p->parameters, "parameters");
  optional_memory(backend, p->prompt_tokens, "prompt_tokens");
  optional_memory(backend, p->output_counts, "output_counts");
  require_memory(backend, p->tokens, "tokens");
  optional_memory(backend, p->logprobs, "logprobs");
  if (p->logprob_count > 0) {
    require_memory(backend, p->top_tokens, "top_tokens");
    require_memory(backend, p->top_logprobs, "top_logprobs");
  }
  optional_memory(backend, p->non_finite, "non_finite");
  check_edits(backend, p->edits);
  optional_memory(backend, p->forced, "forced");
  optional_memory(backend, p->last_tokens, "last_tokens");
  require_range(p->count_outputs, 0, 1, "count_outputs");
  return true;
}

}  // namespace
}  // namespace up

extern "C" {

up_status up_edit_logits(up_backend backend, const up_logit_edit *p, void *stream) {
  return up::guard("up_edit_logits", [&] {
    if (up::check(backend, p)) up::call_backend(up::backend_table(backend).edit_logits, p, stream);
  });
}

up_status up_sampler_workspace(up_backend backend, const up_sampler *p, size_t *bytes) {
  return up::guard("up_sampler_workspace", [&] {
    up::require_pointer(bytes, "bytes");
    *bytes = 0;
    if (up::check(backend, p)) up::call_backend(up::backend_table(backend).sampler_workspace, p, bytes);
  });
}

up_status up_sample(up_backend backend, const up_sampler *p, void *workspace, size_t workspace_bytes, void *stream) {
  return up::guard("up_sample", [&] {
    if (!up::check(backend, p)) return;
    const up_backend_table &table = up::backend_table(backend);
    size_t needed = 0;
    up::call_backend(table.sampler_workspace, p, &needed);
    up::require_workspace(backend, workspace, workspace_bytes, needed);
    up::call_backend(table.sample, p, workspace, workspace_bytes, stream);
  });
}

}  // extern "C"
