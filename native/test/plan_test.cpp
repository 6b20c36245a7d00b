// Plans that do not hold together: each is refused with its section and record named; the runner is empty then, and the same
// requests give the same bits again.
#include <cstring>

#include "check.h"
#include "malformed_plans.h"

namespace {

bool same(const StepOutput &a, const StepOutput &b) {
  return a.status == UP_OK && b.status == UP_OK && a.tokens == b.tokens && a.logits == b.logits &&
         a.selections.size() == b.selections.size();
}

// Has the runner forget everything.
void empty(Host &host) { CHECK(host.try_words({1, 2, 3}).status == UP_INVALID_PLAN); }

void check_refused(const StepOutput &out, const std::string &expected) {
  CHECK(out.status == UP_INVALID_PLAN, "%s: status %s", expected.c_str(), up_status_name(out.status));
  CHECK(out.error.find(expected) != std::string::npos, "expected \"%s\", got \"%s\"", expected.c_str(), out.error.c_str());
}

void check_refusals(const PlanWorld &world) {
  Host untouched(*world.model, world.options);
  world.begin(untouched);
  const StepOutput expected = world.finish(untouched);
  CHECK(expected.tokens.size() == 3);
  Host host(*world.model, world.options);
  for (const PlanFault &fault : world.faults) {
    world.begin(host);
    host.grow_decode(0);
    const std::string refusal = fault.plant(host);
    const StepOutput out = host.try_step();
    check_refused(out, refusal);
    if (out.status == UP_OK) empty(host);
    // Were anything left, its slots could not be opened, or its slabs not be granted.
    world.begin(host);
    CHECK(same(world.finish(host), expected), "%s: what comes after differs", refusal.c_str());
    empty(host);
  }
}

// Rows of every segment of the step count, the later ones of a prompt at their upper bound.
void check_row_limit(const PlanWorld &world) {
  HostOptions options = world.options;
  options.max_rows = 100;
  Host host(*world.model, options);
  host.open(2, counted_prompt(200, false));
  host.prefill(2, 200);
  check_refused(host.try_step(),
                "items[0]: brings segment 0 of the step to 200 rows, 0 of them decode rows; a step has at most 100");
  host.open(0, counted_prompt(200, true));
  for (int i = 0; i < 2; i++) {
    host.prefill(0, 80);
    host.step();
  }
  host.open(1, counted_prompt(100, false));
  host.prefill(1, 100);
  host.step();
  host.join(1);
  host.prefill(0, 40);  // the last 40 rows of segment 0, then all that are kept of 200
  check_refused(host.try_step(),
                "items[0]: brings segment 1 of the step to 201 rows, 1 of them decode rows; a step has at most 100");
  HostOptions one = world.options;
  one.max_rows = 1;
  Host narrow(*world.model, one);
  for (const int slot : {0, 1}) {
    narrow.open(slot, counted_prompt(1, false));
    narrow.prefill(slot, 1);
    narrow.step();
  }
  for (const int slot : {0, 1}) narrow.join(slot);
  check_refused(narrow.try_step(), "the decode set has 2 members, a step has at most 1 rows");
}

// A slot at its last token, and one whose decode row has no page.
void check_decode_limits(const PlanWorld &world) {
  Host host(*world.model, world.options);
  host.open(0, counted_prompt(128, false));
  host.prefill(0, 128);
  host.step();
  host.plan.add(Section::joins, {0, -1});
  check_refused(host.try_step(), "decode set[0]: rows 128 to 129 of table 0 of slot 0, which has room for 128");
  host.open(0, counted_prompt(300, false));
  host.prefill(0, 300);
  host.step();
  host.join(0);
  check_refused(host.try_step(), "decode set[0]: slot 0 has 300 rows, a slot holds at most 300");
  // A token that nobody has sampled.
  host.open(0, counted_prompt(10, false));
  host.prefill(0, 10);
  host.plan[Section::samples].clear();
  host.step();
  host.join(0);
  check_refused(host.try_step(), "joins[0]: slot 0 has sampled no token to go on from");
}

void check_bytes(const PlanWorld &world) {
  Host host(*world.model, world.options);
  host.open(0, counted_prompt(10, false));
  host.prefill(0, 10);
  PlanWriter writer = std::exchange(host.plan, {});
  const std::vector<int32_t> good = writer.words(1);
  const auto refused = [&](std::vector<int32_t> words, bool sign, const char *expected) {
    if (sign) words.back() = static_cast<int32_t>(up::checksum_words({words.data(), words.size() - 1}));
    check_refused(host.try_words(words), expected);
  };
  const auto with = [&](size_t at, int32_t value) {
    std::vector<int32_t> words = good;
    words[at] = value;
    return words;
  };
  // 6 words of header; opens (4) at 6, grants (9) at 10.
  CHECK(good[5] == 4 && good[6] == 4 && good[7] == 2 && good[10] == 9);
  refused(with(0, 1), true, "magic is 1");
  refused(with(1, 1), true, "version is 1, this library reads 2");
  refused(with(2, 7), true, "stepId is 7, expected 1");
  refused(with(2, 0), true, "stepId is 0, expected 1");
  refused(with(3, 1), true, "stepId is 4294967297, expected 1");
  refused(with(4, 1), true, "word 4 is 1");
  refused(with(5, 5), true, "5 sections, the words of 4 are there");
  refused(with(5, INT32_MAX), true, "2147483647 sections, the words of 4 are there");
  refused(with(5, 3), true, "words after the last section");
  refused(with(5, -1), true, "words after the last section");
  refused(with(6, 23), true, "section 23 is not known to this library");
  refused(with(6, 0), true, "section 0 is not known");
  refused(with(6, -4), true, "section -4 is not known");
  refused(with(10, 2), true, "section leaves comes after section opens");
  refused(with(10, 4), true, "section opens comes after section opens");
  refused(with(7, 0), true, "section opens claims 0 integers");
  refused(with(7, -2), true, "section opens claims -2 integers");
  refused(with(7, INT32_MAX), true, "section opens claims 2147483647 integers");
  refused(with(7, 3), true, "section opens has 3 integers, records have 2");
  refused(with(good.size() - 1, good.back() + 1), false, "checksum is");
  refused({good.begin(), good.begin() + 6}, true, "6 words, a plan has from 7");
  std::vector<int32_t> longer = good;
  longer.push_back(0);
  refused(longer, true, "1 words after the last section");
  host.runner().enqueue(reinterpret_cast<const uint8_t *>(good.data()), good.size() * 4 - 1);
  try {
    host.runner().wait();
    CHECK(false, "a part of a word was read");
  } catch (const up::Failure &failure) {
    CHECK(failure.detail.find("is not a whole number of words") != std::string::npos, "%s", failure.detail.c_str());
  }
  // Bytes at an odd address are read as well; the content is still there, since no plan opened it.
  std::vector<uint8_t> shifted(good.size() * 4 + 1);
  std::memcpy(shifted.data() + 1, good.data(), good.size() * 4);
  host.runner().enqueue(shifted.data() + 1, good.size() * 4);
  CHECK(read_result(host.runner().wait()).tokens.size() == 1);
}

// Steps behind one that fails fail with it, the next has the failed one's number, and contents that no plan has opened stay.
void check_failures_behind(const PlanWorld &world) {
  Host host(*world.model, world.options);
  const auto opened = [&](int content) {
    host.plan.add(Section::opens, {0, content});
    for (const int table : {0, 1}) {
      const int slabs = host.layout.table(table).slabs_per_page;
      for (int i = 0; i < slabs; i++) host.plan.add(Section::grants, {0, table, 10 * table + i});
    }
    host.plan.add(Section::items, {0, 0, 10, 0, 1});
    host.plan.add(Section::samples, {0, 0});
  };
  const int first = host.put(counted_prompt(10, false));
  const int second = host.put(counted_prompt(10, false));
  opened(first);
  host.plan.add(Section::leaves, {0});
  host.enqueue();
  opened(second);
  host.enqueue();
  CHECK(host.in_flight() == 2);
  bool refused = false;
  try {
    host.runner().enqueue(reinterpret_cast<const uint8_t *>("plan"), 4);
  } catch (const up::Failure &failure) {
    refused = failure.status == UP_INVALID_ARGUMENT && failure.detail == "2 steps have not been waited for, at most 2 may";
  }
  CHECK(refused, "a third step was taken");
  check_refused(host.wait(), "leaves[0]: slot 0 is not open");
  check_refused(host.wait(), "leaves[0]: slot 0 is not open");
  CHECK(host.next_step == 1);
  opened(second);
  CHECK(host.step().tokens.size() == 1, "the content of a plan that was never applied is gone");
  refused = false;
  try {
    host.runner().wait();
  } catch (const up::Failure &failure) {
    refused = failure.status == UP_INVALID_ARGUMENT && failure.detail == "no step has been enqueued";
  }
  CHECK(refused, "there was something to wait for");
}

// Slabs return to the pool only when every table and the cache have let go.
void check_references(const PlanWorld &world) {
  Host host(*world.model, world.options);
  host.open(0, counted_prompt(150, true));
  while (host.progress(0).computed < 128) {
    host.prefill(0, 64, 0);
    host.step();
  }
  const Prefix prefix = host.cache(0, 128);
  host.open(1, counted_prompt(150, true));
  host.step();
  host.hit(1, prefix);
  host.step();
  const int slab = prefix.tables[0].slabs[0];
  const auto granted = [&] {
    host.plan.add(Section::grants, {2, 1, slab});
    return host.try_step();
  };
  const auto again = [&](int closed) {
    host.open(0, counted_prompt(150, true));
    host.prefill(0, 128, 0);
    host.step();
    const Prefix cached = host.cache(0, 128);
    host.open(1, counted_prompt(150, true));
    host.hit(1, cached);
    host.open(2, counted_prompt(10, false));
    host.step();
    CHECK(cached.tables[0].slabs[0] == slab);
    for (int slot = 0; slot < closed; slot++) host.plan.add(Section::closes, {slot});
  };
  host.open(2, counted_prompt(10, false));
  check_refused(granted(), "has 3 references");
  again(1);
  check_refused(granted(), "has 2 references");
  again(2);
  check_refused(granted(), "has 1 references");
  again(2);
  host.plan.add(Section::evictions, {slab});
  CHECK(granted().status == UP_OK);
}

}  // namespace

int main() {
  for (const PlanWorld &world : {llama_world(), hybrid_world()}) check_refusals(world);
  const PlanWorld world = llama_world();
  check_row_limit(world);
  check_decode_limits(world);
  check_bytes(world);
  check_failures_behind(world);
  check_references(world);
  return check_result();
}
