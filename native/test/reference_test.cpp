// The CPU backend, on every instruction set that this processor has, against plain loops in double precision; and every instruction
// set against itself.
#include "check.h"
#include "cpu/kernels.h"
#include "random_cases.h"

namespace {

std::vector<up_kernels> kernels_here() {
  std::vector<up_kernels> out = {UP_KERNELS_PORTABLE};
  if (up::cpu::avx2_kernels() != nullptr) out.push_back(UP_KERNELS_AVX2);
  if (up::cpu::avx512_bf16_kernels() != nullptr) out.push_back(UP_KERNELS_AVX512_BF16);
  return out;
}

void check(const Case &c, std::initializer_list<equalities::Named> list) {
  Equality e(c);
  for (const equalities::Named &equality : list) {
    const std::string found = equality.find(e);
    CHECK(found.empty(), "%s on kernels %d: %s\n  %s", equality.name, c.host.kernels, found.c_str(), cases::describe(c).c_str());
  }
}

// All experts have a share in every row.
Case without_choices(Case c) {
  for (up::LayerSpec &layer : c.model.layers) layer.mlp.top_k = layer.mlp.experts;
  return c;
}

}  // namespace

int main() {
  size_t turn = 0;
  for (Case c : cases::families()) {
    c.prompt = 240;
    for (const up_kernels kernels : kernels_here()) {
      c.host.kernels = kernels;
      // In turn, since the reference takes its time.
      if (++turn % 2 == 0) check(without_choices(c), {{"reference", equalities::reference}});
      check(c, {{"chunked", equalities::chunked}, {"batched with others", equalities::batched}, {"preempted", equalities::preempted}});
    }
  }
  for (uint64_t seed = 1; seed <= (is_sanitized ? 2 : 10); seed++) {
    Case c = without_choices(cases::random(seed));
    c.host.kernels = kernels_here()[seed % kernels_here().size()];
    check(c, {{"reference", equalities::reference}});
  }
  // The reference keeps its own promise: in double precision too, nothing depends on chunks and neighbours.
  for (Case c : {cases::hybrid(), cases::qwen(true, true)}) {
    c.host.device = UP_DEVICE_REFERENCE;
    c.prompt = 150;
    c.host.schedule.sink = 32;
    check(c, {{"partly fused", equalities::partly_fused}, {"preempted", equalities::preempted}, {"forks", equalities::forks}});
  }
  return check_result();
}
