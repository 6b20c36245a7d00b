// Whatever a plan makes of a request, it yields the same bits: one function for each way. Each returns the first difference in
// words, or nothing; fault_test.cpp plants the faults that each must find.
#pragma once

#include <optional>

#include "trace.h"

struct Case {
  std::string name;
  RandomModel model;
  HostOptions host;
  int prompt = 300;
  int outputs = 5;
  uint64_t seed = 1;
};

// A case with its model loaded, and the request that all ways of serving are compared by.
class Equality {
 public:
  explicit Equality(const Case &of);

  const Case c;
  const TestModel model;
  Dice dice;
  SlotSpec request;

  bool drops() const { return !c.host.schedule.layers.empty(); }
  std::vector<int32_t> tokens(int count) { return dice.tokens(count, c.model.vocab); }
  // Tokens depend on a seed, and on what was put out before.
  SlotSpec drawn(const std::vector<int32_t> &tokens, bool drops);
  const Trace &whole();

 private:
  std::optional<Trace> whole_;
};

namespace equalities {

std::string chunked(Equality &e);

std::string partly_fused(Equality &e);

// Slabs and states that others have used hold what they left.
std::string after_others(Equality &e);

// Slot 1 decodes all the while, slot 2 prefills in turn, slot 3 does not drop.
std::string batched(Equality &e);

// Rows that were decoded are prefilled, and selections applied again.
std::string resumed(Equality &e);

// Closed at any step, and begun again in another slot with what was known by then.
std::string preempted(Equality &e);

// The first rows come from the prefix cache: window pages are left out, the state is a snapshot.
std::string prefix_hit(Equality &e);

// Rows that decoding appended come from the prefix cache. A state that has decoded is behind rows of every segment: where rows
// are dropped nothing can go on from it.
std::string generated_prefix_hit(Equality &e);

// Several slots go on from one prefill, and one of them closes on the way.
std::string forks(Equality &e);

// A step is handed over before the one before it has been answered.
std::string in_flight(Equality &e);

// Another page size, other slabs, another number of threads.
std::string elsewhere(Equality &e);

// A request that does not drop never meets the schedule; p = 1 keeps every block, and computes the same.
std::string dense(Equality &e);

double relative_error(const std::vector<float> &found, const std::vector<float> &expected);

// Operands are rounded to bf16 (2⁻⁹) in every matrix product; over the layers here that comes to about a hundredth, and in the worst
// of 30 random cases to .027 with one set of kernels and .032 with another: which of them a case gets depends on the processor.
constexpr double reference_tolerance = 0.04;

// Not the same bits, but those of plain loops in double precision within a tolerance; with the selections that were made. Not for
// models that choose among experts: a near tie goes the other way now and then, and moves a row by an expert's share.
std::string reference(Equality &e);

struct Named {
  const char *name;
  std::string (*find)(Equality &);
};

extern const std::vector<Named> all;

}  // namespace equalities
