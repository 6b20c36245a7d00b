// The operators as plain loops in double precision on host memory: the oracle of the other backends. Lengths, pages and indices
// are clamped as every backend clamps them.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "operators/backend.h"

namespace up {

inline double element(const void *data, up_dtype dtype, int64_t index) {
  switch (dtype) {
    case UP_F32: return static_cast<const float *>(data)[index];
    case UP_F64: return static_cast<const double *>(data)[index];
    case UP_BF16: return std::bit_cast<float>(static_cast<uint32_t>(static_cast<const uint16_t *>(data)[index]) << 16);
    case UP_F16: break;
  }
  const uint16_t bits = static_cast<const uint16_t *>(data)[index];
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double magnitude = std::ldexp(fraction, -24);
  if (exponent == 31) magnitude = fraction == 0 ? INFINITY : NAN;
  else if (exponent > 0) magnitude = std::ldexp(1024 + fraction, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

// Rounds to nearest even.
void store_element(void *data, up_dtype dtype, int64_t index, double value);

double rounded(up_dtype dtype, double value);

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

inline double activated(up_activation activation, double x) {
  if (activation == UP_SILU) return x * sigmoid(x);
  return x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))) / 2;
}

// Index of element 0 of a cached row.
inline int64_t kv_index(const up_kv &kv, int request, int row, int head) {
  if (kv.table_rows != nullptr) request = std::clamp(kv.table_rows[request], 0, kv.table_count - 1);
  int64_t page = request, inside = row;
  if (kv.pages != nullptr) {
    page = kv.pages[request * kv.pages_stride + row / kv.page_size];
    inside = row % kv.page_size;
  }
  page = std::clamp<int64_t>(page, 0, kv.page_count - 1);
  return page * kv.page_stride + inside * kv.row_stride + head * kv.head_stride;
}

inline double scored(double product, double scale, double soft_cap) {
  const double score = product * scale;
  return soft_cap > 0 ? soft_cap * std::tanh(score / soft_cap) : score;
}

// q · k of one query and one cached key, times the scale and under the soft-cap.
inline double score(const void *queries, int64_t query, const up_kv &keys, int64_t key, up_dtype dtype, int head_dim,
                    double scale, double soft_cap) {
  double sum = 0;
  for (int i = 0; i < head_dim; i++) sum += element(queries, dtype, query + i) * element(keys.data, dtype, key + i);
  return std::isfinite(sum) ? scored(sum, scale, soft_cap) : sum;
}

namespace reference {

up_status select(const up_selection *p, void *, size_t, void *, up_backend_error *);
up_status attend_prefill(const up_prefill_attention *p, void *, size_t, void *, up_backend_error *);
up_status attend_decode(const up_decode_attention *p, void *, size_t, void *, up_backend_error *);
up_status attend_sparse(const up_sparse_attention *p, void *, size_t, void *, up_backend_error *);

up_status gather_rows(const up_gather *p, void *, up_backend_error *);
up_status normalise(const up_rms_norm *p, void *, up_backend_error *);
up_status add_normed(const up_post_norm *p, void *, up_backend_error *);
up_status rotate_and_write(const up_rope_write *p, void *, up_backend_error *);
up_status activate(const up_gated_activation *p, void *, up_backend_error *);
up_status apply_gate(const up_output_gate *p, void *, up_backend_error *);
up_status embed(const up_embedding *p, void *, up_backend_error *);
up_status edit_logits(const up_logit_edit *p, void *, up_backend_error *);

up_status delta_prepare(const up_delta_input *p, void *, up_backend_error *);
up_status recur_prefill(const up_delta_prefill *p, void *, size_t, void *, up_backend_error *);
up_status recur_decode(const up_delta_decode *p, void *, up_backend_error *);
up_status normalise_gated(const up_gated_norm *p, void *, up_backend_error *);

up_status route(const up_moe_router *p, void *, up_backend_error *);
up_status run_experts(const up_moe *p, void *, size_t, void *, up_backend_error *);

}  // namespace reference
}  // namespace up
