// The test vectors that other engines are given (native/vectors), against the CUDA operators of the C ABI: in bf16 and f16, strided
// and with every page size. Needs a device, and UNIPREFILL_CUDA_LIBRARY where the library is not beside this program.
//
//   cuda_vectors_check FOLDER
//
// Without a device it says so and ends with 77.
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstring>
#include <memory>
#include <numeric>

#include "../vectors.h"

namespace {

using namespace vectors;

constexpr int skipped = 77;

void require(cudaError_t result) {
  if (result == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", cudaGetErrorName(result), cudaGetErrorString(result));
  std::exit(1);
}

void require(const char *name, up_status status) {
  if (status == UP_OK) return;
  const up_error error = up_last_error();
  std::fprintf(stderr, "%s: %s in %s: %s: %s\n", name, up_status_name(status), error.operation, error.phase, error.detail);
  std::exit(1);
}

// ----------------------------------------------------------------------------------------------------- on device ------

// Memory of the device, all freed together.
class Device {
 public:
  Device() = default;
  Device(const Device &) = delete;
  Device &operator=(const Device &) = delete;
  ~Device() {
    for (void *each : held_) cudaFree(each);
  }

  template <class T>
  T *upload(const std::vector<T> &content) {
    void *memory = nullptr;
    require(cudaMalloc(&memory, std::max<size_t>(content.size() * sizeof(T), 16)));
    held_.push_back(memory);
    require(cudaMemcpy(memory, content.data(), content.size() * sizeof(T), cudaMemcpyHostToDevice));
    return static_cast<T *>(memory);
  }
  // Results and workspaces begin as garbage.
  template <class T>
  T *garbage(size_t count) {
    std::vector<T> content(count);
    std::memset(content.data(), 0xa5, count * sizeof(T));
    return upload(content);
  }

 private:
  std::vector<void *> held_;
};

template <class T>
std::vector<T> download(const T *memory, size_t count) {
  std::vector<T> out(count);
  require(cudaMemcpy(out.data(), memory, count * sizeof(T), cudaMemcpyDeviceToHost));
  return out;
}

// The same numbers in another type of 16 bits; those of the vectors are exact in both.
std::vector<uint16_t> as(up_dtype dtype, const std::vector<bf16> &x) {
  if (dtype == UP_BF16) return x;
  std::vector<uint16_t> out;
  for (const bf16 each : x) out.push_back(__half_as_ushort(__float2half(up::cpu::from_bf16(each))));
  return out;
}

double number(up_dtype dtype, uint16_t bits) {
  return dtype == UP_BF16 ? up::cpu::from_bf16(bits) : __half2float(__ushort_as_half(bits));
}

// How a cache lies there. page_size 0: strided.
struct Way {
  up_dtype dtype;
  int page_size;

  std::string name() const {
    return std::string(dtype == UP_BF16 ? "bf16" : "f16") + (page_size == 0 ? ", strided" : ", pages of " + std::to_string(page_size));
  }
};

// Keys or values [rows, kv_heads, head_dim] as one request's: pages from last to first, NaN in rows that nobody has written.
up_kv cache(Device &device, const std::vector<bf16> &content, int rows, const AttentionShape &shape, const Way &way) {
  const std::vector<uint16_t> elements = as(way.dtype, content);
  if (way.page_size == 0) return dense(device.upload(elements), rows, shape);
  const int pages = (rows + way.page_size - 1) / way.page_size;
  up_kv kv{};
  kv.page_size = way.page_size;
  kv.page_count = pages;
  kv.pages_stride = pages;
  kv.row_stride = shape.head_dim;
  kv.head_stride = way.page_size * kv.row_stride;
  kv.page_stride = shape.kv_heads * kv.head_stride;
  std::vector<int32_t> table(static_cast<size_t>(pages));
  std::iota(table.rbegin(), table.rend(), 0);
  std::vector<uint16_t> pool(static_cast<size_t>(pages * kv.page_stride), 0x7fff);
  for (int row = 0; row < rows; row++) {
    const int64_t place = table[static_cast<size_t>(row / way.page_size)] * kv.page_stride + row % way.page_size * kv.row_stride;
    for (int head = 0; head < shape.kv_heads; head++)
      std::copy_n(&elements[(static_cast<size_t>(row) * shape.kv_heads + head) * shape.head_dim], shape.head_dim,
                  &pool[static_cast<size_t>(place + head * kv.head_stride)]);
  }
  kv.data = device.upload(pool);
  kv.pages = device.upload(table);
  return kv;
}

template <class Params>
void run(Device &device, const char *name, const Params &p, up_status (*workspace)(up_backend, const Params *, size_t *),
         up_status (*call)(up_backend, const Params *, void *, size_t, void *)) {
  size_t bytes = 0;
  require(name, workspace(UP_CUDA, &p, &bytes));
  require(name, call(UP_CUDA, &p, device.garbage<uint8_t>(bytes), bytes, nullptr));
  require(cudaDeviceSynchronize());
}

// -------------------------------------------------------------------------------------------------------- checks ------

void check(const Select &c, const Way &way) {
  Device device;
  const auto rows = static_cast<size_t>(c.rows);
  up_selection p = c.params();
  p.dtype = way.dtype;
  p.queries = device.upload(as(way.dtype, c.queries));
  p.keys = cache(device, c.keys, c.rows, c.shape, way);
  p.lengths = device.upload(std::vector<int32_t>{c.rows});
  p.p_q32 = device.upload(std::vector<uint64_t>{c.p_q32});
  p.masses = device.garbage<uint64_t>(c.masses.size());
  p.bitmaps = device.garbage<uint32_t>(c.bitmap.size());
  p.kept = device.garbage<int32_t>(rows);
  p.kept_lengths = device.garbage<int32_t>(1);
  p.fallbacks = device.garbage<int32_t>(1);
  run(device, "up_select", p, up_selection_workspace, up_select);
  const std::string by = "up_select, " + way.name();
  const double error = c.check_masses(download(p.masses, c.masses.size()), 1e-5, by.c_str());
  c.check_cut(download(p.bitmaps, c.bitmap.size()), download(p.kept, rows), download(p.kept_lengths, 1)[0],
              download(p.fallbacks, 1)[0], by.c_str());
  std::printf("up_select: masses to %.1e: %s, %s\n", error, c.name, way.name().c_str());
}

void check_output(const Attend &c, const Way &way, const char *operation, const void *output) {
  std::vector<double> got;
  for (const uint16_t bits : download(static_cast<const uint16_t *>(output), c.expected.size())) got.push_back(number(way.dtype, bits));
  const double error = c.check(got, 5e-3, (std::string(operation) + ", " + way.name()).c_str());
  std::printf("%s: relative error %.1e: %s, %s\n", operation, error, c.name, way.name().c_str());
}

// As prefill, and one request a row as decode.
void check(const Attend &c, const Way &way) {
  Device device;
  const auto fill = [&](auto &p) {
    p.queries = device.upload(as(way.dtype, c.queries));
    p.keys = cache(device, c.keys, c.key_rows, c.shape, way);
    p.values = cache(device, c.values, c.key_rows, c.shape, way);
    p.output = device.garbage<uint16_t>(c.expected.size());
  };
  auto prefill = c.params<up_prefill_attention>(way.dtype);
  fill(prefill);
  prefill.requests = 1;
  prefill.max_query_rows = c.query_rows;
  prefill.row_starts = device.upload(std::vector<int32_t>{0, c.query_rows});
  prefill.lo = device.upload(c.lo);
  prefill.hi = device.upload(c.hi);
  run(device, "up_attend_prefill", prefill, up_prefill_attention_workspace, up_attend_prefill);
  check_output(c, way, "up_attend_prefill", prefill.output);

  auto decode = c.params<up_decode_attention>(way.dtype);
  fill(decode);
  decode.requests = c.query_rows;
  decode.begin = device.upload(c.lo);
  decode.end = device.upload(c.ends());
  // The keys are one request's.
  decode.keys.table_rows = decode.values.table_rows = device.upload(std::vector<int32_t>(c.lo.size(), 0));
  decode.keys.table_count = decode.values.table_count = 1;
  run(device, "up_attend_decode", decode, up_decode_attention_workspace, up_attend_decode);
  check_output(c, way, "up_attend_decode", decode.output);
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: cuda_vectors_check FOLDER (native/vectors, or share/uniprefill/vectors of an installed tree)\n");
    return 2;
  }
  if (up_backend_available(UP_CUDA) != UP_OK) {
    const up_error error = up_last_error();
    const bool is_there = std::strcmp(error.phase, "look for a device") == 0;
    std::printf(is_there ? "no GPU: %s: the CUDA operators were not checked\n" : "%s\n", error.detail);
    return is_there ? skipped : 1;
  }
  const Json selection = read(argv[1], "selection.json"), attention = read(argv[1], "attention.json");
  int cases = 0;
  for (const up_dtype dtype : {UP_BF16, UP_F16}) {
    for (const int page_size : {0, 16, 32, 64, 128, 256}) {
      const Way way{dtype, page_size};
      for (const Json &c : at(selection, "select").items) check(Select(c), way), cases++;
      for (const Json &c : at(attention, "attention").items) check(Attend(c), way), cases += 2;
    }
  }
  CHECK(cases > 0, "the files hold no cases");
  std::printf("%d cases of %s, %d failures\n", cases, argv[1], check_failures);
  return check_result();
}
