/*
 * uniprefill's model runner: loads a model and carries out StepPlans. It is what this project's own engine uses; its
 * structs follow the engine's from version to version. operators.h has the conventions and the errors.
 *
 * A runner has a thread of its own, on which steps run in the order of their plans. up_runner_put_content,
 * up_runner_forget_content and up_runner_enqueue may be called from any thread at any time; up_runner_wait from one at a
 * time. Separate runners are independent. Handles may be destroyed in any order, a runner when no call of it is running.
 */
#ifndef UNIPREFILL_RUNNER_H
#define UNIPREFILL_RUNNER_H

#include "operators.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct up_model up_model;
typedef struct up_runner up_runner;

/*
 * Maps a model's weights. `table` is the model as a table of layers, JSON as packages/model/src/ModelTable.ts writes it: shapes,
 * the names of the tensors and the files that hold them, all checked.
 */
UP_API up_status up_model_open(const char *table, size_t table_bytes, up_model **out);
UP_API void up_model_close(up_model *model);

typedef struct up_model_info {
  size_t size;
  int32_t layers;
  int32_t hidden_size;
  int32_t vocab_size;
  int32_t max_positions;
  uint64_t fingerprint; /* of config and weights: names, shapes and a sample of the bytes */
} up_model_info;

UP_API up_status up_model_describe(const up_model *model, up_model_info *out);

typedef struct up_drop_schedule {
  size_t size;
  int32_t drop_layer_count;
  const int32_t *drop_layers; /* ascending, full-attention layers, not the last layer */
  up_rule rule;
  int32_t block;
  int32_t sink;
  int32_t last_q;
  int32_t window_by_original; /* 0: sliding windows count kept rows */
} up_drop_schedule;

typedef enum up_device {
  UP_DEVICE_CPU = 0,
  UP_DEVICE_REFERENCE = 1, /* plain loops in double precision: slow, the oracle of the others */
  UP_DEVICE_CUDA = 2
} up_device;

typedef enum up_kernels {
  UP_KERNELS_AUTO = 0, /* the fastest this processor runs */
  UP_KERNELS_PORTABLE = 1,
  UP_KERNELS_AVX2 = 2,
  UP_KERNELS_AVX512_BF16 = 3
} up_kernels;

/* Steps that may have been enqueued and not yet been waited for. */
#define UP_STEPS_IN_FLIGHT 2

typedef struct up_runner_options {
  size_t size;
  up_device device;
  up_drop_schedule schedule; /* its size 0: no drop layers */
  const char *layout;        /* JSON of the KvLayout that the scheduler counts by */
  size_t layout_bytes;
  int32_t slabs; /* CUDA: 0 for as many as fit into memory_fraction of the device's memory beside weights and workspace */
  int32_t slots;
  int32_t state_slots; /* of models with recurrent layers */
  int32_t max_rows_per_step;
  int32_t max_tokens; /* of one slot, prompt and output */
  int32_t threads;    /* CPU; 0: the processors of this process */
  up_kernels kernels; /* CPU */
  double memory_fraction; /* CUDA */
  int32_t device_index;   /* CUDA: of the first rank; the others take those that follow */
  /* Ranks that share heads and inner widths, 0 or 1: one. The layout is one rank's, with its heads and its part of a carry row.
   * CPU: threads of this process, of which 1, 2 and 4 give the same bits. */
  int32_t tensor_parallel_size;
  /* In layers of full attention that drop nothing, 128 rows of a prompt read the blocks of 64 keys that hold this share of their
   * sampled attention, in units of 2^-32; 0: all keys. Prompts are cut at multiples of 128 rows of each segment then. Those
   * served dense read all keys at the schedule's drop layers, too. */
  uint64_t prefill_p_q32;
} up_runner_options;

/* A model may be closed while runners made from it live; they keep what they need. */
UP_API up_status up_runner_create(const up_model *model, const up_runner_options *options, up_runner **out);
UP_API void up_runner_destroy(up_runner *runner);

typedef struct up_runner_info {
  size_t size;
  char device[128]; /* "cpu (avx512bf16, 2 threads)" */
  int32_t slabs; /* of every rank */
  int64_t weight_bytes;    /* on the device; of rank 0, as what follows */
  int64_t workspace_bytes; /* activations and buffers of the operators */
  int64_t free_bytes;      /* CUDA: of the device's memory, once everything is allocated */
  /* With prefill_p_q32, over the steps waited for: blocks of 64 keys that blocks of 128 rows have read, and those they would have. */
  int64_t key_blocks_read;
  int64_t key_blocks_seen;
} up_runner_info;

UP_API up_status up_runner_describe(const up_runner *runner, up_runner_info *out);

typedef struct up_sampling {
  float temperature; /* 0: greedy */
  int32_t top_k;     /* 0: off */
  float top_p;
  float min_p;
  float frequency_penalty;
  float presence_penalty;
  float repetition_penalty;
  uint64_t seed;
  int32_t min_tokens;
  int32_t stop_count;
  const int32_t *stop_tokens;
  int32_t bias_count;
  const int32_t *bias_tokens;
  const float *bias_values;
  int32_t allowed_count; /* -1: all are allowed */
  const int32_t *allowed_tokens;
  int32_t logprobs; /* -1: none; n: the sampled token and the n most likely */
} up_sampling;

/* What a request is, apart from the plans that carry it. */
typedef struct up_content {
  size_t size;
  int32_t token_count;
  const int32_t *tokens; /* the prompt, then output so far */
  int32_t prompt_length;
  int32_t drops;               /* 0: never drops */
  const uint64_t *p_q32;       /* [drop layers] */
  int32_t bitmap_count;        /* selections already decided */
  const int32_t *bitmap_words; /* [bitmap_count]: words of each */
  const uint32_t *bitmaps;     /* one after another */
  int32_t score_decided;       /* 1: score where bitmaps decide, too, and ignore the scores (for measurements) */
  up_sampling sampling;
  int32_t return_logits;
  int32_t prompt_logprobs; /* -1: none; n: of every prompt token, beside the n most likely; only where nothing is dropped */
} up_content;

/*
 * Checks and stores a request's content until a plan opens a slot with it. A refusal concerns that content alone. Copies
 * everything it needs. Fails with UP_INVALID_ARGUMENT also when the id is taken.
 */
UP_API up_status up_runner_put_content(up_runner *runner, int32_t id, const up_content *content);
/* Forgets a content that no plan has opened; an unknown id is none. */
UP_API void up_runner_forget_content(up_runner *runner, int32_t id);

/*
 * Hands over the bytes of a StepPlan ("UPPL", version 2), which are copied, and returns. Fails with UP_INVALID_ARGUMENT when
 * UP_STEPS_IN_FLIGHT steps have not been waited for.
 */
UP_API up_status up_runner_enqueue(up_runner *runner, const uint8_t *plan, size_t plan_bytes);

/*
 * Waits for the oldest step that has been enqueued. `*result` points to the bytes of a StepResult ("UPSR", version 2), owned by the
 * runner and valid until the next call.
 *
 * A plan that does not hold together is UP_INVALID_PLAN, naming section and record. A step that fails, for whatever reason,
 * leaves the runner empty: no slot is open, every slab and state slot is free; stored contents stay. Steps behind it fail with it, and the
 * next plan has the number of the failed one.
 */
UP_API up_status up_runner_wait(up_runner *runner, const uint8_t **result, size_t *result_bytes);

#ifdef __cplusplus
}
#endif

#endif
