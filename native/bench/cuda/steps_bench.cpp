// Time to the first token and time per decode step of models shaped like published ones on the CUDA backend, through the runner and
// its plans: random weights, keeps as given (synthetic), selections scored and their scores ignored.
//
//   steps_bench [--model NAME] [--layers N] [--ranks N] [--rows ROWS_PER_STEP] [--batch PROMPTS] [--repeats N] [--fp8]
//               [--prefill-p SHARE] [--no-decode] [LENGTH ...]
//
// With --prefill-p prompts leave out keys; as random weights attend to all keys nearly alike, about that share of them is read.
//
// With --batch so many prompts of each length are computed together, segment by segment in steps that are as full as may be, and what is
// timed is the last first token.
#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
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

// A slot's slabs of one table; the pages before `freed` are given back.
struct Pages {
  std::vector<int32_t> slabs;
  int freed = 0;
};

struct Bench {
  ModelShape shape;
  std::vector<int32_t> drop_layers;
  up::Layout layout;
  std::string layout_text;
  std::unique_ptr<up::Runner> runner;
  int slabs = 0, max_rows;
  std::vector<int32_t> free;
  std::map<std::pair<int, int>, Pages> pages;  // (slot, table)
  uint64_t step = 0;
  int32_t next_content = 1;
  static constexpr int page_size = 64;

  Bench(const std::shared_ptr<const up::Checkpoint> &checkpoint, const ModelShape &shape, int ranks, int slots, int max_rows, int max_tokens, double prefill_p)
      : shape(shape),
        drop_layers(shape.drop_layers.begin(), shape.drop_layers.end()),
        layout(synthetic_layout(shape, ranks, page_size)),
        layout_text(layout_json(layout)),
        max_rows(max_rows) {
    up_runner_options options{};
    options.size = sizeof options;
    options.device = UP_DEVICE_CUDA;
    if (!drop_layers.empty())
      options.schedule = {sizeof options.schedule, static_cast<int32_t>(drop_layers.size()), drop_layers.data(), UP_RULE_EXCLUSIVE, 64, 128, 128, 0};
    options.layout = layout_text.c_str();
    options.layout_bytes = layout_text.size();
    options.slots = slots;
    options.state_slots = layout.has_states() ? slots : 0;
    options.max_rows_per_step = max_rows;
    options.max_tokens = max_tokens;
    options.memory_fraction = 0.92;
    options.tensor_parallel_size = ranks;
    options.prefill_p_q32 = static_cast<uint64_t>(std::ldexp(prefill_p, 32));
    const auto start = Clock::now();
    runner = std::make_unique<up::Runner>(checkpoint, options);
    up_runner_info info{};
    runner->describe(info);
    slabs = info.slabs;
    std::printf("%s: loaded in %.1f s, %d slabs of %lld bytes, weights %.2f GB, workspace %.2f GB, free %.2f GB\n", info.device,
                ms_since(start) / 1000, slabs, static_cast<long long>(layout.slab_bytes), static_cast<double>(info.weight_bytes) * 1e-9,
                static_cast<double>(info.workspace_bytes) * 1e-9, static_cast<double>(info.free_bytes) * 1e-9);
    std::fflush(stdout);
    for (int i = slabs; i-- > 0;) free.push_back(i);
  }

  int32_t put(int length, const std::vector<double> &keeps, std::vector<int> *rows) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < length; i++) tokens.push_back(static_cast<int32_t>((uint64_t(i) * 2654435761u + 12345u * static_cast<uint64_t>(next_content)) % static_cast<uint64_t>(shape.table.vocab_size)));
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

  // Has a table hold rows up to `end`, and gives back the pages that a sliding layer no longer sees from row `next` on.
  void grow(PlanWords &plan, int slot, int t, int next, int end) {
    const up::Table &table = layout.table(t);
    Pages &held = pages[{slot, t}];
    if (table.kind == up::TableKind::sliding) {
      const int out_of_sight = std::max(0, next - table.window + 1) / page_size;
      if (out_of_sight > held.freed) plan.add(up::Section::window_frees, {slot, t, out_of_sight - held.freed});
      for (; held.freed < out_of_sight; held.freed++) {
        const auto first = held.slabs.begin() + held.freed * table.slabs_per_page;
        free.insert(free.end(), first, first + table.slabs_per_page);
      }
    }
    while (static_cast<int>(held.slabs.size()) < layout.pages_for(end) * table.slabs_per_page) {
      if (free.empty()) {
        std::fprintf(stderr, "no slab is free\n");
        std::exit(1);
      }
      plan.add(up::Section::grants, {slot, t, free.back()});
      held.slabs.push_back(free.back());
      free.pop_back();
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

  // Prompts together from their opening to their first tokens; the slots stay open.
  void prefill_together(Flight &flight, int slots, int length, const std::vector<double> &keeps) {
    PlanWords plan;
    std::vector<int> rows;
    for (int slot = 0; slot < slots; slot++) {
      plan.add(up::Section::opens, {slot, put(length, keeps, &rows)});
      if (layout.has_states()) plan.add(up::Section::states, {slot, 0, slot});
    }
    const int last = layout.last_segment();
    int used = 0, items = 0;
    const auto send = [&] {
      if (items == 0) return;
      flight.enqueue(plan);
      plan = {};
      used = items = 0;
    };
    for (int segment = 0; segment <= (keeps.empty() ? 0 : last); segment++) {
      const int of_segment = rows[static_cast<size_t>(segment)];
      for (int slot = 0; slot < slots; slot++) {
        for (int at = 0; at < of_segment;) {
          if (max_rows - used < 64) send();
          int count = std::min(max_rows - used, of_segment - at);
          if (at + count < of_segment) count -= count % 64;
          for (int t = 0; t < static_cast<int>(layout.tables.size()); t++) {
            const up::Table &table = layout.table(t);
            if (keeps.empty() ? table.kind != up::TableKind::carry : table.segment == segment) grow(plan, slot, t, at, at + count);
          }
          plan.add(up::Section::items, {slot, at, count, segment, keeps.empty() ? last : segment});
          at += count;
          if (at == of_segment && (keeps.empty() || segment == last)) plan.add(up::Section::samples, {items, slot});
          used += count;
          items++;
        }
      }
      // The next segment's rows are known once these steps have been answered.
      send();
    }
  }

  // A prompt from its opening to its first token; the slot stays open. Several slots: one behind the other in steps of all rows.
  void prefill(Flight &flight, int slot, int length, const std::vector<double> &keeps, int extra) {
    std::vector<int> rows;
    const int32_t id = put(length, keeps, &rows);
    PlanWords plan;
    plan.add(up::Section::opens, {slot, id});
    if (layout.has_states()) plan.add(up::Section::states, {slot, 0, slot});
    const int last = layout.last_segment();
    if (keeps.empty()) {
      for (int at = 0; at < length; at += max_rows) {
        const int count = std::min(max_rows, length - at);
        for (int t = 0; t < static_cast<int>(layout.tables.size()); t++) {
          if (layout.table(t).kind != up::TableKind::carry) grow(plan, slot, t, at, at + count + (at + count == length ? extra : 0));
        }
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
        for (int t = 0; t < static_cast<int>(layout.tables.size()); t++) {
          const int of = layout.table(t).segment;
          if (of == segment) grow(plan, slot, t, at, at + count);
          else if (completes && of > segment && of < next) grow(plan, slot, t, 0, rows[static_cast<size_t>(of)]);
        }
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
    pages.clear();
    for (int i = slabs; i-- > 0;) free.push_back(i);
  }

  // Gives the median.
  double time_prefill(const char *name, int batch, int length, const std::vector<double> &keeps, int repeats) {
    std::vector<double> wall, device;
    for (int i = 0; i < repeats + 1; i++) {
      const auto start = Clock::now();
      Flight flight{*this};
      if (batch == 1) prefill(flight, 0, length, keeps, 0);
      else prefill_together(flight, batch, length, keeps);
      flight.finish();
      if (i > 0) {
        wall.push_back(ms_since(start));
        device.push_back(flight.device_ms);
      }
      close(batch, false);
      release_all();
    }
    std::sort(wall.begin(), wall.end());
    std::sort(device.begin(), device.end());
    std::printf("%-10s %d x %7d tokens: TTFT %9.2f ms (device %9.2f), least %9.2f\n", name, batch, length, wall[wall.size() / 2], device[device.size() / 2],
                wall[0]);
    std::fflush(stdout);
    return wall[wall.size() / 2];
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

}  // namespace

int main(int argc, char **argv) {
  std::vector<ModelShape> known = model_shapes();
  ModelShape shape = known.front();
  int rows = 16384, layers = 0, ranks = 1, batch = 1, times = 0;
  bool decode = true, fp8 = false;
  double prefill_p = 0;
  std::vector<int> lengths;
  for (int i = 1; i < argc; i++) {
    if (std::strcmp(argv[i], "--model") == 0 && i + 1 < argc) {
      const std::string name = argv[++i];
      const auto found = std::find_if(known.begin(), known.end(), [&](const ModelShape &one) { return one.name == name; });
      if (found == known.end()) {
        std::fprintf(stderr, "no model %s\n", name.c_str());
        return 2;
      }
      shape = *found;
    } else if (std::strcmp(argv[i], "--layers") == 0 && i + 1 < argc) layers = std::atoi(argv[++i]);
    else if (std::strcmp(argv[i], "--ranks") == 0 && i + 1 < argc) ranks = std::atoi(argv[++i]);
    else if (std::strcmp(argv[i], "--rows") == 0 && i + 1 < argc) rows = std::atoi(argv[++i]);
    else if (std::strcmp(argv[i], "--batch") == 0 && i + 1 < argc) batch = std::atoi(argv[++i]);
    else if (std::strcmp(argv[i], "--prefill-p") == 0 && i + 1 < argc) prefill_p = std::atof(argv[++i]);
    else if (std::strcmp(argv[i], "--repeats") == 0 && i + 1 < argc) times = std::atoi(argv[++i]);
    else if (std::strcmp(argv[i], "--fp8") == 0) fp8 = true;
    else if (std::strcmp(argv[i], "--no-decode") == 0) decode = false;
    else lengths.push_back(std::atoi(argv[i]));
  }
  if (layers > 0 && layers < shape.table.layer_count()) {
    shape.table.layers.resize(static_cast<size_t>(layers));
    std::erase_if(shape.drop_layers, [&](int layer) { return layer >= layers - 1; });
  }
  if (fp8) shape.table.quantization = up::Quantization::fp8;
  if (lengths.empty()) lengths = {8192, 32768};
  const int most = *std::max_element(lengths.begin(), lengths.end());
  try {
    const auto start = Clock::now();
    const SyntheticModel model(shape, "/dev/shm/uniprefill-synthetic.safetensors");
    const auto checkpoint = model.open();
    std::printf("%s, %d layers%s: written in %.1f s\n", shape.name.c_str(), shape.table.layer_count(), fp8 ? " in e4m3" : "", ms_since(start) / 1000);
    Bench bench(checkpoint, shape, ranks, decode ? 64 : batch, rows, std::max(most, 4096), prefill_p);
    const auto repeats = [batch, times](int length) { return times > 0 ? times : batch > 1 ? 1 : length > 60000 ? 2 : 4; };
    std::map<int, double> dense;
    for (const int length : lengths) {
      dense[length] = bench.time_prefill("dense", batch, length, {}, repeats(length));
      const std::vector<double> keeps = keeps_of(length, shape.drop_layers.size());
      const double dropping = bench.time_prefill("dropping", batch, length, keeps, repeats(length));
      std::printf("%-10s %7d tokens: %.3f\n", "gain", length, dense[length] / dropping);
    }
    // Shorter prompts fill the card less, and would bend the fit.
    std::map<int, double> fitted(dense.lower_bound(32768), dense.end());
    if (batch == 1 && fitted.size() > 1) {
      const ScheduleLimit limit(shape, fitted.begin()->first, fitted.begin()->second, fitted.rbegin()->first, fitted.rbegin()->second);
      for (const auto &[length, ms] : fitted)
        std::printf("%-10s %7d tokens: %.3f\n", "limit", length, limit.gain(length, keeps_of(length, shape.drop_layers.size())));
    }
    if (prefill_p > 0) {
      up_runner_info info{};
      bench.runner->describe(info);
      std::printf("%-10s %.3f of the blocks that prompts see, for a share of %g\n", "keys read",
                  static_cast<double>(info.key_blocks_read) / static_cast<double>(info.key_blocks_seen), prefill_p);
    }
    if (decode) {
      bench.time_decode(1, 2048, 100);
      bench.time_decode(16, 2048, 100);
      bench.time_decode(64, 2048, 100);
    }
  } catch (const up::Failure &failure) {
    std::fprintf(stderr, "%s: %s: %s\n", up_status_name(failure.status), failure.phase.c_str(), failure.detail.c_str());
    return 1;
  }
  return 0;
}
