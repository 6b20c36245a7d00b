/*
 * A drop layer in a scheduler that has chunks, pages and other requests, in C on host memory (UP_REFERENCE): what
 * docs/adding-to-your-scheduler.md describes, with the checks that show whether it was done rightly. A long prompt comes in while a
 * short request decodes; with UP_CUDA and device pointers the calls are the same.
 *
 *   cc drop_layer.c $(pkg-config --cflags --libs uniprefill)
 *
 * Two classes of layers: those up to the drop layer hold K and V of every row, those behind it of the rows kept. Each has
 * page tables and lengths of its own. The "model" is random numbers: only places and lengths matter here.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uniprefill/operators.h>

enum { HEADS = 4, KV_HEADS = 2, DIM = 64, PAGE = 64, POOL = 40, TABLE = 16 };
enum { LONG = 900, SHORT = 70, LAST_Q = 128, SINK = 128, HIDDEN = 8 };
enum { Q_ROW = HEADS * DIM, KV_ROW = KV_HEADS * DIM, KV_PAGE = PAGE * KV_ROW };

/* One pool for every class and request; K and V of a page. */
static float keys[POOL * KV_PAGE], values[POOL * KV_PAGE];
static int next_page = POOL;

/* A request in one class: a table of pages, and how many rows are written. */
typedef struct {
  int32_t pages[TABLE];
  int32_t rows;
} cache;

static void fail(const char *what) {
  fprintf(stderr, "failed: %s\n", what);
  exit(1);
}

static void up(up_status status) {
  if (status == UP_OK) return;
  const up_error error = up_last_error();
  fprintf(stderr, "%s: %s in %s: %s\n", up_status_name(status), error.operation, error.phase, error.detail);
  exit(1);
}

static float draw(void) {
  static uint32_t state = 1;
  state = state * 1664525u + 1013904223u;
  return (float)(state >> 8) / 8388608.0f - 1.0f;
}

/* Appends a row at the class's own end, into pages that are this request's alone: never at the row's place in the prompt. */
static void append(cache *c, const float *k, const float *v) {
  if (c->rows % PAGE == 0) c->pages[c->rows / PAGE] = --next_page;
  const int64_t at = (int64_t)c->pages[c->rows / PAGE] * KV_PAGE + c->rows % PAGE * KV_ROW;
  memcpy(keys + at, k, KV_ROW * sizeof(float));
  memcpy(values + at, v, KV_ROW * sizeof(float));
  c->rows++;
}

static void append_random(cache *c) {
  float k[KV_ROW], v[KV_ROW];
  for (int i = 0; i < KV_ROW; i++) k[i] = draw(), v[i] = draw();
  append(c, k, v);
}

/* The pool behind the page tables of `requests` requests, `tables` [requests, TABLE]. */
static up_kv paged(const float *data, const int32_t *tables) {
  up_kv kv = {0};
  kv.data = data;
  kv.pages = tables;
  kv.pages_stride = TABLE;
  kv.page_stride = KV_PAGE;
  kv.row_stride = KV_ROW;
  kv.head_stride = DIM;
  kv.page_size = PAGE;
  kv.page_count = POOL;
  return kv;
}

/* Attention of one chunk of a prompt: row i sees the keys 0 … hi[i] of the class. */
static void attend(const cache *c, const float *queries, const int32_t *hi, int rows, float *output) {
  const int32_t starts[2] = {0, rows};
  up_prefill_attention p = {0};
  p.size = sizeof p;
  p.dtype = UP_F32;
  p.requests = 1;
  p.max_query_rows = rows;
  p.max_key_rows = c->rows;
  p.heads = HEADS;
  p.kv_heads = KV_HEADS;
  p.head_dim = DIM;
  p.scale = 0.125f;
  p.queries = queries;
  p.query_row_stride = p.output_row_stride = Q_ROW;
  p.query_head_stride = p.output_head_stride = DIM;
  p.keys = paged(keys, c->pages);
  p.values = paged(values, c->pages);
  p.row_starts = starts;
  p.hi = hi;
  p.output = output;
  up(up_attend_prefill(UP_REFERENCE, &p, NULL, 0, NULL));
}

/* One decode step of both requests in one class: each sees the rows that this class has of it. */
static void decode(const cache *first, const cache *second, const float *queries, float *output) {
  int32_t tables[2 * TABLE], end[2] = {first->rows, second->rows};
  memcpy(tables, first->pages, sizeof first->pages);
  memcpy(tables + TABLE, second->pages, sizeof second->pages);
  up_decode_attention p = {0};
  p.size = sizeof p;
  p.dtype = UP_F32;
  p.requests = 2;
  p.max_key_rows = TABLE * PAGE;
  p.heads = HEADS;
  p.kv_heads = KV_HEADS;
  p.head_dim = DIM;
  p.scale = 0.125f;
  p.queries = queries;
  p.query_row_stride = p.output_row_stride = Q_ROW;
  p.query_head_stride = p.output_head_stride = DIM;
  p.keys = paged(keys, tables);
  p.values = paged(values, tables);
  p.end = end;
  p.output = output;
  up(up_attend_decode(UP_REFERENCE, &p, NULL, 0, NULL));
}

static cache short_low, short_high, long_low, long_high;
static float queries[LONG * Q_ROW], kept_queries[LONG * Q_ROW], whole[LONG * Q_ROW], chunked[LONG * Q_ROW];
static float carry[LONG * HIDDEN], next_rows[LONG * HIDDEN];
static int32_t kept[LONG];

int main(void) {
  if (up_abi_version() != UP_ABI_VERSION) fail("the library is not the one of this header: install both again");

  /* The short request is dense: all of its rows in both classes. */
  for (int row = 0; row < SHORT; row++) append_random(&short_low), append_random(&short_high);
  float decode_queries[2 * Q_ROW], alone[2 * Q_ROW], beside[2 * Q_ROW];
  for (int i = 0; i < 2 * Q_ROW; i++) decode_queries[i] = draw();
  decode(&short_high, &short_high, decode_queries, alone);

  /* Segment 0 of the long prompt, in chunks: K and V of every row, and its residual rows set aside as the carry. */
  for (int row = 0; row < LONG; row++) append_random(&long_low);
  for (int i = 0; i < LONG * Q_ROW; i++) queries[i] = draw();
  for (int i = 0; i < LONG * HIDDEN; i++) carry[i] = (float)i;

  /* Once the last row is there: select. The queries are those of the prompt's last rows, from the carry, not of the last chunk. */
  const int32_t length = LONG;
  const uint64_t p_q32 = (uint64_t)1 << 31; /* 0.5 */
  uint32_t bitmap[1];
  int32_t kept_length, fallback;
  up_selection s = {0};
  s.size = sizeof s;
  s.dtype = UP_F32;
  s.requests = 1;
  s.heads = HEADS;
  s.kv_heads = KV_HEADS;
  s.head_dim = DIM;
  s.max_rows = LONG;
  s.block = 64;
  s.sink = SINK;
  s.last_q = LAST_Q;
  s.rule = UP_RULE_EXCLUSIVE;
  s.scale = 0.125f; /* the layer's own */
  s.queries = queries + (LONG - LAST_Q) * Q_ROW;
  s.query_request_stride = LAST_Q * Q_ROW;
  s.query_row_stride = Q_ROW;
  s.query_head_stride = DIM;
  s.keys = paged(keys, long_low.pages);
  s.lengths = &length;
  s.p_q32 = &p_q32;
  s.bitmaps = bitmap;
  s.kept = kept;
  s.kept_lengths = &kept_length;
  s.fallbacks = &fallback;
  up(up_select(UP_REFERENCE, &s, NULL, 0, NULL));

  /* The rows that go on. The page table of segment 1 is granted now that their number is known. */
  up_gather g = {0};
  g.size = sizeof g;
  g.max_rows = g.source_rows = LONG;
  g.row_bytes = g.source_stride_bytes = g.target_stride_bytes = HIDDEN * sizeof(float);
  g.source = carry;
  g.indices = kept;
  g.count = &kept_length;
  g.target = next_rows;
  up(up_gather_rows(UP_REFERENCE, &g, NULL));

  /* At the drop layer the kept rows see its full keys, each up to its own place: hi is the row's place before the selection. */
  for (int i = 0; i < kept_length; i++)
    memcpy(kept_queries + i * Q_ROW, queries + kept[i] * Q_ROW, Q_ROW * sizeof(float));
  attend(&long_low, kept_queries, kept, kept_length, whole);
  for (int first = 0, chunk = 100; first < kept_length; first += chunk)
    attend(&long_low, kept_queries + first * Q_ROW, kept + first, kept_length - first < chunk ? kept_length - first : chunk,
           chunked + first * Q_ROW);

  /* Behind it they are rows 0 … kept_length − 1 of a shorter cache. */
  for (int i = 0; i < kept_length; i++) append_random(&long_high);

  /* A decode step of both, class by class: each new row goes to the end of its class. */
  append_random(&long_low), append_random(&long_high);
  decode(&short_high, &long_high, decode_queries, beside);

  if (fallback != 0 || kept_length < SINK + LAST_Q || kept_length >= LONG) fail("some rows are dropped, and not the forced ones");
  if (kept[0] != 0 || kept[SINK - 1] != SINK - 1 || kept[kept_length - LAST_Q] != LONG - LAST_Q) fail("sink and last rows stay");
  for (int i = 0; i < kept_length; i++)
    if (next_rows[i * HIDDEN] != carry[kept[i] * HIDDEN]) fail("the rows that go on are the carry's");
  if (memcmp(whole, chunked, (size_t)kept_length * Q_ROW * sizeof(float)) != 0) fail("chunks give what the whole gives");
  if (long_low.rows != LONG + 1 || long_high.rows != kept_length + 1) fail("each class has a length of its own");
  if (memcmp(alone, beside, Q_ROW * sizeof(float)) != 0) fail("a request that decodes is not disturbed by a long prompt");
  printf("%d of %d rows kept; %d pages of %d\n", kept_length, LONG, POOL - next_page, POOL);
  return 0;
}
