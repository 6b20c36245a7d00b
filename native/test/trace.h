// What a request yields, and the ways of serving one that its trace must not depend on.
#pragma once

#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "runner_host.h"

struct Trace {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;  // behind every token
  std::vector<std::vector<uint32_t>> bitmaps;
};

// The first difference in words, or nothing.
inline std::string difference(const Trace &expected, const Trace &found) {
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

inline void record(Trace &trace, const StepOutput &out, int slot) {
  for (const auto &selection : out.selections) {
    if (selection.slot == slot) trace.bitmaps.push_back(selection.bitmap);
  }
  if (const auto token = out.tokens.find(slot); token != out.tokens.end()) {
    trace.tokens.push_back(token->second);
    trace.logits.push_back(out.logits.at(slot));
  }
}

// How many rows the next chunk has at most, and how many segments one runs on through that completes its own.
struct Pace {
  std::function<int()> chunk = [] { return 1 << 20; };
  std::function<int()> more = [] { return 64; };
};

inline void prefill(Host &host, int slot, const Pace &pace) {
  const int chunk = pace.chunk();
  host.prefill(slot, chunk, pace.more());
}

// One step more of a slot that is decoded.
inline void decode(Host &host, int slot) {
  if (host.progress(slot).decoding) host.grow_decode(slot);
  else host.join(slot);
}

// Prefills an open slot, alone.
inline void prefill_alone(Host &host, int slot, const Pace &pace, Trace &trace) {
  while (!host.progress(slot).prefilled) {
    prefill(host, slot, pace);
    record(trace, host.step(), slot);
  }
}

inline void decode_alone(Host &host, int slot, int outputs, Trace &trace) {
  while (static_cast<int>(trace.tokens.size()) < outputs) {
    decode(host, slot);
    record(trace, host.step(), slot);
  }
}

inline Trace serve(Host &host, int slot, const SlotSpec &spec, int outputs, const Pace &pace = {}) {
  Trace trace;
  host.open(slot, spec);
  prefill_alone(host, slot, pace, trace);
  decode_alone(host, slot, outputs, trace);
  host.close(slot);
  return trace;
}

// A request that is resumed behind `outputs` tokens of its output and `selections` of its selections.
inline SlotSpec resumed(const SlotSpec &spec, const Trace &trace, size_t outputs, size_t selections) {
  SlotSpec out = spec;
  out.bitmaps.assign(trace.bitmaps.begin(), trace.bitmaps.begin() + static_cast<std::ptrdiff_t>(selections));
  out.tokens.insert(out.tokens.end(), trace.tokens.begin(), trace.tokens.begin() + static_cast<std::ptrdiff_t>(outputs));
  return out;
}

// What is left of a trace behind its first `outputs` tokens; every selection is made again, or applied again.
inline Trace rest_of(const Trace &trace, size_t outputs) {
  Trace out = trace;
  out.tokens.erase(out.tokens.begin(), out.tokens.begin() + static_cast<std::ptrdiff_t>(outputs));
  out.logits.erase(out.logits.begin(), out.logits.begin() + static_cast<std::ptrdiff_t>(outputs));
  return out;
}

class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed) {}

  int between(int low, int high) { return low + static_cast<int>(random_() % static_cast<uint64_t>(high - low + 1)); }
  template <class T>
  T pick(std::initializer_list<T> values) {
    return values.begin()[random_() % values.size()];
  }
  bool chance(int of) { return random_() % static_cast<uint64_t>(of) == 0; }
  std::vector<int32_t> tokens(int count, int vocab) {
    std::vector<int32_t> out;
    for (int i = 0; i < count; i++) out.push_back(static_cast<int32_t>(random_() % static_cast<uint64_t>(vocab)));
    return out;
  }
  Pace pace(int low, int high, int more) {
    return {[this, low, high] { return between(low, high); }, [this, more] { return between(0, more); }};
  }

 private:
  std::mt19937_64 random_;
};
