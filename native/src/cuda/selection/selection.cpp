#include "cuda/selection/selection.h"

#include "cuda/common/operators.h"

namespace up::cuda {

namespace {

struct Layout {
  size_t sums, wholes, broken, masses, total;
};

Layout layout(const up_selection &p) {
  const auto columns = static_cast<size_t>(p.requests) * static_cast<size_t>(p.heads);
  const auto blocks = static_cast<size_t>(ceil_div(p.max_rows, kSelectionBlock));
  Layout l{};
  l.wholes = aligned(columns * blocks * kSelectionQueries * sizeof(float));
  l.broken = l.wholes + aligned(columns * kSelectionQueries * sizeof(float));
  l.masses = l.broken + aligned(columns * 4 * sizeof(int32_t));
  l.total = l.masses + (p.masses == nullptr ? aligned(static_cast<size_t>(p.requests) * blocks * sizeof(uint64_t)) : 0);
  return l;
}

up_status supported(const up_selection &p, up_backend_error *error) {
  constexpr const char *phase = "check selection";
  if (p.dtype != UP_BF16 && p.dtype != UP_F16)
    return fail(error, UP_UNSUPPORTED_DTYPE, phase, "dtype %d: bf16 (1) and f16 (2) are supported", p.dtype);
  if (p.head_dim != 64 && p.head_dim != 128 && p.head_dim != 256)
    return fail(error, UP_INVALID_ARGUMENT, phase, "head_dim %d: 64, 128 and 256 are supported", p.head_dim);
  if (p.block != kSelectionBlock)
    return fail(error, UP_INVALID_ARGUMENT, phase, "block %d: %d is supported", p.block, kSelectionBlock);
  if (p.last_q < 1 || p.last_q > kSelectionQueries)
    return fail(error, UP_INVALID_ARGUMENT, phase, "last_q %d: 1 … %d are supported", p.last_q, kSelectionQueries);
  if (p.requests > 65535) return fail(error, UP_INVALID_ARGUMENT, phase, "requests %d: at most 65535", p.requests);
  return UP_OK;
}

}  // namespace

up_status selection_workspace(const up_selection *p, size_t *bytes, up_backend_error *error) {
  if (up_status s = supported(*p, error); s != UP_OK) return s;
  *bytes = layout(*p).total;
  return UP_OK;
}

up_status score_samples(const up_selection &p, void *workspace, size_t workspace_bytes, int every, SelectionScratch *parts, void *stream,
                        up_backend_error *error) {
  if (up_status s = supported(p, error); s != UP_OK) return s;
  const Layout l = layout(p);
  if (workspace_bytes < l.total)
    return fail(error, UP_INVALID_ARGUMENT, "check selection", "workspace of %zu bytes: %zu are needed", workspace_bytes,
                l.total);
  auto *base = static_cast<uint8_t *>(workspace);
  *parts = {reinterpret_cast<float *>(base), reinterpret_cast<float *>(base + l.wholes), reinterpret_cast<int32_t *>(base + l.broken),
            p.masses != nullptr ? p.masses : reinterpret_cast<uint64_t *>(base + l.masses)};
  if (p.requests == 0) return UP_OK;
  const auto queue = static_cast<cudaStream_t>(stream);
  if (up_status s = launch_selection_score(p, every, *parts, queue, error); s != UP_OK) return s;
  return launch_selection_normalise(p, *parts, queue, error);
}

up_status select_masses(const up_selection &p, void *workspace, size_t workspace_bytes, SelectionScratch *parts, void *stream,
                        up_backend_error *error) {
  if (up_status s = score_samples(p, workspace, workspace_bytes, 1, parts, stream, error); s != UP_OK || p.requests == 0) return s;
  return launch_selection_mass(p, *parts, static_cast<cudaStream_t>(stream), error);
}

up_status select_cut(const up_selection &p, uint64_t *masses, const int32_t *broken, void *stream, up_backend_error *error) {
  SelectionScratch scratch{};
  scratch.masses = masses;
  scratch.broken = const_cast<int32_t *>(broken);
  return launch_selection_cut(p, scratch, static_cast<cudaStream_t>(stream), error);
}

up_status select(const up_selection *p, void *workspace, size_t workspace_bytes, void *stream, up_backend_error *error) {
  SelectionScratch scratch{};
  if (up_status s = select_masses(*p, workspace, workspace_bytes, &scratch, stream, error); s != UP_OK || p->requests == 0) return s;
  return launch_selection_cut(*p, scratch, static_cast<cudaStream_t>(stream), error);
}

}  // namespace up::cuda
