// The model runner's functions of the C ABI.
#include "abi/failure.h"
#include "runner/runner.h"

struct up_model {
  std::shared_ptr<const up::Checkpoint> checkpoint;
};

struct up_runner {
  up::Runner runner;
};

extern "C" {

up_status up_model_open(const char *table, size_t table_bytes, up_model **out) {
  return up::guard("up_model_open", [&] {
    up::require_pointer(table, "table");
    up::require_pointer(out, "out");
    *out = new up_model{std::make_shared<const up::Checkpoint>(up::parse_model_table({table, table_bytes}))};
  });
}

void up_model_close(up_model *model) { delete model; }

up_status up_model_describe(const up_model *model, up_model_info *out) {
  return up::guard("up_model_describe", [&] {
    up::require_pointer(model, "model");
    up::require_struct(out, "out");
    const up::ModelTable &table = model->checkpoint->table();
    *out = {sizeof *out,      table.layer_count(),  table.hidden_size,
            table.vocab_size, table.max_positions, model->checkpoint->fingerprint()};
  });
}

up_status up_runner_create(const up_model *model, const up_runner_options *options, up_runner **out) {
  return up::guard("up_runner_create", [&] {
    up::require_pointer(model, "model");
    up::require_struct(options, "options");
    up::require_pointer(out, "out");
    *out = new up_runner{{model->checkpoint, *options}};
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

up_status up_runner_put_content(up_runner *runner, int32_t id, const up_content *content) {
  return up::guard("up_runner_put_content", [&] {
    up::require_pointer(runner, "runner");
    up::require_struct(content, "content");
    runner->runner.put_content(id, *content);
  });
}

void up_runner_forget_content(up_runner *runner, int32_t id) {
  if (runner != nullptr) runner->runner.forget_content(id);
}

up_status up_runner_enqueue(up_runner *runner, const uint8_t *plan, size_t plan_bytes) {
  return up::guard("up_runner_enqueue", [&] {
    up::require_pointer(runner, "runner");
    up::require_pointer(plan, "plan");
    runner->runner.enqueue(plan, plan_bytes);
  });
}

up_status up_runner_wait(up_runner *runner, const uint8_t **result, size_t *result_bytes) {
  return up::guard("up_runner_wait", [&] {
    up::require_pointer(runner, "runner");
    up::require_pointer(result, "result");
    up::require_pointer(result_bytes, "result_bytes");
    const std::vector<int32_t> &words = runner->runner.wait();
    *result = reinterpret_cast<const uint8_t *>(words.data());
    *result_bytes = words.size() * sizeof words[0];
  });
}

}  // extern "C"
