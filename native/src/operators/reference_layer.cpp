// The rest of a layer in double precision.
#include <cstring>

#include "operators/reference_operators.h"

namespace up::reference {
namespace {

int row_count(const int32_t *count, int rows) { return count == nullptr ? rows : std::clamp(*count, 0, rows); }

int source_row(const int32_t *indices, int row, int source_rows) {
  return indices == nullptr ? row : std::clamp(indices[row], 0, source_rows - 1);
}

// x / sqrt(mean(x²) + eps) · (offset + weight), in place.
void normalise_row(std::vector<double> &x, double eps, double offset, const void *weight, up_dtype dtype) {
  double squares = 0;
  for (const double each : x) squares += each * each;
  const double inverse = 1 / std::sqrt(squares / static_cast<double>(x.size()) + eps);
  for (size_t i = 0; i < x.size(); i++) x[i] *= inverse * (offset + element(weight, dtype, static_cast<int64_t>(i)));
}

std::vector<double> read_row(const void *data, up_dtype dtype, int64_t first, int width) {
  std::vector<double> x(static_cast<size_t>(width));
  for (int i = 0; i < width; i++) x[static_cast<size_t>(i)] = element(data, dtype, first + i);
  return x;
}

void write_row(void *data, up_dtype dtype, int64_t first, const std::vector<double> &x) {
  for (size_t i = 0; i < x.size(); i++) store_element(data, dtype, first + static_cast<int64_t>(i), x[i]);
}

}  // namespace

up_status gather_rows(const up_gather *p, void *, up_backend_error *) {
  const int rows = std::clamp(*p->count, 0, p->max_rows);
  for (int row = 0; row < rows; row++)
    std::memmove(static_cast<uint8_t *>(p->target) + row * p->target_stride_bytes,
                 static_cast<const uint8_t *>(p->source) +
                     source_row(p->indices, row, p->source_rows) * p->source_stride_bytes,
                 static_cast<size_t>(p->row_bytes));
  return UP_OK;
}

up_status normalise(const up_rms_norm *p, void *, up_backend_error *) {
  for (int row = 0; row < row_count(p->count, p->rows); row++) {
    std::vector<double> x =
        read_row(p->input, p->dtype, source_row(p->indices, row, p->source_rows) * p->input_stride, p->width);
    if (p->addend != nullptr)
      for (int i = 0; i < p->width; i++) {
        double &each = x[static_cast<size_t>(i)];
        each = rounded(p->dtype, each + element(p->addend, p->dtype, row * p->addend_stride + i));
      }
    if (p->sum != nullptr) write_row(p->sum, p->dtype, row * p->sum_stride, x);
    if (p->output == nullptr) continue;
    normalise_row(x, p->eps, p->weight_offset, p->weight, p->dtype);
    write_row(p->output, p->dtype, row * p->output_stride, x);
  }
  return UP_OK;
}

up_status add_normed(const up_post_norm *p, void *, up_backend_error *) {
  for (int row = 0; row < row_count(p->count, p->rows); row++) {
    std::vector<double> x = read_row(p->input, p->dtype, row * p->input_stride, p->width);
    normalise_row(x, p->eps, p->weight_offset, p->weight, p->dtype);
    const int64_t residual = source_row(p->indices, row, p->source_rows) * p->residual_stride;
    for (int i = 0; i < p->width; i++) {
      double &each = x[static_cast<size_t>(i)];
      each = rounded(p->dtype, each + element(p->residual, p->dtype, residual + i));
    }
    write_row(p->sum, p->dtype, row * p->sum_stride, x);
    if (p->next_weight == nullptr) continue;
    normalise_row(x, p->next_eps, p->next_weight_offset, p->next_weight, p->dtype);
    write_row(p->output, p->dtype, row * p->output_stride, x);
  }
  return UP_OK;
}

up_status rotate_and_write(const up_rope_write *p, void *, up_backend_error *) {
  const int half = p->rotary_dim / 2;
  const int64_t query_head_stride = p->query_head_stride == 0 ? p->head_dim : p->query_head_stride;
  const auto turned = [&](const void *data, int64_t first, const void *norm, int row) {
    std::vector<double> x = read_row(data, p->dtype, first, p->head_dim);
    if (norm != nullptr) normalise_row(x, p->norm_eps, p->norm_weight_offset, norm, p->dtype);
    const int64_t angles = static_cast<int64_t>(std::clamp(p->positions[row], 0, p->positions_limit - 1)) * half;
    for (int i = 0; i < half; i++) {
      double &low = x[static_cast<size_t>(i)], &high = x[static_cast<size_t>(i + half)];
      const double c = p->cosines[angles + i], s = p->sines[angles + i];
      const double turned_low = low * c - high * s;
      high = high * c + low * s;
      low = turned_low;
    }
    return x;
  };
  for (int row = 0; row < p->rows; row++) {
    for (int head = 0; head < p->heads; head++)
      write_row(p->query_output, p->dtype, row * p->query_output_row_stride + int64_t{head} * p->head_dim,
                turned(p->queries, row * p->query_row_stride + head * query_head_stride, p->query_norm, row));
    const int request = p->kv_requests == nullptr ? 0 : p->kv_requests[row], kv_row = p->kv_rows[row];
    if (kv_row < 0 || kv_row >= p->max_key_rows || request < 0 || request >= p->requests) continue;
    for (int head = 0; head < p->kv_heads; head++) {
      const int64_t inside = int64_t{head} * p->head_dim;
      write_row(const_cast<void *>(p->key_cache.data), p->dtype, kv_index(p->key_cache, request, kv_row, head),
                turned(p->keys, row * p->key_row_stride + inside, p->key_norm, row));
      write_row(const_cast<void *>(p->value_cache.data), p->dtype, kv_index(p->value_cache, request, kv_row, head),
                read_row(p->values, p->dtype, row * p->value_row_stride + inside, p->head_dim));
    }
  }
  return UP_OK;
}

up_status activate(const up_gated_activation *p, void *, up_backend_error *) {
  for (int row = 0; row < p->rows; row++)
    for (int i = 0; i < p->inner; i++) {
      const int64_t at = row * p->input_stride + i;
      store_element(p->output, p->dtype, row * p->output_stride + i,
                    activated(p->activation, element(p->input, p->dtype, at)) * element(p->input, p->dtype, at + p->inner));
    }
  return UP_OK;
}

up_status apply_gate(const up_output_gate *p, void *, up_backend_error *) {
  for (int row = 0; row < p->rows; row++)
    for (int head = 0; head < p->heads; head++)
      for (int i = 0; i < p->head_dim; i++) {
        const int64_t at = row * p->attended_row_stride + head * p->attended_head_stride + i;
        const double gate = element(p->gate, p->dtype, row * p->gate_row_stride + head * p->gate_head_stride + i);
        store_element(p->attended, p->dtype, at, element(p->attended, p->dtype, at) * sigmoid(gate));
      }
  return UP_OK;
}

up_status embed(const up_embedding *p, void *, up_backend_error *) {
  const double scale = p->scale == 0 ? 1 : p->scale;
  for (int row = 0; row < p->rows; row++) {
    int token = p->tokens[row];
    if (token < 0 && p->last_tokens != nullptr) token = p->last_tokens[std::min(~token, p->slots - 1)];
    token = std::clamp(token, 0, p->vocab_size - 1);
    std::vector<double> x = read_row(p->table, p->dtype, token * p->table_stride, p->width);
    for (double &each : x) each *= scale;
    write_row(p->output, p->dtype, row * p->output_stride, x);
  }
  return UP_OK;
}

up_status edit_logits(const up_logit_edit *p, void *, up_backend_error *) {
  const up_logit_edits &e = p->edits;
  const int64_t words = (int64_t{p->vocab_size} + 31) / 32;
  for (int row = 0; row < p->rows; row++) {
    std::vector<double> x = read_row(p->logits, p->dtype, row * p->logits_stride, p->vocab_size);
    if (p->soft_cap > 0)
      for (double &each : x) each = scored(each, 1, p->soft_cap);
    const int mask = e.mask_rows == nullptr ? -1 : e.mask_rows[row];
    if (mask >= 0 && mask < e.masks_count)
      for (int i = 0; i < p->vocab_size; i++)
        if ((e.masks[mask * words + i / 32] >> (i % 32) & 1) == 0) x[static_cast<size_t>(i)] = -INFINITY;
    if (e.starts != nullptr)
      for (int i = std::clamp(e.starts[row], 0, e.edits); i < std::clamp(e.starts[row + 1], 0, e.edits); i++)
        if (e.tokens[i] >= 0 && e.tokens[i] < p->vocab_size) x[static_cast<size_t>(e.tokens[i])] += e.values[i];
    write_row(p->logits, p->dtype, row * p->logits_stride, x);
  }
  return UP_OK;
}

}  // namespace up::reference
