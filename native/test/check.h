// The checks that native tests are made of. A test is a main() that ends in `return check_result();`.
#pragma once

#include <cstdio>
#include <cstdlib>

// Under the sanitizers, where everything takes many times as long, tests draw fewer cases.
#ifdef __SANITIZE_ADDRESS__
constexpr bool is_sanitized = true;
#else
constexpr bool is_sanitized = false;
#endif

static int check_failures = 0;

// Ends the test after so many failures, so that one fault does not fill the log.
constexpr int check_limit = 20;

static inline void check_failed(const char *file, int line) {
  std::fprintf(stderr, "  at %s:%d\n", file, line);
  if (++check_failures >= check_limit) {
    std::fprintf(stderr, "%d failures: stopped\n", check_failures);
    std::exit(1);
  }
}

// CHECK(condition), or CHECK(condition, "format", …) with what a reader needs to find the fault.
#define CHECK(condition, ...)                                                                                \
  do {                                                                                                       \
    if (!(condition)) {                                                                                      \
      std::fprintf(stderr, "failed: %s\n", #condition);                                                      \
      __VA_OPT__(std::fprintf(stderr, "  "); std::fprintf(stderr, __VA_ARGS__); std::fprintf(stderr, "\n");) \
      check_failed(__FILE__, __LINE__);                                                                      \
    }                                                                                                        \
  } while (0)

static inline int check_result() {
  if (check_failures) std::fprintf(stderr, "%d failures\n", check_failures);
  return check_failures ? 1 : 0;
}
