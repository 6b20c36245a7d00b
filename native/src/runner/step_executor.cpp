#include "runner/step_executor.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <tuple>

namespace up {

StepExecutor::StepExecutor(RunnerState &state, Forward &forward)
    : state_(state),
      forward_(forward),
      rope_(forward.config()),
      sampler_(forward.config().vocab_size),
      hidden_(static_cast<size_t>(forward.config().hidden_size)) {
  const auto half = static_cast<size_t>(rope_.width());
  x_ = AlignedArray<float>(block_rows * hidden_);
  cos_ = AlignedArray<float>(block_rows * half);
  sin_ = AlignedArray<float>(block_rows * half);
  last_ = AlignedArray<int32_t>(block_rows);
  logits_ = AlignedArray<float>(logits_rows * static_cast<size_t>(forward.config().vocab_size));
}

PageTable &StepExecutor::full_table(Slot &slot, int segment) {
  return slot.tables[static_cast<size_t>(state_.layout.segments[static_cast<size_t>(segment)].full)];
}

PageTable &StepExecutor::carry_table(Slot &slot, int segment) {
  return slot.tables[static_cast<size_t>(state_.layout.segments[static_cast<size_t>(segment)].carry)];
}

void StepExecutor::set_angles(int row, int position) {
  const auto half = static_cast<size_t>(rope_.width());
  rope_.reserve(position + 1);
  std::memcpy(cos_.get() + static_cast<size_t>(row) * half, rope_.cos(position), half * sizeof(float));
  std::memcpy(sin_.get() + static_cast<size_t>(row) * half, rope_.sin(position), half * sizeof(float));
}

Block StepExecutor::block(int rows, const PageTable *table) {
  return {rows, x_.get(), cos_.get(), sin_.get(), last_.get(), {{table, rows}}};
}

void StepExecutor::run(const Plan &plan, const StepWork &work, ResultSections &result) {
  result_ = &result;
  result.clear();
  result.ranks.push_back(plan.checksum());
  progress_.clear();
  replaced_.clear();
  sampled_tokens_.clear();
  adopted_.clear();
  const Records &copies = plan[Section::copies];
  for (int i = 0; i < copies.count(); i++) {
    std::memcpy(state_.pool.bytes(copies.record(i)[1]), state_.pool.bytes(copies.record(i)[0]),
                static_cast<size_t>(state_.pool.slab_bytes()));
  }
  force_tokens(work.forced);
  decode();

  sampled_.resize(work.samples.size() * hidden_);
  std::vector<float *> last_rows(work.items.size(), nullptr);
  std::vector<int32_t> slots;
  for (size_t i = 0; i < work.samples.size(); i++) {
    float *&last_row = last_rows[static_cast<size_t>(work.samples[i].item)];
    if (last_row == nullptr) last_row = &sampled_[i * hidden_];
    slots.push_back(work.samples[i].slot);
  }
  for (size_t i = 0; i < work.items.size(); i++) prefill(work.items[i], last_rows[i]);
  for (size_t i = 0; i < work.samples.size(); i++) {
    const auto item = static_cast<size_t>(work.samples[i].item);
    float *row = &sampled_[i * hidden_];
    if (row != last_rows[item]) std::memcpy(row, last_rows[item], hidden_ * sizeof(float));
    const int source = work.items[item].slot;
    if (source != slots[i]) adopted_.emplace_back(slots[i], slot(source).segments);
  }
  sample(slots, sampled_.data());
}

void StepExecutor::commit() noexcept {
  for (const int32_t number : state_.decode_set) slot(number).decoded++;
  for (auto &[number, segments] : adopted_) {
    slot(number).segments = std::move(segments);
    slot(number).adopted = true;
  }
  // Slots reserve room for all their tokens when they are opened, so this allocates nothing.
  for (const auto &[number, token] : sampled_tokens_) slot(number).tokens.push_back(token);
}

void StepExecutor::rollback() noexcept {
  for (const auto &[number, tail] : replaced_) {
    Slot &content = slot(number);
    content.tokens.resize(static_cast<size_t>(content.length(0)));
    content.tokens.insert(content.tokens.end(), tail.begin(), tail.end());
  }
  for (const Progress &before : progress_) {
    for (size_t s = 0; s < before.segments.size(); s++) {
      SegmentState &segment = slot(before.slot).segments[s];
      segment.computed = before.segments[s].computed;
      segment.done = before.segments[s].done;
      if (!before.segments[s].known) segment = SegmentState{};
    }
  }
}

void StepExecutor::force_tokens(const std::vector<ForcedToken> &forced) {
  for (const auto &[number, token] : forced) {
    Slot &content = slot(number);
    const auto end = content.tokens.begin() + content.length(0);
    replaced_.emplace_back(number, std::vector<int32_t>(end, content.tokens.end()));
    content.tokens.erase(end, content.tokens.end());
    content.tokens.push_back(token);
  }
}

void StepExecutor::decode() {
  const int members = static_cast<int>(state_.decode_set.size());
  for (int begin = 0; begin < members; begin += block_rows) {
    const int rows = std::min(block_rows, members - begin);
    const std::vector<int32_t> numbers(state_.decode_set.begin() + begin, state_.decode_set.begin() + begin + rows);
    std::vector<int32_t> tokens;
    for (int i = 0; i < rows; i++) {
      const Slot &content = slot(numbers[static_cast<size_t>(i)]);
      const int position = content.length(0);
      tokens.push_back(content.tokens[static_cast<size_t>(position)]);
      set_angles(i, position);
    }
    forward_.embed(tokens.data(), rows, x_.get());
    Block batch = block(rows, nullptr);
    for (int s = 0; s <= state_.layout.last_segment(); s++) {
      const Segment &segment = state_.layout.segments[static_cast<size_t>(s)];
      batch.spans.clear();
      for (int i = 0; i < rows; i++) {
        Slot &content = slot(numbers[static_cast<size_t>(i)]);
        last_.get()[i] = content.length(s);
        batch.spans.push_back({&full_table(content, s), 1});
      }
      for (int layer = segment.first_layer; layer <= segment.last_layer; layer++) {
        if (s == 0 && layer == segment.last_layer) write_carries(numbers);
        forward_.layer(layer, batch, Part::both);
      }
    }
    sample(numbers, x_.get());
  }
}

// The residual rows at the first drop layer's input go to carry 0 where its table reaches them, as those of a prompt do:
// so pages of generated tokens can be cached.
void StepExecutor::write_carries(const std::vector<int32_t> &numbers) {
  for (size_t i = 0; i < numbers.size(); i++) {
    Slot &content = slot(numbers[i]);
    if (content.carries_decode(state_.layout)) {
      carry_table(content, 0).write_rows(content.length(0), 1, row(static_cast<int>(i)));
    }
  }
}

void StepExecutor::prefill(const Item &item, float *sampled) {
  Slot &content = slot(item.slot);
  Progress before{item.slot, {}};
  for (const SegmentState &segment : content.segments) {
    before.segments.push_back({segment.computed, segment.done, segment.is_known()});
  }
  progress_.push_back(std::move(before));

  const int last = state_.layout.last_segment();
  const int end = item.first_row + item.rows;
  if (!content.drops) {
    segment_rows(content, 0, item.first_row, end, sampled);
    for (SegmentState &segment : content.segments) {
      segment.computed = end;
      segment.done = end == content.rows(0);
    }
    return;
  }
  for (int s = item.first_segment; s <= item.last_segment; s++) {
    const int from = s == item.first_segment ? item.first_row : 0;
    const int to = s == item.first_segment ? end : content.rows(s);
    segment_rows(content, s, from, to, s == last ? sampled : nullptr);
    content.segment(s).computed = to;
    if (to < content.rows(s)) return;
    if (s < last) select(item.slot, s);
    content.segment(s).done = true;
  }
}

// Residual rows [from, from + rows) of a segment: embeddings, or carry rows of the segment before that have passed its
// drop layer's attention and MLP.
void StepExecutor::load_rows(Slot &content, int segment, int from, int rows) {
  for (int i = 0; i < rows; i++) set_angles(i, content.position(segment, from + i));
  if (segment == 0) {
    forward_.embed(&content.tokens[static_cast<size_t>(from)], rows, x_.get());
    return;
  }
  const PageTable &carry = carry_table(content, segment - 1);
  for (int i = 0; i < rows; i++) {
    last_.get()[i] = content.parent(segment, from + i);
    carry.read_row(last_.get()[i], row(i));
  }
  const int drop_layer = state_.layout.segments[static_cast<size_t>(segment) - 1].last_layer;
  forward_.layer(drop_layer, block(rows, &full_table(content, segment - 1)), Part::queries);
}

void StepExecutor::segment_rows(Slot &content, int segment, int from, int to, float *sampled) {
  const int last = state_.layout.last_segment();
  const int last_covered = content.drops ? segment : last;
  const int final_layer = state_.layout.segments[static_cast<size_t>(last_covered)].last_layer;
  for (int begin = from; begin < to; begin += block_rows) {
    const int rows = std::min(block_rows, to - begin);
    load_rows(content, segment, begin, rows);
    for (int i = 0; i < rows; i++) last_.get()[i] = begin + i;
    Block batch = block(rows, nullptr);
    for (int s = segment; s <= last_covered; s++) {
      const Segment &layers = state_.layout.segments[static_cast<size_t>(s)];
      batch.spans[0].table = &full_table(content, s);
      for (int layer = layers.first_layer; layer <= layers.last_layer; layer++) {
        forward_.layer(layer, batch, layer == final_layer ? Part::keys_values : Part::both);
      }
    }
    if (last_covered < last) {
      carry_table(content, segment).write_rows(begin, rows, x_.get());
    } else if (sampled != nullptr && begin + rows == to) {
      const Block row = batch.slice(rows - 1, 1, batch.spans[0].table, static_cast<int>(hidden_), rope_.width());
      forward_.layer(final_layer, row, Part::queries);
      std::memcpy(sampled, row.x, hidden_ * sizeof(float));
    }
  }
}

void StepExecutor::select(int number, int segment) {
  Slot &content = slot(number);
  const SelectionShape shape = state_.schedule.shape(content.segment(segment).set_rows);
  std::vector<uint32_t> bitmap;
  int32_t flags = 0;
  if (static_cast<size_t>(segment) < content.bitmaps.size()) {
    bitmap = content.bitmaps[static_cast<size_t>(segment)];
    flags = selection_replayed;
  } else if (shape.keeps_all()) {
    bitmap = full_bitmap(shape);
  } else {
    std::tie(bitmap, flags) = score(content, segment, shape);
  }
  if (!content.segment(segment + 1).is_known()) content.apply_bitmap(segment, bitmap, state_.schedule);
  auto &out = result_->selections;
  out.insert(out.end(), {number, segment, flags, static_cast<int32_t>(bitmap.size())});
  for (const uint32_t word : bitmap) out.push_back(static_cast<int32_t>(word));
}

// The last prompt rows' queries come from the carry: a chunk may have held fewer of them.
std::pair<std::vector<uint32_t>, int32_t> StepExecutor::score(Slot &content, int segment, const SelectionShape &shape) {
  const int rows = std::min(shape.last_q, shape.rows);
  const int first = shape.rows - rows;
  const PageTable &carry = carry_table(content, segment);
  const PageTable &keys = full_table(content, segment);
  for (int i = 0; i < rows; i++) {
    set_angles(i, content.position(segment, first + i));
    carry.read_row(first + i, row(i));
  }
  const int drop_layer = state_.layout.segments[static_cast<size_t>(segment)].last_layer;
  const cpu::bf16 *queries = forward_.queries(drop_layer, block(rows, &keys));
  masses_.assign(static_cast<size_t>(shape.blocks()), 0);
  const bool finite = forward_.kernels().score(queries, rows, keys.pages_of(drop_layer), shape.rows, shape.block,
                                               forward_.attention_shape(), masses_.data());
  if (!finite) return {full_bitmap(shape), selection_fallback};
  return {select_blocks(masses_, content.p_q32[static_cast<size_t>(segment)], state_.schedule.rule, shape), 0};
}

void StepExecutor::sample(const std::vector<int32_t> &slots, const float *rows) {
  const auto vocab = static_cast<size_t>(state_.vocab_size);
  const auto bits = [](float value) { return std::bit_cast<int32_t>(value); };
  for (size_t i = 0; i < slots.size(); i++) {
    const size_t at = i % logits_rows;
    if (at == 0) {
      const auto count = std::min<size_t>(logits_rows, slots.size() - i);
      forward_.logits(rows + i * hidden_, static_cast<int>(count), logits_.get());
    }
    const std::span<const float> logits(logits_.get() + at * vocab, vocab);
    const int32_t number = slots[i];
    const Slot &content = slot(number);
    const Sample drawn = sampler_.sample(logits, content.sampling, content.tokens, content.prompt_length);
    const int32_t flags =
        drawn.non_finite ? token_non_finite : content.sampling.is_stop(drawn.token) ? token_stop : 0;
    result_->tokens.insert(result_->tokens.end(), {number, drawn.token, flags});
    sampled_tokens_.emplace_back(number, drawn.token);
    if (!drawn.logprobs.empty()) {
      auto &out = result_->logprobs;
      out.insert(out.end(), {number, static_cast<int32_t>(drawn.logprobs.size())});
      for (const auto &[token, logprob] : drawn.logprobs) out.insert(out.end(), {token, bits(logprob)});
    }
    if (content.return_logits) {
      auto &out = result_->logits;
      out.insert(out.end(), {number, static_cast<int32_t>(vocab)});
      for (const float logit : logits) out.push_back(bits(logit));
    }
  }
}

}  // namespace up
