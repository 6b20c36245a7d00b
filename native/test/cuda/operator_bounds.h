// Device memory and numbers for cuda_bounds.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "operators/backend.h"

namespace bounds {

inline std::mt19937_64 random_bits;

inline int uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_bits); }

template <class T>
T pick(std::initializer_list<T> values) {
  return values.begin()[uniform(0, static_cast<int>(values.size()) - 1)];
}

inline void require(bool holds, const char *what, const char *detail = "") {
  if (holds) return;
  std::fprintf(stderr, "cuda_bounds: %s %s\n", what, detail);
  std::exit(1);
}

inline void check(cudaError_t result) { require(result == cudaSuccess, cudaGetErrorName(result), cudaGetErrorString(result)); }

// Device memory of exactly `bytes`, freed at the end of its round.
class Buffer {
 public:
  explicit Buffer(const std::vector<uint8_t> &content) : bytes_(content.size()) {
    check(cudaMalloc(&data_, std::max<size_t>(bytes_, 16)));
    check(cudaMemcpy(data_, content.data(), bytes_, cudaMemcpyHostToDevice));
  }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;
  void *get() const { return data_; }

 private:
  void *data_ = nullptr;
  size_t bytes_;
};

struct Round {
  std::vector<std::unique_ptr<Buffer>> buffers;

  void *keep(const std::vector<uint8_t> &content) {
    buffers.push_back(std::make_unique<Buffer>(content));
    return buffers.back()->get();
  }
  // bf16 numbers in ±2, now and then not finite.
  void *numbers(int64_t count) {
    std::vector<uint8_t> content(static_cast<size_t>(count) * 2);
    for (size_t i = 0; i < content.size(); i += 2) {
      const auto bits = static_cast<uint16_t>(uniform(0, 2000) == 0 ? 0x7f80 : uniform(0, 1) << 15 | uniform(0x3e00, 0x4000));
      content[i] = static_cast<uint8_t>(bits);
      content[i + 1] = static_cast<uint8_t>(bits >> 8);
    }
    return keep(content);
  }
  void *bytes(int64_t count) { return keep(std::vector<uint8_t>(static_cast<size_t>(count), 0x5a)); }
  // Mostly in [low, high], sometimes anything.
  int32_t *integers(int64_t count, int low, int high, bool sorted = false) {
    std::vector<int32_t> values(static_cast<size_t>(count));
    for (int32_t &value : values)
      value = uniform(0, 9) == 0 ? static_cast<int32_t>(random_bits()) : uniform(low, high);
    if (sorted) std::sort(values.begin(), values.end());
    std::vector<uint8_t> content(values.size() * 4);
    std::copy_n(reinterpret_cast<const uint8_t *>(values.data()), content.size(), content.begin());
    return static_cast<int32_t *>(keep(content));
  }
  float *floats(int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float &value : values) value = static_cast<float>(uniform(-1000, 1000)) / 300.0f;
    std::vector<uint8_t> content(values.size() * 4);
    std::copy_n(reinterpret_cast<const uint8_t *>(values.data()), content.size(), content.begin());
    return static_cast<float *>(keep(content));
  }
  up_kv cache(int requests, int capacity, int kv_heads, int head_dim, int page_size) {
    up_kv kv{};
    if (page_size == 0) {
      kv.row_stride = int64_t{kv_heads} * head_dim;
      kv.head_stride = head_dim;
      kv.page_stride = capacity * kv.row_stride;
      kv.page_count = requests;
    } else {
      const int per_request = (capacity + page_size - 1) / page_size;
      kv.page_size = page_size;
      kv.page_count = requests * per_request;
      kv.row_stride = head_dim;
      kv.head_stride = int64_t{page_size} * head_dim;
      kv.page_stride = kv_heads * kv.head_stride;
      kv.pages_stride = per_request;
      kv.pages = integers(int64_t{requests} * per_request, 0, kv.page_count - 1);
    }
    if (uniform(0, 1) == 0) {
      kv.table_rows = integers(requests, 0, requests - 1);
      kv.table_count = requests;
    }
    kv.data = numbers(kv.page_count * kv.page_stride);
    return kv;
  }
};

inline const up_backend_table *table;

inline void launched(up_status status, const up_backend_error &error) { require(status == UP_OK, error.phase, error.detail); }

struct Shape {
  int requests = uniform(1, 4), capacity = uniform(1, 700), kv_heads = uniform(1, 3), head_dim = pick({64, 128, 256});
  int heads = kv_heads * uniform(1, 6), page_size = pick({0, 16, 32, 64, 128, 256});
};

// An operator without a workspace, and one with.
template <class Parameters>
void run(up_status (*entry)(const Parameters *, void *, up_backend_error *), const Parameters &p) {
  up_backend_error error{};
  launched(entry(&p, nullptr, &error), error);
}

template <class Parameters>
void run(Round &r, up_status (*query)(const Parameters *, size_t *, up_backend_error *),
         up_status (*entry)(const Parameters *, void *, size_t, void *, up_backend_error *), const Parameters &p) {
  size_t bytes = 0;
  up_backend_error error{};
  launched(query(&p, &bytes, &error), error);
  launched(entry(&p, r.bytes(static_cast<int64_t>(bytes)), bytes, nullptr, &error), error);
}

void delta_prepare(Round &r);
void delta_recurrence(Round &r);
void experts(Round &r);

}  // namespace bounds
