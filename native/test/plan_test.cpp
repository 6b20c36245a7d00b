// Plans that do not hold together: each is refused with its section and record named, and changes nothing.
#include <algorithm>
#include <cstring>
#include <functional>
#include <random>

#include "check.h"
#include "random_model.h"
#include "runner_host.h"

namespace {

using up::Section;

RandomModel small_model() {
  RandomModel model;
  model.layers = 3;
  model.hidden = 32;
  model.heads = 2;
  model.kv_heads = 1;
  model.head_dim = 16;
  model.inner = 40;
  model.vocab = 48;
  model.max_positions = 512;
  return model;
}

// Tables: 0 full 0, 1 full 1, 2 carry 0. Pages of 64 rows.
HostOptions small_host() {
  HostOptions options;
  options.schedule.layers = {1};
  options.schedule.sink = 32;
  options.schedule.last_q = 32;
  options.slabs = 64;
  options.slots = 4;
  options.max_rows = 400;
  options.max_tokens = 300;
  options.threads = 1;
  options.shuffled = false;
  return options;
}

SlotSpec prompt(int length, bool drops) {
  SlotSpec spec;
  for (int i = 0; i < length; i++) spec.tokens.push_back((i * 7 + i / 5) % 48);
  spec.prompt_length = length;
  spec.drops = drops;
  return spec;
}

// Slot 0 decodes; slot 1 has computed 64 of the 200 rows of its segment 0; slot 2 does not drop and has 100 rows to come.
void begin(Host &host) {
  host.open(0, prompt(150, true));
  host.prefill(0, 1000);
  host.step();
  host.join(0);
  host.open(1, prompt(200, true));
  host.prefill(1, 64);
  host.step();
  host.open(2, prompt(100, false));
}

StepOutput finish(Host &host) {
  host.grow_decode(0);
  host.prefill(1, 1000);
  host.prefill(2, 1000);
  return host.step();
}

struct Fault {
  const char *expected;  // part of the detail
  std::function<void(Host &)> plant;
};

const std::vector<Fault> faults = {
    {"leaves[0]: slot 1 is not in the decode set", [](Host &h) { h.plan.add(Section::leaves, {1}); }},
    {"leaves[1]: slot 0 is not in the decode set",
     [](Host &h) {
       h.plan.add(Section::leaves, {0});
       h.plan.add(Section::leaves, {0});
     }},
    {"leaves[0]: slot 3 is not open", [](Host &h) { h.plan.add(Section::leaves, {3}); }},
    {"leaves[0]: slot 4 of 4", [](Host &h) { h.plan.add(Section::leaves, {4}); }},
    {"leaves[0]: slot -1 of 4", [](Host &h) { h.plan.add(Section::leaves, {-1}); }},
    {"trims[0]: keeps 4 pages of table 0 of slot 0, which has 3", [](Host &h) { h.plan.add(Section::trims, {0, 0, 4}); }},
    {"trims[0]: keeps -1 pages", [](Host &h) { h.plan.add(Section::trims, {0, 0, -1}); }},
    {"trims[0]: table 3 of 3", [](Host &h) { h.plan.add(Section::trims, {0, 3, 0}); }},
    {"trims[0]: table 0 of slot 0 is left with room for 64 rows, 151 are still needed",
     [](Host &h) { h.plan.add(Section::trims, {0, 0, 1}); }},
    {"trims[0]: table 2 of slot 1 is left with room for 0 rows, 64 are still needed",
     [](Host &h) { h.plan.add(Section::trims, {1, 2, 0}); }},
    {"windowFrees[0]: table 0 is full, not sliding", [](Host &h) { h.plan.add(Section::window_frees, {0, 0, 1}); }},
    {"drops[0]: slab 5 is not cached", [](Host &h) { h.plan.add(Section::drops, {5}); }},
    {"drops[0]: slab 64 of 64", [](Host &h) { h.plan.add(Section::drops, {64}); }},
    {"retains[0]: slab 60 is free", [](Host &h) { h.plan.add(Section::retains, {60}); }},
    {"retains[1]: slab 0 is cached already",
     [](Host &h) {
       h.plan.add(Section::retains, {0});
       h.plan.add(Section::retains, {0});
     }},
    {"maps[0]: slab 60 is free: neither the cache nor a table holds it",
     [](Host &h) { h.plan.add(Section::maps, {2, 0, 60}); }},
    {"maps[0]: slot 1 has computed 64 rows, 0 decoded", [](Host &h) { h.plan.add(Section::maps, {1, 0, 0}); }},
    {"grants[0]: slab 0 is not free: it has 1 references", [](Host &h) { h.plan.add(Section::grants, {2, 0, 0}); }},
    {"grants[1]: slab 60 is not free",
     [](Host &h) {
       h.plan.add(Section::grants, {2, 0, 60});
       h.plan.add(Section::grants, {2, 0, 60});
     }},
    {"grants[0]: slab -2147483648 of 64", [](Host &h) { h.plan.add(Section::grants, {2, 0, INT32_MIN}); }},
    {"grants[0]: table 0 of slot 2 is left with 1 slabs, a page has 2", [](Host &h) { h.plan.add(Section::grants, {2, 0, 60}); }},
    {"copies[0]: source slab 60 is free", [](Host &h) { h.plan.add(Section::copies, {60, 0}); }},
    {"copies[0]: target slab 60 is not granted in this step", [](Host &h) { h.plan.add(Section::copies, {0, 60}); }},
    {"copies[0]: target slab 0 is not granted in this step", [](Host &h) { h.plan.add(Section::copies, {1, 0}); }},
    {"states[0]: this model has no recurrent state", [](Host &h) { h.plan.add(Section::states, {0, 0, 0}); }},
    {"joins[0]: slot 0 is in the decode set already", [](Host &h) { h.plan.add(Section::joins, {0, -1}); }},
    {"joins[0]: slot 1 has computed 64 of 200 rows", [](Host &h) { h.plan.add(Section::joins, {1, -1}); }},
    {"joins[0]: token 48, the vocabulary has 48",
     [](Host &h) {
       h.plan.add(Section::leaves, {0});
       h.plan.add(Section::joins, {0, 48});
     }},
    {"items[0]: slot 9 of 4", [](Host &h) { h.plan.add(Section::items, {9, 0, 1, 0, 0}); }},
    {"items[0]: slot 3 is not open", [](Host &h) { h.plan.add(Section::items, {3, 0, 1, 0, 0}); }},
    {"items[0]: slot 0 is in the decode set", [](Host &h) { h.plan.add(Section::items, {0, 0, 1, 0, 1}); }},
    {"items[1]: slot 1 has an item already",
     [](Host &h) {
       h.grow(1, 0, 66);
       h.grow(1, 2, 66);
       h.plan.add(Section::items, {1, 64, 1, 0, 0});
       h.plan.add(Section::items, {1, 65, 1, 0, 0});
     }},
    {"items[0]: begins at row 63 of segment 0, of which 64 rows are computed",
     [](Host &h) { h.plan.add(Section::items, {1, 63, 1, 0, 0}); }},
    {"items[0]: begins at row 65 of segment 0, of which 64 rows are computed",
     [](Host &h) { h.plan.add(Section::items, {1, 65, 1, 0, 0}); }},
    {"items[0]: begins at row 1 of segment 0, of which 0 rows are computed",
     [](Host &h) { h.plan.add(Section::items, {2, 1, 99, 0, 1}); }},
    {"items[0]: begins in segment 1, but segment 0 is not finished: 64 rows are computed",
     [](Host &h) { h.plan.add(Section::items, {1, 0, 1, 1, 1}); }},
    {"items[0]: segments 1 to 0", [](Host &h) { h.plan.add(Section::items, {1, 64, 1, 1, 0}); }},
    {"items[0]: segments 0 to 2, there are 0 to 1", [](Host &h) { h.plan.add(Section::items, {1, 64, 1, 0, 2}); }},
    {"items[0]: segments 0 to 0, a slot that does not drop has 0 to 1",
     [](Host &h) { h.plan.add(Section::items, {2, 0, 100, 0, 0}); }},
    {"items[0]: goes on to segment 1 but ends at row 100 of 200", [](Host &h) { h.plan.add(Section::items, {1, 64, 36, 0, 1}); }},
    {"items[0]: rows 64 + 137 of segment 0, which has 200", [](Host &h) { h.plan.add(Section::items, {1, 64, 137, 0, 0}); }},
    {"items[0]: rows 64 + 2147483647 of segment 0", [](Host &h) { h.plan.add(Section::items, {1, 64, INT32_MAX, 0, 0}); }},
    {"items[0]: rows 64 + -1 of segment 0", [](Host &h) { h.plan.add(Section::items, {1, 64, -1, 0, 0}); }},
    {"items[0]: 0 rows, and no selection follows", [](Host &h) { h.plan.add(Section::items, {1, 64, 0, 0, 0}); }},
    {"items[0]: rows 64 to 65 of table 0, which has room for 64", [](Host &h) { h.plan.add(Section::items, {1, 64, 1, 0, 0}); }},
    {"items[0]: rows 64 to 65 of table 2, which has room for 64",
     [](Host &h) {
       h.grow(1, 0, 65);
       h.plan.add(Section::items, {1, 64, 1, 0, 0});
     }},
    {"items[0]: rows 0 to 200 of table 1, which has room for 192",
     [](Host &h) {
       h.grow(1, 0, 200);
       h.grow(1, 2, 200);
       h.grow(1, 1, 192);
       h.plan.add(Section::items, {1, 64, 136, 0, 1});
     }},
    {"samples[0]: item 0 of 0", [](Host &h) { h.plan.add(Section::samples, {0, 2}); }},
    {"samples[0]: slot 1 cannot go on from slot 2: it has rows of its own",
     [](Host &h) {
       h.prefill(2, 100);
       h.plan[Section::samples] = {0, 1};
     }},
    {"samples[0]: slot 3 is not open",
     [](Host &h) {
       h.prefill(2, 100);
       h.plan[Section::samples] = {0, 3};
     }},
    {"samples[0]: slot 4 of 4",
     [](Host &h) {
       h.prefill(2, 100);
       h.plan[Section::samples] = {0, 4};
     }},
    {"samples[1]: slot 2 is sampled already",
     [](Host &h) {
       h.prefill(2, 100);
       h.plan.add(Section::samples, {0, 2});
     }},
    {"samples[0]: item 0 ends at row 99 of 100",
     [](Host &h) {
       h.prefill(2, 99);
       h.plan.add(Section::samples, {0, 2});
     }},
};

void check_refusals(const std::string &directory) {
  Host untouched(directory, small_host());
  begin(untouched);
  const StepOutput expected = finish(untouched);
  for (const Fault &fault : faults) {
    Host host(directory, small_host());
    begin(host);
    const auto free = host.free;
    const auto progress = host.progress(1);
    const auto other = host.progress(2);
    // Its decode row needs no page, so that the plan would hold but for the fault.
    fault.plant(host);
    const StepOutput out = host.try_step();
    CHECK(out.status == UP_INVALID_PLAN, "%s: status %s", fault.expected, up_status_name(out.status));
    CHECK(out.error.find(fault.expected) != std::string::npos, "expected \"%s\", got \"%s\"", fault.expected, out.error.c_str());
    host.free = free;
    host.progress(1) = progress;
    host.progress(2) = other;
    const StepOutput after = finish(host);
    CHECK(after.logits == expected.logits && after.tokens == expected.tokens, "%s: the next step differs", fault.expected);
  }
}

void check_row_limit(const std::string &directory) {
  HostOptions options = small_host();
  options.max_rows = 100;
  Host host(directory, options);
  host.open(2, prompt(200, false));
  host.prefill(2, 200);
  CHECK(host.try_step().error.find("items[0]: brings the step to 200 rows, 0 of them decode rows; a step has at most 100") !=
        std::string::npos);
}

// A slot at its last token, and one whose decode row has no page.
void check_decode_limits(const std::string &directory) {
  Host host(directory, small_host());
  host.open(0, prompt(128, false));
  host.prefill(0, 128);
  host.step();
  host.plan.add(Section::joins, {0, -1});
  CHECK(host.try_step().error.find("decode set[0]: slot 0: row 128 of segment 0 has no page, its table has room for 128") !=
        std::string::npos);
  host.close(0);
  host.open(0, prompt(300, false));
  host.prefill(0, 300);
  host.step();
  host.join(0);
  CHECK(host.try_step().error.find("decode set[0]: slot 0 has 300 rows, a slot holds at most 300") != std::string::npos);
}

void check_bytes(const std::string &directory) {
  Host host(directory, small_host());
  const std::vector<int32_t> good = host.plan.words(1);
  const auto refused = [&](std::vector<int32_t> words, bool sign, const char *expected) {
    if (sign) words.back() = static_cast<int32_t>(up::checksum_words({words.data(), words.size() - 1}));
    const StepOutput out = host.try_words(words);
    CHECK(out.status == UP_INVALID_PLAN && out.error.find(expected) != std::string::npos, "expected \"%s\", got \"%s\"",
          expected, out.error.c_str());
  };
  const auto with = [&](size_t at, int32_t value) {
    std::vector<int32_t> words = good;
    words[at] = value;
    return words;
  };
  refused(with(0, 1), true, "magic is 1");
  refused(with(1, 2), true, "version is 2");
  refused(with(2, 7), true, "stepId is 7, expected 1");
  refused(with(3, 1), true, "stepId is 4294967297, expected 1");
  refused(with(4, 1), true, "word 4 is 1");
  refused(with(5, 1), true, "section leaves claims 1 integers");
  refused(with(5, INT32_MAX), true, "section leaves claims 2147483647 integers");
  refused(with(5, -1), true, "section leaves claims -1 integers");
  refused(with(good.size() - 1, good.back() + 1), false, "checksum is");
  refused({good.begin(), good.end() - 1}, true, "17 words, a plan has from 18");
  std::vector<int32_t> longer = good;
  longer.push_back(0);
  refused(longer, true, "1 words after the last section");
  host.plan[Section::trims] = {0, 0};
  refused(host.plan.words(1), true, "section trims has 2 integers, records have 3");
  const uint8_t *bytes = nullptr;
  size_t count = 0;
  CHECK(up_step(host.runner(), reinterpret_cast<const uint8_t *>(good.data()), good.size() * 4 - 1, &bytes, &count) ==
        UP_INVALID_PLAN);
  CHECK(up_step(host.runner(), nullptr, 4, &bytes, &count) == UP_INVALID_ARGUMENT);
  // Bytes at an odd address are read as well.
  std::vector<uint8_t> shifted(good.size() * 4 + 1);
  std::memcpy(shifted.data() + 1, good.data(), good.size() * 4);
  CHECK(up_step(host.runner(), shifted.data() + 1, good.size() * 4, &bytes, &count) == UP_OK);
}

// Words changed at random, checksum mended: refused or carried out, and what is refused leaves no trace.
void check_random_damage(const std::string &directory) {
  std::mt19937_64 random(42);
  Host damaged(directory, small_host());
  Host untouched(directory, small_host());
  begin(damaged);
  begin(untouched);
  int refused = 0;
  for (int round = 0; round < 400; round++) {
    damaged.grow_decode(0);
    untouched.grow_decode(0);
    if (round == 0) {
      damaged.prefill(1, 100);
      untouched.prefill(1, 100);
    }
    std::vector<int32_t> words = damaged.plan.words(damaged.next_step);
    const std::vector<int32_t> good = words;
    damaged.plan = {};
    for (int i = 0; i < 3; i++) {
      const size_t at = 5 + random() % (words.size() - 6);
      const int32_t values[] = {0, 1, 2, -1, INT32_MAX, INT32_MIN, 64, static_cast<int32_t>(random())};
      words[at] = values[random() % std::size(values)];
    }
    words.back() = static_cast<int32_t>(up::checksum_words({words.data(), words.size() - 1}));
    if (words != good) {
      const uint8_t *bytes = nullptr;
      size_t count = 0;
      const up_status status =
          up_step(damaged.runner(), reinterpret_cast<const uint8_t *>(words.data()), words.size() * 4, &bytes, &count);
      // A change that makes another sound plan ends the comparison.
      if (status == UP_OK) break;
      CHECK(status == UP_INVALID_PLAN);
      refused++;
    }
    const StepOutput expected = untouched.step();
    const StepOutput found = damaged.try_words(good);
    CHECK(found.status == UP_OK, "%s", found.error.c_str());
    CHECK(found.logits == expected.logits && found.tokens == expected.tokens, "round %d differs", round);
    if (untouched.progress(0).rows_of(0) + untouched.progress(0).decoded >= 299) break;
  }
  CHECK(refused >= 20, "only %d plans were refused", refused);
}

// Two slots share cached pages of their common prefix, which outlive the first.
void check_prefix_sharing(const std::string &directory) {
  Host host(directory, small_host());
  host.open(0, prompt(150, true));
  host.prefill(0, 1000);
  const StepOutput first = host.step();
  const auto tables = host.progress(0).tables;
  const int per_page[] = {host.layout.tables[0].slabs_per_page, 0, host.layout.tables[2].slabs_per_page};
  std::vector<int> cached;
  for (const int table : {0, 2}) {
    for (int i = 0; i < 2 * per_page[table]; i++) cached.push_back(tables[static_cast<size_t>(table)][static_cast<size_t>(i)]);
  }
  // Before it goes, the prefix cache takes the first two pages.
  for (const int slab : cached) host.plan.add(Section::retains, {slab});
  host.step();
  host.close(0);
  std::erase_if(host.free, [&](int slab) { return std::find(cached.begin(), cached.end(), slab) != cached.end(); });
  host.open(1, prompt(150, true));
  for (const int table : {0, 2}) {
    for (int i = 0; i < 2 * per_page[table]; i++) {
      const int slab = tables[static_cast<size_t>(table)][static_cast<size_t>(i)];
      host.plan.add(Section::maps, {1, table, slab});
      host.progress(1).tables[static_cast<size_t>(table)].push_back(slab);
    }
  }
  host.progress(1).computed = 128;
  host.prefill(1, 1000);
  const StepOutput second = host.step();
  CHECK(second.logits.at(1) == first.logits.at(0), "a prefix hit gives other logits");
  CHECK(second.selections.at(0).bitmap == first.selections.at(0).bitmap);
}

// A whole prompt is cached: its last page is copied, so that the last row can be computed and sampled again.
void check_copied_page(const std::string &directory) {
  HostOptions options = small_host();
  options.schedule.layers.clear();
  Host host(directory, options);
  host.open(0, prompt(128, false));
  host.prefill(0, 128);
  const StepOutput first = host.step();
  const std::vector<int> cached = host.progress(0).tables[0];
  for (const int slab : cached) host.plan.add(Section::retains, {slab});
  host.step();
  host.open(1, prompt(128, false));
  for (const int slab : cached) host.plan.add(Section::maps, {1, 0, slab});
  host.plan.add(Section::items, {1, 127, 1, 0, 0});
  CHECK(host.try_step().error.find("items[0]: rows 127 to 128 of table 0 would write slab 1, which 2 tables hold") != std::string::npos);
  const int target = host.free.back();
  host.plan.add(Section::maps, {1, 0, cached[0]});
  host.plan.add(Section::grants, {1, 0, target});
  host.plan.add(Section::copies, {cached[1], target});
  host.plan.add(Section::items, {1, 127, 1, 0, 0});
  host.plan.add(Section::samples, {0, 1});
  CHECK(host.step().logits.at(1) == first.logits.at(0));
  // Slabs return to the pool only when table and cache have both let go.
  host.plan.add(Section::grants, {1, 0, cached[0]});
  CHECK(host.try_step().error.find("has 3 references") != std::string::npos);
  CHECK(up_slot_close(host.runner(), 0) == UP_OK && up_slot_close(host.runner(), 1) == UP_OK);
  host.open(2, prompt(64, false));
  host.plan.add(Section::grants, {2, 0, cached[0]});
  CHECK(host.try_step().error.find("has 1 references, 62 of 64 slabs are free") != std::string::npos);
  host.plan.add(Section::drops, {cached[0]});
  host.plan.add(Section::grants, {2, 0, cached[0]});
  host.step();
}

}  // namespace

int main() {
  const TemporaryDirectory directory;
  write_model(directory, small_model());
  check_refusals(directory.path());
  check_row_limit(directory.path());
  check_decode_limits(directory.path());
  check_bytes(directory.path());
  check_random_damage(directory.path());
  check_prefix_sharing(directory.path());
  check_copied_page(directory.path());
  return check_result();
}
