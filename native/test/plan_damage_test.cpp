// Plans whose words are changed at random, their checksum mended: refused or carried out, and never more than that.
#include "check.h"
#include "malformed_plans.h"

namespace {

// A plan with every section, written on a host that stands at the world's beginning. Slot 3 hits the prefix that slot 1 has computed;
// slot 4 goes on from slot 0, and both decode; slot 2 leaves, is closed, and opened again.
PlanWriter busy_plan(Host &host) {
  host.plan.add(Section::evictions, {host.progress(0).pages(0).slabs[0]});
  const Prefix prefix = host.cache(1, 128);
  host.hit(3, prefix);
  host.prefill(3, 1000);
  host.share(0, 4);
  host.join(0);
  host.join(4);
  host.prefill(1, 1000, 0);
  host.close(2);
  host.open(2, counted_prompt(60, false));
  host.prefill(2, 60);
  host.plan.add(Section::trims, {1, 0, 2});
  return std::exchange(host.plan, {});
}

// Slot 0 has been prefilled, and slot 4 has adopted it; slot 1 has 128 rows, slot 2 decodes; one of slot 0's slabs is cached.
void begin(Host &host) {
  host.open(2, counted_prompt(10, false));
  host.open(0, counted_prompt(200, true));
  host.open(4, counted_prompt(200, true));
  host.open(1, counted_prompt(200, true));
  host.prefill(1, 128);
  host.prefill(2, 10);
  host.prefill(0, 1000);
  host.adopt(0, 4);
  host.step();
  host.plan.add(Section::retains, {host.progress(0).pages(0).slabs[0]});
  host.join(2);
  host.open(3, counted_prompt(200, true));
  host.step();
}

int32_t spoiled(Dice &dice, int32_t word) {
  switch (dice.between(0, 4)) {
    case 0: return word + dice.pick({-1, 1});
    case 1: return dice.between(-1, 7);
    case 2: return dice.between(0, 100);
    case 3: return dice.pick({INT32_MAX, INT32_MIN, 1 << 16, -64});
    default: return word ^ 1 << dice.between(0, 31);
  }
}

void sign(std::vector<int32_t> &words) { words.back() = static_cast<int32_t>(up::checksum_words({words.data(), words.size() - 1})); }

void check_damage(const PlanWorld &world, int rounds) {
  Dice dice(42);
  Host host(*world.model, world.options);
  StepOutput expected;
  int refused = 0;
  int carried_out = 0;
  for (int round = 0; round < rounds; round++) {
    begin(host);
    PlanWriter plan = busy_plan(host);
    std::vector<int32_t> words = plan.words(host.next_step);
    if (round == 0) {
      for (int id = 1; id <= up::last_section; id++) {
        CHECK(!plan.sections[id].empty(), "the plan has no %s", std::string(up::section_name(static_cast<Section>(id))).c_str());
      }
    }
    // Every fourth plan is whole: what was damaged before has left no trace.
    const int changes = round % 4 == 0 ? 0 : dice.between(1, 3);
    for (int i = 0; i < changes; i++) {
      int32_t &word = words[static_cast<size_t>(dice.between(5, static_cast<int>(words.size()) - 2))];
      word = spoiled(dice, word);
    }
    sign(words);
    const StepOutput out = host.try_words(words);
    if (changes == 0) {
      CHECK(out.status == UP_OK, "round %d: %s", round, out.error.c_str());
      if (round == 0) expected = out;
      CHECK(out.tokens == expected.tokens && out.logits == expected.logits, "round %d differs", round);
    } else {
      CHECK(out.status == UP_OK || out.status == UP_INVALID_PLAN, "round %d: %s", round, up_status_name(out.status));
      (out.status == UP_OK ? carried_out : refused)++;
    }
    if (out.status == UP_OK) host.try_words({0});
  }
  CHECK(refused >= rounds / 2, "only %d of %d plans were refused, %d carried out", refused, rounds, carried_out);
}

// Words of any kind behind a header that is sound, or bytes cut anywhere.
void check_noise(const PlanWorld &world) {
  Dice dice(7);
  Host host(*world.model, world.options);
  begin(host);
  PlanWriter plan = busy_plan(host);
  const std::vector<int32_t> whole = plan.words(1);
  for (int round = 0; round < 2000; round++) {
    std::vector<int32_t> words = {0x4c505055, 2, 1, 0, 0, dice.between(0, 15)};
    if (round % 2 == 0) words.assign(whole.begin(), whole.begin() + dice.between(0, static_cast<int>(whole.size()) - 1));
    else for (int i = dice.between(0, 60); i > 0; i--) words.push_back(dice.chance(3) ? spoiled(dice, 0) : dice.between(0, 14));
    words.push_back(0);
    if (!dice.chance(10)) sign(words);
    const StepOutput out = host.try_words(words);
    CHECK(out.status == UP_INVALID_PLAN, "round %d: %s", round, up_status_name(out.status));
  }
}

}  // namespace

int main() {
  const PlanWorld world = hybrid_world();
  check_damage(world, is_sanitized ? 100 : 400);
  check_noise(world);
  return check_result();
}
