// Options, contents and handles at the C ABI: what a runner refuses, and that handles may go in any order.
#include <cmath>
#include <functional>

#include "check.h"
#include "malformed_plans.h"

namespace {

// The model behind the C ABI.
up_model *open_model(const std::string &table) {
  up_model *model = nullptr;
  CHECK(up_model_open(table.data(), table.size(), &model) == UP_OK, "%s", up_last_error().detail);
  return model;
}

void check_last_error(const char *operation, const std::string &expected) {
  const up_error error = up_last_error();
  CHECK(std::string(error.operation) == operation && std::string(error.detail).find(expected) != std::string::npos,
        "expected \"%s\", got %s: \"%s\"", expected.c_str(), error.operation, error.detail);
}

const int32_t drop_layers[] = {1, 2};

// Options that hold, and the text that they point to.
struct Options {
  explicit Options(const RandomModel &model, std::vector<int32_t> drops = {1})
      : layout(layout_json(make_layout(model, {std::move(drops), 64, 1}))) {
    options.size = sizeof options;
    options.schedule = {sizeof options.schedule, 1, drop_layers, UP_RULE_EXCLUSIVE, 64, 64, 64, 0};
    options.slabs = 32;
    options.slots = 2;
    options.max_rows_per_step = 256;
    options.max_tokens = 200;
    options.threads = 1;
    point();
  }
  void point() {
    options.layout = layout.data();
    options.layout_bytes = layout.size();
  }
  void replace(const std::string &from, const std::string &to) {
    const size_t at = layout.find(from);
    CHECK(at != std::string::npos, "no %s in %s", from.c_str(), layout.c_str());
    layout.replace(at, from.size(), to);
    point();
  }

  std::string layout;
  up_runner_options options{};
};

struct World {
  RandomModel spec = small_model(llama_layers(3, 2, 1, 16));
  TestModel model{spec};
};

void check_options(const World &world, const std::function<void(Options &)> &change, const char *expected,
                   up_status status = UP_INVALID_ARGUMENT) {
  up_model *model = open_model(world.model.table);
  Options options(world.spec);
  change(options);
  up_runner *runner = nullptr;
  CHECK(up_runner_create(model, &options.options, &runner) == status, "%s: %s", expected, up_last_error().detail);
  CHECK(runner == nullptr);
  check_last_error("up_runner_create", expected);
  up_model_close(model);
}

void check_all_options(const World &world) {
  const auto refused = [&](const std::function<void(up_runner_options &)> &change, const char *expected) {
    check_options(world, [&](Options &o) { change(o.options); }, expected);
  };
  refused([](auto &o) { o.size = 8; }, "options.size is 8, this library's is");
  refused([](auto &o) { o.schedule.size = 8; }, "schedule.size is 8");
  refused([](auto &o) { o.layout = nullptr; }, "layout is NULL");
  refused([](auto &o) { o.slabs = 0; }, "slabs is 0");
  refused([](auto &o) { o.slots = 5000; }, "slots is 5000, an integer from 1 to 4096");
  refused([](auto &o) { o.slots = 0; }, "slots is 0");
  refused([](auto &o) { o.state_slots = -1; }, "state_slots is -1");
  refused([](auto &o) { o.max_rows_per_step = 0; }, "max_rows_per_step is 0");
  refused([](auto &o) { o.max_tokens = 1000; }, "max_tokens is 1000, an integer from 1 to 512");
  refused([](auto &o) { o.threads = -1; }, "threads is -1");
  refused([](auto &o) { o.kernels = static_cast<up_kernels>(9); }, "kernels is 9");
  refused([](auto &o) { o.device = static_cast<up_device>(7); }, "device is 7");
  refused([](auto &o) { o.schedule.size = 0; }, "drop_layer_count is 0, the layout has 2 segments");
  refused([](auto &o) { o.schedule.drop_layer_count = 2; }, "drop_layer_count is 2, the layout has 2 segments");
  refused([](auto &o) { o.schedule.drop_layers = nullptr; }, "schedule.drop_layers is NULL");
  refused([](auto &o) { o.schedule.drop_layers = drop_layers + 1; }, "drop_layers[0] is 2, segment 0 of the layout ends with layer 1");
  refused([](auto &o) { o.schedule.rule = static_cast<up_rule>(2); }, "rule is 2");
  refused([](auto &o) { o.schedule.block = 48; }, "block is 48");
  refused([](auto &o) { o.schedule.block = 128; }, "block is 128, a multiple of 16 that divides the page size 64");
  refused([](auto &o) { o.schedule.sink = -1; }, "sink is -1");
  refused([](auto &o) { o.schedule.last_q = 0; }, "last_q is 0");
  refused([](auto &o) { o.schedule.last_q = 513; }, "last_q is 513, an integer from 1 to 512");
  check_options(world, [](Options &o) {
    o.replace("\"slabBytes\":4096", "\"slabBytes\":1099511627776");
    o.options.slabs = INT32_MAX;
  }, "2147483647", UP_OUT_OF_MEMORY);
}

// A layout is data from elsewhere: none that is not this model's may be laid over memory.
void check_layouts(const World &world) {
  const auto refused = [&](const char *from, const char *to, const char *expected, up_status status = UP_INVALID_ARGUMENT) {
    check_options(world, [&](Options &o) { o.replace(from, to); }, expected, status);
  };
  refused("\"pageSize\":64", "\"pageSize\":96", "layout.pageSize is 96, no multiple of 64");
  refused("\"pageSize\":64", "\"pageSize\":0", "layout.pageSize is 0, an integer from 64");
  refused("\"pageSize\":64,", "", "layout.pageSize is missing");
  refused("\"slabBytes\":4096", "\"slabBytes\":4095", "does not hold layer 0");
  refused("\"slabBytes\":4096", "\"slabBytes\":-1", "layout.slabBytes is -1");
  refused("\"slabBytes\":4096", "\"slabBytes\":1e300", "layout.slabBytes is 1e+300");
  refused("\"firstLayer\":0", "\"firstLayer\":1", "segments[0].firstLayer is 1");
  refused("\"lastLayer\":1", "\"lastLayer\":0", "segments[1].firstLayer is 2");
  refused("\"lastLayer\":2", "\"lastLayer\":3", "segments[1].lastLayer is 3");
  refused("\"layers\":[0,1]", "\"layers\":[0,0]", "layer 0 is not one of segment 0's of this kind, or in two tables");
  refused("\"layers\":[0,1]", "\"layers\":[0,2]", "layer 2 is not one of segment 0's");
  refused("\"layers\":[0,1]", "\"layers\":[0]", "layer 1 is in no table");
  refused("\"layers\":[0,1]", "\"layers\":[0,7]", "tables[0].layers holds 7, the model has 3 layers");
  refused("\"layers\":[0,1]", "\"layers\":[0,-1]", "tables[0].layers holds -1");
  refused("\"kind\":\"full\"", "\"kind\":\"sliding\"", "layer 0 is not one of segment 0's of this kind");
  refused("\"kind\":\"full\"", "\"kind\":\"flat\"", "tables[0].kind is \"flat\"");
  refused("\"kind\":\"carry\"", "\"kind\":\"full\"", "segments[0] has no carry table");
  refused("\"slabsPerPage\":2", "\"slabsPerPage\":1", "a page of 1 slabs of 4096 bytes does not hold layer 1");
  refused("\"layersPerSlab\":1,\"slabsPerPage\":2", "\"layersPerSlab\":2,\"slabsPerPage\":2", "does not hold layer 1");
  refused("\"segment\":1", "\"segment\":2", "tables[1].segment is 2");
  refused("\"stateSlotBytes\":0", "\"stateSlotBytes\":256", "layout.stateSlotBytes is 256, the model's states have 0");
  refused("\"window\":0", "\"window\":5", "layer 0 has a window of 0 rows, its table one of 5");
  refused("}]}", "},{\"segment\":0,\"kind\":\"carry\",\"layers\":[],\"window\":0,\"slabsPerPage\":2}]}", "segments[0] has two carry tables");
  refused("}]}", "", "layout: byte", UP_CORRUPT_FILE);
  // Two windows in one segment, in tables for rows of two widths, would need two intervals for a row.
  RandomModel windows = small_model({attention_layer(2, 1, 16, 20), attention_layer(2, 1, 32, 40), attention_layer(2, 1, 16)});
  const TestModel model(windows);
  up_model *opened = open_model(model.table);
  Options options(windows, {});
  options.options.schedule.size = 0;
  up_runner *runner = nullptr;
  CHECK(up_runner_create(opened, &options.options, &runner) == UP_UNSUPPORTED_MODEL && runner == nullptr);
  check_last_error("up_runner_create", "the sliding layers of one segment have windows of 20 and of 40 rows");
  up_model_close(opened);
}

struct Contents {
  explicit Contents(const World &world) {
    up_model *model = open_model(world.model.table);
    const Options options(world.spec);
    CHECK(up_runner_create(model, &options.options, &runner) == UP_OK, "%s", up_last_error().detail);
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
    content.prompt_logprobs = -1;
  }
  ~Contents() { up_runner_destroy(runner); }
  Contents(const Contents &) = delete;
  Contents &operator=(const Contents &) = delete;

  up_runner *runner = nullptr;
  std::vector<int32_t> tokens = std::vector<int32_t>(100, 3);
  std::vector<uint64_t> p = {uint64_t{1} << 31};
  std::vector<uint32_t> bitmap = {0b11};
  std::vector<int32_t> words = {1};
  up_content content{};
};

void check_contents(const World &world) {
  const auto refused = [&](const std::function<void(Contents &)> &change, const char *expected) {
    Contents c(world);
    change(c);
    CHECK(up_runner_put_content(c.runner, 1, &c.content) == UP_INVALID_ARGUMENT, "%s", expected);
    check_last_error("up_runner_put_content", expected);
  };
  refused([](Contents &c) { c.content.size = 0; }, "content.size is 0");
  refused([](Contents &c) { c.content.token_count = 201; }, "token_count is 201, a slot holds 1 to 200");
  refused([](Contents &c) { c.content.token_count = 0; }, "token_count is 0");
  refused([](Contents &c) { c.content.prompt_length = 101; }, "prompt_length is 101 of 100");
  refused([](Contents &c) { c.content.prompt_length = 0; }, "prompt_length is 0 of 100");
  refused([](Contents &c) { c.content.tokens = nullptr; }, "tokens is NULL");
  refused([](Contents &c) { c.tokens[99] = 48; }, "tokens[99] is 48, the vocabulary has 48");
  refused([](Contents &c) { c.tokens[1] = -1; }, "tokens[1] is -1");
  refused([](Contents &c) { c.content.p_q32 = nullptr; }, "p_q32 is NULL");
  refused([](Contents &c) { c.p[0] = (uint64_t{1} << 32) + 1; }, "p_q32[0] is 4294967297, at most 4294967296");
  refused([](Contents &c) { c.content.bitmap_count = 2; }, "bitmap_count is 2, this request has 1 selections");
  refused([](Contents &c) { c.content.bitmap_count = -1; }, "bitmap_count is -1");
  refused([](Contents &c) { c.content.bitmap_count = 1; c.content.drops = 0; }, "bitmap_count is 1, this request has 0");
  refused([](Contents &c) { c.content.bitmap_count = 1; c.words[0] = 2; }, "bitmap 0 has 2 words, 100 rows need 1");
  refused([](Contents &c) { c.content.bitmap_count = 1; c.bitmap[0] = 4; }, "bitmap 0 sets bits beyond its 2 blocks");
  refused([](Contents &c) { c.content.bitmap_count = 1; c.content.bitmaps = nullptr; }, "bitmaps is NULL");
  refused([](Contents &c) { c.content.prompt_logprobs = 1025; c.content.drops = 0; }, "prompt_logprobs is 1025, an integer from -1 to 1024");
  refused([](Contents &c) { c.content.prompt_logprobs = -2; }, "prompt_logprobs is -2");
  refused([](Contents &c) { c.content.prompt_logprobs = 0; }, "prompt_logprobs is 0 in a request that drops");
  refused([](Contents &c) { c.content.sampling.top_p = 2; }, "top_p is 2");
  refused([](Contents &c) { c.content.sampling.stop_count = 1; }, "stop_tokens is NULL");

  // A content belongs to its id until it is forgotten, or a plan opens it.
  Contents c(world);
  for (const int32_t id : {0, -5}) CHECK(up_runner_put_content(c.runner, id, &c.content) == UP_INVALID_ARGUMENT);
  check_last_error("up_runner_put_content", "id is -5, a number above 0 was expected");
  CHECK(up_runner_put_content(c.runner, 1, &c.content) == UP_OK);
  CHECK(up_runner_put_content(c.runner, 1, &c.content) == UP_INVALID_ARGUMENT);
  check_last_error("up_runner_put_content", "content 1 is there already");
  up_runner_forget_content(c.runner, 1);
  up_runner_forget_content(c.runner, 1);
  up_runner_forget_content(c.runner, INT32_MIN);
  up_runner_forget_content(nullptr, 1);
  CHECK(up_runner_put_content(c.runner, 1, &c.content) == UP_OK);
  PlanWriter plan;
  plan.add(Section::opens, {0, 1});
  const auto words = plan.words(1);
  const uint8_t *bytes = nullptr;
  size_t count = 0;
  CHECK(up_runner_enqueue(c.runner, reinterpret_cast<const uint8_t *>(words.data()), words.size() * 4) == UP_OK);
  CHECK(up_runner_wait(c.runner, &bytes, &count) == UP_OK && count % 4 == 0);
  const auto *result = reinterpret_cast<const int32_t *>(bytes);
  CHECK(read_result({result, result + count / 4}).plan_checksum == words.back());
  CHECK(up_runner_put_content(c.runner, 1, &c.content) == UP_OK, "a content that a plan has opened still has its id");
  CHECK(up_runner_enqueue(c.runner, reinterpret_cast<const uint8_t *>(words.data()), words.size() * 4) == UP_OK);
  CHECK(up_runner_wait(c.runner, &bytes, &count) == UP_INVALID_PLAN);
  check_last_error("up_runner_wait", "stepId is 1, expected 2");
  CHECK(up_runner_wait(c.runner, &bytes, &count) == UP_INVALID_ARGUMENT);
  check_last_error("up_runner_wait", "no step has been enqueued");
  CHECK(up_runner_enqueue(c.runner, nullptr, 4) == UP_INVALID_ARGUMENT && up_runner_wait(c.runner, nullptr, &count) == UP_INVALID_ARGUMENT);
}

void check_handles(const World &world) {
  up_model_close(nullptr);
  up_runner_destroy(nullptr);
  up_model *model = open_model(world.model.table);
  up_model_info about{};
  CHECK(up_model_describe(model, &about) == UP_INVALID_ARGUMENT, "its size is 0");
  about.size = sizeof about;
  CHECK(up_model_describe(model, &about) == UP_OK && about.layers == 3 && about.hidden_size == 32 && about.vocab_size == 48 &&
        about.max_positions == 512 && about.fingerprint == world.model.checkpoint->fingerprint());
  const Options options(world.spec);
  up_runner *runner = nullptr;
  CHECK(up_runner_create(nullptr, &options.options, &runner) == UP_INVALID_ARGUMENT);
  CHECK(up_runner_create(model, nullptr, &runner) == UP_INVALID_ARGUMENT);
  CHECK(up_runner_create(model, &options.options, nullptr) == UP_INVALID_ARGUMENT);
  CHECK(up_runner_create(model, &options.options, &runner) == UP_OK);
  up_model_close(model);
  up_runner_info info{};
  CHECK(up_runner_describe(runner, &info) == UP_INVALID_ARGUMENT, "its size is 0");
  info.size = sizeof info;
  CHECK(up_runner_describe(runner, &info) == UP_OK && info.slabs == 32 && std::string(info.device).starts_with("cpu ("));
  // Destroyed with steps that nobody has waited for.
  PlanWriter plan;
  for (const uint64_t step : {1, 2}) {
    const auto words = plan.words(step);
    CHECK(up_runner_enqueue(runner, reinterpret_cast<const uint8_t *>(words.data()), words.size() * 4) == UP_OK);
  }
  up_runner_destroy(runner);
  CHECK(std::string(up_status_name(UP_INVALID_PLAN)) == "UP_INVALID_PLAN" && std::string(up_status_name(77)) == "UP_UNKNOWN");
}

}  // namespace

int main() {
  const World world;
  check_all_options(world);
  check_layouts(world);
  check_contents(world);
  check_handles(world);
  return check_result();
}
