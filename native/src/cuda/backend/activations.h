// Where a step's rows lie between operations, and how much room that takes.
//
// One block is used again and again by what never lives at the same time: projections of a tile, gate and up (whose gate half the
// activation writes over), the workspaces of attention and selection, logits and what sampling needs beside them, and rows that
// move.
#pragma once

#include <cstdint>

#include "backend.h"
#include "cuda/backend/device.h"

namespace up::cuda {

struct ActivationSizes {
  int rows = 0;         // of the residual stream, the queries of a selection included
  int tile_rows = 0;
  int normed_rows = 0;  // of a tile; of all tiles where ranks share them out
  int logits_rows = 0;
  int hidden = 0;
  int query_width = 0;     // the widest layer's
  int attended_width = 0;  // of o's or delta_out's input
  bool gates = false;      // some layer has output gates
  bool mixed = false;      // some layer normalises what it adds, or has experts; ranks have parts of sums instead (peers.h)
  size_t scratch_bytes = 0;
  size_t rounded_bytes = 0;  // of a tile's rows in e4m3

  ActivationSizes(const ModelTable &model, const BackendOptions &options);
  size_t bytes() const;
};

struct Activations {
  Activations(Device &device, const ActivationSizes &sizes);

  const ActivationSizes sizes;
  DeviceBuffer residual, queries, gates, attended, normed, mixed, scratch, rounded;
};

// Parts of scratch that a tile of a delta layer, or of experts, takes; offsets in bytes.
struct DeltaScratch {
  size_t convolved, decay, beta, workspace, end;

  DeltaScratch(const DeltaSpec &delta, int rows, int requests);
};
struct ExpertScratch {
  size_t router, chosen, weights, shared_inner, shared, workspace, end;

  ExpertScratch(const MlpSpec &mlp, int hidden, int rows);
};

// Rows of logits have this many elements from one to the next.
constexpr int64_t logits_stride(int vocab_size) { return (vocab_size + 7) / 8 * 8; }
// The same of a projection with n columns.
constexpr int64_t projected_stride(int n) { return (n + 7) / 8 * 8; }

}  // namespace up::cuda
