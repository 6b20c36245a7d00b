/*
 * uniprefill's operators for Gated DeltaNet layers and mixtures of experts. Part of operators.h, which has the conventions.
 *
 * Rows of request b are row_starts[b] … row_starts[b+1]-1 of the batch. A Gated DeltaNet layer runs, in order, up_delta_prepare,
 * up_delta_prefill or up_delta_decode, and up_normalise_gated.
 */
#ifndef UNIPREFILL_MIXERS_H
#define UNIPREFILL_MIXERS_H

#include "operators.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Recurrent states of several requests in a pool of slots. A slot outside 0 … slots-1 is none: such a request begins with
 * zeros, or leaves no state. No two requests of a call may write the same slot; a request may read the one that it writes.
 */
typedef struct up_states {
  void *data;
  int64_t stride; /* elements from one slot's state to the next one's */
  int32_t slots;  /* that data holds */
  int32_t snapshots;              /* capacity of the lists below; 0: none are taken */
  const int32_t *source_slots;    /* [requests], on the device: where request b goes on from */
  const int32_t *target_slots;    /* [requests], on the device: where its state is left */
  const int32_t *snapshot_starts; /* [requests + 1], on the device: request b has snapshots starts[b] … starts[b+1]-1 */
  const int32_t *snapshot_rows;   /* [snapshots]: rows of the request in this call that come before it; ascending in a request, */
                                  /* positive multiples of 64, at most the request's rows: others are not taken */
  const int32_t *snapshot_slots;  /* [snapshots]: where it is left */
} up_states;

/*
 * Causal depthwise convolution of q|k|v and SiLU: output[i, c] = silu(Σ_t weight[c, t] · x[i - kernel + 1 + t, c]), where the rows
 * before a request's first come from its state, the kernel-1 inputs before. And the gates of every value head: decay =
 * -exp(a_log) · softplus(a + dt_bias), beta = sigmoid(b), rounded to dtype.
 */
typedef struct up_delta_input {
  size_t size;
  up_dtype dtype; /* of all but the gates put out */
  int32_t requests;
  int32_t max_rows; /* capacity of the batch */
  int32_t channels; /* a multiple of 8 */
  int32_t kernel;   /* 2, 3 or 4 */
  const void *input; /* [rows, channels] */
  int64_t input_row_stride;
  const void *weight; /* [channels, kernel], the oldest input's first */
  const int32_t *row_starts; /* [requests + 1], on the device */
  up_states states;          /* of dtype, [kernel - 1, channels] each, oldest first */
  void *output;              /* [rows, channels]; not input */
  int64_t output_row_stride;
  int32_t heads; /* value heads; 0: no gates */
  const void *decay_input; /* a: [rows, heads]; aligned to an element */
  int64_t decay_input_stride;
  const void *beta_input; /* b: [rows, heads]; aligned to an element */
  int64_t beta_input_stride;
  const float *a_log;   /* [heads] */
  const float *dt_bias; /* [heads] */
  float *decay;         /* [rows, heads], log of the factor */
  float *beta;          /* [rows, heads] */
} up_delta_input;

UP_API up_status up_delta_prepare(up_backend backend, const up_delta_input *p, void *stream);

/*
 * The gated delta rule, for every value head h with key head h / (value_heads / key_heads): S ← e^decay · S; S ← S + k ⊗ β(v - Sᵀk);
 * o = scale · Sᵀq, where q and k are divided by sqrt(Σx² + norm_eps) first when normalise is 1. In chunks of 64 rows, counted from
 * the request's first row in the call: a request continued over several calls, cut at multiples of 64, gives the same bits as in
 * one. decay must not be above 0, β not above 1, and keys not longer than 1 for the chunked form to hold its precision.
 */
typedef struct up_delta_prefill {
  size_t size;
  up_dtype dtype; /* of queries, keys, values and output */
  int32_t requests;
  int32_t max_rows; /* capacity of the batch */
  int32_t key_heads;
  int32_t value_heads; /* a multiple of key_heads */
  int32_t key_dim;     /* 64 or 128 */
  int32_t value_dim;   /* 64 or 128 */
  int32_t normalise;
  float norm_eps;
  float scale;
  const void *queries; /* [rows, key_heads, key_dim] */
  int64_t query_row_stride;
  const void *keys; /* [rows, key_heads, key_dim] */
  int64_t key_row_stride;
  const void *values; /* [rows, value_heads, value_dim] */
  int64_t value_row_stride;
  const float *decay; /* [rows, value_heads] */
  const float *beta;  /* [rows, value_heads] */
  const int32_t *row_starts; /* [requests + 1], on the device */
  up_states states;          /* f32, [value_heads, key_dim, value_dim] each */
  void *output;              /* [rows, value_heads, value_dim] */
  int64_t output_row_stride;
} up_delta_prefill;

UP_API up_status up_delta_prefill_workspace(up_backend backend, const up_delta_prefill *p, size_t *bytes);
UP_API up_status up_recur_prefill(up_backend backend, const up_delta_prefill *p, void *workspace, size_t workspace_bytes,
                                  void *stream);

/* The same for one row a request, without chunks; snapshots are not taken. */
typedef struct up_delta_decode {
  size_t size;
  up_dtype dtype;
  int32_t requests;
  int32_t key_heads;
  int32_t value_heads;
  int32_t key_dim;   /* 64 or 128 */
  int32_t value_dim; /* 64 or 128 */
  int32_t normalise;
  float norm_eps;
  float scale;
  const void *queries; /* [requests, key_heads, key_dim] */
  int64_t query_row_stride;
  const void *keys;
  int64_t key_row_stride;
  const void *values; /* [requests, value_heads, value_dim] */
  int64_t value_row_stride;
  const float *decay; /* [requests, value_heads] */
  const float *beta;
  up_states states;
  void *output; /* [requests, value_heads, value_dim] */
  int64_t output_row_stride;
} up_delta_decode;

UP_API up_status up_recur_decode(up_backend backend, const up_delta_decode *p, void *stream);

/* output[i, h, :] = x / sqrt(mean(x²) + eps), rounded to dtype, · weight · silu(gate[i, h, :]), of x = input[i, h, :] */
typedef struct up_gated_norm {
  size_t size;
  up_dtype dtype;
  int32_t rows;
  int32_t heads;
  int32_t head_dim; /* 64, 128 or 256 */
  float eps;
  const void *input; /* [rows, heads, head_dim] */
  int64_t input_row_stride;
  const void *gate; /* [rows, heads, head_dim] */
  int64_t gate_row_stride;
  const void *weight; /* [head_dim] */
  void *output;       /* [rows, heads, head_dim]; may be input */
  int64_t output_row_stride;
} up_gated_norm;

UP_API up_status up_normalise_gated(up_backend backend, const up_gated_norm *p, void *stream);

/*
 * The top_k experts of each row by softmax over all of them, the lower number of equals first, and their probabilities, divided by
 * their sum when renormalise is 1. A row whose logits are not all finite gets the experts 0 … top_k-1 and weights NaN.
 */
typedef struct up_moe_router {
  size_t size;
  up_dtype dtype; /* of the logits: f32, bf16 or f16 */
  int32_t rows;
  int32_t experts; /* at most 1024 */
  int32_t top_k;   /* at most 32 */
  int32_t renormalise;
  const void *logits; /* [rows, experts] */
  int64_t logits_stride;
  int32_t *chosen; /* [rows, top_k], most likely first */
  float *weights;  /* [rows, top_k] */
} up_moe_router;

UP_API up_status up_route(up_backend backend, const up_moe_router *p, void *stream);

/*
 * output[i] = Σ_k weights[i, k] · down_e · (activation(gate_e · x) ∘ (up_e · x)), e = chosen[i, k], x = input[i], added in the
 * order of k, + sigmoid(shared_gate[i]) · shared[i] where those are given. A choice outside 0 … experts-1 adds nothing.
 */
typedef struct up_moe {
  size_t size;
  up_dtype dtype;
  up_activation activation;
  int32_t rows;
  int32_t hidden; /* a multiple of 64 */
  int32_t inner;  /* a multiple of 64 */
  int32_t experts;
  int32_t top_k;
  const void *input; /* [rows, hidden] */
  int64_t input_stride;
  const int32_t *chosen; /* [rows, top_k] */
  const float *weights;  /* [rows, top_k] */
  const void *gate_up; /* [experts, 2 · inner, hidden]: gate, then up */
  const void *down;    /* [experts, hidden, inner] */
  const void *shared;  /* [rows, hidden]; NULL: none */
  int64_t shared_stride;
  const void *shared_gate; /* [rows], aligned to an element; NULL: shared is added as it is */
  int64_t shared_gate_stride;
  void *output; /* [rows, hidden] */
  int64_t output_stride;
} up_moe;

UP_API up_status up_moe_workspace(up_backend backend, const up_moe *p, size_t *bytes);
UP_API up_status up_run_experts(up_backend backend, const up_moe *p, void *workspace, size_t workspace_bytes, void *stream);

#ifdef __cplusplus
}
#endif

#endif
