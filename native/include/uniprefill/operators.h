/*
 * uniprefill's operators behind a plain C interface: what another engine links to drop tokens in its own prefill. They work
 * on memory and a stream that the caller owns, allocate nothing and never wait for the device.
 *
 * runner.h beside this file is this project's own engine: it loads models and carries out whole steps.
 *
 * Conventions
 *   - Every function returns an up_status. On anything but UP_OK, up_last_error() of the same thread says which operation
 *     failed, in which phase and with which numbers. Outputs are untouched on failure unless said otherwise.
 *   - Parameters are structs whose first field is their size: set `size = sizeof(struct)` and zero the rest. Fields added
 *     later are zero for older callers, and zero means the old behaviour.
 *   - Strides count elements, sizes count bytes. Indices are int32. Row-major unless strides say otherwise.
 *   - Device pointers must be aligned to 16 bytes. Streams are the backend's own type behind void *; NULL is its default.
 *     CUDA operators run on the calling thread's current device; call each once before capturing it in a graph.
 *   - Operators may be called from any thread; calls that share a workspace must be ordered by the caller.
 *   - No exception leaves the library, and no input makes it read or write out of bounds.
 */
#ifndef UNIPREFILL_OPERATORS_H
#define UNIPREFILL_OPERATORS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define UP_API __attribute__((visibility("default")))
#else
#define UP_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define UP_ABI_VERSION 2

/* The ABI version of the library that was loaded; compare with UP_ABI_VERSION. */
UP_API int32_t up_abi_version(void);

typedef enum up_status {
  UP_OK = 0,
  UP_INVALID_ARGUMENT = 1,
  UP_UNSUPPORTED_MODEL = 2,
  UP_UNSUPPORTED_DTYPE = 3,
  UP_CORRUPT_FILE = 4,
  UP_OUT_OF_MEMORY = 5,
  UP_DEVICE_LOST = 6,
  UP_LAUNCH_FAILED = 7,
  UP_INTERNAL = 8,
  UP_INVALID_PLAN = 9
} up_status;

typedef struct up_error {
  up_status status;
  const char *operation; /* "up_select" */
  const char *phase;     /* "read header" */
  const char *detail;    /* names and numbers */
} up_error;

/* The last failure on this thread; its strings live until the next failing call on this thread. */
UP_API up_error up_last_error(void);

/* "UP_INVALID_ARGUMENT" for 1, and so on; "UP_UNKNOWN" for a number that is none. */
UP_API const char *up_status_name(int32_t status);

typedef enum up_dtype { UP_F32 = 0, UP_BF16 = 1, UP_F16 = 2, UP_F64 = 3 } up_dtype;

/*
 * Where operators run. UP_REFERENCE is plain loops in double precision on host memory: slow, and the oracle of the other
 * backends. UP_CUDA is loaded from libuniprefill_cuda.so when first asked for.
 */
typedef enum up_backend { UP_REFERENCE = 0, UP_CUDA = 1 } up_backend;

/* UP_OK when the backend can run here; otherwise up_last_error() says what is missing. */
UP_API up_status up_backend_available(up_backend backend);

/* ------------------------------------------------------------------------------------------------ operators ------ */

/*
 * K or V of several requests: paged when `pages` is given, strided otherwise.
 *   paged:   element (row r, head h, i) of request b at
 *            data + pages[b * pages_stride + r / page_size] * page_stride + (r % page_size) * row_stride
 *                 + h * head_stride + i
 *   strided: element at data + b * page_stride + r * row_stride + h * head_stride + i
 */
typedef struct up_kv {
  const void *data;
  const int32_t *pages;
  int64_t pages_stride;
  int64_t page_stride;
  int64_t row_stride;
  int64_t head_stride;
  int32_t page_size; /* 16, 32, 64, 128 or 256; ignored when pages is NULL */
  int32_t page_count; /* pages (or requests, when strided) that `data` holds: an index beyond it is clamped away */
  const int32_t *table_rows; /* [requests], on the device: request b takes the place table_rows[b] above; NULL: b itself */
  int32_t table_count;       /* rows of `pages` (or requests, when strided) there are; ignored when table_rows is NULL */
} up_kv;

typedef enum up_rule { UP_RULE_EXCLUSIVE = 0, UP_RULE_REFERENCE = 1 } up_rule;

/*
 * Scores the last `last_q` queries of each request against all its keys, sums the attention mass of each block of
 * `block` rows over queries and heads, and keeps the blocks that hold a share p of it.
 *
 * A request with `lengths[b]` rows has its queries at rows lengths[b] - q_rows + (0 … q_rows-1), q_rows =
 * min(last_q, lengths[b]); queries are [requests, last_q, heads, head_dim], a short request's at the front.
 */
typedef struct up_selection {
  size_t size;
  up_dtype dtype; /* of queries and keys: bf16 or f16; the reference also takes f32 and f64 */
  int32_t requests;
  int32_t heads;
  int32_t kv_heads;
  int32_t head_dim; /* 64, 128 or 256 */
  int32_t max_rows; /* capacity: no length exceeds it */
  int32_t block;    /* 64 */
  int32_t sink;
  int32_t last_q; /* at most 128 */
  up_rule rule;
  float scale;
  float soft_cap; /* 0: none */
  const void *queries;
  int64_t query_request_stride;
  int64_t query_row_stride;
  int64_t query_head_stride;
  up_kv keys;
  const int32_t *lengths; /* [requests], on the device; clamped to [0, max_rows] there */
  const uint64_t *p_q32;  /* [requests], on the device; p in unsigned Q32, at most 1 << 32 */

  /* Outputs, on the device. */
  uint64_t *masses;      /* [requests, blocks(max_rows)], 40 fractional bits; may be NULL */
  uint32_t *bitmaps;     /* [requests, words(max_rows)], words = ceil(blocks / 32): what the rule says, bit b of block b; the
                            first `sink` and the last `last_q` rows are kept besides */
  int32_t *kept;         /* [requests, max_rows]: ascending indices of the rows kept */
  int32_t *kept_lengths; /* [requests] */
  int32_t *fallbacks;    /* [requests]: 1 when scores were not finite and everything was kept; may be NULL */
} up_selection;

UP_API up_status up_selection_workspace(up_backend backend, const up_selection *p, size_t *bytes);
UP_API up_status up_select(up_backend backend, const up_selection *p, void *workspace, size_t workspace_bytes, void *stream);

/* target[i, :] = source[indices[i], :] for i < *count, rows of `row_bytes` (a multiple of 16). */
typedef struct up_gather {
  size_t size;
  int32_t max_rows;    /* capacity of target and indices */
  int32_t source_rows; /* indices are clamped to it */
  int64_t row_bytes;
  int64_t source_stride_bytes;
  int64_t target_stride_bytes;
  const void *source;
  const int32_t *indices;
  const int32_t *count; /* on the device */
  void *target;
} up_gather;

UP_API up_status up_gather_rows(up_backend backend, const up_gather *p, void *stream);

/*
 * Attention of prefill rows. Query row i of the batch sees the keys lo[i] … hi[i] (both inclusive, compacted indices of
 * its request); lo and hi are monotone within a request. Rows of request b are row_starts[b] … row_starts[b+1]-1.
 */
typedef struct up_prefill_attention {
  size_t size;
  up_dtype dtype;
  int32_t requests;
  int32_t max_query_rows; /* capacity over the batch */
  int32_t max_key_rows;   /* capacity per request */
  int32_t heads;
  int32_t kv_heads;
  int32_t head_dim;
  float scale;
  float soft_cap;
  const void *queries; /* [rows, heads, head_dim] */
  int64_t query_row_stride;
  int64_t query_head_stride;
  up_kv keys;
  up_kv values;
  const int32_t *row_starts; /* [requests + 1], on the device */
  const int32_t *lo;         /* [rows], on the device; NULL: all 0 */
  const int32_t *hi;         /* [rows], on the device; a row with hi < lo gives zeros */
  void *output;              /* [rows, heads, head_dim] */
  int64_t output_row_stride;
  int64_t output_head_stride;
} up_prefill_attention;

UP_API up_status up_prefill_attention_workspace(up_backend backend, const up_prefill_attention *p, size_t *bytes);
UP_API up_status up_attend_prefill(up_backend backend, const up_prefill_attention *p, void *workspace,
                                   size_t workspace_bytes, void *stream);

/* One query row per request; request b sees keys begin[b] … end[b]-1. */
typedef struct up_decode_attention {
  size_t size;
  up_dtype dtype;
  int32_t requests; /* capacity; requests with end <= begin give zeros */
  int32_t max_key_rows;
  int32_t heads;
  int32_t kv_heads;
  int32_t head_dim;
  float scale;
  float soft_cap;
  const void *queries; /* [requests, heads, head_dim] */
  int64_t query_row_stride;
  int64_t query_head_stride;
  up_kv keys;
  up_kv values;
  const int32_t *begin; /* [requests], on the device; NULL: all 0 */
  const int32_t *end;   /* [requests], on the device */
  void *output;
  int64_t output_row_stride;
  int64_t output_head_stride;
} up_decode_attention;

UP_API up_status up_decode_attention_workspace(up_backend backend, const up_decode_attention *p, size_t *bytes);
UP_API up_status up_attend_decode(up_backend backend, const up_decode_attention *p, void *workspace,
                                  size_t workspace_bytes, void *stream);

/*
 * Prefill attention that leaves out blocks of keys: of its interval lo[i] … hi[i] a row sees those blocks of 64 keys alone
 * whose bit is set for the row's block of queries and KV head. Blocks of queries are 128 rows, counted from the first row of
 * their request. A row that sees no key gives zeros.
 */
typedef struct up_sparse_attention {
  size_t size;
  up_prefill_attention attention; /* its size set too */
  int32_t query_blocks;           /* capacity of the bitmaps: a block at or beyond it sees nothing */
  const int32_t *block_starts;    /* [requests], on the device: block j of request b has bitmap block_starts[b] + j */
  const uint32_t *bitmaps;        /* [kv_heads, query_blocks, words(max_key_rows)], words = ceil(ceil(max_key_rows / 64) / 32) */
} up_sparse_attention;

UP_API up_status up_sparse_attention_workspace(up_backend backend, const up_sparse_attention *p, size_t *bytes);
UP_API up_status up_attend_sparse(up_backend backend, const up_sparse_attention *p, void *workspace, size_t workspace_bytes,
                                  void *stream);

#ifdef __cplusplus
}
#endif

/* The rest of a layer, and layers without attention. */
#include "layers.h"
#include "mixers.h"

#endif
