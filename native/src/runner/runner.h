// A model with its memory and slots: what up_runner_* does, with exceptions for errors.
#pragma once

#include <memory>
#include <vector>

#include "runner/compute_thread.h"
#include "runner/step_executor.h"
#include "uniprefill.h"

namespace up {

class Runner {
 public:
  Runner(std::shared_ptr<const Model> model, const up_runner_options &options);

  void describe(up_runner_info &out) const;
  void open_slot(const up_slot_content &content);
  void close_slot(int slot);
  // The bytes stay valid until the next call. When it fails nothing has changed.
  const std::vector<int32_t> &step(const uint8_t *plan, size_t plan_bytes);

 private:
  int threads_;
  up_kernels kind_;
  const cpu::Kernels &kernels_;
  ComputeThread compute_;
  RunnerState state_;
  std::unique_ptr<Forward> forward_;
  std::unique_ptr<StepExecutor> executor_;
  ResultSections sections_;
  std::vector<int32_t> result_;
};

}  // namespace up
