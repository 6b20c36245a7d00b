// What a scheduler would be to a runner, as small as it can be: it grants slabs as rows need them, writes plans, reads
// results, and remembers how far each slot has come. Slots, prefixes and forks of it are in slot_progress.h.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "abi/failure.h"
#include "layout_json.h"
#include "plan_writer.h"
#include "random_model.h"
#include "runner/make_backend.h"
#include "runner/runner.h"
#include "selection/sparsity.h"
#include "slot_progress.h"

// A random model in a directory of its own, loaded.
struct TestModel {
  explicit TestModel(const RandomModel &model) : spec(model), table(write_model(directory, model)), checkpoint(load(table)) {}

  static std::shared_ptr<const up::Checkpoint> load(const std::string &table);

  RandomModel spec;
  TemporaryDirectory directory;
  std::string table;
  std::shared_ptr<const up::Checkpoint> checkpoint;
};

// What a backend is made from, for those who make another one of it.
struct MadeBackend {
  std::unique_ptr<up::Backend> backend;
  std::shared_ptr<const up::Checkpoint> checkpoint;  // the rank's share
  const up::BackendOptions &options;
  std::function<size_t()> steps_behind;  // handed over behind the one whose outputs are waited for
};
using WrapBackend = std::function<std::unique_ptr<up::Backend>(MadeBackend)>;

struct HostOptions {
  ScheduleSpec schedule;
  int page_size = 64;
  int layers_per_slab = 1;
  int slabs = 4096;
  int slots = 8;
  int state_slots = 24;
  int max_rows = 4096;
  int max_tokens = 2048;
  int threads = 2;
  int ranks = 1;
  double prefill_p = 0;  // the share of attention that prefill reads keys for; 0: all
  bool shuffled = true;  // slabs are granted in no order, so that a page's are not neighbours by luck; false: from 0 on
  up_device device = UP_DEVICE_CPU;
  up_kernels kernels = UP_KERNELS_AUTO;
  WrapBackend wrap;
};

// What one of `ranks` lays out.
RandomModel share_of(const TestModel &model, int ranks);

class Host {
 public:
  Host(const TestModel &model, const HostOptions &options);

  const up::Layout layout;
  PlanWriter plan;
  uint64_t next_step = 1;
  std::vector<int> free;         // slabs
  std::vector<int> free_states;  // state slots
  std::set<int> cached;          // slabs that the prefix cache holds

  up::Runner &runner() { return *runner_; }
  Progress &progress(int slot) { return slots_[static_cast<size_t>(slot)]; }
  const HostOptions &options() const { return options_; }

  // The runner has forgotten everything but contents.
  void forget();

  // Returns the content's id. Fails with up::Failure.
  int put(const SlotSpec &spec);
  void put_as(int id, const SlotSpec &spec) { put_content(*runner_, id, spec, options_.schedule); }

  // Opens a slot; a model with recurrent layers gets a state of zeros.
  void open(int slot, const SlotSpec &spec);

  void close(int slot);

  // A slab that a table or the cache has given up.
  void release(int slab);
  bool is_held(int slab) const;

  // Grants what a table needs to hold `rows` rows.
  void grow(int slot, int table, int rows);
  // All tables of K/V of a segment.
  void grow_segment(int slot, int segment, int rows);

  // Adds an item of at most `most` rows; one that completes its segment goes on through `more` segments. Samples at the end. Where
  // prefill leaves out keys it is cut at whole blocks of rows, of which there is one at least.
  void prefill(int slot, int most, int more = 64);

  // Room for one more decode row in every table of K/V, and in the first carry's as well where it is kept.
  void grow_decode(int slot, bool keep_carry = false);
  void join(int slot, int token = -1, bool keep_carry = false);
  void leave(int slot);

  // Gives back the pages that no later row of a sliding layer sees.
  void free_windows(int slot);
  // Pages before page `pages` of a sliding table.
  void give_back_front(int slot, int t, int pages);

  // Gives back what was granted for more rows than were kept, and carries that have been read.
  void trim(int slot, bool keep_carry = false);
  // Leaves a table with its first `pages` pages.
  void cut(int slot, int t, int pages);

  // The prefix cache takes the pages of the first `rows` rows, and a snapshot of the state, which has absorbed just those.
  Prefix cache(int slot, int rows);
  // A slot that was just opened goes on behind a cached prefix.
  void hit(int slot, const Prefix &prefix);
  void evict(const Prefix &prefix);

  // `target` also samples from the item that ends the prefill of `source` in this plan.
  void adopt(int source, int target);
  // What the source holds becomes the target's: full pages by reference, partial last ones as copies, the state restored.
  // A plan trims, gives windows back and maps in this order.
  void share(int source, int target);
  void share_table(int source, int target, int t, int rows);

  // Hands over the plan and starts the next one.
  void enqueue() { enqueue_words(std::exchange(plan, {}).words(next_step)); }
  void enqueue_words(const std::vector<int32_t> &words);
  // Waits for the oldest step. When it has failed the runner has forgotten everything; so does the host.
  StepOutput wait();
  size_t in_flight() const { return waiting_.size(); }

  // Runs the plan and starts the next one; a failing step ends the test.
  StepOutput step();
  StepOutput try_step();
  StepOutput try_words(const std::vector<int32_t> &words);

 private:
  static int take(std::vector<int> &from);

  HostOptions options_;
  std::unique_ptr<up::Runner> runner_;
  std::vector<Progress> slots_;
  int next_content_ = 1;
  std::vector<std::pair<int, int>> adopted_;              // source and target, in the plan being written
  std::deque<std::vector<std::pair<int, int>>> waiting_;  // of the steps in flight
};
