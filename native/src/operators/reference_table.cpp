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

}  // namespace

// Sampling has no reference here: libuniprefill refuses it before it looks at the table.
const up_backend_table &reference_table() {
  static constexpr up_backend_table table{UP_BACKEND_ABI,
                                          "reference",
                                          available,
                                          no_workspace<up_selection>,
                                          reference::select,
                                          reference::gather_rows,
                                          no_workspace<up_prefill_attention>,
                                          reference::attend_prefill,
                                          no_workspace<up_decode_attention>,
                                          reference::attend_decode,
                                          reference::normalise,
                                          reference::rotate_and_write,
                                          reference::activate,
                                          reference::embed,
                                          nullptr,
                                          nullptr,
                                          no_workspace<up_sparse_attention>,
                                          reference::attend_sparse,
                                          reference::add_normed,
                                          reference::apply_gate,
                                          reference::edit_logits,
                                          reference::delta_prepare,
                                          no_workspace<up_delta_prefill>,
                                          reference::recur_prefill,
                                          reference::recur_decode,
                                          reference::normalise_gated,
                                          reference::route,
                                          no_workspace<up_moe>,
                                          reference::run_experts,
                                          nullptr};
  return table;
}

}  // namespace up
