// Slots that go on from what another one has computed: which may, what plans may do with the pages that they share, and that nothing
// of them is left behind. That forks yield the bits of slots of their own is among the equalities.
#include <functional>

#include "check.h"
#include "malformed_plans.h"

namespace {

constexpr int prompt_rows = 100;

void check_refused(const StepOutput &out, const std::string &expected) {
  CHECK(out.status == UP_INVALID_PLAN && out.error.find(expected) != std::string::npos, "expected \"%s\", got \"%s\"", expected.c_str(),
        out.error.c_str());
}

// Who cannot go on from slot 0's prefill.
void check_targets(const TestModel &model, const HostOptions &options) {
  const SlotSpec source = counted_prompt(prompt_rows, true);
  Host host(model, options);
  const auto refused = [&](const std::string &expected, const SlotSpec &spec, const std::function<void()> &prepare) {
    host.open(0, source);
    host.open(1, spec);
    prepare();
    host.prefill(0, 1000);
    host.adopt(0, 1);
    check_refused(host.try_step(), "slot 1 cannot go on from slot 0: it " + expected);
  };
  const auto nothing = [] {};
  SlotSpec other = source;
  other.tokens[99] ^= 1;
  refused("holds other tokens", other, nothing);
  SlotSpec longer = source;
  longer.prompt_length = 99;
  refused("holds other tokens", longer, nothing);
  refused("drops otherwise", counted_prompt(prompt_rows, false), nothing);
  SlotSpec decided = source;
  decided.bitmaps = {{0b01}};
  refused("brings other selections", decided, nothing);
  refused("has pages of its own", source, [&] { host.grow(1, 1, 1); });
  refused("has an item", source, [&] { host.prefill(1, 64); });
  refused("has rows of its own", source, [&] {
    host.prefill(1, 64);
    host.step();
  });
  // It has gone on from another one before.
  host.open(0, source);
  host.open(1, source);
  host.open(2, source);
  host.prefill(0, 1000);
  host.adopt(0, 1);
  host.step();
  host.prefill(2, 1000);
  host.adopt(2, 1);
  check_refused(host.try_step(), "slot 1 cannot go on from slot 2: it has rows of its own");
}

// Slots 0 and 1 have one prefill between them.
void begin(Host &host) {
  host.open(0, counted_prompt(prompt_rows, true));
  host.open(1, counted_prompt(prompt_rows, true));
  host.prefill(0, 1000);
  host.adopt(0, 1);
  host.step();
}

void map_pages(Host &host, int table, int pages) {
  for (int i = 0; i < pages * host.layout.table(table).slabs_per_page; i++) {
    host.plan.add(Section::maps, {1, table, host.progress(0).pages(table).slabs[static_cast<size_t>(i)]});
  }
}

// A partial page is shared where a copy is due: neither of the two may write it.
void check_sharing(const TestModel &model, const HostOptions &options) {
  Host host(model, options);
  for (const int joined : {0, 1}) {
    begin(host);
    for (const int table : {0, 1}) map_pages(host, table, 2);
    host.plan.add(Section::joins, {joined, -1});
    const int slab = host.progress(0).pages(0).slabs[static_cast<size_t>(host.layout.table(0).slabs_per_page)];
    check_refused(host.try_step(), up::text("decode set[0]: rows 100 to 101 of table 0 of slot ", joined, " would write slab ", slab,
                                            ", which 2 tables hold"));
  }
  // Without pages, and with too few.
  begin(host);
  host.plan.add(Section::joins, {1, -1});
  check_refused(host.try_step(), "decode set[0]: rows 100 to 101 of table 0 of slot 1, which has room for 0");
  begin(host);
  map_pages(host, 0, 1);
  host.plan.add(Section::joins, {1, -1});
  check_refused(host.try_step(), "decode set[0]: rows 100 to 101 of table 0 of slot 1, which has room for 64");
  // The carry of a decode row goes where its table reaches, and only to a page of the slot's own.
  begin(host);
  for (const int table : {0, 1}) host.share_table(0, 1, table, host.progress(0).rows_of(table));
  map_pages(host, host.layout.segment(0).carry, 2);
  host.plan.add(Section::joins, {1, -1});
  check_refused(host.try_step(), "decode set[0]: rows 100 to 101 of table 2 of slot 1 would write slab");
  // Pages once mapped, there are no others to come.
  begin(host);
  map_pages(host, 0, 1);
  host.step();
  map_pages(host, 1, 1);
  check_refused(host.try_step(), "maps[0]: slot 1 has pages already");
}

// What the first slot held stays with the second, and is free once that one goes too.
void check_ends(const TestModel &model, const HostOptions &options) {
  Host host(model, options);
  begin(host);
  host.share(0, 1);
  host.join(1);
  host.step();
  const int shared = host.progress(0).pages(0).slabs[0];
  host.close(0);
  host.grow_decode(1);
  CHECK(host.step().tokens.size() == 1);
  host.open(2, counted_prompt(prompt_rows, true));
  host.plan.add(Section::grants, {2, 0, shared});
  check_refused(host.try_step(), up::text("slab ", shared, " is not free: it has 1 references"));
  begin(host);
  host.share(0, 1);
  host.join(1);
  host.step();
  for (const int slot : {0, 1}) host.close(slot);
  CHECK(static_cast<int>(host.free.size()) == options.slabs);
  host.open(2, counted_prompt(prompt_rows, true));
  std::swap(host.free.back(), *std::find(host.free.begin(), host.free.end(), shared));
  host.prefill(2, 1000);
  CHECK(host.step().tokens.size() == 1);
}

// Forks of one item each draw a token of their own from the same logits, in whatever order their samples come.
void check_draws(const TestModel &model, const HostOptions &options) {
  Host host(model, options);
  std::vector<SlotSpec> specs;
  for (int k = 0; k < 5; k++) {
    specs.push_back(counted_prompt(prompt_rows, true));
    specs.back().sampling.temperature = 20;
    specs.back().sampling.seed = static_cast<uint64_t>(k) + 1;
    specs.back().sampling.logprobs = k - 1;
  }
  std::vector<int32_t> alone;
  for (const SlotSpec &spec : specs) {
    host.open(0, spec);
    host.prefill(0, 1000);
    alone.push_back(host.step().tokens.at(0));
    host.close(0);
  }
  for (int k = 0; k < 5; k++) host.open(k, specs[static_cast<size_t>(k)]);
  host.prefill(2, 1000);
  host.plan[Section::samples] = {0, 4, 0, 1, 0, 2, 0, 0, 0, 3};
  const StepOutput out = host.step();
  CHECK(out.tokens.size() == 5 && out.selections.size() == 1 && out.selections[0].slot == 2);
  for (int k = 0; k < 5; k++) {
    CHECK(out.tokens.at(k) == alone[static_cast<size_t>(k)], "fork %d", k);
    CHECK(out.logits.at(k) == out.logits.at(0));
    CHECK(out.logprobs.contains(k) == (k > 0) && (k == 0 || out.logprobs.at(k).size() == static_cast<size_t>(k)));
  }
  CHECK(std::set<int32_t>(alone.begin(), alone.end()).size() > 1, "every seed drew the same");
}

}  // namespace

int main() {
  const TestModel model(small_model(llama_layers(3, 2, 1, 16)));
  const HostOptions options = small_host({1});
  check_targets(model, options);
  check_sharing(model, options);
  check_ends(model, options);
  check_draws(model, options);
  return check_result();
}
