#include "operators/backend_tables.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string>

#include "abi/failure.h"
#include "device_backend.h"
#include "operators/argument_checks.h"

namespace up {
namespace {

constexpr const char *library_name = "libuniprefill_cuda.so";
constexpr const char *phase = "load CUDA backend";

// libuniprefill_cuda.so in the folder that holds this library.
std::string beside_this_library() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void *>(&up_abi_version), &info) == 0 || info.dli_fname == nullptr) return library_name;
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? library_name : path.substr(0, slash + 1) + library_name;
}

struct Loaded {
  const up_backend_table *table = nullptr;
  std::string problem;
};

Loaded load() {
  const char *override_path = std::getenv("UNIPREFILL_CUDA_LIBRARY");
  void *library = nullptr;
  std::string problem;
  const auto attempt = [&](const std::string &path) {
    if (library != nullptr) return;
    library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) problem += (problem.empty() ? "" : "; ") + std::string(dlerror());
  };
  if (override_path != nullptr && *override_path != '\0') {
    attempt(override_path);
  } else {
    attempt(beside_this_library());
    attempt(library_name);
  }
  if (library == nullptr) return {nullptr, problem};
  const auto function = reinterpret_cast<up_cuda_backend_function>(dlsym(library, "up_cuda_backend"));
  if (function == nullptr) return {nullptr, text(library_name, " has no symbol up_cuda_backend")};
  const up_backend_table *table = function();
  if (table->abi != UP_BACKEND_ABI)
    return {nullptr, text("backend ABI ", table->abi, ", this library's is ", UP_BACKEND_ABI)};
  return {table, ""};
}

}  // namespace

const up_backend_table &backend_table(const up_backend &backend) {
  require_backend(backend);
  if (backend == UP_REFERENCE) return reference_table();
  static const Loaded loaded = load();
  if (loaded.table == nullptr) fail(UP_DEVICE_LOST, phase, loaded.problem);
  return *loaded.table;
}

std::unique_ptr<Backend> make_device_backend(const std::shared_ptr<const Checkpoint> &checkpoint, const BackendOptions &options,
                                             const DeviceOptions &device) {
  up_device_request request{UP_BUILD_FINGERPRINT, checkpoint, options, device, nullptr};
  up_backend_error error{};
  const up_status status = backend_table(UP_CUDA).create_backend(&request, &error);
  if (status != UP_OK) fail(status, error.phase, error.detail);
  return std::move(request.backend);
}

}  // namespace up

extern "C" up_status up_backend_available(up_backend backend) {
  return up::guard("up_backend_available", [&] {
    up_backend_error error{};
    const up_status status = up::backend_table(backend).available(&error);
    if (status != UP_OK) up::fail(status, error.phase, error.detail);
  });
}
