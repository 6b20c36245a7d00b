#include <cstring>

#include "operators/backend_tables.h"
#include "operators/reference_operators.h"

namespace up {
namespace {

up_status available(up_backend_error *) { return UP_OK; }

template <class Parameters>
up_status no_workspace(const Parameters *, size_t *bytes, up_backend_error *) {
  *bytes = 0;
  return UP_OK;
}

up_status gather_rows(const up_gather *p, void *, up_backend_error *) {
  const int rows = std::clamp(*p->count, 0, p->max_rows);
  for (int row = 0; row < rows; row++) {
    const int source = std::clamp(p->indices[row], 0, p->source_rows - 1);
    std::memmove(static_cast<uint8_t *>(p->target) + row * p->target_stride_bytes,
                 static_cast<const uint8_t *>(p->source) + source * p->source_stride_bytes, static_cast<size_t>(p->row_bytes));
  }
  return UP_OK;
}

}  // namespace

// The rest of a layer has no reference here: libuniprefill refuses it before it looks at the table.
const up_backend_table &reference_table() {
  static constexpr up_backend_table table{UP_BACKEND_ABI,
                                          "reference",
                                          available,
                                          no_workspace<up_selection>,
                                          reference::select,
                                          gather_rows,
                                          no_workspace<up_prefill_attention>,
                                          reference::attend_prefill,
                                          no_workspace<up_decode_attention>,
                                          reference::attend_decode,
                                          nullptr,
                                          nullptr,
                                          nullptr,
                                          nullptr,
                                          nullptr,
                                          nullptr};
  return table;
}

}  // namespace up
