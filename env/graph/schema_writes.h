#pragma once

#include <ATen/core/function_schema.h>

#include <algorithm>

namespace espalier {

/// Whether an operator writes in place to what is given for this argument, by its schema.
inline bool IsWritten(const c10::Argument& argument) {
  return argument.alias_info() && argument.alias_info()->isWrite();
}

inline bool WritesAny(const c10::FunctionSchema& schema) {
  return std::ranges::any_of(schema.arguments(), IsWritten);
}

}  // namespace espalier
