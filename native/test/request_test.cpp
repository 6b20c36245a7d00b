// What single requests ask for, in steps of every make: log-probabilities of prompts, tokens that fail alone, chunks without rows, steps
// that only decode, tiles of logits, stop tokens.
#include "check.h"
#include "random_cases.h"

namespace {

using up::Section;
using PromptLogprobs = std::map<int, Logprobs>;

void expect_equal(const Trace &expected, const Trace &found, const char *what) {
  const std::string text = difference(expected, found);
  CHECK(text.empty(), "%s: %s", what, text.c_str());
}

Logprobs logprobs_of(const std::vector<float> &logits, int32_t token, int count) {
  double total = 0;
  const float top = *std::max_element(logits.begin(), logits.end());
  for (const float logit : logits) total += std::exp(static_cast<double>(logit) - top);
  std::vector<int32_t> order(logits.size());
  for (size_t i = 0; i < order.size(); i++) order[i] = static_cast<int32_t>(i);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)]; });
  Logprobs out;
  const auto add = [&](int32_t t) { out.emplace_back(t, static_cast<float>(logits[static_cast<size_t>(t)] - top - std::log(total))); };
  add(token);
  for (int i = 0; i < count; i++) add(order[static_cast<size_t>(i)]);
  return out;
}

// Every prompt row but the last, however the prompt is cut and whoever is beside it: what a request for the rows before it would yield.
void check_prompt_logprobs(const Case &c) {
  Equality e(c);
  SlotSpec spec = e.drawn(e.tokens(90), false);
  spec.prompt_logprobs = 3;
  Host host(e.model, c.host);
  const auto serve_with = [&](const SlotSpec &request, const Pace &pace, bool beside, PromptLogprobs &rows) {
    Trace trace;
    host.open(0, request);
    if (beside) {
      host.open(1, e.drawn(e.tokens(200), true));
      host.open(2, e.drawn(e.tokens(33), false));
      host.prefill(2, 1000);
      host.step();
      host.join(2);
    }
    for (bool first = true; static_cast<int>(trace.tokens.size()) < 3; first = false) {
      if (beside && !first) host.grow_decode(2);
      if (beside && !host.progress(1).prefilled) host.prefill(1, 60);
      if (host.progress(0).prefilled) decode(host, 0);
      else prefill(host, 0, pace);
      const StepOutput out = host.step();
      record(trace, out, 0);
      CHECK(out.prompt_logprobs.size() <= 1);
      if (!out.prompt_logprobs.contains(0)) continue;
      for (const auto &[row, logprobs] : out.prompt_logprobs.at(0)) CHECK(rows.emplace(row, logprobs).second, "row %d comes twice", row);
    }
    for (int slot = 0; slot < (beside ? 3 : 1); slot++) host.close(slot);
    return trace;
  };
  PromptLogprobs whole;
  const Trace trace = serve_with(spec, {}, false, whole);
  CHECK(whole.size() == 89 && whole.begin()->first == 0 && whole.rbegin()->first == 88);
  SlotSpec plain = spec;
  plain.prompt_logprobs = -1;
  expect_equal(trace, serve(host, 0, plain, 3), "asking for them changes what is drawn");
  for (int row = 0; row < 89; row += 8) {
    const std::vector<int32_t> before(spec.tokens.begin(), spec.tokens.begin() + row + 1);
    const Trace prefix = serve(host, 0, prompt_of(before, false), 1);
    const Logprobs expected = logprobs_of(prefix.logits[0], spec.tokens[static_cast<size_t>(row) + 1], 3);
    const Logprobs &found = whole[row];
    CHECK(found.size() == 4);
    for (size_t i = 0; i < found.size(); i++) {
      CHECK(found[i].first == expected[i].first && std::abs(found[i].second - expected[i].second) < 1e-4f, "row %d, %zu: token %d %.5f, expected %d %.5f",
            row, i, found[i].first, found[i].second, expected[i].first, expected[i].second);
    }
  }
  for (const bool beside : {false, true}) {
    PromptLogprobs rows;
    expect_equal(trace, serve_with(spec, e.dice.pace(1, 40, 0), beside, rows), "in chunks");
    CHECK(rows == whole, "%s: chunks change them%s", c.name.c_str(), beside ? " beside others" : "");
  }
  // Output that comes along has no log-probabilities; its rows are computed all the same.
  PromptLogprobs rows;
  SlotSpec resumed_spec = resumed(spec, trace, 2, 0);
  host.open(0, resumed_spec);
  host.prefill(0, 1000);
  const StepOutput out = host.step();
  CHECK(out.prompt_logprobs.at(0) == whole && out.logits.at(0) == trace.logits[2]);
}

// A token whose embedding is not finite: the request that holds it fails, and nobody else does, beside it or in its memory after it.
void check_failing_request(Case c) {
  c.model.tied = false;
  c.host.slots = 4;
  const TestModel sound(c.model);
  const TemporaryDirectory directory;
  RandomModel broken = c.model;
  std::vector<NamedTensor> tensors = random_tensors(broken);
  CHECK(tensors[0].name == "model.embedding.weight");
  for (const size_t at : {0, 1}) tensors[0].bytes[static_cast<size_t>(5 * c.model.hidden) * 2 + at] = at == 0 ? static_cast<char>(0xc0) : 0x7f;
  Equality e(c);
  directory.write("model-0.safetensors", safetensors_bytes(tensors));
  TestModel model(broken);
  model.table = model_table_json(broken, directory.path());
  model.checkpoint = TestModel::load(model.table);
  const auto without = [](std::vector<int32_t> list) {
    std::replace(list.begin(), list.end(), 5, 6);
    return list;
  };
  SlotSpec good = e.request;
  good.tokens = without(good.tokens);
  good.sampling.allowed_count = 1;  // never token 5
  static const int32_t allowed[] = {7};
  good.sampling.allowed_tokens = allowed;
  SlotSpec bad = e.drawn(without(e.tokens(280)), e.drops());
  bad.tokens[200] = 5;
  bad.sampling.logprobs = 2;
  Host alone(model, c.host);
  const Trace expected = serve(alone, 0, good, 4);

  Host host(model, c.host);
  host.open(0, good);
  host.open(1, bad);
  Trace trace;
  while (static_cast<int>(trace.tokens.size()) < 4) {
    for (const int slot : {1, 0}) {
      if (host.progress(slot).prefilled) decode(host, slot);
      else host.prefill(slot, 170);
    }
    const StepOutput out = host.step();
    record(trace, out, 0);
    CHECK(!out.failures.contains(0) && !out.tokens.contains(1) && !out.logprobs.contains(1));
    CHECK(!out.failures.contains(1) || out.failures.at(1) == up::failure_non_finite);
    CHECK(out.failures.contains(1) == out.tokens.contains(0), "the bad request fails with every token");
    // Scores that are not finite keep everything, and say so.
    for (const auto &selection : out.selections) {
      const ScheduleSpec &s = c.host.schedule;
      const bool is_bad = selection.slot == 1;
      CHECK(selection.flags == (is_bad ? up::selection_fallback : 0), "%s: slot %d", c.name.c_str(), selection.slot);
      if (is_bad) CHECK(selection.bitmap == up::full_bitmap({280, s.block, s.sink, s.last_q}));
    }
  }
  expect_equal(expected, trace, "beside one that fails");
  for (const int slot : {0, 1}) host.close(slot);
  // The free list is last in, first out: what the bad one held is taken again.
  for (const int slot : {1, 2}) expect_equal(expected, serve(host, slot, good, 4, e.dice.pace(30, 100, 1)), "in the memory of one that failed");
}

// Everything of segment 0 is cached: the item has no rows, and selects; in a step of its own, or going on.
void check_chunks_without_rows(Case c) {
  c.prompt = 256;
  c.host.page_size = 64;
  Equality e(c);
  for (const int more : {0, 64}) {
    Host host(e.model, c.host);
    host.open(0, e.request);
    host.prefill(0, 256, 0);
    host.step();
    const Prefix prefix = host.cache(0, 256);
    host.open(1, e.request);
    host.step();
    host.hit(1, prefix);
    host.open(2, e.drawn(e.tokens(50), false));
    host.prefill(2, 30);
    host.prefill(1, 1000, more);
    CHECK((host.plan[Section::items] == std::vector<int32_t>{2, 0, 30, 0, host.layout.last_segment(), 1, 256, 0, 0, std::min(more, host.layout.last_segment())}));
    Trace trace;
    record(trace, host.step(), 1);
    prefill_alone(host, 1, {}, trace);
    decode_alone(host, 1, c.outputs, trace);
    expect_equal(e.whole(), trace, more == 0 ? "selecting without rows" : "going on without rows");
  }
}

// One step of a decode row, a prompt with log-probabilities, a chunk of one that does not drop, one that ends its first segment, and one
// that begins a later segment.
void check_mixed_step(const Case &c) {
  Equality e(c);
  std::vector<SlotSpec> specs;
  for (int slot = 0; slot < 6; slot++) specs.push_back(e.drawn(e.tokens(150 + 37 * slot), slot >= 3));
  specs[1].prompt_logprobs = 1;
  std::vector<Trace> traces(6);
  Host host(e.model, c.host);
  const auto step = [&] {
    const StepOutput out = host.step();
    for (int slot = 0; slot < 6; slot++) record(traces[static_cast<size_t>(slot)], out, slot);
  };
  for (int slot = 0; slot < 6; slot++) host.open(slot, specs[static_cast<size_t>(slot)]);
  host.prefill(0, 1000);
  host.prefill(1, 40);
  host.prefill(2, 50);
  host.prefill(3, 1000, 0);
  host.prefill(4, 200, 0);
  step();
  CHECK(host.progress(3).segment == 1 && host.progress(3).computed == 0);
  host.join(0);
  host.prefill(3, 60, 0);    // the first rows of segment 1
  host.prefill(1, 1000);
  host.prefill(5, 100);      // and of segment 0
  host.prefill(2, 30);
  host.prefill(4, 1000, 1);  // through the end of segment 0
  step();
  for (int slot = 0; slot < 6; slot++) {
    while (!host.progress(slot).prefilled) {
      host.prefill(slot, 70);
      host.grow_decode(0);
      step();
    }
  }
  host.leave(0);
  for (int slot = 1; slot < 6; slot++) host.join(slot);
  step();
  for (int slot = 0; slot < 6; slot++) {
    const Trace &trace = traces[static_cast<size_t>(slot)];
    Host alone(e.model, c.host);
    expect_equal(serve(alone, slot, specs[static_cast<size_t>(slot)], static_cast<int>(trace.tokens.size())), trace, "in a step of all kinds");
  }
}

// More rows of logits than a tile holds, of decode rows and of prompts; then steps that hold nothing.
void check_many_slots(Case c) {
  c.host.slots = 90;
  c.host.state_slots = 100;
  Equality e(c);
  Host host(e.model, c.host);
  std::vector<SlotSpec> specs;
  std::vector<Trace> traces(90);
  for (int slot = 0; slot < 90; slot++) {
    specs.push_back(e.drawn(e.tokens(3 + slot % 7), false));
    host.open(slot, specs.back());
    host.prefill(slot, 1000);
  }
  for (int i = 0; i < 3; i++) {
    const StepOutput out = host.step();
    CHECK(out.tokens.size() == 90);
    for (int slot = 0; slot < 90; slot++) {
      record(traces[static_cast<size_t>(slot)], out, slot);
      if (i < 2) decode(host, slot);
    }
  }
  Host alone(e.model, c.host);
  for (int slot = 0; slot < 90; slot += 11) {
    expect_equal(serve(alone, 0, specs[static_cast<size_t>(slot)], 3), traces[static_cast<size_t>(slot)], "among ninety");
  }
  for (int slot = 0; slot < 90; slot++) host.close(slot);
  for (int i = 0; i < 2; i++) {
    const StepOutput out = host.step();
    CHECK(out.tokens.empty() && out.logits.empty() && out.selections.empty() && out.step_id == host.next_step - 1);
  }
  CHECK(static_cast<int>(host.free.size()) == c.host.slabs);
}

// The sampled token's log-probability first; a stop token is flagged; a join may name another token to go on from.
void check_tokens(const Case &c) {
  Equality e(c);
  Host host(e.model, c.host);
  SlotSpec spec = prompt_of({1, 2, 3}, false);
  spec.sampling.logprobs = 2;
  host.open(0, spec);
  host.prefill(0, 3);
  const StepOutput first = host.step();
  const std::vector<float> &logits = first.logits.at(0);
  const auto best = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  CHECK(first.tokens.at(0) == best && first.token_flags.at(0) == 0 && first.failures.empty());
  const Logprobs expected = logprobs_of(logits, best, 2);
  CHECK(first.logprobs.at(0).size() == 3 && expected[0] == expected[1]);
  for (size_t i = 0; i < 3; i++) {
    const auto &[token, logprob] = first.logprobs.at(0)[i];
    CHECK(token == expected[i].first && std::abs(logprob - expected[i].second) < 1e-5f);
  }
  spec.sampling.stop_count = 1;
  spec.sampling.stop_tokens = &best;
  host.open(1, spec);
  host.prefill(1, 3);
  CHECK(host.step().token_flags.at(1) == up::token_stop);
  host.join(0, 7);
  const StepOutput forced = host.step();
  host.open(2, prompt_of({1, 2, 3, 7}, false));
  host.prefill(2, 4);
  host.grow_decode(0);
  CHECK(host.step().logits.at(2) == forced.logits.at(0));
}

}  // namespace

int main() {
  const std::vector<Case> list = {cases::llama(), cases::gemma(40, false), cases::qwen(true, true), cases::hybrid()};
  for (const Case &c : list) {
    const int before = check_failures;
    check_prompt_logprobs(c);
    check_failing_request(c);
    check_chunks_without_rows(c);
    check_mixed_step(c);
    check_tokens(c);
    if (check_failures > before) std::fprintf(stderr, "%s\n", cases::describe(c).c_str());
  }
  check_many_slots(cases::qwen(false, false));
  return check_result();
}
