// Options, slots and handles: what a runner refuses, and that handles may go in any order.
#include <cmath>
#include <functional>

#include "check.h"
#include "random_model.h"
#include "runner_host.h"

namespace {

std::string directory;

up_model *open_model() {
  up_model *model = nullptr;
  CHECK(up_model_open(directory.c_str(), &model) == UP_OK, "%s", up_last_error().detail);
  return model;
}

const int32_t drop_layers[] = {0, 1};

up_runner_options good_options() {
  up_runner_options out{};
  out.size = sizeof out;
  out.schedule = {sizeof out.schedule, 1, drop_layers, UP_RULE_EXCLUSIVE, 64, 64, 64, 0};
  out.page_size = 64;
  out.slabs = 32;
  out.slots = 2;
  out.max_rows_per_step = 256;
  out.max_tokens = 200;
  out.threads = 1;
  return out;
}

void check_options(const std::function<void(up_runner_options &)> &change, const char *expected,
                   up_status status = UP_INVALID_ARGUMENT) {
  up_model *model = open_model();
  up_runner_options options = good_options();
  change(options);
  up_runner *runner = nullptr;
  CHECK(up_runner_create(model, &options, &runner) == status, "%s", expected);
  CHECK(runner == nullptr);
  CHECK(std::string(up_last_error().detail).find(expected) != std::string::npos, "expected \"%s\", got \"%s\"", expected,
        up_last_error().detail);
  up_model_close(model);
}

void check_all_options() {
  check_options([](auto &o) { o.size = 8; }, "options.size is 8, this library's is");
  check_options([](auto &o) { o.schedule.size = 8; }, "schedule.size is 8");
  check_options([](auto &o) { o.page_size = 96; }, "page_size is 96, no multiple of 64");
  check_options([](auto &o) { o.page_size = 0; }, "page_size is 0, an integer from 64");
  check_options([](auto &o) { o.slabs = 0; }, "slabs is 0");
  check_options([](auto &o) { o.slabs = INT32_MAX; o.page_size = 4096; o.schedule.size = 0; }, "2147483647 slabs of", UP_OUT_OF_MEMORY);
  check_options([](auto &o) { o.slots = 5000; }, "slots is 5000, an integer from 1 to 4096");
  check_options([](auto &o) { o.max_rows_per_step = 0; }, "max_rows_per_step is 0");
  check_options([](auto &o) { o.max_tokens = 1000; }, "max_tokens is 1000, an integer from 1 to 512");
  check_options([](auto &o) { o.threads = -1; }, "threads is -1");
  check_options([](auto &o) { o.kernels = static_cast<up_kernels>(9); }, "kernels is 9");
  check_options([](auto &o) { o.schedule.drop_layer_count = 48; }, "drop_layer_count is 48, at most 47");
  check_options([](auto &o) { o.schedule.drop_layers = nullptr; }, "schedule.drop_layers is NULL");
  check_options([](auto &o) { static const int32_t last[] = {2}; o.schedule.drop_layers = last; },
                "drop_layers[0] is 2, layers 0 to 1 of 3 may drop");
  check_options([](auto &o) { static const int32_t down[] = {1, 1}; o.schedule.drop_layers = down; o.schedule.drop_layer_count = 2; },
                "drop_layers[1] is 1 after 1, not ascending");
  check_options([](auto &o) { o.schedule.rule = static_cast<up_rule>(2); }, "rule is 2");
  check_options([](auto &o) { o.schedule.block = 48; }, "block is 48");
  check_options([](auto &o) { o.schedule.sink = -1; }, "sink is -1");
  check_options([](auto &o) { o.schedule.last_q = 0; }, "last_q is 0");
}

struct Opened {
  up_runner *runner = nullptr;
  std::vector<int32_t> tokens = std::vector<int32_t>(100, 3);
  std::vector<uint64_t> p = {uint64_t{1} << 31};
  std::vector<uint32_t> bitmap = {0b11};
  std::vector<int32_t> words = {1};
  up_slot_content content{};

  Opened() {
    up_model *model = open_model();
    const up_runner_options options = good_options();
    CHECK(up_runner_create(model, &options, &runner) == UP_OK, "%s", up_last_error().detail);
    up_model_close(model);
    content.size = sizeof content;
    content.token_count = 100;
    content.tokens = tokens.data();
    content.prompt_length = 100;
    content.drops = 1;
    content.p_q32 = p.data();
    content.bitmap_words = words.data();
    content.bitmaps = bitmap.data();
    content.sampling = greedy_sampling();
  }
  ~Opened() { up_runner_destroy(runner); }
};

void check_slot(const std::function<void(Opened &)> &change, const char *expected) {
  Opened opened;
  change(opened);
  CHECK(up_slot_open(opened.runner, &opened.content) == UP_INVALID_ARGUMENT, "%s", expected);
  CHECK(std::string(up_last_error().detail).find(expected) != std::string::npos, "expected \"%s\", got \"%s\"", expected,
        up_last_error().detail);
  // The slot is as it was: closed.
  CHECK(up_slot_close(opened.runner, 0) == UP_INVALID_ARGUMENT);
}

void check_slots() {
  check_slot([](Opened &o) { o.content.size = 0; }, "content.size is 0");
  check_slot([](Opened &o) { o.content.slot = 2; }, "slot is 2 of 2");
  check_slot([](Opened &o) { o.content.slot = -1; }, "slot is -1 of 2");
  check_slot([](Opened &o) { o.content.token_count = 201; }, "token_count is 201, a slot holds 1 to 200");
  check_slot([](Opened &o) { o.content.token_count = 0; }, "token_count is 0");
  check_slot([](Opened &o) { o.content.prompt_length = 101; }, "prompt_length is 101 of 100");
  check_slot([](Opened &o) { o.content.tokens = nullptr; }, "tokens is NULL");
  check_slot([](Opened &o) { o.tokens[99] = 48; }, "tokens[99] is 48, the vocabulary has 48");
  check_slot([](Opened &o) { o.tokens[1] = -1; }, "tokens[1] is -1");
  check_slot([](Opened &o) { o.content.p_q32 = nullptr; }, "p_q32 is NULL");
  check_slot([](Opened &o) { o.p[0] = (uint64_t{1} << 32) + 1; }, "p_q32[0] is 4294967297, at most 4294967296");
  check_slot([](Opened &o) { o.content.bitmap_count = 2; }, "bitmap_count is 2, this slot has 1 selections");
  check_slot([](Opened &o) { o.content.bitmap_count = 1; o.content.drops = 0; }, "bitmap_count is 1, this slot has 0");
  check_slot([](Opened &o) { o.content.bitmap_count = 1; o.words[0] = 2; }, "bitmap 0 has 2 words, 100 rows need 1");
  check_slot([](Opened &o) { o.content.bitmap_count = 1; o.bitmap[0] = 4; }, "bitmap 0 sets bits beyond its 2 blocks");
  check_slot([](Opened &o) { o.content.sampling.top_p = 2; }, "top_p is 2");
  Opened opened;
  CHECK(up_slot_open(opened.runner, &opened.content) == UP_OK);
  CHECK(up_slot_open(opened.runner, &opened.content) == UP_INVALID_ARGUMENT);
  CHECK(std::string(up_last_error().detail) == "slot 0 is open already");
  CHECK(up_slot_close(opened.runner, 0) == UP_OK && up_slot_close(opened.runner, 0) == UP_INVALID_ARGUMENT);
  CHECK(std::string(up_last_error().detail) == "slot 0 is not open");
}

// A model whose last norm overflows: the token is flagged, and nothing crashes.
void check_non_finite_logits() {
  const TemporaryDirectory broken;
  RandomModel spec;
  spec.layers = 2;
  broken.write("config.json", config_json(spec));
  std::vector<NamedTensor> tensors = random_tensors(spec);
  tensors[1].bytes[0] = static_cast<char>(0xc0);  // NaN
  tensors[1].bytes[1] = 0x7f;
  broken.write("model.safetensors", safetensors_bytes(tensors));
  Host host(broken.path(), {});
  SlotSpec slot{{1, 2, 3}, 3, false, {}};
  slot.sampling.logprobs = 2;
  host.open(0, slot);
  host.prefill(0, 3);
  StepOutput out = host.step();
  CHECK(out.tokens.at(0) == 0 && out.token_flags.at(0) == up::token_non_finite && !out.logprobs.contains(0));
  host.join(0);
  out = host.step();
  CHECK(out.token_flags.at(0) == up::token_non_finite);
}

// Scores that are not finite keep everything, and say so.
void check_non_finite_scores() {
  const TemporaryDirectory broken;
  RandomModel spec;
  spec.layers = 2;
  spec.vocab = 16;
  broken.write("config.json", config_json(spec));
  std::vector<NamedTensor> tensors = random_tensors(spec);
  tensors[0].bytes[5 * spec.hidden * 2] = static_cast<char>(0xc0);  // an element of token 5's embedding is NaN
  tensors[0].bytes[5 * spec.hidden * 2 + 1] = 0x7f;
  broken.write("model.safetensors", safetensors_bytes(tensors));
  HostOptions options;
  options.schedule.layers = {0};
  Host host(broken.path(), options);
  SlotSpec slot{std::vector<int32_t>(300, 1), 300, true, {}};
  slot.tokens[140] = 5;
  host.open(0, slot);
  host.prefill(0, 300);
  const StepOutput out = host.step();
  CHECK(out.selections.at(0).flags == up::selection_fallback);
  CHECK(out.selections.at(0).bitmap == std::vector<uint32_t>{0b11111});
}

void check_sampled_tokens() {
  HostOptions options;
  options.max_tokens = 512;
  Host host(directory, options);
  SlotSpec slot{{1, 2, 3}, 3, false, {}};
  slot.sampling.logprobs = 2;
  host.open(0, slot);
  host.prefill(0, 3);
  const StepOutput first = host.step();
  const auto &logits = first.logits.at(0);
  const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
  CHECK(first.tokens.at(0) == best && first.token_flags.at(0) == 0);
  const auto &logprobs = first.logprobs.at(0);
  CHECK(logprobs.size() == 3 && logprobs[0] == logprobs[1] && logprobs[0].first == best);
  double total = 0;
  for (const float logit : logits) total += std::exp(logit - logits[static_cast<size_t>(best)]);
  CHECK(std::abs(logprobs[0].second + std::log(total)) < 1e-5);
  // A stop token is flagged; a join may name another token to go on from.
  const int32_t stop = first.tokens.at(0);
  slot.sampling.stop_count = 1;
  slot.sampling.stop_tokens = &stop;
  host.open(1, slot);
  host.prefill(1, 3);
  CHECK(host.step().token_flags.at(1) == up::token_stop);
  host.join(0, 7);
  const StepOutput forced = host.step();
  host.open(2, {{1, 2, 3, 7}, 4, false, {}});
  host.prefill(2, 4);
  host.grow_decode(0);
  CHECK(host.step().logits.at(2) == forced.logits.at(0));
}

void check_handles() {
  up_model_close(nullptr);
  up_runner_destroy(nullptr);
  up_model *model = open_model();
  const up_runner_options options = good_options();
  up_runner *runner = nullptr;
  CHECK(up_runner_create(model, &options, &runner) == UP_OK);
  up_runner_info info{};
  CHECK(up_runner_describe(runner, &info) == UP_INVALID_ARGUMENT, "its size is 0");
  info.size = sizeof info;
  CHECK(up_runner_describe(runner, &info) == UP_OK && info.table_count == 3 && info.threads == 1);
  CHECK(info.tables[2].kind == 2 && info.tables[2].segment == 0 && info.tables[0].layers == 1 && info.tables[1].layers == 2);
  up_runner_destroy(runner);
  up_model_close(model);
  CHECK(std::string(up_status_name(UP_INVALID_PLAN)) == "UP_INVALID_PLAN" && std::string(up_status_name(77)) == "UP_UNKNOWN");
}

}  // namespace

int main() {
  const TemporaryDirectory temporary;
  RandomModel model;
  model.layers = 3;
  model.hidden = 32;
  model.heads = 2;
  model.kv_heads = 1;
  model.head_dim = 16;
  model.inner = 40;
  model.vocab = 48;
  model.max_positions = 512;
  write_model(temporary, model);
  directory = temporary.path();
  check_all_options();
  check_slots();
  check_non_finite_logits();
  check_non_finite_scores();
  check_handles();
  check_sampled_tokens();
  return check_result();
}
