// A model of random weights in a file, for timings, and the layout that a scheduler would give it.
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
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "../../test/layout_json.h"
#include "model_shapes.h"
#include "weights/checkpoint.h"

// Layers of one kind have the same tensors.
class SyntheticModel {
 public:
  SyntheticModel(const ModelShape &shape, std::string path) : path_(std::move(path)), model_(shape.table) {
    model_.files = {path_};
    const int64_t hidden = model_.hidden_size;
    add(-1, "embedding", {model_.vocab_size, hidden}, Fill::wide);
    add(-1, "finalNorm", {hidden}, Fill::constant, 1 - model_.final_norm.offset);
    if (shape.tied) {
      model_.tensors["lmHead"] = model_.tensors["embedding"];
      model_.roles.emplace_back(-1, "lmHead");
    } else {
      add(-1, "lmHead", {model_.vocab_size, hidden});
    }
    for (int i = 0; i < model_.layer_count(); i++) add_layer(i);
    write();
  }
  ~SyntheticModel() { unlink(path_.c_str()); }
  SyntheticModel(const SyntheticModel &) = delete;
  SyntheticModel &operator=(const SyntheticModel &) = delete;

  std::shared_ptr<const up::Checkpoint> open() const { return std::make_shared<const up::Checkpoint>(model_); }

 private:
  enum class Fill { narrow, wide, constant };
  struct Piece {
    int64_t offset, bytes;
    Fill fill;
    float value;
  };

  void add_layer(int i) {
    const up::LayerSpec spec = model_.layer(i);
    const int64_t hidden = model_.hidden_size;
    const auto norm = [&](const char *role, int64_t width, const up::NormSpec &of) {
      add(i, role, {width}, Fill::constant, 1 - of.offset);
    };
    norm("inputNorm", hidden, spec.norm);
    norm("mlpNorm", hidden, spec.norm);
    if (spec.post_norms) {
      norm("postAttentionNorm", hidden, spec.norm);
      norm("postMlpNorm", hidden, spec.norm);
    }
    if (spec.is_attention()) {
      const up::AttentionSpec &a = spec.attention;
      add(i, "q", {a.query_width() * (a.output_gate ? 2 : 1), hidden});
      add(i, "k", {a.kv_width(), hidden});
      add(i, "v", {a.kv_width(), hidden});
      add(i, "o", {hidden, a.query_width()});
      if (a.qk_norm) {
        norm("qNorm", a.head_dim, a.qk_norm_spec);
        norm("kNorm", a.head_dim, a.qk_norm_spec);
      }
    } else {
      const up::DeltaSpec &d = spec.delta;
      add(i, "qkv", {d.conv_width(), hidden});
      add(i, "z", {d.value_width(), hidden});
      add(i, "b", {d.value_heads, hidden});
      add(i, "a", {d.value_heads, hidden});
      add(i, "conv", {d.conv_width(), 1, d.conv_kernel}, Fill::wide);
      add(i, "aLog", {d.value_heads}, Fill::constant, -3);
      add(i, "dtBias", {d.value_heads}, Fill::constant, -1);
      add(i, "deltaNorm", {d.value_dim}, Fill::constant, 1);
      add(i, "out", {hidden, d.value_width()});
    }
    const up::MlpSpec &m = spec.mlp;
    if (!m.is_moe()) {
      add(i, "gate", {m.inner, hidden});
      add(i, "up", {m.inner, hidden});
      add(i, "down", {hidden, m.inner});
      return;
    }
    add(i, "router", {m.experts, hidden});
    add(i, "expertGateUp", {m.experts, 2 * m.inner, hidden});
    add(i, "expertDown", {m.experts, hidden, m.inner});
    if (m.shared_inner == 0) return;
    add(i, "sharedGate", {m.shared_inner, hidden});
    add(i, "sharedUp", {m.shared_inner, hidden});
    add(i, "sharedDown", {hidden, m.shared_inner});
    add(i, "sharedExpertGate", {1, hidden});
  }

  void add(int layer, const std::string &role, std::vector<int64_t> shape, Fill fill = Fill::narrow, float value = 0) {
    const char *kinds[] = {"full.", "sliding.", "delta."};
    const std::string name = (layer < 0 ? "" : kinds[static_cast<int>(model_.layer(layer).mixer)]) + role;
    (layer < 0 ? model_.tensors : model_.layers[static_cast<size_t>(layer)].tensors)[role] = name;
    model_.roles.emplace_back(layer, role);
    if (!names_.insert(name).second) return;
    int64_t count = 1;
    header_ << (pieces_.empty() ? "" : ",") << '"' << name << "\":{\"dtype\":\"BF16\",\"shape\":[";
    for (size_t i = 0; i < shape.size(); i++) {
      header_ << (i ? "," : "") << shape[i];
      count *= shape[i];
    }
    header_ << "],\"data_offsets\":[" << end_ << ',' << end_ + 2 * count << "]}";
    pieces_.push_back({end_, 2 * count, fill, value});
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
    // Blocks of normal values, again and again from other places on.
    const size_t block = 8 << 20;
    std::vector<uint16_t> narrow(block), wide(block);
    std::mt19937_64 random(7);
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < block; i++) {
      const float value = normal(random);
      narrow[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(value * 0.015f) >> 16);
      wide[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
    }
    std::atomic<size_t> next{0};
    std::vector<std::jthread> threads;
    for (unsigned t = 0; t < std::max(1u, std::thread::hardware_concurrency()); t++) {
      threads.emplace_back([&] {
        for (size_t i = next++; i < pieces_.size(); i = next++) {
          const Piece &piece = pieces_[i];
          std::vector<uint16_t> constant;
          if (piece.fill == Fill::constant)
            constant.assign(static_cast<size_t>(piece.bytes / 2), static_cast<uint16_t>(std::bit_cast<uint32_t>(piece.value) >> 16));
          const std::vector<uint16_t> &from = piece.fill == Fill::constant ? constant : piece.fill == Fill::wide ? wide : narrow;
          int64_t skip = piece.fill == Fill::constant ? 0 : static_cast<int64_t>(i * 7919 % 1024) * 4096;
          for (int64_t done = 0; done < piece.bytes;) {
            const int64_t room = static_cast<int64_t>(2 * from.size()) - skip % static_cast<int64_t>(2 * from.size());
            const int64_t bytes = std::min(room, piece.bytes - done);
            put(file, reinterpret_cast<const char *>(from.data()) + skip % static_cast<int64_t>(2 * from.size()), bytes,
                begin + piece.offset + done);
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
  std::set<std::string> names_;
  std::vector<Piece> pieces_;
  int64_t end_ = 0;
};

// The layout for CUDA's element sizes: as many layers a slab as divide every table, and the carry where it is whole layers.
// Of one rank.
inline up::Layout synthetic_layout(const ModelShape &shape, int ranks, int page_size) {
  RandomModel model;
  const up::ModelTable share = up::shard_table(shape.table, {0, ranks});
  model.hidden = share.carry_width();
  model.layers = share.layers;
  LayoutChoice choice{{shape.drop_layers.begin(), shape.drop_layers.end()}, page_size, 1};
  const up::ElementBytes elements{2, 2, 2};
  const up::Layout single = make_layout(model, choice, elements);
  int layers = 0;
  for (const up::Table &table : single.tables) layers = std::gcd(layers, static_cast<int>(table.layers.size()));
  const int64_t row = single.slab_bytes / page_size, carry_row = int64_t{2} * model.hidden;
  if (!shape.drop_layers.empty() && carry_row % row == 0) layers = std::gcd(layers, static_cast<int>(carry_row / row));
  choice.layers_per_slab = layers;
  return make_layout(model, choice, elements);
}
