// Two faults of the method's published implementation, on hybrids: each is planted, and found; then seen not to be here.
#include "check.h"
#include "planted_faults.h"

namespace {

using up::Section;

std::vector<Case> hybrids() {
  std::vector<Case> out = {cases::gemma(40, false), cases::gemma(90, true), cases::qwen(false, false), cases::hybrid()};
  for (Case &c : out) c.prompt = 420;
  return out;
}

// Two prompts by turns, a chunk each a step; the traces of both.
std::vector<Trace> serve_by_turns(Equality &e, const HostOptions &options, const std::vector<SlotSpec> &specs, int chunk) {
  Host host(e.model, options);
  std::vector<Trace> traces(specs.size());
  const auto slots = static_cast<int>(specs.size());
  for (int slot = 0; slot < slots; slot++) host.open(slot, specs[static_cast<size_t>(slot)]);
  for (int turn = 0; turn < slots * 60; turn++) {
    const int slot = turn % slots;
    Trace &trace = traces[static_cast<size_t>(slot)];
    if (static_cast<int>(trace.tokens.size()) == 4) continue;
    if (host.progress(slot).prefilled) decode(host, slot);
    else host.prefill(slot, chunk, 0);
    record(trace, host.step(), slot);
    host.leave(slot);
    if (host.progress(slot).prefilled && static_cast<int>(trace.tokens.size()) == 4) host.close(slot);
  }
  return traces;
}

std::string difference_by_turns(Equality &e, const HostOptions &options) {
  const std::vector<SlotSpec> specs = {e.request, e.drawn(e.tokens(350), true)};
  const std::vector<Trace> traces = serve_by_turns(e, options, specs, 64);
  for (size_t i = 0; i < specs.size(); i++) {
    Host alone(e.model, options);
    const std::string found = difference(serve(alone, 0, specs[i], 4), traces[i]);
    if (!found.empty()) return up::text("prompt ", i, ": ", found);
  }
  return "";
}

// Fault 2: in layers behind a selection a later chunk of a prompt is written over the earlier ones.
void check_later_chunk_overwrites_earlier_ones(const Case &c) {
  Equality e(c);
  const std::string found = difference_by_turns(e, c.host);
  CHECK(found.empty(), "%s", found.c_str());
  HostOptions faulty = c.host;
  faulty.wrap = wrapped_in<faults::ChunksOverwritten>();
  CHECK(!difference_by_turns(e, faulty).empty(), "planted, and not found: %s", c.name.c_str());
}

// Fault 5: pages of a sliding window are given back by positions in the prompt, while kept rows lie in them.
void check_windows_given_back_by_position(Case c) {
  const bool has_windows = std::any_of(c.model.layers.begin(), c.model.layers.end(), [](const auto &layer) { return layer.mixer == up::Mixer::sliding; });
  if (!has_windows || c.host.schedule.window_by_original) return;
  c.host.schedule.p = 0.2;
  // Just enough slabs: what one request gives back the other takes at once, and what is still needed is overwritten.
  Equality e(c);
  const std::vector<SlotSpec> specs = {e.request, e.drawn(e.tokens(350), true)};
  HostOptions tight = c.host;
  tight.shuffled = false;
  const auto fits = [&](int slabs) {
    tight.slabs = slabs;
    Host host(e.model, tight);
    int least = slabs;
    host.open(0, specs[0]);
    while (!host.progress(0).prefilled) {
      host.prefill(0, 64, 0);
      host.step();
      least = std::min(least, static_cast<int>(host.free.size()));
    }
    return slabs - least;
  };
  tight.slabs = 2 * fits(4096) + 8;
  const std::vector<Trace> traces = serve_by_turns(e, tight, specs, 64);
  for (size_t i = 0; i < specs.size(); i++) {
    Host alone(e.model, c.host);
    const std::string found = difference(serve(alone, 0, specs[i], 4), traces[i]);
    CHECK(found.empty(), "prompt %zu: %s", i, found.c_str());
  }

  // A plan that gives pages back by position is refused: as a decode row still sees them, and as the next chunk does.
  for (const bool decodes : {true, false}) {
    Host host(e.model, c.host);
    host.open(0, e.request);
    host.prefill(0, 1000, decodes ? 64 : 0);
    host.step();
    const up::Table *window = nullptr;
    int t = -1;
    for (int i = 0; i < static_cast<int>(host.layout.tables.size()); i++) {
      if (host.layout.table(i).kind == up::TableKind::sliding && host.layout.table(i).segment == 1) window = &host.layout.table(t = i);
    }
    Progress &p = host.progress(0);
    const int page = c.host.page_size;
    if (!decodes) {
      host.prefill(0, 2 * page, 0);
      host.step();
    }
    const int row = p.next_row(1);
    const int by_rows = p.first_visible(1, row, window->window, false) / page;
    const int by_position = std::max(0, p.position(1, row) - window->window + 1) / page;
    CHECK(by_rows < by_position && row > 0, "%s: row %d at %d", c.name.c_str(), row, p.position(1, row));
    if (decodes) host.join(0);
    else host.prefill(0, page, 0);
    const int given = host.progress(0).pages(t).freed;
    auto &frees = host.plan[Section::window_frees];
    const int held = static_cast<int>(p.pages(t).slabs.size()) / window->slabs_per_page;
    const int wrong = std::min(by_position, held - 1);
    CHECK(wrong > by_rows);
    frees.insert(frees.end(), {0, t, wrong - given});
    const StepOutput out = host.try_step();
    const std::string expected = up::text("row ", p.first_visible(1, row, window->window, false), " of table ", t, " of slot 0 is in page ", by_rows);
    CHECK(out.status == UP_INVALID_PLAN && out.error.find(expected) != std::string::npos, "expected \"%s\", got \"%s\"",
          expected.c_str(), out.error.c_str());
  }
}

}  // namespace

int main() {
  for (const Case &c : hybrids()) {
    check_later_chunk_overwrites_earlier_ones(c);
    check_windows_given_back_by_position(c);
  }
  return check_result();
}
