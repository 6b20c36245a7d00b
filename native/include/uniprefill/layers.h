/*
 * uniprefill's operators for the rest of a layer: norms, rotary embedding, activations, embedding, sampling. Part of
 * operators.h, which has the conventions.
 *
 * Rows are [rows, width]; `count`, where there is one, holds the number of rows on the device and is clamped to `rows`; NULL
 * means all of them. UP_CUDA takes bf16 and f16. UP_REFERENCE has all of them but up_sample.
 */
#ifndef UNIPREFILL_LAYERS_H
#define UNIPREFILL_LAYERS_H

#include "operators.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * x = input[indices[i]] + addend[i]; sum[i] = x, rounded to dtype; output[i] = x / sqrt(mean(x²) + eps) · (weight_offset +
 * weight), from the rounded x. weight_offset is 0 for Llama, 1 for Gemma and Qwen3-Next.
 */
typedef struct up_rms_norm {
  size_t size;
  up_dtype dtype;
  int32_t rows;
  int32_t width; /* a multiple of 8, at most 16384 */
  int32_t source_rows; /* indices are clamped to it; ignored when indices is NULL */
  float eps;
  float weight_offset;
  const void *input;
  int64_t input_stride;
  const int32_t *indices; /* NULL: i itself */
  const void *addend;     /* NULL: none */
  int64_t addend_stride;
  void *sum; /* NULL: not wanted; may be addend itself */
  int64_t sum_stride;
  const void *weight; /* [width] */
  void *output;       /* NULL: only the sum is wanted */
  int64_t output_stride;
  const int32_t *count;
} up_rms_norm;

UP_API up_status up_normalise(up_backend backend, const up_rms_norm *p, void *stream);

/*
 * A norm behind a mixer or an MLP, the residual sum, and the norm of what follows: x = residual[indices[i]] + norm(input[i],
 * weight); sum[i] = x, rounded to dtype; output[i] = norm(x, next_weight), from the rounded x. norm as in up_rms_norm.
 */
typedef struct up_post_norm {
  size_t size;
  up_dtype dtype;
  int32_t rows;
  int32_t width; /* a multiple of 8, at most 16384 */
  int32_t source_rows; /* indices are clamped to it; ignored when indices is NULL */
  float eps;
  float weight_offset;
  float next_eps;
  float next_weight_offset;
  const void *input;
  int64_t input_stride;
  const void *weight; /* [width] */
  const void *residual;
  int64_t residual_stride;
  const int32_t *indices; /* NULL: i itself */
  void *sum;              /* may be residual itself when indices is NULL */
  int64_t sum_stride;
  const void *next_weight; /* [width]; NULL: only the sum is wanted */
  void *output;
  int64_t output_stride;
  const int32_t *count;
} up_post_norm;

UP_API up_status up_add_normed(up_backend backend, const up_post_norm *p, void *stream);

/*
 * Normalises every query and key head where query_norm and key_norm are given, rotates its first rotary_dim elements, pairs
 * (i, i + rotary_dim / 2), by the angles of the row's position, and writes the queries to query_output, keys and values to row
 * kv_rows[i] of request kv_requests[i] of the caches. A row with kv_rows[i] < 0 writes no key and no value.
 */
typedef struct up_rope_write {
  size_t size;
  up_dtype dtype;
  int32_t rows;
  int32_t heads; /* 0: keys and values only */
  int32_t kv_heads;
  int32_t head_dim;   /* a multiple of 16 */
  int32_t rotary_dim; /* a multiple of 16, at most head_dim; 0: no rotation */
  int32_t positions_limit; /* rows of the tables; positions are clamped to it */
  int32_t requests;        /* rows of the page tables (or requests of a strided cache) */
  int32_t max_key_rows;    /* capacity of a request: a row at or beyond it is not written */
  const float *cosines;    /* [positions_limit, rotary_dim / 2] */
  const float *sines;
  const int32_t *positions; /* [rows] */
  const int32_t *kv_requests; /* [rows]; NULL: 0 */
  const int32_t *kv_rows;     /* [rows] */
  const void *queries; /* [rows, heads, head_dim] */
  int64_t query_row_stride;
  const void *keys; /* [rows, kv_heads, head_dim] */
  int64_t key_row_stride;
  const void *values;
  int64_t value_row_stride;
  void *query_output; /* may be queries itself */
  int64_t query_output_row_stride;
  up_kv key_cache; /* written */
  up_kv value_cache;
  int64_t query_head_stride; /* of queries; 0: head_dim. Projections of layers with output gates hold [q | gate] a head */
  const void *query_norm;    /* [head_dim] weights of an RMS norm; NULL: none. head_dim is then a power of two, at most 512 */
  const void *key_norm;      /* the same for keys */
  float norm_eps;
  float norm_weight_offset;
} up_rope_write;

UP_API up_status up_rotate_and_write(up_backend backend, const up_rope_write *p, void *stream);

typedef enum up_activation { UP_SILU = 0, UP_GELU_TANH = 1 } up_activation;

/* output[i, j] = activation(input[i, j]) · input[i, inner + j] */
typedef struct up_gated_activation {
  size_t size;
  up_dtype dtype;
  up_activation activation;
  int32_t rows;
  int32_t inner; /* a multiple of 8 */
  const void *input; /* [rows, 2 · inner]: gate, then up */
  int64_t input_stride;
  void *output;
  int64_t output_stride;
} up_gated_activation;

UP_API up_status up_activate(up_backend backend, const up_gated_activation *p, void *stream);

/* attended[i, h, :] *= sigmoid(gate[i, h, :]) */
typedef struct up_output_gate {
  size_t size;
  up_dtype dtype;
  int32_t rows;
  int32_t heads;
  int32_t head_dim; /* a multiple of 8 */
  const void *gate;
  int64_t gate_row_stride;
  int64_t gate_head_stride;
  void *attended; /* [rows, heads, head_dim] */
  int64_t attended_row_stride;
  int64_t attended_head_stride;
} up_output_gate;

UP_API up_status up_apply_gate(up_backend backend, const up_output_gate *p, void *stream);

/* output[i] = scale · table[tokens[i]]; a token -1 - s stands for last_tokens[s], where that is given. */
typedef struct up_embedding {
  size_t size;
  up_dtype dtype;
  int32_t rows;
  int32_t width; /* a multiple of 8 */
  int32_t vocab_size; /* tokens are clamped to it */
  float scale;        /* 0 means 1 */
  const int32_t *tokens;
  const void *table; /* [vocab_size, width] */
  int64_t table_stride;
  void *output;
  int64_t output_stride;
  const int32_t *last_tokens; /* [slots], on the device; NULL: tokens are what they are */
  int32_t slots;              /* s is clamped to it; ignored when last_tokens is NULL */
} up_embedding;

UP_API up_status up_embed(up_backend backend, const up_embedding *p, void *stream);

/*
 * Changes to logits before a token is drawn. Row i has the edits starts[i] … starts[i+1]-1: values[e] is added to the logit of
 * tokens[e], in the order of e where a token comes more than once; -inf forbids it. Where mask_rows[i] is a row of masks, tokens
 * whose bit is not set are forbidden. All lists live on the device; what lies outside them, or outside the vocabulary, is ignored.
 */
typedef struct up_logit_edits {
  const int32_t *starts; /* [rows + 1]; NULL: no edits */
  const int32_t *tokens; /* [edits] */
  const float *values;   /* [edits] */
  int32_t edits;         /* capacity of both */
  int32_t masks_count;
  const int32_t *mask_rows; /* [rows]; NULL: everything is allowed */
  const uint32_t *masks;    /* [masks_count, ceil(vocab_size / 32)] */
} up_logit_edits;

/* logits[i] = soft_cap · tanh(logits[i] / soft_cap), then the edits, in place. */
typedef struct up_logit_edit {
  size_t size;
  up_dtype dtype; /* f32, bf16 or f16 */
  int32_t rows;
  int32_t vocab_size;
  float soft_cap; /* 0: none */
  void *logits;   /* [rows, vocab_size] */
  int64_t logits_stride;
  up_logit_edits edits;
} up_logit_edit;

UP_API up_status up_edit_logits(up_backend backend, const up_logit_edit *p, void *stream);

/* What one row of logits is drawn with; lives on the device. */
typedef struct up_sample_row {
  uint64_t seed;
  uint64_t index;    /* output tokens so far: the draw depends on seed and index alone */
  float temperature; /* 0: greedy, the lowest token of equals */
  float top_p;
  float min_p;
  float frequency_penalty;
  float presence_penalty;
  float repetition_penalty;
  int32_t top_k; /* 0: off */
  int32_t slot;  /* row of the counts and of last_tokens; -1: none */
} up_sample_row;

/*
 * Draws one token a row as the runner's up_sampling says: edits, penalties, temperature, top-k, min-p, top-p, then the first
 * token, in order of its number, at which the cumulated weight exceeds the draw. A masked token has the logit -inf. Weights are
 * compared and added as integers with 40 fractional bits, so the result depends on no order of execution. Equal weights at the cut of
 * top-k or top-p are kept or dropped together. Logprobs are those of the distribution that the logits give: edits, penalties and
 * temperature do not show in them.
 */
typedef struct up_sampler {
  size_t size;
  up_dtype dtype; /* of the logits: f32, bf16 or f16 */
  int32_t rows;
  int32_t vocab_size;
  int32_t slots;         /* rows of the counts and of last_tokens */
  int32_t logprob_count; /* the most likely tokens to report, at most 32; 0: the sampled token's alone */
  const void *logits;    /* [rows, vocab_size] */
  int64_t logits_stride;
  const up_sample_row *parameters; /* [rows] */
  const uint32_t *prompt_tokens;   /* [slots, ceil(vocab_size / 32)]: bits of the tokens in the prompt; NULL: none */
  int32_t *output_counts;          /* [slots, vocab_size]: how often a token was put out; NULL: none */
  int32_t *tokens;                 /* [rows] */
  float *logprobs;                 /* [rows] of the token put out; NULL: not wanted */
  int32_t *top_tokens;             /* [rows, logprob_count], most likely first, the lower token of equals first */
  float *top_logprobs;             /* [rows, logprob_count] */
  int32_t *non_finite;             /* [rows]: 1 where a logit is NaN or +inf, or all are -inf; the token is then 0 */
  up_logit_edits edits;            /* applied on the way; logits stay as they are */
  const int32_t *forced;           /* [rows]: the token to put out instead of a drawn one; outside the vocabulary: draw; NULL: draw all */
  int32_t *last_tokens;            /* [slots]: the token is left at the row's slot as well; NULL: not wanted */
  int32_t count_outputs;           /* 1: the token is counted in output_counts, for the next call's penalties */
} up_sampler;

UP_API up_status up_sampler_workspace(up_backend backend, const up_sampler *p, size_t *bytes);
UP_API up_status up_sample(up_backend backend, const up_sampler *p, void *workspace, size_t workspace_bytes, void *stream);

#ifdef __cplusplus
}
#endif

#endif
