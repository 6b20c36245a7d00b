// Plans that do not hold together, each with what the runner must say of it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "equalities.h"

// `plant` spoils the plan being written, which would hold but for that; it returns a part of the refusal.
struct PlanFault {
  std::function<std::string(Host &)> plant;
};

struct PlanWorld {
  std::shared_ptr<const TestModel> model;
  HostOptions options;
  std::function<void(Host &)> begin;         // steps that lead to the plan
  std::function<StepOutput(Host &)> finish;  // a plan that holds
  std::vector<PlanFault> faults;
};

SlotSpec counted_prompt(int length, bool drops);

HostOptions small_host(std::vector<int32_t> drop_layers);

RandomModel small_model(std::vector<up::LayerSpec> layers);

using up::Section;

// A fault of one record that is the same whatever has happened.
PlanFault record_fault(Section section, std::vector<int32_t> record, const std::string &expected);

// Slot 0 decodes; slot 1 has computed 64 of the 200 rows of its segment 0; slot 2 does not drop and has 100 rows to come; slot 3
// has gone on from slot 0's prefill, and has no pages yet. Tables: 0 full 0 (2 slabs a page), 1 full 1, 2 carry 0.
PlanWorld llama_world();

// Slot 0 decodes; slot 1 has computed 128 of the 200 rows of its segment 0; slot 2 does not drop and has 100 rows to come; slot 3
// is open and untouched. Slot k has state slot k. Tables: 0 full 0, 1 sliding 0, 2 full 1, 3 sliding 1, 4 carry 0.
PlanWorld hybrid_world();
