// The model runner's functions of the C ABI.
#include "abi/failure.h"
#include "runner/runner.h"

struct up_model {
  std::shared_ptr<const up::Model> model;
};

struct up_runner {
  up::Runner runner;
};

extern "C" {

up_status up_model_open(const char *directory, up_model **out) {
  return up::guard("up_model_open", [&] {
    up::require_pointer(directory, "directory");
    up::require_pointer(out, "out");
    *out = new up_model{std::make_shared<const up::Model>(directory)};
  });
}

void up_model_close(up_model *model) { delete model; }

up_status up_model_describe(const up_model *model, up_model_info *out) {
  return up::guard("up_model_describe", [&] {
    up::require_pointer(model, "model");
    up::require_struct(out, "out");
    const up::ModelConfig &config = model->model->config();
    *out = {sizeof *out,      config.layers,   config.hidden_size,   config.vocab_size,           config.heads,
            config.kv_heads, config.head_dim, config.max_positions, model->model->fingerprint()};
  });
}

up_status up_runner_create(const up_model *model, const up_runner_options *options, up_runner **out) {
  return up::guard("up_runner_create", [&] {
    up::require_pointer(model, "model");
    up::require_struct(options, "options");
    up::require_pointer(out, "out");
    *out = new up_runner{up::Runner(model->model, *options)};
  });
}

void up_runner_destroy(up_runner *runner) { delete runner; }

up_status up_runner_describe(const up_runner *runner, up_runner_info *out) {
  return up::guard("up_runner_describe", [&] {
    up::require_pointer(runner, "runner");
    up::require_struct(out, "out");
    runner->runner.describe(*out);
  });
}

up_status up_slot_open(up_runner *runner, const up_slot_content *content) {
  return up::guard("up_slot_open", [&] {
    up::require_pointer(runner, "runner");
    up::require_struct(content, "content");
    runner->runner.open_slot(*content);
  });
}

up_status up_slot_close(up_runner *runner, int32_t slot) {
  return up::guard("up_slot_close", [&] {
    up::require_pointer(runner, "runner");
    runner->runner.close_slot(slot);
  });
}

up_status up_step(up_runner *runner, const uint8_t *plan, size_t plan_bytes, const uint8_t **result, size_t *result_bytes) {
  return up::guard("up_step", [&] {
    up::require_pointer(runner, "runner");
    up::require_pointer(plan, "plan");
    up::require_pointer(result, "result");
    up::require_pointer(result_bytes, "result_bytes");
    const std::vector<int32_t> &words = runner->runner.step(plan, plan_bytes);
    *result = reinterpret_cast<const uint8_t *>(words.data());
    *result_bytes = words.size() * sizeof words[0];
  });
}

}  // extern "C"
