// The functions of this backend's table; see backend.h for what each promises.
#pragma once

#include "operators/backend.h"

namespace up::cuda {

up_status selection_workspace(const up_selection *p, size_t *bytes, up_backend_error *error);
up_status select(const up_selection *p, void *workspace, size_t workspace_bytes, void *stream, up_backend_error *error);

up_status gather_rows(const up_gather *p, void *stream, up_backend_error *error);

up_status prefill_attention_workspace(const up_prefill_attention *p, size_t *bytes, up_backend_error *error);
up_status attend_prefill(const up_prefill_attention *p, void *workspace, size_t workspace_bytes, void *stream,
                         up_backend_error *error);

up_status sparse_attention_workspace(const up_sparse_attention *p, size_t *bytes, up_backend_error *error);
up_status attend_sparse(const up_sparse_attention *p, void *workspace, size_t workspace_bytes, void *stream,
                        up_backend_error *error);

up_status decode_attention_workspace(const up_decode_attention *p, size_t *bytes, up_backend_error *error);
up_status attend_decode(const up_decode_attention *p, void *workspace, size_t workspace_bytes, void *stream,
                        up_backend_error *error);

up_status normalise(const up_rms_norm *p, void *stream, up_backend_error *error);
up_status rotate_and_write(const up_rope_write *p, void *stream, up_backend_error *error);
up_status activate(const up_gated_activation *p, void *stream, up_backend_error *error);
up_status embed(const up_embedding *p, void *stream, up_backend_error *error);

up_status sampler_workspace(const up_sampler *p, size_t *bytes, up_backend_error *error);
up_status sample(const up_sampler *p, void *workspace, size_t workspace_bytes, void *stream, up_backend_error *error);

up_status add_normed(const up_post_norm *p, void *stream, up_backend_error *error);
up_status edit_logits(const up_logit_edit *p, void *stream, up_backend_error *error);
up_status apply_gate(const up_output_gate *p, void *stream, up_backend_error *error);

up_status delta_prepare(const up_delta_input *p, void *stream, up_backend_error *error);
up_status delta_prefill_workspace(const up_delta_prefill *p, size_t *bytes, up_backend_error *error);
up_status recur_prefill(const up_delta_prefill *p, void *workspace, size_t workspace_bytes, void *stream,
                        up_backend_error *error);
up_status recur_decode(const up_delta_decode *p, void *stream, up_backend_error *error);
up_status normalise_gated(const up_gated_norm *p, void *stream, up_backend_error *error);

up_status route(const up_moe_router *p, void *stream, up_backend_error *error);
up_status moe_workspace(const up_moe *p, size_t *bytes, up_backend_error *error);
up_status run_experts(const up_moe *p, void *workspace, size_t workspace_bytes, void *stream, up_backend_error *error);

up_status create_backend(up_device_request *request, up_backend_error *error);

}  // namespace up::cuda
