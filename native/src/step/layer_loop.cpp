#include "step/layer_loop.h"

#include <algorithm>

#include "abi/failure.h"
#include "abi/fnv.h"

namespace up {
namespace {

CarryRows part_of(const CarryRows &carry, Rows rows) {
  const auto part = [&](const std::vector<int32_t> &of) { return std::vector<int32_t>(of.begin() + rows.begin, of.begin() + rows.end()); };
  return {carry.segment, part(carry.slots), part(carry.rows)};
}

bool is_any(const CarryRows &carry) {
  return std::any_of(carry.slots.begin(), carry.slots.end(), [](int32_t slot) { return slot >= 0; });
}

}  // namespace

LayerLoop::LayerLoop(const ModelTable &model, Books &books, Backend &backend, Communicator *ranks)
    : model_(model), books_(books), backend_(backend), ranks_(ranks), groups_(books) {}

StepOutputs LayerLoop::run(const StepWork &work) {
  work_ = &work;
  out_ = {};
  backend_.begin(work.memory);
  enter(work);
  for (int s = 0; s <= books_.layout.last_segment(); s++) {
    table_ = groups_.table(s);
    const Segment &segment = books_.layout.segment(s);
    for (int layer = segment.first_layer; layer <= segment.last_layer; layer++) {
      if (model_.layer(layer).is_attention()) {
        attention_layer(layer);
      } else {
        delta_layer(layer);
      }
    }
  }
  if (!trimmed_) trim();
  sample();
  finish_rows();
  out_.pending = backend_.finish();
  return std::move(out_);
}

// Rows that begin at layer 0: those of chunks in segment 0, and decode rows.
void LayerLoop::enter(const StepWork &work) {
  groups_.clear();
  trimmed_ = false;
  tiles_to_enter_.clear();
  sample_rows_.assign(work.items.size(), -1);
  std::vector<int32_t> tokens;
  for (const int32_t number : books_.decode_set) {
    const Slot &slot = books_.slot(number);
    groups_.add({Kind::decode, number, -1, slot.length(0), 1});
    const auto forced = work.forced.find(number);
    tokens.push_back(forced == work.forced.end() ? -1 - number : forced->second);
  }
  for (const Kind kind : {Kind::logits, Kind::dense, Kind::dropping}) {
    for (size_t i = 0; i < work.items.size(); i++) {
      const Item &item = work.items[i];
      const Slot &slot = books_.slot(item.slot);
      const Kind own = slot.drops() ? Kind::dropping : slot.content->prompt_logprobs >= 0 ? Kind::logits : Kind::dense;
      if (own != kind || item.first_segment != 0) continue;
      groups_.add({kind, item.slot, static_cast<int>(i), item.first_row, item.rows});
      const auto first = slot.content->tokens.begin() + item.first_row;
      tokens.insert(tokens.end(), first, first + item.rows);
    }
  }
  if (!groups_.empty()) backend_.embed({0, groups_.rows()}, tokens);
}

void LayerLoop::for_tiles(const std::function<void(Rows)> &visit) {
  const int rows = groups_.rows(), room = backend_.tile_rows();
  // Parts, so that the sum over ranks of one is under way while others are computed: three, since what a sum launches between its copies
  // has to wait for the end of a product. Products of a multiple of 1,024 rows fill a device to their end; a few rows more leave
  // most of it idle there, and a few by themselves all of it.
  constexpr int worth_sharing = 1024, full = 1024, worth_three = 4 * full, few = 512;
  const bool shares = backend_.overlaps_sums() && rows > worth_sharing;
  const int parts = rows > worth_three ? 3 : 2, step = rows > worth_three ? full : 128;
  const int most = shares ? std::min(room, (rows + parts * step - 1) / (parts * step) * step) : room;
  for (int begin = 0; begin < rows;) {
    const int left = rows - begin;
    const int count = left <= most || (shares && left <= std::min(room, most + few)) ? left : most;
    visit({begin, count});
    begin += count;
  }
}

void LayerLoop::attention_layer(int layer) {
  const LayerSpec &spec = model_.layer(layer);
  const int segment = table_.segment;
  const bool is_last = layer == model_.layer_count() - 1;
  const bool is_drop = !is_last && layer == books_.layout.segment(segment).last_layer;
  const bool splits = is_last ? groups_.rows() > groups_.rows_before(Kind::dense) : is_drop && meets(segment);
  const CarryRows carry = is_drop ? carries(segment) : CarryRows{};
  const auto project = [&](MatrixKind kind) {
    for_tiles([&](Rows tile) {
      // One ahead: it may be on its way while this one is multiplied.
      enter_up_to(tile.end() + 1);
      backend_.norm(tile, layer, Norm::input);
      backend_.linear(tile, layer, kind);
      backend_.rotate_and_write(tile, layer, kind, table_);
      if (!is_drop || kind == MatrixKind::q) return;
      if (const CarryRows part = part_of(carry, tile); is_any(part)) backend_.write_carry(tile, part);
    });
  };
  if (!splits) {
    project(MatrixKind::qkv);
    if (is_drop) table_ = groups_.entry_table(segment);
  } else {
    project(MatrixKind::kv);
    if (is_last) {
      trim();
      table_ = groups_.table(segment);
    } else {
      drop(layer, segment);
      table_ = groups_.entry_table(segment);
    }
    project(MatrixKind::q);
  }
  if (groups_.empty()) return;
  // A row whose logits are wanted reads all keys there, however many others of its prompt are wanted.
  if (is_last) table_.sparse_blocks.clear();
  backend_.attend(layer, table_);
  for_mixer_and_mlp(layer, [&](Rows tile) {
    if (spec.attention.output_gate) backend_.apply_gate(tile, layer);
    backend_.linear(tile, layer, MatrixKind::o);
  });
}

// Tile by tile, or the mixers of all tiles first.
void LayerLoop::for_mixer_and_mlp(int layer, const std::function<void(Rows)> &mixer) {
  const auto mix = [&](Rows tile) {
    mixer(tile);
    if (model_.layer(layer).post_norms) backend_.add_normed(tile, layer, Norm::post_attention);
  };
  if (backend_.overlaps_sums()) {
    for_tiles(mix);
    for_tiles([&](Rows tile) { mlp(tile, layer); });
    return;
  }
  for_tiles([&](Rows tile) {
    mix(tile);
    mlp(tile, layer);
  });
}

void LayerLoop::delta_layer(int layer) {
  for_mixer_and_mlp(layer, [&](Rows tile) {
    backend_.norm(tile, layer, Norm::input);
    backend_.linear(tile, layer, MatrixKind::delta_in);
    backend_.recur(tile, layer, table_);
    backend_.linear(tile, layer, MatrixKind::delta_out);
  });
}

// What follows a layer's mixer.
void LayerLoop::mlp(Rows tile, int layer) {
  const LayerSpec &spec = model_.layer(layer);
  backend_.norm(tile, layer, Norm::mlp);
  if (spec.mlp.is_moe()) {
    backend_.experts(tile, layer);
  } else {
    backend_.gate_and_up(tile, layer);
    backend_.linear(tile, layer, MatrixKind::down);
  }
  if (spec.post_norms) backend_.add_normed(tile, layer, Norm::post_mlp);
}

bool LayerLoop::meets(int segment) const {
  return std::any_of(work_->items.begin(), work_->items.end(), [&](const Item &item) {
    return books_.slot(item.slot).drops() && item.first_segment <= segment + 1 && item.last_segment >= segment;
  });
}

void LayerLoop::drop(int layer, int segment) {
  const int through = groups_.rows_before(Kind::dropping);
  const std::vector<Group> ending = groups_.take_from(Kind::dropping);
  backend_.keep(through);
  std::vector<Group> completed;
  for (const Group &group : ending) {
    SegmentState &state = books_.slot(group.slot).segment(segment);
    state.computed = group.end();
    if (group.end() == books_.slot(group.slot).rows(segment)) completed.push_back(group);
  }
  select(layer, segment, completed);
  // Rows of the next segment: of prompts that run on, and of chunks that begin there.
  for (size_t i = 0; i < work_->items.size(); i++) {
    const Item &item = work_->items[i];
    const Slot &slot = books_.slot(item.slot);
    if (!slot.drops() || item.last_segment <= segment || item.first_segment > segment + 1) continue;
    const bool begins = item.first_segment == segment + 1;
    groups_.add({Kind::dropping, item.slot, static_cast<int>(i), begins ? item.first_row : 0,
                 begins ? item.rows : slot.rows(segment + 1)});
  }
  CarryRows carry{segment, std::vector<int32_t>(static_cast<size_t>(through), -1), std::vector<int32_t>(static_cast<size_t>(through))};
  for (const Group &group : groups_.groups()) {
    if (group.kind != Kind::dropping) continue;
    carry.slots.insert(carry.slots.end(), static_cast<size_t>(group.rows), group.slot);
    books_.slot(group.slot).add_parents(segment + 1, group.begin, group.end(), carry.rows);
  }
  entering_ = std::move(carry);
  for_tiles([&](Rows tile) {
    if (tile.end() > through) tiles_to_enter_.push_back(tile);
  });
}

void LayerLoop::enter_up_to(int row) {
  while (!tiles_to_enter_.empty() && tiles_to_enter_.front().begin < row) {
    backend_.enter(tiles_to_enter_.front(), part_of(entering_, tiles_to_enter_.front()));
    tiles_to_enter_.pop_front();
  }
}

// The residual rows at the drop layer's input. Decode rows go to carry 0 as well where it has a page for them, so that pages of
// generated tokens can be cached.
CarryRows LayerLoop::carries(int segment) const {
  CarryRows carry{segment, {}, {}};
  for (const Group &group : groups_.groups()) {
    const Slot &slot = books_.slot(group.slot);
    const bool decodes = group.kind == Kind::decode;
    const bool is_written = group.kind == Kind::dropping || (decodes && segment == 0 && books_.decode_carry(slot, group.slot) >= 0);
    carry.slots.insert(carry.slots.end(), static_cast<size_t>(group.rows), is_written ? group.slot : -1);
    for (int i = 0; i < group.rows; i++) carry.rows.push_back(group.begin + i);
  }
  return carry;
}

// Chooses what goes on of every prompt that has computed its segment to the end; what was decided before is applied again.
void LayerLoop::select(int layer, int segment, const std::vector<Group> &completed) {
  const auto is_replayed = [&](const Slot &slot) { return static_cast<size_t>(segment) < slot.content->bitmaps.size(); };
  std::vector<Group> scored;
  for (const Group &group : completed) {
    const Slot &slot = books_.slot(group.slot);
    const bool scores = !is_replayed(slot) || slot.content->score_decided;
    if (scores && !books_.schedule.shape(slot.set_rows(segment)).keeps_all()) scored.push_back(group);
  }
  std::vector<SelectionOutcome> outcomes = score(layer, segment, scored);
  if (ranks_ && !outcomes.empty()) compare_ranks(layer, outcomes);
  size_t next = 0;
  for (const Group &group : completed) {
    Slot &slot = books_.slot(group.slot);
    const SelectionShape shape = books_.schedule.shape(slot.set_rows(segment));
    std::vector<uint32_t> bitmap;
    int32_t flags = 0;
    if (is_replayed(slot)) {
      bitmap = slot.content->bitmaps[static_cast<size_t>(segment)];
      flags = selection_replayed;
      if (slot.content->score_decided && !shape.keeps_all()) next++;
    } else if (shape.keeps_all()) {
      bitmap = full_bitmap(shape);
    } else {
      SelectionOutcome &outcome = outcomes[next++];
      bitmap = std::move(outcome.bitmap);
      flags = outcome.finite ? 0 : selection_fallback;
      if (outcome.micros > 0) {
        const auto micros = static_cast<int32_t>(std::min<int64_t>(outcome.micros, INT32_MAX));
        out_.selection_micros.insert(out_.selection_micros.end(), {group.slot, segment, micros});
      }
    }
    if (!slot.segment(segment + 1).is_known()) slot.apply_bitmap(segment, bitmap, books_.schedule);
    slot.segment(segment).done = true;
    auto &records = out_.selections;
    records.insert(records.end(), {group.slot, segment, flags, static_cast<int32_t>(bitmap.size())});
    for (const uint32_t word : bitmap) records.push_back(static_cast<int32_t>(word));
  }
}

// Ranks that went on with other rows would answer nonsense.
void LayerLoop::compare_ranks(int layer, const std::vector<SelectionOutcome> &outcomes) {
  Fnv hash;
  for (const SelectionOutcome &outcome : outcomes) {
    hash.add(outcome.finite ? 1 : 0);
    for (const uint32_t word : outcome.bitmap) hash.add(word);
  }
  ranks_->agree(text("the rows kept at layer ", layer, " in step ", books_.last_step + 1), hash.value());
}

// The last prompt rows' queries come from the carry: a chunk may have held fewer of them.
std::vector<SelectionOutcome> LayerLoop::score(int layer, int segment, const std::vector<Group> &groups) {
  std::vector<SelectionOutcome> out;
  const int first = groups_.rows();
  // The residual stream has room for one selection's queries behind the step's rows at least.
  const int room = books_.limits.max_rows_per_step + books_.schedule.last_q - first;
  for (size_t begin = 0; begin < groups.size();) {
    RowTable table;
    table.segment = segment;
    table.positions.resize(static_cast<size_t>(first));
    table.places.resize(static_cast<size_t>(first));
    CarryRows carry{segment, {}, {}};
    std::vector<SelectionTask> tasks;
    for (; begin < groups.size(); begin++) {
      const Slot &slot = books_.slot(groups[begin].slot);
      const SelectionShape shape = books_.schedule.shape(slot.set_rows(segment));
      const int queries = std::min(shape.last_q, shape.rows);
      if (table.rows() - first + queries > room) break;
      const int table_of_keys = books_.layout.place(layer).table;
      tasks.push_back({groups[begin].slot, table_of_keys, table.rows(), queries, shape,
                       slot.content->p_q32[static_cast<size_t>(segment)]});
      table.groups.push_back({groups[begin].slot, table.rows(), queries});
      for (int row = shape.rows - queries; row < shape.rows; row++) {
        table.positions.push_back(slot.position(segment, row));
        table.places.push_back(row);
        carry.slots.push_back(groups[begin].slot);
        carry.rows.push_back(row);
      }
    }
    const Rows rows{first, table.rows() - first};
    backend_.read_carry(rows, carry);
    for (int at = rows.begin; at < rows.end(); at += backend_.tile_rows()) {
      const Rows tile{at, std::min(backend_.tile_rows(), rows.end() - at)};
      backend_.norm(tile, layer, Norm::input);
      backend_.linear(tile, layer, MatrixKind::q);
      backend_.rotate_and_write(tile, layer, MatrixKind::q, table);
    }
    for (SelectionOutcome &outcome : backend_.select(layer, tasks, books_.schedule.rule)) out.push_back(std::move(outcome));
  }
  return out;
}

bool LayerLoop::is_sampled(int item) const {
  return std::any_of(work_->samples.begin(), work_->samples.end(), [&](const FirstToken &each) { return each.item == item; });
}

void LayerLoop::trim() {
  trimmed_ = true;
  const int through = groups_.rows_before(Kind::dense);
  int at = 0;
  for (const Group &group : groups_.groups()) {
    at += group.rows;
    if (group.kind == Kind::logits) sample_rows_[static_cast<size_t>(group.item)] = at - 1;
    if (group.kind >= Kind::dense) break;
  }
  at = through;
  std::vector<int32_t> from;
  for (const Group &group : groups_.take_from(Kind::dense)) {
    at += group.rows;
    if (!is_sampled(group.item)) continue;
    sample_rows_[static_cast<size_t>(group.item)] = through + static_cast<int>(from.size());
    from.push_back(at - 1);
    groups_.add({group.kind, group.slot, group.item, group.end() - 1, 1});
  }
  if (!from.empty()) backend_.move_rows(from, through);
}

// All rows that are left have their logits computed: every decode row and every prompt's last one draw a token.
void LayerLoop::sample() {
  std::vector<SampleTask> tasks;
  const auto add = [&](int row, int number) {
    Slot &slot = books_.slot(number);
    tasks.push_back({row, number, &slot.content->sampling, slot.sequence, static_cast<uint64_t>(slot.outputs), slot.content->tokens,
                     slot.content->prompt_length, slot.content->return_logits});
    out_.sampled.emplace_back(number, slot.content);
  };
  for (size_t i = 0; i < books_.decode_set.size(); i++) add(static_cast<int>(i), books_.decode_set[i]);
  for (const FirstToken &sample : work_->samples) add(sample_rows_[static_cast<size_t>(sample.item)], sample.slot);

  std::vector<LogprobTask> logprobs;
  int at = 0;
  for (const Group &group : groups_.groups()) {
    const Content &content = *books_.slot(group.slot).content;
    for (int i = 0; group.kind == Kind::logits && i < group.rows; i++) {
      const int row = group.begin + i;
      if (row + 1 >= content.prompt_length) break;
      logprobs.push_back({at + i, group.slot, row, content.tokens[static_cast<size_t>(row) + 1], content.prompt_logprobs});
    }
    at += group.rows;
  }

  // Tokens are drawn in the order of the tasks, tile by tile of logits: a fork's row may be one that came before.
  const int most = backend_.logits_rows();
  std::vector<SampleTask> drawn;
  std::vector<LogprobTask> asked;
  for (int begin = 0; begin < groups_.rows(); begin += most) {
    const Rows tile{begin, std::min(most, groups_.rows() - begin)};
    const auto within = [&](auto task, auto &list) {
      if (task.row < tile.begin || task.row >= tile.end()) return;
      task.row -= tile.begin;
      list.push_back(task);
    };
    drawn.clear();
    asked.clear();
    for (const SampleTask &task : tasks) within(task, drawn);
    for (const LogprobTask &task : logprobs) within(task, asked);
    if (drawn.empty() && asked.empty()) continue;
    backend_.norm(tile, model_.layer_count(), Norm::final);
    backend_.linear(tile, model_.layer_count(), MatrixKind::lm_head);
    if (!drawn.empty()) backend_.sample(drawn);
    if (!asked.empty()) backend_.logprobs(asked);
  }
}

// Books of what the step has computed.
void LayerLoop::finish_rows() {
  const int last = books_.layout.last_segment();
  const auto absorb = [&](const Slot &slot) {
    if (slot.state_slot < 0) return;
    for (int s = 0; s <= last; s++) books_.state(slot.state_slot).absorbed[static_cast<size_t>(s)] = slot.length(s);
  };
  for (const int32_t number : books_.decode_set) {
    Slot &slot = books_.slot(number);
    slot.decoded++;
    slot.outputs++;
    absorb(slot);
  }
  for (const Item &item : work_->items) {
    Slot &slot = books_.slot(item.slot);
    const int end = item.first_row + item.rows;
    if (!slot.drops()) {
      for (SegmentState &segment : slot.segments) {
        segment.computed = end;
        segment.done = end == slot.rows(0);
      }
    } else if (item.last_segment == last) {
      SegmentState &segment = slot.segment(last);
      segment.computed = item.first_segment == last ? end : slot.rows(last);
      segment.done = segment.computed == slot.rows(last);
    }
    absorb(slot);
  }
  for (const FirstToken &sample : work_->samples) {
    const int source = work_->items[static_cast<size_t>(sample.item)].slot;
    Slot &slot = books_.slot(sample.slot);
    if (source != sample.slot) {
      slot.segments = books_.slot(source).segments;
      slot.adopted = true;
    }
    slot.sampled = true;
    slot.outputs++;
  }
}

}  // namespace up
