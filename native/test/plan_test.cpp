// Plans that do not hold together: each is refused with its section and record named; the runner is empty then, and the same requests
// give the same bits again.
#include <cstring>

#include "check.h"
#include "malformed_plans.h"

namespace {

bool same(const StepOutput &a, const StepOutput &b) {
  return a.status == b.status && a.tokens == b.tokens && a.logits == b.logits && a.selections.size() == b.selections.size();
}

// Has the runner forget everything.
void empty(Host &host) {
  const StepOutput out = host.try_words({1, 2, 3});
  CHECK(out.status == UP_INVALID_PLAN);
}

void check_refusals(PlanWorld world) {
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
    CHECK(out.status == UP_INVALID_PLAN, "%s: status %s", refusal.c_str(), up_status_name(out.status));
    CHECK(out.error.find(refusal) != std::string::npos, "expected \"%s\", got \"%s\"", refusal.c_str(), out.error.c_str());
    if (out.status == UP_OK) empty(host);
    // Were anything left, its slots could not be opened, or its slabs not be granted.
    world.begin(host);
    CHECK(same(world.finish(host), expected), "%s: what comes after differs", refusal.c_str());
    empty(host);
  }
}

}  // namespace

int main() {
  check_refusals(llama_world());
  check_refusals(hybrid_world());
  return check_result();
}
