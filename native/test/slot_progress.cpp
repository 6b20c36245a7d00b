#include "slot_progress.h"

up_sampling greedy_sampling() {
  up_sampling out{};
  out.top_p = 1;
  out.repetition_penalty = 1;
  out.allowed_count = -1;
  out.logprobs = -1;
  return out;
}

SlotSpec prompt_of(const std::vector<int32_t> &tokens, bool drops) {
  return {tokens, static_cast<int>(tokens.size()), drops, {}};
}

void put_content(up::Runner &runner, int id, const SlotSpec &spec, const ScheduleSpec &schedule) {
  up_content content{};
  content.size = sizeof content;
  content.token_count = static_cast<int32_t>(spec.tokens.size());
  content.tokens = spec.tokens.data();
  content.prompt_length = spec.prompt_length;
  const std::vector<uint64_t> p(schedule.layers.size(), schedule.p_q32());
  content.drops = spec.drops;
  content.p_q32 = p.data();
  std::vector<int32_t> counts;
  std::vector<uint32_t> words;
  for (const auto &bitmap : spec.bitmaps) {
    counts.push_back(static_cast<int32_t>(bitmap.size()));
    words.insert(words.end(), bitmap.begin(), bitmap.end());
  }
  content.bitmap_count = static_cast<int32_t>(counts.size());
  content.bitmap_words = counts.data();
  content.bitmaps = words.data();
  content.sampling = spec.sampling;
  content.return_logits = 1;
  content.prompt_logprobs = spec.prompt_logprobs;
  runner.put_content(id, content);
}

Progress::Progress(const SlotSpec &spec, const ScheduleSpec &schedule, const up::Layout &layout)
    : prompt_length(spec.prompt_length),
      outputs(static_cast<int>(spec.tokens.size()) - spec.prompt_length),
      drops(spec.drops && layout.last_segment() > 0),
      tables(layout.tables.size()) {
  std::vector<int> all;
  for (int i = 0; i < spec.prompt_length; i++) all.push_back(i);
  sets = {all};
  for (size_t i = 0; i < spec.bitmaps.size(); i++) decide(static_cast<int>(i), spec.bitmaps[i], schedule);
}

int Progress::next_row(int s) const {
  if (prefilled || (drops && s < segment)) return rows_of(s) + decoded;
  return !drops || s == segment ? computed : 0;
}

int Progress::position(int s, int row) const {
  const int rows = set_rows(s);
  return row < rows ? set(s)[static_cast<size_t>(row)] : prompt_length + row - rows;
}

int Progress::first_visible(int s, int row, int window, bool by_original) const {
  if (!by_original) return std::max(0, row - window + 1);
  int first = row;
  while (first > 0 && position(s, first - 1) > position(s, row) - window) first--;
  return first;
}

bool Progress::is_shared_by_prefix(const up::Table &table) const {
  return drops ? table.segment == 0 : table.kind != up::TableKind::carry;
}

void Progress::decide(int s, const std::vector<uint32_t> &bitmap, const ScheduleSpec &schedule) {
  if (static_cast<int>(sets.size()) != s + 1) return;
  const std::vector<int> &before = sets.back();
  std::vector<int> kept;
  for (const int32_t row :
       up::kept_indices(bitmap, {static_cast<int>(before.size()), schedule.block, schedule.sink, schedule.last_q})) {
    kept.push_back(before[static_cast<size_t>(row)]);
  }
  sets.push_back(std::move(kept));
  bitmaps.push_back(bitmap);
}

void Progress::adopt(const Progress &source) {
  Progress out = source;
  out.tables = std::move(tables);
  out.state = state;
  out.decoding = false;
  out.decoded = 0;
  *this = std::move(out);
}
