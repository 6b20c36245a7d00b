// One open slot: a request's content, its page tables and how far it has been computed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runner/page_table.h"
#include "runner/sampling.h"
#include "runner/selection.h"

namespace up {

// What every selection of a runner has in common.
struct Schedule {
  std::vector<int> drop_layers;
  up_rule rule = UP_RULE_EXCLUSIVE;
  int block = 64;
  int sink = 0;
  int last_q = 0;

  SelectionShape shape(int rows) const { return {rows, block, sink, last_q}; }
};

// Rows of a segment: the kept set S_i of the prompt, then the output tokens that the slot was opened with.
struct SegmentState {
  int set_rows = -1;               // |S_i|, -1 while it is not known
  std::vector<int32_t> kept;       // S_i as indices into S_{i-1}; empty in segment 0
  std::vector<int32_t> positions;  // S_i as positions in the prompt; empty in segment 0
  int computed = 0;                // rows whose K/V (and carry) are written
  bool done = false;               // computed to the end, and selected from where a selection follows

  bool is_known() const { return set_rows >= 0; }
};

struct Slot {
  bool open = false;
  std::vector<int32_t> tokens;  // prompt, output it was opened with, output sampled since
  int prompt_length = 0;
  int opened_length = 0;
  bool drops = false;
  std::vector<uint64_t> p_q32;                  // [drop layers]
  std::vector<std::vector<uint32_t>> bitmaps;   // given when it was opened; applied again
  Sampling sampling;
  bool return_logits = false;
  std::vector<SegmentState> segments;
  std::vector<PageTable> tables;
  bool adopted = false;   // another slot's prefill is its own: its rows lie in that one's pages until they are mapped
  int decoded = 0;        // rows appended by decoding
  int decode_index = -1;  // its place in the decode set

  int replayed_outputs() const { return opened_length - prompt_length; }
  SegmentState &segment(int i) { return segments[static_cast<size_t>(i)]; }
  const SegmentState &segment(int i) const { return segments[static_cast<size_t>(i)]; }
  // Rows to prefill in segment i. Requires that its set is known.
  int rows(int i) const { return segment(i).set_rows + replayed_outputs(); }
  // Rows of segment i's K/V so far.
  int length(int i) const { return segment(i).computed + decoded; }
  bool is_prefilled() const { return segments.back().done; }
  // Whether its tables may be given pages that others have computed.
  bool may_map() const { return adopted ? decoded == 0 : segment(0).computed == 0; }
  // Whether the next decode row is written to carry 0 as well: the slot drops, and that table has the row's page.
  bool carries_decode(const Layout &layout) const;
  // Row r of segment i as a position in the request, and as a row of segment i - 1.
  int position(int i, int row) const;
  int parent(int i, int row) const;

  // Why this slot cannot go on from the prefill of `source`, or null.
  const char *adoption_fault(const Slot &source) const;

  // Applies the bitmap of the selection after segment i: S_{i+1} becomes known.
  void apply_bitmap(int i, std::span<const uint32_t> bitmap, const Schedule &schedule);
};

}  // namespace up
