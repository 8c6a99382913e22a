// The harness must see what it is there for: each test gives it a reader with one fault.

#include "tests/fuzz/harness.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <stdexcept>

#include "tests/fuzz/meter.h"
#include "tests/fuzz/mutators.h"

namespace espalier::fuzz {
namespace {

/// Reads one mutant, so that there is one failure. Static: what EXPECT_NONFATAL_FAILURE runs
/// captures nothing.
void ReadOne(const std::function<void(const std::filesystem::path&)>& fault) {
  setenv("ESPALIER_FUZZ_SEED", "7", 1);
  FuzzReader({.name = "faulty",
              .file = "mutant.txt",
              .good = {},
              .mutate = [](Rng& rng) { return DamageBytes(rng, "good"); },
              .read = fault,
              .places = {"line"},
              .seconds = 0.2});
  unsetenv("ESPALIER_FUZZ_SEED");
}

TEST(FuzzHarnessUnit, AProperErrorPasses) {
  ReadOne([](const auto& path) {
    throw Error(ErrorKind::kModel, Str("'", path.string(), "', line 1: bad"));
  });
}

TEST(FuzzHarnessUnit, SeesOtherExceptions) {
  EXPECT_NONFATAL_FAILURE(ReadOne([](const auto&) { throw std::out_of_range("stoull"); }),
                          "threw St12out_of_range: stoull");
}

TEST(FuzzHarnessUnit, SeesErrorsWithoutFilePlaceOrKind) {
  EXPECT_NONFATAL_FAILURE(
      ReadOne([](const auto&) { throw Error(ErrorKind::kModel, "line 1 is bad"); }), "no file");
  EXPECT_NONFATAL_FAILURE(
      ReadOne([](const auto&) { throw Error(ErrorKind::kModel, "mutant.txt is bad"); }),
      "no entry or offset");
  EXPECT_NONFATAL_FAILURE(
      ReadOne([](const auto&) { throw Error(ErrorKind::kInternal, "mutant.txt, line 1"); }),
      "kind internal");
}

TEST(FuzzHarnessUnit, SeesLargeAllocations) {
  EXPECT_NONFATAL_FAILURE(ReadOne([](const auto&) {
                            std::vector<char> large(size_t{8} << 20);
                            large.back() = 1;
                          }),
                          "allocated 8");
  EXPECT_NONFATAL_FAILURE(ReadOne([](const auto&) {  // through C
                            std::vector<void*> pieces;
                            for (int i = 0; i < 64; ++i) pieces.push_back(std::malloc(100'000));
                            for (void* piece : pieces) std::free(piece);
                          }),
                          "allocated 6");
}

TEST(FuzzHarnessUnit, SeesHangsAndCrashes) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_DEATH(ReadOne([](const auto&) {
                 for (volatile bool forever = true; forever;) {
                 }
               }),
               "hangs: mutant of faulty: ESPALIER_FUZZ_SEED=7");
  EXPECT_DEATH(ReadOne([](const auto&) { std::abort(); }),
               "mutant of faulty: ESPALIER_FUZZ_SEED=7");
}

}  // namespace
}  // namespace espalier::fuzz
