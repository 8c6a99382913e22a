#include "env/base/memory_error.h"

#include <c10/util/Exception.h>

#include <new>

#include "env/base/error.h"

namespace espalier {

bool IsOutOfMemory(const std::exception& error) {
  if (const auto* own = dynamic_cast<const Error*>(&error))
    return own->kind() == ErrorKind::kResource;
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr ||
      dynamic_cast<const std::bad_alloc*>(&error) != nullptr)
    return true;
  if (dynamic_cast<const c10::Error*>(&error) == nullptr) return false;
  const std::string cause = CauseOf(error);
  return cause.find("can't allocate memory") != std::string::npos ||
         cause.find("not enough memory") != std::string::npos;
}

bool IsFaultOfAll(const std::exception& error) {
  const auto* own = dynamic_cast<const Error*>(&error);
  return own != nullptr &&
         (own->kind() == ErrorKind::kInternal || own->kind() == ErrorKind::kConfig);
}

std::string CauseOf(const std::exception& error) {
  if (const auto* own = dynamic_cast<const Error*>(&error)) return own->message();
  if (const auto* torch = dynamic_cast<const c10::Error*>(&error))
    return torch->what_without_backtrace();
  return error.what();
}

}  // namespace espalier
