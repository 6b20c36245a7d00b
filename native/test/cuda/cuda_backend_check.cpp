// The CUDA backend against the reference backend, its graphs against its single launches, and what it does when the device fails.
// Needs a device, and UNIPREFILL_CUDA_LIBRARY where the library is not beside this program.
//
//   cuda_backend_check [SEEDS [NAME[,NAME]]]   everything, or the checks of these names; a line as each begins, and its seconds
//   cuda_backend_check --list         the names
//   cuda_backend_check fault STATUS   under UNIPREFILL_CUDA_FAULT: some step fails with that status, and a lost device stays lost
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>

#include "../backend_harness.h"
#include "../check.h"
#include "../random_checkpoint.h"
#include "abi/failure.h"
#include "backend_runs.h"
#include "cuda_specs.h"
#include "fp8_check.h"
#include "gated_check.h"
#include "device_backend.h"
#include "named_checks.h"
#include "sampling/sampler.h"

namespace {

// `share` of the rows are within `tolerance` of double precision: the residual stream is bf16, and the rest is for rows that sit on
// some edge. The same steps give the same bits.
void check_model(const char *what, const up::ModelTable &table, uint64_t seed, double share, double tolerance) {
  const TemporaryDirectory directory;
  const auto checkpoint = random_checkpoint(directory, table, seed, seed % 2 == 0);
  BackendHarness reference(checkpoint, {}, seed, true, make_reference);
  const Rows expected = run(reference, whole());
  BackendHarness cuda(checkpoint, {}, seed + 1, false, make_cuda, cuda_elements);
  const Rows got = run(cuda, whole());
  const double error = worst_error(got, expected, share);
  CHECK(error <= tolerance, "%s seed %d: relative error %g", what, static_cast<int>(seed), error);
  BackendHarness again(checkpoint, {}, seed + 1, false, make_cuda, cuda_elements);
  CHECK(run(again, whole()) == got, "%s seed %d: the same steps, other bits", what, static_cast<int>(seed));
  BackendHarness other(checkpoint, {}, seed + 2, true, make_cuda, cuda_elements);
  const double cut = worst_error(run(other, mixed(seed)), expected, share);
  CHECK(cut <= tolerance, "%s seed %d: relative error %g of rows cut otherwise", what, static_cast<int>(seed), cut);
  std::printf("ok %-8s seed %d: %.4f whole, %.4f cut\n", what, static_cast<int>(seed), error, cut);
}

// Wide enough that products of few rows split K.
up::ModelTable wide_model(RandomSpec &spec) {
  up::ModelTable out = cuda_model(spec, {up::Mixer::full}, false);
  out.hidden_size = 1024;
  out.vocab_size = 152;
  out.layers[0].mlp.inner = 2048;
  return out;
}

up::ModelTable plain_model(int layers, int head_dim, uint64_t seed) {
  RandomSpec spec(seed);
  up::ModelTable out = spec.model(std::vector<up::Mixer>(static_cast<size_t>(layers), up::Mixer::full), false);
  out.hidden_size = 64;
  out.logit_soft_cap = 0;
  for (up::LayerSpec &layer : out.layers) {
    layer.post_norms = false;
    layer.mlp.inner = 88;
    layer.attention = {};
    layer.attention.heads = 4;
    layer.attention.kv_heads = 2;
    layer.attention.head_dim = head_dim;
    layer.attention.scale = 1 / std::sqrt(static_cast<float>(head_dim));
    layer.attention.rope.dim = head_dim;
  }
  return out;
}

// Carry rows come back as they were, wherever their pages lie, and rows move where they are asked to.
void check_rows(uint64_t seed) {
  const TemporaryDirectory directory;
  const auto checkpoint = random_checkpoint(directory, plain_model(3, 64, seed), seed);
  BackendHarness harness(checkpoint, {1}, seed, false, make_cuda, cuda_elements);
  up::Backend &backend = harness.backend();
  constexpr int count = 200;
  const int table = harness.layout().segment(0).carry;
  std::vector<int32_t> tokens, from;
  up::CarryRows carry{0, {}, {}}, back{0, {}, {}};
  for (int i = 0; i < count; i++) {
    tokens.push_back(token_of(0, i));
    carry.slots.push_back(i % 7 == 3 ? -1 : i % 3);
    carry.rows.push_back(i);
    if (i % 7 != 3) {
      back.slots.push_back(i % 3);
      back.rows.push_back(i);
    }
  }
  for (int slot = 0; slot < 3; slot++) harness.reserve(slot, table, count);
  const auto kept = static_cast<int>(back.rows.size());
  harness.begin();
  backend.embed({0, count}, tokens);
  const std::vector<float> plain = harness.logits(count);
  harness.begin();
  backend.embed({0, count}, tokens);
  backend.write_carry({0, count}, carry);
  backend.read_carry({count, kept}, back);
  for (int i = 0; i < kept; i++) from.push_back(count + i);
  from.erase(from.begin() + 5, from.begin() + 9);
  backend.move_rows(from, 50);
  const int moved = static_cast<int>(from.size());
  const std::vector<float> got = harness.logits(50 + moved);
  const size_t vocab = plain.size() / count;
  const auto same = [&](int row, int source) {
    return std::equal(got.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(row) * vocab),
                      got.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(row + 1) * vocab),
                      plain.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(source) * vocab));
  };
  for (int i = 0; i < 50; i++) CHECK(same(i, i), "row %d did not stay", i);
  for (int i = 0; i < moved; i++) CHECK(same(50 + i, back.rows[static_cast<size_t>(from[static_cast<size_t>(i)] - count)]), "row %d", i);
}

// Prefill of segment 0 and the selection after it, on one backend.
std::vector<up::SelectionOutcome> selected(BackendHarness &harness, const std::vector<int> &rows_of, up_rule rule, double p) {
  up::Backend &backend = harness.backend();
  std::vector<up::SelectionOutcome> out;
  std::vector<up::SelectionTask> tasks;
  std::vector<Chunk> chunks;
  std::vector<int32_t> tokens;
  for (size_t slot = 0; slot < rows_of.size(); slot++) chunks.push_back({static_cast<int>(slot), 0, rows_of[slot]});
  for (const auto &[slot, first, rows] : chunks) {
    for (int i = 0; i < rows; i++) tokens.push_back(token_of(slot, i));
  }
  const int table = harness.layout().segment(0).carry, drop = harness.layout().segment(0).last_layer;
  const up::RowTable rows = harness.row_table(chunks, 0);
  for (const auto &[slot, first, count] : chunks) harness.reserve(slot, table, count);
  harness.begin();
  backend.embed({0, rows.rows()}, tokens);
  for (int layer = 0; layer < drop; layer++) harness.layer(layer, rows);
  harness.for_each_tile(rows.rows(), backend.tile_rows(), [&](up::Rows tile) {
    backend.norm(tile, drop, up::Norm::input);
    backend.linear(tile, drop, up::MatrixKind::kv);
    backend.rotate_and_write(tile, drop, up::MatrixKind::kv, rows);
  });
  up::CarryRows carry{0, {}, {}}, last{0, {}, {}};
  up::RowTable queries;
  queries.positions.resize(static_cast<size_t>(rows.rows()));
  queries.places.resize(static_cast<size_t>(rows.rows()));
  for (const auto &[slot, first, count] : chunks) {
    const up::SelectionShape shape{count, 64, 64, BackendHarness::last_q};
    for (int i = 0; i < count; i++) {
      carry.slots.push_back(slot);
      carry.rows.push_back(i);
    }
    tasks.push_back({slot, harness.layout().place(drop).table, queries.rows(), BackendHarness::last_q, shape,
                     static_cast<uint64_t>(p * 4294967296.0)});
    queries.groups.push_back({slot, queries.rows(), BackendHarness::last_q});
    for (int i = count - BackendHarness::last_q; i < count; i++) {
      queries.positions.push_back(i);
      queries.places.push_back(i);
      last.slots.push_back(slot);
      last.rows.push_back(i);
    }
  }
  backend.write_carry({0, rows.rows()}, carry);
  const up::Rows behind{rows.rows(), static_cast<int>(last.rows.size())};
  backend.read_carry(behind, last);
  backend.norm(behind, drop, up::Norm::input);
  backend.linear(behind, drop, up::MatrixKind::q);
  backend.rotate_and_write(behind, drop, up::MatrixKind::q, queries);
  out = backend.select(drop, tasks, rule);
  backend.finish()->wait();
  return out;
}

// Blocks that only one of the two keeps lie near the cut: there are few of them.
void check_selection(uint64_t seed) {
  const TemporaryDirectory directory;
  const auto checkpoint = random_checkpoint(directory, plain_model(3, seed % 2 == 0 ? 64 : 128, seed), seed);
  for (const up_rule rule : {UP_RULE_EXCLUSIVE, UP_RULE_REFERENCE}) {
    BackendHarness reference(checkpoint, {1}, seed, false, make_reference);
    BackendHarness cuda(checkpoint, {1}, seed + 5, false, make_cuda, cuda_elements);
    const std::vector<int> rows{700, 290};
    const auto expected = selected(reference, {rows[0]}, rule, 0.6), got = selected(cuda, {rows[0]}, rule, 0.6);
    CHECK(got.size() == 1 && got[0].finite && got[0].bitmap.size() == expected[0].bitmap.size());
    int differ = 0, kept = 0;
    for (size_t i = 0; i < expected[0].bitmap.size(); i++) {
      differ += __builtin_popcount(expected[0].bitmap[i] ^ got[0].bitmap[i]);
      kept += __builtin_popcount(got[0].bitmap[i]);
    }
    CHECK(differ <= 2 && kept > 2 && kept < 11, "rule %d: %d blocks differ, %d kept", static_cast<int>(rule), differ, kept);
    // Several at once as one by one.
    BackendHarness both(checkpoint, {1}, seed + 5, false, make_cuda, cuda_elements);
    const auto together = selected(both, rows, rule, 0.6);
    CHECK(together.size() == 2 && together[0].bitmap == got[0].bitmap, "rule %d: together they select otherwise", static_cast<int>(rule));
  }
}

// Rows that leave out keys, of one layer, so that a block that lies at the cut moves the rows that read it and no others. The first
// prompt's sampled rows take three requests, the last one of them not a whole one.
void check_sparse(int head_dim, uint64_t seed) {
  const TemporaryDirectory directory;
  up::ModelTable model = plain_model(1, head_dim, seed);
  model.layers[0].attention.scale = 4 / std::sqrt(static_cast<float>(head_dim));  // so that keys differ in what they are worth
  model.embedding_scale = 0.1f;                                                   // and attention is much of what comes out
  const auto checkpoint = random_checkpoint(directory, model, seed);
  const HarnessLimits limits{5000, 8192, 0.6}, all{5000, 8192, 0};
  const Steps whole{{{0, 0, 4500}}, {{1, 0, 300}, {2, 0, 2100}, {3, 0, 90}}};
  const Steps cut{{{0, 0, 2176}}, {{1, 0, 256}, {0, 2176, 2324}}, {{1, 256, 44}, {2, 0, 128}, {3, 0, 90}}, {{2, 128, 1972}}};
  BackendHarness reference(checkpoint, {}, seed, false, make_reference, {}, limits), plain(checkpoint, {}, seed, false, make_reference, {}, all);
  const Rows expected = run(reference, whole), expected_dense = run(plain, whole);
  BackendHarness dense(checkpoint, {}, seed, false, make_cuda, cuda_elements, all);
  BackendHarness cuda(checkpoint, {}, seed + 1, false, make_cuda, cuda_elements, limits);
  BackendHarness other(checkpoint, {}, seed + 2, true, make_cuda, cuda_elements, limits);
  const Rows got = run(cuda, whole), got_dense = run(dense, whole);
  const double error = worst_error(got, expected, 0.9), cut_error = worst_error(run(other, cut), expected, 0.9);
  // Sharp scores of rows in bf16 are off by this much where no keys are left out.
  const double usual = worst_error(got_dense, expected_dense, 0.9), left_out = worst_error(got_dense, expected, 0.5);
  CHECK(error <= 1.5 * usual + 0.01 && cut_error <= 1.5 * usual + 0.01 && left_out > 4 * usual + 0.05,
        "head_dim %d: %g of whole prompts, %g of cut ones, %g of prompts that leave out no keys, %g between these", head_dim, error, cut_error,
        usual, left_out);
  std::printf("ok sparse d %d: %.4f whole, %.4f cut, %.4f dense, %.4f apart\n", head_dim, error, cut_error, usual, left_out);
}

// Tokens as the host's sampler draws them from the same logits, and its log probabilities.
void check_sampling(uint64_t seed) {
  const TemporaryDirectory directory;
  const auto checkpoint = random_checkpoint(directory, plain_model(1, 64, seed), seed);
  BackendHarness harness(checkpoint, {}, seed, false, make_cuda, cuda_elements);
  const int vocab = checkpoint->table().vocab_size;
  std::mt19937_64 random(seed);
  const auto chance = [&](int of) { return random() % static_cast<uint64_t>(of) == 0; };
  constexpr int slots = BackendHarness::slots;
  std::vector<std::vector<int32_t>> tokens(slots);
  std::vector<up::Sampling> sampling(slots);
  std::vector<int> prompts(slots), given(slots);
  for (int slot = 0; slot < slots; slot++) {
    const auto at = static_cast<size_t>(slot);
    prompts[at] = 1 + static_cast<int>(random() % 40);
    given[at] = prompts[at] + static_cast<int>(random() % 5);
    for (int i = 0; i < given[at]; i++) tokens[at].push_back(static_cast<int32_t>(random() % 150));
    up::Sampling &s = sampling[at];
    s.temperature = chance(4) ? 0 : 0.7;
    s.top_k = chance(3) ? 20 : 0;
    s.top_p = chance(2) ? 0.9 : 1;
    s.min_p = chance(3) ? 0.01 : 0;
    s.seed = random();
    if (slot > 0) {
      s.frequency_penalty = chance(2) ? 0.5 : 0;
      s.presence_penalty = chance(2) ? 0.3 : 0;
      s.repetition_penalty = chance(2) ? 1.3 : 1;
    }
    s.logprobs = static_cast<int>(random() % 7) - 1;
    if (chance(3)) s.bias = {{3, 2.5f}, {77, -4.0f}, {3, 1.0f}};
    if (chance(3)) {
      s.restricted = true;
      for (int token = static_cast<int>(seed % 5); token < vocab; token += 5) s.allowed.push_back(token);
    }
    s.stop_tokens = {7, 21, 22};
    s.min_tokens = 8;
  }
  up::Sampler host(vocab);
  int drawn = 0, differ = 0;
  for (int step = 0; step < 12; step++) {
    std::vector<int32_t> inputs;
    std::vector<up::SampleTask> tasks;
    for (int slot = 0; slot < slots; slot++) {
      const auto at = static_cast<size_t>(slot);
      // The last token by its slot from the second step on: it is on the device.
      inputs.push_back(step == 0 ? tokens[at].back() : -1 - slot);
      const auto index = static_cast<uint64_t>(tokens[at].size()) - static_cast<uint64_t>(prompts[at]);
      tasks.push_back({slot, slot, &sampling[at], static_cast<uint64_t>(slot), index,
                       std::span<const int32_t>(tokens[at]).first(static_cast<size_t>(given[at])), prompts[at], true});
    }
    // Rows in any order, one of them twice.
    if (step % 3 == 1) std::reverse(tasks.begin(), tasks.end());
    if (step % 3 == 2) tasks[1].row = tasks[0].row;
    harness.begin();
    harness.backend().embed({0, slots}, inputs);
    harness.backend().norm({0, slots}, -1, up::Norm::final);
    harness.backend().linear({0, slots}, -1, up::MatrixKind::lm_head);
    harness.backend().sample(tasks);
    const up::Outputs out = harness.backend().finish()->wait();
    CHECK(out.tokens.size() == tasks.size() && out.logits.size() == tasks.size());
    for (size_t i = 0; i < tasks.size(); i++) {
      const up::SampleTask &task = tasks[i];
      const auto at = static_cast<size_t>(task.slot);
      const up::Sample expected = host.sample(out.logits[i].values, *task.sampling, tokens[at], prompts[at]);
      const up::Sample &got = out.tokens[i].sample;
      CHECK(out.tokens[i].slot == task.slot && !got.non_finite);
      drawn++;
      differ += got.token != expected.token;
      CHECK(got.logprobs.size() == expected.logprobs.size(), "slot %d: %zu logprobs", task.slot, got.logprobs.size());
      for (size_t j = got.token == expected.token ? 0 : 1; j < std::min(got.logprobs.size(), expected.logprobs.size()); j++) {
        CHECK(got.logprobs[j].first == expected.logprobs[j].first && std::fabs(got.logprobs[j].second - expected.logprobs[j].second) < 1e-4,
              "slot %d, logprob %zu: %d %g, not %d %g", task.slot, j, got.logprobs[j].first, static_cast<double>(got.logprobs[j].second),
              expected.logprobs[j].first, static_cast<double>(expected.logprobs[j].second));
      }
      tokens[at].push_back(got.token);
    }
  }
  // Draws land on the border of two tokens now and then, since the two round otherwise.
  CHECK(differ <= 1, "seed %d: %d of %d tokens differ", static_cast<int>(seed), differ, drawn);

  const std::vector<int32_t> inputs{5, 6, 7};
  harness.begin();
  harness.backend().embed({0, 3}, inputs);
  harness.backend().norm({0, 3}, -1, up::Norm::final);
  harness.backend().linear({0, 3}, -1, up::MatrixKind::lm_head);
  up::Sampling plain;
  plain.logprobs = 40;
  const std::vector<up::SampleTask> draw{{2, 1, &plain, 99, 0, {inputs.data(), 1}, 1, false}};
  const std::vector<up::LogprobTask> ask{{0, 1, 10, 6, 3}, {1, 1, 11, 7, 0}};
  harness.backend().sample(draw);
  harness.backend().logprobs(ask);
  const up::Outputs out = harness.backend().finish()->wait();
  CHECK(out.tokens.size() == 1 && out.tokens[0].sample.logprobs.size() == 41 &&
        out.tokens[0].sample.logprobs[0] == out.tokens[0].sample.logprobs[1]);
  CHECK(out.prompt_logprobs.size() == 2 && out.prompt_logprobs[0].prompt_row == 10 && out.prompt_logprobs[0].logprobs.size() == 4 &&
        out.prompt_logprobs[0].logprobs[0].first == 6 && out.prompt_logprobs[1].logprobs.size() == 1);
}

// Two steps in flight give what one at a time gives.
void check_in_flight(uint64_t seed) {
  const TemporaryDirectory directory;
  const auto checkpoint = random_checkpoint(directory, plain_model(2, 64, seed), seed);
  std::vector<std::vector<int32_t>> runs;
  for (const bool overlapped : {false, true}) {
    BackendHarness harness(checkpoint, {}, seed, false, make_cuda, cuda_elements);
    up::Backend &backend = harness.backend();
    up::Sampling greedy;
    std::vector<int32_t> drawn;
    std::unique_ptr<up::PendingOutputs> before;
    const auto take = [&](std::unique_ptr<up::PendingOutputs> step) {
      for (const auto &token : step->wait().tokens) drawn.push_back(token.sample.token);
    };
    for (int i = 0; i < 40; i++) {
      std::vector<Chunk> chunks;
      std::vector<int32_t> tokens;
      std::vector<up::SampleTask> tasks;
      for (int slot = 0; slot < 3; slot++) {
        chunks.push_back({slot, i, 1});
        tokens.push_back(i == 0 ? 10 + slot : -1 - slot);
        tasks.push_back({slot, slot, &greedy, static_cast<uint64_t>(slot) + 1, static_cast<uint64_t>(i), {&tokens[0], 1}, 1, false});
      }
      const up::RowTable rows = harness.row_table(chunks, 0);
      harness.begin();
      backend.embed({0, 3}, tokens);
      for (int layer = 0; layer < 2; layer++) harness.layer(layer, rows);
      backend.norm({0, 3}, -1, up::Norm::final);
      backend.linear({0, 3}, -1, up::MatrixKind::lm_head);
      backend.sample(tasks);
      auto step = backend.finish();
      if (!overlapped) {
        take(std::move(step));
        continue;
      }
      if (before) take(std::move(before));
      before = std::move(step);
    }
    if (before) take(std::move(before));
    runs.push_back(std::move(drawn));
  }
  CHECK(runs[0].size() == 120 && runs[0] == runs[1]);
}

// What cannot run is refused by name when it is loaded.
void check_refusals() {
  const auto refused = [](up::ModelTable table, const std::function<void(up::BackendOptions &)> &change, up_status status, const char *part) {
    const TemporaryDirectory directory;
    const auto checkpoint = random_checkpoint(directory, std::move(table), 1);
    try {
      BackendHarness harness(
          checkpoint, {}, 1, false,
          [&](std::shared_ptr<const up::Checkpoint> from, up::BackendOptions options) {
            change(options);
            return make_cuda(std::move(from), options);
          },
          cuda_elements);
      CHECK(false, "%s was not refused", part);
    } catch (const up::Failure &failure) {
      CHECK(failure.status == status && failure.detail.find(part) != std::string::npos, "%s: %s", up_status_name(failure.status),
            failure.detail.c_str());
    }
  };
  const auto as_it_is = [](up::BackendOptions &) {};
  up::ModelTable heads = plain_model(1, 64, 1);
  heads.layers[0].attention.head_dim = 96;
  heads.layers[0].attention.rope.dim = 96;
  refused(heads, as_it_is, UP_UNSUPPORTED_MODEL, "layers[0].mixer.headDim is 96");
  up::ModelTable rope = plain_model(2, 64, 1);
  rope.layers[1].attention.rope.dim = 24;
  refused(rope, as_it_is, UP_UNSUPPORTED_MODEL, "layers[1].mixer.rope.dim is 24");
  refused(plain_model(1, 64, 1), [](up::BackendOptions &o) { o.slabs = 1 << 30; }, UP_OUT_OF_MEMORY, "slabs of");
  refused(plain_model(1, 64, 1), [](up::BackendOptions &o) { o.layout.page_size = 512; }, UP_INVALID_ARGUMENT, "pageSize is 512");
}

int check_fault(const char *wanted) {
  const TemporaryDirectory directory;
  const auto checkpoint = random_checkpoint(directory, plain_model(2, 64, 1), 1);
  std::optional<BackendHarness> harness;
  bool failed = false;
  const auto fails = [&](auto &&action) {
    try {
      action();
      return false;
    } catch (const up::Failure &failure) {
      std::printf("%s: %s: %s\n", up_status_name(failure.status), failure.phase.c_str(), failure.detail.c_str());
      CHECK(std::strcmp(up_status_name(failure.status), wanted) == 0, "%s was expected", wanted);
      return true;
    }
  };
  failed = fails([&] { harness.emplace(checkpoint, std::vector<int>{}, 1, false, make_cuda, cuda_elements); });
  for (int step = 0; step < 3 && !failed; step++)
    failed = fails([&] { run(*harness, {{{0, 40 * step, 40}}}); });
  CHECK(failed, "nothing failed");
  if (!harness) return check_result();
  // A lost device stays lost; after anything else the next step is as good as any.
  const bool again = fails([&] { run(*harness, {{{1, 0, 40}}}); });
  CHECK(again == (std::strcmp(wanted, "UP_DEVICE_LOST") == 0));
  return check_result();
}

std::vector<Check> checks() {
  using enum up::Mixer;
  const auto model = [](const char *name, double share, double tolerance, const std::function<up::ModelTable(RandomSpec &)> &make) {
    return Check{name, false, [=](uint64_t seed) {
                   RandomSpec spec(seed);
                   check_model(name, make(spec), seed, share, tolerance);
                 }};
  };
  const auto of = [](std::vector<up::Mixer> mixers, bool moe = false) {
    return [=](RandomSpec &spec) { return cuda_model(spec, mixers, moe); };
  };
  return {{"refusals", true, [](uint64_t) { check_refusals(); }},
          model("full", 0.9, 0.02, of({full})),
          model("sliding", 0.9, 0.02, of({sliding})),
          model("wide", 0.9, 0.02, wide_model),
          {"fp8", false,
           [=](uint64_t seed) {
             RandomSpec spec(seed);
             check_fp8("fp8", of({full})(spec), seed);
             check_fp8("fp8 delta", of({delta})(spec), seed);
             check_fp8("fp8 moe", of({full}, true)(spec), seed);
           }},
          {"gated", false,
           [=](uint64_t seed) {
             RandomSpec spec(seed);
             check_gated("gated", of({full})(spec), seed);
             check_gated("gated, shared expert", of({full}, true)(spec), seed);
           }},
          model("windows", 0.5, 0.04, of({sliding, full, sliding, full})),
          model("delta", 0.9, 0.02, of({delta})),
          model("experts", 0.9, 0.02, of({full}, true)),
          {"hybrid", false,
           [=](uint64_t seed) {
             RandomSpec spec(seed);
             check_model("hybrid", of({delta, full, delta, delta}, seed % 2 == 0)(spec), seed, 0.5, 0.04);
           }},
          {"rows", false, check_rows},
          {"selection", false, check_selection},
          {"sparse", false, [](uint64_t seed) { check_sparse(64 << (seed % 3), seed); }},
          {"sampling", false, check_sampling},
          {"in-flight", false, check_in_flight}};
}

}  // namespace

int main(int argc, char **argv) {
  if (argc > 2 && std::strcmp(argv[1], "fault") == 0) return check_fault(argv[2]);
  if (argc > 1 && std::strcmp(argv[1], "--list") == 0) {
    for (const Check &each : checks()) std::printf("%s\n", each.name);
    return 0;
  }
  char *end = nullptr;
  const uint64_t seeds = argc > 1 ? std::strtoull(argv[1], &end, 10) : 4;
  if (seeds == 0 || (end != nullptr && *end != 0)) {
    std::fprintf(stderr, "SEEDS is %s, a number from 1 on was expected\n", argv[1]);
    return 2;
  }
  const std::vector<Check> all = named(checks(), argc > 2 ? argv[2] : "");
  for (uint64_t seed = 1; seed <= seeds; seed++)
    for (const Check &each : all)
      if (!each.once || seed == 1) run_check(each, seed);
  return check_result();
}
