// Rows that come, stay and go between layers: carries, and the rows kept.
#include <algorithm>

#include "cuda/backend/layer_operations.h"

namespace up::cuda {

void LayerOperations::move_rows(std::span<const int32_t> from, const int32_t *on_device, int to) {
  constexpr size_t few = 16;
  if (from.size() <= few) {
    std::vector<Rows> wanted{{0, to}};
    for (const int32_t row : from) wanted.push_back({row, 1});
    add_due_of(wanted);
  } else {
    add_all_due();
  }
  // By way of scratch: a row may have to go where another one still lies.
  const int64_t row_bytes = int64_t{2} * hidden_;
  const auto count = static_cast<int>(from.size());
  launch_gather_rows(residual(0), on_device, activations_.scratch.as(), count, row_bytes, device_.stream());
  device_.check_launch("move rows");
  device_.copy(residual(to), activations_.scratch.as(), static_cast<size_t>(count * row_bytes), "move rows");
}

void LayerOperations::keep(int count) {
  const Rows kept{0, count};
  add_due_of({&kept, 1});
  if (peers_ != nullptr) peers_->meet();  // carry rows are written, and what they were computed from has been read
}

CarryPages LayerOperations::carry_of_all(int segment) const {
  CarryPages pages = pool_.carry(segment);
  if (peers_ == nullptr) return pages;
  pages.parts = peers_->shard().size;
  std::copy(pools_.begin(), pools_.end(), pages.pools);
  return pages;
}

void LayerOperations::read_carry(Rows rows, const DeviceCarry &carry) {
  add_all_due();
  if (peers_ != nullptr) peers_->meet();  // the others' parts are written
  read_whole(rows, carry);
}

void LayerOperations::read_whole(Rows rows, const DeviceCarry &carry) {
  launch_read_carry(carry_of_all(carry.segment), carry.slots, carry.rows, residual(rows.begin), int64_t{2} * hidden_, rows.count,
                    int64_t{2} * model_.carry_width(), device_.stream());
  device_.check_launch("read carry rows");
}

void LayerOperations::enter(Rows tile, const DeviceCarry &carry) {
  if (peers_ == nullptr || tile.count <= Peers::few_rows) return read_whole(tile, carry);
  const Rows own = peers_->own_rows(tile);
  read_whole(own, carry.from(own.begin - tile.begin));
  const int layer = pool_.drop_layer(carry.segment);
  const NormOf next = norm_of(layer, Norm::input);
  normalise_rows(own, next);
  due_.push_back({.tile = tile, .layer = layer, .exchanged = peers_->spread(tile, normeds_), .next_weight = next.weight});
  shared_out_.push_back(tile);
}

void LayerOperations::write_carry(Rows rows, const DeviceCarry &carry) {
  const int64_t stride = int64_t{2} * hidden_, part = int64_t{2} * model_.carry_width();
  const auto write = [&](const CarryPages &pages, Rows which, int own) {
    const DeviceCarry from = carry.from(which.begin - rows.begin);
    launch_write_carry(pages, from.slots, from.rows, residual(which.begin) + own, stride, which.count, part, device_.stream());
    device_.check_launch("write carry rows");
  };
  // Of rows that are shared out a rank writes its own ones, for all: as sums of this step lie behind, nobody is at an earlier one any more.
  int shared = 0;
  for (const Rows &tile : shared_out_) shared += common(tile, rows).count;
  if (shared == rows.count && shared > 0) {
    for (const Due &due : due_)
      if (common(due.tile, rows).count > 0) peers_->wait(due.exchanged);
    for (const Rows &tile : shared_out_) {
      const Rows own = common(peers_->own_rows(tile), rows);
      if (own.count > 0) write(carry_of_all(carry.segment), own, 0);
    }
    return;
  }
  if (is_due(rows)) add_all_due();
  write(pool_.carry(carry.segment), rows, peers_ != nullptr ? peers_->shard().rank * model_.carry_width() : 0);
}

}  // namespace up::cuda
