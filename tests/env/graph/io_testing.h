#pragma once

#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "env/base/error.h"

namespace espalier {

/// A folder of its own for the running test, removed at the end.
class TempFolder {
 public:
  TempFolder() {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    std::string name = Str("espalier_", info->test_suite_name(), "_", info->name(), "_", getpid());
    std::replace(name.begin(), name.end(), '/', '_');  // of parametrised tests
    path_ = std::filesystem::path(testing::TempDir()) / name;
    std::filesystem::create_directories(path_);
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// Plain write: tests that make many files need no fsync.
inline void WriteBytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

/// Runs `action`, which must throw a kModel error, and returns message + hint.
template <typename Action>
std::string ModelErrorOf(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kModel) << error.message();
    return error.message() + " | " + error.hint();
  }
  ADD_FAILURE() << "no error";
  return {};
}

}  // namespace espalier
