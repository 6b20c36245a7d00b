// One rank of a runner: books of its own, a backend with its share of the model, and the layers over them. A runner without tensor
// parallelism has one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "parallel/communicator.h"
#include "step/layer_loop.h"
#include "uniprefill/runner.h"

namespace up {

using MakeBackend = std::function<std::unique_ptr<Backend>(const std::shared_ptr<const Checkpoint> &, const BackendOptions &)>;

class Rank {
 public:
  // What a rank makes of a step's plan.
  struct Step {
    uint64_t id = 0;
    int32_t checksum = 0;
    StepOutputs outputs;
  };

  // `communicator`: null of the only rank. Checks the options against the model.
  Rank(const std::shared_ptr<const Checkpoint> &whole, const up_runner_options &options, std::shared_ptr<Communicator> communicator);

  // Loads the weights. On the thread on which the steps will run; of all ranks at once.
  void load(const up_runner_options &options, const MakeBackend &make);
  // Once every rank has loaded: what all have room for.
  void begin(int slabs);
  // Checks, applies and computes. When it fails the books must be reset, of all ranks.
  Step step(std::span<const uint8_t> plan, const TakeContent &take);
  // Everything is forgotten; step `id` failed, and is the next.
  void reset(uint64_t id);
  // After a step failed on any rank, on every one.
  void abandon();
  // Frees what belongs to the thread; once every rank has abandoned its steps.
  void unload();

  uint64_t next_step() const { return books_.last_step + 1; }
  const Books &books() const { return books_; }
  const Backend &backend() const { return *backend_; }
  Communicator *communicator() const { return communicator_.get(); }

 private:
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::shared_ptr<Communicator> communicator_;
  Books books_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<LayerLoop> loop_;
};

}  // namespace up
