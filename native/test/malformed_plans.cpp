#include "malformed_plans.h"

SlotSpec counted_prompt(int length, bool drops) {
  SlotSpec spec;
  for (int i = 0; i < length; i++) spec.tokens.push_back((i * 7 + i / 5) % 48);
  spec.prompt_length = length;
  spec.drops = drops;
  return spec;
}

HostOptions small_host(std::vector<int32_t> drop_layers) {
  HostOptions options;
  options.schedule.layers = std::move(drop_layers);
  options.schedule.sink = 32;
  options.schedule.last_q = 32;
  options.slabs = 96;
  options.slots = 5;
  options.state_slots = 6;
  options.max_rows = 400;
  options.max_tokens = 300;
  options.threads = 1;
  options.shuffled = false;
  return options;
}

RandomModel small_model(std::vector<up::LayerSpec> layers) {
  RandomModel model;
  model.hidden = 32;
  model.vocab = 48;
  model.max_positions = 512;
  model.layers = std::move(layers);
  for (up::LayerSpec &layer : model.layers) layer.mlp.inner = 40;
  return model;
}

PlanFault record_fault(Section section, std::vector<int32_t> record, const std::string &expected) {
  return {[=](Host &h) {
    h.plan[section].insert(h.plan[section].end(), record.begin(), record.end());
    return expected;
  }};
}

PlanWorld llama_world() {
  PlanWorld out{std::make_shared<TestModel>(small_model(llama_layers(3, 2, 1, 16))), small_host({1}), {}, {}, {}};
  out.begin = [](Host &h) {
    h.open(0, counted_prompt(150, true));
    h.open(3, counted_prompt(150, true));
    h.prefill(0, 1000);
    h.adopt(0, 3);
    h.step();
    h.open(1, counted_prompt(200, true));
    h.prefill(1, 64);
    h.open(2, counted_prompt(100, false));
    h.join(0);
    h.step();
  };
  out.finish = [](Host &h) {
    h.grow_decode(0);
    h.prefill(1, 1000);
    h.prefill(2, 1000);
    return h.step();
  };
  const int low = INT32_MIN;
  out.faults = {
      record_fault(Section::retains, {90}, "retains[0]: slab 90 is free"),
      record_fault(Section::retains, {96}, "retains[0]: slab 96 of 96"),
      record_fault(Section::retains, {0, 0}, "retains[1]: slab 0 is cached already"),
      record_fault(Section::leaves, {1}, "leaves[0]: slot 1 is not in the decode set"),
      record_fault(Section::leaves, {0, 0}, "leaves[1]: slot 0 is not in the decode set"),
      record_fault(Section::leaves, {4}, "leaves[0]: slot 4 is not open"),
      record_fault(Section::leaves, {5}, "leaves[0]: slot 5 of 5"),
      record_fault(Section::leaves, {-1}, "leaves[0]: slot -1 of 5"),
      record_fault(Section::closes, {0}, "closes[0]: slot 0 is in the decode set"),
      record_fault(Section::closes, {4}, "closes[0]: slot 4 is not open"),
      record_fault(Section::closes, {1, 1}, "closes[1]: slot 1 is not open"),
      record_fault(Section::opens, {4, 77}, "opens[0]: there is no content 77"),
      record_fault(Section::opens, {5, 77}, "opens[0]: slot 5 of 5"),
      record_fault(Section::opens, {1, 77}, "opens[0]: slot 1 is open already"),
      {[](Host &h) {
        const int id = h.put(counted_prompt(10, false));
        h.plan[Section::opens] = {4, id, 4, id};
        return "opens[1]: slot 4 is open already";
      }},
      {[](Host &h) {
        const int id = h.put(counted_prompt(10, false));
        h.plan[Section::closes] = {1};
        h.plan[Section::opens] = {4, id, 1, id};
        return up::text("opens[1]: there is no content ", id);
      }},
      record_fault(Section::trims, {0, 0, 4}, "trims[0]: keeps 4 pages of table 0 of slot 0, which has 3"),
      record_fault(Section::trims, {0, 0, -1}, "trims[0]: keeps -1 pages"),
      record_fault(Section::trims, {0, 3, 0}, "trims[0]: table 3 of 3"),
      record_fault(Section::trims, {0, -1, 0}, "trims[0]: table -1 of 3"),
      record_fault(Section::trims, {0, 0, 1}, "trims[0]: table 0 of slot 0 is left with room for 64 rows, 151 are still needed"),
      record_fault(Section::trims, {1, 2, 0}, "trims[0]: table 2 of slot 1 is left with room for 0 rows, 64 are still needed"),
      record_fault(Section::window_frees, {0, 0, 1}, "windowFrees[0]: table 0 is full, not sliding"),
      record_fault(Section::window_frees, {0, 2, 1}, "windowFrees[0]: table 2 is carry, not sliding"),
      record_fault(Section::evictions, {5}, "evictions[0]: slab 5 is not cached"),
      record_fault(Section::evictions, {96}, "evictions[0]: slab 96 of 96"),
      record_fault(Section::maps, {2, 0, 90}, "maps[0]: slab 90 is free: neither the cache nor a table holds it"),
      record_fault(Section::maps, {1, 0, 0}, "maps[0]: slot 1 has computed 64 rows, 0 decoded"),
      record_fault(Section::maps, {0, 0, 0}, "maps[0]: slot 0 has computed 150 rows, 1 decoded"),
      record_fault(Section::maps, {2, 0, low}, "maps[0]: slab -2147483648 of 96"),
      {[](Host &h) {
        for (int i = 0; i < 4; i++) h.plan.add(Section::maps, {2, 0, i});
        for (const int slab : {0, 1}) h.plan.add(Section::maps, {2, 1, slab});
        return "maps: 128 rows for slot 2, which has 100";
      }},
      {[](Host &h) {
        const int slab = h.progress(0).pages(0).slabs[0];
        h.plan.add(Section::maps, {2, 0, slab});
        return "maps[0]: table 0 of slot 2 is left with 1 slabs, a page has 2";
      }},
      record_fault(Section::grants, {2, 0, 0}, "grants[0]: slab 0 is not free: it has 1 references"),
      record_fault(Section::grants, {2, 0, 90, 2, 0, 90}, "grants[1]: slab 90 is not free"),
      record_fault(Section::grants, {2, 0, low}, "grants[0]: slab -2147483648 of 96"),
      record_fault(Section::grants, {4, 0, 90}, "grants[0]: slot 4 is not open"),
      record_fault(Section::grants, {2, 0, 90}, "grants[0]: table 0 of slot 2 is left with 1 slabs, a page has 2"),
      record_fault(Section::copies, {90, 0}, "copies[0]: source slab 90 is free"),
      record_fault(Section::copies, {0, 90}, "copies[0]: target slab 90 is not granted in this step"),
      record_fault(Section::copies, {1, 0}, "copies[0]: target slab 0 is not granted in this step"),
      record_fault(Section::copies, {0, -1}, "copies[0]: slab -1 of 96"),
      {[](Host &h) {
        h.plan[Section::grants] = {2, 0, 90, 2, 0, 91};
        h.plan[Section::copies] = {90, 91};
        return "copies[0]: source slab 90 is granted in this step: it holds nothing";
      }},
      record_fault(Section::states, {0, 0, 0}, "states[0]: state slot 0 of 0"),
      record_fault(Section::joins, {0, -1}, "joins[0]: slot 0 is in the decode set already"),
      record_fault(Section::joins, {1, -1}, "joins[0]: slot 1 has computed 64 of 200 rows"),
      {[](Host &h) {
        h.plan[Section::leaves] = {0};
        h.plan[Section::joins] = {0, 48};
        return "joins[0]: token 48, the vocabulary has 48";
      }},
      {[](Host &h) {
        h.plan[Section::leaves] = {0};
        h.plan[Section::joins] = {0, -2};
        return "joins[0]: token -2, the vocabulary has 48";
      }},
      record_fault(Section::items, {9, 0, 1, 0, 0}, "items[0]: slot 9 of 5"),
      record_fault(Section::items, {4, 0, 1, 0, 0}, "items[0]: slot 4 is not open"),
      record_fault(Section::items, {0, 0, 1, 0, 1}, "items[0]: slot 0 is in the decode set"),
      record_fault(Section::items, {3, 0, 1, 0, 1}, "items[0]: slot 3 goes on from another slot's prefill"),
      {[](Host &h) {
        for (const int table : {0, 2}) h.grow(1, table, 66);
        h.plan[Section::items] = {1, 64, 1, 0, 0, 1, 65, 1, 0, 0};
        return "items[1]: slot 1 has an item already";
      }},
      record_fault(Section::items, {1, 63, 1, 0, 0}, "items[0]: begins at row 63 of segment 0, of which 64 rows are computed"),
      record_fault(Section::items, {1, 65, 1, 0, 0}, "items[0]: begins at row 65 of segment 0, of which 64 rows are computed"),
      record_fault(Section::items, {2, 1, 99, 0, 1}, "items[0]: begins at row 1 of segment 0, of which 0 rows are computed"),
      record_fault(Section::items, {1, 0, 1, 1, 1},
                   "items[0]: begins in segment 1, but segment 0 is not finished: 64 rows are computed"),
      record_fault(Section::items, {1, 64, 1, 1, 0}, "items[0]: segments 1 to 0"),
      record_fault(Section::items, {1, 64, 1, 0, 2}, "items[0]: segments 0 to 2, there are 0 to 1"),
      record_fault(Section::items, {1, 64, 1, -1, 0}, "items[0]: segments -1 to 0"),
      record_fault(Section::items, {2, 0, 100, 0, 0}, "items[0]: segments 0 to 0, a slot that does not drop has 0 to 1"),
      record_fault(Section::items, {2, 0, 0, 0, 1}, "items[0]: 0 rows, and no selection follows"),
      record_fault(Section::items, {1, 64, 36, 0, 1}, "items[0]: goes on to segment 1 but ends at row 100 of 200"),
      record_fault(Section::items, {1, 64, 137, 0, 0}, "items[0]: rows 64 + 137 of segment 0, which has 200"),
      record_fault(Section::items, {1, 64, INT32_MAX, 0, 0}, "items[0]: rows 64 + 2147483647 of segment 0"),
      record_fault(Section::items, {1, 64, -1, 0, 0}, "items[0]: rows 64 + -1 of segment 0"),
      record_fault(Section::items, {1, -1, 1, 0, 0}, "items[0]: rows -1 + 1 of segment 0"),
      record_fault(Section::items, {1, 64, 0, 0, 0}, "items[0]: 0 rows, and no selection follows"),
      record_fault(Section::items, {1, 64, 1, 0, 0}, "items[0]: rows 64 to 65 of table 0 of slot 1, which has room for 64"),
      {[](Host &h) {
        h.grow(1, 0, 65);
        h.plan[Section::items] = {1, 64, 1, 0, 0};
        return "items[0]: rows 64 to 65 of table 2 of slot 1, which has room for 64";
      }},
      {[](Host &h) {
        for (const int table : {0, 2}) h.grow(1, table, 200);
        h.grow(1, 1, 192);
        h.plan[Section::items] = {1, 64, 136, 0, 1};
        return "items[0]: rows 0 to 200 of table 1 of slot 1, which has room for 192";
      }},
      // Pages that the cache has taken are not written any more.
      {[](Host &h) {
        h.plan.add(Section::retains, {h.progress(0).pages(1).slabs.back()});
        return up::text("would write slab ", h.progress(0).pages(1).slabs.back(), ", which is read-only since it was cached");
      }},
      record_fault(Section::samples, {0, 2}, "samples[0]: item 0 of 0"),
      {[](Host &h) {
        h.prefill(2, 100);
        h.plan[Section::samples] = {0, 1};
        return "samples[0]: slot 1 cannot go on from slot 2: it has rows of its own";
      }},
      {[](Host &h) {
        h.prefill(2, 100);
        h.plan[Section::samples] = {0, 4};
        return "samples[0]: slot 4 is not open";
      }},
      {[](Host &h) {
        h.prefill(2, 100);
        h.plan[Section::samples] = {0, 5};
        return "samples[0]: slot 5 of 5";
      }},
      {[](Host &h) {
        h.prefill(2, 100);
        h.plan.add(Section::samples, {0, 2});
        return "samples[1]: slot 2 is sampled already";
      }},
      {[](Host &h) {
        h.prefill(2, 99);
        h.plan.add(Section::samples, {0, 2});
        return "samples[0]: item 0 ends at row 99 of 100";
      }},
      // Slot 3 has rows that its tables must come to hold before it decodes.
      record_fault(Section::joins, {3, -1}, "decode set[1]: rows 150 to 151 of table 0 of slot 3, which has room for 0"),
      {[](Host &h) {
        h.share(0, 3);
        h.plan[Section::copies].clear();
        h.join(3);
        return "of table 0 of slot 3 is granted for rows that are computed, and no copy fills it";
      }},
      {[](Host &h) {
        h.grow(2, 0, 64);
        h.grow(2, 1, 64);
        h.step();
        h.plan.add(Section::maps, {2, 0, h.progress(0).pages(0).slabs[0]});
        return "maps[0]: slot 2 has pages already";
      }},
  };
  return out;
}

PlanWorld hybrid_world() {
  PlanWorld out{std::make_shared<TestModel>(
                    small_model({delta_layer(1, 2, 8, 8), attention_layer(2, 1, 16, 40), attention_layer(2, 1, 16),
                                 delta_layer(1, 2, 8, 8), attention_layer(2, 1, 16, 40), attention_layer(2, 1, 16)})),
                small_host({2}),
                {},
                {},
                {}};
  out.options.schedule.p = 0.1;
  out.begin = [](Host &h) {
    h.open(0, counted_prompt(200, true));
    h.prefill(0, 1000);
    h.open(1, counted_prompt(200, true));
    h.prefill(1, 128);
    h.step();
    h.join(0);
    h.open(2, counted_prompt(100, false));
    h.open(3, counted_prompt(200, true));
    h.step();
  };
  out.finish = [](Host &h) {
    h.grow_decode(0);
    h.prefill(1, 1000);
    h.prefill(2, 1000);
    return h.step();
  };
  const auto item_of_1 = [](Host &h) {
    for (const int table : {0, 1, 4}) h.grow(1, table, 129);
    h.plan[Section::items] = {1, 128, 1, 0, 0};
  };
  const auto opened = [](Host &h) { h.plan[Section::opens] = {4, h.put(counted_prompt(100, false))}; };
  out.faults = {
      record_fault(Section::states, {0, 0, 9}, "states[0]: state slot 9 of 6"),
      record_fault(Section::states, {0, 0, -1}, "states[0]: state slot -1 of 6"),
      record_fault(Section::states, {4, 0, 5}, "states[0]: slot 4 is not open"),
      record_fault(Section::states, {0, 0, 1}, "states[0]: state slot 1 belongs to slot 1"),
      record_fault(Section::states, {0, 1, 1}, "states[0]: state slot 1 belongs to slot 1"),
      record_fault(Section::states, {0, 1, 0}, "states[0]: state slot 0 is the slot's own"),
      record_fault(Section::states, {0, 2, 0}, "states[0]: state slot 0 is the slot's own"),
      record_fault(Section::states, {0, 2, 4}, "states[0]: state slot 4 holds no state"),
      record_fault(Section::states, {0, 3, 4}, "states[0]: operation 3"),
      record_fault(Section::states, {0, -1, 4}, "states[0]: operation -1"),
      {[=](Host &h) {
        opened(h);
        h.plan[Section::states] = {4, 1, 5};
        return "states[0]: slot 4 has no state";
      }},
      {[=](Host &h) {
        opened(h);
        for (int t = 0; t < 4; t++) h.plan[Section::grants].insert(h.plan[Section::grants].end(), {4, t, 90 + t});
        h.plan[Section::items] = {4, 0, 10, 0, 1};
        return "items[0]: slot 4 has no recurrent state";
      }},
      {[](Host &h) {
        h.plan[Section::closes] = {1};
        h.plan[Section::states] = {3, 2, 1};
        return "states[0]: state slot 1 holds no state";
      }},
      // A state that is ahead of the rows, one that is behind them, and one that was forgotten.
      {[=](Host &h) {
        item_of_1(h);
        h.plan[Section::states] = {1, 2, 0};
        return "items[0]: the state of slot 1 has absorbed 201 rows of segment 0, the next is 128";
      }},
      {[=](Host &h) {
        item_of_1(h);
        h.plan[Section::states] = {1, 2, 3};
        return "items[0]: the state of slot 1 has absorbed 0 rows of segment 0, the next is 128";
      }},
      record_fault(Section::states, {0, 0, 0},
                   "decode set[0]: the state of slot 0 has absorbed 0 rows of segment 0, the next is 201"),
      {[](Host &h) {
        for (const int t : {0, 1, 4}) h.plan.add(Section::maps, {3, t, h.progress(1).pages(t).slabs[0]});
        h.plan.add(Section::maps, {3, 4, h.progress(1).pages(4).slabs[1]});
        for (const int t : {0, 1, 4}) h.grow(3, t, 0);
        h.plan[Section::items] = {3, 64, 0, 0, 0};
        return "items[0]: 0 rows, and no selection follows";
      }},
      {[](Host &h) {
        for (const int t : {0, 1, 4}) h.plan.add(Section::maps, {3, t, h.progress(1).pages(t).slabs[0]});
        h.plan.add(Section::maps, {3, 4, h.progress(1).pages(4).slabs[1]});
        for (const int t : {0, 1, 4}) h.plan.add(Section::grants, {3, t, 90 + t});
        h.plan.add(Section::grants, {3, 4, 95});
        h.plan[Section::items] = {3, 64, 1, 0, 0};
        return "items[0]: the state of slot 3 has absorbed 0 rows of segment 0, the next is 64";
      }},
      record_fault(Section::window_frees, {3, 1, 4}, "windowFrees[0]: leaves out 4 pages of 3"),
      record_fault(Section::window_frees, {3, 1, 0}, "windowFrees[0]: leaves out 0 pages of 3"),
      record_fault(Section::window_frees, {3, 1, 1, 3, 1, 1}, "windowFrees[1]: gives back 1 pages of 0"),
      record_fault(Section::window_frees, {1, 1, 3}, "windowFrees[0]: gives back 3 pages of 2"),
      record_fault(Section::window_frees, {1, 1, 0}, "windowFrees[0]: gives back 0 pages of 2"),
      record_fault(Section::window_frees, {1, 1, -1}, "windowFrees[0]: gives back -1 pages of 2"),
      record_fault(Section::window_frees, {1, 0, 1}, "windowFrees[0]: table 0 is full, not sliding"),
      // Row 128 sees rows 89 on, which lie in page 1.
      {[=](Host &h) {
        item_of_1(h);
        h.plan[Section::window_frees] = {1, 1, 2};
        return "items[0]: row 89 of table 1 of slot 1 is in page 1, and 2 were given back";
      }},
      record_fault(Section::trims, {1, 1, 1}, "trims[0]: table 1 of slot 1 is left with room for 64 rows, 128 are still needed"),
      {[](Host &h) {
        h.plan[Section::trims] = {1, 4, 0};
        h.plan[Section::items] = {1, 128, 0, 0, 0};
        return "trims[0]: table 4 of slot 1 is left with room for 0 rows, 128 are still needed";
      }},
  };
  return out;
}
