// Steps of decode rows alone, as CUDA graphs.
//
// The backend does not know at a step's beginning what the step will hold. So it writes down what it is asked for (a tape) until it
// knows: where all rows turn out to be decode rows, the tape is carried out with its rows padded to a bucket and all inputs in
// fixed places, and from the second time on as a graph, captured from the very same calls. What comes after the logits (sampling) is
// carried out as it comes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "backend.h"
#include "cuda/backend/device.h"
#include "cuda/backend/row_tables.h"

namespace up::cuda {

struct Operation {
  enum Kind : int32_t { embed, write_carry, norm, add_normed, linear, rotate_and_write, attend, apply_gate, recur, gate_and_up, experts };
  Kind kind;
  Rows rows;
  int32_t layer = 0;
  int32_t detail = 0;  // a Norm, a MatrixKind, or the segment of a carry
  int32_t input = -1;  // number of its row table or carry rows on the tape
};

class DecodeGraphs {
 public:
  // Device memory that graphs and their inputs may take.
  static size_t reserved_bytes(const BackendOptions &options);

  DecodeGraphs(Device &device, const BackendOptions &options);
  ~DecodeGraphs();

  // Begins a tape. `decode_rows` beyond what is captured make it refuse: false.
  bool begin(int decode_rows, std::span<const int32_t> tokens);
  void add(const Operation &operation) { tape_.push_back(operation); }
  // Numbers of inputs; those that are on the tape already are found again.
  int add_table(const RowTable &table);
  int add_carry(const CarryRows &carry);
  const std::vector<Operation> &tape() const { return tape_; }
  const RowTable &table(int input) const { return tables_[static_cast<size_t>(order_[static_cast<size_t>(input)])]; }
  struct Carry {
    std::vector<int32_t> slots, rows;
  };
  const Carry &carry(int input) const { return carries_[static_cast<size_t>(-1 - order_[static_cast<size_t>(input)])]; }

  // What `carry_out` is told about the inputs of an operation.
  struct Inputs {
    const int32_t *tokens;
    DeviceRows rows;                  // of its table
    const int32_t *slots, *carry_rows;  // of its carry rows
  };
  // Sends the inputs and carries the tape out, operation by operation or as a graph of those calls.
  void run(const std::function<void(const Operation &, const Inputs &)> &carry_out);

 private:
  struct Graph {
    int runs = 0;
    cudaGraphExec_t graph = nullptr;
  };

  size_t input_elements() const;  // of a table or a carry, in the bucket
  void send_inputs();
  void capture(Graph &graph, const std::function<void()> &calls);

  Device &device_;
  const std::shared_ptr<Communicator> ranks_;  // null of one
  const std::vector<int32_t> *state_slots_of_;
  const int most_rows_;
  DeviceBuffer inputs_;
  struct Staging {
    PinnedBuffer memory;
    Event sent;
  };
  Staging staging_[2];  // used in turn
  int next_ = 0;

  int rows_ = 0, bucket_ = 0;
  std::vector<int32_t> tokens_;
  std::vector<RowTable> tables_;
  std::vector<Carry> carries_;
  std::vector<int> order_;  // of inputs: tables from 0 on, carries from −1 down
  std::vector<Operation> tape_;
  std::vector<DeviceRows> laid_out_;  // [inputs], of tables
  std::map<std::vector<int32_t>, Graph> graphs_;  // by bucket and tape
};

}  // namespace up::cuda
