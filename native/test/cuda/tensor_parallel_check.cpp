// Tensor parallelism on CUDA devices against one CPU backend: small models of every kind of layer, dense and dropping, chunked and whole, several
// prompts in one step, beside others, decoded together; the same again gives the same bits; and a rank that fails ends the step on all, soon.
//
//   cuda_tensor_parallel_check RANKS        everything
//   cuda_tensor_parallel_check RANKS fault  under UNIPREFILL_CUDA_FAULT: some step fails, none hangs
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "../check.h"
#include "../random_cases.h"

namespace {

Case of(const char *name, std::vector<up::LayerSpec> layers, std::vector<int32_t> drops) {
  Case c = cases::of_model(name, std::move(layers), std::move(drops));
  c.model.hidden = 256;
  c.host.slots = 4;
  c.host.slabs = 2048;
  c.host.state_slots = 8;
  c.host.max_rows = 2048;
  c.host.schedule.last_q = 64;
  c.host.schedule.block = 64;
  c.host.schedule.sink = 64;
  c.prompt = 1500;
  c.outputs = 24;
  for (up::LayerSpec &layer : c.model.layers) {
    if (!layer.mlp.is_moe()) layer.mlp.inner = 512;
  }
  return c;
}

// For up to eight ranks; `kv_heads` may be fewer.
std::vector<Case> models() {
  std::vector<Case> out;
  std::vector<up::LayerSpec> plain(4, attention_layer(16, 8, 64));
  out.push_back(of("Llama", plain, {1, 2}));
  out.back().model.biases = true;
  out.push_back(of("one key/value head", std::vector<up::LayerSpec>(3, attention_layer(8, 1, 128)), {1}));
  std::vector<up::LayerSpec> gemma;
  for (int i = 0; i < 6; i++) {
    up::LayerSpec layer = attention_layer(8, 8, 64, i % 3 == 2 ? 0 : 200);
    layer.post_norms = true;
    layer.attention.qk_norm = true;
    layer.attention.qk_norm_spec = {1e-6f, 1};
    layer.attention.soft_cap = 30;
    layer.mlp.activation = up::Activation::gelu;
    gemma.push_back(layer);
  }
  out.push_back(of("Gemma", gemma, {2}));
  for (const bool moe : {false, true}) {
    std::vector<up::LayerSpec> qwen;
    for (int i = 0; i < 6; i++) {
      up::LayerSpec layer = i % 3 == 1 ? cases::gated_attention(8, 8, 64) : delta_layer(8, 16, 64, 64);
      if (moe) layer.mlp = experts_of(8, 2, 512, 512);
      qwen.push_back(layer);
    }
    out.push_back(of(moe ? "Qwen MoE" : "Qwen", qwen, {1}));
    out.back().model.norm = {1e-6f, 1};
  }
  // One key head, which all ranks hold; on eight each has one of its value heads.
  std::vector<up::LayerSpec> shared(6, delta_layer(1, 8, 128, 128));
  shared[1] = shared[4] = cases::gated_attention(8, 1, 256);
  out.push_back(of("Qwen with one key head", shared, {1}));
  out.back().model.norm = {1e-6f, 1};
  return out;
}

// Relative to `a`.
double distance(const std::vector<float> &a, const std::vector<float> &b) {
  double apart = 0, size = 0;
  for (size_t i = 0; i < a.size(); i++) {
    apart += std::pow(double{a[i]} - double{b[i]}, 2);
    size += std::pow(double{a[i]}, 2);
  }
  return std::sqrt(apart / size);
}

int blocks_apart(const Trace &a, const Trace &b) {
  int out = 0;
  for (size_t i = 0; i < a.bitmaps.size() && i < b.bitmaps.size(); i++) {
    for (size_t w = 0; w < a.bitmaps[i].size() && w < b.bitmaps[i].size(); w++) out += __builtin_popcount(a.bitmaps[i][w] ^ b.bitmaps[i][w]);
  }
  return out;
}

// Outputs are compared until a token differs: what follows depends on it.
void check_near(const Case &c, const char *what, const Trace &expected, const Trace &got) {
  CHECK(expected.bitmaps.size() == got.bitmaps.size(), "%s, %s", c.name.c_str(), what);
  const int apart = blocks_apart(expected, got);
  // Where other blocks were kept, other rows were computed.
  CHECK(apart <= 2, "%s, %s: %d blocks differ", c.name.c_str(), what, apart);
  size_t compared = 0;
  double worst = 0;
  for (size_t i = 0; apart == 0 && i < expected.logits.size() && i < got.logits.size(); i++) {
    worst = std::max(worst, distance(expected.logits[i], got.logits[i]));
    compared++;
    if (expected.tokens[i] != got.tokens[i]) break;
  }
  // Experts whose weights are nearly equal change places: then a row passes others, as it does on one device.
  const bool moe = c.model.layers.front().mlp.is_moe();
  CHECK(worst < (moe ? 0.3 : 0.03), "%s, %s: logits are %.4f apart", c.name.c_str(), what, worst);
  std::printf("ok %s, %s: %zu outputs compared, at most %.4f apart, %d blocks differ\n", c.name.c_str(), what, compared, worst, apart);
}

SlotSpec greedy(Equality &e, int tokens, bool drops) {
  SlotSpec out = prompt_of(e.tokens(tokens), drops);
  out.sampling.temperature = 0;
  return out;
}

// Prompts that select in one step, after the same segments: each as alone on the CPU.
void check_together(const Case &c, Equality &e, Host &cpu, Host &host) {
  std::vector<SlotSpec> specs;
  for (const int tokens : {500, 600, 700}) specs.push_back(greedy(e, tokens, true));
  for (int slot = 0; slot < static_cast<int>(specs.size()); slot++) {
    host.open(slot, specs[static_cast<size_t>(slot)]);
    host.prefill(slot, 1 << 20);
  }
  const StepOutput out = host.step();
  for (int slot = 0; slot < static_cast<int>(specs.size()); slot++) {
    Trace got;
    record(got, out, slot);
    check_near(c, "together", serve(cpu, slot, specs[static_cast<size_t>(slot)], 1), got);
    host.close(slot);
  }
}

// A prompt that selects in a step with one that does not drop and one that decodes: rows that stay where they are, and rows that go.
void check_beside(const Case &c, Equality &e, Host &cpu, Host &host) {
  const SlotSpec specs[] = {greedy(e, 200, true), greedy(e, 400, false), greedy(e, c.prompt, true)};
  host.open(0, specs[0]);
  host.prefill(0, 1 << 20);
  host.step();
  host.join(0, -1, true);
  for (const int slot : {1, 2}) {
    host.open(slot, specs[slot]);
    host.prefill(slot, 1 << 20);
  }
  const StepOutput out = host.step();
  for (const int slot : {1, 2}) {
    Trace got;
    record(got, out, slot);
    check_near(c, slot == 1 ? "dense beside others" : "dropping beside others", serve(cpu, slot, specs[slot], 1), got);
  }
  for (const int slot : {0, 1, 2}) host.close(slot);
}

void check_model(const Case &of, int ranks) {
  Case c = of;
  Equality e(c);
  const SlotSpec dropping = greedy(e, c.prompt, true), dense = greedy(e, c.prompt, false), shorter = greedy(e, 300, false);
  Host cpu(e.model, c.host);
  const Trace expected = serve(cpu, 0, dropping, c.outputs), expected_dense = serve(cpu, 1, dense, c.outputs);
  HostOptions options = c.host;
  options.device = UP_DEVICE_CUDA;
  options.ranks = ranks;
  Host host(e.model, options);
  const Trace got = serve(host, 0, dropping, c.outputs);
  check_near(c, "dropping", expected, got);
  check_near(c, "dense", expected_dense, serve(host, 1, dense, c.outputs));
  check_near(c, "dropping in chunks", expected, serve(host, 2, dropping, c.outputs, e.dice.pace(200, 700, 2)));
  check_together(c, e, cpu, host);
  check_beside(c, e, cpu, host);
  Host again(e.model, options);
  const std::string found = difference(got, serve(again, 0, dropping, c.outputs));
  CHECK(found.empty(), "%s, the same again: %s", c.name.c_str(), found.c_str());
}

// Outputs are compared until a token differs.
double worst_distance(const Trace &expected, const Trace &got) {
  double worst = 0;
  for (size_t i = 0; i < expected.logits.size() && i < got.logits.size(); i++) {
    worst = std::max(worst, distance(expected.logits[i], got.logits[i]));
    if (expected.tokens[i] != got.tokens[i]) break;
  }
  return worst;
}

// Matrices in eight bits, a scale for each rank's part of a row: nearer to the CPU's ranks, which round alike, than those are to 16 bits.
void check_fp8(int ranks) {
  Case c = models().front();
  Equality plain(c);
  const SlotSpec dropping = greedy(plain, c.prompt, true), dense = greedy(plain, c.prompt, false);
  c.model.fp8 = true;
  const TestModel model(c.model);
  HostOptions options = c.host;
  options.ranks = ranks;
  Host cpu_16_bits(plain.model, options), cpu(model, options);
  options.device = UP_DEVICE_CUDA;
  Host host(model, options), again(model, options);
  const Trace expected = serve(cpu, 0, dense, c.outputs);
  const double in_16_bits = worst_distance(expected, serve(cpu_16_bits, 0, dense, c.outputs));
  const double off = worst_distance(expected, serve(host, 0, dense, c.outputs));
  CHECK(off < 0.8 * in_16_bits, "in eight bits, dense: logits are %.4f apart, those of 16 bits %.4f", off, in_16_bits);
  const Trace got = serve(host, 1, dropping, c.outputs);
  const int apart = blocks_apart(serve(cpu, 1, dropping, c.outputs), got);
  CHECK(apart <= 4, "in eight bits, dropping: %d blocks differ", apart);
  const std::string found = difference(got, serve(again, 1, dropping, c.outputs));
  CHECK(found.empty(), "in eight bits, the same again: %s", found.c_str());
  std::printf("ok in eight bits: at most %.4f apart, 16 bits %.4f, %d blocks differ\n", off, in_16_bits, apart);
}

// Random prompts, several at a time: every rank keeps the same rows, or the step would fail.
void check_selections(int ranks) {
  constexpr size_t wanted = 10'000;
  constexpr int slots = 8;
  Case c = of("selections", std::vector<up::LayerSpec>(3, attention_layer(8, 8, 64)), {0, 1});
  c.host.slots = slots;
  c.host.max_rows = 8192;
  c.host.device = UP_DEVICE_CUDA;
  c.host.ranks = ranks;
  Equality e(c);
  Host host(e.model, c.host);
  size_t selections = 0, kept = 0, all = 0;
  while (selections < wanted) {
    for (int slot = 0; slot < slots; slot++) {
      host.open(slot, greedy(e, e.dice.between(300, 1000), true));
      host.prefill(slot, 1 << 20);
    }
    for (const StepOutput::Selection &each : host.step().selections) {
      selections++;
      all += each.bitmap.size() * 32;
      for (const uint32_t word : each.bitmap) kept += static_cast<size_t>(__builtin_popcount(word));
    }
    for (int slot = 0; slot < slots; slot++) host.close(slot);
  }
  CHECK(kept < all, "%zu of %zu", kept, all);
  std::printf("ok selections: %zu of random prompts, the same rows kept on %d ranks\n", selections, ranks);
}

int check_fault(int ranks) {
  Case c = models().front();
  Equality e(c);
  HostOptions options = c.host;
  options.device = UP_DEVICE_CUDA;
  options.ranks = ranks;
  const auto start = std::chrono::steady_clock::now();
  std::string error;
  Host host(e.model, options);
  for (int round = 0; round < 4 && error.empty(); round++) {
    host.open(0, greedy(e, c.prompt, true));
    host.prefill(0, 1 << 20);
    error = host.try_step().error;
    if (error.empty()) {
      host.close(0);
      error = host.try_step().error;
    }
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("failed after %.1f s: %s\n", seconds, error.c_str());
  CHECK(!error.empty() && seconds < 60, "%.1f s", seconds);
  return check_result();
}

}  // namespace

int main(int argc, char **argv) {
  const int ranks = argc > 1 ? std::atoi(argv[1]) : 2;
  if (argc > 2 && std::strcmp(argv[2], "fault") == 0) return check_fault(ranks);
  for (const Case &c : models()) check_model(c, ranks);
  check_fp8(ranks);
  check_selections(ranks);
  return check_result();
}
