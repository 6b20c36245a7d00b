// Time to the first token and time per decode step of a Llama-3.1-8B-shaped model on the CUDA backend, through the runner and its
// plans: random weights, keeps as given (synthetic), selections scored and their scores ignored.
//
//   steps_bench [--layers N] [--rows ROWS_PER_STEP] [--no-decode] [LENGTH ...]
#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "plan/codec.h"
#include "runner/runner.h"
#include "selection/selection.h"
#include "synthetic_model.h"

namespace {

using Clock = std::chrono::steady_clock;
double ms_since(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

struct PlanWords {
  std::map<int, std::vector<int32_t>> sections;

  void add(up::Section section, std::initializer_list<int32_t> record) {
    auto &words = sections[static_cast<int>(section)];
    words.insert(words.end(), record);
  }
  std::vector<int32_t> words(uint64_t step) const {
    std::vector<int32_t> out{0x4c505055, 2, static_cast<int32_t>(step), static_cast<int32_t>(step >> 32), 0, static_cast<int32_t>(sections.size())};
    for (const auto &[id, data] : sections) {
      out.insert(out.end(), {id, static_cast<int32_t>(data.size())});
      out.insert(out.end(), data.begin(), data.end());
    }
    out.push_back(static_cast<int32_t>(up::checksum_words(out)));
    return out;
  }
};

struct Bench {
  LlamaShape shape;
  std::vector<int> drop_layers;
  std::string layout_text;
  up::Layout layout;
  std::unique_ptr<up::Runner> runner;
  int slabs = 0, max_rows;
  std::vector<int32_t> free;
  uint64_t step = 0;
  int32_t next_content = 1;
  static constexpr int page_size = 64;

  Bench(const std::shared_ptr<const up::Checkpoint> &checkpoint, const LlamaShape &shape, std::vector<int> drops, int slots, int max_rows,
        int max_tokens)
      : shape(shape), drop_layers(std::move(drops)), layout_text(layout_json(shape, drop_layers, page_size)), max_rows(max_rows) {
    layout = up::parse_layout(layout_text, checkpoint->table(), {2, 2, 2});
    up_runner_options options{};
    options.size = sizeof options;
    options.device = UP_DEVICE_CUDA;
    if (!drop_layers.empty())
      options.schedule = {sizeof options.schedule, static_cast<int32_t>(drop_layers.size()), drop_layers.data(), UP_RULE_EXCLUSIVE, 64, 128, 128, 0};
    options.layout = layout_text.c_str();
    options.layout_bytes = layout_text.size();
    options.slots = slots;
    options.max_rows_per_step = max_rows;
    options.max_tokens = max_tokens;
    options.memory_fraction = 0.92;
    const auto start = Clock::now();
    runner = std::make_unique<up::Runner>(checkpoint, options);
    up_runner_info info{};
    runner->describe(info);
    slabs = info.slabs;
    std::printf("%s: loaded in %.1f s, %d slabs of %lld bytes, weights %.2f GB, workspace %.2f GB, free %.2f GB\n", info.device,
                ms_since(start) / 1000, slabs, static_cast<long long>(layout.slab_bytes), static_cast<double>(info.weight_bytes) * 1e-9,
                static_cast<double>(info.workspace_bytes) * 1e-9, static_cast<double>(info.free_bytes) * 1e-9);
    for (int i = slabs; i-- > 0;) free.push_back(i);
  }

  int32_t put(int length, const std::vector<double> &keeps, std::vector<int> *rows) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < length; i++) tokens.push_back(static_cast<int32_t>((uint64_t(i) * 2654435761u + 12345u * static_cast<uint64_t>(next_content)) % static_cast<uint64_t>(shape.vocab)));
    up_content content{};
    content.size = sizeof content;
    content.token_count = content.prompt_length = length;
    content.tokens = tokens.data();
    content.sampling.top_p = 1;
    content.sampling.repetition_penalty = 1;
    content.sampling.allowed_count = -1;
    content.sampling.logprobs = -1;
    content.prompt_logprobs = -1;
    std::vector<uint64_t> p(drop_layers.size(), 1ull << 31);
    std::vector<int32_t> counts;
    std::vector<uint32_t> words;
    std::mt19937 random(3);
    *rows = {length};
    for (const double keep : keeps) {
      const up::SelectionShape shape_of{rows->back(), 64, 128, 128};
      std::vector<uint32_t> bitmap(static_cast<size_t>(shape_of.words()));
      std::vector<int> order(static_cast<size_t>(shape_of.blocks()));
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random);
      const int wanted = static_cast<int>(keep * length);
      size_t kept = up::kept_indices(bitmap, shape_of).size();
      for (const int block : order) {
        if (static_cast<int>(kept) >= wanted) break;
        bitmap[static_cast<size_t>(block) / 32] |= 1u << (block % 32);
        kept += 64;
      }
      rows->push_back(static_cast<int>(up::kept_indices(bitmap, shape_of).size()));
      counts.push_back(shape_of.words());
      words.insert(words.end(), bitmap.begin(), bitmap.end());
    }
    content.drops = !keeps.empty();
    content.p_q32 = p.data();
    content.bitmap_count = static_cast<int32_t>(counts.size());
    content.bitmap_words = counts.data();
    content.bitmaps = words.data();
    content.score_decided = 1;
    runner->put_content(next_content, content);
    return next_content++;
  }

  // Rows of a table of a slot that drops as `rows` says, `extra` to be decoded.
  void grant(PlanWords &plan, std::map<std::pair<int, int>, int> &pages, int slot, const std::vector<int> &rows, int extra) {
    for (size_t t = 0; t < layout.tables.size(); t++) {
      const up::Table &table = layout.tables[t];
      if (table.kind == up::TableKind::carry && rows.size() == 1) continue;
      const int most = rows[std::min<size_t>(static_cast<size_t>(table.segment), rows.size() - 1)] + (table.kind == up::TableKind::carry ? 0 : extra);
      int &have = pages[{slot, static_cast<int>(t)}];
      for (; have < layout.pages_for(most); have++) {
        for (int j = 0; j < table.slabs_per_page; j++) {
          if (free.empty()) {
            std::fprintf(stderr, "no slab is free\n");
            std::exit(1);
          }
          plan.add(up::Section::grants, {slot, static_cast<int32_t>(t), free.back()});
          free.pop_back();
        }
      }
    }
  }

  // Enqueues plans, two in flight, and gives the device's time in all.
  struct Flight {
    Bench &bench;
    int waiting = 0;
    double device_ms = 0;
    void wait() {
      const std::vector<int32_t> &result = bench.runner->wait();
      device_ms += result[4] * 1e-3;
      waiting--;
    }
    void enqueue(const PlanWords &plan) {
      if (waiting == 2) wait();
      const std::vector<int32_t> words = plan.words(++bench.step);
      bench.runner->enqueue(reinterpret_cast<const uint8_t *>(words.data()), words.size() * 4);
      waiting++;
    }
    void finish() {
      while (waiting > 0) wait();
    }
  };

  // A prompt from its opening to its first token; the slot stays open. Several slots: one behind the other in steps of all rows.
  void prefill(Flight &flight, int slot, int length, const std::vector<double> &keeps, int extra) {
    std::vector<int> rows;
    const int32_t id = put(length, keeps, &rows);
    std::map<std::pair<int, int>, int> pages;
    PlanWords plan;
    plan.add(up::Section::opens, {slot, id});
    grant(plan, pages, slot, rows, extra);
    const int last = layout.last_segment();
    if (keeps.empty()) {
      for (int at = 0; at < length; at += max_rows) {
        const int count = std::min(max_rows, length - at);
        plan.add(up::Section::items, {slot, at, count, 0, last});
        if (at + count == length) plan.add(up::Section::samples, {0, slot});
        flight.enqueue(plan);
        plan = {};
      }
      return;
    }
    for (int segment = 0; segment <= last;) {
      int next = segment + 1;
      for (int at = 0; at < rows[static_cast<size_t>(segment)]; at += max_rows) {
        const int count = std::min(max_rows, rows[static_cast<size_t>(segment)] - at);
        const bool completes = at + count == rows[static_cast<size_t>(segment)];
        // The last chunk goes on while the segments after it fit into one step.
        while (completes && next <= last && rows[static_cast<size_t>(next)] <= max_rows) next++;
        plan.add(up::Section::items, {slot, at, count, segment, completes ? next - 1 : segment});
        if (completes && next > last) plan.add(up::Section::samples, {0, slot});
        flight.enqueue(plan);
        plan = {};
      }
      segment = next;
    }
  }

  void close(int slots, bool decoding) {
    PlanWords plan;
    for (int slot = 0; slot < slots; slot++) {
      if (decoding) plan.add(up::Section::leaves, {slot});
      plan.add(up::Section::closes, {slot});
    }
    Flight flight{*this};
    flight.enqueue(plan);
    flight.finish();
  }
  void release_all() {
    free.clear();
    for (int i = slabs; i-- > 0;) free.push_back(i);
  }

  void time_prefill(const char *name, int length, const std::vector<double> &keeps, int repeats) {
    std::vector<double> wall, device;
    for (int i = 0; i < repeats + 1; i++) {
      const auto start = Clock::now();
      Flight flight{*this};
      prefill(flight, 0, length, keeps, 0);
      flight.finish();
      if (i > 0) {
        wall.push_back(ms_since(start));
        device.push_back(flight.device_ms);
      }
      close(1, false);
      release_all();
    }
    std::sort(wall.begin(), wall.end());
    std::sort(device.begin(), device.end());
    std::printf("%-10s %7d tokens: TTFT %9.2f ms (device %9.2f), least %9.2f\n", name, length, wall[wall.size() / 2], device[device.size() / 2],
                wall[0]);
    std::fflush(stdout);
  }

  void time_decode(int slots, int context, int steps) {
    Flight flight{*this};
    for (int slot = 0; slot < slots; slot++) prefill(flight, slot, context, {}, steps + 1);
    flight.finish();
    PlanWords joins;
    for (int slot = 0; slot < slots; slot++) joins.add(up::Section::joins, {slot, -1});
    std::vector<double> device;
    Flight decode{*this};
    auto start = Clock::now();
    for (int i = 0; i < steps; i++) {
      const double before = decode.device_ms;
      decode.enqueue(i == 0 ? joins : PlanWords{});
      if (decode.device_ms > before) device.push_back(decode.device_ms - before);
      if (i == 9) start = Clock::now();  // two are under way
    }
    decode.finish();
    const double wall = ms_since(start) / (steps - 8);
    std::sort(device.begin(), device.end());
    std::printf("decode     %3d × %6d: %.3f ms a step by the wall, %.3f ms of device time (median)\n", slots, context, wall, device[device.size() / 2]);
    std::fflush(stdout);
    close(slots, true);
    release_all();
  }
};

std::vector<double> keeps_of(int length) {
  if (length >= 100000) return {.74, .64, .54, .44, .34, .24};
  if (length >= 50000) return {.82, .74, .67, .59, .52, .45};
  return {.86, .80, .75, .69, .64, .58};
}

}  // namespace

int main(int argc, char **argv) {
  LlamaShape shape;
  int rows = 16384;
  bool decode = true;
  std::vector<int> lengths;
  for (int i = 1; i < argc; i++) {
    if (std::strcmp(argv[i], "--layers") == 0) shape.layers = std::atoi(argv[++i]);
    else if (std::strcmp(argv[i], "--rows") == 0) rows = std::atoi(argv[++i]);
    else if (std::strcmp(argv[i], "--no-decode") == 0) decode = false;
    else lengths.push_back(std::atoi(argv[i]));
  }
  if (lengths.empty()) lengths = {8192, 32768};
  const int most = *std::max_element(lengths.begin(), lengths.end());
  try {
    const auto start = Clock::now();
    const SyntheticModel model(shape, "/dev/shm/uniprefill-synthetic.safetensors");
    const auto checkpoint = model.open();
    std::printf("model written in %.1f s\n", ms_since(start) / 1000);
    {
      Bench dense(checkpoint, shape, {}, decode ? 64 : 1, rows, std::max(most, 4096));
      for (const int length : lengths) dense.time_prefill("dense", length, {}, length > 60000 ? 2 : 4);
      if (decode) {
        dense.time_decode(1, 2048, 100);
        dense.time_decode(16, 2048, 100);
        dense.time_decode(64, 2048, 100);
      }
    }
    std::vector<int> drops;
    for (const int layer : {7, 11, 15, 19, 23, 27})
      if (layer < shape.layers - 1) drops.push_back(layer);
    Bench dropping(checkpoint, shape, drops, 1, rows, most);
    for (const int length : lengths) {
      std::vector<double> keeps = keeps_of(length);
      keeps.resize(drops.size());
      dropping.time_prefill("dropping", length, keeps, length > 60000 ? 2 : 4);
    }
  } catch (const up::Failure &failure) {
    std::fprintf(stderr, "%s: %s: %s\n", up_status_name(failure.status), failure.phase.c_str(), failure.detail.c_str());
    return 1;
  }
  return 0;
}
