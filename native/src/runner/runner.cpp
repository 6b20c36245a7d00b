#include "runner/runner.h"

#include <omp.h>

#include <algorithm>
#include <chrono>

#include "abi/failure.h"
#include "runner/memory_transaction.h"
#include "runner/runner_options.h"

namespace up {
namespace {

// The kernels asked for, or the fastest there are; `kind` becomes what they are.
const cpu::Kernels &choose_kernels(int asked, up_kernels &kind) {
  const auto find = [](up_kernels wanted) -> const cpu::Kernels * {
    switch (wanted) {
      case UP_KERNELS_AVX512_BF16: return cpu::avx512_bf16_kernels();
      case UP_KERNELS_AVX2: return cpu::avx2_kernels();
      case UP_KERNELS_PORTABLE: return cpu::portable_kernels();
      default: return nullptr;
    }
  };
  for (const up_kernels each : {UP_KERNELS_AVX512_BF16, UP_KERNELS_AVX2, UP_KERNELS_PORTABLE}) {
    if (asked != UP_KERNELS_AUTO && asked != each) continue;
    if (const cpu::Kernels *kernels = find(each)) {
      kind = each;
      return *kernels;
    }
  }
  fail(UP_INVALID_ARGUMENT, "choose kernels", "kernels is ", asked,
       ", which this library or this processor does not have");
}

// Layers whose queries and keys are computed for different rows: drop layers and the last one.
std::vector<bool> split_layers(const ModelConfig &config, const Schedule &schedule) {
  std::vector<bool> out(static_cast<size_t>(config.layers));
  for (const int layer : schedule.drop_layers) out[static_cast<size_t>(layer)] = true;
  out.back() = true;
  return out;
}

RunnerState make_state(const up_runner_options &options, const ModelConfig &config) {
  check_options(options, config);
  const Schedule schedule = read_schedule(options.schedule, config, options.page_size);
  return {make_layout(config, schedule.drop_layers, options.page_size), options.slabs};
}

}  // namespace

Runner::Runner(std::shared_ptr<const Model> model, const up_runner_options &options)
    : threads_(options.threads > 0 ? std::min(options.threads, max_threads) : omp_get_num_procs()),
      kind_(UP_KERNELS_AUTO),
      kernels_(choose_kernels(raw_value(options.kernels), kind_)),
      compute_(threads_),
      state_(make_state(options, model->config())) {
  const ModelConfig &config = model->config();
  state_.schedule = read_schedule(options.schedule, config, options.page_size);
  state_.vocab_size = config.vocab_size;
  state_.max_rows_per_step = options.max_rows_per_step;
  state_.max_tokens = options.max_tokens;
  state_.slots.resize(static_cast<size_t>(options.slots));
  compute_.run([&] {
    forward_ = std::make_unique<Forward>(model, kernels_, split_layers(config, state_.schedule), block_rows);
    executor_ = std::make_unique<StepExecutor>(state_, *forward_);
  });
}

void Runner::describe(up_runner_info &out) const {
  out = {};
  out.size = sizeof out;
  out.slab_bytes = state_.layout.slab_bytes;
  out.layers_per_slab = state_.layout.layers_per_slab;
  out.table_count = static_cast<int32_t>(state_.layout.tables.size());
  for (size_t i = 0; i < state_.layout.tables.size(); i++) {
    const Table &table = state_.layout.tables[i];
    out.tables[i] = {table.segment, static_cast<int32_t>(table.kind), table.layers, table.slabs_per_page};
  }
  out.threads = threads_;
  out.kernels = kind_;
}

void Runner::open_slot(const up_slot_content &content) {
  if (content.slot < 0 || static_cast<size_t>(content.slot) >= state_.slots.size()) {
    fail(UP_INVALID_ARGUMENT, "check slot", "slot is ", content.slot, " of ", state_.slots.size());
  }
  Slot &slot = state_.slots[static_cast<size_t>(content.slot)];
  if (slot.open) fail(UP_INVALID_ARGUMENT, "check slot", "slot ", content.slot, " is open already");
  slot = read_slot(content, state_, forward_->config());
}

void Runner::close_slot(int slot) {
  if (slot < 0 || static_cast<size_t>(slot) >= state_.slots.size()) {
    fail(UP_INVALID_ARGUMENT, "check slot", "slot is ", slot, " of ", state_.slots.size());
  }
  if (!state_.slots[static_cast<size_t>(slot)].open) fail(UP_INVALID_ARGUMENT, "check slot", "slot ", slot, " is not open");
  state_.close(slot);
}

const std::vector<int32_t> &Runner::step(const uint8_t *bytes, size_t count) {
  const auto started = std::chrono::steady_clock::now();
  const Plan plan(bytes, count);
  if (plan.step_id() != state_.last_step + 1) {
    fail(UP_INVALID_PLAN, "check plan", "stepId is ", plan.step_id(), ", expected ", state_.last_step + 1);
  }
  MemoryTransaction memory(state_);
  memory.apply(plan);
  const StepWork work = check_work(state_, plan);
  try {
    compute_.run([&] { executor_->run(plan, work, sections_); });
    const auto micros =
        std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - started).count();
    result_ = sections_.encode(plan.step_id(), static_cast<int32_t>(std::min<int64_t>(micros, INT32_MAX)));
  } catch (...) {
    executor_->rollback();
    throw;
  }
  executor_->commit();
  memory.keep();
  state_.last_step = plan.step_id();
  return result_;
}

}  // namespace up
