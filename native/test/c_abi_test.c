/* The header in C99, and the shared library as another engine links it: a selection on host memory, and errors. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "uniprefill/operators.h"

enum { rows = 512, blocks = 8, head_dim = 16 };

static int failures = 0;

static void check(int holds, const char *what) {
  if (holds) return;
  const up_error error = up_last_error();
  fprintf(stderr, "failed: %s; last error %s: %s: %s\n", what, error.operation, error.phase, error.detail);
  failures++;
}

int main(void) {
  /* One head; the queries look for the keys of block 5, and mildly for those of block 3. */
  static float queries[64][head_dim];
  static float keys[rows][head_dim];
  const int32_t length = rows;
  const uint64_t p = UINT64_C(1) << 31;
  static uint64_t masses[blocks];
  uint32_t bitmap = 0;
  static int32_t kept[rows];
  int32_t kept_length = 0;
  int32_t fallback = -1;
  up_selection selection;
  size_t workspace = 1;
  int i;

  check(up_abi_version() == UP_ABI_VERSION, "the library has the header's version");
  for (i = 0; i < 64; i++) queries[i][0] = 1.0f;
  for (i = 0; i < rows; i++) keys[i][0] = i / 64 == 5 ? 8.0f : i / 64 == 3 ? 6.0f : 0.0f;

  memset(&selection, 0, sizeof selection);
  selection.size = sizeof selection;
  selection.dtype = UP_F32;
  selection.requests = 1;
  selection.heads = 1;
  selection.kv_heads = 1;
  selection.head_dim = head_dim;
  selection.max_rows = rows;
  selection.block = 64;
  selection.sink = 64;
  selection.last_q = 64;
  selection.scale = 1.0f;
  selection.queries = queries;
  selection.query_request_stride = 64 * head_dim;
  selection.query_row_stride = head_dim;
  selection.query_head_stride = head_dim;
  selection.keys.data = keys;
  selection.keys.page_stride = rows * head_dim;
  selection.keys.row_stride = head_dim;
  selection.keys.head_stride = head_dim;
  selection.keys.page_count = 1;
  selection.lengths = &length;
  selection.p_q32 = &p;
  selection.masses = masses;
  selection.bitmaps = &bitmap;
  selection.kept = kept;
  selection.kept_lengths = &kept_length;
  selection.fallbacks = &fallback;

  check(up_selection_workspace(UP_REFERENCE, &selection, &workspace) == UP_OK, "the workspace is known");
  check(up_select(UP_REFERENCE, &selection, NULL, workspace, NULL) == UP_OK, "select");
  check(bitmap == ((1u << 0) | (1u << 5) | (1u << 7)), "the forced blocks and the one looked for");
  check(kept_length == 192 && kept[64] == 320 && kept[191] == 511 && fallback == 0, "the rows of the bitmap");
  /* Every query sees all of block 5: its share is the same, but for the last block's rows that are still to come. */
  check(fabs((double)masses[5] / (1ull << 40) / 64 - exp(8) / (exp(8) + exp(6) + 5.5)) < 1e-3, "the mass of block 5");
  selection.head_dim = -1;
  check(up_select(UP_REFERENCE, &selection, NULL, workspace, NULL) == UP_INVALID_ARGUMENT, "a bad head_dim is refused");
  check(strcmp(up_last_error().operation, "up_select") == 0, "the error names the operation");
  check(strstr(up_last_error().detail, "head_dim is -1") != NULL, "the error names field and number");
  check(up_select(UP_REFERENCE, NULL, NULL, 0, NULL) == UP_INVALID_ARGUMENT, "NULL is refused");

  {
    up_model *model = NULL;
    check(up_model_open("/nonexistent", &model) == UP_INVALID_ARGUMENT && model == NULL, "no such model");
    check(strcmp(up_status_name(UP_CORRUPT_FILE), "UP_CORRUPT_FILE") == 0, "statuses have names");
    up_model_close(model);
  }
  if (failures > 0) fprintf(stderr, "%d failures\n", failures);
  return failures > 0;
}
