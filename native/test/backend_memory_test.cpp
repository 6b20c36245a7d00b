// What backends keep: carries and selections, copies of slabs and states, pages given back, the tokens they have drawn. Both
// backends, and the CPU's against the reference's.
#include <algorithm>
#include <cmath>

#include "backend_harness.h"
#include "check.h"
#include "random_checkpoint.h"
#include "random_specs.h"

namespace {

using up::MatrixKind;
using up::Norm;

int32_t token_of(int slot, int row) { return (slot * 31 + row * row * 7 + row * 13) % 150; }

struct Named {
  const char *name;
  BackendHarness::Make make;
};

std::vector<Named> backends() {
  return {{"cpu", make_cpu(UP_KERNELS_AUTO, 2)}, {"portable", make_cpu(UP_KERNELS_PORTABLE, 2)}, {"reference", make_reference}};
}

// A prompt with one drop layer: K and V of all rows and their carry, the selection from the last queries, then the rows kept
// through the drop layer's attention and the layers behind it.
struct Drop {
  static constexpr int rows = 400, layer = 1, slot = 2;
  static constexpr up::SelectionShape shape{rows, 32, 40, BackendHarness::last_q};
  BackendHarness harness;
  up::SelectionOutcome outcome;

  Drop(const std::shared_ptr<const up::Checkpoint> &checkpoint, uint64_t seed, const BackendHarness::Make &make)
      : harness(checkpoint, {layer}, seed, true, make) {
    up::Backend &backend = harness.backend();
    for (int begin = 0; begin < rows; begin += 150) {
      const int count = std::min(150, rows - begin);
      const up::RowTable table = harness.row_table({{slot, begin, count}}, 0);
      const int carry = harness.layout().segment(0).carry;
      harness.reserve(slot, carry, begin + count);
      harness.begin();
      std::vector<int32_t> tokens;
      up::CarryRows carried{0, std::vector<int32_t>(static_cast<size_t>(count), slot), {}};
      for (int i = begin; i < begin + count; i++) {
        tokens.push_back(token_of(slot, i));
        carried.rows.push_back(i);
      }
      backend.embed({0, count}, tokens);
      harness.layer(0, table);
      harness.for_each_tile(count, backend.tile_rows(), [&](up::Rows tile) {
        backend.norm(tile, layer, Norm::input);
        backend.linear(tile, layer, MatrixKind::kv);
        backend.rotate_and_write(tile, layer, MatrixKind::kv, table);
      });
      backend.write_carry({0, count}, carried);
      backend.finish();
    }
  }

  // Residual rows [at, …) from the carry, and their queries of the drop layer.
  void queries(int at, const std::vector<int32_t> &kept, up::RowTable &table) {
    up::Backend &backend = harness.backend();
    const int count = static_cast<int>(kept.size());
    backend.read_carry({at, count}, {0, std::vector<int32_t>(kept.size(), slot), kept});
    table.positions.resize(static_cast<size_t>(at));
    table.places.resize(static_cast<size_t>(at));
    table.positions.insert(table.positions.end(), kept.begin(), kept.end());
    table.places.insert(table.places.end(), kept.begin(), kept.end());
    table.groups = {{slot, at, count}};
    harness.for_each_tile(count, backend.tile_rows(), [&](up::Rows tile) {
      tile.begin += at;
      backend.norm(tile, layer, Norm::input);
      backend.linear(tile, layer, MatrixKind::q);
      backend.rotate_and_write(tile, layer, MatrixKind::q, table);
    });
  }

  void select(uint64_t p_q32) {
    harness.begin();
    up::RowTable table;
    std::vector<int32_t> last(BackendHarness::last_q);
    std::iota(last.begin(), last.end(), rows - BackendHarness::last_q);
    queries(70, last, table);
    const up::SelectionTask task{slot, harness.layout().place(layer).table, 70, BackendHarness::last_q, shape, p_q32};
    outcome = harness.backend().select(layer, {&task, 1}, UP_RULE_EXCLUSIVE)[0];
    harness.backend().finish();
  }

  // Logits of the kept rows behind the last layer.
  std::vector<float> go_on(const std::vector<int32_t> &kept) {
    up::Backend &backend = harness.backend();
    const int count = static_cast<int>(kept.size());
    up::RowTable segment = harness.row_table({{slot, 0, count}}, 1);
    segment.positions = kept;
    harness.begin();
    up::RowTable table;
    queries(0, kept, table);
    backend.attend(layer, table);
    harness.for_each_tile(count, backend.tile_rows(), [&](up::Rows tile) {
      if (harness.model().layer(layer).attention.output_gate) backend.apply_gate(tile, layer);
      backend.linear(tile, layer, MatrixKind::o);
      if (harness.model().layer(layer).post_norms) backend.add_normed(tile, layer, Norm::post_attention);
    });
    harness.mlp(layer, count);
    for (int i = layer + 1; i < harness.model().layer_count(); i++) harness.layer(i, segment);
    // The last of them alone, from wherever it lies.
    const int32_t from = count - 1;
    backend.move_rows({&from, 1}, 0);
    return harness.logits(1);
  }
};

int differences(const std::vector<uint32_t> &a, const std::vector<uint32_t> &b) {
  int out = 0;
  for (size_t i = 0; i < a.size(); i++) out += __builtin_popcount(a[i] ^ b[i]);
  return out;
}

void check_drop(uint64_t seed) {
  using enum up::Mixer;
  RandomSpec spec(seed);
  const TemporaryDirectory directory;
  const auto checkpoint = random_checkpoint(directory, spec.model({full, full, delta, sliding}, false), seed);
  const uint64_t p = (uint64_t{1} << 32) / 10 * 7;
  Drop reference(checkpoint, seed, make_reference);
  reference.select(p);
  const std::vector<int32_t> kept = up::kept_indices(reference.outcome.bitmap, Drop::shape);
  CHECK(reference.outcome.finite && kept.size() < Drop::rows, "seed %d keeps %zu rows", static_cast<int>(seed), kept.size());
  const std::vector<float> expected = reference.go_on(kept);
  for (const auto &[name, make] : backends()) {
    Drop drop(checkpoint, seed + 5, make);
    drop.select(p);
    CHECK(drop.outcome.finite && differences(drop.outcome.bitmap, reference.outcome.bitmap) <= 2, "%s seed %d: %d blocks differ", name,
          static_cast<int>(seed), differences(drop.outcome.bitmap, reference.outcome.bitmap));
    const double error = relative_error(drop.go_on(kept), expected);
    CHECK(error <= 0.03, "%s seed %d: relative error %g", name, static_cast<int>(seed), error);
  }
}

// A fork has its own copies: both go on as one that was never copied would.
void check_fork(uint64_t seed) {
  using enum up::Mixer;
  RandomSpec spec(seed);
  const TemporaryDirectory directory;
  const auto checkpoint = random_checkpoint(directory, spec.model({full, delta, sliding}, false), seed);
  for (const auto &[name, make] : backends()) {
    const auto as_slot_0 = [](int, int row) { return token_of(0, row); };
    const auto otherwise = [](int, int row) { return row < 90 ? token_of(0, row) : token_of(3, row); };
    BackendHarness plain(checkpoint, {}, seed, false, make);
    plain.step({{0, 0, 90}}, as_slot_0);
    const std::vector<float> expected = plain.step({{0, 90, 30}}, as_slot_0);

    BackendHarness harness(checkpoint, {}, seed, false, make);
    harness.step({{0, 0, 90}}, as_slot_0);
    for (int table = 0; table < static_cast<int>(harness.layout().tables.size()); table++) {
      harness.reserve(1, table, 90);
      for (size_t i = 0; i < harness.tables().of(0, table).size(); i++) {
        harness.changes().copies.emplace_back(harness.tables().of(0, table)[i], harness.tables().of(1, table)[i]);
      }
    }
    // By way of a snapshot.
    constexpr int snapshot = BackendHarness::slots + 1;
    harness.changes().states.push_back({up::MemoryChanges::StateChange::copy, harness.state_slots()[0], snapshot});
    harness.changes().states.push_back({up::MemoryChanges::StateChange::copy, snapshot, harness.state_slots()[1]});
    const std::vector<float> other = harness.step({{1, 90, 30}}, otherwise);
    CHECK(other != expected, "%s: other tokens, the same logits", name);
    CHECK(harness.step({{0, 90, 30}}, as_slot_0) == expected, "%s seed %d: a fork changed what it was taken from", name, static_cast<int>(seed));
    harness.changes().states.push_back({up::MemoryChanges::StateChange::copy, snapshot, harness.state_slots()[1]});
    CHECK(harness.step({{1, 90, 30}}, as_slot_0) == expected, "%s seed %d: a fork does not go on as its source", name, static_cast<int>(seed));
    // A new request in the slot begins with nothing.
    harness.changes().states.push_back({up::MemoryChanges::StateChange::zero, harness.state_slots()[1], harness.state_slots()[1]});
    harness.step({{1, 0, 90}}, as_slot_0);
    CHECK(harness.step({{1, 90, 30}}, as_slot_0) == expected, "%s seed %d: a zeroed state", name, static_cast<int>(seed));
  }
}

// Pages wholly before every window are not looked at.
void check_given_back() {
  RandomSpec spec(3);
  const TemporaryDirectory directory;
  const auto checkpoint = random_checkpoint(directory, spec.model({up::Mixer::sliding, up::Mixer::sliding}, false), 3);
  for (const auto &[name, make] : backends()) {
    BackendHarness whole(checkpoint, {}, 1, false, make), freed(checkpoint, {}, 1, false, make);
    whole.step({{0, 0, 400}}, token_of);
    freed.step({{0, 0, 400}}, token_of);
    up::PageTable &pages = freed.tables().of(0, 0);
    const int first = (400 - freed.layout().table(0).window + 1) / freed.layout().page_size * freed.layout().table(0).slabs_per_page;
    std::fill_n(pages.begin(), first, -1);
    CHECK(first > 0 && freed.step({{0, 400, 20}}, token_of) == whole.step({{0, 400, 20}}, token_of), "%s", name);
  }
}

}  // namespace

int main() {
  for (uint64_t seed = 1; seed <= 4; seed++) {
    check_drop(seed);
    check_fork(seed);
  }
  check_given_back();
  return check_result();
}
