#include "cuda/backend/device.h"

#include "cuda/backend/fault.h"
#include "cuda/common/launch.h"

namespace up::cuda {
namespace {

std::string mebibytes(size_t bytes) { return text((bytes + (1 << 20) - 1) >> 20, " MiB"); }

}  // namespace

Device::Device(int index) : index_(index) {
  constexpr const char *phase = "open device";
  int count = 0;
  check(cudaGetDeviceCount(&count), phase);
  if (index < 0 || index >= count) up::fail(UP_DEVICE_LOST, phase, "device ", index, " of ", count, " that there are");
  check(cudaSetDevice(index), phase);
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index), phase);
  name_ = properties.name;
  multiprocessors_ = properties.multiProcessorCount;
  if (properties.major != 9 || properties.minor != 0) {
    up::fail(UP_DEVICE_LOST, phase, name_, " has compute capability ", properties.major, '.', properties.minor,
         ": the kernels here are for 9.0 (H100, H200)");
  }
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), phase);
}

Device::~Device() {
  if (stream_ == nullptr) return;
  cudaSetDevice(index_);
  cudaStreamDestroy(stream_);
}

void Device::use() {
  {
    const std::lock_guard lock(mutex_);
    if (!lost_.empty()) up::fail(UP_DEVICE_LOST, "use device", lost_);
  }
  check(cudaSetDevice(index_), "use device");
}

void Device::refuse(up_status status, const char *phase, const std::string &detail) {
  if (status == UP_DEVICE_LOST) {
    const std::lock_guard lock(mutex_);
    if (lost_.empty()) lost_ = text(phase, ": ", detail);
  }
  throw Failure(status, phase, detail);
}

void Device::check(cudaError_t result, const char *phase) {
  if (result == cudaSuccess) return;
  cudaGetLastError();  // errors that do not stay are not met again at the next launch
  up_backend_error error{};
  const up_status status = cuda::check(result, phase, &error);
  refuse(status, phase, error.detail);
}

void Device::check_launch(const char *phase) {
  check(cudaGetLastError(), phase);
}

void Device::accept(up_status status, const up_backend_error &error) {
  if (status == UP_OK && fault_due(Fault::launch)) up::fail(UP_LAUNCH_FAILED, "launch", "fault injected");
  if (status != UP_OK) refuse(status, error.phase, error.detail);
}

void Device::copy_in(void *device, const void *host, size_t bytes, const char *phase) {
  check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_), phase);
}

void Device::copy_out(void *host, const void *device, size_t bytes, const char *phase) {
  check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_), phase);
}

void Device::copy(void *target, const void *source, size_t bytes, const char *phase) {
  check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, stream_), phase);
}

void Device::clear(void *memory, int byte, size_t bytes, const char *phase) {
  check(cudaMemsetAsync(memory, byte, bytes, stream_), phase);
}

void Device::wait(const char *phase) { check_work(cudaStreamSynchronize(stream_), phase); }

void Device::wait(cudaEvent_t event, const char *phase) { check_work(cudaEventSynchronize(event), phase); }

// What goes wrong while the device is at work stays with the context, whatever its name.
void Device::check_work(cudaError_t result, const char *phase) {
  if (result != cudaSuccess) refuse(UP_DEVICE_LOST, phase, text(cudaGetErrorName(result), ": ", cudaGetErrorString(result)));
  if (watch_) watch_();
}

void Device::wait_for_step(cudaEvent_t event) {
  constexpr const char *phase = "wait for step";
  if (fault_due(Fault::lost)) refuse(UP_DEVICE_LOST, phase, "fault injected");
  wait(event, phase);
}

Device::Memory Device::memory() {
  Memory out{};
  check(cudaMemGetInfo(&out.free, &out.total), "ask for free memory");
  return out;
}

DeviceBuffer::DeviceBuffer(Device &device, size_t bytes, const char *what) : bytes_(bytes) {
  if (bytes == 0) return;
  const cudaError_t result = fault_due(Fault::alloc) ? cudaErrorMemoryAllocation : cudaMalloc(&data_, bytes);
  if (result == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    const Device::Memory memory = device.memory();
    up::fail(UP_OUT_OF_MEMORY, "allocate device memory", what, ": ", mebibytes(bytes), ", of ", mebibytes(memory.total), " are ",
         mebibytes(memory.free), " free");
  }
  device.check(result, "allocate device memory");
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) cudaFree(data_);
}

PinnedBuffer::PinnedBuffer(Device &device, size_t bytes, const char *what) : bytes_(bytes) {
  if (bytes == 0) return;
  const cudaError_t result = cudaHostAlloc(&data_, bytes, cudaHostAllocDefault);
  if (result == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    up::fail(UP_OUT_OF_MEMORY, "allocate page-locked memory", what, ": ", mebibytes(bytes));
  }
  device.check(result, "allocate page-locked memory");
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) cudaFreeHost(data_);
}

Event::Event(Device &device, bool timed) {
  device.check(cudaEventCreateWithFlags(&event_, timed ? cudaEventDefault : cudaEventDisableTiming), "create event");
}

Event::~Event() {
  if (event_ != nullptr) cudaEventDestroy(event_);
}

}  // namespace up::cuda
