#include "env/base/machine.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdlib>
#include <cstring>

namespace espalier {
namespace {

/// Pages the system had to hand out while a large block was filled and freed.
int64_t PagesOfABlock() {
  const auto faults = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<int64_t>(usage.ru_minflt);
  };
  constexpr size_t kBytes = size_t{64} << 20;
  const int64_t before = faults();
  void* block = std::malloc(kBytes);
  std::memset(block, 1, kBytes);
  const volatile char* read = static_cast<char*>(block);  // so that nothing is left out
  EXPECT_EQ(read[kBytes - 1], 1);
  std::free(block);
  return faults() - before;
}

TEST(MachineUnit, FreedMemoryIsUsedAgainAsItIs) {
#if !defined(__GLIBC__) || defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "another allocator";
#endif
  PagesOfABlock();
  EXPECT_GT(PagesOfABlock(), 20) << "large blocks go back to the system, by default";
  KeepFreedMemory();
  PagesOfABlock();
  EXPECT_LT(PagesOfABlock(), 5);
}

}  // namespace
}  // namespace espalier
