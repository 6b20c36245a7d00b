#include "runner/runner_options.h"

#include "abi/failure.h"
#include "runner/step_executor.h"

namespace up {
namespace {

template <class... Parts>
[[noreturn]] void refuse(const char *phase, const Parts &...detail) {
  fail(UP_INVALID_ARGUMENT, phase, detail...);
}

void require_within(const char *field, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) {
    refuse("check options", field, " is ", value, ", an integer from ", least, " to ", most, " was expected");
  }
}

}  // namespace

void check_options(const up_runner_options &options, const ModelConfig &config) {
  require_within("page_size", options.page_size, 64, max_page_size);
  if (options.page_size % 64 != 0) refuse("check options", "page_size is ", options.page_size, ", no multiple of 64");
  require_within("slabs", options.slabs, 1, INT32_MAX);
  require_within("slots", options.slots, 1, max_slots);
  require_within("max_rows_per_step", options.max_rows_per_step, 1, 1 << 24);
  require_within("max_tokens", options.max_tokens, 1, config.max_positions);
  require_within("threads", options.threads, 0, max_threads);
}

Schedule read_schedule(const up_drop_schedule &schedule, const ModelConfig &config, int page_size) {
  constexpr const char *phase = "check schedule";
  Schedule out;
  if (schedule.size == 0) return out;
  require_struct(&schedule, "schedule");
  const int count = schedule.drop_layer_count;
  if (count < 0 || count > max_drop_layers) refuse(phase, "drop_layer_count is ", count, ", at most ", max_drop_layers);
  if (count > 0) require_pointer(schedule.drop_layers, "schedule.drop_layers");
  for (int i = 0; i < count; i++) {
    const int layer = schedule.drop_layers[i];
    if (layer < 0 || layer > config.layers - 2) {
      refuse(phase, "drop_layers[", i, "] is ", layer, ", layers 0 to ", config.layers - 2, " of ", config.layers,
             " may drop");
    }
    if (i > 0 && layer <= schedule.drop_layers[i - 1]) {
      refuse(phase, "drop_layers[", i, "] is ", layer, " after ", schedule.drop_layers[i - 1], ", not ascending");
    }
    out.drop_layers.push_back(layer);
  }
  const int rule = raw_value(schedule.rule);
  if (rule != UP_RULE_EXCLUSIVE && rule != UP_RULE_REFERENCE) {
    refuse(phase, "rule is ", rule, ", 0 (exclusive) or 1 (reference) was expected");
  }
  if (schedule.block < 16 || schedule.block % 16 != 0 || page_size % schedule.block != 0) {
    refuse(phase, "block is ", schedule.block, ", a multiple of 16 that divides the page size ", page_size, " was expected");
  }
  if (schedule.sink < 0) refuse(phase, "sink is ", schedule.sink, ", an integer ≥ 0 was expected");
  if (schedule.last_q < 1 || schedule.last_q > block_rows) {
    refuse(phase, "last_q is ", schedule.last_q, ", an integer from 1 to ", block_rows, " was expected");
  }
  out.rule = schedule.rule;
  out.block = schedule.block;
  out.sink = schedule.sink;
  out.last_q = schedule.last_q;
  return out;
}

namespace {

constexpr const char *slot_phase = "check slot";

void read_tokens(const up_slot_content &content, const RunnerState &state, Slot &out) {
  if (content.token_count < 1 || content.token_count > state.max_tokens) {
    refuse(slot_phase, "token_count is ", content.token_count, ", a slot holds 1 to ", state.max_tokens);
  }
  if (content.prompt_length < 1 || content.prompt_length > content.token_count) {
    refuse(slot_phase, "prompt_length is ", content.prompt_length, " of ", content.token_count, " tokens");
  }
  require_pointer(content.tokens, "tokens");
  // One more than fits: the last row's sample. Nothing is allocated when a step commits.
  out.tokens.reserve(static_cast<size_t>(state.max_tokens) + 1);
  for (int i = 0; i < content.token_count; i++) {
    if (content.tokens[i] < 0 || content.tokens[i] >= state.vocab_size) {
      refuse(slot_phase, "tokens[", i, "] is ", content.tokens[i], ", the vocabulary has ", state.vocab_size);
    }
    out.tokens.push_back(content.tokens[i]);
  }
  out.prompt_length = content.prompt_length;
  out.opened_length = content.token_count;
}

void read_bitmaps(const up_slot_content &content, const RunnerState &state, Slot &out) {
  const int selections = out.drops ? state.layout.last_segment() : 0;
  if (content.bitmap_count < 0 || content.bitmap_count > selections) {
    refuse(slot_phase, "bitmap_count is ", content.bitmap_count, ", this slot has ", selections, " selections");
  }
  if (content.bitmap_count == 0) return;
  require_pointer(content.bitmap_words, "bitmap_words");
  require_pointer(content.bitmaps, "bitmaps");
  const uint32_t *words = content.bitmaps;
  for (int i = 0; i < content.bitmap_count; i++) {
    const SelectionShape shape = state.schedule.shape(out.segment(i).set_rows);
    if (content.bitmap_words[i] != shape.words()) {
      refuse(slot_phase, "bitmap ", i, " has ", content.bitmap_words[i], " words, ", shape.rows, " rows need ", shape.words());
    }
    std::vector<uint32_t> bitmap(words, words + shape.words());
    const int used = shape.blocks() % 32;
    if (used != 0 && bitmap.back() >> used != 0) {
      refuse(slot_phase, "bitmap ", i, " sets bits beyond its ", shape.blocks(), " blocks");
    }
    words += shape.words();
    out.apply_bitmap(i, bitmap, state.schedule);
    out.bitmaps.push_back(std::move(bitmap));
  }
}

}  // namespace

Slot read_slot(const up_slot_content &content, RunnerState &state, const ModelConfig &config) {
  const int segments = state.layout.last_segment() + 1;
  Slot out;
  read_tokens(content, state, out);
  out.drops = content.drops != 0 && segments > 1;
  out.segments.resize(static_cast<size_t>(segments));
  out.segment(0).set_rows = out.prompt_length;
  if (out.drops) {
    require_pointer(content.p_q32, "p_q32");
    for (int i = 0; i + 1 < segments; i++) {
      if (content.p_q32[i] > uint64_t{1} << 32) {
        refuse(slot_phase, "p_q32[", i, "] is ", content.p_q32[i], ", at most ", uint64_t{1} << 32);
      }
      out.p_q32.push_back(content.p_q32[i]);
    }
  } else {
    for (SegmentState &segment : out.segments) segment.set_rows = out.prompt_length;
  }
  read_bitmaps(content, state, out);
  out.sampling = read_sampling(content.sampling, state.vocab_size);
  out.return_logits = content.return_logits != 0;
  for (size_t t = 0; t < state.layout.tables.size(); t++) {
    out.tables.emplace_back(state.layout, config, static_cast<int>(t), state.pool);
  }
  out.open = true;
  return out;
}

}  // namespace up
