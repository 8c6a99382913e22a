#pragma once

#include <cstddef>

namespace espalier::fuzz {

/// Counts what the calling thread allocates between Start and Stop: operator new, malloc,
/// LibTorch's tensors, libpng, zlib and SQLite alike. Works under the address sanitizer too.
class Meter {
 public:
  struct Usage {
    size_t peak = 0;     ///< most bytes alive at once, beyond those at Start
    size_t largest = 0;  ///< largest single request
  };
  static void Start();
  static Usage Stop();
};

}  // namespace espalier::fuzz
