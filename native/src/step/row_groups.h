// The rows that pass a layer together, as groups of consecutive rows of one slot.
//
//   [decode rows][rows whose logits are all wanted][rows of prompts that do not drop][rows of prompts that do]
//
// In that order, rows that a layer treats alike lie together: at a drop layer the last part gives K and V and is cut down to what is
// kept; in the last layer the last two are.
#pragma once

#include <vector>

#include "backend.h"
#include "plan/books.h"

namespace up {

struct Group {
  enum class Kind { decode, logits, dense, dropping };
  Kind kind;
  int slot;
  int item;   // of the plan, −1 of a decode row
  int begin;  // its first row, as a row of its segment
  int rows;

  int end() const { return begin + rows; }
};

class RowGroups {
 public:
  explicit RowGroups(const Books &books) : books_(books) {}

  void clear() { groups_.clear(); }
  void add(const Group &group) { groups_.push_back(group); }
  const std::vector<Group> &groups() const { return groups_; }
  bool empty() const { return rows() == 0; }
  int rows() const;
  // Rows of the groups before those of `kind`.
  int rows_before(Group::Kind kind) const;
  // Takes out the groups from `kind` on.
  std::vector<Group> take_from(Group::Kind kind);

  // Every row's place and position in the layers of a segment, and which rows leave out keys there.
  RowTable table(int segment) const;
  // At the drop layer that ends `segment`, where no row leaves out keys: rows that go on are seen where they come from, in that
  // segment's tables; `kind` dropping are rows of the segment after it.
  RowTable entry_table(int segment) const;

 private:
  static int sparse_blocks(const Group &group, int prompt_rows);
  RowTable make_table(int segment, bool entering) const;

  const Books &books_;
  std::vector<Group> groups_;
};

}  // namespace up
