// Slots that share what one of them has computed: forks of one prefill, and prefix hits on pages with generated tokens. Each
// gives the bits of a slot that computes everything on its own; plans that would let one write what another reads are
// refused.
#include <functional>
#include <random>

#include "check.h"
#include "random_model.h"
#include "runner_host.h"

namespace {

using up::Section;

// What a slot yields: the tokens, the logits behind them, and what was selected.
struct Trace {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;
  std::vector<std::vector<uint32_t>> bitmaps;

  bool operator==(const Trace &) const = default;
};

void record(Trace &trace, const StepOutput &out, int slot) {
  for (const auto &selection : out.selections) {
    if (selection.slot == slot) trace.bitmaps.push_back(selection.bitmap);
  }
  if (!out.tokens.contains(slot)) return;
  trace.tokens.push_back(out.tokens.at(slot));
  trace.logits.push_back(out.logits.at(slot));
}

SlotSpec drawn(const std::vector<int32_t> &tokens, bool drops, uint64_t seed) {
  SlotSpec spec{tokens, static_cast<int>(tokens.size()), drops, {}};
  spec.sampling.temperature = 20;  // the models' logits lie far apart
  spec.sampling.seed = seed;
  return spec;
}

// Prefills a slot in chunks of `chunk` rows and decodes; closes it.
Trace alone(Host &host, int slot, const SlotSpec &spec, int chunk, int outputs) {
  Trace trace;
  host.open(slot, spec);
  while (!host.progress(slot).prefilled) {
    host.prefill(slot, chunk);
    record(trace, host.step(), slot);
  }
  for (int i = 1; i < outputs; i++) {
    if (i == 1) host.join(slot);
    else host.grow_decode(slot);
    record(trace, host.step(), slot);
  }
  host.close(slot);
  return trace;
}

RandomModel model_of(uint64_t seed) {
  RandomModel model;
  model.seed = seed;
  model.layers = 4;
  model.hidden = seed % 2 == 0 ? 64 : 40;
  model.kv_heads = seed % 2 == 0 ? 2 : 1;
  model.heads = 2;
  model.head_dim = seed % 2 == 0 ? 32 : 16;
  model.vocab = 96;
  return model;
}

HostOptions host_options(std::vector<int32_t> drop_layers) {
  HostOptions options;
  options.schedule.layers = std::move(drop_layers);
  options.schedule.sink = 64;
  options.schedule.last_q = 33;
  options.slabs = 600;
  options.slots = 5;
  options.threads = 1;
  return options;
}

std::vector<int32_t> random_tokens(std::mt19937_64 &random, int count) {
  std::vector<int32_t> out;
  for (int i = 0; i < count; i++) out.push_back(static_cast<int32_t>(random() % 96));
  return out;
}

// `forks` slots go on from one prefill, one of them is closed on the way, and each equals a slot of its own.
void check_forks(uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto between = [&](int low, int high) { return low + static_cast<int>(random() % static_cast<uint64_t>(high - low + 1)); };
  const TemporaryDirectory directory;
  write_model(directory, model_of(seed));
  const bool drops = seed % 3 != 0;
  HostOptions options = host_options(seed % 2 == 0 ? std::vector<int32_t>{0, 2} : std::vector<int32_t>{1});
  options.page_size = seed % 4 == 0 ? 128 : 64;
  Host host(directory.path(), options);
  const int lengths[] = {128, 300, 1, 256, 64, 333, 640, 63};
  const std::vector<int32_t> prompt = random_tokens(random, lengths[seed % std::size(lengths)]);
  const int forks = between(2, 4);
  const int outputs = between(5, 9);
  const int closed = between(0, forks - 1);
  const int closed_after = between(2, outputs - 1);
  const int chunk = between(40, 400);

  std::vector<Trace> traces(static_cast<size_t>(forks));
  std::vector<SlotSpec> specs;
  for (int k = 0; k < forks; k++) {
    specs.push_back(drawn(prompt, drops, seed * 100 + static_cast<uint64_t>(k)));
    host.open(k, specs.back());
  }
  const auto run = [&](int from) {
    const StepOutput out = host.step();
    for (int k = from; k < forks; k++) record(traces[static_cast<size_t>(k)], out, k);
  };
  while (!host.progress(0).prefilled) {
    host.prefill(0, chunk);
    if (host.progress(0).prefilled) {
      for (int k = 1; k < forks; k++) host.adopt(0, k);
    }
    run(0);
  }
  for (int k = 1; k < forks; k++) host.share(0, k);
  for (int k = 0; k < forks; k++) host.join(k);
  run(0);
  for (int i = 2; i < outputs; i++) {
    if (i == closed_after) host.close(closed);
    for (int k = 0; k < forks; k++) {
      if (k != closed || i < closed_after) host.grow_decode(k);
    }
    run(0);
  }
  for (int k = 0; k < forks; k++) {
    if (k != closed || closed_after >= outputs) host.close(k);
  }
  CHECK(static_cast<int>(host.free.size()) == options.slabs, "%zu of %d slabs are free", host.free.size(), options.slabs);

  CHECK(traces[0].tokens != traces[1].tokens, "seed %lu: two seeds drew the same", static_cast<unsigned long>(seed));
  for (int k = 0; k < forks; k++) {
    const int count = k == closed ? closed_after : outputs;
    Trace own = alone(host, k, specs[static_cast<size_t>(k)], chunk + 7, count);
    // Selections are made once, for the slot that prefills.
    if (k > 0) own.bitmaps.clear();
    CHECK(traces[static_cast<size_t>(k)] == own, "seed %lu: fork %d of %d differs from a slot of its own (prompt %zu, %s)",
          static_cast<unsigned long>(seed), k, forks, prompt.size(), drops ? "drops" : "dense");
  }
}

// Pages that decoding filled, in the prefix cache: K/V and carry of segment 0, or every table of a slot that does not drop.
void check_generated_pages(uint64_t seed, bool drops, int tail) {
  std::mt19937_64 random(seed);
  const TemporaryDirectory directory;
  write_model(directory, model_of(seed));
  Host host(directory.path(), host_options({1}));
  const up::Segment &first = host.layout.segments[0];
  const std::vector<int32_t> prompt = random_tokens(random, 150);

  // Rows 150 … 330 are decoded: pages 0 and 1 hold the prompt alone, 2 both, 3 and 4 generated tokens alone.
  Trace source;
  host.open(0, drawn(prompt, drops, seed));
  host.prefill(0, 1000);
  record(source, host.step(), 0);
  for (int i = 0; i < 181; i++) {
    if (i == 0) host.join(0);
    else host.grow_decode(0);
    if (drops) host.grow(0, first.carry, host.progress(0).rows_of(0) + host.progress(0).decoded);
    record(source, host.step(), 0);
  }
  for (const int table : drops ? std::vector<int>{first.full, first.carry} : std::vector<int>{0, 1}) host.retain(0, table, 5);
  host.plan.add(Section::leaves, {0});
  host.step();

  std::vector<int32_t> longer = prompt;
  longer.insert(longer.end(), source.tokens.begin(), source.tokens.begin() + (320 - 150));
  const std::vector<int32_t> more = random_tokens(random, tail);
  longer.insert(longer.end(), more.begin(), more.end());
  const SlotSpec spec = drawn(longer, drops, seed + 1);
  host.open(1, spec);
  for (const int table : drops ? std::vector<int>{first.full, first.carry} : std::vector<int>{0, 1}) host.map(0, 1, table, 5);
  host.close(0);
  Trace hit;
  host.progress(1).computed = 320;
  host.prefill(1, 1000);
  record(hit, host.step(), 1);
  for (int i = 1; i < 4; i++) {
    if (i == 1) host.join(1);
    else host.grow_decode(1);
    record(hit, host.step(), 1);
  }
  CHECK(hit == alone(host, 2, spec, 190, 4), "seed %lu, %s: a hit on generated tokens gives other bits",
        static_cast<unsigned long>(seed), drops ? "drops" : "dense");
}

// Slot 0 has 100 rows and a token, slot 1 goes on from it, slot 2 is free.
void begin(Host &host, const std::vector<int32_t> &prompt) {
  host.open(0, drawn(prompt, true, 5));
  host.open(1, drawn(prompt, true, 6));
  host.prefill(0, 1000);
  host.adopt(0, 1);
  host.step();
}

void check_refusals() {
  const TemporaryDirectory directory;
  write_model(directory, model_of(1));
  HostOptions options = host_options({1});
  options.shuffled = false;
  std::mt19937_64 random(3);
  const std::vector<int32_t> prompt = random_tokens(random, 100);

  // What a target must be.
  const auto refused_target = [&](const char *expected, const SlotSpec &spec, const std::function<void(Host &)> &prepare) {
    Host host(directory.path(), options);
    host.open(0, drawn(prompt, true, 5));
    host.open(1, spec);
    prepare(host);
    host.prefill(0, 1000);
    host.adopt(0, 1);
    const StepOutput out = host.try_step();
    CHECK(out.status == UP_INVALID_PLAN && out.error.find(expected) != std::string::npos, "expected \"%s\", got \"%s\"",
          expected, out.error.c_str());
  };
  const auto nothing = [](Host &) {};
  const std::string it = "slot 1 cannot go on from slot 0: it ";
  std::vector<int32_t> other = prompt;
  other[99] ^= 1;
  refused_target(("samples[1]: " + it + "holds other tokens").c_str(), drawn(other, true, 6), nothing);
  SlotSpec resumed = drawn(prompt, true, 6);
  resumed.prompt_length = 99;
  refused_target((it + "holds other tokens").c_str(), resumed, nothing);
  refused_target((it + "drops otherwise").c_str(), drawn(prompt, false, 6), nothing);
  SlotSpec decided = drawn(prompt, true, 6);
  decided.bitmaps = {{0b01}};
  refused_target((it + "brings other selections").c_str(), decided, nothing);
  refused_target((it + "has pages of its own").c_str(), drawn(prompt, true, 6), [](Host &h) { h.grow(1, 0, 1); });
  refused_target("slot 1 cannot go on from slot 0: it has an item", drawn(prompt, true, 6), [](Host &h) {
    h.prefill(1, 64);
  });

  // The partial page is shared where a copy is due: neither of the two may write it, and nothing has changed.
  Host host(directory.path(), options);
  begin(host, prompt);
  const auto progress = host.progress(1);
  const int full[] = {host.layout.segments[0].full, host.layout.segments[1].full};
  for (const int joined : {0, 1}) {
    for (const int table : full) host.map(0, 1, table, 2);
    host.plan.add(Section::joins, {joined, -1});
    const int slab = host.progress(0).tables[0][static_cast<size_t>(host.layout.tables[0].slabs_per_page)];
    const StepOutput out = host.try_step();
    const std::string expected = "decode set[0]: slot " + std::to_string(joined) + ": K/V row 100 of segment 0 would write slab " +
                                 std::to_string(slab) + ", which 2 tables hold";
    CHECK(out.error.find(expected) != std::string::npos, "expected \"%s\", got \"%s\"", expected.c_str(), out.error.c_str());
    host.progress(1) = progress;
  }
  // Without pages, and with too few.
  host.plan.add(Section::joins, {1, -1});
  CHECK(host.try_step().error.find("decode set[0]: slot 1: row 100 of segment 0 has no page, its table has room for 0 rows") !=
        std::string::npos);
  host.map(0, 1, 0, 1);
  CHECK(host.try_step().error.find("maps[0]: table 0 of slot 1 is left with room for 64 rows, 100 are still needed") !=
        std::string::npos);
  host.progress(1) = progress;
  // A copy undone with its plan leaves no trace.
  const auto free = host.free;
  host.share(0, 1);
  host.plan.add(Section::joins, {1, 96});
  CHECK(host.try_step().error.find("joins[0]: token 96") != std::string::npos);
  host.free = free;
  host.progress(1) = progress;

  // The carry of a decode row goes where its table reaches, and only to a page of the slot's own.
  const int carry = host.layout.segments[0].carry;
  host.share(0, 1);
  host.map(0, 1, carry, 2);
  host.plan.add(Section::joins, {1, -1});
  CHECK(host.try_step().error.find("decode set[0]: slot 1: carry row 100 of segment 0 would write slab") != std::string::npos);
  host.free = free;
  host.progress(1) = progress;
  host.share(0, 1);
  host.join(1);
  host.step();

  // What the first slot held stays with the second, and is free once that one goes too.
  const int shared = host.progress(0).tables[0][0];
  host.close(0);
  host.open(2, drawn(prompt, true, 7));
  host.plan.add(Section::grants, {2, 0, shared});
  CHECK(host.try_step().error.find("is not free: it has 1 references") != std::string::npos);
  host.plan.add(Section::maps, {1, 0, shared});
  CHECK(host.try_step().error.find("maps[0]: slot 1 has computed 100 rows, 1 decoded") != std::string::npos);
  host.close(1);
  CHECK(static_cast<int>(host.free.size()) == options.slabs);
  host.free.erase(std::find(host.free.begin(), host.free.end(), shared));
  host.free.push_back(shared);
  host.prefill(2, 1000);
  host.step();
}

}  // namespace

int main() {
  for (uint64_t seed = 1; seed <= 24; seed++) check_forks(seed);
  for (const bool drops : {true, false}) {
    check_generated_pages(1, drops, 70);
    check_generated_pages(2, drops, 1);
  }
  // Every row of the prompt is cached: the item only selects and goes on.
  check_generated_pages(3, true, 0);
  check_refusals();
  return check_result();
}
