// Gated DeltaNet, attention and mixtures of experts of single rows, in double precision.
#pragma once

#include "reference/reference_memory.h"
#include "reference/reference_weights.h"

namespace up::reference {

double silu(double x);
double sigmoid(double x);
// gate ↦ of gated layers.
double activation(Activation kind, double x);

// x / sqrt(mean(x²) + eps) · (offset + weight), in place.
void normalise(double *x, int width, const Vector &weight, const NormSpec &spec);

// Turns the first dimensions of a head to a position.
void rotate(double *head, const std::vector<double> &frequencies, int position);

// Shares of `count` keys, which begin `offset` into their rows, under one query: softmax of scale · q·k, capped.
Vector attention_shares(const double *query, const double *const *keys, int count, int offset, const AttentionSpec &spec);

// One row of a delta layer: projected [q | k | v | z | b | a] to out [value_width]; the state goes on.
void delta_row(const double *projected, const DeltaSpec &spec, const Weights &weights, int layer, Memory::DeltaState &state,
               double *out);

// One row of a mixture of experts.
Vector expert_row(const double *normed, const MlpSpec &spec, const Weights &weights, int layer);

}  // namespace up::reference
