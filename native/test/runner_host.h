// What a scheduler would be to a runner, as small as it can be: it grants slabs as rows need them, writes plans, reads
// results, and remembers how far each slot has come.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <iterator>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "runner/layout.h"
#include "runner/selection.h"
#include "runner/step_codec.h"
#include "uniprefill.h"

struct PlanWriter {
  std::vector<int32_t> sections[up::section_count];

  std::vector<int32_t> &operator[](up::Section section) { return sections[static_cast<size_t>(section)]; }
  void add(up::Section section, std::initializer_list<int32_t> record) {
    (*this)[section].insert((*this)[section].end(), record);
  }
  std::vector<int32_t> words(uint64_t step_id) const {
    std::vector<int32_t> out = {0x4c505055, 1, static_cast<int32_t>(step_id), static_cast<int32_t>(step_id >> 32), 0};
    for (const auto &section : sections) {
      out.push_back(static_cast<int32_t>(section.size()));
      out.insert(out.end(), section.begin(), section.end());
    }
    out.push_back(static_cast<int32_t>(up::checksum_words(out)));
    return out;
  }
};

struct StepOutput {
  up_status status = UP_OK;
  std::string error;
  std::map<int, int32_t> tokens;
  std::map<int, int32_t> token_flags;
  std::map<int, std::vector<float>> logits;
  std::map<int, std::vector<std::pair<int32_t, float>>> logprobs;
  struct Selection {
    int slot, segment, flags;
    std::vector<uint32_t> bitmap;
  };
  std::vector<Selection> selections;
};

inline StepOutput read_result(const uint8_t *bytes, size_t count) {
  const auto *words = reinterpret_cast<const int32_t *>(bytes);
  const size_t total = count / 4;
  if (words[0] != 0x52535055 || static_cast<uint32_t>(words[total - 1]) != up::checksum_words({words, total - 1})) {
    std::fprintf(stderr, "the result's bytes do not hold together\n");
    std::exit(1);
  }
  StepOutput out;
  const int32_t *at = words + 5;
  for (int section = 0; section < 4; section++) {
    const int32_t *end = at + 1 + *at;
    at++;
    while (at < end) {
      if (section == 0) {
        out.tokens[at[0]] = at[1];
        out.token_flags[at[0]] = at[2];
        at += 3;
      } else if (section == 1) {
        out.selections.push_back({at[0], at[1], at[2], {at + 4, at + 4 + at[3]}});
        at += 4 + at[3];
      } else if (section == 2) {
        for (int i = 0; i < at[1]; i++) {
          out.logprobs[at[0]].emplace_back(at[2 + 2 * i], std::bit_cast<float>(at[3 + 2 * i]));
        }
        at += 2 + 2 * at[1];
      } else {
        for (int i = 0; i < at[1]; i++) out.logits[at[0]].push_back(std::bit_cast<float>(at[2 + i]));
        at += 2 + at[1];
      }
    }
  }
  return out;
}

struct ScheduleSpec {
  std::vector<int32_t> layers;
  double p = 0.5;
  up_rule rule = UP_RULE_EXCLUSIVE;
  int block = 64;
  int sink = 64;
  int last_q = 64;

  uint64_t p_q32() const { return static_cast<uint64_t>(p * 4294967296.0 + 0.5); }
};

struct HostOptions {
  ScheduleSpec schedule;
  int page_size = 64;
  int slabs = 4096;
  int slots = 8;
  int max_rows = 8192;
  int max_tokens = 4096;
  int threads = 2;
  bool shuffled = true;  // slabs are granted in no order, so that a page's are not neighbours by luck; false: from 0 on
  up_kernels kernels = UP_KERNELS_AUTO;
};

inline up_sampling greedy_sampling() {
  up_sampling out{};
  out.top_p = 1;
  out.repetition_penalty = 1;
  out.allowed_count = -1;
  out.logprobs = -1;
  return out;
}

struct SlotSpec {
  std::vector<int32_t> tokens;
  int prompt_length = 0;
  bool drops = false;
  std::vector<std::vector<uint32_t>> bitmaps;
  up_sampling sampling = greedy_sampling();
};

class Host {
 public:
  Host(const std::string &directory, const HostOptions &options) : options_(options) {
    up_model *model = nullptr;
    require(up_model_open(directory.c_str(), &model));
    up_model_info info{};
    info.size = sizeof info;
    require(up_model_describe(model, &info));
    up_runner_options native{};
    native.size = sizeof native;
    const ScheduleSpec &schedule = options.schedule;
    if (!schedule.layers.empty()) {
      native.schedule = {sizeof native.schedule,  static_cast<int32_t>(schedule.layers.size()),
                         schedule.layers.data(), schedule.rule, schedule.block,
                         schedule.sink,          schedule.last_q, 0};
    }
    native.page_size = options.page_size;
    native.slabs = options.slabs;
    native.slots = options.slots;
    native.max_rows_per_step = options.max_rows;
    native.max_tokens = options.max_tokens;
    native.threads = options.threads;
    native.kernels = options.kernels;
    require(up_runner_create(model, &native, &runner_));
    up_model_close(model);
    up::ModelConfig config;
    config.hidden_size = info.hidden_size;
    config.layers = info.layers;
    config.kv_heads = info.kv_heads;
    config.head_dim = info.head_dim;
    layout = up::make_layout(config, schedule.layers, options.page_size);
    for (int slab = options.slabs; slab-- > 0;) free.push_back(slab);
    if (options.shuffled) std::shuffle(free.begin(), free.end(), std::mt19937(1));
    slots_.resize(static_cast<size_t>(options.slots));
  }
  ~Host() { up_runner_destroy(runner_); }
  Host(const Host &) = delete;
  Host &operator=(const Host &) = delete;

  up::Layout layout;
  PlanWriter plan;
  uint64_t next_step = 1;
  std::vector<int> free;

  struct Progress {
    std::vector<int> set_rows;  // of the segments known
    int outputs = 0;            // brought by the slot
    int segment = 0;
    int computed = 0;
    bool prefilled = false;
    int decoded = 0;
    bool drops = false;
    std::vector<std::vector<int>> tables;  // slabs
    std::vector<std::vector<uint32_t>> bitmaps;

    int set_of(int segment) const { return set_rows[std::min<size_t>(drops ? segment : 0, set_rows.size() - 1)]; }
    int rows_of(int segment) const { return set_of(segment) + outputs; }
  };

  up_runner *runner() { return runner_; }
  Progress &progress(int slot) { return slots_[static_cast<size_t>(slot)]; }

  up_status try_open(int slot, const SlotSpec &spec) {
    up_slot_content content{};
    content.size = sizeof content;
    content.slot = slot;
    content.token_count = static_cast<int32_t>(spec.tokens.size());
    content.tokens = spec.tokens.data();
    content.prompt_length = spec.prompt_length;
    const std::vector<uint64_t> p(options_.schedule.layers.size(), options_.schedule.p_q32());
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
    return up_slot_open(runner_, &content);
  }

  void open(int slot, const SlotSpec &spec) {
    require(try_open(slot, spec));
    Progress fresh;
    fresh.set_rows = {spec.prompt_length};
    fresh.outputs = static_cast<int>(spec.tokens.size()) - spec.prompt_length;
    fresh.drops = spec.drops && layout.last_segment() > 0;
    fresh.tables.resize(layout.tables.size());
    for (const auto &bitmap : spec.bitmaps) apply(fresh, bitmap);
    progress(slot) = fresh;
  }

  void close(int slot) {
    require(up_slot_close(runner_, slot));
    const auto tables = std::move(progress(slot).tables);
    progress(slot) = {};
    for (const auto &table : tables) {
      std::copy_if(table.begin(), table.end(), std::back_inserter(free), [&](int slab) { return !is_held(slab); });
    }
  }

  // Slabs that the prefix cache holds.
  std::set<int> cached;

  bool is_held(int slab) const {
    const auto holds = [&](const std::vector<int> &table) { return std::find(table.begin(), table.end(), slab) != table.end(); };
    return cached.contains(slab) || std::any_of(slots_.begin(), slots_.end(), [&](const Progress &p) {
             return std::any_of(p.tables.begin(), p.tables.end(), holds);
           });
  }

  // The first `count` pages of one slot's table become another's too.
  void map(int source, int target, int table, int count) {
    const auto &from = progress(source).tables[static_cast<size_t>(table)];
    auto &to = progress(target).tables[static_cast<size_t>(table)];
    for (int i = 0; i < count * layout.tables[static_cast<size_t>(table)].slabs_per_page; i++) {
      to.push_back(from[static_cast<size_t>(i)]);
      plan.add(up::Section::maps, {target, table, to.back()});
    }
  }

  // The first `count` pages of a table go to the prefix cache.
  void retain(int slot, int table, int count) {
    for (int i = 0; i < count * layout.tables[static_cast<size_t>(table)].slabs_per_page; i++) {
      const int slab = progress(slot).tables[static_cast<size_t>(table)][static_cast<size_t>(i)];
      plan.add(up::Section::retains, {slab});
      cached.insert(slab);
    }
  }

  // `target` also samples from the item that ends the prefill of `source` in this plan.
  void adopt(int source, int target) {
    const int item = static_cast<int>(plan[up::Section::items].size()) / 5 - 1;
    plan.add(up::Section::samples, {item, target});
    adopted_.emplace_back(source, target);
  }

  // Full pages by reference, the partial last one as a copy.
  void share(int source, int target) {
    for (int s = 0; s <= layout.last_segment(); s++) {
      const int rows = progress(source).rows_of(s);
      share_table(source, target, layout.segments[static_cast<size_t>(s)].full, rows);
    }
  }
  void share_table(int source, int target, int table, int rows) {
    map(source, target, table, rows / options_.page_size);
    const auto held = progress(target).tables[static_cast<size_t>(table)].size();
    grow(target, table, rows);
    const auto &to = progress(target).tables[static_cast<size_t>(table)];
    for (size_t i = held; i < to.size(); i++) {
      plan.add(up::Section::copies, {progress(source).tables[static_cast<size_t>(table)][i], to[i]});
    }
  }

  // Grants what a table needs to hold `rows` rows.
  void grow(int slot, int table, int rows) {
    auto &slabs = progress(slot).tables[static_cast<size_t>(table)];
    const int per_page = layout.tables[static_cast<size_t>(table)].slabs_per_page;
    while (static_cast<int>(slabs.size()) < layout.pages_for(rows) * per_page) {
      slabs.push_back(free.back());
      free.pop_back();
      plan.add(up::Section::grants, {slot, table, slabs.back()});
    }
  }

  // Adds an item of at most `most` rows; one that completes its segment goes on through `more` segments. Samples at the end.
  void prefill(int slot, int most, int more = 64) {
    Progress &p = progress(slot);
    const int last = layout.last_segment();
    const int rows = std::min(most, p.rows_of(p.segment) - p.computed);
    const int end = p.computed + rows;
    const bool completes = end == p.rows_of(p.segment);
    const int last_segment = !p.drops ? last : completes ? std::min(last, p.segment + more) : p.segment;
    for (int s = p.segment; s <= last_segment; s++) {
      const up::Segment &segment = layout.segments[static_cast<size_t>(s)];
      const int need = s == p.segment || !p.drops ? end : p.rows_of(s);
      grow(slot, segment.full, need);
      if (p.drops && segment.carry >= 0) grow(slot, segment.carry, need);
    }
    const int item = static_cast<int>(plan[up::Section::items].size()) / 5;
    plan.add(up::Section::items, {slot, p.computed, rows, p.segment, last_segment});
    if (completes && last_segment == last) {
      plan.add(up::Section::samples, {item, slot});
      p.prefilled = true;
    }
    if (completes && last_segment < last) {
      p.segment = last_segment + 1;
      p.computed = 0;
    } else {
      p.computed = end;
    }
  }

  // Room for one more decode row in every table.
  void grow_decode(int slot) {
    Progress &p = progress(slot);
    for (int s = 0; s <= layout.last_segment(); s++) {
      grow(slot, layout.segments[static_cast<size_t>(s)].full, p.rows_of(s) + p.decoded + 1);
    }
    p.decoded++;
  }
  void join(int slot, int token = -1) {
    plan.add(up::Section::joins, {slot, token});
    grow_decode(slot);
  }

  // Runs the plan and starts the next one; a failing step ends the test.
  StepOutput step() {
    StepOutput out = try_step();
    if (out.status != UP_OK) {
      std::fprintf(stderr, "step failed: %s\n", out.error.c_str());
      std::exit(1);
    }
    return out;
  }

  StepOutput try_step() {
    const StepOutput out = try_words(plan.words(next_step));
    plan = {};
    return out;
  }

  StepOutput try_words(const std::vector<int32_t> &words) {
    const uint8_t *bytes = nullptr;
    size_t count = 0;
    StepOutput out;
    out.status = up_step(runner_, reinterpret_cast<const uint8_t *>(words.data()), words.size() * 4, &bytes, &count);
    if (out.status != UP_OK) {
      adopted_.clear();
      const up_error error = up_last_error();
      out.error = std::string(error.operation) + ": " + error.phase + ": " + error.detail;
      return out;
    }
    next_step++;
    out = read_result(bytes, count);
    for (const auto &selection : out.selections) {
      Progress &p = progress(selection.slot);
      if (static_cast<int>(p.set_rows.size()) == selection.segment + 1) apply(p, selection.bitmap);
    }
    for (const auto &[source, target] : adopted_) {
      auto tables = std::move(progress(target).tables);
      progress(target) = progress(source);
      progress(target).tables = std::move(tables);
    }
    adopted_.clear();
    return out;
  }

 private:
  static void require(up_status status) {
    if (status == UP_OK) return;
    const up_error error = up_last_error();
    std::fprintf(stderr, "%s: %s: %s\n", error.operation, error.phase, error.detail);
    std::exit(1);
  }

  void apply(Progress &p, const std::vector<uint32_t> &bitmap) const {
    const ScheduleSpec &s = options_.schedule;
    const up::SelectionShape shape{p.set_rows.back(), s.block, s.sink, s.last_q};
    p.bitmaps.push_back(bitmap);
    p.set_rows.push_back(static_cast<int>(up::kept_indices(bitmap, shape).size()));
  }

  HostOptions options_;
  up_runner *runner_ = nullptr;
  std::vector<Progress> slots_;
  std::vector<std::pair<int, int>> adopted_;  // source and target, in the plan being written
};
