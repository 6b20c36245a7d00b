/*
 * Token dropping in another engine, in C: at a drop layer, score the last 128 queries against the keys in the paged cache,
 * keep the blocks that hold 90% of the attention mass, and gather the rows of the residual stream that go on.
 *
 *   cc select_rows.c $(pkg-config --cflags --libs uniprefill) -lcudart
 *
 * Everything below the line "the engine's own" is memory that an engine has anyway. Nothing here waits for the device until
 * the results are looked at, so the calls can be captured in a CUDA graph.
 */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uniprefill/operators.h>

enum { HEADS = 32, KV_HEADS = 8, HEAD_DIM = 128, HIDDEN = 1024, ROWS = 4096, LAST_Q = 128, PAGE = 64, PAGES = ROWS / PAGE };

static void cuda(cudaError_t result) {
  if (result == cudaSuccess) return;
  fprintf(stderr, "%s: %s\n", cudaGetErrorName(result), cudaGetErrorString(result));
  exit(1);
}

static void up(up_status status) {
  if (status == UP_OK) return;
  const up_error error = up_last_error();
  fprintf(stderr, "%s: %s in %s: %s\n", up_status_name(status), error.operation, error.phase, error.detail);
  exit(1);
}

static void *device(size_t bytes) {
  void *memory = NULL;
  cuda(cudaMalloc(&memory, bytes));
  return memory;
}

static void *upload(const void *content, size_t bytes) {
  void *memory = device(bytes);
  cuda(cudaMemcpy(memory, content, bytes, cudaMemcpyHostToDevice));
  return memory;
}

/* bf16 numbers in (-1, 1). */
static void *random_tensor(size_t count) {
  uint16_t *host = malloc(count * 2);
  for (size_t i = 0; i < count; i++) {
    const float x = (float)rand() / (float)RAND_MAX * 2.0f - 1.0f;
    uint32_t bits;
    memcpy(&bits, &x, 4);
    host[i] = (uint16_t)(bits >> 16);
  }
  void *memory = upload(host, count * 2);
  free(host);
  return memory;
}

int main(void) {
  up(up_backend_available(UP_CUDA));
  cudaStream_t stream;
  cuda(cudaStreamCreate(&stream));

  /* The engine's own: queries of the last rows, keys [page][kv head][row][dim], page table, length, residual stream. */
  int32_t page_table[PAGES];
  for (int i = 0; i < PAGES; i++) page_table[i] = PAGES - 1 - i;
  const int32_t length = ROWS;
  const uint64_t p = (uint64_t)(0.9 * 4294967296.0);

  up_selection selection = {0};
  selection.size = sizeof selection;
  selection.dtype = UP_BF16;
  selection.requests = 1;
  selection.heads = HEADS;
  selection.kv_heads = KV_HEADS;
  selection.head_dim = HEAD_DIM;
  selection.max_rows = ROWS;
  selection.block = 64;
  selection.sink = 128;
  selection.last_q = LAST_Q;
  selection.rule = UP_RULE_EXCLUSIVE;
  selection.scale = 0.08838834764f; /* 1 / sqrt(128) */
  selection.queries = random_tensor((size_t)LAST_Q * HEADS * HEAD_DIM);
  selection.query_request_stride = (int64_t)LAST_Q * HEADS * HEAD_DIM;
  selection.query_row_stride = HEADS * HEAD_DIM;
  selection.query_head_stride = HEAD_DIM;
  selection.keys.data = random_tensor((size_t)ROWS * KV_HEADS * HEAD_DIM);
  selection.keys.pages = upload(page_table, sizeof page_table);
  selection.keys.pages_stride = PAGES;
  selection.keys.page_stride = (int64_t)KV_HEADS * PAGE * HEAD_DIM;
  selection.keys.head_stride = PAGE * HEAD_DIM;
  selection.keys.row_stride = HEAD_DIM;
  selection.keys.page_size = PAGE;
  selection.keys.page_count = PAGES;
  selection.lengths = upload(&length, sizeof length);
  selection.p_q32 = upload(&p, sizeof p);
  selection.bitmaps = device((ROWS / 64 + 31) / 32 * sizeof(uint32_t));
  selection.kept = device(ROWS * sizeof(int32_t));
  selection.kept_lengths = device(sizeof(int32_t));
  size_t workspace_bytes = 0;
  up(up_selection_workspace(UP_CUDA, &selection, &workspace_bytes));
  void *workspace = device(workspace_bytes);

  up_gather gather = {0};
  gather.size = sizeof gather;
  gather.max_rows = ROWS;
  gather.source_rows = ROWS;
  gather.row_bytes = gather.source_stride_bytes = gather.target_stride_bytes = HIDDEN * 2;
  gather.source = random_tensor((size_t)ROWS * HIDDEN);
  gather.indices = selection.kept;
  gather.count = selection.kept_lengths;
  gather.target = device((size_t)ROWS * HIDDEN * 2);

  up(up_select(UP_CUDA, &selection, workspace, workspace_bytes, stream));
  up(up_gather_rows(UP_CUDA, &gather, stream));

  /* Only to show it. */
  int32_t kept_length = 0;
  int32_t *kept = malloc(ROWS * sizeof(int32_t));
  cuda(cudaMemcpyAsync(&kept_length, selection.kept_lengths, sizeof kept_length, cudaMemcpyDeviceToHost, stream));
  cuda(cudaMemcpyAsync(kept, selection.kept, ROWS * sizeof(int32_t), cudaMemcpyDeviceToHost, stream));
  cuda(cudaStreamSynchronize(stream));
  int ascending = kept_length >= 256 && kept_length <= ROWS && kept[0] == 0 && kept[kept_length - 1] == ROWS - 1;
  for (int i = 1; i < kept_length; i++) ascending = ascending && kept[i] > kept[i - 1];
  printf("%d of %d rows kept, %zu bytes of workspace%s\n", kept_length, ROWS, workspace_bytes,
         ascending ? "" : "; but the indices are not ascending rows with the first and the last kept");
  return ascending ? 0 : 1;
}
