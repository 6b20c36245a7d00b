// The runner against itself: whatever plans make of a request, the bits are the same; on models of every kind of layer and every
// instruction set.
#include "check.h"
#include "random_cases.h"

namespace {

void check_case(const Case &c) {
  const int before = check_failures;
  Equality e(c);
  CHECK(static_cast<int>(e.whole().tokens.size()) == c.outputs);
  for (const equalities::Named &equality : equalities::all) {
    const std::string found = equality.find(e);
    CHECK(found.empty(), "%s: %s", equality.name, found.c_str());
  }
  if (check_failures > before) std::fprintf(stderr, "%s\n", cases::describe(c).c_str());
}

}  // namespace

int main() {
  for (const Case &c : cases::families()) check_case(c);
  for (uint64_t seed = 1; seed <= (is_sanitized ? 3 : 20); seed++) check_case(cases::random(seed));
  return check_result();
}
