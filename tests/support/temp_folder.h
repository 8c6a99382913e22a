#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "env/base/error.h"

namespace espalier {

/// A folder of its own for the running test (or suite), removed at the end.
class TempFolder {
 public:
  explicit TempFolder(const std::string& name = "") {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    const std::string own = info ? Str(info->test_suite_name(), "_", info->name()) : "suite";
    static int count = 0;  // several may live at once
    path_ = std::filesystem::path(testing::TempDir()) /
            Str("espalier_", own, name, "_", getpid(), "_", count++);
    std::filesystem::create_directories(path_);
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace espalier
