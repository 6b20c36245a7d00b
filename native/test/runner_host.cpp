#include "runner_host.h"

#include <algorithm>
#include <cmath>
#include <random>

std::shared_ptr<const up::Checkpoint> TestModel::load(const std::string &table) {
  try {
    return std::make_shared<const up::Checkpoint>(up::parse_model_table(table));
  } catch (const up::Failure &failure) {
    stop_test((failure.phase + ": " + failure.detail).c_str());
  }
}

RandomModel share_of(const TestModel &model, int ranks) {
  RandomModel out = model.spec;
  const up::ModelTable share = up::shard_table(model.checkpoint->table(), {0, ranks});
  out.layers = share.layers;
  out.hidden = share.carry_width();
  return out;
}

Host::Host(const TestModel &model, const HostOptions &options)
    : layout(make_layout(share_of(model, options.ranks), {options.schedule.layers, options.page_size, options.layers_per_slab},
                         up::element_bytes(options.device))),
      options_(options) {
  const std::string json = layout_json(layout);
  up_runner_options native{};
  native.size = sizeof native;
  native.device = options.device;
  const ScheduleSpec &schedule = options.schedule;
  if (!schedule.layers.empty()) {
    native.schedule = {sizeof native.schedule, static_cast<int32_t>(schedule.layers.size()),
                       schedule.layers.data(), schedule.rule,
                       schedule.block,         schedule.sink,
                       schedule.last_q,        schedule.window_by_original};
  }
  native.layout = json.data();
  native.layout_bytes = json.size();
  native.slabs = options.slabs;
  native.slots = options.slots;
  native.state_slots = layout.has_states() ? options.state_slots : 0;
  native.max_rows_per_step = options.max_rows;
  native.max_tokens = options.max_tokens;
  native.memory_fraction = 0.5;
  native.threads = options.threads;
  native.kernels = options.kernels;
  native.tensor_parallel_size = options.ranks;
  native.prefill_p_q32 = static_cast<uint64_t>(std::ldexp(options.prefill_p, 32));
  try {
    runner_ = std::make_unique<up::Runner>(model.checkpoint, native, [&](const auto &share, const up::BackendOptions &backend) {
      auto made = up::make_backend(share, backend, native);
      return options.wrap ? options.wrap({std::move(made), share, backend, [this] { return in_flight(); }}) : std::move(made);
    });
  } catch (const up::Failure &failure) {
    stop_test((failure.phase + ": " + failure.detail).c_str());
  }
  forget();
}

void Host::forget() {
  free.clear();
  for (int slab = options_.slabs; slab-- > 0;) free.push_back(slab);
  if (options_.shuffled) std::shuffle(free.begin(), free.end(), std::mt19937(1));
  free_states.clear();
  for (int state = options_.state_slots; state-- > 0;) free_states.push_back(state);
  cached.clear();
  slots_.assign(static_cast<size_t>(options_.slots), {});
  adopted_.clear();
  plan = {};
}

int Host::put(const SlotSpec &spec) {
  const int id = next_content_++;
  put_as(id, spec);
  return id;
}

void Host::open(int slot, const SlotSpec &spec) {
  plan.add(up::Section::opens, {slot, put(spec)});
  Progress &p = progress(slot);
  p = Progress(spec, options_.schedule, layout);
  if (!layout.has_states()) return;
  p.state = take(free_states);
  plan.add(up::Section::states, {slot, 0, p.state});
}

void Host::close(int slot) {
  Progress &p = progress(slot);
  leave(slot);
  plan.add(up::Section::closes, {slot});
  if (p.state >= 0) free_states.push_back(p.state);
  const std::vector<Pages> tables = std::move(p.tables);
  p = {};
  for (const Pages &pages : tables) {
    for (const int slab : pages.slabs) release(slab);
  }
}

void Host::release(int slab) {
  if (slab >= 0 && !is_held(slab) && std::find(free.begin(), free.end(), slab) == free.end()) free.push_back(slab);
}

bool Host::is_held(int slab) const {
  const auto holds = [&](const Pages &pages) {
    return std::find(pages.slabs.begin(), pages.slabs.end(), slab) != pages.slabs.end();
  };
  return cached.contains(slab) || std::any_of(slots_.begin(), slots_.end(), [&](const Progress &p) {
           return std::any_of(p.tables.begin(), p.tables.end(), holds);
         });
}

void Host::grow(int slot, int table, int rows) {
  auto &slabs = progress(slot).pages(table).slabs;
  while (static_cast<int>(slabs.size()) < layout.pages_for(rows) * layout.table(table).slabs_per_page) {
    slabs.push_back(take(free));
    plan.add(up::Section::grants, {slot, table, slabs.back()});
  }
}

void Host::grow_segment(int slot, int segment, int rows) {
  for (const int table : layout.segment(segment).attention) grow(slot, table, rows);
}

void Host::prefill(int slot, int most, int more) {
  Progress &p = progress(slot);
  free_windows(slot);
  const int last = layout.last_segment();
  if (options_.prefill_p > 0) most = std::max(1, most / up::sparse_query_rows) * up::sparse_query_rows;
  const int rows = std::min(most, p.rows_of(p.segment) - p.computed);
  const int end = p.computed + rows;
  const bool completes = end == p.rows_of(p.segment);
  const int last_segment = !p.drops ? last : completes ? std::min(last, p.segment + more) : p.segment;
  for (int s = p.segment; s <= last_segment; s++) {
    const int need = s == p.segment || !p.drops ? end : p.rows_of(s);
    grow_segment(slot, s, need);
    if (p.drops && layout.segment(s).carry >= 0) grow(slot, layout.segment(s).carry, need);
  }
  const int item = plan.count(up::Section::items);
  plan.add(up::Section::items, {slot, p.computed, rows, p.segment, last_segment});
  if (completes && last_segment == last) {
    plan.add(up::Section::samples, {item, slot});
    p.prefilled = true;
  }
  if (completes && last_segment < last) {
    p.segment = last_segment + 1;
    p.computed = 0;
  } else {
    p.computed = end;
  }
}

void Host::grow_decode(int slot, bool keep_carry) {
  Progress &p = progress(slot);
  trim(slot, keep_carry);
  free_windows(slot);
  for (int s = 0; s <= layout.last_segment(); s++) grow_segment(slot, s, p.rows_of(s) + p.decoded + 1);
  if (keep_carry && p.drops) grow(slot, layout.segment(0).carry, p.rows_of(0) + p.decoded + 1);
  p.decoded++;
}

void Host::join(int slot, int token, bool keep_carry) {
  plan.add(up::Section::joins, {slot, token});
  progress(slot).decoding = true;
  grow_decode(slot, keep_carry);
}

void Host::leave(int slot) {
  if (progress(slot).decoding) plan.add(up::Section::leaves, {slot});
  progress(slot).decoding = false;
}

void Host::free_windows(int slot) {
  Progress &p = progress(slot);
  for (int t = 0; t < static_cast<int>(layout.tables.size()); t++) {
    const up::Table &table = layout.table(t);
    if (table.kind != up::TableKind::sliding || !p.is_known(table.segment)) continue;
    const int low =
        p.first_visible(table.segment, p.next_row(table.segment), table.window, options_.schedule.window_by_original);
    give_back_front(slot, t, low / options_.page_size);
  }
}

void Host::give_back_front(int slot, int t, int pages) {
  Pages &held = progress(slot).pages(t);
  const int per_page = layout.table(t).slabs_per_page;
  if (pages <= held.freed) return;
  plan.add(up::Section::window_frees, {slot, t, pages - held.freed});
  for (; held.freed < pages; held.freed++) {
    for (int i = 0; i < per_page; i++) {
      const int slab = std::exchange(held.slabs[static_cast<size_t>(held.freed * per_page + i)], -1);
      release(slab);
    }
  }
}

void Host::trim(int slot, bool keep_carry) {
  Progress &p = progress(slot);
  for (int t = 0; t < static_cast<int>(layout.tables.size()); t++) {
    const up::Table &table = layout.table(t);
    const bool is_carry = table.kind == up::TableKind::carry;
    if (is_carry ? keep_carry || !p.is_done(table.segment + 1) : !p.is_done(table.segment)) continue;
    cut(slot, t, is_carry ? 0 : layout.pages_for(p.rows_of(table.segment) + p.decoded));
  }
}

void Host::cut(int slot, int t, int pages) {
  Pages &held = progress(slot).pages(t);
  const auto rest = static_cast<size_t>(pages * layout.table(t).slabs_per_page);
  if (held.slabs.size() <= rest) return;
  plan.add(up::Section::trims, {slot, t, pages - held.freed});
  const std::vector<int> given(held.slabs.begin() + static_cast<std::ptrdiff_t>(rest), held.slabs.end());
  held.slabs.resize(rest);
  for (const int slab : given) release(slab);
}

Prefix Host::cache(int slot, int rows) {
  const Progress &p = progress(slot);
  Prefix out{rows, {}, -1};
  out.tables.resize(layout.tables.size());
  for (int t = 0; t < static_cast<int>(layout.tables.size()); t++) {
    const up::Table &table = layout.table(t);
    if (!p.is_shared_by_prefix(table)) continue;
    const int low = table.kind == up::TableKind::sliding ? std::max(0, rows - table.window + 1) / options_.page_size : 0;
    const int per_page = table.slabs_per_page;
    Pages &to = out.tables[static_cast<size_t>(t)];
    to.freed = low;
    for (int i = 0; i < rows / options_.page_size * per_page; i++) {
      const int slab = i < low * per_page ? -1 : p.pages(t).slabs[static_cast<size_t>(i)];
      to.slabs.push_back(slab);
      if (slab < 0 || !cached.insert(slab).second) continue;
      plan.add(up::Section::retains, {slab});
    }
  }
  if (layout.has_states()) {
    out.state = take(free_states);
    plan.add(up::Section::states, {slot, 1, out.state});
  }
  return out;
}

void Host::hit(int slot, const Prefix &prefix) {
  Progress &p = progress(slot);
  for (int t = 0; t < static_cast<int>(layout.tables.size()); t++) {
    const Pages &from = prefix.tables[static_cast<size_t>(t)];
    if (from.slabs.empty()) continue;
    p.pages(t) = from;
    if (from.freed > 0) plan.add(up::Section::window_frees, {slot, t, from.freed});
    for (const int slab : from.slabs) {
      if (slab >= 0) plan.add(up::Section::maps, {slot, t, slab});
    }
  }
  if (prefix.state >= 0) plan.add(up::Section::states, {slot, 2, prefix.state});
  p.computed = prefix.rows;
}

void Host::evict(const Prefix &prefix) {
  for (const Pages &pages : prefix.tables) {
    for (const int slab : pages.slabs) {
      if (slab < 0 || cached.erase(slab) == 0) continue;
      plan.add(up::Section::evictions, {slab});
      release(slab);
    }
  }
  if (prefix.state >= 0) free_states.push_back(prefix.state);
}

void Host::adopt(int source, int target) {
  plan.add(up::Section::samples, {plan.count(up::Section::items) - 1, target});
  adopted_.emplace_back(source, target);
}

void Host::share(int source, int target) {
  trim(source);
  free_windows(source);
  for (int s = 0; s <= layout.last_segment(); s++) {
    for (const int t : layout.segment(s).attention) share_table(source, target, t, progress(source).rows_of(s));
  }
  if (layout.has_states()) plan.add(up::Section::states, {target, 2, progress(source).state});
}

void Host::share_table(int source, int target, int t, int rows) {
  const Pages &from = progress(source).pages(t);
  Pages &to = progress(target).pages(t);
  const int per_page = layout.table(t).slabs_per_page;
  const int full = rows / options_.page_size;
  to.freed = std::min(from.freed, full);
  if (to.freed > 0) plan.add(up::Section::window_frees, {target, t, to.freed});
  for (int i = 0; i < full * per_page; i++) {
    const int slab = from.slabs[static_cast<size_t>(i)];
    to.slabs.push_back(i < to.freed * per_page ? -1 : slab);
    if (i >= to.freed * per_page) plan.add(up::Section::maps, {target, t, slab});
  }
  grow(target, t, rows);
  for (size_t i = static_cast<size_t>(full * per_page); i < to.slabs.size(); i++) {
    plan.add(up::Section::copies, {from.slabs[i], to.slabs[i]});
  }
}

void Host::enqueue_words(const std::vector<int32_t> &words) {
  runner_->enqueue(reinterpret_cast<const uint8_t *>(words.data()), words.size() * 4);
  next_step++;
  waiting_.push_back(std::exchange(adopted_, {}));
}

StepOutput Host::wait() {
  StepOutput out;
  const std::vector<std::pair<int, int>> adopted = waiting_.front();
  waiting_.pop_front();
  try {
    out = read_result(runner_->wait());
  } catch (const up::Failure &failure) {
    out.status = failure.status;
    out.error = failure.phase + ": " + failure.detail;
    next_step--;
    forget();
    return out;
  }
  for (const auto &selection : out.selections)
    progress(selection.slot).decide(selection.segment, selection.bitmap, options_.schedule);
  for (const auto &[source, target] : adopted) progress(target).adopt(progress(source));
  return out;
}

StepOutput Host::step() {
  StepOutput out = try_step();
  if (out.status != UP_OK) stop_test(("step failed: " + out.error).c_str());
  return out;
}

StepOutput Host::try_step() {
  enqueue();
  return wait();
}

StepOutput Host::try_words(const std::vector<int32_t> &words) {
  enqueue_words(words);
  return wait();
}

int Host::take(std::vector<int> &from) {
  if (from.empty()) stop_test("the host has run out of slabs or state slots");
  const int out = from.back();
  from.pop_back();
  return out;
}
