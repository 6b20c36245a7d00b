// One open slot: a request's content and how far it has been computed.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "plan/content.h"

namespace up {

// Rows of a segment: the kept set S_i of the prompt, then the output tokens that the content brought.
struct SegmentState {
  int set_rows = -1;               // |S_i|, −1 while it is not known
  std::vector<int32_t> kept;       // S_i as indices into S_{i−1}; empty in segment 0
  std::vector<int32_t> positions;  // S_i as positions in the prompt; empty in segment 0
  int computed = 0;                // rows whose K/V (and carry) are written
  bool done = false;               // computed to the end, and selected from where a selection follows

  bool is_known() const { return set_rows >= 0; }
};

struct Slot {
  std::shared_ptr<const Content> content;  // null: closed
  uint64_t sequence = 0;                   // counts openings
  std::vector<SegmentState> segments;
  std::vector<int> freed_pages;  // [tables] given back at the front
  bool adopted = false;  // another slot's prefill is its own: its rows lie in that one's pages until they are mapped
  bool sampled = false;  // whether it has a last sampled token
  int decoded = 0;   // rows appended by decoding
  int outputs = 0;   // output tokens, those that the content brought included; a step in flight has sampled some
  int decode_index = -1;  // its place in the decode set
  int state_slot = -1;    // of its recurrent state

  bool is_open() const { return content != nullptr; }
  bool drops() const { return content->drops; }
  SegmentState &segment(int i) { return segments[static_cast<size_t>(i)]; }
  const SegmentState &segment(int i) const { return segments[static_cast<size_t>(i)]; }
  // |S_i|; the last known set bounds those that are not known yet.
  int set_rows(int i) const;
  // Rows to prefill in segment i.
  int rows(int i) const { return set_rows(i) + content->outputs(); }
  // Rows of segment i's K/V so far.
  int length(int i) const { return segment(i).computed + decoded; }
  bool is_prefilled() const { return segments.back().done; }
  bool is_untouched() const;
  // Whether its tables may be given pages that others have computed.
  bool may_map() const { return is_untouched() || (adopted && decoded == 0); }
  // Row r of segment i as a position in the request, and as a row of segment i − 1.
  int position(int i, int row) const;
  int parent(int i, int row) const;
  // The same of rows [begin, end), behind what `to` has.
  void add_positions(int i, int begin, int end, std::vector<int32_t> &to) const;
  void add_parents(int i, int begin, int end, std::vector<int32_t> &to) const;
  // The first row of segment i that a sliding layer's row sees.
  int first_visible(int i, int row, int window, bool by_original) const;

  // Why this slot cannot go on from the prefill of `source`, or null.
  const char *adoption_fault(const Slot &source) const;

  // Applies the bitmap of the selection after segment i: S_{i+1} becomes known.
  void apply_bitmap(int i, std::span<const uint32_t> bitmap, const Schedule &schedule);
};

}  // namespace up
