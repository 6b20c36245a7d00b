// The test vectors that other engines are given (native/vectors), read, with the inputs that they are about.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "../src/cpu/bf16.h"
#include "../src/cpu/kernels.h"
#include "check.h"
#include "selection/selection.h"
#include "uniprefill/operators.h"
#include "weights/json.h"

namespace vectors {

using up::Json;
using up::cpu::AttentionShape;
using up::cpu::bf16;

// ------------------------------------------------------------------------------------------------------- reading ------

inline Json read(const std::string &folder, const std::string &name) {
  const std::string file = folder + "/" + name;
  std::ifstream in(file);
  if (!in.good()) {
    std::fprintf(stderr, "%s cannot be read\n", file.c_str());
    std::exit(1);
  }
  std::stringstream text;
  text << in.rdbuf();
  return up::parse_json(file, text.str(), 1 << 22);
}

inline const Json &at(const Json &of, const char *name) {
  const Json *found = of.find(name);
  if (found == nullptr) {
    std::fprintf(stderr, "no field %s\n", name);
    std::exit(1);
  }
  return *found;
}

inline int integer(const Json &of, const char *name) { return static_cast<int>(at(of, name).integer); }
inline float real(const Json &of, const char *name) { return static_cast<float>(at(of, name).number); }
inline uint64_t unsigned_of(const Json &text) { return std::stoull(text.string); }

inline std::vector<uint64_t> unsigned_list(const Json &list) {
  std::vector<uint64_t> out;
  for (const Json &item : list.items) out.push_back(unsigned_of(item));
  return out;
}

template <class T>
std::vector<T> list(const Json &of, const char *name) {
  std::vector<T> out;
  for (const Json &item : at(of, name).items) out.push_back(static_cast<T>(item.is_integer ? item.integer : item.number));
  return out;
}

inline up_rule rule_of(const Json &of) { return at(of, "rule").string == "reference" ? UP_RULE_REFERENCE : UP_RULE_EXCLUSIVE; }

// The tensors, as native/vectors/README.md says.
inline std::vector<bf16> tensor(int seed, size_t length) {
  std::vector<bf16> out(length);
  for (size_t i = 0; i < length; i++) {
    uint32_t h = static_cast<uint32_t>(seed) * 0x9e3779b9u + static_cast<uint32_t>(i);
    h = (h ^ h >> 16) * 0x85ebca6bu;
    h = (h ^ h >> 13) * 0xc2b2ae35u;
    h ^= h >> 16;
    out[i] = up::cpu::to_bf16(static_cast<float>(static_cast<int>(h >> 24) - 128) / 64);
  }
  return out;
}

// Keys or values that are one request's, dense: [rows, kv_heads, head_dim].
inline up_kv dense(const void *data, int rows, const AttentionShape &shape) {
  up_kv kv{};
  kv.data = data;
  kv.row_stride = shape.kv_heads * shape.head_dim;
  kv.page_stride = rows * kv.row_stride;
  kv.head_stride = shape.head_dim;
  kv.page_count = 1;
  return kv;
}

// ----------------------------------------------------------------------------------------------------- selection ------

struct Select {
  const Json &json;
  const char *name;
  int rows, last_q, block, q_rows;
  AttentionShape shape;
  std::vector<bf16> queries, keys;
  uint64_t p_q32;
  std::vector<uint64_t> masses;
  std::vector<uint32_t> bitmap;
  std::vector<int32_t> kept;

  explicit Select(const Json &c)
      : json(c),
        name(at(c, "name").string.c_str()),
        rows(integer(c, "rows")),
        last_q(integer(c, "lastQ")),
        block(integer(c, "block")),
        q_rows(std::min(rows, last_q)),
        shape{integer(c, "heads"), integer(c, "kvHeads"), integer(c, "headDim"), real(c, "scale"), real(c, "softCap")},
        queries(tensor(integer(c, "seed"), static_cast<size_t>(last_q) * shape.heads * shape.head_dim)),
        keys(tensor(integer(c, "seed") + 1, static_cast<size_t>(rows) * shape.kv_heads * shape.head_dim)),
        p_q32(unsigned_of(at(c, "pQ32"))),
        masses(unsigned_list(at(c, "masses"))),
        bitmap(list<uint32_t>(c, "bitmap")) {
    for (const Json &range : at(c, "found").items) {
      for (auto row = static_cast<int>(range.items[0].integer); row < range.items[1].integer; row++)
        for (int kv = 0; kv < shape.kv_heads; kv++) {
          const int head = kv * shape.heads / shape.kv_heads;
          std::copy_n(&queries[(static_cast<size_t>(row % last_q) * shape.heads + head) * shape.head_dim], shape.head_dim,
                      &keys[(static_cast<size_t>(row) * shape.kv_heads + kv) * shape.head_dim]);
        }
    }
    if (!is_finite()) queries[static_cast<size_t>(integer(json, "nan"))] = 0x7fff;
    for (const Json &range : at(c, "kept").items)
      for (auto row = static_cast<int32_t>(range.items[0].integer); row < range.items[1].integer; row++) kept.push_back(row);
  }

  bool is_finite() const { return integer(json, "nan") < 0; }

  up::SelectionShape selection_shape() const { return {rows, block, integer(json, "sink"), last_q}; }

  // Everything but the memory.
  up_selection params() const {
    up_selection p{};
    p.size = sizeof p;
    p.dtype = UP_BF16;
    p.requests = 1;
    p.heads = shape.heads;
    p.kv_heads = shape.kv_heads;
    p.head_dim = shape.head_dim;
    p.max_rows = rows;
    p.block = block;
    p.sink = integer(json, "sink");
    p.last_q = last_q;
    p.rule = rule_of(json);
    p.scale = shape.scale;
    p.soft_cap = shape.soft_cap;
    p.query_row_stride = shape.heads * shape.head_dim;
    p.query_request_stride = last_q * p.query_row_stride;
    p.query_head_stride = shape.head_dim;
    return p;
  }

  // The largest relative error of a block's mass.
  double check_masses(const std::vector<uint64_t> &got, double tolerance, const char *by) const {
    CHECK(got.size() == masses.size());
    double worst = 0;
    for (size_t b = 0; b < masses.size() && is_finite(); b++) {
      const auto expected = static_cast<double>(masses[b]);
      const double error = std::fabs(static_cast<double>(got[b]) - expected);
      CHECK(error <= tolerance * expected + 16, "%s by %s: mass of block %zu is %g, not %g", name, by, b,
            static_cast<double>(got[b]), expected);
      worst = std::max(worst, error / std::max(expected, 1.0));
    }
    return worst;
  }

  // `rows_kept` begins with the `count` rows that were kept.
  void check_cut(const std::vector<uint32_t> &bits, std::vector<int32_t> rows_kept, int count, int fallback, const char *by) const {
    CHECK(bits == bitmap, "%s by %s: another bitmap", name, by);
    CHECK(fallback == integer(json, "fallback"), "%s by %s: fallback is %d", name, by, fallback);
    rows_kept.resize(static_cast<size_t>(std::clamp(count, 0, rows)));
    CHECK(rows_kept == kept, "%s by %s: %d rows kept", name, by, count);
  }
};

// ----------------------------------------------------------------------------------------------------- attention ------

struct Attend {
  const Json &json;
  const char *name;
  int query_rows, key_rows;
  AttentionShape shape;
  std::vector<bf16> queries, keys, values;
  std::vector<int32_t> lo, hi;
  std::vector<double> expected;

  explicit Attend(const Json &c)
      : json(c),
        name(at(c, "name").string.c_str()),
        query_rows(integer(c, "queryRows")),
        key_rows(integer(c, "keyRows")),
        shape{integer(c, "heads"), integer(c, "kvHeads"), integer(c, "headDim"), real(c, "scale"), real(c, "softCap")},
        queries(tensor(integer(c, "seed"), static_cast<size_t>(query_rows) * shape.heads * shape.head_dim)),
        keys(tensor(integer(c, "seed") + 1, static_cast<size_t>(key_rows) * shape.kv_heads * shape.head_dim)),
        values(tensor(integer(c, "seed") + 2, keys.size())),
        lo(list<int32_t>(c, "lo")),
        hi(list<int32_t>(c, "hi")),
        expected(list<double>(c, "output")) {}

  // `end` of decode.
  std::vector<int32_t> ends() const {
    std::vector<int32_t> out(hi);
    for (int32_t &each : out) each++;
    return out;
  }

  // Everything but the memory, of prefill or decode.
  template <class Params>
  Params params(up_dtype dtype) const {
    Params p{};
    p.size = sizeof p;
    p.dtype = dtype;
    p.max_key_rows = key_rows;
    p.heads = shape.heads;
    p.kv_heads = shape.kv_heads;
    p.head_dim = shape.head_dim;
    p.scale = shape.scale;
    p.soft_cap = shape.soft_cap;
    p.query_row_stride = p.output_row_stride = shape.heads * shape.head_dim;
    p.query_head_stride = p.output_head_stride = shape.head_dim;
    return p;
  }

  // ‖got − expected‖ / ‖expected‖
  double check(const std::vector<double> &got, double tolerance, const char *by) const {
    CHECK(got.size() == expected.size(), "%s: %zu numbers", name, expected.size());
    double error = 0, size = 0;
    for (size_t i = 0; i < expected.size(); i++) {
      error += (got[i] - expected[i]) * (got[i] - expected[i]);
      size += expected[i] * expected[i];
    }
    const double relative = std::sqrt(error / size);
    CHECK(relative <= tolerance, "%s by %s: relative error %g", name, by, relative);
    return relative;
  }
};

inline std::vector<double> as_doubles(const std::vector<bf16> &x) {
  std::vector<double> out;
  for (const bf16 each : x) out.push_back(up::cpu::from_bf16(each));
  return out;
}

}  // namespace vectors
