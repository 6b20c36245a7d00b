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
std::string difference(const Trace &expected, const Trace &found);

void record(Trace &trace, const StepOutput &out, int slot);

// How many rows the next chunk has at most, and how many segments one runs on through that completes its own.
struct Pace {
  std::function<int()> chunk = [] { return 1 << 20; };
  std::function<int()> more = [] { return 64; };
};

void prefill(Host &host, int slot, const Pace &pace);

// One step more of a slot that is decoded.
void decode(Host &host, int slot, bool keep_carry = false);

// Prefills an open slot, alone.
void prefill_alone(Host &host, int slot, const Pace &pace, Trace &trace);

void decode_alone(Host &host, int slot, int outputs, Trace &trace);

Trace serve(Host &host, int slot, const SlotSpec &spec, int outputs, const Pace &pace = {});

// A request that is resumed behind `outputs` tokens of its output and `selections` of its selections.
SlotSpec resumed(const SlotSpec &spec, const Trace &trace, size_t outputs, size_t selections);

// What is left of a trace behind its first `outputs` tokens; every selection is made again, or applied again.
Trace rest_of(const Trace &trace, size_t outputs);

class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed) {}

  int between(int low, int high) { return low + static_cast<int>(random_() % static_cast<uint64_t>(high - low + 1)); }
  template <class T>
  T pick(std::initializer_list<T> values) {
    return values.begin()[random_() % values.size()];
  }
  bool chance(int of) { return random_() % static_cast<uint64_t>(of) == 0; }
  std::vector<int32_t> tokens(int count, int vocab);
  Pace pace(int low, int high, int more);

 private:
  std::mt19937_64 random_;
};
