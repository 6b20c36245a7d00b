#include "operators/reference_operators.h"

namespace up {

void store_element(void *data, up_dtype dtype, int64_t index, double value) {
  switch (dtype) {
    case UP_F32: static_cast<float *>(data)[index] = static_cast<float>(value); return;
    case UP_F64: static_cast<double *>(data)[index] = value; return;
    case UP_BF16: {
      const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(value));
      const uint32_t rounded = std::isnan(value) ? 0x7fc00000u : bits + 0x7fffu + (bits >> 16 & 1);
      static_cast<uint16_t *>(data)[index] = static_cast<uint16_t>(rounded >> 16);
      return;
    }
    case UP_F16: break;
  }
  uint16_t bits = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::abs(value);
  if (std::isnan(value)) {
    bits = 0x7e00;
  } else if (magnitude >= 65520) {
    bits |= 0x7c00;
  } else if (magnitude > 0) {
    const int exponent = std::max(std::ilogb(magnitude), -14);
    const auto fraction = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));  // 2048 carries over
    bits = static_cast<uint16_t>(bits | (((exponent + 14) << 10) + fraction));
  }
  static_cast<uint16_t *>(data)[index] = bits;
}

double rounded(up_dtype dtype, double value) {
  alignas(double) unsigned char place[sizeof(double)];
  store_element(place, dtype, 0, value);
  return element(place, dtype, 0);
}

namespace reference {
namespace {

// One query row over the keys first … last of a request that `seen(kv_head, key)` lets through; no keys give zeros.
template <class Attention, class Seen>
void attend_row(const Attention &p, int request, int64_t row, int first, int last, Seen seen) {
  std::vector<double> shares(static_cast<size_t>(std::max(last - first + 1, 0)));
  std::vector<double> sums(static_cast<size_t>(p.head_dim));
  for (int head = 0; head < p.heads; head++) {
    const int kv_head = head / (p.heads / p.kv_heads);
    const int64_t query = row * p.query_row_stride + head * p.query_head_stride;
    double most = -INFINITY, total = 0;
    for (int key = first; key <= last; key++) {
      const double s = seen(kv_head, key) ? score(p.queries, query, p.keys, kv_index(p.keys, request, key, kv_head), p.dtype,
                                                  p.head_dim, p.scale, p.soft_cap)
                                          : -INFINITY;
      shares[static_cast<size_t>(key - first)] = s;
      most = std::max(most, s);
    }
    for (double &share : shares) total += share = share == -INFINITY ? 0 : std::exp(share - most);
    std::fill(sums.begin(), sums.end(), 0.0);
    for (int key = first; key <= last; key++) {
      if (shares[static_cast<size_t>(key - first)] == 0) continue;
      const double share = shares[static_cast<size_t>(key - first)] / total;
      const int64_t value = kv_index(p.values, request, key, kv_head);
      for (int i = 0; i < p.head_dim; i++) sums[static_cast<size_t>(i)] += share * element(p.values.data, p.dtype, value + i);
    }
    const int64_t output = row * p.output_row_stride + head * p.output_head_stride;
    for (int i = 0; i < p.head_dim; i++) store_element(p.output, p.dtype, output + i, sums[static_cast<size_t>(i)]);
  }
}

// `seen(request, row of the request, kv_head, key)`
template <class Seen>
void attend_rows(const up_prefill_attention &p, Seen seen) {
  for (int request = 0; request < p.requests; request++) {
    const int begin = std::clamp(p.row_starts[request], 0, p.max_query_rows);
    const int end = std::clamp(p.row_starts[request + 1], 0, p.max_query_rows);
    for (int row = begin; row < end; row++)
      attend_row(p, request, row, p.lo == nullptr ? 0 : std::max(p.lo[row], 0), std::min(p.hi[row], p.max_key_rows - 1),
                 [&](int kv_head, int key) { return seen(request, row - begin, kv_head, key); });
  }
}

}  // namespace

up_status attend_prefill(const up_prefill_attention *p, void *, size_t, void *, up_backend_error *) {
  attend_rows(*p, [](int, int, int, int) { return true; });
  return UP_OK;
}

up_status attend_sparse(const up_sparse_attention *p, void *, size_t, void *, up_backend_error *) {
  const int64_t words = (int64_t{p->attention.max_key_rows} + 64 * 32 - 1) / (64 * 32);
  attend_rows(p->attention, [&](int request, int row, int kv_head, int key) {
    const int64_t block = int64_t{p->block_starts[request]} + row / 128;
    if (block < 0 || block >= p->query_blocks) return false;
    const int64_t word = (kv_head * int64_t{p->query_blocks} + block) * words + key / 64 / 32;
    return (p->bitmaps[word] >> (key / 64 % 32) & 1) != 0;
  });
  return UP_OK;
}

up_status attend_decode(const up_decode_attention *p, void *, size_t, void *, up_backend_error *) {
  for (int request = 0; request < p->requests; request++)
    attend_row(*p, request, request, p->begin == nullptr ? 0 : std::max(p->begin[request], 0),
               std::min(p->end[request], p->max_key_rows) - 1, [](int, int) { return true; });
  return UP_OK;
}

}  // namespace reference
}  // namespace up
