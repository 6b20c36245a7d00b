#include "cuda/backend/decode_graphs.h"

#include <algorithm>

namespace up::cuda {
namespace {

constexpr int most_decode_rows = 512;
constexpr int most_inputs = 128;  // tables and carries of a step
constexpr size_t graph_bytes = 4 << 20;

int bucket_of(int rows) {
  for (const int each : {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512})
    if (rows <= each) return each;
  return rows;
}

size_t elements_of(int rows) { return row_table_elements(rows, rows); }

}  // namespace

size_t DecodeGraphs::reserved_bytes(const BackendOptions &options) {
  const int rows = std::min(most_decode_rows, std::min(options.slots, options.max_rows));
  size_t graphs = 0;
  for (int each = 1; each <= rows; each = bucket_of(each) + 1) graphs++;
  return graphs * graph_bytes + static_cast<size_t>(most_inputs + 1) * elements_of(rows) * sizeof(int32_t);
}

DecodeGraphs::DecodeGraphs(Device &device, const BackendOptions &options)
    : device_(device),
      ranks_(options.ranks),
      state_slots_of_(options.layout.has_states() ? options.state_slots_of : nullptr),
      most_rows_(std::min(most_decode_rows, std::min(options.slots, options.max_rows))) {
  const size_t bytes = static_cast<size_t>(most_inputs + 1) * elements_of(most_rows_) * sizeof(int32_t);
  inputs_ = DeviceBuffer(device, bytes, "the inputs of decode steps");
  for (Staging &each : staging_) each = {PinnedBuffer(device, bytes, "the inputs of decode steps"), Event(device, false)};
}

DecodeGraphs::~DecodeGraphs() {
  for (auto &[tape, graph] : graphs_)
    if (graph.graph != nullptr) cudaGraphExecDestroy(graph.graph);
}

bool DecodeGraphs::begin(int decode_rows, std::span<const int32_t> tokens) {
  tape_.clear();
  tables_.clear();
  carries_.clear();
  order_.clear();
  if (decode_rows > most_rows_) return false;
  rows_ = decode_rows;
  bucket_ = std::min(bucket_of(decode_rows), most_rows_);
  tokens_.assign(tokens.begin(), tokens.end());
  return true;
}

int DecodeGraphs::add_table(const RowTable &table) {
  for (size_t i = order_.size(); i-- > 0;) {
    if (order_[i] >= 0 && same_rows(tables_[static_cast<size_t>(order_[i])], table)) return static_cast<int>(i);
  }
  if (order_.size() == most_inputs) fail(UP_INTERNAL, "note a step", "more than ", most_inputs, " row tables");
  order_.push_back(static_cast<int>(tables_.size()));
  tables_.push_back(table);
  return static_cast<int>(order_.size()) - 1;
}

int DecodeGraphs::add_carry(const CarryRows &carry) {
  if (order_.size() == most_inputs) fail(UP_INTERNAL, "note a step", "more than ", most_inputs, " lists of rows");
  order_.push_back(-1 - static_cast<int>(carries_.size()));
  carries_.push_back({carry.slots, carry.rows});
  return static_cast<int>(order_.size()) - 1;
}

size_t DecodeGraphs::input_elements() const { return elements_of(bucket_); }

// [tokens | input 0 | input 1 | …], each in a place of the same size.
void DecodeGraphs::send_inputs() {
  Staging &staging = staging_[next_++ % 2];
  device_.wait(staging.sent.get(), "wait for a decode step's inputs");
  const size_t each = input_elements();
  auto *const host = staging.memory.as<int32_t>();
  auto *const device = inputs_.as<int32_t>();
  const auto bucket = static_cast<size_t>(bucket_);
  std::fill_n(std::copy(tokens_.begin(), tokens_.end(), host), bucket - tokens_.size(), 0);
  laid_out_.assign(order_.size(), {});
  std::vector<int32_t> table;
  for (size_t i = 0; i < order_.size(); i++) {
    const size_t at = (i + 1) * each;
    if (order_[i] >= 0) {
      const RowTable &rows = this->table(static_cast<int>(i));
      laid_out_[i] = lay_out(rows, states_of(rows, state_slots_of_), bucket_, device + at, table);
      std::copy(table.begin(), table.end(), host + at);
    } else {
      const Carry &carry = this->carry(static_cast<int>(i));
      std::fill_n(std::copy(carry.slots.begin(), carry.slots.end(), host + at), bucket - carry.slots.size(), -1);
      std::fill_n(std::copy(carry.rows.begin(), carry.rows.end(), host + at + bucket), bucket - carry.rows.size(), 0);
    }
  }
  device_.copy_in(device, host, (order_.size() + 1) * each * sizeof(int32_t), "send a decode step's inputs");
  device_.check(cudaEventRecord(staging.sent.get(), device_.stream()), "send a decode step's inputs");
}

void DecodeGraphs::run(const std::function<void(const Operation &, const Inputs &)> &carry_out) {
  std::vector<int32_t> key{bucket_};
  for (Operation &operation : tape_) {
    if (operation.rows.begin == 0 && operation.rows.count == rows_) operation.rows.count = bucket_;
    key.insert(key.end(), {operation.kind, operation.rows.begin, operation.rows.count, operation.layer, operation.detail, operation.input});
  }
  send_inputs();
  const auto *const device = inputs_.as<const int32_t>();
  const auto calls = [&] {
    for (const Operation &operation : tape_) {
      Inputs inputs{device, {}, nullptr, nullptr};
      if (operation.input >= 0) {
        const auto number = static_cast<size_t>(operation.input);
        inputs.rows = laid_out_[number];
        inputs.slots = device + (number + 1) * input_elements();
        inputs.carry_rows = inputs.slots + bucket_;
      }
      carry_out(operation, inputs);
    }
  };
  Graph &graph = graphs_[std::move(key)];
  // The first time loads what kernels need loaded, and lets cuBLASLt choose: neither can be captured.
  graph.runs++;
  // What the driver does for a first run or a capture may wait for the device, which may wait for another one: all ranks come here
  // before any goes on.
  if (ranks_ && graph.runs <= 2) ranks_->meet();
  if (graph.runs == 1) return calls();
  if (graph.graph == nullptr) capture(graph, calls);
  device_.check(cudaGraphLaunch(graph.graph, device_.stream()), "launch a decode step's graph");
}

void DecodeGraphs::capture(Graph &graph, const std::function<void()> &calls) {
  constexpr const char *phase = "capture a decode step";
  cudaGraph_t captured = nullptr;
  device_.check(cudaStreamBeginCapture(device_.stream(), cudaStreamCaptureModeThreadLocal), phase);
  try {
    calls();
  } catch (...) {
    if (cudaStreamEndCapture(device_.stream(), &captured) != cudaSuccess) cudaGetLastError();
    if (captured != nullptr) cudaGraphDestroy(captured);
    throw;
  }
  device_.check(cudaStreamEndCapture(device_.stream(), &captured), phase);
  const cudaError_t result = cudaGraphInstantiate(&graph.graph, captured, 0);
  cudaGraphDestroy(captured);
  device_.check(result, phase);
}

}  // namespace up::cuda
