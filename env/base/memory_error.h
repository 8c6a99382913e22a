#pragma once

#include <exception>
#include <string>

namespace espalier {

/// Whether an exception says that memory ran out: LibTorch's type for devices, the text of its CPU
/// allocator, std::bad_alloc, or our kResource.
bool IsOutOfMemory(const std::exception& error);

/// Whether it is no fault of one candidate: kInternal and kConfig, which no other would be spared.
bool IsFaultOfAll(const std::exception& error);

/// What happened, on one line: without LibTorch's stack of calls.
std::string CauseOf(const std::exception& error);

}  // namespace espalier
