// A Llama model of random weights in a file, for timings, and the layout that a scheduler would give it.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "weights/checkpoint.h"

struct LlamaShape {
  int layers = 32, hidden = 4096, heads = 32, kv_heads = 8, head_dim = 128, inner = 14336, vocab = 128256, max_positions = 131072;
};

class SyntheticModel {
 public:
  SyntheticModel(const LlamaShape &shape, std::string path) : path_(std::move(path)) {
    model_.architecture = "LlamaForCausalLM";
    model_.hidden_size = shape.hidden;
    model_.vocab_size = shape.vocab;
    model_.max_positions = shape.max_positions;
    model_.final_norm = {1e-5f, 0};
    model_.files = {path_};
    const int q = shape.heads * shape.head_dim, kv = shape.kv_heads * shape.head_dim;
    add(-1, "embedding", {shape.vocab, shape.hidden});
    add(-1, "finalNorm", {shape.hidden});
    add(-1, "lmHead", {shape.vocab, shape.hidden});
    for (int i = 0; i < shape.layers; i++) {
      up::LayerSpec layer;
      layer.norm = {1e-5f, 0};
      layer.attention.heads = shape.heads;
      layer.attention.kv_heads = shape.kv_heads;
      layer.attention.head_dim = shape.head_dim;
      layer.attention.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
      layer.attention.rope.theta = 500000;
      layer.attention.rope.dim = shape.head_dim;
      layer.mlp.inner = shape.inner;
      model_.layers.push_back(layer);
      add(i, "inputNorm", {shape.hidden});
      add(i, "mlpNorm", {shape.hidden});
      add(i, "q", {q, shape.hidden});
      add(i, "k", {kv, shape.hidden});
      add(i, "v", {kv, shape.hidden});
      add(i, "o", {shape.hidden, q});
      add(i, "gate", {shape.inner, shape.hidden});
      add(i, "up", {shape.inner, shape.hidden});
      add(i, "down", {shape.hidden, shape.inner});
    }
    write();
  }
  ~SyntheticModel() { unlink(path_.c_str()); }
  SyntheticModel(const SyntheticModel &) = delete;
  SyntheticModel &operator=(const SyntheticModel &) = delete;

  std::shared_ptr<const up::Checkpoint> open() const { return std::make_shared<const up::Checkpoint>(model_); }

 private:
  struct Piece {
    int64_t offset, bytes;
    bool is_norm;
  };

  void add(int layer, const std::string &role, std::vector<int64_t> shape) {
    const std::string name = std::to_string(layer) + '.' + role;
    (layer < 0 ? model_.tensors : model_.layers[static_cast<size_t>(layer)].tensors)[role] = name;
    model_.roles.emplace_back(layer, role);
    int64_t count = 1;
    header_ << (pieces_.empty() ? "" : ",") << '"' << name << "\":{\"dtype\":\"BF16\",\"shape\":[";
    for (size_t i = 0; i < shape.size(); i++) {
      header_ << (i ? "," : "") << shape[i];
      count *= shape[i];
    }
    header_ << "],\"data_offsets\":[" << end_ << ',' << end_ + 2 * count << "]}";
    pieces_.push_back({end_, 2 * count, shape.size() == 1});
    end_ += 2 * count;
  }

  void write() {
    std::string header = '{' + header_.str() + '}';
    while (header.size() % 4096 != 4088) header += ' ';
    const auto begin = static_cast<int64_t>(8 + header.size());
    const int file = ::open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || ftruncate(file, begin + end_) != 0) fail();
    std::string first;
    for (int i = 0; i < 8; i++) first += static_cast<char>(header.size() >> (8 * i));
    first += header;
    put(file, first.data(), static_cast<int64_t>(first.size()), 0);
    // A block of normal values, again and again from other places on, and ones for norms.
    std::vector<uint16_t> values(8 << 20), ones(1 << 20, 0x3f80);
    std::mt19937_64 random(7);
    std::normal_distribution<float> normal(0, 0.015f);
    for (size_t i = 0; i < values.size(); i++) values[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(normal(random)) >> 16);
    std::atomic<size_t> next{0};
    std::vector<std::jthread> threads;
    for (unsigned t = 0; t < std::max(1u, std::thread::hardware_concurrency()); t++) {
      threads.emplace_back([&] {
        for (size_t i = next++; i < pieces_.size(); i = next++) {
          const std::vector<uint16_t> &from = pieces_[i].is_norm ? ones : values;
          int64_t skip = static_cast<int64_t>(i * 7919 % 1024) * 4096;
          for (int64_t done = 0; done < pieces_[i].bytes;) {
            const int64_t room = static_cast<int64_t>(2 * from.size()) - skip % static_cast<int64_t>(2 * from.size());
            const int64_t bytes = std::min(room, pieces_[i].bytes - done);
            put(file, reinterpret_cast<const char *>(from.data()) + skip % static_cast<int64_t>(2 * from.size()), bytes,
                begin + pieces_[i].offset + done);
            done += bytes;
            skip += bytes;
          }
        }
      });
    }
    threads.clear();
    close(file);
  }
  void put(int file, const char *data, int64_t bytes, int64_t at) {
    while (bytes > 0) {
      const ssize_t written = pwrite(file, data, static_cast<size_t>(bytes), at);
      if (written <= 0) fail();
      data += written;
      at += written;
      bytes -= written;
    }
  }
  [[noreturn]] void fail() const {
    std::perror(path_.c_str());
    std::exit(1);
  }

  std::string path_;
  up::ModelTable model_;
  std::ostringstream header_;
  std::vector<Piece> pieces_;
  int64_t end_ = 0;
};

// JSON of the layout of a model whose layers are all full attention of one shape, for CUDA's element sizes.
inline std::string layout_json(const LlamaShape &shape, const std::vector<int> &drop_layers, int page_size) {
  const int64_t row = int64_t{4} * shape.kv_heads * shape.head_dim, carry_row = int64_t{2} * shape.hidden;
  std::vector<std::pair<int, int>> segments;
  int first = 0, per_slab = 0;
  for (size_t i = 0; i <= drop_layers.size(); i++) {
    const int last = i < drop_layers.size() ? drop_layers[i] : shape.layers - 1;
    segments.emplace_back(first, last);
    per_slab = std::gcd(per_slab, last - first + 1);
    first = last + 1;
  }
  if (!drop_layers.empty() && carry_row % row == 0) per_slab = std::gcd(per_slab, static_cast<int>(carry_row / row));
  const int64_t slab = page_size * per_slab * row;
  std::ostringstream out, tables;
  out << "{\"pageSize\":" << page_size << ",\"layersPerSlab\":" << per_slab << ",\"slabBytes\":" << slab << ",\"stateSlotBytes\":0,\"segments\":[";
  for (size_t s = 0; s < segments.size(); s++) {
    out << (s ? "," : "") << "{\"firstLayer\":" << segments[s].first << ",\"lastLayer\":" << segments[s].second << '}';
    tables << (s ? "," : "") << "{\"segment\":" << s << ",\"kind\":\"full\",\"layers\":[";
    for (int layer = segments[s].first; layer <= segments[s].second; layer++) tables << (layer > segments[s].first ? "," : "") << layer;
    tables << "],\"window\":0,\"slabsPerPage\":" << (segments[s].second - segments[s].first + 1) / per_slab << '}';
  }
  for (size_t s = 0; s < drop_layers.size(); s++) {
    tables << ",{\"segment\":" << s << ",\"kind\":\"carry\",\"layers\":[],\"window\":0,\"slabsPerPage\":"
           << (page_size * carry_row + slab - 1) / slab << '}';
  }
  out << "],\"tables\":[" << tables.str() << "]}";
  return out.str();
}
