#include "cuda/experts/moe.h"

#include "cuda/common/operators.h"

namespace up::cuda {

namespace {

struct Layout {
  size_t starts, tiles, rows, places, taken, inner, results, total;
};

Layout layout(const up_moe &p) {
  const auto choices = static_cast<size_t>(moe_choices(p)), experts = static_cast<size_t>(p.experts);
  const size_t blocks = static_cast<size_t>(ceil_div(moe_choices(p), kSortEntries));
  Layout l{};
  l.starts = aligned(blocks * experts * sizeof(int32_t));
  l.tiles = l.starts + aligned((experts + 1) * sizeof(int32_t));
  l.rows = l.tiles + aligned((experts + 1) * sizeof(int32_t));
  l.places = l.rows + aligned(choices * sizeof(int32_t));
  l.taken = l.places + aligned(choices * sizeof(int32_t));
  l.inner = l.taken + aligned(2 * sizeof(int32_t));
  l.results = l.inner + aligned(choices * static_cast<size_t>(p.inner) * 2);
  l.total = l.results + aligned(choices * static_cast<size_t>(p.hidden) * 2);
  return l;
}

up_status supported(const up_moe &p, up_backend_error *error) {
  constexpr const char *phase = "check experts";
  if (p.dtype != UP_BF16 && p.dtype != UP_F16)
    return fail(error, UP_UNSUPPORTED_DTYPE, phase, "dtype %d: bf16 (1) and f16 (2) are supported", p.dtype);
  if (p.hidden % 64 != 0 || p.inner % 64 != 0)
    return fail(error, UP_INVALID_ARGUMENT, phase, "hidden %d, inner %d: multiples of 64 are supported", p.hidden, p.inner);
  if (p.experts > kMostExperts) return fail(error, UP_INVALID_ARGUMENT, phase, "experts %d: at most %d", p.experts, kMostExperts);
  return UP_OK;
}

}  // namespace

up_status moe_workspace(const up_moe *p, size_t *bytes, up_backend_error *error) {
  if (up_status s = supported(*p, error); s != UP_OK) return s;
  *bytes = layout(*p).total;
  return UP_OK;
}

up_status run_experts(const up_moe *p, void *workspace, size_t workspace_bytes, void *stream, up_backend_error *error) {
  if (up_status s = supported(*p, error); s != UP_OK) return s;
  const Layout l = layout(*p);
  if (workspace_bytes < l.total)
    return fail(error, UP_INVALID_ARGUMENT, "check experts", "workspace of %zu bytes: %zu are needed", workspace_bytes, l.total);
  if (p->rows == 0) return UP_OK;
  auto *base = static_cast<uint8_t *>(workspace);
  const auto integers = [&](size_t offset) { return reinterpret_cast<int32_t *>(base + offset); };
  const MoeScratch scratch{integers(0),      integers(l.starts), integers(l.tiles), integers(l.rows),
                           integers(l.places), integers(l.taken),  base + l.inner,    base + l.results};
  const auto queue = static_cast<cudaStream_t>(stream);
  if (up_status s = launch_moe_sort(*p, scratch, queue, error); s != UP_OK) return s;
  if (up_status s = launch_moe_products(*p, scratch, queue, error); s != UP_OK) return s;
  return launch_moe_combine(*p, scratch, queue, error);
}

}  // namespace up::cuda
