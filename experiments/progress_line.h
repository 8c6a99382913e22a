#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace espalier {

/// Shows the steps of a job that may have several parts, each with a total of its own.
std::function<void(int64_t done, int64_t total, std::string_view detail)> ProgressLine(
    const std::string& task);

}  // namespace espalier
