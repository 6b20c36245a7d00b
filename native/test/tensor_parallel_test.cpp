// Tensor parallelism on CPU threads: any number of ranks gives the bits of one, on models of every kind of layer; ranks that differ
// stop, naming who and where, and the runner serves on.
#include <thread>

#include "check.h"
#include "faulty_backend.h"
#include "random_cases.h"

namespace {

// Head counts times `factor`, so that as many ranks can share them; a layer of one key/value head, or of one key head, keeps it.
Case widened(Case c, int factor) {
  for (up::LayerSpec &layer : c.model.layers) {
    up::AttentionSpec &a = layer.attention;
    a.heads *= factor;
    if (a.kv_heads > 1) a.kv_heads *= factor;
    if (layer.delta.key_heads > 1) layer.delta.key_heads *= factor;
    layer.delta.value_heads *= factor;
  }
  return c;
}

std::vector<Case> models() {
  std::vector<Case> out;
  for (const Case &c : cases::families()) out.push_back(widened(c, 4));
  // Key/value heads that ranks hold in common, in twos and all together.
  Case grouped = widened(cases::llama(), 1);
  grouped.name = "Llama with two key/value heads";
  out.push_back(grouped);
  // Key heads of linear layers that ranks hold in common: two and one on four, in both layouts of checkpoints.
  for (const int key_heads : {2, 1}) {
    for (const bool by_key_head : {false, true}) {
      Case shared = widened(cases::qwen(by_key_head, by_key_head), 4);
      for (up::LayerSpec &layer : shared.model.layers) layer.delta.key_heads = std::min(layer.delta.key_heads, key_heads);
      shared.name += up::text(" with ", key_heads, " key head(s)");
      out.push_back(shared);
    }
  }
  return out;
}

Trace served(const Case &c, int ranks) {
  Case of = c;
  of.host.ranks = ranks;
  return Equality(of).whole();
}

void check_same_bits(const Case &c) {
  const Trace one = served(c, 1);
  for (const int ranks : {2, 4}) {
    const std::string found = difference(one, served(c, ranks));
    CHECK(found.empty(), "%s, %d ranks: %s", c.name.c_str(), ranks, found.c_str());
  }
}

// All that a plan may make of a request, with two ranks.
void check_equalities(Case c) {
  c.host.ranks = 2;
  Equality e(c);
  for (const equalities::Named &equality : equalities::all) {
    if (equality.find == equalities::reference) continue;  // which has one rank
    const std::string found = equality.find(e);
    CHECK(found.empty(), "%s, 2 ranks, %s: %s", c.name.c_str(), equality.name, found.c_str());
  }
}

Case divisible(uint64_t seed) {
  Case c = widened(cases::random(seed), 4);
  for (up::LayerSpec &layer : c.model.layers) {
    layer.mlp.inner = (layer.mlp.inner + 7) / 8 * 8;
    // Heads that read the same keys choose them together, on one rank.
    if (layer.mixer == up::Mixer::full && layer.attention.kv_heads < 4) c.host.prefill_p = 0;
  }
  return c;
}

template <class Act>
std::string failure_of(Act &&act) {
  try {
    act();
  } catch (const up::Failure &failure) {
    return failure.phase + ": " + failure.detail;
  }
  return "";
}

bool mentions(const std::string &text, std::initializer_list<const char *> parts) {
  return std::all_of(parts.begin(), parts.end(), [&](const char *part) { return text.find(part) != std::string::npos; });
}

// Keeps a block more than it should, once.
class OtherRowsKept : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  std::vector<up::SelectionOutcome> select(int layer, std::span<const up::SelectionTask> tasks, up_rule rule) override {
    std::vector<up::SelectionOutcome> out = FaultyBackend::select(layer, tasks, rule);
    if (!std::exchange(planted_, true)) out[0].bitmap[0] ^= 1u << 1;
    return out;
  }

 private:
  bool planted_ = false;
};

class FailsOnce : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  void attend(int layer, const up::RowTable &rows) override {
    if (layer == 1 && !std::exchange(planted_, true)) up::fail(UP_LAUNCH_FAILED, "attend", "planted");
    FaultyBackend::attend(layer, rows);
  }

 private:
  bool planted_ = false;
};

class OtherToken : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  std::unique_ptr<up::PendingOutputs> finish() override {
    class Changed : public up::PendingOutputs {
     public:
      explicit Changed(std::unique_ptr<up::PendingOutputs> from) : from_(std::move(from)) {}
      up::Outputs wait() override {
        up::Outputs out = from_->wait();
        if (!out.tokens.empty()) out.tokens[0].sample.token ^= 1;
        return out;
      }

     private:
      std::unique_ptr<up::PendingOutputs> from_;
    };
    auto out = FaultyBackend::finish();
    if (std::exchange(planted_, true)) return out;
    return std::make_unique<Changed>(std::move(out));
  }

 private:
  bool planted_ = false;
};

template <class Fault>
WrapBackend on_rank(int rank) {
  return [rank](MadeBackend made) -> std::unique_ptr<up::Backend> {
    if (made.options.ranks->shard().rank != rank) return std::move(made.backend);
    return std::make_unique<Fault>(std::move(made));
  };
}

// The step fails with a message that has `parts`; then the same request is served as if nothing had been.
template <class Fault>
void check_stops(const char *what, int ranks, std::initializer_list<const char *> parts) {
  Case c = widened(cases::llama(), 2);
  const Trace sound = served(c, 1);
  c.host.ranks = ranks;
  c.host.wrap = on_rank<Fault>(ranks - 1);
  Equality e(c);
  Host host(e.model, c.host);
  host.open(0, e.request);
  host.prefill(0, 1 << 20);
  const std::string found = host.try_step().error;
  CHECK(mentions(found, parts), "%s: %s", what, found.c_str());
  host.forget();
  const std::string again = difference(sound, serve(host, 0, e.request, c.outputs));
  CHECK(again.empty(), "%s, afterwards: %s", what, again.c_str());
}

// Ranks that are handed other bytes, or of which one does not take part.
void check_other_plan() {
  const Case c = widened(cases::llama(), 2);
  const TestModel model(c.model);
  const std::string json = layout_json(make_layout(share_of(model, 2), {{}, 64, 1}, up::element_bytes(UP_DEVICE_CPU)));
  up_runner_options options{};
  options.size = sizeof options;
  options.layout = json.data();
  options.layout_bytes = json.size();
  options.slabs = 64;
  options.slots = 2;
  options.max_rows_per_step = 256;
  options.max_tokens = 256;
  options.threads = 2;
  options.tensor_parallel_size = 2;
  const auto group = std::make_shared<up::RankGroup>(2);
  std::string found[2];
  const auto act = [&](int number) {
    up::Rank rank(model.checkpoint, options, std::make_shared<up::Communicator>(group, number));
    rank.load(options, [&](const auto &share, const up::BackendOptions &backend) { return up::make_backend(share, backend, options); });
    rank.begin(options.slabs);
    PlanWriter plan;
    if (number == 1) plan.add(up::Section::closes, {0});
    const std::vector<int32_t> words = plan.words(1);
    const std::span bytes(reinterpret_cast<const uint8_t *>(words.data()), words.size() * sizeof words[0]);
    found[number] = failure_of([&] { rank.step(bytes, [](int32_t) { return nullptr; }); });
  };
  std::thread other(act, 1);
  act(0);
  other.join();
  for (const std::string &each : found) CHECK(mentions(each, {"rank 1 of 2", "the plan of step 1", "checksum"}), "%s", each.c_str());
}

// Fault 7 of the published code: masses in floating point, summed in another order on each rank, cut differently. Integers do not.
void check_selections_agree(int ranks) {
  constexpr int draws = 10'000;
  const auto group = std::make_shared<up::RankGroup>(ranks);
  std::vector<std::thread> threads;
  std::vector<std::string> found(static_cast<size_t>(ranks));
  for (int rank = 0; rank < ranks; rank++) {
    threads.emplace_back([&, rank] {
      up::Communicator ranks_of(group, rank);
      Dice dice(7);
      found[static_cast<size_t>(rank)] = failure_of([&] {
        for (int draw = 0; draw < draws; draw++) {
          const int rows = dice.between(200, 6000);
          const up::SelectionShape shape{.rows = rows, .block = 64, .sink = 64, .last_q = 64};
          std::vector<uint64_t> masses(static_cast<size_t>(shape.blocks())), whole(masses.size(), 0);
          // Every rank draws all parts and keeps its own; equal masses are frequent, so that ties are cut as well.
          for (int part = 0; part < ranks; part++) {
            for (size_t i = 0; i < masses.size(); i++) {
              const auto mass = static_cast<uint64_t>(dice.between(0, draw % 3 == 0 ? 3 : 1 << 30)) << (draw % 11);
              whole[i] += mass;
              if (part == rank) masses[i] = mass;
            }
          }
          ranks_of.sum(masses);
          const uint64_t p = static_cast<uint64_t>(dice.between(1, (1 << 30) - 1)) << 2;
          const std::vector<uint32_t> kept = up::select_blocks(masses, p, UP_RULE_EXCLUSIVE, shape);
          if (kept != up::select_blocks(whole, p, UP_RULE_EXCLUSIVE, shape)) up::fail(UP_INTERNAL, "select", "draw ", draw, " differs from one rank's");
          uint64_t hash = 0;
          for (const uint32_t word : kept) hash = hash * 31 + word;
          ranks_of.agree(up::text("draw ", draw), hash);
        }
      });
      if (!found[static_cast<size_t>(rank)].empty()) group->fail_all(rank, found[static_cast<size_t>(rank)]);
    });
  }
  for (std::thread &each : threads) each.join();
  for (const std::string &each : found) CHECK(each.empty(), "%s", each.c_str());
}

void check_refused(const char *what, const Case &c, int ranks, std::initializer_list<const char *> parts) {
  const TestModel model(c.model);
  const std::string found = failure_of([&] { up::shard_table(model.checkpoint->table(), {0, ranks}); });
  CHECK(mentions(found, parts), "%s: %s", what, found.c_str());
}

}  // namespace

int main() {
  for (const Case &c : models()) check_same_bits(c);
  for (uint64_t seed = 1; seed <= (is_sanitized ? 2 : 10); seed++) check_same_bits(divisible(seed));
  for (const Case &c : {widened(cases::llama(), 2), widened(cases::hybrid(), 2), widened(cases::qwen(true, true), 2)}) {
    if (!is_sanitized || c.name == "Llama") check_equalities(c);
  }
  for (const int ranks : {4, 8}) check_selections_agree(ranks);
  check_other_plan();
  check_stops<OtherRowsKept>("a rank keeps other rows", 2, {"rank 1 of 2", "the rows kept at layer 0 in step 1"});
  check_stops<OtherRowsKept>("the last of four keeps other rows", 4, {"rank 3 of 4", "the rows kept at layer 0 in step 1"});
  check_stops<FailsOnce>("a rank fails", 2, {"attend", "rank 1 of 2 in step 1", "planted"});
  check_stops<OtherToken>("a rank draws another token", 2, {"step ", "rank 1 of 2 drew token"});
  check_refused("heads", cases::llama(), 8, {"layers[0].mixer.heads is 4", "8 ranks"});
  check_refused("inner width", widened(cases::llama(), 10), 5, {"hiddenSize is 64", "5 ranks"});
  Case odd = widened(cases::llama(), 2);
  odd.model.layers[2].mlp.inner = 98;
  check_refused("one layer's inner width", odd, 4, {"layers[2].mlp.inner is 98", "4 ranks"});
  Case keys = widened(cases::qwen(false, false), 3);
  check_refused("key heads of linear layers", keys, 4, {"layers[0].mixer.keyHeads is 6", "4 ranks"});
  keys = widened(cases::qwen(false, false), 2);
  for (up::LayerSpec &layer : keys.model.layers) layer.delta.key_heads = std::min(layer.delta.key_heads, 1);
  check_refused("value heads of linear layers", keys, 16, {"layers[0].mixer.valueHeads is 8", "16 ranks"});
  return check_result();
}
