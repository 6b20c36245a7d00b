#include "trace.h"

std::string difference(const Trace &expected, const Trace &found) {
  if (expected.bitmaps.size() != found.bitmaps.size()) {
    return up::text(found.bitmaps.size(), " selections, expected ", expected.bitmaps.size());
  }
  for (size_t i = 0; i < expected.bitmaps.size(); i++) {
    if (expected.bitmaps[i] != found.bitmaps[i]) return up::text("selection ", i, " differs");
  }
  if (expected.logits.size() != found.logits.size()) {
    return up::text(found.logits.size(), " rows of logits, expected ", expected.logits.size());
  }
  for (size_t i = 0; i < expected.logits.size(); i++) {
    if (expected.logits[i] != found.logits[i]) return up::text("logits of output ", i, " differ");
  }
  return expected.tokens == found.tokens ? "" : "tokens differ";
}

void record(Trace &trace, const StepOutput &out, int slot) {
  for (const auto &selection : out.selections) {
    if (selection.slot == slot) trace.bitmaps.push_back(selection.bitmap);
  }
  if (const auto token = out.tokens.find(slot); token != out.tokens.end()) {
    trace.tokens.push_back(token->second);
    trace.logits.push_back(out.logits.at(slot));
  }
}

void prefill(Host &host, int slot, const Pace &pace) {
  const int chunk = pace.chunk();
  host.prefill(slot, chunk, pace.more());
}

void decode(Host &host, int slot, bool keep_carry) {
  if (host.progress(slot).decoding) host.grow_decode(slot, keep_carry);
  else host.join(slot, -1, keep_carry);
}

void prefill_alone(Host &host, int slot, const Pace &pace, Trace &trace) {
  while (!host.progress(slot).prefilled) {
    prefill(host, slot, pace);
    record(trace, host.step(), slot);
  }
}

void decode_alone(Host &host, int slot, int outputs, Trace &trace) {
  while (static_cast<int>(trace.tokens.size()) < outputs) {
    decode(host, slot);
    record(trace, host.step(), slot);
  }
}

Trace serve(Host &host, int slot, const SlotSpec &spec, int outputs, const Pace &pace) {
  Trace trace;
  host.open(slot, spec);
  prefill_alone(host, slot, pace, trace);
  decode_alone(host, slot, outputs, trace);
  host.close(slot);
  return trace;
}

SlotSpec resumed(const SlotSpec &spec, const Trace &trace, size_t outputs, size_t selections) {
  SlotSpec out = spec;
  out.bitmaps.assign(trace.bitmaps.begin(), trace.bitmaps.begin() + static_cast<std::ptrdiff_t>(selections));
  out.tokens.insert(out.tokens.end(), trace.tokens.begin(), trace.tokens.begin() + static_cast<std::ptrdiff_t>(outputs));
  return out;
}

Trace rest_of(const Trace &trace, size_t outputs) {
  Trace out = trace;
  out.tokens.erase(out.tokens.begin(), out.tokens.begin() + static_cast<std::ptrdiff_t>(outputs));
  out.logits.erase(out.logits.begin(), out.logits.begin() + static_cast<std::ptrdiff_t>(outputs));
  return out;
}

std::vector<int32_t> Dice::tokens(int count, int vocab) {
  std::vector<int32_t> out;
  for (int i = 0; i < count; i++) out.push_back(static_cast<int32_t>(random_() % static_cast<uint64_t>(vocab)));
  return out;
}

Pace Dice::pace(int low, int high, int more) {
  return {[this, low, high] { return between(low, high); }, [this, more] { return between(0, more); }};
}
