#include "weights/rope.h"

#include <cmath>
#include <numbers>

namespace up {

std::vector<double> rope_frequencies(const RopeSpec &rope) {
  std::vector<double> out;
  for (int i = 0; i < rope.dim / 2; i++) {
    double frequency = std::pow(rope.theta, -2.0 * i / rope.dim);
    if (rope.scaling == RopeSpec::Scaling::linear) {
      frequency /= rope.factor;
    } else if (rope.scaling == RopeSpec::Scaling::llama3) {
      // Long wavelengths are stretched by the factor, short ones kept, those between blended.
      const double wavelength = 2 * std::numbers::pi / frequency;
      const double turns = rope.original_max_positions / wavelength;
      if (turns < rope.low_freq_factor) {
        frequency /= rope.factor;
      } else if (turns <= rope.high_freq_factor) {
        const double share = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
        frequency = (1 - share) * frequency / rope.factor + share * frequency;
      }
    }
    out.push_back(frequency);
  }
  return out;
}

void RopeTable::reserve(int positions) {
  if (positions <= positions_) return;
  positions = (positions + 4095) / 4096 * 4096;
  const size_t half = frequencies_.size();
  cos_.resize(static_cast<size_t>(positions) * half);
  sin_.resize(static_cast<size_t>(positions) * half);
#pragma omp parallel for schedule(static)
  for (int position = positions_; position < positions; position++) {
    for (size_t i = 0; i < half; i++) {
      const double angle = position * frequencies_[i];
      cos_[static_cast<size_t>(position) * half + i] = static_cast<float>(std::cos(angle));
      sin_[static_cast<size_t>(position) * half + i] = static_cast<float>(std::sin(angle));
    }
  }
  positions_ = positions;
}

}  // namespace up
