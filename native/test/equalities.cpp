#include "equalities.h"

#include <bit>
#include <cmath>

Equality::Equality(const Case &of)
    : c(of), model(of.model), dice(of.seed) {
  request = drawn(dice.tokens(c.prompt, c.model.vocab), drops());
}

SlotSpec Equality::drawn(const std::vector<int32_t> &tokens, bool drops) {
  SlotSpec out = prompt_of(tokens, drops);
  out.sampling.temperature = 8;  // the models' logits lie far apart
  out.sampling.seed = static_cast<uint64_t>(dice.between(0, 1 << 30));
  out.sampling.frequency_penalty = 1;
  return out;
}

const Trace &Equality::whole() {
  if (!whole_) {
    Host host(model, c.host);
    whole_ = serve(host, 0, request, c.outputs);
  }
  return *whole_;
}

namespace equalities {

std::string chunked(Equality &e) {
  Host host(e.model, e.c.host);
  return difference(e.whole(), serve(host, 0, e.request, e.c.outputs, e.dice.pace(1, 150, 0)));
}

std::string partly_fused(Equality &e) {
  Host host(e.model, e.c.host);
  return difference(e.whole(), serve(host, 0, e.request, e.c.outputs, e.dice.pace(40, 400, 2)));
}

std::string after_others(Equality &e) {
  HostOptions options = e.c.host;
  options.slots = 2;
  Host host(e.model, options);
  for (int i = 0; i < 3; i++)
    serve(host, i % 2, e.drawn(e.tokens(e.dice.between(60, 500)), i == 1 && e.drops()), 3, e.dice.pace(50, 300, 2));
  return difference(e.whole(), serve(host, 0, e.request, e.c.outputs));
}

std::string batched(Equality &e) {
  Host host(e.model, e.c.host);
  const SlotSpec second = e.drawn(e.tokens(e.dice.between(70, 400)), e.drops());
  const SlotSpec third = e.drawn(e.tokens(e.dice.between(70, 200)), false);
  const std::vector<SlotSpec> specs = {e.request, e.drawn(e.tokens(33), e.drops()), second, third};
  const int outputs[] = {e.c.outputs, 1 << 20, 3, 4};
  std::vector<Trace> traces(4);
  host.open(1, specs[1]);
  prefill_alone(host, 1, {}, traces[1]);
  for (const int slot : {3, 0, 2}) host.open(slot, specs[static_cast<size_t>(slot)]);
  const Pace pace = e.dice.pace(30, 130, 1);
  const auto is_done = [&](int slot) {
    return static_cast<int>(traces[static_cast<size_t>(slot)].tokens.size()) >= outputs[slot];
  };
  while (!is_done(0) || !is_done(2) || !is_done(3)) {
    decode(host, 1);
    for (const int slot : {2, 0, 3}) {
      if (is_done(slot)) host.leave(slot);
      else if (host.progress(slot).prefilled) decode(host, slot);
      else prefill(host, slot, pace);
    }
    const StepOutput out = host.step();
    for (int slot = 0; slot < 4; slot++) {
      if (!is_done(slot)) record(traces[static_cast<size_t>(slot)], out, slot);
    }
  }
  if (const std::string found = difference(e.whole(), traces[0]); !found.empty()) return found;
  for (const int slot : {1, 2, 3}) {
    const Trace &trace = traces[static_cast<size_t>(slot)];
    Host alone(e.model, e.c.host);
    const std::string found =
        difference(serve(alone, slot, specs[static_cast<size_t>(slot)], static_cast<int>(trace.tokens.size())), trace);
    if (!found.empty()) return up::text("the one beside it in slot ", slot, ": ", found);
  }
  return "";
}

std::string resumed(Equality &e) {
  const Trace &whole = e.whole();
  Host host(e.model, e.c.host);
  const size_t outputs = whole.tokens.size() / 2;
  const auto rest = [&](size_t selections, const Pace &pace) {
    const SlotSpec spec = ::resumed(e.request, whole, outputs, selections);
    return serve(host, 0, spec, e.c.outputs - static_cast<int>(outputs), pace);
  };
  const Trace expected = rest_of(whole, outputs);
  std::string found = difference(expected, rest(whole.bitmaps.size(), e.dice.pace(20, 200, 1)));
  // A selection that was not decided yet scores the prompt's last rows, not the output's.
  if (found.empty()) found = difference(expected, rest(whole.bitmaps.size() / 2, {}));
  return found;
}

std::string preempted(Equality &e) {
  Host host(e.model, e.c.host);
  Trace trace;
  SlotSpec spec = e.request;
  const Pace pace = e.dice.pace(30, 150, 1);
  int slot = 0;
  int preemptions = 0;
  host.open(slot, spec);
  while (static_cast<int>(trace.tokens.size()) < e.c.outputs) {
    if (host.progress(slot).prefilled) decode(host, slot);
    else prefill(host, slot, pace);
    const StepOutput out = host.step();
    Trace made;
    record(made, out, slot);
    trace.tokens.insert(trace.tokens.end(), made.tokens.begin(), made.tokens.end());
    trace.logits.insert(trace.logits.end(), made.logits.begin(), made.logits.end());
    if (preemptions == 4 || !e.dice.chance(3)) continue;
    preemptions++;
    spec.tokens.resize(static_cast<size_t>(spec.prompt_length));
    spec.tokens.insert(spec.tokens.end(), trace.tokens.begin(), trace.tokens.end());
    spec.bitmaps = host.progress(slot).bitmaps;
    host.close(slot);
    slot = (slot + 3) % e.c.host.slots;
    host.open(slot, spec);
  }
  trace.bitmaps = host.progress(slot).bitmaps;
  return difference(e.whole(), trace);
}

std::string prefix_hit(Equality &e) {
  Host host(e.model, e.c.host);
  const int page = e.c.host.page_size;
  const int most = (e.drops() ? e.c.prompt : e.c.prompt - 1) / page;
  if (most < 1) return "";
  const int rows = page * e.dice.between(1, most);
  std::vector<int32_t> other(e.request.tokens.begin(), e.request.tokens.begin() + rows);
  const std::vector<int32_t> tail = e.tokens(e.dice.between(1, 90));
  other.insert(other.end(), tail.begin(), tail.end());
  const SlotSpec source = e.drawn(other, e.drops());
  Trace ignored;
  host.open(0, source);
  while (host.progress(0).segment == 0 && host.progress(0).computed < rows) {
    host.prefill(0, std::min(rows - host.progress(0).computed, e.dice.between(40, 200)), 0);
    host.step();
  }
  const Prefix prefix = host.cache(0, rows);
  prefill_alone(host, 0, {}, ignored);
  decode_alone(host, 0, 2, ignored);
  if (e.dice.chance(2)) host.close(0);
  // Two of them at once.
  const SlotSpec sibling = e.drawn(other, e.drops());
  Trace hit, second;
  host.open(1, e.request);
  host.open(2, sibling);
  host.hit(1, prefix);
  host.hit(2, prefix);
  prefill_alone(host, 1, e.dice.pace(30, 200, 1), hit);
  prefill_alone(host, 2, {}, second);
  host.evict(prefix);
  decode_alone(host, 1, e.c.outputs, hit);
  decode_alone(host, 2, 3, second);
  if (const std::string found = difference(e.whole(), hit); !found.empty()) return up::text(rows, " rows hit: ", found);
  Host alone(e.model, e.c.host);
  const std::string found = difference(serve(alone, 0, sibling, 3), second);
  return found.empty() ? "" : up::text("its sibling, ", rows, " rows hit: ", found);
}

std::string generated_prefix_hit(Equality &e) {
  Host host(e.model, e.c.host);
  if (e.drops() && host.layout.has_states()) return "";
  if (e.c.host.prefill_p > 0) return "";  // decoded rows have read all keys
  const int page = e.c.host.page_size;
  const int prompt = e.dice.between(page / 2, page);
  const int rows = 2 * page;
  SlotSpec source = e.drawn(e.tokens(prompt), e.drops());
  Trace trace;
  host.open(0, source);
  prefill_alone(host, 0, {}, trace);
  for (int i = prompt; i < rows; i++) {
    decode(host, 0, true);
    record(trace, host.step(), 0);
  }
  const Prefix prefix = host.cache(0, rows);
  host.leave(0);
  host.step();
  std::vector<int32_t> longer = source.tokens;
  longer.insert(longer.end(), trace.tokens.begin(), trace.tokens.begin() + (rows - prompt));
  const std::vector<int32_t> tail = e.tokens(e.dice.between(e.drops() ? 0 : 1, 70));
  longer.insert(longer.end(), tail.begin(), tail.end());
  const SlotSpec spec = e.drawn(longer, e.drops());
  Trace hit;
  host.open(1, spec);
  host.hit(1, prefix);
  host.close(0);
  prefill_alone(host, 1, {}, hit);
  decode_alone(host, 1, 3, hit);
  Host alone(e.model, e.c.host);
  return difference(serve(alone, 0, spec, 3), hit);
}

std::string forks(Equality &e) {
  Host host(e.model, e.c.host);
  const int count = e.dice.between(2, 4);
  const int closed = e.dice.between(0, count - 1);
  std::vector<SlotSpec> specs;
  std::vector<Trace> traces(static_cast<size_t>(count));
  for (int k = 0; k < count; k++) {
    specs.push_back(k == 0 ? e.request : e.drawn(e.request.tokens, e.drops()));
    host.open(k, specs.back());
  }
  const Pace pace = e.dice.pace(40, 300, 2);
  const auto step = [&] {
    const StepOutput out = host.step();
    for (int k = 0; k < count; k++) record(traces[static_cast<size_t>(k)], out, k);
  };
  while (!host.progress(0).prefilled) {
    prefill(host, 0, pace);
    for (int k = 1; k < count && host.progress(0).prefilled; k++) host.adopt(0, k);
    step();
  }
  for (int k = 1; k < count; k++) host.share(0, k);
  for (int i = 1; i < e.c.outputs; i++) {
    if (i == 2) host.close(closed);
    for (int k = 0; k < count; k++) {
      if (i < 2 || k != closed) decode(host, k);
    }
    step();
  }
  for (int k = 0; k < count; k++) {
    Trace &trace = traces[static_cast<size_t>(k)];
    Host alone(e.model, e.c.host);
    Trace own = serve(alone, k, specs[static_cast<size_t>(k)], static_cast<int>(trace.tokens.size()));
    if (k > 0) own.bitmaps.clear();  // selections are made once, for the slot that prefills
    const std::string found = difference(own, trace);
    if (!found.empty()) return up::text("fork ", k, " of ", count, ": ", found);
  }
  if (static_cast<int>(traces[0].tokens.size()) > 2 && traces[0].tokens == traces[1].tokens) return "two seeds drew the same";
  return "";
}

std::string in_flight(Equality &e) {
  Host host(e.model, e.c.host);
  const SlotSpec second = e.drawn(e.tokens(e.dice.between(70, 300)), e.drops());
  Trace first, other;
  const auto wait = [&] {
    const StepOutput out = host.wait();
    if (out.status != UP_OK) stop_test(out.error.c_str());
    record(first, out, 0);
    record(other, out, 1);
  };
  const auto hand_over = [&] {
    host.enqueue();
    if (host.in_flight() == UP_STEPS_IN_FLIGHT) wait();
  };
  const Pace pace = e.dice.pace(30, 150, 1);
  host.open(0, e.request);
  host.open(1, second);
  int asked[] = {0, 0};  // tokens of each
  const int outputs[] = {e.c.outputs, e.c.outputs + 2};
  while (asked[0] < outputs[0] || asked[1] < outputs[1]) {
    for (const int slot : {0, 1}) {
      Progress &p = host.progress(slot);
      if (asked[slot] == outputs[slot]) {
        host.leave(slot);
        continue;
      }
      if (p.prefilled) {
        decode(host, slot);
      } else {
        while (!p.is_known(p.segment)) wait();
        prefill(host, slot, pace);
        if (!p.prefilled) continue;
      }
      asked[slot]++;
    }
    hand_over();
  }
  while (host.in_flight() > 0) wait();
  if (const std::string found = difference(e.whole(), first); !found.empty()) return found;
  Host alone(e.model, e.c.host);
  const std::string found = difference(serve(alone, 0, second, outputs[1]), other);
  return found.empty() ? "" : "the one beside it: " + found;
}

std::string elsewhere(Equality &e) {
  HostOptions changed = e.c.host;
  changed.page_size = e.c.host.page_size == 64 ? 192 : 64;
  changed.layers_per_slab = 3 - std::min(2, e.c.host.layers_per_slab);
  changed.threads = 3;
  Host host(e.model, changed);
  return difference(e.whole(), serve(host, 1, e.request, e.c.outputs));
}

std::string dense(Equality &e) {
  if (!e.drops()) return "";
  HostOptions plain = e.c.host;
  if (plain.prefill_p == 0) plain.schedule.layers.clear();  // else drop layers alone leave out no keys
  Host without(e.model, plain);
  SlotSpec spec = e.request;
  spec.drops = false;
  const Trace expected = serve(without, 0, spec, e.c.outputs, e.dice.pace(30, 200, 0));
  Host with(e.model, e.c.host);
  if (const std::string found = difference(expected, serve(with, 0, spec, e.c.outputs)); !found.empty()) return found;
  HostOptions keeping = e.c.host;
  keeping.schedule.p = 1;
  keeping.schedule.rule = UP_RULE_EXCLUSIVE;
  Host keeper(e.model, keeping);
  Trace kept = serve(keeper, 0, e.request, e.c.outputs, e.dice.pace(30, 200, 1));
  const ScheduleSpec &s = keeping.schedule;
  for (const auto &bitmap : kept.bitmaps) {
    if (bitmap != up::full_bitmap({e.c.prompt, s.block, s.sink, s.last_q})) return "p = 1 dropped a block";
  }
  kept.bitmaps.clear();
  const std::string found = difference(expected, kept);
  return found.empty() ? "" : "p = 1: " + found;
}

double relative_error(const std::vector<float> &found, const std::vector<float> &expected) {
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < expected.size(); i++) {
    difference += (found[i] - expected[i]) * (found[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / norm);
}

std::string reference(Equality &e) {
  HostOptions options = e.c.host;
  options.device = UP_DEVICE_REFERENCE;
  options.wrap = nullptr;
  Host host(e.model, options);
  const Trace &whole = e.whole();
  const Trace own = serve(host, 0, e.request, 1);
  size_t differing = own.bitmaps.size();
  for (size_t i = 0; i < own.bitmaps.size(); i++) {
    int blocks = 0;
    for (size_t w = 0; w < own.bitmaps[i].size(); w++) blocks += std::popcount(own.bitmaps[i][w] ^ whole.bitmaps[i][w]);
    if (blocks == 0) continue;
    // One block may lie at the cut; what comes behind a selection that differs has other rows to choose from.
    if (blocks > 1) return up::text("selection ", i, " differs in ", blocks, " blocks");
    differing = i;
    break;
  }
  const auto error_of = [&](size_t output) {
    if (output == 0 && differing == own.bitmaps.size()) return relative_error(whole.logits[0], own.logits[0]);
    const SlotSpec spec = ::resumed(e.request, whole, output, whole.bitmaps.size());
    return relative_error(whole.logits[output], serve(host, 0, spec, 1, e.dice.pace(60, 300, 1)).logits[0]);
  };
  for (const size_t output : {size_t{0}, whole.tokens.size() - 1}) {
    const double error = error_of(output);
    if (!(error < reference_tolerance)) return up::text("output ", output, " differs by ", error, " of its size");
  }
  return "";
}

const std::vector<Named> all = {
    {"chunked", chunked},
    {"partly fused", partly_fused},
    {"after others", after_others},
    {"batched with others", batched},
    {"resumed", resumed},
    {"preempted", preempted},
    {"prefix hit", prefix_hit},
    {"hit on generated tokens", generated_prefix_hit},
    {"forks", forks},
    {"two steps in flight", in_flight},
    {"other pages and threads", elsewhere},
    {"dense", dense},
};
}  // namespace equalities
