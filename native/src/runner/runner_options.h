// Checks of what a caller asks a runner and a slot to be.
#pragma once

#include "runner/runner_state.h"
#include "uniprefill.h"

namespace up {

constexpr int max_drop_layers = 47;  // 2 · 47 + 1 tables fit up_runner_info.tables
constexpr int max_page_size = 4096;
constexpr int max_slots = 4096;
constexpr int max_threads = 1024;

// Each fails with UP_INVALID_ARGUMENT naming the field and the numbers.
void check_options(const up_runner_options &options, const ModelConfig &config);
Schedule read_schedule(const up_drop_schedule &schedule, const ModelConfig &config, int page_size);
Slot read_slot(const up_slot_content &content, RunnerState &state, const ModelConfig &config);

}  // namespace up
