#include "cuda/backend/row_tables.h"

#include <algorithm>
#include <cstring>

#include "cuda/selection/selection.h"
#include "selection/sparsity.h"

namespace up::cuda {
namespace {

// Parts begin on 16 bytes.
size_t padded(size_t elements) { return (elements + 3) / 4 * 4; }

// Rows of which a request of sampled queries has every 16th.
constexpr int sampled_rows = kSelectionQueries * sparse_sample_every;

bool same_values(const std::vector<int32_t> &a, const std::vector<int32_t> &b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof a[0]) == 0);
}

}  // namespace

bool same_rows(const RowTable &a, const RowTable &b) {
  const auto same_group = [](const RowGroup &x, const RowGroup &y) {
    return x.slot == y.slot && x.first == y.first && x.rows == y.rows;
  };
  return a.segment == b.segment && a.decode_rows == b.decode_rows &&
         std::equal(a.groups.begin(), a.groups.end(), b.groups.begin(), b.groups.end(), same_group) &&
         same_values(a.places, b.places) && same_values(a.positions, b.positions) && same_values(a.first_visible, b.first_visible) &&
         same_values(a.sparse_blocks, b.sparse_blocks);
}

size_t row_table_elements(int rows, int groups) {
  const auto g = static_cast<size_t>(groups);
  const size_t sampled = static_cast<size_t>(rows / sampled_rows) + g;
  return 4 * padded(static_cast<size_t>(rows)) + 3 * padded(g) + 2 * padded(g + 1) + 2 * padded(sampled + 3 * g) + padded(g);
}

std::vector<int32_t> states_of(const RowTable &table, const std::vector<int32_t> *state_slots_of) {
  std::vector<int32_t> out;
  if (state_slots_of == nullptr) return out;
  for (const RowGroup &group : table.groups) out.push_back((*state_slots_of)[static_cast<size_t>(group.slot)]);
  return out;
}

DeviceRows lay_out(const RowTable &table, const std::vector<int32_t> &states, int decode_rows, const int32_t *base,
                   std::vector<int32_t> &out) {
  DeviceRows d;
  d.decode_rows = std::max(decode_rows, table.decode_rows);
  d.rows = std::max(table.rows(), d.decode_rows);
  const auto rows = static_cast<size_t>(d.rows);
  out.clear();
  const auto part = [&](size_t elements, int32_t fill) {
    const size_t at = out.size();
    out.resize(at + padded(elements), fill);
    return at;
  };
  const auto copy = [&](const std::vector<int32_t> &from, int32_t fill) {
    const size_t at = part(rows, fill);
    std::copy(from.begin(), from.end(), out.begin() + static_cast<ptrdiff_t>(at));
    return base + at;
  };
  d.positions = copy(table.positions, 0);
  d.places = copy(table.places, -1);
  if (!table.first_visible.empty()) d.first_visible = copy(table.first_visible, 0);

  const size_t slots = part(rows, -1);
  d.slots = base + slots;
  for (const RowGroup &group : table.groups) std::fill_n(out.begin() + static_cast<ptrdiff_t>(slots) + group.first, group.rows, group.slot);

  const size_t ends = part(static_cast<size_t>(d.decode_rows), 0);
  d.ends = base + ends;
  for (int i = 0; i < table.decode_rows; i++) {
    const int32_t end = table.places[static_cast<size_t>(i)] + 1;
    out[ends + static_cast<size_t>(i)] = end;
    d.decode_keys = std::max(d.decode_keys, end);
  }

  const auto first = static_cast<size_t>(table.decode_rows);
  d.prefill_groups = static_cast<int>(table.groups.size() - first);
  const size_t starts = part(table.groups.size() - first + 1, 0);
  const size_t group_slots = part(table.groups.size() - first, -1);
  d.row_starts = base + starts;
  d.group_slots = base + group_slots;
  for (size_t i = first; i < table.groups.size(); i++) {
    const RowGroup &group = table.groups[i];
    out[starts + i - first] = group.first;
    out[starts + i - first + 1] = group.first + group.rows;
    out[group_slots + i - first] = group.slot;
    d.prefill_keys = std::max(d.prefill_keys, table.places[static_cast<size_t>(group.first + group.rows) - 1] + 1);
  }
  if (!table.sparse_blocks.empty()) {
    const size_t bitmap_starts = part(table.groups.size() - first, 0);
    d.bitmap_starts = base + bitmap_starts;
    for (size_t i = first; i < table.groups.size(); i++) {
      const RowGroup &group = table.groups[i];
      const int blocks = table.sparse_blocks[i];
      out[bitmap_starts + i - first] = d.bitmaps;
      if (blocks > 0) {
        const int place = table.places[static_cast<size_t>(group.first)], end = place + blocks * sparse_query_rows;
        const size_t requests = static_cast<size_t>(ceil_div(end - place, sampled_rows));
        const size_t lengths = part(requests, 0);
        const size_t sampled_slots = part(requests, group.slot);
        for (size_t request = 0; request < requests; request++)
          out[lengths + request] = std::min(place + static_cast<int>(request + 1) * sampled_rows, end);
        d.sparse.push_back({group.first, place, blocks, d.bitmaps, base + lengths, base + sampled_slots});
      }
      d.bitmaps += static_cast<int>(ceil_div(group.rows, sparse_query_rows));
    }
  }
  if (states.empty()) return d;

  const size_t groups = std::max(table.groups.size(), static_cast<size_t>(d.decode_rows));
  const size_t all = part(groups + 1, table.rows());
  const size_t own = part(groups, -1);
  d.all_starts = base + all;
  d.states = base + own;
  for (size_t i = 0; i < table.groups.size(); i++) out[all + i] = table.groups[i].first;
  std::copy(states.begin(), states.end(), out.begin() + static_cast<ptrdiff_t>(own));
  d.host_starts.assign(out.begin() + static_cast<ptrdiff_t>(all), out.begin() + static_cast<ptrdiff_t>(all + groups) + 1);
  return d;
}

RowTables::RowTables(Device &device, int count, int rows, int groups, const std::vector<int32_t> *state_slots_of)
    : state_slots_of_(state_slots_of),
      elements_(row_table_elements(rows, groups)),
      memory_(device, static_cast<size_t>(count) * elements_ * sizeof(int32_t), "the row tables"),
      entries_(static_cast<size_t>(count)) {}

const DeviceRows &RowTables::find(const RowTable &table, UploadRing &ring) {
  clock_++;
  std::vector<int32_t> states = states_of(table, state_slots_of_);
  for (Entry &entry : entries_) {
    if (entry.used == 0 || entry.states != states || !same_rows(entry.content, table)) continue;
    entry.used = clock_;
    return entry.rows;
  }
  const auto oldest = std::min_element(entries_.begin(), entries_.end(), [](const Entry &a, const Entry &b) { return a.used < b.used; });
  auto *const target = memory_.as<int32_t>(static_cast<size_t>(oldest - entries_.begin()) * elements_ * sizeof(int32_t));
  oldest->used = 0;  // should the upload fail
  oldest->rows = lay_out(table, states, 0, target, laid_out_);
  if (laid_out_.size() > elements_)
    up::fail(UP_INTERNAL, "send row table", table.rows(), " rows of ", table.groups.size(), " groups do not fit");
  ring.upload_to(target, std::span<const int32_t>(laid_out_), "send row table");
  oldest->content = table;
  oldest->states = std::move(states);
  oldest->used = clock_;
  return oldest->rows;
}

}  // namespace up::cuda
