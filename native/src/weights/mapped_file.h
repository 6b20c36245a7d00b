// A whole file mapped read-only.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace up {

class MappedFile {
 public:
  // Fails with UP_INVALID_ARGUMENT naming the path and the system's reason when the file cannot be opened or mapped.
  explicit MappedFile(std::string path);
  ~MappedFile();
  MappedFile(const MappedFile &) = delete;
  MappedFile &operator=(const MappedFile &) = delete;

  const std::string &path() const { return path_; }
  const unsigned char *data() const { return data_; }
  size_t size() const { return size_; }
  std::string_view bytes() const { return {reinterpret_cast<const char *>(data_), size_}; }

 private:
  std::string path_;
  const unsigned char *data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace up
