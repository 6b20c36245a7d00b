// Checks by name, which say as they begin that they do, and what they took.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "../check.h"
#include "abi/failure.h"

// A check by name, of a seed.
struct Check {
  const char *name;
  bool once;  // of the first seed alone
  std::function<void(uint64_t)> run;
};

// One failure does not hide what comes after it.
inline void run_check(const Check &check, uint64_t seed) {
  const auto start = std::chrono::steady_clock::now();
  std::printf("== %s, seed %d\n", check.name, static_cast<int>(seed));
  std::fflush(stdout);
  try {
    check.run(seed);
  } catch (const up::Failure &failure) {
    CHECK(false, "%s seed %d: %s: %s: %s", check.name, static_cast<int>(seed), up_status_name(failure.status), failure.phase.c_str(),
          failure.detail.c_str());
  }
  std::printf("%s, seed %d: %.1f s\n", check.name, static_cast<int>(seed),
              std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  std::fflush(stdout);
}

// Those of names that are separated by commas; all without any. A name that there is not ends the program.
inline std::vector<Check> named(const std::vector<Check> &all, const std::string &names) {
  std::vector<Check> out;
  if (names.empty()) return all;
  std::stringstream rest(names);
  for (std::string name; std::getline(rest, name, ',');) {
    const auto found = std::find_if(all.begin(), all.end(), [&](const Check &each) { return each.name == name; });
    if (found == all.end()) {
      std::fprintf(stderr, "no check is named \"%s\"; there are", name.c_str());
      for (const Check &each : all) std::fprintf(stderr, " %s", each.name);
      std::fprintf(stderr, "\n");
      std::exit(2);
    }
    out.push_back(*found);
  }
  return out;
}
