/*
 * What a backend of the operators is: a table of functions behind one exported symbol.
 *
 * libuniprefill checks every argument that it can check without touching device memory (sizes, shapes, dtypes, pointers,
 * alignment, workspace bytes) and only then calls the table, so a backend need not check them again. It still answers
 * UP_UNSUPPORTED_DTYPE or UP_INVALID_ARGUMENT for a combination that it has no kernel for.
 *
 * A backend in a library of its own exports `up_cuda_backend`, found with dlopen(RTLD_NOW | RTLD_LOCAL) and dlsym. The
 * table lives as long as the process; every function may be called from any thread. No function allocates device memory
 * or waits for the device, and none throws.
 */
#ifndef UNIPREFILL_BACKEND_H
#define UNIPREFILL_BACKEND_H

#include "uniprefill/operators.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Raised by any change of the table's layout or of a parameter struct that older backends could not read. */
#define UP_BACKEND_ABI 2

/* Why a call failed; the backend writes NUL-terminated text (snprintf), libuniprefill makes it up_last_error(). */
typedef struct up_backend_error {
  char phase[64];   /* "launch selection" */
  char detail[448]; /* "cudaLaunchKernelExC: invalid configuration, grid 0 x 1" */
} up_backend_error;

struct up_device_request;

typedef struct up_backend_table {
  int32_t abi;      /* UP_BACKEND_ABI of the header it was compiled with; the first field for ever */
  const char *name; /* "cuda 13.0 sm_90a" */

  /* UP_OK when this machine can run it (a driver that is new enough, a device of the right kind); cheap after the first. */
  up_status (*available)(up_backend_error *error);

  up_status (*selection_workspace)(const up_selection *p, size_t *bytes, up_backend_error *error);
  up_status (*select)(const up_selection *p, void *workspace, size_t workspace_bytes, void *stream, up_backend_error *error);

  up_status (*gather_rows)(const up_gather *p, void *stream, up_backend_error *error);

  up_status (*prefill_attention_workspace)(const up_prefill_attention *p, size_t *bytes, up_backend_error *error);
  up_status (*attend_prefill)(const up_prefill_attention *p, void *workspace, size_t workspace_bytes, void *stream,
                              up_backend_error *error);

  up_status (*decode_attention_workspace)(const up_decode_attention *p, size_t *bytes, up_backend_error *error);
  up_status (*attend_decode)(const up_decode_attention *p, void *workspace, size_t workspace_bytes, void *stream,
                             up_backend_error *error);

  up_status (*normalise)(const up_rms_norm *p, void *stream, up_backend_error *error);
  up_status (*rotate_and_write)(const up_rope_write *p, void *stream, up_backend_error *error);
  up_status (*activate)(const up_gated_activation *p, void *stream, up_backend_error *error);
  up_status (*embed)(const up_embedding *p, void *stream, up_backend_error *error);

  up_status (*sampler_workspace)(const up_sampler *p, size_t *bytes, up_backend_error *error);
  up_status (*sample)(const up_sampler *p, void *workspace, size_t workspace_bytes, void *stream, up_backend_error *error);

  up_status (*sparse_attention_workspace)(const up_sparse_attention *p, size_t *bytes, up_backend_error *error);
  up_status (*attend_sparse)(const up_sparse_attention *p, void *workspace, size_t workspace_bytes, void *stream,
                             up_backend_error *error);

  up_status (*add_normed)(const up_post_norm *p, void *stream, up_backend_error *error);
  up_status (*apply_gate)(const up_output_gate *p, void *stream, up_backend_error *error);
  up_status (*edit_logits)(const up_logit_edit *p, void *stream, up_backend_error *error);

  up_status (*delta_prepare)(const up_delta_input *p, void *stream, up_backend_error *error);
  up_status (*delta_prefill_workspace)(const up_delta_prefill *p, size_t *bytes, up_backend_error *error);
  up_status (*recur_prefill)(const up_delta_prefill *p, void *workspace, size_t workspace_bytes, void *stream,
                             up_backend_error *error);
  up_status (*recur_decode)(const up_delta_decode *p, void *stream, up_backend_error *error);
  up_status (*normalise_gated)(const up_gated_norm *p, void *stream, up_backend_error *error);

  up_status (*route)(const up_moe_router *p, void *stream, up_backend_error *error);
  up_status (*moe_workspace)(const up_moe *p, size_t *bytes, up_backend_error *error);
  up_status (*run_experts)(const up_moe *p, void *workspace, size_t workspace_bytes, void *stream, up_backend_error *error);

  /* This project's own engine on the backend (device_backend.h). C++ on both sides: the libraries must be of one build. */
  up_status (*create_backend)(struct up_device_request *request, up_backend_error *error);
} up_backend_table;

/* The one symbol of libuniprefill_cuda.so. Never NULL; what is missing on this machine is what `available` says. */
typedef const up_backend_table *(*up_cuda_backend_function)(void);
UP_API const up_backend_table *up_cuda_backend(void);

#ifdef __cplusplus
}
#endif

#endif
