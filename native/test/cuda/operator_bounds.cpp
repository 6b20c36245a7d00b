// Every CUDA operator on device-side numbers that lie: lengths below zero and beyond capacity, page numbers, indices, positions
// and slots from anywhere. Buffers are allocated to the byte, so that a run under `compute-sanitizer --tool memcheck` proves
// that nothing reads or writes outside them. Without it the program shows that every launch ends well.
//
// usage: cuda_bounds [rounds] [seed] [operators whose name begins so]
#include "operator_bounds.h"

#include <cstring>

namespace {

using namespace bounds;

void select(Round &r) {
  const Shape s;
  up_selection p{};
  p.size = sizeof p;
  p.dtype = UP_BF16;
  p.requests = s.requests;
  p.heads = s.heads;
  p.kv_heads = s.kv_heads;
  p.head_dim = s.head_dim;
  p.max_rows = s.capacity;
  p.block = 64;
  p.sink = uniform(0, 200);
  p.last_q = uniform(1, 128);
  p.rule = pick({UP_RULE_EXCLUSIVE, UP_RULE_REFERENCE});
  p.scale = 0.1f;
  p.soft_cap = pick({0.0f, 20.0f});
  p.query_head_stride = s.head_dim;
  p.query_row_stride = int64_t{s.heads} * s.head_dim;
  p.query_request_stride = p.last_q * p.query_row_stride;
  p.queries = r.numbers(s.requests * p.query_request_stride);
  p.keys = r.cache(s.requests, s.capacity, s.kv_heads, s.head_dim, s.page_size);
  p.lengths = r.integers(s.requests, 0, s.capacity);
  p.p_q32 = reinterpret_cast<uint64_t *>(r.integers(2 * s.requests, 0, 1));
  const int64_t blocks = (s.capacity + 63) / 64;
  p.masses = uniform(0, 1) == 0 ? nullptr : static_cast<uint64_t *>(r.bytes(s.requests * blocks * 8));
  p.bitmaps = static_cast<uint32_t *>(r.bytes(s.requests * ((blocks + 31) / 32) * 4));
  p.kept = static_cast<int32_t *>(r.bytes(int64_t{s.requests} * s.capacity * 4));
  p.kept_lengths = static_cast<int32_t *>(r.bytes(s.requests * 4));
  p.fallbacks = uniform(0, 1) == 0 ? nullptr : static_cast<int32_t *>(r.bytes(s.requests * 4));
  run(r, table->selection_workspace, table->select, p);
}

void attend_prefill(Round &r) {
  const Shape s;
  const int rows = uniform(1, 400);
  up_prefill_attention p{};
  p.size = sizeof p;
  p.dtype = UP_BF16;
  p.requests = s.requests;
  p.max_query_rows = rows;
  p.max_key_rows = s.capacity;
  p.heads = s.heads;
  p.kv_heads = s.kv_heads;
  p.head_dim = s.head_dim;
  p.scale = 0.1f;
  p.soft_cap = pick({0.0f, 20.0f});
  p.query_head_stride = p.output_head_stride = s.head_dim;
  p.query_row_stride = p.output_row_stride = int64_t{s.heads} * s.head_dim;
  p.queries = r.numbers(rows * p.query_row_stride);
  p.keys = r.cache(s.requests, s.capacity, s.kv_heads, s.head_dim, s.page_size);
  p.values = r.cache(s.requests, s.capacity, s.kv_heads, s.head_dim, s.page_size);
  p.row_starts = r.integers(s.requests + 1, 0, rows, uniform(0, 3) != 0);
  p.lo = uniform(0, 1) == 0 ? nullptr : r.integers(rows, 0, s.capacity / 2, uniform(0, 1) == 0);
  p.hi = r.integers(rows, 0, s.capacity, uniform(0, 1) == 0);
  p.output = r.bytes(rows * p.output_row_stride * 2);
  run(r, table->prefill_attention_workspace, table->attend_prefill, p);

  up_sparse_attention q{};
  q.size = sizeof q;
  q.attention = p;
  q.query_blocks = uniform(1, 6);
  q.block_starts = r.integers(s.requests, 0, q.query_blocks - 1);
  const int64_t words = (int64_t{s.capacity} + 64 * 32 - 1) / (64 * 32);
  q.bitmaps = reinterpret_cast<const uint32_t *>(r.integers(s.kv_heads * q.query_blocks * words, INT32_MIN, INT32_MAX));
  run(r, table->sparse_attention_workspace, table->attend_sparse, q);
}

void attend_decode(Round &r) {
  Shape s;
  s.capacity *= uniform(1, 4);
  up_decode_attention p{};
  p.size = sizeof p;
  p.dtype = UP_BF16;
  p.requests = s.requests;
  p.max_key_rows = s.capacity;
  p.heads = s.heads;
  p.kv_heads = s.kv_heads;
  p.head_dim = s.head_dim;
  p.scale = 0.1f;
  p.query_head_stride = p.output_head_stride = s.head_dim;
  p.query_row_stride = p.output_row_stride = int64_t{s.heads} * s.head_dim;
  p.queries = r.numbers(s.requests * p.query_row_stride);
  p.keys = r.cache(s.requests, s.capacity, s.kv_heads, s.head_dim, s.page_size);
  p.values = r.cache(s.requests, s.capacity, s.kv_heads, s.head_dim, s.page_size);
  p.begin = uniform(0, 1) == 0 ? nullptr : r.integers(s.requests, 0, s.capacity);
  p.end = r.integers(s.requests, 0, s.capacity);
  p.output = r.bytes(s.requests * p.output_row_stride * 2);
  run(r, table->decode_attention_workspace, table->attend_decode, p);
}

void gather_and_normalise(Round &r) {
  const int rows = uniform(1, 300), source_rows = uniform(1, 300), width = 8 * uniform(1, 300);
  up_gather g{};
  g.size = sizeof g;
  g.max_rows = rows;
  g.source_rows = source_rows;
  g.row_bytes = g.source_stride_bytes = g.target_stride_bytes = int64_t{2} * width;
  g.source = r.numbers(int64_t{source_rows} * width);
  g.indices = r.integers(rows, 0, source_rows - 1);
  g.count = r.integers(1, 0, rows);
  g.target = r.bytes(rows * g.row_bytes);
  run(table->gather_rows, g);

  up_rms_norm n{};
  n.size = sizeof n;
  n.dtype = UP_BF16;
  n.rows = rows;
  n.width = width;
  n.source_rows = source_rows;
  n.eps = 1e-5f;
  n.input = g.source;
  n.indices = g.indices;
  n.count = g.count;
  n.addend = n.sum = g.target;
  n.weight = r.numbers(width);
  n.output = r.bytes(rows * g.row_bytes);
  n.input_stride = n.addend_stride = n.sum_stride = n.output_stride = width;
  run(table->normalise, n);

  up_post_norm o{};
  o.size = sizeof o;
  o.dtype = UP_BF16;
  o.rows = rows;
  o.width = width;
  o.source_rows = source_rows;
  o.input = n.output;
  o.weight = o.next_weight = n.weight;
  o.residual = g.source;
  o.indices = g.indices;
  o.count = g.count;
  o.sum = g.target;
  o.output = r.bytes(rows * g.row_bytes);
  o.input_stride = o.residual_stride = o.sum_stride = o.output_stride = width;
  run(table->add_normed, o);

  up_gated_activation a{};
  a.size = sizeof a;
  a.dtype = UP_BF16;
  a.activation = pick({UP_SILU, UP_GELU_TANH});
  a.rows = rows;
  a.inner = width;
  a.input = r.numbers(int64_t{rows} * 2 * width);
  a.input_stride = 2 * width;
  a.output = n.output;
  a.output_stride = width;
  run(table->activate, a);

  up_embedding e{};
  e.size = sizeof e;
  e.dtype = UP_BF16;
  e.rows = rows;
  e.width = width;
  e.vocab_size = source_rows;
  e.tokens = g.indices;
  e.table = g.source;
  e.table_stride = e.output_stride = width;
  e.output = n.output;
  if (uniform(0, 1) == 0) {
    e.slots = uniform(1, 3);
    e.last_tokens = r.integers(e.slots, 0, source_rows - 1);
  }
  run(table->embed, e);
}

void rotate_and_write(Round &r) {
  const Shape s;
  const int rows = uniform(1, 200), rotary = 16 * uniform(0, s.head_dim / 16), limit = uniform(1, 100);
  up_rope_write p{};
  p.size = sizeof p;
  p.dtype = UP_BF16;
  p.rows = rows;
  p.heads = s.heads;
  p.kv_heads = s.kv_heads;
  p.head_dim = s.head_dim;
  p.rotary_dim = rotary;
  p.positions_limit = limit;
  p.requests = s.requests;
  p.max_key_rows = s.capacity;
  p.cosines = r.floats(int64_t{limit} * rotary / 2);
  p.sines = r.floats(int64_t{limit} * rotary / 2);
  p.positions = r.integers(rows, 0, limit - 1);
  p.kv_requests = r.integers(rows, 0, s.requests - 1);
  p.kv_rows = r.integers(rows, -1, s.capacity - 1);
  p.query_output_row_stride = int64_t{s.heads} * s.head_dim;
  p.query_head_stride = pick({0, s.head_dim, 2 * s.head_dim});
  p.query_row_stride = s.heads * (p.query_head_stride == 0 ? s.head_dim : p.query_head_stride);
  p.query_norm = uniform(0, 1) == 0 ? nullptr : r.numbers(s.head_dim);
  p.key_norm = uniform(0, 1) == 0 ? nullptr : r.numbers(s.head_dim);
  p.key_row_stride = p.value_row_stride = int64_t{s.kv_heads} * s.head_dim;
  p.queries = r.numbers(rows * p.query_row_stride);
  p.query_output = r.bytes(rows * p.query_output_row_stride * 2);
  p.keys = r.numbers(rows * p.key_row_stride);
  p.values = r.numbers(rows * p.key_row_stride);
  p.key_cache = r.cache(s.requests, s.capacity, s.kv_heads, s.head_dim, s.page_size);
  p.value_cache = r.cache(s.requests, s.capacity, s.kv_heads, s.head_dim, s.page_size);
  run(table->rotate_and_write, p);

  up_output_gate g{};
  g.size = sizeof g;
  g.dtype = UP_BF16;
  g.rows = rows;
  g.heads = s.heads;
  g.head_dim = s.head_dim;
  g.gate = p.queries;
  g.gate_row_stride = p.query_row_stride;
  g.gate_head_stride = p.query_head_stride == 0 ? s.head_dim : p.query_head_stride;
  g.attended = p.query_output;
  g.attended_row_stride = p.query_output_row_stride;
  g.attended_head_stride = s.head_dim;
  run(table->apply_gate, g);
}

void sample(Round &r) {
  const int rows = uniform(1, 5), vocab = uniform(1, 5000), slots = uniform(1, 3);
  up_sampler p{};
  p.size = sizeof p;
  p.dtype = UP_F32;
  p.rows = rows;
  p.vocab_size = vocab;
  p.slots = slots;
  p.logprob_count = uniform(0, 8);
  p.logits = r.floats(int64_t{rows} * vocab);
  p.logits_stride = vocab;
  std::vector<uint8_t> content(static_cast<size_t>(rows) * sizeof(up_sample_row));
  for (int i = 0; i < rows; ++i) {
    up_sample_row row{random_bits(), random_bits(), pick({0.0f, 0.5f, 1e-6f}), pick({1.0f, 0.8f, 1e-9f}), pick({0.0f, 0.3f}),
                      0.1f,          0.1f,          1.2f,                      pick({0, 5, 1 << 30}),    uniform(-3, slots + 2)};
    std::copy_n(reinterpret_cast<const uint8_t *>(&row), sizeof row, content.begin() + static_cast<long>(i * sizeof row));
  }
  p.parameters = static_cast<const up_sample_row *>(r.keep(content));
  p.prompt_tokens = reinterpret_cast<uint32_t *>(r.integers(int64_t{slots} * ((vocab + 31) / 32), 0, 100));
  p.output_counts = r.integers(int64_t{slots} * vocab, 0, 2);
  p.tokens = static_cast<int32_t *>(r.bytes(rows * 4));
  p.logprobs = static_cast<float *>(r.bytes(rows * 4));
  p.top_tokens = static_cast<int32_t *>(r.bytes(int64_t{rows} * p.logprob_count * 4));
  p.top_logprobs = static_cast<float *>(r.bytes(int64_t{rows} * p.logprob_count * 4));
  p.non_finite = static_cast<int32_t *>(r.bytes(rows * 4));
  p.edits.edits = uniform(0, 20);
  p.edits.starts = r.integers(rows + 1, 0, p.edits.edits, uniform(0, 1) == 0);
  p.edits.tokens = r.integers(p.edits.edits, 0, vocab - 1);
  p.edits.values = r.floats(p.edits.edits);
  p.edits.masks_count = uniform(0, 2);
  p.edits.mask_rows = r.integers(rows, -1, p.edits.masks_count);
  p.edits.masks = reinterpret_cast<const uint32_t *>(r.integers(int64_t{p.edits.masks_count} * ((vocab + 31) / 32), -100, 100));
  p.forced = uniform(0, 1) == 0 ? nullptr : r.integers(rows, -vocab, vocab);
  p.last_tokens = static_cast<int32_t *>(r.bytes(slots * 4));
  p.count_outputs = uniform(0, 1);
  run(r, table->sampler_workspace, table->sample, p);

  up_logit_edit e{};
  e.size = sizeof e;
  e.dtype = UP_F32;
  e.rows = rows;
  e.vocab_size = vocab;
  e.soft_cap = pick({0.0f, 30.0f});
  e.logits = const_cast<void *>(p.logits);
  e.logits_stride = vocab;
  e.edits = p.edits;
  run(table->edit_logits, e);
}

}  // namespace

int main(int argc, char **argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 20;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  random_bits.seed(seed);
  table = up_cuda_backend();
  up_backend_error error{};
  launched(table->available(&error), error);
  const char *only = argc > 3 ? argv[3] : "";
  const struct {
    const char *name;
    void (*run)(Round &);
  } parts[] = {{"select", select},
               {"attend-prefill", attend_prefill},
               {"attend-decode", attend_decode},
               {"layer", gather_and_normalise},
               {"rope", rotate_and_write},
               {"sample", sample},
               {"delta-prepare", delta_prepare},
               {"delta-recurrence", delta_recurrence},
               {"experts", experts}};
  for (int i = 0; i < rounds; ++i) {
    Round r;
    for (const auto &part : parts)
      if (std::strncmp(part.name, only, std::strlen(only)) == 0) part.run(r);
    check(cudaDeviceSynchronize());
  }
  std::printf("cuda_bounds: %d rounds from seed %llu\n", rounds, static_cast<unsigned long long>(seed));
  return 0;
}
