#pragma once

#include <ATen/core/function_schema.h>

#include <algorithm>

#include "env/graph/network.h"

namespace espalier {

/// Whether an operator writes in place to what is given for this argument, by its schema.
inline bool IsWritten(const c10::Argument& argument) {
  return argument.alias_info() && argument.alias_info()->isWrite();
}

inline bool WritesAny(const c10::FunctionSchema& schema) {
  return std::ranges::any_of(schema.arguments(), IsWritten);
}

/// Operators that may return their first argument, or a view of it, though not all schemas say so.
bool MayReturnItsArgument(const Op& op);

}  // namespace espalier
