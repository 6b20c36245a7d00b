// A directory that lives as long as the object.
#pragma once

#include <string>
#include <string_view>

class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory &) = delete;
  TemporaryDirectory &operator=(const TemporaryDirectory &) = delete;

  std::string path() const { return path_; }
  void write(const std::string &name, std::string_view bytes) const;

 private:
  std::string path_;
};
