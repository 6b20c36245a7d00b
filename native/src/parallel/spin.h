// Waiting for another thread that comes soon: to wake one that sleeps takes longer than to spin a little.
#pragma once

#include <chrono>
#include <thread>

namespace up {

// Whether there are processors enough for so many threads to spin; those that compute have better use for theirs.
inline bool may_spin(int threads) { return std::thread::hardware_concurrency() >= 4 * static_cast<unsigned>(threads); }

// Until the condition holds, or patience is at an end.
template <class Condition>
void spin_until(const Condition &is_over) {
  constexpr auto patience = std::chrono::microseconds(100);
  for (const auto end = std::chrono::steady_clock::now() + patience; !is_over() && std::chrono::steady_clock::now() < end;) {
  }
}

}  // namespace up
