#include <numeric>

#include "operators/reference_operators.h"

namespace up::reference {
namespace {

struct Blocks {
  int rows, block, sink, last_q;
  int count() const { return (rows + block - 1) / block; }
  int begin(int b) const { return b * block; }
  int end(int b) const { return std::min((b + 1) * block, rows); }
  bool forced(int row) const { return row < sink || row >= rows - last_q; }
  bool all_forced(int b) const {
    for (int row = begin(b); row < end(b); row++)
      if (!forced(row)) return false;
    return true;
  }
};

// Attention mass of each block, 40 fractional bits; false when a score is not finite.
bool score_blocks(const up_selection &p, int request, const Blocks &blocks, std::vector<uint64_t> &masses) {
  const int q_rows = std::min(p.last_q, blocks.rows);
  std::vector<double> scores(static_cast<size_t>(blocks.rows));
  std::vector<double> head_masses(masses.size());
  for (int head = 0; head < p.heads; head++) {
    std::fill(head_masses.begin(), head_masses.end(), 0.0);
    for (int q = 0; q < q_rows; q++) {
      const int last = blocks.rows - q_rows + q;
      const int64_t query = request * p.query_request_stride + q * p.query_row_stride + head * p.query_head_stride;
      double most = -INFINITY;
      for (int row = 0; row <= last; row++) {
        const int64_t key = kv_index(p.keys, request, row, head / (p.heads / p.kv_heads));
        const double s = score(p.queries, query, p.keys, key, p.dtype, p.head_dim, p.scale, p.soft_cap);
        if (!std::isfinite(s)) return false;
        scores[static_cast<size_t>(row)] = s;
        most = std::max(most, s);
      }
      double sum = 0;
      for (int row = 0; row <= last; row++) sum += std::exp(scores[static_cast<size_t>(row)] - most);
      for (int row = 0; row <= last; row++)
        head_masses[static_cast<size_t>(row / blocks.block)] += std::exp(scores[static_cast<size_t>(row)] - most) / sum;
    }
    for (size_t b = 0; b < masses.size(); b++) masses[b] += static_cast<uint64_t>(std::llround(std::ldexp(head_masses[b], 40)));
  }
  return true;
}

std::vector<bool> keep_blocks(const Blocks &blocks, const std::vector<uint64_t> &masses, uint64_t p_q32, up_rule rule) {
  const auto count = static_cast<size_t>(blocks.count());
  std::vector<int> order;
  uint64_t total = 0;
  for (int b = 0; b < blocks.count(); b++) {
    if (rule == UP_RULE_EXCLUSIVE && blocks.all_forced(b)) continue;
    order.push_back(b);
    total += masses[static_cast<size_t>(b)];
  }
  std::vector<bool> kept(count, blocks.rows <= int64_t{blocks.sink} + blocks.last_q || total == 0);
  std::sort(order.begin(), order.end(), [&](int a, int b) {
    const uint64_t mass_a = masses[static_cast<size_t>(a)], mass_b = masses[static_cast<size_t>(b)];
    return mass_a != mass_b ? mass_a > mass_b : a > b;
  });
  const auto threshold = static_cast<uint64_t>(static_cast<unsigned __int128>(total) * p_q32 >> 32);
  uint64_t before = 0;
  for (const int b : order) {
    if (before <= threshold) kept[static_cast<size_t>(b)] = true;
    before += masses[static_cast<size_t>(b)];
  }
  // These the rule does not decide on.
  for (int b = 0; b < blocks.count(); b++)
    if (rule == UP_RULE_EXCLUSIVE && blocks.all_forced(b)) kept[static_cast<size_t>(b)] = true;
  return kept;
}

}  // namespace

up_status select(const up_selection *p, void *, size_t, void *, up_backend_error *) {
  const int capacity = (p->max_rows + p->block - 1) / p->block, words = (capacity + 31) / 32;
  for (int request = 0; request < p->requests; request++) {
    const Blocks blocks{std::clamp(p->lengths[request], 0, p->max_rows), p->block, p->sink, p->last_q};
    std::vector<uint64_t> masses(static_cast<size_t>(blocks.count()));
    const bool finite = score_blocks(*p, request, blocks, masses);
    if (!finite) std::fill(masses.begin(), masses.end(), 0);
    const uint64_t share = std::min(p->p_q32[request], uint64_t{1} << 32);
    std::vector<bool> kept = keep_blocks(blocks, masses, share, p->rule);
    if (!finite) kept.assign(kept.size(), true);

    uint32_t *bitmap = p->bitmaps + int64_t{request} * words;
    std::fill_n(bitmap, words, 0u);
    int32_t *rows = p->kept + int64_t{request} * p->max_rows;
    int length = 0;
    for (int b = 0; b < blocks.count(); b++) {
      if (kept[static_cast<size_t>(b)]) bitmap[b / 32] |= 1u << (b % 32);
      for (int row = blocks.begin(b); row < blocks.end(b); row++)
        if (kept[static_cast<size_t>(b)] || blocks.forced(row)) rows[length++] = row;
    }
    p->kept_lengths[request] = length;
    if (p->fallbacks != nullptr) p->fallbacks[request] = !finite;
    if (p->masses != nullptr) {
      uint64_t *out = p->masses + int64_t{request} * capacity;
      std::fill_n(std::copy(masses.begin(), masses.end(), out), static_cast<size_t>(capacity) - masses.size(), uint64_t{0});
    }
  }
  return UP_OK;
}

}  // namespace up::reference
