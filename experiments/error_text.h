#pragma once

#include <exception>
#include <string>

namespace espalier {

/// What the executable says about a failure, and the code it leaves with.
struct Failure {
  std::string text;  ///< "error: ...\n  help: ...\n"
  int exit_code;
};

/// Translates the exception in flight; the only place that knows LibTorch's exception types.
Failure DescribeFailure(const std::exception_ptr& failure);

}  // namespace espalier
